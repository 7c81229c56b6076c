"""What becomes of the copies of one unit: which stay, which go, which only retire, and whether it needs a home.

An order leaves in two steps: it is withdrawn, and deleted once the machine reports the unit gone. Until then the unit
is placed nowhere else, so that one copy runs. Only a machine that is dead is not waited for; a copy that outlived a
cut retires beside its replacement. Where a unit without a home goes is planner.py's matter.
"""

from fleetd.model.machine import MachineMode
from fleetd.model.placement import Placement
from fleetd.model.reason import (
    ADOPTED,
    COMPLETED,
    RESUMED,
    Absence,
    Eviction,
    Placed,
    Rejection,
    RejectionKind,
    Rule,
    WaitingForMachine,
    WaitingForRemoval,
)
from fleetd.model.unit import TargetState, UnitState
from fleetd.scheduler.failover import FailoverDelays
from fleetd.scheduler.feasibility import LEAVING, accepts, conflict, eviction_reason, rejection, rejection_by_occupants
from fleetd.scheduler.unit_plan import UnitPlanBuilder


def release_allocations(builder: UnitPlanBuilder, waits: FailoverDelays) -> None:
    """Orders to the dead, if they are not waited for, and orders that are carried out are deleted. What is left has the
    requirements that a person now wants it to have, so that the others reckon with them."""
    for machine, order in builder.orders():
        state = builder.states.get(machine)
        if order.declined:
            accepts = state is not None and not builder.snapshot.refusal(builder.name, machine)
            if accepts or not builder.is_wanted or builder.snapshot.is_dead(machine):
                builder.cancel(machine)
        elif order.is_withdrawn and _is_gone(order, state):
            _let_go(builder, machine)
        elif builder.snapshot.is_dead(machine):
            builder.lose(machine, waits)
        elif order.is_active and builder.unit and order.text != builder.unit.text:
            builder.proposal.renew(builder.name, machine, builder.requirements)


def review_allocations(builder: UnitPlanBuilder, waits: FailoverDelays) -> None:
    """Which copies stay, with what a person now wants of them, and which go."""
    if not builder.is_wanted:
        for machine, order in builder.orders():
            if not order.is_withdrawn:
                builder.withdraw(machine)
    elif builder.is_global:
        _tend_global(builder, waits)
    else:
        _tend_home(builder, waits)


def find_machines(builder: UnitPlanBuilder, overdue: frozenset[tuple[str, str]]) -> None:
    """Which machines get the unit (back): to be asked when it is settled of every unit where it stays. `homeless` says
    that a machine must be found for it. `overdue` are the (machine, unit) of retiring copies whose time is up."""
    if not builder.is_wanted:
        return
    if builder.is_global:
        _spread_global(builder)
    else:
        if builder.placements or builder.states:
            _tend_strays(builder)
            _review_superseded(builder, overdue)
        if not builder.assigned_machine:
            _seek_home(builder)


def _let_go(builder: UnitPlanBuilder, machine: str) -> None:
    """The machine has carried out that the unit goes. If it refuses it, it is to say when it no longer does."""
    if builder.is_wanted and builder.snapshot.refusal(builder.name, machine):
        builder.decline(machine)
    else:
        builder.cancel(machine)


def _is_gone(placement: Placement, state: UnitState | None) -> bool:
    """Whether the machine has reported that it carried out this withdrawal."""
    return state is not None and _has_let_go(state) and state.generation >= placement.generation


def _has_let_go(state: UnitState) -> bool:
    """Whether this is the last report of a copy: stopped, its file removed. The machine takes it back next."""
    return state.target is TargetState.INACTIVE and not state.runs


def _tend_home(builder: UnitPlanBuilder, waits: FailoverDelays) -> None:
    """The unit stays where it is, with what a person now wants of it, unless it may not."""
    if not builder.placements:
        return
    assigned = builder.assigned_machine
    for machine, order in list(builder.placements.items()):
        if order.is_active and machine != assigned:  # it was global before
            builder.supersede(machine)
    if not assigned:
        return
    state = builder.states.get(assigned)
    if state is not None and state.completed and state.generation >= builder.generation:
        builder.completed = builder.generation
    if _is_left(builder, assigned, waits) and waits.runs_again(builder.name):
        builder.completed = 0
    found = _why_unfit(builder, assigned, waits) or _why_make_way(builder, assigned)
    if found:
        builder.evict(Eviction(assigned, found))
    else:
        is_back = assigned in builder.snapshot.machines and builder.before is not None and builder.before.lost > 0
        builder.place(assigned, Placed(Rule.RETURNED, machine=assigned) if is_back else None)
        if builder.is_parked(assigned) and (state is None or state.generation < builder.generation):
            builder.wait_for_parked(assigned)


