"""Foresight: what it says comes true if nothing goes wrong, and it changes nothing."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from fleetd.model.announcement import ServiceRecord
from fleetd.model.machine import Cordon, DrainRequest, MachineMode, MachineSettings
from fleetd.model.move import Move
from fleetd.model.placement import Placement
from fleetd.model.reason import render_eviction
from fleetd.model.reboot import RebootRequest
from fleetd.model.rollout import Rollout
from fleetd.model.unit import Unit
from fleetd.registry.records import MACHINES, PLACEMENTS, REBOOT_REQUESTS, SERVICES, SETTINGS, STATES, UNITS
from fleetd.scheduler.failover_delays import Now
from fleetd.scheduler.foresight import Foresight, Hypothesis, foresee, pretend
from fleetd.scheduler.preference import Preference, Standing
from fleetd.scheduler.proposal import Proposal, RolloutPlan
from fleetd.scheduler.snapshot import Snapshot
from tests.unit.cluster_builder import LAUNCHED, NOON
from tests.unit.drawn_clusters import clusters, submit
from tests.unit.rolling_cluster import RollingCluster, rolling_group, text_of

DRAINED = MachineSettings(cordon=Cordon("disk"), drain=DrainRequest("ann", NOON))


def foresee_in(cluster: RollingCluster, **supposed: object) -> Foresight:
    return foresee(cluster.snapshot, Hypothesis(**supposed), now=Now(cluster.clock_s, NOON), policy=cluster.policy)


def moves_of(found: Foresight) -> list[str]:
    return [f"{move.unit.removesuffix('.service')} {move.origin}→{move.machine}" for move in found.moves]


def places(snapshot: Snapshot) -> dict[str, list[str]]:
    """Where each unit is: unit → machines."""
    found = {}
    for name, by_machine in sorted(snapshot.placements.items()):
        found[name] = sorted(machine for machine, placement in by_machine.items() if placement.is_active)
    return {name: machines for name, machines in found.items() if machines}


def reasons(snapshot: Snapshot) -> dict[str, object]:
    """Why each unit is where it is."""
    return {name: decision.reason for name, decision in sorted(snapshot.decisions.items())}


def test_a_cluster_at_rest_stays_as_it_is() -> None:
    cluster = rolling_group()
    found = foresee_in(cluster)
    assert found.moves == found.nowhere == ()
    assert found.is_final
    cluster.machine("m1", session="new")  # the leader writes that it knows of it, and nothing else
    assert foresee_in(cluster).is_final


def test_a_drain_moves_one_after_the_other_and_says_why() -> None:
    cluster = rolling_group()
    submit(cluster, "a.service", "MachineID=m1")
    submit(cluster, "log.service", "Global=true")
    cluster.come_to_rest()
    before = places(cluster.snapshot)
    found = foresee_in(cluster, settings={"m1": DRAINED})
    assert moves_of(found) == ["w@1 m1→m2"]
    assert render_eviction(found.moves[0].because) == "machine m1 is being drained"
    assert places(found.after)["a.service"] == ["m1"]
    assert places(found.after)["log.service"] == ["m1", "m2", "m3"]
    assert places(cluster.snapshot) == before
    assert cluster.snapshot.settings == {}


def test_force_leaves_units_on_no_machine_and_stops_global_ones() -> None:
    cluster = rolling_group()
    submit(cluster, "a.service", "MachineID=m1")
    submit(cluster, "log.service", "Global=true")
    cluster.come_to_rest()
    drained = replace(DRAINED, drain=DrainRequest("ann", NOON, force=True, with_globals=True))
    found = foresee_in(cluster, settings={"m1": drained})
    assert found.nowhere == ("a.service",)
    assert sorted(moves_of(found)) == ["log m1→", "w@1 m1→m2"]


def test_what_made_each_machine_the_better_one_is_told() -> None:
    cluster = rolling_group(instances=2)
    submit(cluster, "b.service", "MachineOf=w@1.service")
    submit(cluster, "c.service", "MachineMetadata=disk=ssd")
    cluster.machine("m4", disk="ssd")
    cluster.come_to_rest()
    found = foresee_in(cluster, machines={"m1": None})
    values = ((Preference.RUNS, 1), (Preference.REPLACED, 0), (Preference.INSTANCES, 0))
    told = Standing("w@1.service", "m4", values)
    assert {move.unit: move.standing for move in found.moves} == {"w@1.service": told, "b.service": told}
    other = replace(cluster.snapshot.machines["m4"], id="m5", session="new")
    found = foresee_in(cluster, machines={"m4": None, "m5": other})
    assert [move.standing for move in found.moves] == [Standing("c.service", "m5", ())]


def test_a_lost_machine() -> None:
    cluster = rolling_group()
    submit(cluster, "log.service", "Global=true")
    submit(cluster, "a.service", "MachineID=m1")
    submit(cluster, "b.service", "MachineID=m9")  # is nowhere anyway
    cluster.come_to_rest()
    found = foresee_in(cluster, machines={"m1": None})
    assert sorted(moves_of(found)) == ["log m1→", "w@1 m1→m2"]
    assert found.nowhere == ("a.service",)


def test_what_a_lost_machine_announced_is_forgotten_in_the_plan_too() -> None:
    cluster = rolling_group()
    cluster.write(SERVICES, ("web", "m1", "w@1.service"), ServiceRecord())
    assert moves_of(foresee_in(cluster, machines={"m1": None})) == ["w@1 m1→m2"]
    assert cluster.snapshot.announced == {"m1": {("web", "w@1.service"): None}}


def test_a_machine_that_joins_gets_global_units_and_what_fitted_nowhere() -> None:
    cluster = rolling_group(instances=2)
    submit(cluster, "log.service", "Global=true")
    submit(cluster, "a.service", "MachineID=m3")
    submit(cluster, "sync.service", "MachineID=m3", "Type=oneshot")
    cluster.come_to_rest()
    found = foresee_in(cluster, machines={"m3": replace(cluster.snapshot.machines["m1"], id="m3", session="new")})
    assert sorted(moves_of(found)) == ["a →m3", "log →m3", "sync →m3"]
    assert found.after.states["sync.service"]["m3"].completed


def test_units_that_are_started_changed_and_destroyed() -> None:
    cluster = rolling_group()
    unit = Unit("a.service", text_of("new", "MachineOf=w@1.service"), LAUNCHED, generation=1000)
    nowhere = Unit("b.service", text_of("new", "MachineID=m9"), LAUNCHED, generation=1000)
    units = {"a.service": unit, "b.service": nowhere, "w@3.service": None}
    found = foresee_in(cluster, units=units)
    assert moves_of(found) == ["w@3 m3→", "a →m1"]
    assert found.nowhere == ("b.service",)
    assert "w@3.service" not in found.after.placements


def test_a_move_of_an_operator() -> None:
    cluster = rolling_group()
    move = Move("m3", "ann", NOON, origin="m1", was_available=True, revision=1000)
    found = foresee_in(cluster, moves={"w@1.service": move})
    assert moves_of(found) == ["w@1 m1→m3"]
    assert found.after.moves == {}


def test_a_rollout_that_is_under_way_is_carried_on() -> None:
    cluster = rolling_group()
    cluster.request("new", "w@1.service", "w@2.service", "w@3.service")
    found = foresee_in(cluster, settings={"m1": DRAINED})
    assert moves_of(found) == ["w@1 m1→m2"]
    contents = {placement.text for each in found.after.placements.values() for placement in each.values()}
    assert contents == {text_of("new")}
    cluster.snapshot.restored_at = 10_000  # what begins now is not paused
    assert not foresee_in(cluster).after.rollouts["w@.service"].pause


def test_a_machine_that_waits_for_its_reboot_does_not_get_its_slot() -> None:
    cluster = rolling_group()
    cluster.write(REBOOT_REQUESTS, ("m1",), RebootRequest("r1", cluster.snapshot.machines["m1"].boot_id))
    assert foresee_in(cluster).moves == ()


def test_what_fails_and_machines_that_do_nothing_stay_as_they_are() -> None:
    cluster = rolling_group()
    cluster.broken = True
    submit(cluster, "a.service", "MachineID=m2")
    submit(cluster, "run.service", "MachineID=m2", "Type=oneshot")
    cluster.come_to_rest()
    cluster.state("run.service", "m2", "activating", hash="", target=LAUNCHED)
    cluster.machine("m3", mode=MachineMode.PARKED)
    cluster.state("w@1.service", "m1", "active", orphan=True, generation=1)
    cluster.state("gone.service", "m1", "inactive")
    found = foresee_in(cluster)
    states = found.after.states
    assert states["a.service"]["m2"].active == "failed"
    assert states["run.service"]["m2"].active == "activating"
    assert states["w@1.service"]["m1"].orphan
    assert states["w@3.service"] == cluster.snapshot.states["w@3.service"]
    assert "gone.service" not in states


def test_what_is_starting_becomes_active_and_proven() -> None:
    cluster = rolling_group()
    submit(cluster, "a.service")
    cluster.run_leader()
    cluster.run_agents()
    assert {each.active for each in cluster.snapshot.states["a.service"].values()} == {"activating"}
    found = foresee_in(cluster)
    assert {each.active for each in found.after.states["a.service"].values()} == {"active"}


def test_a_drain_that_is_under_way_is_carried_on() -> None:
    cluster = rolling_group()
    submit(cluster, "log.service", "Global=true")
    cluster.come_to_rest()
    cluster.write(SETTINGS, ("m1",), DRAINED)
    for _ in range(4):  # until w@1 is on m2, active and not proven
        assert foresee_in(cluster).after.states["w@1.service"]["m2"].proof
        cluster.run_leader()
        cluster.run_agents()
    state = cluster.snapshot.states["w@1.service"]["m2"]
    cluster.write(STATES, ("m2", "w@1.service"), replace(state, active="active", proof=None))
    assert foresee_in(cluster).after.states["w@1.service"]["m2"].proof


def test_what_returned_after_its_machine_was_lost_is_stopped() -> None:
    cluster = rolling_group()
    record = cluster.snapshot.machines["m1"]
    cluster.write(MACHINES, ("m1",), None)
    cluster.write(STATES, ("m1", "w@1.service"), None)
    cluster.come_to_rest()
    cluster.write(MACHINES, ("m1",), replace(record, session="new"))
    cluster.state("w@1.service", "m1", "active", generation=1)
    cluster.write(PLACEMENTS, ("m1", "w@1.service"), Placement("m1", "w@1.service", "", LAUNCHED, 1, superseded=True))
    assert pretend(cluster.snapshot, "m1", "w@1.service").runs
    assert list(foresee_in(cluster).after.states["w@1.service"]) == ["m2"]


def test_templates_of_sockets_are_no_moves() -> None:
    cluster = rolling_group()
    cluster.write(UNITS, ("s.socket",), Unit("s.socket", "[Socket]\nListenStream=1\nAccept=yes\n", LAUNCHED))
    cluster.write(UNITS, ("s@.service",), Unit("s@.service", text_of("old")))
    submit(cluster, "log.service", "Global=true")
    found = foresee_in(cluster)
    assert "s@.service" in found.after.placements
    assert sorted(moves_of(found)) == ["log →m1", "log →m2", "log →m3", "s.socket →m1"]
    cluster.come_to_rest()
    submit(cluster, "log.service", "Global=true\nMaxUnavailable=2")  # is written anew where it is
    assert moves_of(foresee_in(cluster)) == []


def test_a_cluster_that_never_comes_to_rest_is_found_out() -> None:
    cluster = rolling_group()

    def turn(proposal: Proposal) -> None:
        rollout = Rollout("r", 1, by="" if proposal.snapshot.rollouts["x@.service"].by else "ann")
        proposal.first.append(RolloutPlan("x@.service", rollout))

    cluster.snapshot.rollouts["x@.service"] = Rollout("r", 1)
    found = foresee(cluster.snapshot, controllers=[turn])
    assert not found.is_final


@pytest.mark.covers("C.10")
@settings(max_examples=300, deadline=None)
@given(clusters(), st.data())
def test_a_plan_is_what_comes_to_be(cluster: RollingCluster, data: st.DataObject) -> None:
    """Drains, and the machines that are changed, with nothing else going wrong."""
    machines = list(cluster.snapshot.machines)
    drained = data.draw(st.lists(st.sampled_from(machines), unique=True, max_size=2))
    force, with_globals = data.draw(st.booleans()), data.draw(st.booleans())
    request = DrainRequest("ann", NOON, force=force, with_globals=with_globals)
    asked = dict.fromkeys(drained, replace(DRAINED, drain=request))
    before = cluster.snapshot.copy()
    found = foresee_in(cluster, settings=asked)
    assert found.is_final
    for records in ("placements", "decisions", "states", "settings"):
        assert getattr(cluster.snapshot, records) == getattr(before, records)
    for machine, settings_ in asked.items():
        cluster.write(SETTINGS, (machine,), settings_)
    cluster.come_to_rest()
    assert places(found.after) == places(cluster.snapshot)
    assert reasons(found.after) == reasons(cluster.snapshot)
    moved = {move.unit: move.machine for move in found.moves if move.machine}
    assert moved == {
        name: where[0]
        for name, where in places(cluster.snapshot).items()
        if name not in cluster.snapshot.global_units and where != places(before).get(name)
    }
