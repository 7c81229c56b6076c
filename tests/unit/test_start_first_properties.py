"""Properties of Handover=start-first, whatever happens to the cluster meanwhile."""

from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from fleetd.model.machine import MachineMode
from fleetd.registry.records import SETTINGS, UNITS
from fleetd.scheduler.disruption import DisruptionBudget
from tests.unit.cluster_builder import NOON
from tests.unit.rolling_cluster import RollingCluster
from tests.unit.start_first_cluster import A, cluster_with, drain, move, where

EVENTS = st.lists(
    st.one_of(
        st.sampled_from(["leader", "leader", "agents", "agents", "elect", "break", "mend", "restart"]),
        st.tuples(st.sampled_from(["move", "drain", "uncordon", "die", "back", "park", "ready"]), st.integers(1, 3)),
    ),
    max_size=40,
)


@given(EVENTS)
@settings(max_examples=150, deadline=None)
def test_what_runs_is_never_fewer_than_one_nor_more_than_two(events: list[object]) -> None:
    """Unless its machine dies, or is to stop it for other reasons; in the end, exactly one runs."""
    cluster = cluster_with(machines=3)
    dead: set[str] = set()
    for event in events:
        served = is_served(cluster)
        happen(cluster, event, dead)
        is_loss = (isinstance(event, tuple) and event[0] in ("die", "park")) or event in ("break", "restart")
        if served and not is_loss and not cluster.broken:
            assert where(cluster)
        assert len(where(cluster)) <= 2
    cluster.broken = False
    for number in range(1, 4):
        for word in ("back", "ready", "uncordon"):
            happen(cluster, (word, number), dead)
    cluster.come_to_rest()
    assert len(where(cluster)) == 1
    assert cluster.placement_states(A) == {where(cluster)[0]: "assigned"}
    assert cluster.snapshot.moves == {}


def is_served(cluster: RollingCluster) -> bool:
    machine = cluster.assigned().get(A, "")
    return machine != "" and DisruptionBudget(cluster.snapshot, {}).unavailability(A, machine) is None


def happen(cluster: RollingCluster, event: object, dead: set[str]) -> None:
    match event:
        case "leader":
            cluster.run_leader()
        case "agents":
            cluster.run_agents()
        case "elect":
            cluster.elect()
        case "break" | "mend":
            cluster.broken = event == "break"
        case "restart":
            unit = cluster.snapshot.units[A]
            cluster.write(UNITS, (A,), replace(unit, restart_of=unit.generation))
        case ("move", number):
            if cluster.assigned().get(A, "") not in ("", f"m{number}"):
                move(cluster, f"m{number}")
        case ("drain", number):
            drain(cluster, f"m{number}", at=NOON + len(cluster.started))
        case ("uncordon", number):
            cluster.write(SETTINGS, (f"m{number}",), None)
        case ("die", number) if f"m{number}" not in dead and len(dead) < 2:
            cluster.die(f"m{number}")
            cluster.running.pop((f"m{number}", A), None)
            dead.add(f"m{number}")
        case ("back", number) if f"m{number}" in dead:
            cluster.machine(f"m{number}", MachineMode.READY, session=f"s{cluster.revision}")
            dead.discard(f"m{number}")
        case ("park" | "ready" as word, number) if f"m{number}" not in dead:
            cluster.machine(f"m{number}", MachineMode.PARKED if word == "park" else MachineMode.READY)
