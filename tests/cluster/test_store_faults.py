"""Whatever happens to etcd, no unit is stopped, started or moved; operations meanwhile are done or refused.

test_daemon.py covers an etcd that is away or frozen for three times to live without operations.
"""

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from contrib.testbed import Cluster, EtcdServer
from tests.cluster.operator import RECORDER, Operator, with_fleet
from tests.cluster.traffic import Traffic

TTL_S = 4
EVERYWHERE = "all.service"
UNITS = [*(f"u{number}.service" for number in range(6)), EVERYWHERE]


@pytest.fixture
def operator(new_cluster: Callable[..., Cluster], tmp_path: Path) -> Operator:
    """An operator of a new cluster on one etcd, with six units and a global one that run."""
    return start_units(new_cluster(machines=3, config={"agent_ttl": f"{TTL_S}s"}), tmp_path)


@pytest.fixture
def quorum(new_cluster: Callable[..., Cluster], tmp_path: Path) -> Operator:
    """The same on an etcd of three members."""
    return start_units(new_cluster(machines=3, config={"agent_ttl": f"{TTL_S}s"}, etcd_members=3), tmp_path)


def start_units(cluster: Cluster, folder: Path) -> Operator:
    operator = Operator(cluster, folder)
    operator.start({**dict.fromkeys(UNITS, RECORDER), EVERYWHERE: with_fleet("Global=true", service=RECORDER)})
    cluster.wait_until("the global runs", lambda: len(operator.placed().get(EVERYWHERE, [])) == 3)
    return operator


def assert_untouched(operator: Operator, before: dict[tuple[str, str], tuple[int, int]]) -> None:
    """Each unit runs on without a break, also one whole time to live after the fault ended."""
    operator.cluster.wait_ready()
    assert operator.lives(UNITS) == before
    time.sleep(TTL_S + 2)
    assert operator.lives(UNITS) == before
    placed = operator.placed()
    assert len(placed[EVERYWHERE]) == 3
    assert all(len(placed[unit]) == 1 for unit in UNITS if unit != EVERYWHERE)


@pytest.mark.covers("P.1", "R.1", "S.2")
def test_three_times_to_live_without_etcd_touch_no_unit_and_answer_requests(
    operator: Operator,
) -> None:
    before = operator.lives(UNITS)
    with Traffic(operator) as traffic:
        traffic.wait_until_begun()
        operator.cluster.etcd.stop()
        time.sleep(3 * TTL_S)
        assert operator.lives(UNITS) == before
        operator.cluster.etcd.start()
        time.sleep(4)
    assert traffic.doubtful
    assert all("etcd" in words for words in traffic.doubtful.values())
    traffic.wait_until_done()
    assert_untouched(operator, before)


@pytest.mark.covers("S.3")
def test_an_etcd_that_crashes_three_times_keeps_units_and_operations(operator: Operator) -> None:
    before = operator.lives(UNITS)
    with Traffic(operator) as traffic:
        traffic.wait_until_begun()
        for _ in range(3):
            time.sleep(2)
            operator.cluster.etcd.kill()
            time.sleep(1)
            operator.cluster.etcd.start()
    traffic.wait_until_done()
    assert_untouched(operator, before)


@pytest.mark.covers("R.1", "S.3")
def test_an_etcd_frozen_two_seconds_of_three_affects_no_unit(operator: Operator) -> None:
    before = operator.lives(UNITS)
    etcd = operator.cluster.etcd
    with Traffic(operator) as traffic:
        traffic.wait_until_begun()
        for _ in range(TTL_S):
            etcd.freeze()
            time.sleep(2)
            etcd.thaw()
            time.sleep(1)
    traffic.wait_until_done()
    assert_untouched(operator, before)


