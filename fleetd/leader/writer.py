"""What a plan writes: its write sets, each guarded by the decision that it was planned from."""

from collections.abc import Iterator, Mapping

from fleetd.registry.records import DECISIONS, PLACEMENTS, SYNCED, KeySpace, Synced
from fleetd.registry.transactions import WriteSet
from fleetd.scheduler.planner import Plan
from fleetd.scheduler.unit_plan import UnitPlan
from fleetd.store.protocol import Comparison, Delete, Operation, Put, Unchanged

WRITE_SET_OPERATIONS = 100  # of one unit in one write set
WRITE_SET_BYTES = 600_000


def write_sets_of(keys: KeySpace, plan: Plan, still_dead: Mapping[str, Comparison]) -> Iterator[WriteSet]:
    """The write sets of a plan, in its order. `still_dead` holds, by machine, the comparison that it is not back."""
    # The session of a dead machine goes before its placements: if it is alive after all, its agent must not take
    # missing placements for orders to stop its units.
    for machine in plan.forgotten:
        yield WriteSet((still_dead[machine],), (Delete(keys.key(SYNCED, machine)),))
    for unit in plan.units:
        yield from _unit_write_sets(keys, unit)
    for machine, session in plan.synced:
        yield WriteSet((), (keys.put(Synced(session), machine),))


def _unit_write_sets(keys: KeySpace, plan: UnitPlan) -> Iterator[WriteSet]:
    """Usually one write set. A global unit on many machines takes several: its placements are independent of each
    other, and its decision comes last, so that the former decision guards all of them."""
    decision_key = keys.key(DECISIONS, plan.unit)
    guard = (Unchanged(decision_key, plan.revision),)
    operations: list[Operation] = []
    size = 0
    deletes: list[Operation] = [Delete(keys.key(PLACEMENTS, machine, plan.unit)) for machine in plan.deletes]
    puts: list[Operation] = [keys.put(placement, placement.machine, placement.unit) for placement in plan.placements]
    for operation in (*deletes, *puts):
        operations.append(operation)
        size += len(operation.value) if isinstance(operation, Put) else 0
        if len(operations) >= WRITE_SET_OPERATIONS or size >= WRITE_SET_BYTES:
            yield WriteSet(guard, tuple(operations))
            operations, size = [], 0
    last = keys.put(plan.decision, plan.unit) if plan.decision else Delete(decision_key)
    yield WriteSet(guard, (*operations, last))
