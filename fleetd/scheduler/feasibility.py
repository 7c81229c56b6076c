"""Whether a unit fits on a machine, and why not: rules tested in order, of which the first that fails is the reason."""

from collections import Counter
from collections.abc import Iterable, Iterator

import msgspec

from fleetd.model.constraints import Requirements
from fleetd.model.names import is_template
from fleetd.model.reason import Rejection, RejectionCount, RejectionKind, render_rejection
from fleetd.scheduler.proposal import Proposal
from fleetd.scheduler.snapshot import Snapshot


class Candidate(msgspec.Struct, frozen=True, gc=False):
    """A unit and a machine it may be placed on. `group` are the units that would be placed there with it. `runs_there`:
    it runs there already, without being placed there."""

    proposal: Proposal
    name: str
    requirements: Requirements
    machine: str
    group: tuple[str, ...] = ()
    runs_there: bool = False

    @property
    def snapshot(self) -> Snapshot:
        """The cluster as it is without the proposal."""
        return self.proposal.snapshot


NO_SOCKET = Rejection(RejectionKind.NO_SOCKET)


def is_on_many(name: str, requirements: Requirements) -> bool:
    """True for a unit that is placed wherever it fits: a global one, or a template, which is where its sockets are."""
    return requirements.is_global or is_template(name)


# Each rule returns why it does not hold, or None where it does.


def accepts_work(candidate: Candidate) -> Rejection | None:
    """A machine that is leaving or parked takes no new unit. A cordoned one takes those that are to be on many
    machines, and keeps what runs there."""
    return candidate.snapshot.effective[candidate.machine].rejects or is_not_cordoned(candidate)


def is_not_cordoned(candidate: Candidate) -> Rejection | None:
    """The second half of that."""
    is_exempt = candidate.runs_there or is_on_many(candidate.name, candidate.requirements)
    return None if is_exempt else candidate.snapshot.effective[candidate.machine].cordon


def meets_constraints(candidate: Candidate) -> Rejection | None:
    """The machine has the id (MachineID=) and the metadata (MachineMetadata=) that the unit asks for, and a fleetd that
    knows all that the unit needs."""
    machine_index = candidate.snapshot.machine_index
    bit = machine_index.bits[candidate.machine]
    if machine_index.matching(candidate.requirements) & bit:
        return None
    return next(found for found, machines in machine_index.rejections(candidate.requirements) if machines & bit)


def accepts(candidate: Candidate) -> Rejection | None:
    """The machine has no unit of its own of this name, which this one would shadow, and its fleet.conf takes it."""
    snapshot, name, machine = candidate.snapshot, candidate.name, candidate.machine
    refusal = snapshot.refusal(name, machine) or (snapshot.limit(name, machine) if snapshot.limited else "")
    return Rejection(RejectionKind.REFUSED, refusal) if refusal else None


def has_peers(candidate: Candidate) -> Rejection | None:
    """Every unit of MachineOf= is on this machine, or is placed there in the same group."""
    return next(missing_peers(candidate), None)


def missing_peers(candidate: Candidate) -> Iterator[Rejection]:
    """The units of MachineOf= that are not."""
    for peer in candidate.requirements.machine_of:
        if (
            peer not in candidate.proposal.occupancy(candidate.machine).staying
            and peer not in candidate.group
            and peer != candidate.name
        ):
            yield Rejection(RejectionKind.NO_PEER, peer)


def has_sockets(candidate: Candidate) -> Rejection | None:
    """A socket on this machine starts instances of the unit, if that is a template."""
    if not is_template(candidate.name):
        return None
    staying = candidate.proposal.occupancy(candidate.machine).staying
    return None if any(socket in staying for socket in candidate.snapshot.sockets(candidate.name)) else NO_SOCKET


