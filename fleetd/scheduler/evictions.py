"""Evictions that wait: a unit that may not stay where it runs is stopped when its next machine has what it needs.

That holds where nothing is wrong with what runs: the metadata of its machine have changed, or another unit replaces it
there. The units that follow it (MachineOf=) wait and go with it.
"""

from collections.abc import Sequence

from fleetd.model.content import is_same_content
from fleetd.model.ordered import reachable
from fleetd.model.reason import BEST, Rejection, RejectionKind, WaitingForDownload
from fleetd.scheduler.actions import Place, Withdraw
from fleetd.scheduler.proposal import Proposal
from fleetd.scheduler.ranking import Ranking
from fleetd.scheduler.relocation import find_prepared, leave, prepare
from fleetd.scheduler.unit_plan import UnitPlanBuilder


class Evictions:
    """The evictions of one pass."""

    def __init__(self, proposal: Proposal) -> None:
        self._proposal = proposal
        self._ranking: Ranking | None = None  # most passes evict nothing that has to wait

    def decide(self, plan: UnitPlanBuilder, machine: str, eviction: Withdraw) -> Place | Withdraw:
        """Evict the unit from the machine where it is, or have it stay there until its next machine is ready for it."""
        assert eviction.because is not None
        group = self._with_followers(plan, machine)
        if not self._may_wait(plan, machine, eviction.because, group):
            return eviction
        goal = find_prepared(self._proposal, group) or self._choose(group, machine)
        if not goal:
            return eviction
        wait = prepare(self._proposal, group, machine, goal, self._ranking)
        if wait is not None:
            for each in group:
                each.reason = wait
            return Place(machine, wait)
        if any(_prepares(each, goal) for each in group):
            leave(self._proposal, group, machine, goal, eviction.because, self._ranking)
            for each in group:
                each.arrival = BEST
        return eviction

    def _with_followers(self, plan: UnitPlanBuilder, machine: str) -> list[UnitPlanBuilder]:
        """The unit, and those on the machine that may not stay there without it."""
        units, snapshot = self._proposal.units, self._proposal.snapshot

        def followers(gone: str) -> list[str]:
            near = (units[other] for other in snapshot.colocated_with(gone) if other in units)
            return [other.name for other in near if gone in other.requirements.machine_of and other.assigned == machine]

        return [units[name] for name in sorted(reachable((plan.name,), followers))]

    def _may_wait(
        self, plan: UnitPlanBuilder, machine: str, because: Rejection, group: Sequence[UnitPlanBuilder]
    ) -> bool:
        """True if something is to be downloaded elsewhere before, and the unit may run on here until then. Where it
        must not run any more, it waits for one machine: the failure of that one ends the wait."""
        if machine in plan.leaves or not any(each.requirements.downloads for each in group):
            return False  # what drains and moves have leave, they have waited for
        assert plan.unit is not None
        if not is_same_content(plan.placements[machine], plan.unit):
            return False  # content that may not run here has come to its turn
        if because.kind is RejectionKind.REPLACED:
            return True
        return because.kind is RejectionKind.METADATA and not self._has_failed(plan)

    def _has_failed(self, plan: UnitPlanBuilder) -> bool:
        reason = plan.before.reason if plan.before else None
        if not isinstance(reason, WaitingForDownload):
            return False
        return any(self._proposal.snapshot.refusal(name, reason.machine) for name in reason.units)

    def _choose(self, group: Sequence[UnitPlanBuilder], machine: str) -> str:
        self._ranking = self._ranking or Ranking(self._proposal)
        choice = self._ranking.choose([each.name for each in group], without=machine)
        return choice.machine if choice else ""


def _prepares(plan: UnitPlanBuilder, machine: str) -> bool:
    return machine in plan.placements and plan.placements[machine].prepares
