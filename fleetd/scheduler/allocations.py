"""Review the allocations of one unit: which stay, which go, which are superseded, and whether it needs a machine.

A placement ends in two steps: it is withdrawn, and deleted once the machine reports the unit gone. Until then the unit
is placed nowhere else, so that it runs once. Only a dead machine is not waited for; what it ran is superseded when it
returns, beside the replacement.
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
    """Delete placements that are carried out, and those on dead machines that are not waited for. The others get the
    unit's present requirements in the proposal, so that other units are placed by them."""
    for machine, placement in builder.scoped_placements():
        state = builder.states.get(machine)
        if placement.declined:
            is_accepted = state is not None and not builder.snapshot.refusal(builder.name, machine)
            if is_accepted or not builder.is_wanted or builder.snapshot.is_dead(machine):
                builder.delete(machine)
        elif placement.is_withdrawn and _is_gone(placement, state):
            _finish_withdrawal(builder, machine)
        elif builder.snapshot.is_dead(machine):
            builder.lose_machine(machine, waits)
        elif placement.is_active and builder.unit and placement.text != builder.unit.text:
            builder.proposal.renew(builder.name, machine, builder.requirements)


def review_allocations(builder: UnitPlanBuilder, waits: FailoverDelays) -> None:
    """Decide which allocations stay, with the unit's present text and target, and which are withdrawn."""
    if not builder.is_wanted:
        for machine, placement in builder.scoped_placements():
            if not placement.is_withdrawn:
                builder.withdraw(machine)
    elif builder.is_global:
        _review_global(builder, waits)
    else:
        _review_assigned(builder, waits)


def find_machines(builder: UnitPlanBuilder, overdue: frozenset[tuple[str, str]]) -> None:
    """Place the unit (again) where its machine is known, or mark it `unplaced`. To be called after every affected unit
    has been reviewed. `overdue` are the (machine, unit) of superseded allocations whose handover time is up."""
    if not builder.is_wanted:
        return
    if builder.is_global:
        _place_global(builder)
    else:
        if builder.placements or builder.states:
            _supersede_strays(builder)
            _review_superseded(builder, overdue)
        if not builder.assigned_machine:
            _find_machine(builder)


def _finish_withdrawal(builder: UnitPlanBuilder, machine: str) -> None:
    """The machine has carried out a withdrawal. If it refuses the unit, it keeps reporting that until it does not."""
    if builder.is_wanted and builder.snapshot.refusal(builder.name, machine):
        builder.decline(machine)
    else:
        builder.delete(machine)


def _is_gone(placement: Placement, state: UnitState | None) -> bool:
    """True once the machine has reported that it carried out this withdrawal."""
    return state is not None and _has_removed(state) and state.generation >= placement.generation


def _has_removed(state: UnitState) -> bool:
    """True once the agent has reported the unit stopped and its file removed."""
    return state.target is TargetState.INACTIVE and not state.runs


def _review_assigned(builder: UnitPlanBuilder, waits: FailoverDelays) -> None:
    """Keep the unit on its machine, with its present text and target, unless it may not stay there."""
    if not builder.placements:
        return
    assigned = builder.assigned_machine
    for machine, placement in list(builder.placements.items()):
        if placement.is_active and machine != assigned:  # it was global before
            builder.supersede(machine)
    if not assigned:
        return
    state = builder.states.get(assigned)
    if state is not None and state.completed and state.generation >= builder.generation:
        builder.completed = builder.generation
    if _leaves_without(builder, assigned, waits) and waits.runs_again(builder.name):
        builder.completed = 0
    found = _why_unfit(builder, assigned, waits) or _why_replaced(builder, assigned)
    if found:
        builder.evict(Eviction(assigned, found))
    else:
        is_back = assigned in builder.snapshot.machines and builder.before is not None and builder.before.lost > 0
        builder.place(assigned, Placed(Rule.RETURNED, machine=assigned) if is_back else None)
        if builder.is_parked(assigned) and (state is None or state.generation < builder.generation):
            builder.wait_for_parked(assigned)


