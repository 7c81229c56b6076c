"""Plans: what would become of the cluster. The member that is asked computes it, from one read of everything, in a
thread, one plan at a time; nothing is written."""

from collections.abc import Callable

from fleetd.aio import Offload
from fleetd.api import schema
from fleetd.api.http import ApiError, Request, Response, parse_json, render_json
from fleetd.api.v2.drains import refuse_held
from fleetd.config.cluster_settings import policy_of_leader
from fleetd.model.machine import Cordon, DrainRequest, MachineSettings
from fleetd.model.names import InvalidName, validate_name
from fleetd.model.timespan import LONGEST_S
from fleetd.registry.records import LEADER, MalformedRecord
from fleetd.registry.registry import Registry
from fleetd.registry.snapshots import make_snapshot
from fleetd.scheduler.failover_delays import FailoverPolicy, Now
from fleetd.scheduler.snapshot import Snapshot
from fleetd.store.protocol import RangeResult

MAX_MOVES = 1000


class PlanAbandoned(Exception):
    """Nobody waits for the plan any more."""


class Plans:
    """The resource. `unix_now` is the wall clock."""

    def __init__(self, registry: Registry, unix_now: Callable[[], float], offload: Offload) -> None:
        self._registry = registry
        self._unix_now = unix_now
        self._offload = offload
        self._is_busy = False

    async def post(self, request: Request, _: str) -> Response:
        """Plan what would become of the cluster if machines were drained, or how to distribute units more evenly, and
        change nothing. One plan at a time is made by each fleetd."""
        asked = parse_json(request.body, schema.PlanRequest)
        _check(asked)
        if self._is_busy:
            raise ApiError(503, "this fleetd is making another plan: try again, or ask another machine's fleetd")
        self._is_busy = True
        is_abandoned = False

        def checkpoint() -> None:
            if is_abandoned:
                raise PlanAbandoned

        try:
            now = Now(unix_s=self._unix_now())
            found = await self._registry.everything()
            return render_json(await self._offload(lambda: _make(self._registry, found, asked, now, checkpoint)))
        finally:
            is_abandoned = True
            self._is_busy = False


def _check(asked: schema.PlanRequest) -> None:
    """Raises ApiError for a request that cannot be planned."""
    if bool(asked.drain) == (asked.rebalance is not None):
        raise ApiError(400, "name either the machines that are to be drained, or how to rebalance")
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


def _make(
    registry: Registry, found: RangeResult, asked: schema.PlanRequest, now: Now, checkpoint: Callable[[], None]
) -> schema.Plan:
    """The plan, from all records of the store."""
    from fleetd.api.v2.plan_reports import PlanMaker  # most daemons are never asked for a plan

    snapshot = make_snapshot(registry, found.items)
    # Whether they are dead is known to the leader, which has waited for their units if so: those stay where they are.
    snapshot.away = frozenset(snapshot.absent())
    maker = PlanMaker(snapshot, found.revision, now, _read_policy(registry, found, snapshot), checkpoint)
    if asked.rebalance is not None:
        for name in asked.rebalance.units:
            if not snapshot.group_units(name) and name not in snapshot.units:
                raise ApiError(400, f"unit {name} does not exist")
        return maker.rebalance(asked.rebalance)
    return maker.drain(asked.drain, {each.machine: _suppose_drained(snapshot, each, now) for each in asked.drain})


def _suppose_drained(snapshot: Snapshot, asked: schema.PlannedDrain, now: Now) -> MachineSettings:
    """The settings of a machine as its drain would make them. Raises ApiError if it cannot be drained."""
    machine, settings = snapshot.machines.get(asked.machine), snapshot.settings.get(asked.machine)
    if machine is None and settings is None and asked.machine not in snapshot.synced:
        raise ApiError(400, f"unknown machine {asked.machine}: give the full id of one that is in the cluster")
    refuse_held(machine)
    settings = settings or MachineSettings()
    drain = DrainRequest(at=now.unix_s, with_globals=asked.with_globals, force=asked.force)
    return MachineSettings(settings.metadata, settings.cordon or Cordon(at=now.unix_s), drain)


def _read_policy(registry: Registry, found: RangeResult, snapshot: Snapshot) -> FailoverPolicy:
    """The policy of the leader."""
    key = registry.key(LEADER)
    try:
        leader = next((LEADER.decode(item) for item in found.items if item.key == key), None)
    except MalformedRecord:
        leader = None
    leading = snapshot.machines.get(leader.machine) if leader else None
    return policy_of_leader(snapshot.cluster_settings, leading)
