"""Moves: one unit, with what MachineOf= joins to it, goes to the machine that an operator names."""

from collections.abc import Callable

import msgspec

from fleetd.api import schema
from fleetd.api.audit import Audit
from fleetd.api.capabilities import check_capability
from fleetd.api.http import ApiError, Request, Response, parse_json, render_json
from fleetd.api.unit_operations import NOT_FOUND
from fleetd.api.v2.cordons import refuse_unknown
from fleetd.model.event import ClusterEvent, EventKind
from fleetd.model.machine import Capability
from fleetd.model.move import Move
from fleetd.model.names import InvalidName, is_template, validate_name
from fleetd.model.permission import Permission
from fleetd.model.placement import Decision, Placement
from fleetd.model.reason import NotMoved, Placed, Rejection, RejectionKind, Rule, is_waiting, render
from fleetd.model.requirements import requirements_of
from fleetd.model.unit import TargetState, Unit, UnitState
from fleetd.registry.records import DECISIONS, MACHINES, MOVES, UNITS
from fleetd.registry.registry import Reader, Registry
from fleetd.registry.transactions import WriteSet
from fleetd.scheduler.controllers.move import moved_with
from fleetd.scheduler.disruption import judge_member
from fleetd.scheduler.proposal import Proposal
from fleetd.scheduler.relocation import why_not
from fleetd.scheduler.snapshot import Snapshot
from fleetd.store.protocol import Conflict, Delete, Operation, Unchanged

ATTEMPTS = 5  # while others write the same records


class Found(msgspec.Struct, frozen=True):
    """A unit, the decision about it, and its move, if one is pending."""

    unit: Unit
    decision: Decision
    move: Move | None


class Moves:
    """The resource. `unix_now` is the wall clock."""

    def __init__(self, registry: Registry, audit: Audit, unix_now: Callable[[], float]) -> None:
        self._registry = registry
        self._audit = audit
        self._unix_now = unix_now

    async def put(self, request: Request, name: str) -> Response:
        """Move a unit to a machine, with the units that MachineOf= joins to it, as the disruption budget allows. A move
        that is pending is replaced, and with the machine where the unit is, it is taken back."""
        request.check_permission(Permission.OPERATE, [name])
        asked = parse_json(request.body, schema.MoveRequest)
        await refuse_unknown(self._registry, asked.machine)
        await check_capability(self._registry, Capability.MOVES)
        for _ in range(ATTEMPTS):
            reader = self._registry.at_one_revision()
            found = await _read(reader, name)
            source = _refuse_unmovable(found)
            if source == asked.machine:
                operation: Operation = self._take_back(found)
            else:
                snapshot = await _read_machines(reader, found, source, asked.machine)
                _refuse_unfit(snapshot, found, source, asked)
                was_available = _is_available(snapshot, name, source)
                move = Move(asked.machine, request.user, self._unix_now(), asked.force, source, was_available)
                operation = self._registry.put(move, name)
            guards = (
                Unchanged(self._registry.key(UNITS, name), found.unit.generation),
                Unchanged(self._registry.key(DECISIONS, name), found.decision.revision),
                Unchanged(self._registry.key(MOVES, name), found.move.revision if found.move else 0),
            )
            try:
                event = ClusterEvent(EventKind.ASKED, name, asked.machine, source, request.user, "move")
                await self._registry.write(WriteSet(guards, (operation,), (event,)))
            except Conflict:
                continue
            self._audit.note_request(request)
            return Response(204)
        raise ApiError(409, "the unit is being changed by others at the same time: try again")

    async def get(self, _: Request, name: str) -> Response:
        """Report where the move of a unit stands."""
        reader = self._registry.at_one_revision()
        found = await _read(reader, name)
        state, machine = _describe_state(found)
        known = (await reader.get_many(MACHINES, [(machine,)])).get((machine,)) if machine else None
        return render_json(
            schema.MoveReport(
                name,
                state,
                found.move.machine if found.move else "",
                machine,
                known.address if known else "",
                found.move.by if found.move else "",
                found.move.at if found.move else 0.0,
                render(found.decision.reason),
            )
        )

    def _take_back(self, found: Found) -> Delete:
        """Delete the move. Raises ApiError if none is pending."""
        if found.move is None:
            raise ApiError(409, "the unit is on this machine already")
        return Delete(self._registry.key(MOVES, found.unit.name))


