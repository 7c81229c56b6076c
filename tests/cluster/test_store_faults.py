"""Whatever happens to etcd, no unit is stopped, started or moved for it; operations meanwhile are done or refused.

That etcd is away or frozen for three times to live while nobody asks for anything is held in test_daemon.py.
"""

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from contrib.testbed import Cluster, EtcdServer, Machine
from tests.cluster.operator import RECORDER, Operator, with_fleet
from tests.cluster.traffic import Traffic

TTL_S = 4
EVERYWHERE = "all.service"
UNITS = [*(f"u{number}.service" for number in range(6)), EVERYWHERE]


@pytest.fixture
def person(new_cluster: Callable[..., Cluster], tmp_path: Path) -> Operator:
    """Somebody at a cluster of their own on one etcd, with six units and a global one that run."""
    return begin(new_cluster(machines=3, config={"agent_ttl": f"{TTL_S}s"}), tmp_path)


@pytest.fixture
def quorum(new_cluster: Callable[..., Cluster], tmp_path: Path) -> Operator:
    """The same on an etcd of three members."""
    return begin(new_cluster(machines=3, config={"agent_ttl": f"{TTL_S}s"}, etcd_members=3), tmp_path)


def begin(cluster: Cluster, folder: Path) -> Operator:
    person = Operator(cluster, folder)
    person.start({**dict.fromkeys(UNITS, RECORDER), EVERYWHERE: with_fleet("Global=true", service=RECORDER)})
    cluster.wait_until("the global runs", lambda: len(person.placed().get(EVERYWHERE, [])) == 3)
    return person


def assert_untouched(person: Operator, before: dict[tuple[str, str], tuple[int, int]]) -> None:
    """Each unit has lived on without a break, and a whole time to live after all is well it still does."""
    person.cluster.wait_ready()
    assert person.lives(UNITS) == before
    time.sleep(TTL_S + 2)
    assert person.lives(UNITS) == before
    placed = person.placed()
    assert len(placed[EVERYWHERE]) == 3
    assert all(len(placed[unit]) == 1 for unit in UNITS if unit != EVERYWHERE)


@pytest.mark.covers("P.1", "R.1", "S.2")
def test_three_times_to_live_without_etcd_touch_no_unit_and_what_was_asked_meanwhile_is_refused_or_done(
    person: Operator,
) -> None:
    before = person.lives(UNITS)
    with Traffic(person) as traffic:
        traffic.wait_until_begun()
        person.cluster.etcd.stop()
        time.sleep(3 * TTL_S)
        assert person.lives(UNITS) == before
        person.cluster.etcd.start()
        time.sleep(4)
    assert traffic.doubtful
    assert all("etcd" in words for words in traffic.doubtful.values())
    traffic.wait_until_done()
    assert_untouched(person, before)


@pytest.mark.covers("S.3")
def test_an_etcd_that_crashes_thrice_touches_no_unit_and_loses_nothing_acknowledged(person: Operator) -> None:
    before = person.lives(UNITS)
    with Traffic(person) as traffic:
        traffic.wait_until_begun()
        for _ in range(3):
            time.sleep(2)
            person.cluster.etcd.kill()
            time.sleep(1)
            person.cluster.etcd.start()
    traffic.wait_until_done()
    assert_untouched(person, before)


@pytest.mark.covers("R.1", "S.3")
def test_an_etcd_that_is_frozen_two_seconds_of_three_touches_no_unit(person: Operator) -> None:
    before = person.lives(UNITS)
    etcd = person.cluster.etcd
    with Traffic(person) as traffic:
        traffic.wait_until_begun()
        for _ in range(TTL_S):
            etcd.freeze()
            time.sleep(2)
            etcd.thaw()
            time.sleep(1)
    traffic.wait_until_done()
    assert_untouched(person, before)


def test_an_etcd_that_drops_all_leases_at_once_touches_no_unit(person: Operator) -> None:
    before, listed, etcd = person.lives(UNITS), person.registrations(), person.cluster.etcd
    for lease in etcd.etcdctl("lease", "list").splitlines()[1:]:
        etcd.etcdctl("lease", "revoke", lease)
    person.cluster.wait_until("all are listed again", lambda: person.registrations().keys() == listed.keys())
    assert not set(person.registrations().values()) & set(listed.values())
    person.start({"late.service": RECORDER})
    assert_untouched(person, before)


def test_an_etcd_that_is_full_refuses_operations_in_words_and_touches_no_unit(
    new_cluster: Callable[..., Cluster], tmp_path: Path
) -> None:
    quota = ("--quota-backend-bytes=2000000",)
    person = begin(new_cluster(machines=3, config={"agent_ttl": f"{TTL_S}s"}, etcd_arguments=quota), tmp_path)
    before, etcd = person.lives(UNITS), person.cluster.etcd
    with pytest.raises(RuntimeError, match="database space exceeded"):
        fill(etcd)
    leader = person.leader()
    leader.run(["systemctl", "restart", "fleet.service"])
    refused = person.start({"late.service": RECORDER}, on=another(person, leader), check=False)
    assert refused.returncode == 1
    assert "space exceeded" in refused.stderr
    time.sleep(2 * TTL_S)
    assert person.lives(UNITS) == before
    etcd.etcdctl("compact", str(revision(etcd)))
    etcd.etcdctl("defrag")
    etcd.etcdctl("alarm", "disarm")
    person.cluster.wait_ready()
    person.start({"late.service": RECORDER})
    assert_untouched(person, before)


