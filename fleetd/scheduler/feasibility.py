"""Whether a unit fits on a machine, and why not.

The rules are tested in order; the first that fails names the reason. Nothing here changes anything:
planner.py asks, and decides what follows.
"""

from collections import Counter
from collections.abc import Iterable

import msgspec

from fleetd.model.machine import MachineMode
from fleetd.model.names import is_template
from fleetd.model.unit import Requirements
from fleetd.scheduler.snapshot import ClusterView, Trial


class Question(msgspec.Struct, frozen=True, gc=False):
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
    return "" if mode is MachineMode.READY else _turns_away(mode)


def _turns_away(mode: MachineMode) -> str:
    return "machine is parked (its fleetd was stopped)" if mode is MachineMode.PARKED else f"machine is {mode}"


def suits(question: Question) -> str:
    """The machine has the id (reference 2.3) and the metadata (2.4) that the unit asks for."""
    sites = question.view.sites
    bit = sites.bits[question.machine]
    if sites.suiting(question.requirements) & bit:
        return ""
    return next(reason for reason, machines in sites.refusals(question.requirements) if machines & bit)


def accepts(question: Question) -> str:
    """The machine takes a unit of this name: it has none of its own that this one would hide."""
    refusal = question.view.refusal(question.name, question.machine)
    return refusal and f"machine {refusal}"


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


def has_sockets(question: Question) -> str:
    """For a template: a socket on this machine starts instances of it."""
    if not is_template(question.name):
        return ""
    staying = question.trial.room(question.machine).staying
    return (
        "" if any(socket in staying for socket in question.view.sockets(question.name)) else "no socket of it is there"
    )


def has_no_conflict(question: Question) -> str:
    """Nothing on this machine conflicts with the unit, by its patterns or by theirs (reference 2.6)."""
    room = question.trial.room(question.machine)
    if not room.may_conflict(question.name, question.requirements):
        return ""
    first = min(room.conflicting(question.name, question.requirements), default="")
    return first and f"conflicts with {first}"


def why_not(question: Question) -> str:
    """The first reason why the unit does not fit on the machine, or '' if it does."""
    return takes_work(question) or suits(question) or why_not_beside(question)


def why_not_beside(question: Question) -> str:
    """The same on a machine that takes work and suits the unit (machine_index.py tells of many at once): only what else
    is there can be a reason."""
    return accepts(question) or has_sockets(question) or has_peers(question) or has_no_conflict(question)


def why_leave(question: Question) -> str:
    """Why a unit may not stay where it is, or ''. Of two units that conflict, the one changed later must go."""
    reason = suits(question) or has_sockets(question) or has_peers(question)
    room = question.trial.room(question.machine)
    if reason or not room.may_conflict(question.name, question.requirements):
        return reason
    units = question.view.units
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


def find_departing(trial: Trial, name: str) -> tuple[str, str] | None:
    """Of a unit that fits nowhere: (unit, machine) of what is on its way out there. Nothing else, but for others that
    are so too, keeps this one from fitting there."""
    requirements = trial.view.requirements(name)
    sites = trial.view.sites
    for machine in sites.list(sites.suiting_for_work(requirements)):
        room = trial.room(machine)
        question = Question(trial, name, requirements, machine)
        if accepts(question) or has_peers(question) or not room.may_conflict(name, requirements):
            continue
        hindering = sorted(room.conflicting(name, requirements))
        if hindering and not any(other in room.staying for other in hindering):
            return hindering[0], machine
    return None


def count_refusals(trial: Trial, name: str, here: Iterable[str] = ()) -> dict[str, int]:
    """Why the unit is not on the machines that there are, but for those that it is on: how many give each reason, the
    commonest first, then in the order of the alphabet. What all give alike is counted without asking each."""
    requirements = trial.view.requirements(name)
    sites = trial.view.sites
    counts: Counter[str] = Counter()
    rest = ~sites.collect(here)
    for mode, machines in sites.modes.items():
        if mode is not MachineMode.READY:
            counts[_turns_away(mode)] = (machines & rest).bit_count()
    rest &= sites.modes[MachineMode.READY]
    for reason, machines in sites.refusals(requirements):
        counts[reason] = (machines & rest).bit_count()
    for machine in sites.list(rest & sites.suiting(requirements)):
        counts[why_not_beside(Question(trial, name, requirements, machine))] += 1
    refusals = [(reason, count) for reason, count in counts.items() if reason and count]
    return dict(sorted(refusals, key=lambda item: (-item[1], item[0])))