def _leaves_without(builder: UnitPlanBuilder, machine: str, waits: FailoverDelays) -> bool:
    """True if the machine leaves and the unit does not wait for it. A unit with a failover delay waits for a machine
    that only shuts down."""
    record = builder.snapshot.machines.get(machine)
    if record is None or record.mode is not MachineMode.LEAVING:
        return False
    return not (record.shuts_down and waits.delay_s(builder.name, machine) > 0)


def _why_unfit(builder: UnitPlanBuilder, machine: str, waits: FailoverDelays) -> Rejection | None:
    """Why the unit may not stay on the machine, or None. A machine that is parked, away or waited for keeps its
    units."""
    record = builder.snapshot.machines.get(machine)
    if record is None or record.mode is MachineMode.PARKED:
        return None
    if record.mode is MachineMode.LEAVING:
        return LEAVING if _leaves_without(builder, machine, waits) else None
    candidate = builder.candidate(machine)
    return accepts(candidate) or eviction_reason(candidate)


def _why_replaced(builder: UnitPlanBuilder, machine: str) -> Rejection | None:
    """The rejection if another unit replaces this one here and it fits on a machine where none does, or None."""
    replacer = _replacer(builder, machine)
    if not replacer or not builder.snapshot.accepts_work(machine):
        return None
    others = (builder.candidate(other) for other in builder.snapshot.machines if other != machine)
    free = any(not rejection(candidate) and not _replacer(builder, candidate.machine) for candidate in others)
    return Rejection(RejectionKind.REPLACED, replacer) if free else None


def _replacer(builder: UnitPlanBuilder, machine: str) -> str:
    """The unit on this machine that replaces this one, or ''."""
    occupancy = builder.proposal.occupancy(machine)
    return min(occupancy.replacing(builder.name, builder.requirements), default="") if occupancy.replaces else ""


def _supersede_strays(builder: UnitPlanBuilder) -> None:
    """Supersede allocations that run without a placement: their machine was taken for dead. A unit that an agent keeps
    running since the store was restored and that is not to run is left to the operator."""
    for machine, state in builder.states.items():
        is_left = state.orphan and not _is_to_run(builder)
        if state.runs and not is_left and machine in builder.snapshot.machines and machine not in builder.placements:
            builder.supersede(machine)


def _review_superseded(builder: UnitPlanBuilder, overdue: frozenset[tuple[str, str]]) -> None:
    """Decide on superseded allocations, and on those that agents keep running since the store was restored.

    One is withdrawn once its replacement runs. If the replacement failed, or did not start within the handover time,
    the unit is assigned here again, or runs on if it does not fit here. An agent that keeps an orphan running ignores a
    withdrawal: its allocation is superseded first, after which the agent treats it like any other.
    """
    superseded = [machine for machine, placement in builder.placements.items() if placement.superseded]
    kept = [machine for machine in builder.placements if _is_kept_running(builder, machine)]
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
            continue  # it may run no more, or be the only one that runs
        elif is_needed and not rejection(builder.candidate(machine)):
            builder.place(machine, ADOPTED)
            if assigned:
                builder.withdraw(assigned)
        elif machine in kept and _is_replaced(builder):
            builder.supersede(machine)
        elif machine in superseded and not state.orphan and _is_dispensable(builder, machine, is_overdue):
            builder.withdraw(machine)


def _is_dispensable(builder: UnitPlanBuilder, machine: str, is_overdue: bool) -> bool:
    """True if a superseded allocation can be stopped: its replacement runs, or it conflicts with another unit here.
    After the handover time also if the replacement is starting, the machine leaves, or the oneshot has completed."""
    if _is_replaced(builder) or conflict(builder.candidate(machine)):
        return True
    state = builder.states.get(builder.assigned_machine)
    begins = state is not None and state.runs and state.active != "deactivating" and not state.outdated
    is_left = builder.snapshot.machines[machine].mode is MachineMode.LEAVING
    return is_overdue and (begins or is_left or builder.completed == builder.generation)


