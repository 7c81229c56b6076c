"""plan_cluster: what the leader writes next, each change with its reason.

The pipeline: for each unit concerned, see what becomes of the copies that there are (copies.py); then find a machine
for those that have none, units bound by MachineOf together; then write down for each why it is where it is or
nowhere. Pure: the same view gives the same plan, everywhere and every time; doing a plan twice changes nothing.
"""

from collections.abc import Iterable

import msgspec

from fleetd.core.cluster import ClusterView, Room, Trial
from fleetd.core.copies import Draft, UnitPlan, draft_unit
from fleetd.core.feasibility import Question, count_refusals, rank, why_not
from fleetd.core.unit import Requirements


class Plan(msgspec.Struct, frozen=True):
    """What to write, in this order; every prefix of it is a legal state of the cluster.

    `synced` are (machine, session) that have been taken in with it: to be written when the rest is. `forgotten` are
    machines that are gone, of whose sessions nothing need be kept.
    """

    units: tuple[UnitPlan, ...] = ()
    synced: tuple[tuple[str, str], ...] = ()
    forgotten: tuple[str, ...] = ()


def plan_cluster(
    view: ClusterView,
    changed: Iterable[str] | None = None,
    *,
    now_s: float = 0.0,
    overdue: frozenset[tuple[str, str]] = frozenset(),
) -> Plan:
    """What has to change for the units in `changed` (None: for all that are known).

    `now_s` is Unix time, for people to read. `overdue` are the (machine, unit) of retiring copies whose time is up.
    """
    trial = Trial(view)
    names = view.known_units() if changed is None else sorted(dict.fromkeys(changed))
    drafts = {name: draft_unit(trial, name, now_s, overdue) for name in names}
    for group in _groups(trial, [name for name, draft in drafts.items() if draft.homeless]):
        late = _latecomer(trial, group, drafts)
        for name in group if late else ():
            drafts[name].wait(f"waits for {late}, which is still being stopped")
        if not late:
            _place_group(trial, group, drafts)
    plans = [plan for draft in drafts.values() if (plan := draft.finish()) is not None]
    plans.sort(key=lambda plan: plan.places)  # what is taken back comes before what is placed
    synced = tuple(
        (machine.id, machine.session)
        for machine in view.machines.values()
        if machine.session and view.synced.get(machine.id) != machine.session
    )
    forgotten = tuple(machine for machine in view.synced if view.is_dead(machine))
    return Plan(tuple(plans), synced, forgotten)


def _groups(trial: Trial, homeless: list[str]) -> list[list[str]]:
    """The units joined by MachineOf into groups to be placed as one; in each, peers before those who follow them."""
    waiting = dict.fromkeys(homeless)
    neighbours: dict[str, list[str]] = {name: [] for name in homeless}
    for name in homeless:
        for peer in trial.view.requirements(name).machine_of:
            if peer in waiting:
                neighbours[name].append(peer)
                neighbours[peer].append(name)
    groups = []
    seen: dict[str, None] = {}
    for name in homeless:
        group: list[str] = []
        stack = [name]
        while stack:
            member = stack.pop()
            if member not in seen:
                seen[member] = None
                group.append(member)
                stack.extend(neighbours[member])
        if group:
            groups.append(_peers_first(trial.view, sorted(group)))
    return groups


def _peers_first(view: ClusterView, group: list[str]) -> list[str]:
    """The group so that each unit comes after those it names in MachineOf (units that name each other: by name)."""
    ordered: dict[str, None] = {}
    while len(ordered) < len(group):
        rest = [name for name in group if name not in ordered]
        free = [n for n in rest if not any(p in rest and p != n for p in view.requirements(n).machine_of)]
        ordered |= dict.fromkeys(free or rest[:1])
    return list(ordered)


def _latecomer(trial: Trial, group: list[str], drafts: dict[str, Draft]) -> str:
    """A unit bound to this group that needs a home with it, but whose former copy is still on its way out, or ''."""
    for name in group:
        for other in trial.view.bound_to(name):
            if other not in group and trial.view.is_wanted(other) and not trial.home(other):
                placements = drafts[other].placements if other in drafts else trial.view.placements.get(other, {})
                if any(placement.withdrawn for placement in placements.values()):
                    return other
    return ""


def _place_group(trial: Trial, group: list[str], drafts: dict[str, Draft]) -> None:
    """Place the group on the best machine that takes all of it; failing that, each of its units by itself."""
    company = tuple(group) if len(group) > 1 else ()
    requirements = {name: trial.view.requirements(name) for name in group}
    machines = sorted(trial.view.machines)
    refusals: list[str] = []
    best: tuple[tuple[bool, bool, int, int, str], str] | None = None
    for machine in machines:
        question = Question(trial, group[0], requirements[group[0]], machine, company)
        reason = _why_not_all(trial, requirements, machine) if company else why_not(question)
        if reason:
            refusals.append(reason)
        else:
            best = min(best or (rank(question), machine), (rank(question), machine))
    if best:
        why = "fits" if len(machines) > len(refusals) + 1 else "the only machine that fits"
        for position, name in enumerate(group):
            drafts[name].position = position
            drafts[name].place(best[1], why + (f", with {', '.join(group)}" if company else ""))
    elif company:
        for name in group:
            _place_group(trial, [name], drafts)
    else:
        drafts[group[0]].explain(count_refusals(refusals))


def _why_not_all(trial: Trial, requirements: dict[str, Requirements], machine: str) -> str:
    """The first reason why the units do not all fit on the machine together, or ''."""
    company = tuple(requirements)
    for name, wanted in requirements.items():
        reason = why_not(Question(trial, name, wanted, machine, company))
        if reason:
            return reason
    return _why_not_together(requirements)


def _why_not_together(requirements: dict[str, Requirements]) -> str:
    """The first conflict among units that would come to one machine together, or ''."""
    room = Room()
    for name, wanted in requirements.items():
        other = next(room.conflicting(name, wanted), None)
        if other is not None:
            return f"conflicts with {other}"
        room.add(name, wanted, staying=True)
    return ""