def _is_left(builder: UnitPlanBuilder, machine: str, waits: FailoverDelays) -> bool:
    """Whether the machine leaves without this unit; for one that only shuts down, a unit with a delay waits."""
    record = builder.snapshot.machines.get(machine)
    if record is None or record.mode is not MachineMode.LEAVING:
        return False
    return not (record.shuts_down and waits.delay_s(builder.name, machine) > 0)


def _why_unfit(builder: UnitPlanBuilder, machine: str, waits: FailoverDelays) -> Rejection | None:
    """Why a unit may not stay on a machine, or None. A machine that is parked, away or waited for keeps its units."""
    record = builder.snapshot.machines.get(machine)
    if record is None or record.mode is MachineMode.PARKED:
        return None
    if record.mode is MachineMode.LEAVING:
        return LEAVING if _is_left(builder, machine, waits) else None
    candidate = builder.candidate(machine)
    return accepts(candidate) or eviction_reason(candidate)


def _why_make_way(builder: UnitPlanBuilder, machine: str) -> Rejection | None:
    """Why a unit goes although it may stay, or None: another replaces it here, and it fits where none does."""
    pusher = _pushed_by(builder, machine)
    if not pusher or not builder.snapshot.accepts_work(machine):
        return None
    others = (builder.candidate(other) for other in builder.snapshot.machines if other != machine)
    free = any(not rejection(candidate) and not _pushed_by(builder, candidate.machine) for candidate in others)
    return Rejection(RejectionKind.REPLACED, pusher) if free else None


def _pushed_by(builder: UnitPlanBuilder, machine: str) -> str:
    """The unit on this machine that replaces this one, or ''."""
    occupancy = builder.proposal.occupancy(machine)
    return min(occupancy.replacing(builder.name, builder.requirements), default="") if occupancy.replaces else ""


def _tend_strays(builder: UnitPlanBuilder) -> None:
    """A copy that runs without an order outlived a cut. One that is kept running since the store was restored, although
    nobody wants the unit to run, is left to a person."""
    for machine, state in builder.states.items():
        is_left = state.orphan and not _is_to_run(builder)
        if state.runs and not is_left and machine in builder.snapshot.machines and machine not in builder.placements:
            builder.supersede(machine)


def _review_superseded(builder: UnitPlanBuilder, overdue: frozenset[tuple[str, str]]) -> None:
    """A copy that outlived a cut goes when its replacement runs; where that has failed, or does not even begin to run
    in time, it is the unit again, or runs on where it may not be that. So is one that is kept running since the store
    was restored, which obeys no order to go: where its replacement runs it is told first that it retires. Then it says
    that it is a copy like any other, and goes."""
    superseded = [machine for machine, order in builder.placements.items() if order.superseded]
    kept = [machine for machine in builder.placements if _is_kept(builder, machine)]  # last: it may have been long ago
    for machine in (*superseded, *kept):
        if machine not in builder.snapshot.machines:
            continue
        state = builder.states.get(machine)
        assigned = builder.assigned_machine
        is_overdue = (machine, builder.name) in overdue
        is_late = (
            is_overdue and not _is_replaced(builder) and not builder.snapshot.is_running_on(builder.name, assigned)
        )
        is_needed = not assigned or is_late or _has_failed(builder.states.get(assigned))
        if state is None or not state.runs:
            builder.withdraw(machine)
        elif is_needed and state.outdated:
            continue  # it may run no more, or be the only one
        elif is_needed and not rejection(builder.candidate(machine)):
            builder.place(machine, ADOPTED)
            if assigned:
                builder.withdraw(assigned)
        elif machine in kept and _is_replaced(builder):
            builder.supersede(machine)
        elif machine in superseded and not state.orphan and _is_dispensable(builder, machine, is_overdue):
            builder.withdraw(machine)


