"""Plans as the API shows them. Pure."""

from collections.abc import Callable, Iterator, Sequence

import msgspec

from fleetd.api import schema
from fleetd.api.v2.drain_reports import DrainData, describe_progress
from fleetd.api.v2.explain_reports import render_preference
from fleetd.api.v2.reports import describe_reason
from fleetd.model.isolation import NOT_ISOLATED, IsolationOptions
from fleetd.model.names import template_of
from fleetd.model.placement import Decision
from fleetd.model.reason import ONLY, render, render_eviction, render_rejection
from fleetd.scheduler.effective_machine import DRAINED
from fleetd.scheduler.failover_delays import FailoverPolicy, Now
from fleetd.scheduler.foresight import ForeseenChange, ForeseenMove, Hypothesis, foresee
from fleetd.scheduler.preference import Preference
from fleetd.scheduler.rebalancing import RebalanceMove, Scope, find_hindrance, plan_rebalance
from fleetd.scheduler.snapshot import Snapshot


class PlanMaker:
    """Makes plans for one snapshot, read at this revision of the store."""

    def __init__(
        self, snapshot: Snapshot, revision: int, now: Now, policy: FailoverPolicy, checkpoint: Callable[[], None]
    ) -> None:
        self._snapshot = snapshot
        self._revision = revision
        self._now = now
        self._policy = policy
        self._checkpoint = checkpoint

    def foresee(self, hypothesis: Hypothesis, drained: Sequence[str] = ()) -> schema.Plan:
        """What becomes of the units under this hypothesis; these machines are drained in it."""
        found = foresee(self._snapshot, hypothesis, now=self._now, policy=self._policy, checkpoint=self._checkpoint)
        return schema.Plan(
            self._revision,
            len(self._snapshot.machines),
            len(self._snapshot.units),
            moves=tuple(self._describe_move(move, drained) for move in found.moves),
            nowhere=tuple(_describe_unplaced(found.after, name) for name in found.nowhere),
            stays=tuple(unit for machine in drained for unit in self._describe_stays(found.after, machine)),
            endless=not found.is_final,
            changes=tuple(map(self._describe_change, found.changes)),
        )

    def rebalance(self, asked: schema.PlannedRebalance) -> schema.Plan:
        """The next moves that distribute units more evenly."""
        snapshot = self._snapshot
        scope = Scope(frozenset(asked.units), self._now.unix_s, asked.min_age)
        moves = plan_rebalance(
            snapshot, scope, asked.max, now=self._now, policy=self._policy, checkpoint=self._checkpoint
        )
        new = (machine for machine in snapshot.machines.values() if scope.is_new(machine))
        return schema.Plan(
            self._revision,
            len(snapshot.machines),
            len(snapshot.units),
            moves=tuple(each for move in moves for each in self._describe_joint_move(move)),
            stays=tuple(self._describe_hindered(scope, asked.units)),
            new=tuple(schema.NewMachine(machine.id, machine.address, machine.since) for machine in new),
        )

    def _describe_move(self, move: ForeseenMove, drained: Sequence[str]) -> schema.PlannedMove:
        """Why it leaves its machine is told unless that is what was asked for."""
        parts = [_describe_choice(move)]
        if move.because is not None and not (move.origin in drained and move.because.rejection == DRAINED):
            parts.insert(0, render_eviction(move.because))
        isolation = self._isolation_of(move.unit)
        if isolation.is_single and move.after_s >= isolation.hold_s:
            parts.append(f"after {isolation.sum_in_words}")
        preferences = tuple(
            schema.Preferred(preference, value if preference is not Preference.ID else 0)
            for preference, value in (move.standing.values if move.standing else ())
        )
        first = move.standing.unit if move.standing else move.unit
        along_with = first if first != move.unit else ""
        planned = self._planned_move(move.unit, move.origin, move.machine, "; ".join(parts), along_with)
        return msgspec.structs.replace(planned, preferences=preferences)

    def _isolation_of(self, name: str) -> IsolationOptions:
        """What a unit that the cluster has now asks for."""
        return self._snapshot.requirements(name).isolation if name in self._snapshot.units else NOT_ISOLATED

    def _describe_change(self, change: ForeseenChange) -> schema.PlannedChange:
        before, after = change.before, change.after
        return schema.PlannedChange(
            after.unit,
            after.machine,
            self._address(after.machine),
            content=after.content != before.content,
            target=after.target if after.target is not before.target else "",
        )

    def _describe_joint_move(self, move: RebalanceMove) -> Iterator[schema.PlannedMove]:
        """The unit, and those that go with it."""
        what = f"of {move.group}" if move.group else "units"
        reason = f"{move.here} {what} on the one machine, {move.there} on the other"
        yield self._planned_move(move.unit, move.origin, move.machine, reason)
        for name in move.units:
            if name != move.unit:
                yield self._planned_move(name, move.origin, move.machine, f"with {move.unit}", move.unit)

    def _planned_move(
        self, unit: str, origin: str, machine: str, reason: str, along_with: str = ""
    ) -> schema.PlannedMove:
        return schema.PlannedMove(
            unit, origin, machine, self._address(origin), self._address(machine), reason, along_with
        )

    def _describe_stays(self, after: Snapshot, machine: str) -> Iterator[schema.UnmovedUnit]:
        """The units that are still on the drained machine when nothing happens any more."""
        names = {*after.placed_on.get(machine, ()), *after.reported_by.get(machine, ())}
        here = {(machine, name): after.placements.get(name, {}).get(machine) for name in names}
        states = {(machine, name): after.states.get(name, {}).get(machine) for name in names}
        data = DrainData(
            machine,
            after.settings[machine].drain,
            after.machines,
            after.decisions,
            {key: placement for key, placement in here.items() if placement is not None},
            {key: state for key, state in states.items() if state is not None},
            self._now.unix_s,
        )
        for unit in describe_progress(data, []).units:
            yield schema.UnmovedUnit(unit.unit, machine, self._address(machine), unit.state, unit.reason, unit.cause)

    def _describe_hindered(self, scope: Scope, named: Sequence[str]) -> Iterator[schema.UnmovedUnit]:
        """The units of these names that are not moved whatever the distribution."""
        snapshot = self._snapshot
        units = {each: None for name in named for each in snapshot.group_units(name) or [name]}
        for name in sorted(units):
            if why := find_hindrance(snapshot, scope, name):
                machine = snapshot.assigned_machine(name)
                yield schema.UnmovedUnit(name, machine, self._address(machine), "stays", why)

    def _address(self, machine: str) -> str:
        known = self._snapshot.machines.get(machine)
        return known.address if known else ""


def _describe_choice(move: ForeseenMove) -> str:
    """Why the unit gets this machine."""
    if move.standing is None:
        return render(move.reason)
    if move.standing.unit != move.unit:
        return f"with {move.standing.unit}"
    values = move.standing.values
    told = [
        render_preference(preference, value, move.unit)
        for number, (preference, value) in enumerate(values, 1)
        if number == len(values)
        or preference is Preference.UNITS
        or (preference is Preference.INSTANCES and template_of(move.unit))
    ]
    return ", then ".join(told) or render(ONLY)


def _describe_unplaced(after: Snapshot, name: str) -> schema.UnmovedUnit:
    decision = after.decisions.get(name) or Decision(name, generation=0)
    why = ", ".join(f"{render_rejection(each.rejection)} ({each.machines})" for each in decision.rejections[:3])
    reason = f"{render(decision.reason)}: {why}" if why else render(decision.reason)
    return schema.UnmovedUnit(name, state="unplaced", reason=reason, cause=describe_reason(decision.reason))
