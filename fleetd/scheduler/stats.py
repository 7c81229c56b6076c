"""Units by state, machines by mode, what a plan does: in numbers, for people who watch. Nothing is decided by them."""

from collections import Counter
from collections.abc import Iterable, Mapping

import msgspec

from fleetd.model.unit import TargetState
from fleetd.scheduler.snapshot import Snapshot
from fleetd.scheduler.unit_plan import UnitPlan

_FAR = list(TargetState)  # from inactive to launched


class ClusterStats(msgspec.Struct, frozen=True):
    """A cluster in numbers: `units` by (target, current state), `copies` by (systemd's active state,), `machines` by
    (mode,). What none is of is left out."""

    units: Mapping[tuple[str, str], int]
    copies: Mapping[tuple[str], int]
    machines: Mapping[tuple[str], int]


class PlanStats(msgspec.Struct, frozen=True):
    """A plan in numbers: copies placed on machines and taken back from them; of the latter those whose machine is dead,
    and those that may not stay although they are wanted; and units that no machine takes."""

    placed: int = 0
    taken_back: int = 0
    machine_away: int = 0
    unfit: int = 0
    unplaced: int = 0


def count_cluster(snapshot: Snapshot) -> ClusterStats:
    """Count what is known now. Templates are units that are inactive."""
    return ClusterStats(
        units=Counter(
            (unit.target.value, current_state(snapshot, name).value) for name, unit in snapshot.units.items()
        ),
        copies=Counter((state.active,) for states in snapshot.states.values() for state in states.values()),
        machines=Counter((machine.mode.value,) for machine in snapshot.machines.values()),
    )


def current_state(snapshot: Snapshot, name: str) -> TargetState:
    """What a known unit has come to on its machine; of one on several machines, where it has come least far."""
    states = snapshot.states.get(name, {})
    homes = [machine for machine, order in snapshot.placements.get(name, {}).items() if order.is_active]
    reached = (states[assigned].target if assigned in states else TargetState.INACTIVE for assigned in homes)
    return min(reached, key=_FAR.index, default=TargetState.INACTIVE)


def count_plan(snapshot: Snapshot, plans: Iterable[UnitPlan]) -> PlanStats:
    """What these plans do to the cluster that they were made for."""
    counts: Counter[str] = Counter()
    for plan in plans:
        wanted = snapshot.is_wanted(plan.unit)
        before = snapshot.placements.get(plan.unit, {})
        after = {order.machine: order for order in plan.orders}
        for machine in (*after, *plan.cancels):
            stayed = machine in before and before[machine].is_active
            is_active = machine in after and after[machine].is_active
            lost = stayed and not is_active
            counts["placed"] += is_active and not stayed
            counts["taken_back"] += lost
            counts["machine_away"] += lost and wanted and snapshot.is_dead(machine)
            counts["unfit"] += lost and wanted and not snapshot.is_dead(machine)
        counts["unplaced"] += wanted and _fits_nowhere(snapshot, plan)
    return PlanStats(**counts)


def _fits_nowhere(snapshot: Snapshot, plan: UnitPlan) -> bool:
    """Whether this is the decision that no machine takes a unit, which is wanted."""
    decision = plan.decision
    if decision is None or decision.machine or decision.machines:
        return False
    return bool(decision.rejections) or not snapshot.machines