def conflict(candidate: Candidate) -> Rejection | None:
    """No unit on this machine conflicts with this one, by the patterns of either (Conflicts=)."""
    occupancy = candidate.proposal.occupancy(candidate.machine)
    if not occupancy.may_conflict(candidate.name, candidate.requirements):
        return None
    first = min(occupancy.conflicting(candidate.name, candidate.requirements), default="")
    return Rejection(RejectionKind.CONFLICT, first) if first else None


def rejection(candidate: Candidate) -> Rejection | None:
    """Why the machine does not take the unit, by the first rule that does not hold; None where it fits."""
    return accepts_work(candidate) or meets_constraints(candidate) or rejection_by_occupants(candidate)


def rejection_by_occupants(candidate: Candidate) -> Rejection | None:
    """The same for a machine that accepts work and meets the constraints: the rules left are about the other units
    there. MachineIndex answers the first two rules for all machines at once."""
    return accepts(candidate) or has_sockets(candidate) or has_peers(candidate) or conflict(candidate)


def every_rejection(candidate: Candidate) -> tuple[Rejection, ...]:
    """All that keeps the machine from taking the unit, in the order of the rules; the first is what `rejection`
    returns. Of units that conflict, all are named."""
    snapshot, machine, requirements = candidate.snapshot, candidate.machine, candidate.requirements
    effective, index = snapshot.effective[machine], snapshot.machine_index
    found = [effective.rejects, is_not_cordoned(candidate)]
    found += [each for each, machines in index.missing(requirements) if machines & index.bits[machine]]
    found += [accepts(candidate), has_sockets(candidate), *missing_peers(candidate)]
    others = candidate.proposal.occupancy(machine).conflicting(candidate.name, requirements)
    found += [Rejection(RejectionKind.CONFLICT, other) for other in sorted(dict.fromkeys(others))]
    return tuple(each for each in found if each is not None)


def eviction_reason(candidate: Candidate) -> Rejection | None:
    """Why the unit may not stay where it is, or None. Of two units that conflict, the one changed later is evicted."""
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
    return Rejection(RejectionKind.CONFLICT, first) if first else None


def find_stopping(proposal: Proposal, name: str) -> tuple[str, str] | None:
    """For a unit that fits nowhere: (other unit, machine) where only units that are being stopped conflict with it."""
    requirements = proposal.requirements(name)
    machine_index = proposal.snapshot.machine_index
    for machine in machine_index.ids(machine_index.accepting_matches(requirements)):
        occupancy = proposal.occupancy(machine)
        candidate = Candidate(proposal, name, requirements, machine)
        if accepts(candidate) or has_peers(candidate) or not occupancy.may_conflict(name, requirements):
            continue
        conflicting = sorted(occupancy.conflicting(name, requirements))
        if conflicting and not any(other in occupancy.staying for other in conflicting):
            return conflicting[0], machine
    return None


def count_rejections(proposal: Proposal, name: str, here: Iterable[str] = ()) -> tuple[RejectionCount, ...]:
    """How many machines, except those in `here`, reject the unit for each reason: the most frequent first, then by
    sentence. Rules of MachineIndex are counted without asking each machine."""
    requirements = proposal.requirements(name)
    machine_index = proposal.snapshot.machine_index
    counts: Counter[Rejection] = Counter()
    rest = ~machine_index.mask(here)
    taking = machine_index.admitting if is_on_many(name, requirements) else machine_index.accepting
    for found, machines in machine_index.rejecting.items():
        counts[found] = (machines & rest & ~taking).bit_count()
    rest &= taking
    for found, machines in machine_index.rejections(requirements):
        counts[found] = (machines & rest).bit_count()
    for machine in machine_index.ids(rest & machine_index.matching(requirements)):
        rejected = rejection_by_occupants(Candidate(proposal, name, requirements, machine))
        if rejected:
            counts[rejected] += 1
    rejections = [RejectionCount(found, count) for found, count in counts.items() if count]
    return tuple(sorted(rejections, key=lambda each: (-each.machines, render_rejection(each.rejection))))