def _is_replaced(builder: UnitPlanBuilder) -> bool:
    """True if the unit is in its target state on its assigned machine."""
    if not builder.assigned_machine:
        return False
    state = builder.states.get(builder.assigned_machine)
    is_active = state is not None and not state.outdated and (state.active == "active" or state.completed)
    return is_active or builder.snapshot.units[builder.name].target is not TargetState.LAUNCHED


def _has_failed(state: UnitState | None) -> bool:
    return state is not None and (state.active == "failed" or (bool(state.error) and not state.runs))


def _find_machine(builder: UnitPlanBuilder) -> None:
    """Place the unit where it is still being stopped, or wait, or mark it `unplaced`; unless it has completed."""
    leaving = [machine for machine, placement in builder.placements.items() if placement.is_leaving]
    reporting = [machine for machine in builder.states if _has_stale_report(builder, machine)]
    returning = [machine for machine in builder.states if _is_returning(builder, machine)]
    if builder.completed == builder.generation:
        builder.conclude(COMPLETED)
    elif len(leaving) == 1 and _may_return(builder, leaving[0]):
        builder.place(leaving[0], RESUMED)
    elif leaving:
        builder.wait_for_stop(leaving[0])
    elif reporting:
        builder.wait(WaitingForRemoval(reporting[0]))
    elif returning:
        builder.wait(WaitingForMachine(returning[0], Absence.RETURNING))
    else:
        builder.unplaced = True


def _may_return(builder: UnitPlanBuilder, machine: str) -> bool:
    """True if a withdrawn unit may stay on the machine after all: it was started again since, or the agent keeps it
    running."""
    is_active = builder.placements[machine].generation < builder.generation or _is_kept_running(builder, machine)
    return is_active and machine in builder.snapshot.machines and not rejection(builder.candidate(machine))


def _is_kept_running(builder: UnitPlanBuilder, machine: str) -> bool:
    """True if the placement is withdrawn, but the unit is to run and the agent keeps it running since the store was
    restored."""
    return _is_to_run(builder) and builder.placements[machine].is_withdrawn and builder.is_orphan(machine)


def _is_to_run(builder: UnitPlanBuilder) -> bool:
    """True if the unit is to run and has not completed."""
    return (
        builder.snapshot.units[builder.name].target is TargetState.LAUNCHED and builder.completed != builder.generation
    )


def _has_stale_report(builder: UnitPlanBuilder, machine: str) -> bool:
    """True if the machine has still to delete its last report of the unit: a new placement could be taken for carried
    out."""
    if machine not in builder.snapshot.machines or machine in builder.placements:
        return False
    state = builder.states.get(machine)
    return state is not None and _has_removed(state)


def _is_returning(builder: UnitPlanBuilder, machine: str) -> bool:
    """True if the unit runs on a machine that was taken for dead and is not registered yet: agents publish states
    before they register."""
    lost = machine not in builder.snapshot.machines and machine not in builder.placements
    return lost and builder.snapshot.is_running_on(builder.name, machine)


def _review_global(builder: UnitPlanBuilder, waits: FailoverDelays) -> None:
    """Keep a global unit wherever it fits. What was superseded before it became global is withdrawn."""
    for machine, placement in builder.scoped_placements():
        found = _why_unfit(builder, machine, waits) if placement.is_active else None
        if found or placement.superseded:
            builder.withdraw(machine)
        elif placement.is_active:
            builder.place(machine)


def _place_global(builder: UnitPlanBuilder) -> None:
    """Place a global unit on every machine that it fits on."""
    machine_index = builder.snapshot.machine_index
    matching = machine_index.matching_ready(builder.requirements)
    for machine in builder.machines():
        if machine in builder.placements:
            comes = builder.placements[machine].is_withdrawn and _may_return(builder, machine)
        else:
            fits = bool(matching & machine_index.bits[machine]) and not rejection_by_occupants(
                builder.candidate(machine)
            )
            comes = fits and not _has_stale_report(builder, machine)
        if comes:
            builder.place(machine)
