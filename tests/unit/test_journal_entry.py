"""Entries with fields of their own in the journal."""

import logging
import socket
from pathlib import Path

import pytest

from fleetd.process.journal_entry import JournalEntries

FIELDS = {"MESSAGE": "ann: start a.service", "ACTION": "start", "UNIT": "a.service"}


def test_fields_are_sent_as_the_journal_reads_them(tmp_path: Path) -> None:
    path = str(tmp_path / "socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as journal:
        journal.bind(path)
        JournalEntries(path).write({**FIELDS, "TEXT": "two\nlines"})
        sent = journal.recv(4096)
    assert sent == (
        b"SYSLOG_IDENTIFIER=fleetd\nMESSAGE=ann: start a.service\nACTION=start\nUNIT=a.service\n"
        b"TEXT\n\x09\0\0\0\0\0\0\0two\nlines\n"
    )


def test_without_a_journal_they_go_to_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    JournalEntries(str(tmp_path / "none")).write(FIELDS)
    [record] = caplog.records
    assert record.getMessage() == "ann: start a.service"
    assert (record.ACTION, record.UNIT) == ("start", "a.service")  # type: ignore[attr-defined]


def test_a_journal_that_takes_nothing_at_present_delays_nobody(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    path = str(tmp_path / "socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as journal:
        journal.bind(path)
        entries = JournalEntries(path)
        for _ in range(2000):
            entries.write(FIELDS)
    assert caplog.records
