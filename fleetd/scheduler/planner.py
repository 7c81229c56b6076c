"""plan_cluster: what the leader writes next, with the reason of each decision.

For each affected unit: review its allocations (allocations.py); then find machines for the unplaced units, those joined
by MachineOf= together; then record why each unit is where it is or nowhere. Pure: the same snapshot gives the same
plan, and planning twice changes nothing.
"""

import math
from collections.abc import Generator, Iterable, Iterator, Mapping

import msgspec

from fleetd.model.ordered import Names
from fleetd.model.reason import BEST, ONLY, Placed, WaitingForPeer
from fleetd.scheduler.allocations import find_machines, release_allocations, review_allocations
from fleetd.scheduler.failover import FailoverDelays, FailoverPolicy
from fleetd.scheduler.occupancy import Occupancy
from fleetd.scheduler.ranking import Ranking
from fleetd.scheduler.snapshot import Proposal, Snapshot, scopes_of
from fleetd.scheduler.unit_plan import UnitPlan, UnitPlanBuilder


class Plan(msgspec.Struct, frozen=True):
    """What to write, in this order; every prefix of it is a legal state of the cluster.

    `synced` are (machine, session) that the plan takes into account, written when the rest is. `forgotten` are dead
    machines, whose sessions are deleted. `waits` are (unit, leader-clock time at which it fails over from its lost
    machine): plan these units again then.
    """

    units: tuple[UnitPlan, ...] = ()
    synced: tuple[tuple[str, str], ...] = ()
    forgotten: tuple[str, ...] = ()
    waits: tuple[tuple[str, float], ...] = ()


def plan_cluster(
    snapshot: Snapshot,
    changed: Iterable[str] | None = None,
    *,
    now_s: float = 0.0,
    overdue: frozenset[tuple[str, str]] = frozenset(),
    failover: FailoverPolicy | None = None,
) -> Plan:
    """The whole plan of plan_in_slices at once."""
    slices = plan_in_slices(snapshot, changed, now_s=now_s, overdue=overdue, failover=failover)
    while True:
        try:
            next(slices)
        except StopIteration as end:
            plan: Plan = end.value
            return plan


def plan_in_slices(
    snapshot: Snapshot,
    changed: Iterable[str] | None = None,
    *,
    now_s: float = 0.0,
    overdue: frozenset[tuple[str, str]] = frozenset(),
    failover: FailoverPolicy | None = None,
) -> Generator[None, None, Plan]:
    """Plan the units that a change affects (None: all).

    Yields about once a unit, because a plan can take long: the caller may abandon it there. `now_s` is Unix time.
    `overdue` are (machine, unit) of superseded allocations whose handover time is up. `failover` says what follows when
    machines are lost (None: their units are placed elsewhere at once).
    """
    proposal = Proposal(snapshot)
    waits = FailoverDelays(snapshot, failover or FailoverPolicy(), now_s)
    scopes = scopes_of(changed or ())
    names = snapshot.known_units() if changed is None else snapshot.with_colocated(scopes)
    builders = {name: UnitPlanBuilder.begin(proposal, name, now_s, scopes.get(name)) for name in names}
    allocated = [builder for builder in builders.values() if builder.placements]
    templates = [builder for builder in builders.values() if builder.is_template]  # placed where their sockets are
    for builder in allocated:
        release_allocations(builder, waits)
    for builder in allocated:
        if builder.is_template:
            continue
        review_allocations(builder, waits)
        yield
    for name in _peers_first(
        snapshot, [name for name in names if name in snapshot.units and not builders[name].is_template]
    ):
        find_machines(builders[name], overdue)  # followers after their peers, whose machine is known then
        yield
    unplaced = [name for name, builder in builders.items() if builder.unplaced]
    placed = (yield from _place_unplaced(Ranking(proposal), unplaced, builders)) if unplaced else {}
    for builder in templates:
        review_allocations(builder, waits)
        find_machines(builder, overdue)
        yield
    # By machine, so that an agent reads its placements from few transactions. Peers and conflicting units are on one
    # machine, where they are written in the order in which they were placed.
    ordered = sorted(builders.values(), key=lambda builder: (*builder.turn(), placed.get(builder.name, 0)))
    plans: list[UnitPlan] = []
    for builder in ordered:
        plans += [plan] if (plan := builder.finish()) is not None else []
        yield
    ends = tuple(
        (builder.name, builder.waits_until_s) for builder in builders.values() if math.isfinite(builder.waits_until_s)
    )
    return Plan(tuple(plans), tuple(snapshot.unsynced()), tuple(snapshot.forgotten()), ends)


