"""A cluster and a plan in numbers, for metrics and logs."""

from collections import Counter
from collections.abc import Iterable, Mapping

import msgspec

from fleetd.model.machine import Machine, MachineMode
from fleetd.model.unit import TargetState
from fleetd.scheduler.snapshot import Snapshot
from fleetd.scheduler.unit_plan import UnitPlan

_FAR = list(TargetState)  # from inactive to launched


class ClusterStats(msgspec.Struct, frozen=True):
    """Units by (target, current state), `allocations` by (systemd's active state,), machines by (mode,), where ready
    ones that are cordoned count as `cordoned`; without zeros."""

    units: Mapping[tuple[str, str], int]
    allocations: Mapping[tuple[str], int]
    machines: Mapping[tuple[str], int]


class PlanStats(msgspec.Struct, frozen=True):
    """Allocations that a plan places and takes back; of the latter those whose machine is dead, and those evicted
    although the unit is wanted; and the units that fit on no machine."""

    placed: int = 0
    taken_back: int = 0
    machine_away: int = 0
    unfit: int = 0
    unplaced: int = 0


def count_cluster(snapshot: Snapshot) -> ClusterStats:
    """Count what the snapshot holds. Templates count as inactive units."""
    return ClusterStats(
        units=Counter(
            (unit.target.value, current_state(snapshot, name).value) for name, unit in snapshot.units.items()
        ),
        allocations=Counter((state.active,) for states in snapshot.states.values() for state in states.values()),
        machines=Counter((_mode(snapshot, machine),) for machine in snapshot.machines.values()),
    )


def _mode(snapshot: Snapshot, machine: Machine) -> str:
    is_cordoned = machine.mode is MachineMode.READY and snapshot.effective[machine.id].cordon is not None
    return "cordoned" if is_cordoned else machine.mode.value


def current_state(snapshot: Snapshot, name: str) -> TargetState:
    """The state that a known unit has reached on its machine; for several machines, the least advanced one."""
    states = snapshot.states.get(name, {})
    assigned = [machine for machine, placement in snapshot.placements.get(name, {}).items() if placement.is_active]
    reached = (states[machine].target if machine in states else TargetState.INACTIVE for machine in assigned)
    return min(reached, key=_FAR.index, default=TargetState.INACTIVE)


def count_plan(snapshot: Snapshot, plans: Iterable[UnitPlan]) -> PlanStats:
    """What these plans do to the snapshot that they were made for."""
    counts: Counter[str] = Counter()
    for plan in plans:
        wanted = snapshot.is_wanted(plan.unit)
        before = snapshot.placements.get(plan.unit, {})
        after = {placement.machine: placement for placement in plan.placements}
        for machine in (*after, *plan.deletes):
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
    """True if the plan decides that a wanted unit fits on no machine."""
    decision = plan.decision
    if decision is None or decision.machine or decision.machines:
        return False
    return bool(decision.rejections) or not snapshot.machines
