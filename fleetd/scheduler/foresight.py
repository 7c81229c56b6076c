"""What a cluster comes to: the leader's controllers on paper, with machines that do at once what they are told.

Each unit that is started is active, proven and, if it is a oneshot, completed at once, nothing else happens, and time
stands still, but for the failover delays of machines that are supposed to be lost. What fails now stays as it is until
it is placed anew. So a plan is what happens if every start succeeds. No reboot goes on: the units of a machine that is
drained for one leave it, and others do not get its slot.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence

import msgspec

from fleetd.model.machine import Machine, MachineSettings
from fleetd.model.move import Move
from fleetd.model.names import is_template
from fleetd.model.placement import Decision, Placement
from fleetd.model.quota import Usage
from fleetd.model.reason import Eviction, Reason, Unavailability, WaitingForPeer, WaitingForStop
from fleetd.model.requirements import requirements_of
from fleetd.model.rollout import Apply
from fleetd.model.unit import Proof, TargetState, Unit, UnitState
from fleetd.scheduler import affected as change
from fleetd.scheduler.affected import Affected
from fleetd.scheduler.controllers.reboot import reboot
from fleetd.scheduler.disruption import judge_member
from fleetd.scheduler.failover_delays import NO_DELAYS, START, FailoverDelays, FailoverPolicy, Now
from fleetd.scheduler.planner import CONTROLLERS, Controller, plan_cluster
from fleetd.scheduler.preference import Standing
from fleetd.scheduler.proposal import RolloutPlan, SessionPlan, Write
from fleetd.scheduler.snapshot import MachineLoss, Snapshot
from fleetd.scheduler.unit_plan import UnitPlan

_CONTROLLERS = tuple(controller for controller in CONTROLLERS if controller is not reboot)


class Hypothesis(msgspec.Struct, frozen=True):
    """What is supposed to be in the store instead of what is there, by name, machine or id; None: there is no such
    record. A machine that is None is lost now: time passes until its units do not wait for it any more but for ever."""

    units: Mapping[str, Unit | None] = {}
    machines: Mapping[str, Machine | None] = {}
    settings: Mapping[str, MachineSettings | None] = {}
    moves: Mapping[str, Move | None] = {}
    applies: Mapping[str, Apply | None] = {}


AS_IT_IS = Hypothesis()


class ForeseenMove(msgspec.Struct, frozen=True):
    """A unit goes from the machine `origin` ('': it was on none) to `machine`, or ('') is stopped, for it is not wanted
    any more; one that is on many machines is placed on one more, or ('') on one fewer. `because` is why it may not
    stay, `reason` why it is there, `standing` why this of several machines was chosen, for this unit or for one that
    it goes with. It happens `after_s`, which units wait for lost machines."""

    unit: str
    origin: str
    machine: str
    because: Eviction | None = None
    reason: Reason | None = None
    standing: Standing | None = None
    after_s: float = 0.0


class ForeseenChange(msgspec.Struct, frozen=True):
    """A unit stays on its machine, and is there as `after` says, which differs from `before` in content, in target
    state, or in being started anew."""

    before: Placement
    after: Placement


class Foresight(msgspec.Struct, frozen=True):
    """What happens, in order, and the cluster as it is then. `nowhere` are the units that are to run and have no
    machine any more, in order. `changes` are in order of units and machines. `is_final` is False if the cluster never
    comes to rest."""

    moves: tuple[ForeseenMove, ...]
    nowhere: tuple[str, ...]
    after: Snapshot
    is_final: bool = True
    changes: tuple[ForeseenChange, ...] = ()


def foresee(
    snapshot: Snapshot,
    hypothesis: Hypothesis = AS_IT_IS,
    *,
    now: Now = START,
    policy: FailoverPolicy = NO_DELAYS,
    controllers: Sequence[Controller] = _CONTROLLERS,
    checkpoint: Callable[[], None] = lambda: None,
) -> Foresight:
    """What becomes of this cluster under the hypothesis. The snapshot stays as it is. `checkpoint` is called about once
    a unit and pass: what it raises ends the work."""
    course = Course(snapshot, now=now, policy=policy, controllers=controllers, checkpoint=checkpoint)
    course.suppose(hypothesis)
    is_final = course.run()
    changes = tuple(find_changes(snapshot, course.snapshot))
    return Foresight(tuple(course.moves), tuple(course.find_nowhere()), course.snapshot, is_final, changes)


def find_changes(before: Snapshot, after: Snapshot) -> Iterator[ForeseenChange]:
    """The units that are on the same machine in both snapshots, and not as they were. Templates are never started."""
    for name in sorted(after.placements):
        former = before.placements.get(name, {})
        for machine, placement in after.placements[name].items():
            old = former.get(machine)
            if old is None or old == placement or is_template(name) or not (old.is_active and placement.is_active):
                continue
            is_restarted = placement.restart_of >= old.generation
            if is_restarted or (old.content, old.target) != (placement.content, placement.target):
                yield ForeseenChange(old, placement)


def pretend(snapshot: Snapshot, machine: str, name: str) -> UnitState | None:
    """What a machine that does at once what it is told reports next of this unit; None: nothing."""
    placement, state = snapshot.placements.get(name, {}).get(machine), snapshot.states.get(name, {}).get(machine)
    effective = snapshot.effective.get(machine)
    if effective is None or effective.hold is not None or (state is not None and (state.orphan or state.refusal)):
        return state
    if placement is None:
        return None
    if placement.superseded or placement.declined:
        return state
    if placement.prepares:
        return UnitState("not-found", "inactive", "dead", prepared=placement.content.hash)
    if placement.is_withdrawn:
        return UnitState("not-found", "inactive", "dead", generation=placement.generation)
    return _pretend_to_run(placement, state)


def _pretend_to_run(placement: Placement, state: UnitState | None) -> UnitState:
    is_oneshot = requirements_of(placement.content, placement.unit).is_oneshot
    proof = Proof(placement.generation, placement.content.hash) if placement.prove_after_s is not None else None
    why = judge_member(placement, state)
    if state is not None and why is not Unavailability.UNREPORTED:
        if why is Unavailability.UNPROVEN:
            return msgspec.structs.replace(state, proof=proof, unannounced="")
        if why is not Unavailability.INACTIVE or state.active != "activating" or is_oneshot:
            return state
    is_launched = placement.target is TargetState.LAUNCHED
    return UnitState(
        "loaded",
        "active" if is_launched and not is_oneshot else "inactive",
        hash=placement.content.hash,
        target=placement.target,
        generation=placement.generation,
        completed=is_launched and is_oneshot,
        proof=proof,
    )


class Course:
    """A cluster on paper while it goes on, from a snapshot that stays as it is. `moves` are those so far, `snapshot` is
    the cluster as it is by now. The arguments are those of foresee."""

    def __init__(
        self,
        before: Snapshot,
        *,
        now: Now = START,
        policy: FailoverPolicy = NO_DELAYS,
        controllers: Sequence[Controller] = _CONTROLLERS,
        checkpoint: Callable[[], None] = lambda: None,
    ) -> None:
        self.snapshot = before.copy()
        self.moves: list[ForeseenMove] = []
        self._before = before
        self._now = now
        self._began_s = now.clock_s
        self._policy = policy
        self._controllers = controllers
        self._checkpoint = checkpoint
        self._affected: Affected | None = None  # None: all
        # (machine, unit) of which the machine has still to look at its placement.
        self._told = {
            (machine, name): None
            for records in (before.placements, before.states)
            for name, by_machine in records.items()
            for machine in by_machine
        }
        self._lost: list[str] = []  # machines that are supposed to be
        self._fingerprint = 0  # tells the states of the cluster apart
        self._where: dict[str, str] = {}  # units that were planned → the machine where each was last
        self._evictions: dict[str, Eviction] = {}
        self._standings: dict[str, Standing] = {}  # by unit: why its machine was chosen last

    def suppose(self, hypothesis: Hypothesis) -> None:
        """Have the snapshot show the hypothesis. Also after it has come to rest: it goes on from there then."""
        snapshot = self.snapshot
        affected = Affected()
        for machine, settings in hypothesis.settings.items():
            affected |= change.set_settings(snapshot, machine, settings)
        for machine, record in hypothesis.machines.items():
            affected |= change.set_machine(snapshot, machine, record)
            affected |= self._lose(machine) if record is None else Affected()
        for name, unit in hypothesis.units.items():
            affected |= change.set_unit(snapshot, name, unit)
        for name, move in hypothesis.moves.items():
            affected |= change.set_move(snapshot, name, move)
        for rollout, apply in hypothesis.applies.items():
            affected |= change.set_apply(snapshot, rollout, apply)
        self._affect(affected)

    def _lose(self, machine: str) -> Affected:
        """The machine is dead as of now, with all that it reported."""
        snapshot, now = self.snapshot, self._now
        affected = change.set_away(snapshot, snapshot.away - {machine})
        affected |= change.touch_machine(snapshot, machine)
        snapshot.lost = {**snapshot.lost, machine: MachineLoss(now.clock_s, now.unix_s, now.unix_s)}
        self._lost.append(machine)
        for name in list(snapshot.reported_by.get(machine, ())):
            affected |= change.set_state(snapshot, machine, name, None)
        return affected

    def run(self) -> bool:
        """Go on until nothing changes, and no unit that waits for a lost machine will give it up; False if a state
        repeats."""
        while self._run_now():
            ends = dict(self._failovers())
            if not ends:
                return True
            end_s = min(ends.values())
            self._now = Now(end_s, self._now.unix_s + end_s - self._now.clock_s)
            self._affect(Affected({name: None for name, at_s in ends.items() if at_s <= end_s}))
        return False

    def _failovers(self) -> Iterator[tuple[str, float]]:
        """The units that wait for machines that were supposed to be lost, and until when on the leader's clock."""
        delays = FailoverDelays(self.snapshot, self._policy, self._now)
        for machine in self._lost:
            for name in self.snapshot.placed_on.get(machine, ()):
                end_s = delays.end_s(name, machine)
                if self._now.clock_s < end_s < math.inf:
                    yield name, end_s

    def _run_now(self) -> bool:
        """Go on until nothing changes at this time; False if a state repeats."""
        seen = {self._fingerprint}
        while True:
            plan = plan_cluster(
                self.snapshot,
                self._affected,
                now=self._now,
                policy=self._policy,
                controllers=self._controllers,
                checkpoint=self._checkpoint,
                standings=self._standings,
            )
            self._affected = Affected()
            for write in plan.writes:
                self._note(write)
            has_reported = self._report()
            if not plan.writes and not has_reported:
                return True
            if self._fingerprint in seen:
                return False
            seen.add(self._fingerprint)

    def find_nowhere(self) -> list[str]:
        """The units that are to run, and that have a machine no more."""
        left = [name for name in sorted(self.snapshot.unplaced) if name not in self._before.unplaced]
        left += [name for name in sorted(self._before.moving) if name in self.snapshot.unplaced]
        return [name for name in left if not self._has_completed(name)]

    def _has_completed(self, name: str) -> bool:
        decision = self.snapshot.decisions.get(name)
        return decision is not None and decision.completed == self.snapshot.units[name].generation

    def _note(self, write: Write) -> None:
        """Have the snapshot show what the leader writes."""
        snapshot = self.snapshot
        match write:
            case UnitPlan():
                self._note_unit(write)
            case RolloutPlan(group, rollout):
                # What is written now was not under way when the store was restored.
                written = msgspec.structs.replace(rollout, revision=max(rollout.revision, snapshot.restored_at))
                self._differ(group, snapshot.rollouts.get(group), written)
                self._affect(change.set_rollout(snapshot, group, written))
            case SessionPlan(machine, session):
                self._differ(machine, snapshot.synced.get(machine), session)
                self._affect(change.set_session(snapshot, machine, session))
                if session is None:
                    change.forget_services(snapshot, machine)
            case _:
                assert isinstance(write, Usage)
                self._differ("", snapshot.usage, write)
                self._affect(change.set_usage(snapshot, write))

    def _note_unit(self, plan: UnitPlan) -> None:
        snapshot, name = self.snapshot, plan.unit
        self._note_moves(plan)
        for machine in plan.deletes:
            self._put_placement(machine, name, None)
        for placement in plan.placements:
            self._put_placement(placement.machine, name, placement)
        self._differ(name, snapshot.decisions.get(name), plan.decision)
        self._affect(change.set_decision(snapshot, name, plan.decision))
        if plan.ended_move:
            self._differ(name, snapshot.moves.get(name), None)
            self._affect(change.set_move(snapshot, name, None))

    def _put_placement(self, machine: str, name: str, placement: Placement | None) -> None:
        self._differ((machine, name), self.snapshot.placements.get(name, {}).get(machine), placement)
        self._affect(change.set_placement(self.snapshot, machine, name, placement))
        self._told[machine, name] = None

    def _report(self) -> bool:
        """The machines do what they were told. Returns whether there was anything."""
        told, self._told = self._told, {}
        has_reported = False
        for machine, name in told:
            self._checkpoint()
            before, after = self.snapshot.states.get(name, {}).get(machine), pretend(self.snapshot, machine, name)
            if before != after:
                has_reported = True
                self._differ((machine, name), before, after)
                self._affect(change.set_state(self.snapshot, machine, name, after))
        return has_reported

    def _affect(self, affected: Affected) -> None:
        if self._affected is not None:
            self._affected |= affected

    def _differ(self, key: object, before: object, after: object) -> None:
        self._fingerprint ^= hash((key, before)) ^ hash((key, after))

    def _note_moves(self, plan: UnitPlan) -> None:
        """Note where the unit goes, as this plan says."""
        name, decision = plan.unit, plan.decision
        if is_template(name):
            return
        if name in self.snapshot.global_units or name in self._before.global_units:
            self._note_changes(plan)
            return
        origin = self._where.setdefault(name, _origin(self._before, name))
        if decision is None or not self.snapshot.is_wanted(name):
            if origin:
                self.moves.append(ForeseenMove(name, origin, ""))
            self._where[name] = ""
            return
        reason = decision.reason.peer_waits if isinstance(decision.reason, WaitingForPeer) else decision.reason
        if isinstance(reason, WaitingForStop) and reason.because is not None:
            self._evictions[name] = reason.because
        if decision.machine not in ("", origin):
            self.moves.append(self._make_move(name, origin, decision))
            self._where[name] = decision.machine

    def _make_move(self, name: str, origin: str, decision: Decision) -> ForeseenMove:
        """The unit goes from there to where it was decided."""
        standing, because = self._standings.get(name), self._evictions.pop(name, None)
        was_chosen = standing is not None and standing.machine == decision.machine
        chosen = standing if was_chosen else None
        after_s = self._now.clock_s - self._began_s
        return ForeseenMove(name, origin, decision.machine, because, decision.reason, chosen, after_s)

    def _note_changes(self, plan: UnitPlan) -> None:
        """Note the machines that a unit on many comes to, and those that it leaves."""
        former = self.snapshot.placements.get(plan.unit, {})
        reason = plan.decision.reason if plan.decision else None
        for machine in plan.deletes:
            if former[machine].is_active:
                self.moves.append(ForeseenMove(plan.unit, machine, ""))
        for placement in plan.placements:
            was_active = placement.machine in former and former[placement.machine].is_active
            if placement.is_active and not was_active:
                self.moves.append(ForeseenMove(plan.unit, "", placement.machine, reason=reason))
            elif was_active and not placement.is_active:
                self.moves.append(ForeseenMove(plan.unit, placement.machine, ""))


def _origin(snapshot: Snapshot, name: str) -> str:
    """The machine where the unit is, or that it has still to leave; '' for none."""
    placements = snapshot.placements.get(name, {})
    leaving = (machine for machine, placement in placements.items() if placement.is_leaving)
    return snapshot.assigned_machine(name) or next(leaving, "")
