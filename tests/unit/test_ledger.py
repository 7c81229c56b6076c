"""The ledger on a real directory: what it keeps across restarts of fleetd, and how it handles broken files."""

from pathlib import Path

import pytest

from fleetd.agent.ledger import AskedReboot, Ledger, Restored, StoreSeen
from fleetd.model.unit import TargetState
from fleetd.reconciler.actions import LedgerEntry

WEB = LedgerEntry(7, TargetState.LAUNCHED, "abc", issued=False)
JOB = LedgerEntry(3, TargetState.LAUNCHED, "def", completed=True, adopted=True)


def reopened(directory: Path) -> Ledger:
    return Ledger(directory)


def test_a_new_ledger_is_empty_and_makes_its_directory(tmp_path: Path) -> None:
    ledger = reopened(tmp_path / "run" / "fleet")
    assert (ledger.names, ledger.orphans, ledger.store) == ((), (), StoreSeen())
    assert ledger.get("web.service") is None
    assert (ledger.links, ledger.reboot, ledger.restored) == (None, None, Restored())


def test_everything_survives_a_restart_of_fleetd(tmp_path: Path) -> None:
    ledger = reopened(tmp_path)
    ledger.put("web.service", WEB)
    ledger.put("job@1.service", JOB)
    ledger.put_store(StoreSeen("cluster", 42))
    ledger.put_restored(Restored(17.5, ("a.service",)))
    ledger.put_orphans(("a.service", "b.service"))
    ledger.put_links({"b.service": "a.service"})
    ledger.put_reboot(AskedReboot("r1", "apt is at work"))
    ledger = reopened(tmp_path)
    assert ledger.names == ("job@1.service", "web.service")
    assert (ledger.get("web.service"), ledger.get("job@1.service")) == (WEB, JOB)
    assert ledger.store == StoreSeen("cluster", 42)
    assert ledger.restored == Restored(17.5, ("a.service",))
    assert ledger.orphans == ("a.service", "b.service")
    assert ledger.links == {"b.service": "a.service"}
    assert ledger.reboot == AskedReboot("r1", "apt is at work")


def test_a_forgotten_entry_stays_forgotten_and_forgetting_twice_is_no_error(tmp_path: Path) -> None:
    ledger = reopened(tmp_path)
    ledger.put("web.service", WEB)
    ledger.forget("web.service")
    ledger.forget("web.service")
    assert ledger.get("web.service") is None
    assert reopened(tmp_path).names == ()


def test_the_newest_entry_wins(tmp_path: Path) -> None:
    ledger = reopened(tmp_path)
    ledger.put("web.service", WEB)
    ledger.put("web.service", JOB)
    assert reopened(tmp_path).get("web.service") == JOB


@pytest.mark.parametrize("garbage", [b"", b"{", b'{"generation": "x"}', b"\xff\xfe", b'{"hash": "\xff"}'])
def test_an_unreadable_entry_counts_as_absent_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, garbage: bytes
) -> None:
    ledger = reopened(tmp_path)
    ledger.put("web.service", WEB)
    ledger.put("job.service", JOB)
    (tmp_path / "started" / "web.service").write_bytes(garbage)
    assert reopened(tmp_path).names == ("job.service",)
    [record] = caplog.records
    assert str(tmp_path / "started" / "web.service") in record.getMessage()


@pytest.mark.parametrize("garbage", [b"", b"[1]", b"\xff\xfe"])
def test_unreadable_store_and_orphans_hide_no_entry(tmp_path: Path, garbage: bytes) -> None:
    ledger = reopened(tmp_path)
    ledger.put("web.service", WEB)
    ledger.put_store(StoreSeen("cluster", 42))
    ledger.put_orphans(("a.service",))
    (tmp_path / "store").write_bytes(garbage)
    (tmp_path / "orphans").write_bytes(garbage)
    ledger = reopened(tmp_path)
    assert (ledger.store, ledger.orphans, ledger.names) == (StoreSeen(), (), ("web.service",))


def test_an_interrupted_write_leaves_the_old_entry(tmp_path: Path) -> None:
    ledger = reopened(tmp_path)
    ledger.put("web.service", WEB)
    (tmp_path / "started" / ".new").write_bytes(b'{"generation": 8, "tar')
    assert reopened(tmp_path).get("web.service") == WEB


def test_a_refusing_disk_leaves_everything_as_it_was(tmp_path: Path) -> None:
    ledger = reopened(tmp_path)
    ledger.put("web.service", WEB)
    (tmp_path / "started" / ".new").mkdir()  # so that no entry can be written, even by root
    with pytest.raises(OSError, match=r"\.new"):
        ledger.put("web.service", JOB)
    assert ledger.get("web.service") == WEB
    assert reopened(tmp_path).get("web.service") == WEB
