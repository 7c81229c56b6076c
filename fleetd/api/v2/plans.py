"""Plans: what would become of the cluster. The server that is asked computes it, from one read of everything, in a
thread, one plan at a time; nothing is written."""

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec

from fleetd.aio import Offload, paused_collector
from fleetd.api import schema
from fleetd.api.http import ApiError, Request, Response, parse_json, render_json
from fleetd.api.unit_operations import Author
from fleetd.api.v2.applies import make_request
from fleetd.api.v2.apply_reports import describe_plan
from fleetd.config.cluster_settings import policy_of_leader
from fleetd.model.actor import Actor
from fleetd.model.apply import Known, Stamp, plan_apply
from fleetd.model.names import InvalidName, validate_name
from fleetd.model.permission import EVERY_RIGHT
from fleetd.model.timespan import LONGEST_S
from fleetd.registry.records import LEADER, SETS, MalformedRecord
from fleetd.registry.registry import Registry
from fleetd.registry.snapshots import make_snapshot
from fleetd.scheduler.failover_delays import FailoverPolicy, Now
from fleetd.scheduler.published_losses import note_losses
from fleetd.scheduler.snapshot import Snapshot
from fleetd.store.protocol import RangeResult

if TYPE_CHECKING:
    from fleetd.api.v2.plan_reports import PlanMaker
    from fleetd.scheduler.foresight import Hypothesis

MAX_MOVES = 1000
MOST_S = 120.0  # for one plan: who may only view can suppose anything
_PLANNED = "planned"  # the id of an apply that is only planned


class PlanAbandoned(Exception):
    """Nobody waits for the plan any more."""


class Plans:
    """The resource. `shadows` returns the system unit that a name would hide, '' for none. `unix_now` is the wall
    clock, `now` a monotonic one."""

    def __init__(
        self,
        registry: Registry,
        shadows: Callable[[str], str],
        unix_now: Callable[[], float],
        offload: Offload,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._registry = registry
        self._shadows = shadows
        self._unix_now = unix_now
        self._offload = offload
        self._now = now
        self._is_busy = False

    async def post(self, request: Request, _: str) -> Response:
        """Plan what would become of the cluster if machines were drained, lost or joined, or units were applied,
        started or destroyed, or how to distribute units more evenly, and change nothing. One plan at a time is made by
        each fleetd."""
        asked = parse_json(request.body, schema.PlanRequest)
        _check(asked)
        if self._is_busy:
            raise ApiError(503, "this fleetd is making another plan: try again, or ask another machine's fleetd")
        self._is_busy = True
        is_abandoned = False
        until_s = self._now() + MOST_S

        def checkpoint() -> None:
            if is_abandoned:
                raise PlanAbandoned
            if self._now() > until_s:
                raise ApiError(503, f"the plan was not done within {MOST_S:g} s: ask for less at a time")

        try:
            now = Now(unix_s=self._unix_now())
            author = Author(Actor(request.actor.name, rights=EVERY_RIGHT), now.unix_s)  # who may look may suppose
            task = _PlanTask(self._registry, asked, author, now, self._shadows, checkpoint)
            with paused_collector():
                found = await self._registry.everything()
                return render_json(await self._offload(lambda: task.make(found)))
        finally:
            is_abandoned = True
            self._is_busy = False


def _check(asked: schema.PlanRequest) -> None:
    """Raises ApiError for a request that cannot be planned."""
    if sum(bool(each) for each in _questions(asked)) != 1:
        raise ApiError(400, f"name what is to be planned, one of: {', '.join(schema.PlanRequest.__struct_fields__)}")
    if asked.rebalance is None:
        return
    if not 1 <= asked.rebalance.max <= MAX_MOVES:
        raise ApiError(400, f"max has to be from 1 to {MAX_MOVES}")
    if not 0 <= asked.rebalance.min_age <= LONGEST_S:
        raise ApiError(400, "minAge has to be a number of seconds, at most ten years")
    for name in asked.rebalance.units:
        try:
            validate_name(name)
        except InvalidName as error:
            raise ApiError(400, f"{name}: {error}") from error


def _questions(asked: schema.PlanRequest) -> tuple[object, ...]:
    """What is asked: each is true if it is there."""
    is_given = (asked.rebalance is not None, asked.apply is not None)
    return (asked.drain, asked.operations, asked.lose, asked.join, *is_given)


class _PlanTask(msgspec.Struct, frozen=True):
    """Makes one plan, in a thread. `author` is who asks; `shadows` as for Plans."""

    registry: Registry
    asked: schema.PlanRequest
    author: Author
    now: Now
    shadows: Callable[[str], str]
    checkpoint: Callable[[], None]

    def make(self, found: RangeResult) -> schema.Plan:
        """The plan, from all records of the store."""
        from fleetd.api.v2.plan_reports import PlanMaker  # most daemons are never asked for a plan

        asked, now = self.asked, self.now
        snapshot = make_snapshot(self.registry, found.items)
        note_losses(snapshot, now)
        policy = _read_policy(self.registry, found, snapshot)
        maker = PlanMaker(snapshot, found.revision, now, policy, self.checkpoint)
        if asked.rebalance is not None:
            for name in asked.rebalance.units:
                if not snapshot.group_units(name) and name not in snapshot.units:
                    raise ApiError(400, f"unit {name} does not exist")
            return maker.rebalance(asked.rebalance)
        if asked.apply is not None:
            return self._apply(maker, found, snapshot, asked.apply)
        return maker.foresee(self._suppose(snapshot, found.revision), [each.machine for each in asked.drain])

    def _suppose(self, snapshot: Snapshot, revision: int) -> "Hypothesis":
        """What is to be supposed. Raises ApiError."""
        from fleetd.api.v2 import suppositions

        asked = self.asked
        if asked.drain:
            return suppositions.suppose_drained(snapshot, asked.drain, self.now)
        if asked.lose:
            return suppositions.suppose_lost(snapshot, asked.lose)
        if asked.join:
            return suppositions.suppose_joined(snapshot, asked.join)
        return suppositions.suppose_changed(
            snapshot, asked.operations, revision=revision, shadows=self.shadows, author=self.author
        )

    def _apply(self, maker: "PlanMaker", found: RangeResult, snapshot: Snapshot, asked: schema.Apply) -> schema.Plan:
        """What becomes of the units if these are applied; nothing becomes of them if that would be refused."""
        from fleetd.api.v2.suppositions import suppose_applied

        prefix = self.registry.key(SETS) + "/"
        sets = {item.key.removeprefix(prefix): SETS.decode(item) for item in found.items if item.key.startswith(prefix)}
        known = Known(snapshot.units, sets, snapshot.applies, snapshot.rollouts)
        stamp = Stamp(_PLANNED, self.author.actor.name, asked.note, self.now.unix_s)
        plan = plan_apply(make_request(asked, self.shadows), known, stamp)
        applied = describe_plan(plan, snapshot.decisions, asked.contents)
        return msgspec.structs.replace(
            maker.foresee(suppose_applied(snapshot, plan, _PLANNED, found.revision)), applied=applied
        )


def _read_policy(registry: Registry, found: RangeResult, snapshot: Snapshot) -> FailoverPolicy:
    """The policy of the leader."""
    key = registry.key(LEADER)
    try:
        leader = next((LEADER.decode(item) for item in found.items if item.key == key), None)
    except MalformedRecord:
        leader = None
    leading = snapshot.machines.get(leader.machine) if leader else None
    return policy_of_leader(snapshot.cluster_settings, leading)
