"""The agent with placements that fleet did not write, and with its own files after a crash of the disk."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fleetd.agent.ledger import Ledger, StoreSeen
from fleetd.model.unit import TargetState
from fleetd.reconciler.actions import LedgerEntry
from fleetd.store.protocol import Put
from tests.agent.machine import DAEMON, MACHINE, MachineUnderTest

ORDER = '{"machine":"m1","unit":"%s","text":"","target":"launched","generation":7}'
ORDERS = {
    "bad.service": "junk",
    "torn.service": ORDER[:40],
    "other.service": ORDER % "another.service",
    "nodot": ORDER % "nodot",
    "..": ORDER % "..",
    "../../etc/passwd": ORDER % "../../etc/passwd",
    "a/b.service": ORDER % "a/b.service",
    "": ORDER % "",
    "é.service": ORDER % "é.service",
    f"{'x' * 300}.service": ORDER % f"{'x' * 300}.service",
    "huge.service": (ORDER % "huge.service").replace("7}", "9" * 40 + "}"),
    "nested.service": '{"a":' * 50_000,
}


@pytest.mark.covers("R.4", "H.2")
async def test_malformed_placements_stop_no_unit_and_delay_no_other(
    machine: MachineUnderTest, caplog: pytest.LogCaptureFixture
) -> None:
    await machine.start()
    await machine.place_all({"web.service": DAEMON, "bad.service": DAEMON}, 3)
    await machine.until_active("bad.service", 3)
    pids = machine.systemd.processes()
    puts = [Put(f"/fleet/placements/{MACHINE}/{name}", value.encode()) for name, value in ORDERS.items()]
    await machine.store.transact([], puts)
    await machine.place("late.service", 5)
    await machine.until_active("late.service", 5)
    await machine.restart()
    await machine.place("later.service", 6)
    await machine.until_active("later.service", 6)
    running = machine.systemd.processes()
    assert {name: running[name] for name in pids} == pids
    assert sorted(running) == ["bad.service", "late.service", "later.service", "web.service"]
    for name in ("bad.service", "torn.service", "other.service", "huge.service", "nested.service"):
        assert f"/fleet/placements/{MACHINE}/{name} holds" in caplog.text
    assert "passwd" not in str(await machine.states())


async def test_a_placement_of_a_later_fleetd_leaves_its_unit_running(
    machine: MachineUnderTest, caplog: pytest.LogCaptureFixture
) -> None:
    await machine.start()
    await machine.place("web.service", 3)
    await machine.until_active("web.service", 3)
    pids = machine.systemd.processes()
    newer = b'{"format":2,"machine":"m1","unit":"web.service","target":"inactive"}'
    await machine.store.transact([], [Put(f"/fleet/placements/{MACHINE}/web.service", newer)])
    await machine.place("late.service", 5)
    await machine.until_active("late.service", 5)
    await machine.restart()
    await machine.place("later.service", 6)
    await machine.until_active("later.service", 6)
    assert machine.systemd.processes()["web.service"] == pids["web.service"]
    assert f"/fleet/placements/{MACHINE}/web.service was written by a later version of fleetd" in caplog.text


WEB = LedgerEntry(7, TargetState.LAUNCHED, "abc")
GARBAGE = st.binary(max_size=60) | st.sampled_from(
    [b'{"a":' * 50_000, b"[" * 50_000, b'["\xff"]', b"null", b"-1", b"9" * 99]
)


@pytest.mark.covers("H.3")
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(entry=GARBAGE, store=GARBAGE, orphans=GARBAGE, cut=st.integers(0, 200))
def test_a_damaged_ledger_is_opened_and_keeps_its_valid_entries(
    tmp_path: Path, entry: bytes, store: bytes, orphans: bytes, cut: int
) -> None:
    ledger = Ledger(tmp_path)
    ledger.put("web.service", WEB)
    ledger.put("torn.service", LedgerEntry(9, TargetState.LAUNCHED, "def"))
    torn = tmp_path / "started" / "torn.service"
    torn.write_bytes(torn.read_bytes()[:cut] + entry)
    (tmp_path / "store").write_bytes(store)
    (tmp_path / "orphans").write_bytes(orphans)
    ledger = Ledger(tmp_path)
    assert ledger.get("web.service") == WEB
    ledger.put_store(StoreSeen("one", 5))
    ledger.put_orphans(("a.service",))
    ledger.put("torn.service", WEB)
    again = Ledger(tmp_path)
    assert (again.store, again.orphans, again.get("torn.service")) == (StoreSeen("one", 5), ("a.service",), WEB)


@pytest.mark.covers("H.3")
async def test_a_machine_with_damaged_files_keeps_units_and_takes_placements(machine: MachineUnderTest) -> None:
    await machine.start()
    await machine.place_all({"web.service": DAEMON, "api.service": DAEMON}, 3)
    for name in ("web.service", "api.service"):
        await machine.until_active(name, 3)
    pids = machine.systemd.processes()
    await machine.stop()
    for path in [*machine.directory.glob("started/*"), machine.directory / "store", machine.directory / "orphans"]:
        path.write_bytes(path.read_bytes()[:5] if path.exists() else b"\0")
    await machine.start()
    await machine.place("late.service", 5)
    await machine.until_active("late.service", 5)
    assert {name: pid for name, pid in machine.systemd.processes().items() if name in pids} == pids