def _describe_state(found: Found) -> tuple[str, str]:
    """Where the move stands, and the machine that this is about."""
    decision, move = found.decision, found.move
    if not decision.machine:
        goal = decision.target or (move.machine if move else "")
        return ("moving", goal) if goal else ("unplaced", "")
    if move is None:
        return "placed", decision.machine
    if decision.machine == move.machine:
        return ("starting-first" if runs_on(decision) else "starting"), decision.machine
    return ("waits" if is_waiting(decision.reason) else "pending"), decision.machine


def runs_on(decision: Decision) -> str:
    """The machine where a unit runs on until it is proven on the one that it moves to (Handover=start-first), or ''."""
    reason = decision.reason
    return reason.machine if isinstance(reason, Placed) and reason.rule is Rule.MOVED else ""


def _refuse_unmovable(found: Found) -> str:
    """The machine where the unit is. Raises ApiError if it is not to be on one machine."""
    unit, decision = found.unit, found.decision
    if is_template(unit.name):
        raise ApiError(409, "a template is on no machine by itself: name one of its instances")
    if requirements_of(unit.content, unit.name).is_global:
        raise ApiError(409, "a global unit is on every machine that it fits on, and cannot be moved")
    if unit.target is TargetState.INACTIVE:
        raise ApiError(409, "the unit is inactive, and so is on no machine: start or load it")
    if decision.completed == unit.generation:
        raise ApiError(409, "the unit is a oneshot that has completed, and is not run again: start it")
    if not decision.machine:
        why = render(decision.reason) or "waits for the leader to place it"
        raise ApiError(409, f"the unit is on no machine that it could be moved from: it {why}")
    return decision.machine


def _refuse_unfit(snapshot: Snapshot, found: Found, source: str, asked: schema.MoveRequest) -> None:
    """Raises ApiError if the unit cannot leave its machine, or does not fit on the other one."""
    name, effective = found.unit.name, snapshot.effective.get(source)
    if effective is None:
        raise ApiError(409, f"machine {source[:8]}, where the unit is, is absent: it moves when that is given up")
    if effective.hold is not None:
        raise ApiError(409, f"machine {source[:8]}, where the unit is, is parked: its fleetd has to stop it there")
    state = snapshot.states.get(name, {}).get(source)
    if state is not None and state.completed:
        raise ApiError(409, "the unit is a oneshot that has completed, and is not run again: start it")
    unfit = why_not(Proposal(snapshot, {}), moved_with(snapshot, name, source), asked.machine)
    at_work = state is not None and state.active == "activating" and snapshot.requirements(name).is_oneshot
    if unfit is None and at_work and not asked.force:
        unfit = name, Rejection(RejectionKind.AT_WORK)
    if unfit is not None:
        other, why = unfit
        reason = NotMoved(asked.machine, why, other if other != name else "")
        raise ApiError(409, f"the unit {render(reason)}")


def _is_available(snapshot: Snapshot, name: str, machine: str) -> bool:
    placement = snapshot.placements.get(name, {}).get(machine)
    return placement is not None and judge_member(placement, snapshot.states.get(name, {}).get(machine)) is None


async def _read(reader: Reader, name: str) -> Found:
    """What is known of a unit. Raises ApiError if it does not exist."""
    try:
        validate_name(name)
    except InvalidName as error:
        raise ApiError(404, NOT_FOUND) from error
    unit, decision = await reader.unit_and_decision(name)
    if unit is None:
        raise ApiError(404, NOT_FOUND)
    move = (await reader.get_many(MOVES, [(name,)])).get((name,))
    return Found(unit, decision or Decision(name, generation=0), move)


async def _read_machines(reader: Reader, found: Found, *machines: str) -> Snapshot:
    """These machines with what is on them."""
    snapshot = Snapshot()
    placements: dict[tuple[str, str], Placement] = {}
    states: dict[tuple[str, str], UnitState] = {}
    for machine in machines:
        placements |= await reader.placements(machine)
        states |= await reader.states(machine)
    names = sorted({found.unit.name, *(name for _, name in placements)})
    for unit in (await reader.get_many(UNITS, [(name,) for name in names])).values():
        snapshot.set_unit(unit.name, unit)
    for (machine, name), placement in placements.items():
        snapshot.set_placement(machine, name, placement)
    for (machine, name), state in states.items():
        snapshot.set_state(machine, name, state)
    for machine, record in (await reader.machines()).items():
        snapshot.set_machine(machine, record)
    for machine, settings in (await reader.settings()).items():
        snapshot.set_settings(machine, settings)
    return snapshot
