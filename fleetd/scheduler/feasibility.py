"""Whether a unit fits on a machine, and why not.

The rules are tested in order; the first that fails names the reason. Nothing here changes anything:
planner.py asks, and decides what follows.
"""

from collections import Counter
from collections.abc import Iterable

import msgspec

from fleetd.model.constraints import Requirements
from fleetd.model.machine import MachineMode
from fleetd.model.names import is_template
from fleetd.scheduler.snapshot import Proposal, Snapshot


class Candidate(msgspec.Struct, frozen=True, gc=False):
    """May this unit be on this machine? `company` are units that would come along with it."""

    proposal: Proposal
    name: str
    requirements: Requirements
    machine: str
    group: tuple[str, ...] = ()

    @property
    def snapshot(self) -> Snapshot:
        """The cluster that is asked about."""
        return self.proposal.snapshot


def accepts_work(candidate: Candidate) -> str:
    """A machine that is leaving or parked takes nothing new."""
    mode = candidate.snapshot.machines[candidate.machine].mode
    return "" if mode is MachineMode.READY else _turns_away(mode)


def _turns_away(mode: MachineMode) -> str:
    return "machine is parked (its fleetd was stopped)" if mode is MachineMode.PARKED else f"machine is {mode}"


def meets_constraints(candidate: Candidate) -> str:
    """The machine has the id (reference 2.3) and the metadata (2.4) that the unit asks for."""
    machine_index = candidate.snapshot.machine_index
    bit = machine_index.bits[candidate.machine]
    if machine_index.matching(candidate.requirements) & bit:
        return ""
    return next(reason for reason, machines in machine_index.rejections(candidate.requirements) if machines & bit)


def accepts(candidate: Candidate) -> str:
    """The machine takes a unit of this name: it has none of its own that this one would hide."""
    refusal = candidate.snapshot.refusal(candidate.name, candidate.machine)
    return refusal and f"machine {refusal}"


def has_peers(candidate: Candidate) -> str:
    """Every unit of MachineOf is on this machine, or comes along (reference 2.5)."""
    for peer in candidate.requirements.machine_of:
        if (
            peer not in candidate.proposal.occupancy(candidate.machine).staying
            and peer not in candidate.group
            and peer != candidate.name
        ):
            return f"{peer or '(empty MachineOf)'} is not there"
    return ""


def has_sockets(candidate: Candidate) -> str:
    """For a template: a socket on this machine starts instances of it."""
    if not is_template(candidate.name):
        return ""
    staying = candidate.proposal.occupancy(candidate.machine).staying
    return (
        ""
        if any(socket in staying for socket in candidate.snapshot.sockets(candidate.name))
        else "no socket of it is there"
    )


def conflict(candidate: Candidate) -> str:
    """Nothing on this machine conflicts with the unit, by its patterns or by theirs (reference 2.6)."""
    occupancy = candidate.proposal.occupancy(candidate.machine)
    if not occupancy.may_conflict(candidate.name, candidate.requirements):
        return ""
    first = min(occupancy.conflicting(candidate.name, candidate.requirements), default="")
    return first and f"conflicts with {first}"


def rejection(candidate: Candidate) -> str:
    """The first reason why the unit does not fit on the machine, or '' if it does."""
    return accepts_work(candidate) or meets_constraints(candidate) or rejection_by_occupants(candidate)


def rejection_by_occupants(candidate: Candidate) -> str:
    """The same on a machine that takes work and suits the unit (machine_index.py tells of many at once): only what else
    is there can be a reason."""
    return accepts(candidate) or has_sockets(candidate) or has_peers(candidate) or conflict(candidate)


def eviction_reason(candidate: Candidate) -> str:
    """Why a unit may not stay where it is, or ''. Of two units that conflict, the one changed later must go."""
    reason = meets_constraints(candidate) or has_sockets(candidate) or has_peers(candidate)
    occupancy = candidate.proposal.occupancy(candidate.machine)
    if reason or not occupancy.may_conflict(candidate.name, candidate.requirements):
        return reason
    units = candidate.snapshot.units
    mine = (units[candidate.name].generation, candidate.name)
    first = min(
        (
            other
            for other in occupancy.conflicting(candidate.name, candidate.requirements)
            if other in occupancy.staying and other in units and (units[other].generation, other) < mine
        ),
        default="",
    )
    return first and f"conflicts with {first}"


def find_stopping(proposal: Proposal, name: str) -> tuple[str, str] | None:
    """Of a unit that fits nowhere: (unit, machine) of what is on its way out there. Nothing else, but for others that
    are so too, keeps this one from fitting there."""
    requirements = proposal.snapshot.requirements(name)
    machine_index = proposal.snapshot.machine_index
    for machine in machine_index.ids(machine_index.matching_ready(requirements)):
        occupancy = proposal.occupancy(machine)
        candidate = Candidate(proposal, name, requirements, machine)
        if accepts(candidate) or has_peers(candidate) or not occupancy.may_conflict(name, requirements):
            continue
        hindering = sorted(occupancy.conflicting(name, requirements))
        if hindering and not any(other in occupancy.staying for other in hindering):
            return hindering[0], machine
    return None


def count_rejections(proposal: Proposal, name: str, here: Iterable[str] = ()) -> dict[str, int]:
    """Why the unit is not on the machines that there are, but for those that it is on: how many give each reason, the
    commonest first, then in the order of the alphabet. What all give alike is counted without asking each."""
    requirements = proposal.snapshot.requirements(name)
    machine_index = proposal.snapshot.machine_index
    counts: Counter[str] = Counter()
    rest = ~machine_index.mask(here)
    for mode, machines in machine_index.modes.items():
        if mode is not MachineMode.READY:
            counts[_turns_away(mode)] = (machines & rest).bit_count()
    rest &= machine_index.modes[MachineMode.READY]
    for reason, machines in machine_index.rejections(requirements):
        counts[reason] = (machines & rest).bit_count()
    for machine in machine_index.ids(rest & machine_index.matching(requirements)):
        counts[rejection_by_occupants(Candidate(proposal, name, requirements, machine))] += 1
    refusals = [(reason, count) for reason, count in counts.items() if reason and count]
    return dict(sorted(refusals, key=lambda item: (-item[1], item[0])))
