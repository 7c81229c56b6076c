"""Placement: which allocations of each unit stay, and on which machine an unplaced unit goes.

The affected units are reviewed first, so that what they vacate is free; then those that need a machine get one, units
that MachineOf= joins together.
"""

from collections.abc import Iterator, Mapping

from fleetd.model.ordered import Names
from fleetd.model.reason import BEST, ONLY, MissingSecrets, Placed, WaitingForPeer
from fleetd.scheduler.actions import Conclude, Place, Supersede, WaitForPeer, Withdraw
from fleetd.scheduler.allocation_state import AllocationState
from fleetd.scheduler.allocations import (
    decide_handover,
    decide_on_many,
    decide_release,
    decide_return,
    decide_stay,
    decide_unassigned,
    end_preparation,
    is_early,
)
from fleetd.scheduler.evictions import Evictions
from fleetd.scheduler.occupancy import Occupancy
from fleetd.scheduler.proposal import Proposal, SessionPlan
from fleetd.scheduler.ranking import Ranking
from fleetd.scheduler.snapshot import Snapshot
from fleetd.scheduler.unit_plan import UnitPlanBuilder


def place(proposal: Proposal) -> None:
    """Decide where each affected unit is."""
    plans = proposal.units
    allocated = [plan for plan in plans.values() if plan.placements]
    templates = [plan for plan in plans.values() if plan.is_template]  # placed where their sockets are: last
    for plan in allocated:
        for machine in plan.scoped_placements():
            proposal.apply(plan, decide_release(plan, machine))
        proposal.checkpoint()
    evictions = Evictions(proposal)
    for plan in allocated:
        if not plan.is_template:
            _review(proposal, plan, evictions)
    names = [name for name, plan in plans.items() if plan.unit is not None and not plan.is_template]
    for name in _peers_first(proposal.snapshot, names):  # followers after their peers, whose machine is known then
        _settle(proposal, plans[name])
    _place_unplaced(proposal)
    for plan in templates:
        _review(proposal, plan, evictions)
        _settle(proposal, plan)
    for plan in allocated:
        for machine in [machine for machine, placement in plan.placements.items() if placement.prepares]:
            proposal.apply(plan, end_preparation(plan, machine))
    proposal.last += [SessionPlan(machine, session) for machine, session in proposal.snapshot.unsynced()]


def _review(proposal: Proposal, plan: UnitPlanBuilder, evictions: Evictions) -> None:
    """Decide which allocations of the unit stay, with its present text and target."""
    if plan.is_wanted and not plan.is_on_many:
        plan.note_completion()
    for machine in plan.scoped_placements():
        action = decide_stay(proposal, plan, machine)
        if isinstance(action, Withdraw) and action.because is not None:
            action = evictions.decide(plan, machine, action)
        proposal.apply(plan, action)
    proposal.checkpoint()


def _settle(proposal: Proposal, plan: UnitPlanBuilder) -> None:
    """Place the unit where its machine is known, or mark that it needs one."""
    if plan.is_wanted and plan.is_on_many:
        _settle_on_many(proposal, plan)
    elif plan.is_wanted and not plan.is_alone():
        states = _hand_over(proposal, plan) if plan.placements or plan.states else {}
        if not plan.assigned:
            proposal.apply(plan, decide_unassigned(proposal, plan, states))
    proposal.checkpoint()


def _settle_on_many(proposal: Proposal, plan: UnitPlanBuilder) -> None:
    """Place the unit on every machine that it fits on."""
    if missing := proposal.snapshot.missing_secrets(plan.requirements):
        proposal.apply(plan, Conclude(MissingSecrets(missing)))
        return
    index = proposal.snapshot.machine_index
    matching = index.matching(plan.requirements) & index.admitting
    for machine in plan.scoped_machines():
        matches = bool(matching & index.bits[machine])
        proposal.apply(plan, decide_on_many(proposal, plan, machine, matches=matches))


