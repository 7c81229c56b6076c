"""plan_cluster: what the leader writes next, each change with its reason.

The pipeline: for each unit concerned, see what becomes of the copies that there are (copies.py); then find a machine
for those that have none, units bound by MachineOf together; then write down for each why it is where it is or
nowhere. Pure: the same view gives the same plan, everywhere and every time; doing a plan twice changes nothing.
"""

import math
from collections.abc import Generator, Iterable, Iterator, Mapping

import msgspec

from fleetd.model.ordered import Names
from fleetd.model.placement import Wait, WaitKind
from fleetd.scheduler.allocations import release_copies, seek_homes, tend_copies
from fleetd.scheduler.failover import Failover, Waits
from fleetd.scheduler.occupancy import Room
from fleetd.scheduler.ranking import Ranking
from fleetd.scheduler.snapshot import ClusterView, Trial, scopes_of
from fleetd.scheduler.unit_plan import Draft, UnitPlan


class Plan(msgspec.Struct, frozen=True):
    """What to write, in this order; every prefix of it is a legal state of the cluster.

    `synced` are (machine, session) that have been taken in with it: to be written when the rest is. `forgotten` are
    machines that are gone, of whose sessions nothing need be kept. `waits` are (unit, when it waits no longer for the
    machine that it lost, by the leader's own clock), of the units planned for: to be planned again then.
    """

    units: tuple[UnitPlan, ...] = ()
    synced: tuple[tuple[str, str], ...] = ()
    forgotten: tuple[str, ...] = ()
    waits: tuple[tuple[str, float], ...] = ()


def plan_cluster(
    view: ClusterView,
    changed: Iterable[str] | None = None,
    *,
    now_s: float = 0.0,
    overdue: frozenset[tuple[str, str]] = frozenset(),
    failover: Failover | None = None,
) -> Plan:
    """The whole of what plan_in_slices makes, at once."""
    slices = plan_in_slices(view, changed, now_s=now_s, overdue=overdue, failover=failover)
    while True:
        try:
            next(slices)
        except StopIteration as end:
            plan: Plan = end.value
            return plan


def plan_in_slices(
    view: ClusterView,
    changed: Iterable[str] | None = None,
    *,
    now_s: float = 0.0,
    overdue: frozenset[tuple[str, str]] = frozenset(),
    failover: Failover | None = None,
) -> Generator[None, None, Plan]:
    """What has to change for the units that are concerned (see ClusterView.apply; None: for all that are known).

    Pauses after each unit or so, for a plan can take long: whoever asked may give it up there.

    `now_s` is Unix time, for people to read. `overdue` are the (machine, unit) of retiring copies whose time is up.
    `failover` says what follows when machines are lost (None: their units go elsewhere at once).
    """
    trial = Trial(view)
    waits = Waits(view, failover or Failover(), now_s)
    scopes = scopes_of(changed or ())
    names = view.known_units() if changed is None else view.with_companions(scopes)
    drafts = {name: Draft.begin(trial, name, now_s, scopes.get(name)) for name in names}
    standing = [draft for draft in drafts.values() if draft.placements]
    templates = [draft for draft in drafts.values() if draft.is_template]  # they follow their sockets
    for draft in standing:
        release_copies(draft, waits)
    for draft in standing:
        if draft.is_template:
            continue
        tend_copies(draft, waits)
        yield
    for name in _peers_first(view, [name for name in names if name in view.units and not drafts[name].is_template]):
        seek_homes(drafts[name], overdue)  # those who follow others find them where they will be
        yield
    homeless = [name for name, draft in drafts.items() if draft.homeless]
    placed = (yield from _place_homeless(Ranking(trial), homeless, drafts)) if homeless else {}
    for draft in templates:
        tend_copies(draft, waits)
        seek_homes(draft, overdue)
        yield
    # By machine, so that each gets its orders in as few transactions as may be. What a unit needs, or hinders, is on
    # the same machine, where the turns in which they were placed still hold.
    ordered = sorted(drafts.values(), key=lambda draft: (*draft.turn(), placed.get(draft.name, 0)))
    plans: list[UnitPlan] = []
    for draft in ordered:
        plans += [plan] if (plan := draft.finish()) is not None else []
        yield
    ends = tuple((draft.name, draft.waits_until_s) for draft in drafts.values() if math.isfinite(draft.waits_until_s))
    return Plan(tuple(plans), tuple(view.unsynced()), tuple(view.forgotten()), ends)


