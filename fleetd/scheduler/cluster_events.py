"""What the writes of a plan mean to people: the cluster events that are stored with them. Pure."""

from collections.abc import Iterable, Iterator

from msgspec.structs import replace

from fleetd.model.event import ClusterEvent, EventKind, Step
from fleetd.model.names import is_template
from fleetd.model.placement import Decision, Placement
from fleetd.model.reason import (
    DrainEnded,
    Infeasible,
    MayFinish,
    MissingSecrets,
    NoMachines,
    NotMoved,
    NowhereElse,
    Reason,
    WaitingForRemoval,
    WaitingForStop,
)
from fleetd.model.rollout import Member, Pause, PauseCause, Phase, Rollout
from fleetd.scheduler.proposal import RebootPlan, RolloutPlan, SessionPlan, Write
from fleetd.scheduler.snapshot import Snapshot
from fleetd.scheduler.unit_plan import UnitPlan

_NOWHERE = Infeasible | NoMachines | MissingSecrets | NotMoved  # why a unit is nowhere until something else changes
_STAYS = NowhereElse | MayFinish | DrainEnded


class EventsOfPlan:
    """Finds the events of the writes of one plan, in the plan's order. `snapshot` is what the plan was made from."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot
        # What is left on machines that are drained, as far as it is to leave.
        self._left = {
            machine: {name for name in snapshot.placed_on.get(machine, ()) if name not in snapshot.global_units}
            for machine in snapshot.draining
        }

    def find(self, write: Write) -> tuple[ClusterEvent, ...]:
        """The events of the next write of the plan, in order."""
        match write:
            case UnitPlan():
                return (*_unit_events(self._snapshot, write), *self._drained(write))
            case SessionPlan():
                return _session_events(self._snapshot, write)
            case RolloutPlan():
                return tuple(_rollout_events(self._snapshot.rollouts.get(write.group), write))
            case RebootPlan():
                return _reboot_events(self._snapshot, write)
        return ()

    def _drained(self, plan: UnitPlan) -> Iterator[ClusterEvent]:
        """The drains that are done with this write."""
        if not self._left:
            return
        for placement in plan.placements:
            if placement.machine in self._left and plan.unit not in self._snapshot.global_units:
                self._left[placement.machine].add(plan.unit)
        for machine in plan.deletes:
            left = self._left.get(machine)
            if left is not None and plan.unit in left:
                left.remove(plan.unit)
                if not left:
                    yield ClusterEvent(EventKind.DRAIN, machine=machine, step=Step.DRAINED)


def _unit_events(snapshot: Snapshot, plan: UnitPlan) -> tuple[ClusterEvent, ...]:
    name, decision, before = plan.unit, plan.decision, snapshot.decisions.get(plan.unit)
    former = snapshot.placements.get(name, {})
    reason = decision.reason if decision else None
    superseded = [
        ClusterEvent(EventKind.SUPERSEDED, name, former=placement.machine, reason=reason)
        for placement in plan.placements
        if _is_left_behind(placement) and not _is_left_behind(former.get(placement.machine))
    ]
    written = {placement.machine: placement.is_active for placement in plan.placements}
    arrivals = [machine for machine, active in written.items() if active and not _is_active(former.get(machine))]
    gone = (*plan.deletes, *(machine for machine, active in written.items() if not active))
    departures = [machine for machine in gone if _is_active(former.get(machine))]
    moved = list(_moves(name, before, decision, arrivals, departures))
    if not moved and decision is not None and _is_newly_nowhere(name, before, decision):
        moved = [ClusterEvent(EventKind.UNPLACED, name, reason=reason, rejections=decision.rejections)]
    if decision is not None and isinstance(reason, _STAYS) and _is_new(reason, before):
        moved.append(ClusterEvent(EventKind.DRAIN, name, decision.machine, step=Step.STAYS, reason=reason))
    return (*superseded, *moved)


def _moves(
    name: str, before: Decision | None, decision: Decision | None, arrivals: list[str], departures: list[str]
) -> Iterator[ClusterEvent]:
    """A unit on one machine moves; one on many machines leaves some and is placed on others."""
    reason = decision.reason if decision else None
    is_on_one = decision is not None and bool(decision.machine)
    if is_on_one and len(arrivals) == 1 and len(departures) <= 1:
        source = departures[0] if departures else _awaited(before)
        kind = EventKind.MOVED if source not in ("", arrivals[0]) else EventKind.PLACED
        yield ClusterEvent(kind, name, arrivals[0], source if kind is EventKind.MOVED else "", reason=reason)
        return
    rejections = decision.rejections if decision is not None and not is_on_one and len(departures) == 1 else ()
    for machine in departures:
        yield ClusterEvent(EventKind.UNPLACED, name, former=machine, reason=reason, rejections=rejections)
    for machine in arrivals:
        yield ClusterEvent(EventKind.PLACED, name, machine, reason=reason)


def _awaited(before: Decision | None) -> str:
    """The machine that a unit had to leave before it could be placed anew, or ''."""
    if before is not None and isinstance(before.reason, WaitingForStop | WaitingForRemoval):
        return before.reason.machine
    return ""


def _is_active(placement: Placement | None) -> bool:
    return placement is not None and placement.is_active


def _is_left_behind(placement: Placement | None) -> bool:
    """True on a machine that was lost while the unit ran there."""
    return placement is not None and placement.superseded and not placement.hands_over


def _is_newly_nowhere(name: str, before: Decision | None, decision: Decision) -> bool:
    is_nowhere = not decision.machine and not decision.machines and isinstance(decision.reason, _NOWHERE)
    return is_nowhere and not is_template(name) and _is_new(decision.reason, before)


def _is_new(reason: Reason | None, before: Decision | None) -> bool:
    """True if the unit was not decided for a reason of this kind before."""
    return before is None or type(before.reason) is not type(reason)


def _session_events(snapshot: Snapshot, plan: SessionPlan) -> tuple[ClusterEvent, ...]:
    before, machine = snapshot.synced.get(plan.machine), plan.machine
    if before == plan.session:
        return ()  # a dead machine whose session has gone before
    kind = EventKind.LOST if plan.session is None else EventKind.JOINED if before is None else EventKind.BACK
    return (ClusterEvent(kind, machine=machine),)


def _reboot_events(snapshot: Snapshot, plan: RebootPlan) -> tuple[ClusterEvent, ...]:
    machine, before, after = plan.machine, snapshot.reboots.get(plan.machine), plan.reboot
    if after is None:
        if before is None or not before.holds_slot:
            return ()
        over = ClusterEvent(EventKind.REBOOT, machine=machine, id=before.id, by=before.by, step=Step.OVER)
        return (over,)
    if before is not None and (before.id, before.phase, before.failure) == (after.id, after.phase, after.failure):
        return ()
    event = ClusterEvent(
        EventKind.REBOOT,
        machine=machine,
        id=after.id,
        by=after.by,
        step=after.phase,
        units=after.waits,
        reboot_failure=after.failure,
        detail=after.detail,
    )
    return (event,)


def _rollout_events(before: Rollout | None, plan: RolloutPlan) -> Iterator[ClusterEvent]:
    after, group = plan.rollout, plan.group
    is_same = before is not None and (before.id, before.started) == (after.id, after.started)
    earlier = before if before is not None and is_same else Rollout(after.id, pause=_inherited_pause(before, after))
    if not is_same:
        yield ClusterEvent(EventKind.ROLLOUT, subject=group, id=after.id, by=after.by, step=Step.BEGAN)
    known = {step.member for step in earlier.steps}
    if changed := _names(step.member for step in after.steps if step.member not in known):
        yield ClusterEvent(EventKind.ROLLOUT, subject=group, id=after.id, step=Step.CHANGED, units=changed)
    known = set(earlier.reverted)
    if returned := _names(member for member in after.reverted if member not in known):
        yield ClusterEvent(EventKind.ROLLOUT, subject=group, id=after.id, step=Step.RETURNED, units=returned)
    if after.pause is not None and after.pause != earlier.pause:
        cause, by, units = after.pause.cause, after.pause.by, after.pause.units
        paused = ClusterEvent(EventKind.ROLLOUT, subject=group, id=after.id, by=by, step=Step.PAUSED, units=units)
        yield _with_failure(paused, after, cause)
    elif after.pause is None and earlier.pause is not None:
        yield ClusterEvent(EventKind.ROLLOUT, subject=group, id=after.id, step=Step.RESUMED)
    if after.phase is not earlier.phase:
        yield _with_failure(ClusterEvent(EventKind.ROLLOUT, subject=group, id=after.id, step=after.phase), after)


def _inherited_pause(before: Rollout | None, after: Rollout) -> Pause | None:
    """The pause that a rollout which begins anew goes on with."""
    return before.pause if before is not None and before.id == after.id else None


def _with_failure(event: ClusterEvent, rollout: Rollout, cause: PauseCause | None = None) -> ClusterEvent:
    failure = None if rollout.phase is Phase.DONE else rollout.failure
    return replace(event, pause=cause, failure=failure)


def _names(members: Iterable[Member]) -> tuple[str, ...]:
    """The units of these members, each once, in order."""
    return tuple(dict.fromkeys(member.unit for member in members))