def fill(etcd: EtcdServer) -> None:
    """Write until it takes no more; never returns, but raises what it says then."""
    while True:
        etcd.etcdctl("put", "/elsewhere", "x" * 100_000)


def another(person: Operator, machine: Machine) -> Machine:
    return next(each for each in person.cluster.machines if each is not machine)


@pytest.mark.covers("R.1", "S.4")
def test_a_restored_etcd_stops_nothing_starts_nothing_and_lists_what_it_does_not_know(
    person: Operator, tmp_path: Path
) -> None:
    etcd, snapshot = person.cluster.etcd, tmp_path / "snapshot"
    etcd.save(snapshot)
    person.cluster.fleetctl("stop", "u0.service")
    person.cluster.fleetctl("destroy", "u1.service")
    young = [f"young-{number}.service" for number in range(3)]
    person.start(dict.fromkeys(young, RECORDER))
    time.sleep(TTL_S)
    everything = [*UNITS, *young]
    before, homes = person.lives(everything), person.placed()
    etcd.restore(snapshot)
    person.cluster.wait_until("the young are orphans", lambda: orphans(person) == young)
    assert_held(person, everything, before)

    taken, ended, left = young
    person.start({taken: RECORDER, "u0.service": RECORDER, "u1.service": RECORDER})
    person.wait_until_placed(taken, "u0.service", "u1.service")
    assert person.placed()[taken] == homes[taken]
    person.cluster.machine(homes[ended][0]).run(["systemctl", "stop", ended])
    person.cluster.wait_until("one orphan is left", lambda: orphans(person) == [left])
    after = person.lives(everything)
    changed = {unit for (machine, unit), life in before.items() if after[machine, unit] != life}
    assert changed == {"u0.service", "u1.service", ended}


@pytest.mark.covers("S.4")
def test_a_machine_that_was_cut_off_while_etcd_was_restored_and_written_to_stops_nothing_that_is_unknown(
    person: Operator, tmp_path: Path
) -> None:
    etcd, snapshot = person.cluster.etcd, tmp_path / "snapshot"
    etcd.save(snapshot)
    young = [f"young-{number}.service" for number in range(3)]
    person.start(dict.fromkeys(young, RECORDER))
    time.sleep(TTL_S)  # so that every machine has heard of the revision by its beats
    before, highest = person.lives(young), revision(etcd)
    away = person.machine_of(young[0])
    away.cut_network()
    etcd.restore(snapshot)
    for number in range(highest + 10 - revision(etcd)):
        etcd.etcdctl("put", "/elsewhere", str(number))
    asked = next(machine for machine in person.cluster.machines if machine is not away)
    person.cluster.wait_until("its units run elsewhere", lambda: away.id not in str(person.placed(on=asked)))
    away.heal_network()
    person.cluster.wait_until("the young are orphans", lambda: orphans(person) == young)
    known = [unit for unit in UNITS if unit != EVERYWHERE]
    person.cluster.wait_until("one copy of each", lambda: len(person.processes(known)) == len(known))
    assert_held(person, young, before)


@pytest.mark.covers("S.4")
def test_a_unit_that_was_moved_after_the_snapshot_runs_on_where_it_is_when_etcd_is_restored(
    person: Operator, tmp_path: Path
) -> None:
    etcd, snapshot = person.cluster.etcd, tmp_path / "snapshot"
    etcd.save(snapshot)
    known = [unit for unit in UNITS if unit != EVERYWHERE]
    emptied = person.machine_of("u0.service")
    emptied.power_cut()
    person.cluster.wait_until("its units run elsewhere", lambda: len(person.processes(known)) == len(known))
    emptied.boot()
    person.cluster.wait_ready()
    time.sleep(TTL_S)
    before = person.processes(known)
    etcd.restore(snapshot)
    person.cluster.wait_ready()
    time.sleep(2 * TTL_S)
    assert person.processes(known) == before
    person.wait_until_placed(*known)


def revision(etcd: EtcdServer) -> int:
    """How often anything was ever written to it."""
    return int(json.loads(etcd.etcdctl("get", "/fleet/leader", "--write-out=json"))["header"]["revision"])


def orphans(person: Operator) -> list[str]:
    """The units that are reported to run without being known, with a word on what to do."""
    return [
        name
        for name, report in person.reports().items()
        for copy in report.get("allocations", [])
        if copy.get("orphaned") and "stop it on its machine" in copy.get("error", "")
    ]


def assert_held(person: Operator, units: list[str], before: dict[tuple[str, str], tuple[int, int]]) -> None:
    """Nothing happens, however long one waits."""
    person.cluster.wait_ready()
    time.sleep(2 * TTL_S)
    assert person.lives(units) == before


@pytest.mark.covers("S.5")
def test_an_etcd_that_loses_its_leader_for_good_or_for_a_while_touches_no_unit(quorum: Operator) -> None:
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
def test_an_etcd_without_its_quorum_refuses_what_is_requested_and_touches_no_unit(quorum: Operator) -> None:
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
    """The member of etcd that leads it, as it says itself."""
    found: list[EtcdServer] = []

    def one_leads() -> bool:
        found[:] = [member for member in cluster.etcds if leads(member)]
        return len(found) == 1

    cluster.wait_until("one member of etcd leads it", one_leads)
    return found[0]


def leads(member: EtcdServer) -> bool:
    (status,) = json.loads(member.etcdctl("endpoint", "status", "--write-out=json"))
    return bool(status["Status"]["leader"] == status["Status"]["header"]["member_id"])