def _place_homeless(
    ranking: Ranking, homeless: list[str], drafts: dict[str, Draft]
) -> Generator[None, None, dict[str, int]]:
    """Find machines for these units. Returns those that were placed, each with its turn, counted from 1."""
    view = drafts[homeless[0]].view
    awaited = {name for draft in drafts.values() if draft.waits for name in view.bound_to(draft.name)}
    placed: dict[str, int] = {}
    for group in _groups(view, homeless):
        late = "" if awaited.isdisjoint(group) else _latecomer(view, group, drafts)
        for name in group if late else ():
            wait = Wait(WaitKind.UNIT, late)
            drafts[name].wait(wait, f"waits for {late}, which {drafts[late].waits}")
        for name in () if late else _place_group(ranking, group, drafts):
            placed[name] = len(placed) + 1
        yield
    return placed


def _groups(view: ClusterView, homeless: list[str]) -> Iterator[list[str]]:
    """The units joined by MachineOf into groups to be placed as one; in each, peers before those who follow them."""
    waiting = dict.fromkeys(homeless)
    for name in homeless:
        if not view.bound_to(name):
            yield [name]
            continue
        group: Names = {}
        stack = [name]
        while stack:
            member = stack.pop()
            if member in waiting:
                del waiting[member]
                group[member] = None
                stack.extend(view.bound_to(member))
        if group:
            yield _peers_first(view, sorted(group))


def _peers_first(view: ClusterView, group: list[str]) -> list[str]:
    """The group so that each unit comes after those it names in MachineOf (units that name each other: by name)."""
    following = [name for name in group if view.requirements(name).machine_of]
    if len(group) == 1 or not following:
        return group
    turns = {name: turn for turn, name in enumerate(group)}
    peers = {name: _other_peers(view, name, turns) for name in following}  # those that have not had their turn
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


def _other_peers(view: ClusterView, name: str, group: Mapping[str, int]) -> Names:
    """Those of the group that the unit names in MachineOf, itself apart."""
    return {peer: None for peer in view.requirements(name).machine_of if peer in group and peer != name}


def _latecomer(view: ClusterView, group: list[str], drafts: dict[str, Draft]) -> str:
    """The unit bound to this group that is to be placed with it, but whose former copy is still on its way out."""
    bound = (other for name in group for other in view.bound_to(name))
    return next(other for other in bound if other in drafts and drafts[other].waits)


def _place_group(ranking: Ranking, group: list[str], drafts: dict[str, Draft]) -> list[str]:
    """Place the group on the best machine that takes all of it. Failing that, without those who fit on no machine
    even in this company; failing that too, each by itself. Returns who was placed, in order."""
    choice = ranking.choose(group)
    if choice and (len(group) == 1 or _fit_together(drafts[group[0]].view, group)):
        why = "the only machine that fits" if choice.is_only else "fits"
        company = f", with {', '.join(group)}" if len(group) > 1 else ""
        for name in group:
            drafts[name].place(choice.machine, why + company)
            ranking.note(name, choice.machine)
        return group
    if len(group) == 1:
        return []
    able = [name for name in group if ranking.takes(name, group)]
    if len(able) < len(group):
        return _place_group(ranking, able, drafts) if able else []
    return [name for alone in group for name in _place_group(ranking, [alone], drafts)]


def _fit_together(view: ClusterView, group: list[str]) -> bool:
    """Whether no two of these units conflict."""
    room = Room()
    for name in group:
        requirements = view.requirements(name)
        if any(room.conflicting(name, requirements)):
            return False
        room.add(name, requirements, staying=True)
    return True
