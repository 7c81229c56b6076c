"""Units by state, machines by mode, what a plan does: in numbers, for people who watch. Nothing is decided by them."""

from collections import Counter
from collections.abc import Iterable, Mapping

import msgspec

from fleetd.model.unit import TargetState
from fleetd.scheduler.snapshot import ClusterView
from fleetd.scheduler.unit_plan import UnitPlan

_FAR = list(TargetState)  # from inactive to launched


class Census(msgspec.Struct, frozen=True):
    """A cluster in numbers: `units` by (target, current state), `copies` by (systemd's active state,), `machines` by
    (mode,). What none is of is left out."""

    units: Mapping[tuple[str, str], int]
    copies: Mapping[tuple[str], int]
    machines: Mapping[tuple[str], int]


class Outcome(msgspec.Struct, frozen=True):
    """A plan in numbers: copies placed on machines and taken back from them; of the latter those whose machine is dead,
    and those that may not stay although they are wanted; and units that no machine takes."""

    placed: int = 0
    taken_back: int = 0
    machine_away: int = 0
    unfit: int = 0
    homeless: int = 0


def take_census(view: ClusterView) -> Census:
    """Count what is known now. Templates are units that are inactive."""
    return Census(
        units=Counter((unit.target.value, current_state(view, name).value) for name, unit in view.units.items()),
        copies=Counter((state.active,) for states in view.states.values() for state in states.values()),
        machines=Counter((machine.mode.value,) for machine in view.machines.values()),
    )


def current_state(view: ClusterView, name: str) -> TargetState:
    """What a known unit has come to on its machine; of one on several machines, where it has come least far."""
    states = view.states.get(name, {})
    homes = [machine for machine, order in view.placements.get(name, {}).items() if order.stays]
    reached = (states[home].target if home in states else TargetState.INACTIVE for home in homes)
    return min(reached, key=_FAR.index, default=TargetState.INACTIVE)


def count_outcome(view: ClusterView, plans: Iterable[UnitPlan]) -> Outcome:
    """What these plans do to the cluster that they were made for."""
    counts: Counter[str] = Counter()
    for plan in plans:
        wanted = view.is_wanted(plan.unit)
        before = view.placements.get(plan.unit, {})
        after = {order.machine: order for order in plan.orders}
        for machine in (*after, *plan.cancels):
            stayed = machine in before and before[machine].stays
            stays = machine in after and after[machine].stays
            lost = stayed and not stays
            counts["placed"] += stays and not stayed
            counts["taken_back"] += lost
            counts["machine_away"] += lost and wanted and view.is_dead(machine)
            counts["unfit"] += lost and wanted and not view.is_dead(machine)
        counts["homeless"] += wanted and _fits_nowhere(view, plan)
    return Outcome(**counts)


def _fits_nowhere(view: ClusterView, plan: UnitPlan) -> bool:
    """Whether this is the decision that no machine takes a unit, which is wanted."""
    decision = plan.decision
    if decision is None or decision.machine or decision.machines:
        return False
    return bool(decision.refusals) or not view.machines