def _place_unplaced(
    ranking: Ranking, unplaced: list[str], builders: dict[str, UnitPlanBuilder]
) -> Generator[None, None, dict[str, int]]:
    """Find machines for these units. Returns the turn of each that was placed, from 1."""
    snapshot = builders[unplaced[0]].snapshot
    awaited = {name for builder in builders.values() if builder.waits for name in snapshot.colocated_with(builder.name)}
    placed: dict[str, int] = {}
    for group in _groups(snapshot, unplaced):
        if awaited.isdisjoint(group):
            for name in _place_group(ranking, group, builders):
                placed[name] = len(placed) + 1
        else:
            reason = _peer_still_stopping(snapshot, group, builders)
            for name in group:
                builders[name].wait_for_peer(reason)
        yield
    return placed


def _groups(snapshot: Snapshot, unplaced: list[str]) -> Iterator[list[str]]:
    """The units in groups to be placed together (MachineOf=); in each, peers before their followers."""
    waiting = dict.fromkeys(unplaced)
    for name in unplaced:
        if not snapshot.colocated_with(name):
            yield [name]
            continue
        group: Names = {}
        stack = [name]
        while stack:
            member = stack.pop()
            if member in waiting:
                del waiting[member]
                group[member] = None
                stack.extend(snapshot.colocated_with(member))
        if group:
            yield _peers_first(snapshot, sorted(group))


def _peers_first(snapshot: Snapshot, group: list[str]) -> list[str]:
    """The group ordered so that each unit comes after those of its MachineOf= (units that name each other: by name)."""
    following = [name for name in group if snapshot.requirements(name).machine_of]
    if len(group) == 1 or not following:
        return group
    turns = {name: turn for turn, name in enumerate(group)}
    peers = {name: _other_peers(snapshot, name, turns) for name in following}  # still to be ordered
    followers: dict[str, list[str]] = {}
    for name in following:
        for peer in peers[name]:
            followers.setdefault(peer, []).append(name)
    ordered: Names = {}
    free = [name for name in group if not peers.get(name)]
    while len(ordered) < len(group):
        freed = []
        for name in free or [next(iter(peers))]:
            peers.pop(name, None)
            ordered[name] = None
            for follower in followers.get(name, ()):
                if follower in peers:
                    del peers[follower][name]
                    if not peers[follower]:
                        freed.append(follower)
        free = sorted(freed, key=turns.__getitem__)
    return list(ordered)


def _other_peers(snapshot: Snapshot, name: str, group: Mapping[str, int]) -> Names:
    """The units of the group that this one names in MachineOf=, without itself."""
    return {peer: None for peer in snapshot.requirements(name).machine_of if peer in group and peer != name}


def _peer_still_stopping(snapshot: Snapshot, group: list[str], builders: dict[str, UnitPlanBuilder]) -> WaitingForPeer:
    """The unit that is to be placed together with this group (MachineOf=), and has still to stop elsewhere."""
    peers = (other for name in group for other in snapshot.colocated_with(name) if other in builders)
    return next(WaitingForPeer(peer, waits) for peer in peers if (waits := builders[peer].waits))


def _place_group(ranking: Ranking, group: list[str], builders: dict[str, UnitPlanBuilder]) -> list[str]:
    """Place the group on the best machine that takes all of it. If there is none, leave out the units that fit nowhere
    even with the group; if there is still none, place each unit by itself. Returns the placed units in order."""
    choice = ranking.choose(group)
    if choice and (len(group) == 1 or _fit_together(builders[group[0]].snapshot, group)):
        reason = ONLY if choice.is_only else BEST
        if len(group) > 1:
            reason = Placed(reason.rule, units=tuple(group))
        for name in group:
            builders[name].place(choice.machine, reason)
            ranking.record_placement(name, choice.machine)
        return group
    if len(group) == 1:
        return []
    able = [name for name in group if ranking.is_placeable(name, group)]
    if len(able) < len(group):
        return _place_group(ranking, able, builders) if able else []
    return [name for single in group for name in _place_group(ranking, [single], builders)]


def _fit_together(snapshot: Snapshot, group: list[str]) -> bool:
    """True if no two of these units conflict."""
    occupancy = Occupancy()
    for name in group:
        requirements = snapshot.requirements(name)
        if any(occupancy.conflicting(name, requirements)):
            return False
        occupancy.add(name, requirements, staying=True)
    return True