def _is_dispensable(builder: UnitPlanBuilder, machine: str, is_overdue: bool) -> bool:
    """Whether a retiring copy is not missed, or hinders another unit. In time, one is not that is still beginning to be
    replaced, whose machine leaves, or whose work has been done."""
    if _is_replaced(builder) or conflict(builder.candidate(machine)):
        return True
    state = builder.states.get(builder.assigned_machine)
    begins = state is not None and state.runs and state.active != "deactivating" and not state.outdated
    is_left = builder.snapshot.machines[machine].mode is MachineMode.LEAVING
    return is_overdue and (begins or is_left or builder.completed == builder.generation)


def _is_replaced(builder: UnitPlanBuilder) -> bool:
    """Whether the unit does at home what it should, so that no other copy is needed."""
    if not builder.assigned_machine:
        return False
    state = builder.states.get(builder.assigned_machine)
    is_active = state is not None and not state.outdated and (state.active == "active" or state.completed)
    return is_active or builder.snapshot.units[builder.name].target is not TargetState.LAUNCHED


def _has_failed(state: UnitState | None) -> bool:
    return state is not None and (state.active == "failed" or (bool(state.error) and not state.runs))


def _seek_home(builder: UnitPlanBuilder) -> None:
    """The unit needs a machine, unless it has done its work, or there is a copy of it still, or again."""
    leaving = [machine for machine, order in builder.placements.items() if order.is_leaving]
    forgetting = [machine for machine in builder.states if _has_to_forget(builder, machine)]
    returning = [machine for machine in builder.states if _is_returning(builder, machine)]
    if builder.completed == builder.generation:
        builder.conclude(COMPLETED)
    elif len(leaving) == 1 and _may_return(builder, leaving[0]):
        builder.place(leaving[0], RESUMED)
    elif leaving:
        builder.wait_for_stop(leaving[0])
    elif forgetting:
        builder.wait(WaitingForRemoval(forgetting[0]))
    elif returning:
        builder.wait(WaitingForMachine(returning[0], Absence.RETURNING))
    else:
        builder.unplaced = True


def _may_return(builder: UnitPlanBuilder, machine: str) -> bool:
    """Whether a unit on its way out of a machine may stay after all: a person has asked for it anew, or the machine
    keeps it running."""
    is_active = builder.placements[machine].generation < builder.generation or _is_kept(builder, machine)
    return is_active and machine in builder.snapshot.machines and not rejection(builder.candidate(machine))


def _is_kept(builder: UnitPlanBuilder, machine: str) -> bool:
    """Whether a machine only keeps the unit running, since the store was restored, that a person wants to run."""
    return _is_to_run(builder) and builder.placements[machine].is_withdrawn and builder.is_orphan(machine)


def _is_to_run(builder: UnitPlanBuilder) -> bool:
    """Whether a person wants the unit to run, and it has not done its work."""
    return (
        builder.snapshot.units[builder.name].target is TargetState.LAUNCHED and builder.completed != builder.generation
    )


def _has_to_forget(builder: UnitPlanBuilder, machine: str) -> bool:
    """Whether the machine still shows its last report of a copy, which it takes back next: until it has, a new order
    could be taken for carried out."""
    if machine not in builder.snapshot.machines or machine in builder.placements:
        return False
    state = builder.states.get(machine)
    return state is not None and _has_let_go(state)


def _is_returning(builder: UnitPlanBuilder, machine: str) -> bool:
    """Whether the unit runs on a machine that was taken for dead: what runs there is published before its own key."""
    lost = machine not in builder.snapshot.machines and machine not in builder.placements
    return lost and builder.snapshot.is_running_on(builder.name, machine)


def _tend_global(builder: UnitPlanBuilder, waits: FailoverDelays) -> None:
    """A global unit stays wherever it fits; which copies retired before it became global does not matter any more."""
    for machine, order in builder.orders():
        found = _why_unfit(builder, machine, waits) if order.is_active else None
        if found or order.superseded:
            builder.withdraw(machine)
        elif order.is_active:
            builder.place(machine)


def _spread_global(builder: UnitPlanBuilder) -> None:
    """A global unit comes to every machine that it fits on."""
    machine_index = builder.snapshot.machine_index
    matching = machine_index.matching_ready(builder.requirements)
    for machine in builder.machines():
        if machine in builder.placements:
            comes = builder.placements[machine].is_withdrawn and _may_return(builder, machine)
        else:
            fits = bool(matching & machine_index.bits[machine]) and not rejection_by_occupants(
                builder.candidate(machine)
            )
            comes = fits and not _has_to_forget(builder, machine)
        if comes:
            builder.place(machine)