def _hand_over(proposal: Proposal, plan: UnitPlanBuilder) -> Mapping[str, AllocationState]:
    """Decide about what runs beside the assigned allocation. Returns the states of the allocations after that."""
    for machine, state in plan.allocation_states().items():
        if state is AllocationState.STRAY:
            proposal.apply(plan, Supersede(machine))
    states = plan.allocation_states()
    for wanted in (AllocationState.SUPERSEDED, AllocationState.ORPHANED):
        for machine, state in states.items():
            if state is wanted and machine in proposal.snapshot.machines:
                _hand_over_one(proposal, plan, machine, state)
    return plan.allocation_states()


def _hand_over_one(proposal: Proposal, plan: UnitPlanBuilder, machine: str, state: AllocationState) -> None:
    replacement, hands_over = plan.assigned, plan.placements[machine].hands_over
    action = decide_handover(proposal, plan, machine, state)
    proposal.apply(plan, action)
    if replacement and (isinstance(action, Place) or is_early(plan, machine)):
        proposal.apply(plan, Withdraw(replacement))
    if hands_over:
        return  # the machine of the replacement says when it is too late
    since_s = proposal.snapshot.superseded_since.get((machine, plan.name), proposal.now.clock_s)
    due_s = since_s + proposal.policy.handover_timeout_s
    if due_s > proposal.now.clock_s:
        proposal.wake(plan.name, due_s)


def _place_unplaced(proposal: Proposal) -> None:
    """Find machines for the units that need one."""
    snapshot, plans = proposal.snapshot, proposal.units
    unplaced = [name for name, plan in plans.items() if plan.unplaced]
    if not unplaced:
        return
    ranking = Ranking(proposal)
    awaited = {name for plan in plans.values() if plan.waits for name in snapshot.colocated_with(plan.name)}
    for group in _groups(snapshot, unplaced):
        if awaited.isdisjoint(group):
            _place_group(proposal, ranking, group)
            _return(proposal, ranking, [name for name in group if plans[name].unplaced])
        else:
            reason = _peer_still_stopping(proposal, group)
            for name in group:
                proposal.apply(plans[name], WaitForPeer(reason))
        proposal.checkpoint()


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


def _peer_still_stopping(proposal: Proposal, group: list[str]) -> WaitingForPeer:
    """The unit that is to be placed together with this group (MachineOf=), and has still to stop elsewhere."""
    plans = proposal.units
    peers = (other for name in group for other in proposal.snapshot.colocated_with(name) if other in plans)
    return next(WaitingForPeer(peer, waits) for peer in peers if (waits := plans[peer].waits))


def _place_group(proposal: Proposal, ranking: Ranking, group: list[str]) -> None:
    """Place the group on the best machine that takes all of it. If there is none, leave out the units that fit nowhere
    even with the group; if there is still none, place each unit by itself."""
    choice = ranking.choose(group)
    if choice and (len(group) == 1 or _fit_together(proposal.snapshot, group)):
        reason = ONLY if choice.is_only else BEST
        if len(group) > 1:
            reason = Placed(reason.rule, units=tuple(group))
        for name in group:
            proposal.apply(proposal.units[name], Place(choice.machine, reason))
            proposal.turns[name] = len(proposal.turns)
            ranking.record_placement(name, choice.machine)
    elif len(group) > 1:
        able = [name for name in group if ranking.is_placeable(name, group)]
        for smaller in [able] if len(able) < len(group) else [[name] for name in group]:
            if smaller:
                _place_group(proposal, ranking, smaller)


def _return(proposal: Proposal, ranking: Ranking, group: list[str]) -> None:
    """Have those units of the group that were to move, and fit nowhere, return to the machine that they have left."""
    for name in group:
        action = decide_return(proposal, proposal.units[name], group)
        if action is not None:
            proposal.apply(proposal.units[name], action)
            ranking.record_placement(name, action.machine)


def _fit_together(snapshot: Snapshot, group: list[str]) -> bool:
    """True if no two of these units conflict."""
    occupancy = Occupancy()
    for name in group:
        requirements = snapshot.requirements(name)
        if any(occupancy.conflicting(name, requirements)):
            return False
        occupancy.add(name, requirements, staying=True)
    return True
