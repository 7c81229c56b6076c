"""Whether a unit fits on a machine, why not, and which of the machines that it fits on is the best.

The rules are a table, tested in order; the first that fails names the reason. Nothing here changes anything:
schedule.py asks, and decides what follows.
"""

from collections import Counter
from collections.abc import Iterable

import msgspec

from fleetd.core.cluster import ClusterView, Trial
from fleetd.core.machine import MachineMode
from fleetd.core.names import parse_name
from fleetd.core.unit import Requirements


class Question(msgspec.Struct, frozen=True):
    """May this unit be on this machine? `company` are units that would come along with it."""

    trial: Trial
    name: str
    requirements: Requirements
    machine: str
    company: tuple[str, ...] = ()

    @property
    def view(self) -> ClusterView:
        """The cluster that is asked about."""
        return self.trial.view


def takes_work(question: Question) -> str:
    """A machine that is leaving or parked takes nothing new."""
    mode = question.view.machines[question.machine].mode
    return "" if mode is MachineMode.READY else f"machine is {mode}"


def is_the_machine(question: Question) -> str:
    """MachineID names one machine, by its full or its short id (reference 2.3)."""
    wanted = question.requirements.machine_id
    if wanted is None:
        return ""
    machine = question.view.machines[question.machine]
    return "" if wanted in (machine.id, machine.short_id) else f"not machine {wanted or '(empty MachineID)'}"


def has_metadata(question: Question) -> str:
    """Every key must be there with one of its alternatives (reference 2.4)."""
    for key, alternatives in question.requirements.metadata:
        if question.view.metadata[question.machine].get(key) not in alternatives:
            return f"metadata {key}={'|'.join(alternatives)} missing"
    return ""


def has_peers(question: Question) -> str:
    """Every unit of MachineOf is on this machine, or comes along (reference 2.5)."""
    for peer in question.requirements.machine_of:
        if (
            peer not in question.trial.room(question.machine).staying
            and peer not in question.company
            and peer != question.name
        ):
            return f"{peer or '(empty MachineOf)'} is not there"
    return ""


def has_no_conflict(question: Question) -> str:
    """Nothing on this machine conflicts with the unit, by its patterns or by theirs (reference 2.6)."""
    room = question.trial.room(question.machine)
    first = min(room.conflicting(question.name, question.requirements), default="")
    return first and f"conflicts with {first}"


RULES = (takes_work, is_the_machine, has_metadata, has_peers, has_no_conflict)


def why_not(question: Question) -> str:
    """The first reason why the unit does not fit on the machine, or '' if it does."""
    for rule in RULES:
        reason = rule(question)
        if reason:
            return reason
    return ""


def why_leave(question: Question) -> str:
    """Why a unit may not stay where it is, or ''. Of two units that conflict, the one changed later must go."""
    for rule in (is_the_machine, has_metadata, has_peers):
        reason = rule(question)
        if reason:
            return reason
    units = question.view.units
    room = question.trial.room(question.machine)
    mine = (units[question.name].generation, question.name)
    first = min(
        (
            other
            for other in room.conflicting(question.name, question.requirements)
            if other in room.staying and other in units and (units[other].generation, other) < mine
        ),
        default="",
    )
    return first and f"conflicts with {first}"


Rank = tuple[bool, bool, int, int, str]


def rank(question: Question) -> Rank:
    """How good a machine is that the unit fits on; the smallest is the best.

    A machine where the unit runs already; then one where nothing would push it away; then the one with the fewest
    instances of its template, so that a machine that comes up empty does not get them all; then the one with the
    fewest units; then by id.
    """
    room = question.trial.room(question.machine)
    pushed = next(room.replacing(question.name, question.requirements), None) is not None
    template = parse_name(question.name).template
    return (
        not question.view.is_running_on(question.name, question.machine),
        pushed,
        room.templates.get(template, 0) if template else 0,
        len(room.staying),
        question.machine,
    )


def count_refusals(reasons: Iterable[str]) -> dict[str, int]:
    """How many machines gave each reason ('' is none); the commonest first, then in the order of the alphabet."""
    counts = Counter(reason for reason in reasons if reason)
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))
