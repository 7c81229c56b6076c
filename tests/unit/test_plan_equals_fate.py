"""A plan equals fate: what is foreseen of a hypothesis comes to be if it is true and nothing else happens."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from fleetd.model.machine import Capability, Machine
from fleetd.model.names import template_of
from fleetd.model.rollout import Apply
from fleetd.model.unit import TargetState, Unit
from fleetd.registry.records import APPLIES, MACHINES, STATES, UNITS
from fleetd.scheduler.foresight import Foresight
from tests.unit.drawn_clusters import FLEETS, clusters, submit
from tests.unit.rolling_cluster import RollingCluster, text_of
from tests.unit.test_foresight import foresee_in, places

DELAYS = ("", "FailoverDelay=60s", "FailoverDelay=infinity")


def check(found: Foresight, before: dict[str, list[str]], cluster: RollingCluster) -> None:
    """What was foreseen is so: where each unit is, with which content and target, and which have moved."""
    snapshot = cluster.snapshot
    assert found.is_final
    assert places(found.after) == places(snapshot)
    for name, machines in places(snapshot).items():
        for machine in machines:
            foreseen, real = (each.placements[name][machine] for each in (found.after, snapshot))
            assert (foreseen.content, foreseen.target) == (real.content, real.target)
    is_alone = {name for name in {*before, *places(snapshot)} if name not in snapshot.global_units}
    came = {name: where[0] for name, where in places(snapshot).items() if where != before.get(name)}
    moved = {move.unit: move.machine for move in found.moves if move.unit in is_alone and move.machine}
    assert moved == {name: machine for name, machine in came.items() if name in is_alone}
    unwanted = {name for name in before if name in is_alone and not snapshot.is_wanted(name)}
    stopped = {move.unit for move in found.moves if move.unit in is_alone and not move.machine}
    assert stopped == unwanted


@pytest.mark.covers("C.10")
@settings(max_examples=40, deadline=None)
@given(clusters(), st.data())
def test_machines_that_are_lost(cluster: RollingCluster, data: st.DataObject) -> None:
    for number, delay in enumerate(DELAYS):
        submit(cluster, f"d{number}.service", delay)
    cluster.come_to_rest()
    lost = data.draw(st.lists(st.sampled_from(list(cluster.snapshot.machines)), unique=True, min_size=1, max_size=2))
    before = places(cluster.snapshot)
    found = foresee_in(cluster, machines=dict.fromkeys(lost))
    for machine in lost:
        cluster.write(MACHINES, (machine,), None)
        for name in list(cluster.snapshot.reported_by.get(machine, ())):
            cluster.write(STATES, (machine, name), None)
            cluster.running.pop((machine, name), None)
    cluster.come_to_rest()
    check(found, before, cluster)


@pytest.mark.covers("C.10")
@settings(max_examples=40, deadline=None)
@given(clusters(), st.data())
def test_machines_that_join(cluster: RollingCluster, data: st.DataObject) -> None:
    submit(cluster, "log.service", "Global=true")
    submit(cluster, "far.service", "MachineMetadata=x=3")
    cluster.come_to_rest()
    joined = {f"new-{number}": data.draw(st.sampled_from("123")) for number in range(data.draw(st.integers(1, 2)))}
    before = places(cluster.snapshot)
    capabilities = dict.fromkeys(map(str, Capability), True)
    machines = {id_: Machine(id_, id_, metadata={"x": x}, capabilities=capabilities) for id_, x in joined.items()}
    found = foresee_in(cluster, machines=machines)
    for id_, x in joined.items():
        cluster.machine(id_, x=x)
    cluster.come_to_rest()
    check(found, before, cluster)


@pytest.mark.covers("C.10")
@settings(max_examples=40, deadline=None)
@given(clusters(), st.data())
def test_units_that_are_started_stopped_and_destroyed(cluster: RollingCluster, data: st.DataObject) -> None:
    drawn = data.draw(st.lists(st.sampled_from((*cluster.snapshot.units, "c.service", "w@8.service")), unique=True))
    units: dict[str, Unit | None] = {}
    for name in sorted(drawn):
        former = cluster.snapshot.units.get(name)
        fleet = data.draw(st.sampled_from(FLEETS)).replace("%p", "w").replace("%i", "1")
        unit = former or Unit(name, text_of("new", fleet))
        is_kept = former is None or data.draw(st.booleans())
        units[name] = replace(unit, target=data.draw(st.sampled_from(TargetState))) if is_kept else None
    carry_out_and_check(cluster, units, {})


@pytest.mark.covers("C.10")
@settings(max_examples=40, deadline=None)
@given(clusters(), st.data())
def test_units_that_are_applied(cluster: RollingCluster, data: st.DataObject) -> None:
    groups = sorted({template_of(name) or name for name in cluster.snapshot.units})
    drawn = data.draw(st.lists(st.sampled_from(groups), unique=True))
    units: dict[str, Unit | None] = {}
    for name, unit in sorted(cluster.snapshot.units.items()):
        if (template_of(name) or name) in drawn:
            units[name] = replace(unit, text=unit.text.replace("/bin/old", "/bin/new"), rollout="r")
    if data.draw(st.booleans()):
        units["c.service"] = Unit("c.service", text_of("new", "Conflicts=w@*"), TargetState.LAUNCHED)
    carry_out_and_check(cluster, units, {"r": Apply()})


def carry_out_and_check(cluster: RollingCluster, units: dict[str, Unit | None], applies: dict[str, Apply]) -> None:
    """All are written at about one revision, in order of names."""
    before, generation = places(cluster.snapshot), cluster.revision + 1
    supposed = {name: replace(unit, generation=generation) if unit else None for name, unit in units.items()}
    found = foresee_in(cluster, units=supposed, applies=applies)
    for name, unit in units.items():
        cluster.write(UNITS, (name,), unit)
    for id_, apply in applies.items():
        cluster.write(APPLIES, (id_,), apply)
    cluster.come_to_rest()
    check(found, before, cluster)
