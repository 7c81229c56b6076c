"""Handover=start-first: a unit that moves starts on the other machine first, and stops where it was when it is proven
there; if it fails there, it stays."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from fleetd.model.machine import Cordon, DrainRequest, MachineMode, MachineSettings
from fleetd.model.move import Move
from fleetd.model.rollout import Phase
from fleetd.model.unit import Unit
from fleetd.registry.records import MOVES, PLACEMENTS, SETTINGS, STATES, UNITS
from fleetd.scheduler.disruption import DisruptionBudget
from tests.unit.cluster_builder import INACTIVE, LAUNCHED, LOADED, NOON
from tests.unit.rolling_cluster import BAD, RollingCluster, text_of

A = "a.service"
MEMBERS = ("w@1.service", "w@2.service", "w@3.service")
START_FIRST = "Handover=start-first"


def submit(cluster: RollingCluster, name: str, fleet: str = "", service: str = "", target: object = LAUNCHED) -> None:
    text = text_of("old", f"{START_FIRST}\n{fleet}").replace("[X-Fleet]", f"{service}\n[X-Fleet]")
    cluster.write(UNITS, (name,), Unit(name, text, target))
    cluster.come_to_rest()


def cluster_with(fleet: str = "", machines: int = 2, service: str = "", target: object = LAUNCHED) -> RollingCluster:
    """a.service, which starts first where it moves, on the first of these machines."""
    cluster = RollingCluster(machines)
    submit(cluster, A, fleet, service, target)
    return cluster


def move(cluster: RollingCluster, machine: str, name: str = A, **fields: object) -> None:
    request = Move(machine, "ann", NOON, origin=cluster.assigned().get(name, ""), was_available=True)
    cluster.write(MOVES, (name,), replace(request, **fields))


def drain(cluster: RollingCluster, machine: str, **fields: object) -> None:
    request = replace(DrainRequest("ann", NOON), **fields)
    cluster.write(SETTINGS, (machine,), MachineSettings(cordon=Cordon("drained"), drain=request))


def where(cluster: RollingCluster, name: str = A) -> list[str]:
    """The machines that the unit runs on."""
    return sorted(machine for machine, other in cluster.running if other == name)


def step(cluster: RollingCluster, times: int = 1) -> None:
    for _ in range(times):
        cluster.run_leader()
        cluster.run_agents()


def handing_over(**options: object) -> RollingCluster:
    """a.service is starting on m2, and runs on m1."""
    cluster = cluster_with(**options)
    drain(cluster, "m1")
    step(cluster)
    assert where(cluster) == ["m1", "m2"]
    return cluster


@pytest.mark.parametrize("way", ["move", "drain", "drain by force", "move by force"])
def test_a_unit_stops_when_it_is_proven_where_it_goes(way: str) -> None:
    cluster = cluster_with()
    if way.startswith("move"):
        move(cluster, "m2", force="force" in way)
    else:
        drain(cluster, "m1", force="force" in way)
    step(cluster)
    assert cluster.placement_states(A) == {"m1": "superseded", "m2": "assigned"}
    assert cluster.snapshot.placements[A]["m2"].prove_after_s == 10.0
    assert cluster.reason(A) == "starts there first, and runs on m1 until it is proven"
    assert DisruptionBudget(cluster.snapshot, {}).unavailability(A, "m2") is None
    assert not cluster.run_leader().units
    cluster.run_agents()  # it is proven
    cluster.run_leader()
    assert cluster.placement_states(A) == {"m1": "withdrawn", "m2": "assigned"}
    cluster.come_to_rest()
    assert where(cluster) == ["m2"]
    assert cluster.placement_states(A) == {"m2": "assigned"}
    assert cluster.reason(A) == "moved there"
    assert cluster.snapshot.moves == {}
    assert cluster.started == [A, A]


def test_members_move_although_others_are_unavailable() -> None:
    cluster = RollingCluster(3)
    cluster.machine("m1", x="y")
    cluster.request("old", *MEMBERS, fleet=START_FIRST)
    cluster.come_to_rest()
    broken = cluster.assigned()[MEMBERS[2]]
    state = cluster.snapshot.states[MEMBERS[2]][broken]
    cluster.write(STATES, (broken, MEMBERS[2]), replace(state, active="failed"))
    first = cluster.assigned()[MEMBERS[0]]
    drain(cluster, first)
    step(cluster)
    assert len(where(cluster, MEMBERS[0])) == 2


def test_it_costs_a_unit_that_stops_first_nothing_while_it_runs_where_it_was() -> None:
    cluster = RollingCluster(2)
    cluster.machine("m1", x="y")
    cluster.request("old", *MEMBERS, fleet=f"{START_FIRST}\nMachineMetadata=x=y")
    cluster.come_to_rest()
    cluster.machine("m2", x="y")
    drain(cluster, "m1")
    step(cluster)
    assert [len(where(cluster, name)) for name in MEMBERS] == [2, 2, 2]
    cluster.come_to_rest()
    assert [where(cluster, name) for name in MEMBERS] == [["m2"]] * 3


@pytest.mark.parametrize("way", ["move", "drain"])
def test_a_unit_that_fails_there_stays_and_says_why(way: str) -> None:
    cluster = cluster_with(machines=3)
    cluster.broken = True
    if way == "move":
        move(cluster, "m2")
    else:
        drain(cluster, "m1")
    cluster.come_to_rest()
    assert where(cluster) == ["m1"]
    assert cluster.placement_states(A) == {"m1": "assigned"}
    assert cluster.reason(A) == "was not moved to m2: failed there: it crashed"
    assert cluster.started == [A, A]  # no other machine is tried, and none again
    assert cluster.snapshot.moves == {}
    cluster.elect()
    cluster.come_to_rest()
    assert cluster.started == [A, A]


def test_a_drain_that_is_asked_for_again_tries_it_again() -> None:
    cluster = cluster_with()
    cluster.broken = True
    drain(cluster, "m1")
    cluster.come_to_rest()
    cluster.broken = False
    drain(cluster, "m1", at=NOON + 60)
    cluster.come_to_rest()
    assert where(cluster) == ["m2"]


def test_other_content_is_tried_again() -> None:
    cluster = cluster_with()
    cluster.broken = True
    drain(cluster, "m1")
    cluster.come_to_rest()
    cluster.broken = False
    submit(cluster, A, service="Environment=X=1")
    assert where(cluster) == ["m2"]


@pytest.mark.parametrize("way", ["move", "drain"])
def test_what_has_failed_there_stops_first_by_force(way: str) -> None:
    cluster = cluster_with()
    cluster.broken = True
    if way == "move":
        move(cluster, "m2")
        cluster.come_to_rest()
        move(cluster, "m2", force=True)
    else:
        drain(cluster, "m1", force=True)
        for _ in range(6):
            step(cluster)
    step(cluster, 2)
    cluster.broken = False
    cluster.come_to_rest()
    assert where(cluster) == ["m2"]


@pytest.mark.parametrize(
    ("fleet", "service", "target"),
    [
        ("Handover=stop-first", "", LAUNCHED),
        ("", "Type=oneshot", LAUNCHED),  # as a drop-in of an instance may have it
        ("", "", LOADED),
    ],
)
def test_other_units_stop_first(fleet: str, service: str, target: object) -> None:
    cluster = cluster_with(fleet=fleet, service=service, target=target)
    move(cluster, "m2")
    cluster.run_leader()
    assert cluster.placement_states(A) == {"m1": "withdrawn"}


def test_a_unit_that_does_not_run_stops_first() -> None:
    cluster = cluster_with()
    cluster.write(STATES, ("m1", A), replace(cluster.snapshot.states[A]["m1"], active="failed"))
    move(cluster, "m2")
    cluster.run_leader()
    assert cluster.placement_states(A) == {"m1": "withdrawn"}


def test_units_that_machine_of_joins_stop_first() -> None:
    cluster = cluster_with()
    cluster.write(UNITS, ("b.service",), Unit("b.service", text_of("old", f"MachineOf={A}"), LAUNCHED))
    cluster.come_to_rest()
    drain(cluster, "m1")
    cluster.run_leader()
    assert cluster.placement_states(A) == {"m1": "withdrawn"}
    cluster.come_to_rest()
    assert where(cluster) == where(cluster, "b.service") == ["m2"]


def test_a_unit_stops_first_for_a_machine_that_proves_nothing() -> None:
    cluster = cluster_with()
    cluster.machine("m2", is_old=True)
    drain(cluster, "m1")
    cluster.run_leader()
    assert cluster.placement_states(A) == {"m1": "withdrawn"}


def test_own_name_in_conflicts_does_not_count() -> None:
    cluster = cluster_with("Conflicts=a*")
    drain(cluster, "m1")
    cluster.come_to_rest()
    assert where(cluster) == ["m2"]


def test_its_place_is_kept_where_it_runs() -> None:
    cluster = cluster_with("Conflicts=b*")
    move(cluster, "m2")
    step(cluster)
    cluster.write(UNITS, ("b.service",), Unit("b.service", text_of("old"), LAUNCHED))
    step(cluster)
    assert where(cluster, "b.service") == []
    cluster.come_to_rest()
    assert where(cluster) == ["m2"]
    assert where(cluster, "b.service") == ["m1"]


def test_it_waits_until_it_is_gone_elsewhere() -> None:
    cluster = cluster_with(machines=3)
    cluster.broken = True
    move(cluster, "m2")
    step(cluster, 2)
    cluster.run_leader()
    assert cluster.placement_states(A) == {"m1": "assigned", "m2": "withdrawn"}
    cluster.broken = False
    drain(cluster, "m1")
    cluster.run_leader()
    assert cluster.placement_states(A) == {"m1": "assigned", "m2": "withdrawn"}
    assert cluster.reason(A) == "waits until m2 has stopped it"
    move(cluster, "m3")
    cluster.run_leader()
    assert cluster.reason(A) == "waits until m2 has stopped it"
    cluster.come_to_rest()
    assert where(cluster) == ["m3"]


def test_it_waits_for_the_report_of_its_removal() -> None:
    cluster = cluster_with()
    state = cluster.snapshot.states[A]["m1"]
    cluster.write(STATES, ("m2", A), replace(state, load="not-found", active="inactive", target=INACTIVE))
    drain(cluster, "m1")
    cluster.run_leader()
    assert cluster.reason(A) == "waits until m2 has removed it"
    cluster.come_to_rest()
    assert where(cluster) == ["m2"]


def test_a_wait_that_is_over_is_not_the_reason_any_more() -> None:
    cluster = cluster_with()
    state = cluster.snapshot.states[A]["m1"]
    cluster.write(STATES, ("m2", A), replace(state, load="not-found", active="inactive", target=INACTIVE))
    drain(cluster, "m1")
    cluster.run_leader()
    cluster.write(SETTINGS, ("m1",), None)
    cluster.come_to_rest()
    assert cluster.reason(A) == "stays where it was"


# In the middle.


@pytest.mark.parametrize("machine", ["m1", "m2"])
def test_one_remains_if_a_machine_is_lost(machine: str) -> None:
    cluster = handing_over()
    cluster.die(machine)
    cluster.running.pop((machine, A))
    cluster.come_to_rest()
    other = "m2" if machine == "m1" else "m1"
    assert where(cluster) == [other]
    assert cluster.placement_states(A) == {other: "assigned"}
    assert A not in cluster.snapshot.moves
    if machine == "m2":
        assert cluster.started == [A, A]
        assert cluster.reason(A).startswith("stays on the drained machine")


def test_another_machine_is_tried_if_the_first_is_lost() -> None:
    cluster = handing_over(machines=3)
    cluster.die("m2")
    cluster.running.pop(("m2", A))
    cluster.come_to_rest()
    assert where(cluster) == ["m3"]


def test_a_moved_unit_stays_if_the_other_machine_is_lost() -> None:
    cluster = cluster_with()
    move(cluster, "m2")
    step(cluster)
    cluster.die("m2")
    cluster.running.pop(("m2", A))
    cluster.come_to_rest()
    assert where(cluster) == ["m1"]
    assert cluster.snapshot.moves == {}
    assert cluster.reason(A) == "was not moved to m2: machine is absent"


def test_both_machines_are_lost() -> None:
    cluster = handing_over(machines=3)
    for machine in ("m1", "m2"):
        cluster.die(machine)
        cluster.running.pop((machine, A))
    cluster.come_to_rest()
    assert where(cluster) == ["m3"]


def test_the_unit_is_taken_back_from_a_machine_that_parks() -> None:
    cluster = handing_over()
    cluster.machine("m2", MachineMode.PARKED)
    cluster.run_leader()
    assert cluster.placement_states(A) == {"m1": "assigned", "m2": "withdrawn"}
    assert cluster.reason(A) == "was not moved to m2: machine is parked (its fleetd was stopped)"


def test_the_unit_is_taken_back_from_a_machine_that_leaves() -> None:
    cluster = handing_over()
    cluster.machine("m2", MachineMode.LEAVING)
    cluster.run_leader()
    assert cluster.placement_states(A) == {"m1": "assigned", "m2": "withdrawn"}
    assert cluster.reason(A) == "was not moved to m2: machine is leaving"


def test_it_need_not_stay_on_a_machine_that_leaves() -> None:
    cluster = handing_over()
    cluster.machine("m1", MachineMode.LEAVING)
    cluster.run_leader()
    assert cluster.placement_states(A) == {"m1": "superseded", "m2": "assigned"}
    assert DisruptionBudget(cluster.snapshot, {}).unavailability(A, "m2") is not None
    cluster.broken = True
    cluster.running.pop(("m2", A))  # it is started again, and crashes
    step(cluster, 2)
    cluster.run_leader()
    assert cluster.placement_states(A) == {"m1": "withdrawn", "m2": "assigned"}


def test_a_copy_that_may_not_stay_runs_as_long_as_no_other_does() -> None:
    cluster = cluster_with("MachineMetadata=x=y")
    cluster.machine("m1", x="y")
    cluster.machine("m2", x="y")
    cluster.come_to_rest()
    cluster.broken = True
    drain(cluster, "m1")
    step(cluster)
    cluster.machine("m1", x="z")
    step(cluster, 3)
    assert cluster.placement_states(A) == {"m1": "superseded", "m2": "assigned"}
    assert where(cluster) == ["m1", "m2"]
    cluster.broken = False
    cluster.running.pop(("m2", A))
    cluster.come_to_rest()
    assert where(cluster) == ["m2"]


def test_one_that_stops_where_it_was_is_not_started_there() -> None:
    cluster = handing_over()
    cluster.write(STATES, ("m1", A), replace(cluster.snapshot.states[A]["m1"], active="failed"))
    cluster.run_leader()
    assert cluster.placement_states(A) == {"m1": "withdrawn", "m2": "assigned"}


@pytest.mark.parametrize("field", ["outdated", "orphan"])
def test_nothing_is_decided_by_a_report_that_does_not_count(field: str) -> None:
    cluster = handing_over()
    cluster.run_agents()
    cluster.write(STATES, ("m1", A), replace(cluster.snapshot.states[A]["m1"], **{field: True}))
    cluster.run_leader()
    assert cluster.placement_states(A) == {"m1": "superseded", "m2": "assigned"}


@pytest.mark.parametrize("target", [INACTIVE, LOADED, None])
def test_a_unit_that_is_not_to_run_any_more_stops(target: object) -> None:
    cluster = handing_over()
    if target is None:
        cluster.destroy(A)
    else:
        cluster.write(UNITS, (A,), replace(cluster.snapshot.units[A], target=target))
    cluster.run_leader()
    states = cluster.placement_states(A)
    assert states == {"m1": "withdrawn", "m2": "assigned" if target is LOADED else "withdrawn"}
    cluster.come_to_rest()
    assert where(cluster) == (["m2"] if target is LOADED else [])


def test_a_restart_in_the_middle_is_proven_before_the_old_one_goes() -> None:
    cluster = handing_over()
    unit = cluster.snapshot.units[A]
    cluster.write(UNITS, (A,), replace(unit, restart_of=unit.generation))
    cluster.run_leader()
    assert cluster.snapshot.placements[A]["m2"].restart_of == unit.generation
    assert cluster.snapshot.placements[A]["m2"].prove_after_s == 10.0
    cluster.run_agents()
    cluster.run_leader()
    assert cluster.placement_states(A) == {"m1": "superseded", "m2": "assigned"}
    cluster.come_to_rest()
    assert where(cluster) == ["m2"]


@pytest.mark.parametrize("broken", [False, True])
def test_a_rollout_waits_until_the_unit_has_moved(broken: bool) -> None:
    cluster = RollingCluster(2)
    cluster.request("old", A, fleet=START_FIRST)
    cluster.come_to_rest()
    cluster.broken = broken
    drain(cluster, "m1")
    step(cluster)
    cluster.request("new", A, fleet=START_FIRST)
    seen = {placement.content.text for placement in cluster.running.values()}
    while len(where(cluster)) > 1:
        step(cluster)
        seen |= {placement.content.text for placement in cluster.running.values()}
    assert len(seen) == 1
    cluster.broken = False
    cluster.come_to_rest()
    assert where(cluster) == ["m2"]
    assert cluster.contents() == {"a": "new"}
    assert cluster.rollout(A).phase is Phase.DONE


def test_a_unit_whose_rollout_failed_runs_on_with_the_content_that_it_had() -> None:
    cluster = RollingCluster(2)
    cluster.request("old", A, fleet=START_FIRST)
    cluster.come_to_rest()
    cluster.request(BAD, A, fleet=START_FIRST)
    cluster.run_leader()
    drain(cluster, "m1")
    cluster.come_to_rest()
    assert cluster.contents() == {"a": "old"}
    assert where(cluster) == ["m2"]


def test_a_unit_that_starts_elsewhere_is_not_moved_on() -> None:
    cluster = handing_over(machines=3)
    drain(cluster, "m2")
    move(cluster, "m3")
    step(cluster)
    assert where(cluster) == ["m1", "m2"]
    cluster.come_to_rest()
    assert where(cluster) == ["m3"]


def test_a_move_to_where_it_runs_takes_the_handover_back() -> None:
    cluster = cluster_with()
    move(cluster, "m2")
    step(cluster)
    move(cluster, "m1")
    cluster.run_leader()
    assert cluster.placement_states(A) == {"m1": "assigned", "m2": "withdrawn"}
    assert cluster.reason(A) == "stays where it was"
    cluster.come_to_rest()
    assert where(cluster) == ["m1"]
    assert cluster.started == [A, A]


def test_it_is_not_taken_back_to_where_it_does_not_fit_any_more() -> None:
    cluster = cluster_with("MachineMetadata=x=y")
    for machine in ("m1", "m2"):
        cluster.machine(machine, x="y")
    cluster.come_to_rest()
    move(cluster, "m2")
    step(cluster)
    cluster.machine("m1", x="z")
    move(cluster, "m1")
    cluster.come_to_rest()
    assert where(cluster) == ["m2"]
    assert cluster.snapshot.moves == {}


def test_it_is_taken_back_when_its_machine_is_lost_at_the_same_time() -> None:
    cluster = cluster_with()
    move(cluster, "m2")
    step(cluster)
    move(cluster, "m1")
    cluster.die("m2")
    cluster.running.pop(("m2", A))
    cluster.come_to_rest()
    assert where(cluster) == ["m1"]
    assert cluster.snapshot.moves == {}


@pytest.mark.parametrize("active", ["active", "failed"])
def test_a_machine_that_proves_nothing_any_more_is_judged_by_what_it_reports(active: str) -> None:
    cluster = handing_over()
    cluster.machine("m2", is_old=True)
    cluster.run_leader()
    assert cluster.snapshot.placements[A]["m2"].prove_after_s is None
    cluster.write(STATES, ("m2", A), replace(cluster.snapshot.states[A]["m2"], active=active))
    cluster.run_leader()
    kept, gone = ("m2", "m1") if active == "active" else ("m1", "m2")
    assert cluster.placement_states(A) == {kept: "assigned", gone: "withdrawn"}


def test_a_restored_store_goes_on_from_where_it_was() -> None:
    cluster = handing_over()
    records = dict(cluster.store)
    cluster.come_to_rest()
    assert where(cluster) == ["m2"]
    for (kind, names), record in records.items():
        if kind is PLACEMENTS:
            cluster.write(kind, names, record)
    cluster.elect()
    cluster.come_to_rest()
    assert where(cluster) == ["m2"]
    assert cluster.placement_states(A) == {"m2": "assigned"}


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
