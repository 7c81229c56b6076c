"""`plan lose` and `simulate --lose` name the same machine for each unit."""

import tempfile
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fleetctl.commands.simulate import make_beginning
from fleetctl.exports.file import Exported, ExportedMachine, ExportedUnit
from fleetd.api import schema
from fleetd.model.unit import TargetState
from fleetd.simulation.cluster import SimulatedCluster, run_virtually

PLAY_S = 3600.0
SERVICE = "[Service]\nExecStart=/bin/daemon\n"
OPTIONS = (
    "",
    "Global=true",
    "MachineMetadata=zone=a",
    "Conflicts=u*",
    "MachineOf=u0.service",
    "FailoverDelay=1min",
    "Global=true\nMachineMetadata=zone=b",
    "Prefer=zone=a",
)
Places = dict[str, set[str]]


@st.composite
def clusters(draw: st.DrawFn) -> Exported:
    """Some machines in two zones, and some units, all of which are to run."""
    count = draw(st.integers(2, 5))
    zones = draw(st.lists(st.sampled_from("ab"), min_size=count, max_size=count))
    machines = [ExportedMachine(f"m{number}", f"10.0.0.{number}", {"zone": zone}) for number, zone in enumerate(zones)]
    options = draw(st.lists(st.sampled_from(OPTIONS), min_size=1, max_size=8))
    units = [
        ExportedUnit(f"u{number}.service", f"{SERVICE}[X-Fleet]\n{each}\n" if each else SERVICE, TargetState.LAUNCHED)
        for number, each in enumerate(options)
    ]
    return Exported({}, {each.id: each for each in machines}, {each.name: each for each in units})


def running(cluster: SimulatedCluster) -> Places:
    """Unit → where it runs on a machine that is on."""
    found: Places = {}
    for machine in cluster.machines.values():
        for unit in machine.systemd.processes() if machine.is_on else ():
            found.setdefault(unit, set()).add(machine.id)
    return found


def planned(plan: schema.Plan, before: Places, lost: set[str]) -> Places:
    """Where the units run according to the plan, which leaves those where they are that it does not name."""
    found = {unit: machines - lost for unit, machines in before.items()}
    for move in plan.moves:
        there = found.setdefault(move.unit, set())
        there.discard(move.origin)
        if move.machine:
            there.add(move.machine)
    return {unit: machines for unit, machines in found.items() if machines}


async def play(directory: str, exported: Exported, lost: list[str]) -> tuple[Places, Places, set[str], set[str]]:
    """Where the units run according to the plan and in the simulation, and those that have lost their machine
    and get no other."""
    cluster = SimulatedCluster(Path(directory), make_beginning(exported))
    try:
        await cluster.start()
        assert await cluster.settle(PLAY_S)
        before = running(cluster)
        answer = await cluster.ask("POST", "plan", schema.PlanRequest(lose=tuple(lost)))
        assert answer.status == 200, answer.body
        plan = msgspec.json.decode(answer.body, type=schema.Plan)
        for id_ in lost:
            await cluster.machines[id_].lose()
        assert await cluster.settle(PLAY_S)
        nowhere = before.keys() & (await cluster.find_nowhere()).keys()
        return planned(plan, before, set(lost)), running(cluster), {each.unit for each in plan.nowhere}, nowhere
    finally:
        await cluster.close()


@pytest.mark.long
@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@given(clusters(), st.data())
def test_a_plan_names_the_places_at_which_a_simulation_arrives(exported: Exported, data: st.DataObject) -> None:
    lost = data.draw(
        st.lists(
            st.sampled_from(sorted(exported.machines)), unique=True, min_size=1, max_size=len(exported.machines) - 1
        )
    )
    with tempfile.TemporaryDirectory() as directory:
        foreseen, found, nowhere, is_nowhere = run_virtually(play(directory, exported, lost))
    assert foreseen == found
    assert nowhere == is_nowhere
