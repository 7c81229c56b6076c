"""The log's lines, and the notifications to and from systemd."""

import io
import logging
import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

import pytest

from fleetd.process import log_format, sdnotify

log = logging.getLogger("fleetd.test")


@pytest.fixture
def root_logger() -> Iterator[None]:
    """Restore the root logger afterwards."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture
def stream(tmp_path: Path) -> Iterator[TextIO]:
    with open(tmp_path / "log", "w+") as file:
        yield file


def journal_of(stream: TextIO) -> dict[str, str]:
    """systemd sets this when it connects the stream to the journal."""
    status = os.fstat(stream.fileno())
    return {"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"}


def written(stream: TextIO) -> list[str]:
    stream.seek(0)
    return stream.read().splitlines()


@pytest.mark.covers("5.1.8")
@pytest.mark.usefixtures("root_logger")
def test_the_journal_gets_priorities_and_a_terminal_gets_levels(stream: TextIO) -> None:
    for environ in (journal_of(stream), {}, {"JOURNAL_STREAM": "1:1"}):
        log_format.setup(1, environ, stream)
        log.debug("a")
        log.info("b")
        log.warning("c")
        log.error("d")
        log.critical("e")
    for_a_terminal = ["DEBUG a", "INFO b", "WARNING c", "ERROR d", "CRITICAL e"]
    assert written(stream) == ["<7>a", "<6>b", "<4>c", "<3>d", "<2>e", *for_a_terminal, *for_a_terminal]


@pytest.mark.covers("5.1.8")
@pytest.mark.usefixtures("root_logger")
def test_fields_follow_the_message_and_are_quoted_if_needed(stream: TextIO) -> None:
    log_format.setup(0, {}, stream)
    log.info(
        "placed %s", "it", extra={"unit": "a.service", "reason": "fewest units", "since": 1.5, "who": "", "x": 'a"b'}
    )
    assert written(stream) == ['INFO placed it unit=a.service reason="fewest units" since=1.5 who="" x="a\\"b"']


@pytest.mark.usefixtures("root_logger")
def test_an_event_is_one_line_and_a_traceback_has_its_prefix_on_each(stream: TextIO) -> None:
    log_format.setup(0, journal_of(stream), stream)
    log.info("two\nlines", extra={"text": "x\ny"})
    try:
        raise ValueError("no")
    except ValueError:
        log.exception("failed")
    first, second, *trace = written(stream)
    assert first == '<6>two\\nlines text="x\\ny"'
    assert second == "<3>failed"
    assert trace[0] == "<3>Traceback (most recent call last):"
    assert trace[-1] == "<3>ValueError: no"
    assert all(line.startswith("<3>") for line in trace)


@pytest.mark.usefixtures("root_logger")
def test_no_logged_text_can_end_a_line_or_control_a_terminal(stream: TextIO) -> None:
    """A NUL ends a line of the journal too: an etcd key could have forged a line of any priority."""
    log_format.setup(0, journal_of(stream), stream)
    log.info("a\0<2>forged \x1b[2J\x9b\u2028 é", extra={"unit": "x\0<2>y"})
    stream.seek(0)
    assert stream.read() == '<6>a\\x00<2>forged \\x1b[2J\\x9b\\u2028 é unit="x\\u0000<2>y"\n'
    try:
        raise ValueError("no\0<2>forged\r<2>as well")
    except ValueError:
        log.exception("failed")
    stream.seek(0)
    assert "\0" not in (text := stream.read())
    assert all(line.startswith(("<6>", "<3>")) for line in text.split("\n")[:-1])


@pytest.mark.covers("5.3.1")
@pytest.mark.usefixtures("root_logger")
def test_details_are_logged_on_request_alone(stream: TextIO) -> None:
    log_format.setup(0, {}, stream)
    log.debug("hidden")
    log_format.setup(1, {}, stream)
    log.debug("shown")
    logging.getLogger("aiohttp.server").info("a library's detail")
    assert written(stream) == ["DEBUG shown"]


@pytest.mark.usefixtures("root_logger")
def test_a_stream_that_is_not_a_file_gets_levels() -> None:
    stream = io.StringIO()
    log_format.setup(0, {"JOURNAL_STREAM": "1:1"}, stream)
    log.info("a")
    assert stream.getvalue() == "INFO a\n"
    assert not log_format.goes_to_journal({}, sys.stderr)


@pytest.mark.parametrize("abstract", [False, True])
def test_notifications_are_sent_line_by_line(tmp_path: Path, abstract: bool) -> None:
    path = f"{tmp_path}/notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind("\0" + path if abstract else path)
        environ = {"NOTIFY_SOCKET": "@" + path if abstract else path}
        assert sdnotify.notify(sdnotify.READY, sdnotify.WATCHDOG, environ=environ)
        assert systemd.recv(100) == b"READY=1\nWATCHDOG=1"
        assert sdnotify.notify(sdnotify.reloading(), environ=environ)
        told, stamp = systemd.recv(100).split(b"\nMONOTONIC_USEC=")
        assert (told, stamp.isdigit()) == (b"RELOADING=1", True)


def test_a_missing_manager_is_no_error(tmp_path: Path) -> None:
    assert not sdnotify.notify(sdnotify.STOPPING, environ={})
    assert not sdnotify.notify(sdnotify.WATCHDOG, environ={"NOTIFY_SOCKET": f"{tmp_path}/absent"})


@pytest.mark.parametrize(
    ("environ", "interval_s"),
    [
        ({"WATCHDOG_USEC": "30000000"}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "7"}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "8"}, 0.0),
        ({"WATCHDOG_USEC": "soon"}, 0.0),
        ({}, 0.0),
    ],
)
def test_the_watchdog_is_notified_twice_in_its_interval(environ: dict[str, str], interval_s: float) -> None:
    assert sdnotify.watchdog_interval_s(environ, pid=7) == interval_s