def test_an_etcd_that_drops_all_leases_at_once_affects_no_unit(operator: Operator) -> None:
    before, listed, etcd = operator.lives(UNITS), operator.registrations(), operator.cluster.etcd
    for lease in etcd.etcdctl("lease", "list").splitlines()[1:]:
        etcd.etcdctl("lease", "revoke", lease)
    operator.cluster.wait_until("all are listed again", lambda: operator.registrations().keys() == listed.keys())
    assert not set(operator.registrations().values()) & set(listed.values())
    operator.start({"late.service": RECORDER})
    assert_untouched(operator, before)


def test_a_full_etcd_refuses_operations_with_its_reason_and_affects_no_unit(
    new_cluster: Callable[..., Cluster], tmp_path: Path
) -> None:
    quota = ("--quota-backend-bytes=2000000",)
    operator = start_units(new_cluster(machines=3, config={"agent_ttl": f"{TTL_S}s"}, etcd_arguments=quota), tmp_path)
    before, etcd = operator.lives(UNITS), operator.cluster.etcd
    with pytest.raises(RuntimeError, match="database space exceeded"):
        fill(etcd)
    leader = operator.leader()
    leader.run(["systemctl", "restart", "fleet.service"])
    refused = operator.start({"late.service": RECORDER}, on=operator.other_machine(leader), check=False)
    assert refused.returncode == 1
    assert "space exceeded" in refused.stderr
    time.sleep(2 * TTL_S)
    assert operator.lives(UNITS) == before
    etcd.etcdctl("compact", str(etcd.revision()))
    etcd.etcdctl("defrag")
    etcd.etcdctl("alarm", "disarm")
    operator.cluster.wait_ready()
    operator.start({"late.service": RECORDER})
    assert_untouched(operator, before)


def fill(etcd: EtcdServer) -> None:
    """Write until etcd refuses it. Never returns: raises that refusal."""
    while True:
        etcd.etcdctl("put", "/elsewhere", "x" * 100_000)


@pytest.mark.covers("R.1", "S.4")
def test_a_restored_etcd_starts_and_stops_nothing_and_lists_orphans(operator: Operator, tmp_path: Path) -> None:
    etcd, snapshot = operator.cluster.etcd, tmp_path / "snapshot"
    etcd.save(snapshot)
    operator.cluster.fleetctl("stop", "u0.service")
    operator.cluster.fleetctl("destroy", "u1.service")
    young = [f"young-{number}.service" for number in range(3)]
    operator.start(dict.fromkeys(young, RECORDER))
    time.sleep(TTL_S)
    everything = [*UNITS, *young]
    before, placed = operator.lives(everything), operator.placed()
    etcd.restore(snapshot)
    operator.cluster.wait_until("the units started after the snapshot are orphans", lambda: orphans(operator) == young)
    assert_held(operator, everything, before)

    taken, ended, left = young
    operator.start({taken: RECORDER, "u0.service": RECORDER, "u1.service": RECORDER})
    operator.wait_until_placed(taken, "u0.service", "u1.service")
    assert operator.placed()[taken] == placed[taken]
    operator.cluster.machine(placed[ended][0]).run(["systemctl", "stop", ended])
    operator.cluster.wait_until("one orphan is left", lambda: orphans(operator) == [left])
    after = operator.lives(everything)
    changed = {unit for (machine, unit), life in before.items() if after[machine, unit] != life}
    assert changed == {"u0.service", "u1.service", ended}


@pytest.mark.covers("S.4")
def test_a_machine_cut_off_during_a_restore_keeps_units_etcd_does_not_know(operator: Operator, tmp_path: Path) -> None:
    etcd, snapshot = operator.cluster.etcd, tmp_path / "snapshot"
    etcd.save(snapshot)
    young = [f"young-{number}.service" for number in range(3)]
    operator.start(dict.fromkeys(young, RECORDER))
    time.sleep(TTL_S)  # so that every machine has seen the revision in a heartbeat
    before, highest = operator.lives(young), etcd.revision()
    away = operator.machine_of(young[0])
    away.cut_network()
    etcd.restore(snapshot)
    for number in range(highest + 10 - etcd.revision()):
        etcd.etcdctl("put", "/elsewhere", str(number))
    asked = next(machine for machine in operator.cluster.machines if machine is not away)
    operator.cluster.wait_until("its units run elsewhere", lambda: away.id not in str(operator.placed(on=asked)))
    away.heal_network()
    operator.cluster.wait_until("the units started after the snapshot are orphans", lambda: orphans(operator) == young)
    known = [unit for unit in UNITS if unit != EVERYWHERE]
    operator.cluster.wait_until("one allocation of each", lambda: len(operator.processes(known)) == len(known))
    assert_held(operator, young, before)


