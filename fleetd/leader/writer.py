"""Writes plans to the store: as write sets, each guarded by the term and by the decision that it was planned from."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence

from fleetd.leader.slices import in_slices
from fleetd.model.event import ClusterEvent
from fleetd.model.quota import Usage
from fleetd.model.reason import render, render_rejection
from fleetd.registry.events import EventLog
from fleetd.registry.records import (
    DECISIONS,
    MACHINES,
    MOVES,
    PLACEMENTS,
    REBOOT_REQUESTS,
    REBOOTS,
    ROLLOUTS,
    SERVICES,
    SYNCED,
    KeySpace,
    MalformedRecord,
    NewerRecord,
    Synced,
)
from fleetd.registry.registry import Registry
from fleetd.registry.transactions import WriteSet, cut_into_transactions
from fleetd.scheduler.cluster_events import EventsOfPlan
from fleetd.scheduler.planner import Plan
from fleetd.scheduler.proposal import RebootPlan, RolloutPlan, SessionPlan
from fleetd.scheduler.snapshot import Snapshot
from fleetd.scheduler.unit_plan import UnitPlan
from fleetd.store.protocol import MAX_OPERATIONS, Comparison, Conflict, Delete, KeyValue, Operation, Put, Unchanged

Events = tuple[ClusterEvent, ...]

log = logging.getLogger(__name__)

WRITE_SET_OPERATIONS = 100  # of one unit in one write set
WRITE_SET_BYTES = 600_000


class PlanWriter:
    """Writes the plans of one term. `guards` are the comparisons that hold while it lasts; `observe` is called with the
    store's revision after each transaction, `events` makes the records of what the plans mean."""

    def __init__(
        self, registry: Registry, guards: Sequence[Comparison], observe: Callable[[int], object], events: EventLog
    ) -> None:
        self.revision = 0  # of the last transaction; 0: there was none
        self._registry = registry
        self._guards = guards
        self._observe = observe
        self._events = events

    async def write(self, plan: Plan, snapshot: Snapshot) -> None:
        """Write the plan that was made from this snapshot, in its order, in as few transactions as possible, each with
        the events that it means. Raises what the store raises, and Conflict if a machine whose session is to be deleted
        is back."""
        dead = [write.machine for write in plan.writes if isinstance(write, SessionPlan) and write.session is None]
        write_sets = write_sets_of(self._registry, plan, await self._confirm_dead(dead), snapshot)
        for transaction in cut_into_transactions(write_sets, self._guards, self._events.write_set):
            self.revision = await self._registry.store.transact(transaction.comparisons, transaction.operations)
            self._observe(self.revision)
        for write in plan.writes:
            if isinstance(write, RebootPlan):
                _log_reboot(write)
        async for unit in in_slices(plan.units):
            _log_decision(unit)

    async def _confirm_dead(self, machines: Sequence[str]) -> dict[str, Comparison]:
        """Look in the store whether one of these machines is back, of which the snapshot may not know yet. Returns, by
        machine, the comparison that it is still not back when the plan is written. Raises Conflict if one is."""
        still_dead: dict[str, Comparison] = {}
        for first in range(0, len(machines), MAX_OPERATIONS):
            some = machines[first : first + MAX_OPERATIONS]
            keys = {self._registry.key(MACHINES, machine): machine for machine in some}
            still_dead |= {machine: Unchanged(key, 0) for key, machine in keys.items()}
            for item in (await self._registry.store.get_many(list(keys))).items:
                if _is_machine(item):
                    raise Conflict(f"machine {keys[item.key]} was judged dead, and is back")
                still_dead[keys[item.key]] = Unchanged(item.key, item.mod_revision)
        return still_dead


def _is_machine(item: KeyValue) -> bool:
    """True for the record of a machine, even one that only a later fleetd can read."""
    try:
        MACHINES.decode(item)
    except NewerRecord:
        return True
    except MalformedRecord:
        return False
    return True


def write_sets_of(
    keys: KeySpace, plan: Plan, still_dead: Mapping[str, Comparison], snapshot: Snapshot
) -> Iterator[WriteSet]:
    """The write sets of a plan that was made from this snapshot, in its order. `still_dead` holds, by machine, the
    comparison that it is not back."""
    events_of_plan = EventsOfPlan(snapshot)
    for write in plan.writes:
        events = events_of_plan.find(write)
        match write:
            case UnitPlan():
                yield from _unit_write_sets(keys, write, events)
            case SessionPlan(machine, None):
                yield from _death_write_sets(keys, machine, still_dead[machine], snapshot, events)
            case SessionPlan(machine, str(session)):
                yield WriteSet((), (keys.put(Synced(session), machine),), events)
            case RolloutPlan(group, rollout):
                key = keys.key(ROLLOUTS, group)
                yield WriteSet((Unchanged(key, rollout.revision),), (keys.put(rollout, group),), events)
            case RebootPlan():
                yield _reboot_write_set(keys, write, events)
            case Usage():
                yield WriteSet((), (keys.put(write),))


