"""Reports on drains: what becomes of each unit of a drained machine. Pure."""

from collections.abc import Mapping, Sequence

import msgspec

from fleetd.api import schema
from fleetd.api.v1.machines import describe_drain
from fleetd.api.v2.reports import describe_reason
from fleetd.model.machine import DrainRequest, Machine, MachineMode
from fleetd.model.placement import Decision, Placement
from fleetd.model.reason import (
    BudgetWait,
    Completed,
    DrainEnded,
    Infeasible,
    MayFinish,
    MissingSecrets,
    NoMachines,
    NotMoved,
    NowhereElse,
    Reason,
    Stopping,
    WaitingForDownload,
    WaitingForRemoval,
    WaitingForStop,
    render,
)
from fleetd.model.requirements import requirements_of
from fleetd.model.unit import TargetState, UnitState
from fleetd.scheduler.disruption import judge_member
from fleetd.scheduler.feasibility import is_on_many

HOLDS = {
    None: "the machine is absent: the drain goes on when it is back",
    MachineMode.LEAVING: "the machine is leaving, and its units move to other machines because of that",
    MachineMode.PARKED: "the machine is parked: the drain goes on when its fleetd is started again",
}


class DrainData(msgspec.Struct, frozen=True):
    """The records that a report is made of. `placements` and `states` are by machine and unit: those of the drained
    machine, and those of other units where their decisions say. `now` is a Unix time."""

    machine: str
    request: DrainRequest | None
    machines: Mapping[str, Machine]
    decisions: Mapping[str, Decision]
    placements: Mapping[tuple[str, str], Placement]
    states: Mapping[tuple[str, str], UnitState]
    now: float

    @property
    def is_over(self) -> bool:
        """True if the deadline has passed."""
        return self.request is not None and 0 < self.request.deadline <= self.now


def describe_progress(data: DrainData, asked: Sequence[str]) -> schema.DrainReport:
    """How far the drain has got. `asked` are units that may have left."""
    here = units_there(data.machine, data.placements, data.states)
    units = [_describe_present(data, name) for name in here]
    left = (_describe_left(data, name) for name in asked if name not in here)
    known = data.machines.get(data.machine)
    is_held = known is None or known.mode is not MachineMode.READY
    return schema.DrainReport(
        machine=data.machine,
        address=known.address if known else "",
        drain=describe_drain(data.request) if data.request else None,
        drained=data.request is not None and known is not None and all(unit.state == "global" for unit in units),
        hold=HOLDS[known.mode if known else None] if is_held else "",
        units=tuple(sorted([*units, *filter(None, left)], key=lambda unit: unit.unit)),
    )


def units_there(
    machine: str, placements: Mapping[tuple[str, str], Placement], states: Mapping[tuple[str, str], UnitState]
) -> list[str]:
    """The units that the machine has to run or to stop, or reports as running, in order."""
    placed = (name for (where, name), placement in placements.items() if where == machine and _is_there(placement))
    running = (name for (where, name), state in states.items() if where == machine and state.runs)
    return sorted({*placed, *running})


def _is_there(placement: Placement) -> bool:
    return not placement.declined and not placement.prepares


def _describe_present(data: DrainData, name: str) -> schema.DrainedUnit:
    """A unit that is on the machine."""
    placement, state = data.placements.get((data.machine, name)), data.states.get((data.machine, name))
    decision = data.decisions.get(name)
    reason = decision.reason if decision else None
    if placement is None or not placement.is_active:
        if state is not None and state.orphan:
            return _describe(data, name, "stays", reason=reason)
        if decision is not None and decision.target:
            return _describe(data, name, "moving", decision.target, reason)
        if placement is not None and placement.hands_over and decision is not None:
            return _describe(data, name, "starting-first", decision.machine, reason)
        return _describe(data, name, "stopping", reason=reason)
    if is_on_many(name, requirements_of(placement.content, name)):
        return _describe_on_many(data, name, reason)
    return _describe_remaining(data, name, reason)


def _describe_on_many(data: DrainData, name: str, reason: Reason | None) -> schema.DrainedUnit:
    """A global unit, or a template of sockets."""
    if data.request is None or not data.request.with_globals:
        return _describe(data, name, "global", reason=reason)
    if data.is_over:
        return _describe(data, name, "stays", reason=DrainEnded(data.request.deadline))
    return _describe(data, name, "waits", words="waits until enough of it is available on other machines")


def _describe_remaining(data: DrainData, name: str, reason: Reason | None) -> schema.DrainedUnit:
    """A unit that the machine is to have. A reason that the present request cannot have is of an earlier one."""
    request = data.request
    match reason:
        case BudgetWait() | WaitingForDownload() if request and not request.force:
            return _describe(data, name, "waits", reason=reason)
        case NowhereElse() if request and not request.force:
            return _describe(data, name, "stays", reason=reason)
        case MayFinish(until) if request and not request.force and until == request.deadline:
            return _describe(data, name, "finishing", reason=reason)
        case DrainEnded(deadline) if request and deadline == request.deadline:
            return _describe(data, name, "stays", reason=reason)
        case NotMoved(drained_at=at) if request and not request.force and at == request.at:
            return _describe(data, name, "stays", reason=reason)
        case WaitingForStop() | WaitingForRemoval() if request:
            return _describe(data, name, "waits", reason=reason)
    return _describe(data, name, "pending")


def _describe_left(data: DrainData, name: str) -> schema.DrainedUnit | None:
    """A unit that was on the machine; None if the cluster has it no longer, or it is on many machines."""
    decision = data.decisions.get(name)
    if decision is None or decision.machines:
        return None
    if decision.target:
        return _describe(data, name, "moving", decision.target, decision.reason)
    if not decision.machine:
        state = _UNASSIGNED.get(type(decision.reason), "moving")
        return _describe(data, name, state, reason=decision.reason)
    key = (decision.machine, name)
    return _describe_arrival(data, name, decision, data.placements.get(key), data.states.get(key))


_UNASSIGNED: dict[type, str] = {
    Completed: "moved",
    Infeasible: "unplaced",
    MissingSecrets: "unplaced",
    NoMachines: "unplaced",
    Stopping: "stopping",
}


def _describe_arrival(
    data: DrainData, name: str, decision: Decision, placement: Placement | None, state: UnitState | None
) -> schema.DrainedUnit:
    """A unit that is on another machine by now."""
    where, reason = decision.machine, decision.reason
    if placement is None or state is None:
        return _describe(data, name, "starting", where, reason)
    if placement.target is not TargetState.LAUNCHED:
        return _describe(data, name, "moved" if state.target is placement.target else "starting", where, reason)
    if judge_member(placement, state) is None:
        return _describe(data, name, "proven", where, reason)
    proof = state.proof
    has_answer = proof is not None and proof.generation == placement.generation and proof.failed
    if has_answer or (state.active == "failed" and state.generation >= placement.generation):
        why = proof.failed if proof is not None and has_answer else state.result or state.error or state.active
        return _describe(data, name, "failed", where, words=why)
    return _describe(data, name, "starting", where, reason)


def _describe(
    data: DrainData, name: str, state: str, machine: str = "", reason: Reason | None = None, words: str = ""
) -> schema.DrainedUnit:
    known = data.machines.get(machine)
    address = known.address if known else ""
    return schema.DrainedUnit(name, state, machine, address, words or render(reason), describe_reason(reason))