@pytest.mark.covers("S.4")
def test_a_unit_moved_after_the_snapshot_stays_when_etcd_is_restored(operator: Operator, tmp_path: Path) -> None:
    etcd, snapshot = operator.cluster.etcd, tmp_path / "snapshot"
    etcd.save(snapshot)
    known = [unit for unit in UNITS if unit != EVERYWHERE]
    emptied = operator.machine_of("u0.service")
    emptied.power_cut()
    operator.cluster.wait_until("its units run elsewhere", lambda: len(operator.processes(known)) == len(known))
    emptied.boot()
    operator.cluster.wait_ready()
    time.sleep(TTL_S)
    before = operator.processes(known)
    etcd.restore(snapshot)
    operator.cluster.wait_ready()
    time.sleep(2 * TTL_S)
    assert operator.processes(known) == before
    operator.wait_until_placed(*known)


def orphans(operator: Operator) -> list[str]:
    """The running units that the store does not know, reported with a remedy."""
    return [
        name
        for name, report in operator.reports().items()
        for allocation in report.get("allocations", [])
        if allocation.get("orphaned") and "stop it on its machine" in allocation.get("error", "")
    ]


def assert_held(operator: Operator, units: list[str], before: dict[tuple[str, str], tuple[int, int]]) -> None:
    """Nothing changes for a whole time to live."""
    operator.cluster.wait_ready()
    time.sleep(2 * TTL_S)
    assert operator.lives(units) == before


@pytest.mark.covers("S.5")
def test_an_etcd_that_loses_its_leader_affects_no_unit(quorum: Operator) -> None:
    before = quorum.lives(UNITS)
    with Traffic(quorum) as traffic:
        traffic.wait_until_begun()
        lost = leading_member(quorum.cluster)
        lost.kill()
        time.sleep(TTL_S + 2)
        lost.start()
        time.sleep(2)
        frozen = leading_member(quorum.cluster)
        frozen.freeze()
        time.sleep(3 * TTL_S)
        frozen.thaw()
        time.sleep(2)
    traffic.wait_until_done()
    assert_untouched(quorum, before)


@pytest.mark.covers("R.1", "S.5")
def test_an_etcd_without_quorum_refuses_operations_and_affects_no_unit(quorum: Operator) -> None:
    before = quorum.lives(UNITS)
    with Traffic(quorum) as traffic:
        traffic.wait_until_begun()
        _, second, third = quorum.cluster.etcds
        second.kill()
        third.kill()
        time.sleep(2 * TTL_S)
        refused = quorum.cluster.fleetctl("list-units", check=False)
        assert refused.returncode == 1
        assert "etcd" in refused.stderr
        second.launch()
        third.launch()
        second.wait_until_ready()
        time.sleep(2)
    assert traffic.doubtful
    traffic.wait_until_done()
    assert_untouched(quorum, before)


def leading_member(cluster: Cluster) -> EtcdServer:
    """The member that etcd itself names as its leader."""
    found: list[EtcdServer] = []

    def one_leads() -> bool:
        found[:] = [member for member in cluster.etcds if leads(member)]
        return len(found) == 1

    cluster.wait_until("one member of etcd leads it", one_leads)
    return found[0]


def leads(member: EtcdServer) -> bool:
    (status,) = json.loads(member.etcdctl("endpoint", "status", "--write-out=json"))
    return bool(status["Status"]["leader"] == status["Status"]["header"]["member_id"])
