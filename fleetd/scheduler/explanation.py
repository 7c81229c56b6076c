"""Why a unit is on its machine, and why on no other: all rules that keep it from each, and the order among those that
fit.

It is about the cluster as it is, without the unit: what would be chosen if it were placed anew. The machines are
narrowed by one rule after the other, first by those of feasibility.py, then by the preferences of ranking.py. There are
no weights: the first rule that leaves one machine is the reason.
"""

from collections.abc import Iterable, Iterator, Sequence
from enum import StrEnum

import msgspec

from fleetd.model.reason import Rejection, RejectionKind
from fleetd.scheduler.feasibility import Candidate, every_rejection, is_on_many
from fleetd.scheduler.preference import Preference
from fleetd.scheduler.proposal import Proposal
from fleetd.scheduler.ranking import rank
from fleetd.scheduler.snapshot import Snapshot


class Requirement(StrEnum):
    """What a machine has to meet, in the order in which it is tested."""

    ACCEPTS = "accepts"  # it takes new units
    HAS = "has"  # its id, its metadata, what its fleetd can do (the rejection says which)
    TAKES = "takes"  # its fleet.conf takes this unit, and it has none of its own of this name
    SOCKETS = "sockets"  # of a template: a socket of it is there
    PEERS = "peers"  # of MachineOf=
    CONFLICTS = "conflicts"  # no unit there conflicts with it


_REQUIREMENTS = {
    RejectionKind.MACHINE_ID: Requirement.HAS,
    RejectionKind.METADATA: Requirement.HAS,
    RejectionKind.OUTDATED: Requirement.HAS,
    RejectionKind.NO_SEAL_KEY: Requirement.HAS,
    RejectionKind.REFUSED: Requirement.TAKES,
    RejectionKind.NO_SOCKET: Requirement.SOCKETS,
    RejectionKind.NO_PEER: Requirement.PEERS,
    RejectionKind.CONFLICT: Requirement.CONFLICTS,
}


class Narrowing(msgspec.Struct, frozen=True):
    """A rule that leaves fewer machines than those before it, and how many. `rejections` are what it found against the
    others, each once; `value` is what a preference has where it is best."""

    rule: Requirement | Preference
    left: int
    rejections: tuple[Rejection, ...] = ()
    value: int = 0


class Verdict(msgspec.Struct, frozen=True):
    """Why the unit is not on this machine: all `rejections`; if there are none, the `preference` by which the unit's
    machine is the better one, and its value on this machine. `is_better`: this one is, now."""

    machine: str
    rejections: tuple[Rejection, ...] = ()
    preference: Preference | None = None
    value: int = 0
    is_better: bool = False


class Explanation(msgspec.Struct, frozen=True):
    """Why a unit is on the machines `here`, in order. `narrowings` lead from all `machines`, the registered ones, to
    those that fit, and for a unit that is on one machine to the `best` of them ('': none fits); `others` are the
    machines where it is not, in order."""

    here: tuple[str, ...]
    machines: int
    best: str
    narrowings: tuple[Narrowing, ...]
    others: tuple[Verdict, ...]


def explain(snapshot: Snapshot, name: str) -> Explanation:
    """The explanation of a unit that the cluster has."""
    placements = snapshot.placements.get(name, {})
    here = tuple(machine for machine, placement in placements.items() if placement.is_active)
    explainer = _Explainer(snapshot, name, here)
    narrowings = tuple(explainer.narrow())
    best = explainer.left[0] if explainer.left and not explainer.is_on_many else ""
    return Explanation(here, len(snapshot.machines), best, narrowings, tuple(explainer.judge_others()))


class _Explainer:
    """The cluster without one unit, which is on the machines `here`. `left` are those to which `narrow` has led."""

    def __init__(self, snapshot: Snapshot, name: str, here: Sequence[str]) -> None:
        self._snapshot = snapshot
        self._name = name
        self._here = here
        self._proposal = Proposal(snapshot)
        self._requirements = snapshot.requirements(name)
        decision = snapshot.decisions.get(name)
        for machine in {
            *snapshot.placements.get(name, ()),
            *([decision.target] if decision and decision.target else ()),
        }:
            self._proposal.vacate(name, machine)
        self.is_on_many = is_on_many(name, self._requirements)
        self.left = list(snapshot.machines)
        self._rejections = {machine: self._reject(machine) for machine in snapshot.machines}

    def _reject(self, machine: str) -> tuple[Rejection, ...]:
        runs_there = machine in self._here
        return every_rejection(
            Candidate(self._proposal, self._name, self._requirements, machine, runs_there=runs_there)
        )

    def narrow(self) -> Iterator[Narrowing]:
        """The rules that leave fewer machines than those before them, in order."""
        for requirement in Requirement:
            found: dict[Rejection, None] = {}
            for machine in self.left:
                found |= dict.fromkeys(self._against(machine, requirement))
            for rejections in [[each] for each in found] if requirement is Requirement.HAS else [list(found)]:
                kept = [machine for machine in self.left if set(rejections).isdisjoint(self._rejections[machine])]
                if len(kept) < len(self.left):
                    yield Narrowing(requirement, len(kept), tuple(rejections))
                self.left = kept
        if self.is_on_many:
            return
        for preference in Preference:
            if len(self.left) <= 1:
                return
            ranks = {machine: self._rank(machine)[preference] for machine in self.left}
            best = min(ranks.values())
            kept = [machine for machine in self.left if ranks[machine] == best]
            if len(kept) < len(self.left):
                yield Narrowing(preference, len(kept), value=best)
            self.left = kept

    def judge_others(self) -> Iterator[Verdict]:
        """Why the unit is on none of the other machines."""
        mine = self._rank(self._here[0]) if self._here and self._here[0] in self._rejections else None
        for machine, rejections in self._rejections.items():
            if machine in self._here:
                continue
            if rejections or mine is None or self.is_on_many:
                yield Verdict(machine, rejections)
                continue
            theirs = self._rank(machine)
            preference = next(each for each in Preference if theirs[each] != mine[each])
            is_better = theirs[preference] < mine[preference]
            yield Verdict(machine, (), preference, theirs[preference], is_better)

    def _against(self, machine: str, requirement: Requirement) -> Iterable[Rejection]:
        return (
            each
            for each in self._rejections[machine]
            if _REQUIREMENTS.get(each.kind, Requirement.ACCEPTS) is requirement
        )

    def _rank(self, machine: str) -> dict[Preference, int]:
        """How good the machine is. Where the unit is placed it does not count as running: that is why it stays, not why
        it came."""
        runs_there = not self._here and self._snapshot.is_running_on(self._name, machine)
        return rank(self._proposal, self._name, machine, runs_there=runs_there)