def _reboot_write_set(keys: KeySpace, plan: RebootPlan, events: Events) -> WriteSet:
    machine = plan.machine
    key, request_key = keys.key(REBOOTS, machine), keys.key(REBOOT_REQUESTS, machine)
    operations: list[Operation] = [keys.put(plan.reboot, machine) if plan.reboot else Delete(key)]
    if plan.request is not None:
        operations.append(keys.put(plan.request, machine))
    elif plan.ends_request:
        operations.append(Delete(request_key))
    if plan.session:
        operations.append(keys.put(Synced(plan.session), machine))
    guards = (Unchanged(key, plan.revision), Unchanged(request_key, plan.request_revision))
    return WriteSet(guards, tuple(operations), events)


def _death_write_sets(
    keys: KeySpace, machine: str, still_dead: Comparison, snapshot: Snapshot, events: Events
) -> Iterator[WriteSet]:
    """Usually one write set. The session goes first: without it the machine announces nothing anew."""
    announced = [keys.key(SERVICES, service, machine, unit) for service, unit in snapshot.announced.get(machine, ())]
    deletes = [Delete(key) for key in (keys.key(SYNCED, machine), *announced)]
    for first in range(0, len(deletes), WRITE_SET_OPERATIONS):
        yield WriteSet((still_dead,), tuple(deletes[first : first + WRITE_SET_OPERATIONS]), events if not first else ())


def _unit_write_sets(keys: KeySpace, plan: UnitPlan, events: Events) -> Iterator[WriteSet]:
    """Usually one write set. A global unit on many machines takes several: its placements are independent of each
    other, and its decision comes last, so that the former decision guards all of them. An event is in the one that
    writes what it tells of."""
    decision_key = keys.key(DECISIONS, plan.unit)
    guard = (Unchanged(decision_key, plan.revision),)
    operations: list[Operation] = []
    size = 0
    machines: set[str] = set()
    for machine, operation in _placement_operations(keys, plan):
        operations.append(operation)
        machines.add(machine)
        size += len(operation.value) if isinstance(operation, Put) else 0
        if len(operations) >= WRITE_SET_OPERATIONS or size >= WRITE_SET_BYTES:
            told = tuple(event for event in events if _place_of(event) in machines)
            events = tuple(event for event in events if _place_of(event) not in machines)
            yield WriteSet(guard, tuple(operations), told)
            operations, machines, size = [], set(), 0
    last = keys.put(plan.decision, plan.unit) if plan.decision else Delete(decision_key)
    if not plan.ended_move:
        yield WriteSet(guard, (*operations, last), events)
        return
    move_key = keys.key(MOVES, plan.unit)
    yield WriteSet((*guard, Unchanged(move_key, plan.ended_move)), (*operations, last, Delete(move_key)), events)


def _place_of(event: ClusterEvent) -> str:
    """The machine whose placement the event tells of."""
    return event.machine or event.former


def _placement_operations(keys: KeySpace, plan: UnitPlan) -> Iterator[tuple[str, Operation]]:
    """The operations on the placements of a unit, each with its machine."""
    for machine in plan.deletes:
        yield machine, Delete(keys.key(PLACEMENTS, machine, plan.unit))
    for placement in plan.placements:
        yield placement.machine, keys.put(placement, placement.machine, placement.unit)


def _log_reboot(plan: RebootPlan) -> None:
    reboot, facts = plan.reboot, {"machine": plan.machine}
    waits = f", waits for {', '.join(reboot.waits)}" if reboot and reboot.waits else ""
    if reboot is None:
        log.info("reboot is over", extra=facts)
    elif reboot.failure is None:
        log.info("reboot: %s%s", reboot.phase, waits, extra=facts)
    else:
        log.warning("reboot given up: %s%s", reboot.detail or reboot.failure, waits, extra=facts)


def _log_decision(plan: UnitPlan) -> None:
    decision = plan.decision
    if decision is None:
        log.info("unit removed", extra={"unit": plan.unit})
        return
    facts: dict[str, object] = {"unit": plan.unit}
    if decision.machine:
        facts["machine"] = decision.machine
    if decision.machines:
        facts["machines"] = decision.machines
    if decision.rejections:
        rejections = (f"{render_rejection(each.rejection)} ({each.machines})" for each in decision.rejections)
        facts["rejections"] = ", ".join(rejections)
    log.info(render(decision.reason) or "placed", extra=facts)
