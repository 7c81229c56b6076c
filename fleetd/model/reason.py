"""Why a unit is where it is, waits, or cannot be placed: as data, and rendered in English by `render`.

The leader stores reasons with its decisions; programs decide by the data and print the sentence.
"""

from enum import StrEnum

import msgspec

from fleetd.model.decoding import Count
from fleetd.model.machine import SHORT_ID_LENGTH
from fleetd.model.timespan import render_moment


class RejectionKind(StrEnum):
    """Why one machine does not take, or keep, a unit. `subject` of the Rejection is given in brackets."""

    LEAVING = "leaving"  # the machine leaves the cluster
    PARKED = "parked"  # its fleetd was stopped
    DRAINED = "drained"  # an operator drains the machine
    REBOOTS = "reboots"  # the machine is about to be rebooted
    ABSENT = "absent"  # of a machine that an operator named: it is not registered
    CORDONED = "cordoned"  # an operator cordoned the machine: it takes only global units (why, '' if not given)
    NO_SEAL_KEY = "no-seal-key"  # the unit has secrets, and the machine no key to seal them to
    OUTDATED = "outdated"  # its fleetd is older than what the unit needs of it (`drop-ins`)
    MACHINE_ID = "machine-id"  # MachineID= asks for another machine (the id asked for)
    METADATA = "metadata"  # the machine has none of the values (key=value|value)
    REFUSED = "refused"  # the machine takes no unit of this name (what it says of itself: "has its own /etc/…")
    NO_SOCKET = "no-socket"  # of a template: no socket on the machine starts instances of it
    NO_PEER = "no-peer"  # a unit of MachineOf= is not on the machine (that unit)
    PEER_STOPS = "peer-stops"  # a unit of MachineOf= is about to stop on the machine (that unit)
    CONFLICT = "conflict"  # Conflicts= of either unit matches the other one (the other unit)
    REPLACED = "replaced"  # Replaces= of a unit on the machine matches this one (the other unit)
    MOVED = "moved"  # of the machine where it was: an operator has the unit moved (to this machine)
    FAILED = "failed"  # an operator had the unit moved to the machine, and it failed there (why)
    AT_WORK = "at-work"  # of a unit that an operator has moved: it is a oneshot that has not finished


class Rejection(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """Why one machine does not take a unit."""

    kind: RejectionKind
    subject: str = ""


class RejectionCount(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """How many machines reject a unit for one reason."""

    rejection: Rejection
    machines: Count


class Eviction(msgspec.Struct, frozen=True, gc=False):
    """Why a unit may not stay on the machine where it is."""

    machine: str
    rejection: Rejection


class Rule(StrEnum):
    """Why a unit is on its machine."""

    BEST = "best"  # the best of several machines that fit
    ONLY = "only"  # no other machine fits
    RETURNED = "returned"  # the machine was lost, and came back within the failover delay
    BACK = "back"  # the machine was lost or parked, and is back
    RESUMED = "resumed"  # it was to be stopped there, and was started again before it had stopped
    ADOPTED = "adopted"  # it was still running there
    MOVED = "moved"  # an operator had it moved there, or drained the machine where it was
    KEPT = "kept"  # it was to move, and is not any more
    EVERYWHERE = "everywhere"  # Global=true
    WITH_SOCKETS = "with-sockets"  # a template is where its sockets are


class _Reason(msgspec.Struct, frozen=True, omit_defaults=True, gc=False, tag_field="kind"):
    """Base of all reasons; `kind` tells them apart in JSON."""


class Placed(_Reason, tag="placed", frozen=True, gc=False):
    """The unit is placed. `units` were placed together (MachineOf=). `machine` is the one that `rule` speaks of: with
    MOVED, where it runs on until it is proven here (Handover=start-first)."""

    rule: Rule
    machine: str = ""
    units: tuple[str, ...] = ()


class Completed(_Reason, tag="completed", frozen=True, gc=False):
    """A oneshot that has run to its end, on a machine that is gone. It is not run again."""


class Infeasible(_Reason, tag="infeasible", frozen=True, gc=False):
    """Every machine rejects the unit: `Decision.rejections` counts why."""


class NoMachines(_Reason, tag="no-machines", frozen=True, gc=False):
    """The cluster has no machine."""


class Hold(StrEnum):
    """Why a machine does not stop a unit as the leader asks."""

    PARKED = "parked"  # its fleetd was stopped
    ORPHANED = "orphaned"  # the store was restored since: the agent keeps the unit running until an operator stops it


class Stopping(_Reason, tag="stopping", frozen=True, gc=False):
    """The unit is not to run, and has still to be stopped on these machines."""

    machines: tuple[str, ...]
    hold: Hold | None = None


class WaitingForStop(_Reason, tag="waiting-for-stop", frozen=True, gc=False):
    """The unit is placed anew once it has stopped on this machine. `because`: why it may not stay there."""

    machine: str
    because: Eviction | None = None
    hold: Hold | None = None


class WaitingForRemoval(_Reason, tag="waiting-for-removal", frozen=True, gc=False):
    """The unit has stopped on this machine, which has still to delete its report of it."""

    machine: str


class WaitingForRoom(_Reason, tag="waiting-for-room", frozen=True, gc=False):
    """Another unit, which conflicts with this one, is being stopped on a machine that fits otherwise."""

    unit: str
    machine: str


class Absence(StrEnum):
    """Why a machine does not carry out what is asked of a unit."""

    LOST = "lost"  # dead, and within the failover delay
    REBOOTS = "reboots"  # it was told to reboot, and is to be back in ten minutes
    PARKED = "parked"  # its fleetd was stopped
    ISOLATED = "isolated"  # dead, and it may not have stopped the unit yet (IsolationSec=)
    RETURNING = "returning"  # it was lost, and publishes again what runs there, but is not registered yet


class WaitingForMachine(_Reason, tag="waiting-for-machine", frozen=True, gc=False):
    """The unit waits until the machine is back. `until`: Unix time at which a lost one is given up; 0 for never."""

    machine: str
    absence: Absence
    until: float = 0.0


class WaitingForPeer(_Reason, tag="waiting-for-peer", frozen=True, gc=False):
    """The unit is to be placed together with another one (MachineOf=), which waits itself."""

    unit: str
    peer_waits: WaitingForStop | WaitingForRemoval | WaitingForMachine


class Unavailability(StrEnum):
    """Why a member of a group does not count as available."""

    UNPLACED = "unplaced"  # it is on no machine
    LOST = "lost"  # its machine is absent
    LEAVING = "leaving"  # its machine leaves
    REBOOTS = "reboots"  # its machine was told to reboot
    UNREPORTED = "unreported"  # its machine has not reported yet that it has carried out its present placement
    INACTIVE = "inactive"  # it is neither active nor a oneshot that has completed
    UNPROVEN = "unproven"  # it was asked whether it is healthy, and there is no answer yet
    UNHEALTHY = "unhealthy"  # it was asked, and is not
    UNANNOUNCED = "unannounced"  # it announces itself (Announce=), and others cannot rely on its names yet, or any more
    SETTLING = "settling"  # it was announced a moment ago: others find its names, and some may not have asked yet
    DISTURBED = "disturbed"  # it is about to be changed or moved


class UnavailableMember(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """A member of a group that is not available: a unit, on a machine ('': on none)."""

    unit: str
    machine: str
    why: Unavailability


class BudgetWait(_Reason, tag="budget", frozen=True, gc=False):
    """The unit is not disturbed, because as many members of its group are unavailable as may be. `members` are the
    first of these `unavailable` ones."""

    limit: Count
    unavailable: Count
    members: tuple[UnavailableMember, ...]


class WaitingForDownload(_Reason, tag="waiting-for-download", frozen=True, gc=False):
    """The unit is to move to this machine, and is not stopped before all is there that `units`, which move together,
    need there."""

    machine: str
    units: tuple[str, ...]


class NowhereElse(_Reason, tag="nowhere-else", frozen=True, gc=False):
    """The machine is drained, and the unit stays there because no other takes it. `rejections` are the most frequent
    reasons why."""

    rejections: tuple[RejectionCount, ...]


class MayFinish(_Reason, tag="may-finish", frozen=True, gc=False):
    """The machine is drained, and the unit, a oneshot, may run to its end there, until this Unix time (0: however long
    that takes)."""

    until: float = 0.0


class DrainEnded(_Reason, tag="drain-ended", frozen=True, gc=False):
    """The unit had not left the machine when the drain's deadline (Unix time) passed."""

    deadline: float


class NotMoved(_Reason, tag="not-moved", frozen=True, gc=False):
    """An operator had the unit moved to this machine, and it is not there, because of this rejection of the unit or of
    `unit`, which MachineOf= joins to it. Without one: the store was restored before the move was done. `drained_at`: it
    was to start there first for a drain that was asked for then (Unix time), and runs on where it was."""

    machine: str
    rejection: Rejection | None = None
    unit: str = ""
    drained_at: float = 0.0


class MissingSecrets(_Reason, tag="missing-secrets", frozen=True, gc=False):
    """The unit is not placed, because the cluster does not have these secrets that it names (Secret=)."""

    names: tuple[str, ...]


STAYING = (
    BudgetWait | WaitingForDownload | NowhereElse | MayFinish | DrainEnded
)  # why a unit has not left a machine that is drained
WAITING = (
    WaitingForStop
    | WaitingForRemoval
    | WaitingForRoom
    | WaitingForMachine
    | WaitingForPeer
    | WaitingForDownload
    | BudgetWait
)
PeerWait = WaitingForStop | WaitingForRemoval | WaitingForMachine
Reason = (
    Placed
    | Completed
    | Infeasible
    | NoMachines
    | Stopping
    | WaitingForStop
    | WaitingForRemoval
    | WaitingForRoom
    | WaitingForMachine
    | WaitingForPeer
    | WaitingForDownload
    | BudgetWait
    | NowhereElse
    | MayFinish
    | DrainEnded
    | NotMoved
    | MissingSecrets
)

BEST = Placed(Rule.BEST)
ONLY = Placed(Rule.ONLY)
RESUMED = Placed(Rule.RESUMED)
ADOPTED = Placed(Rule.ADOPTED)
EVERYWHERE = Placed(Rule.EVERYWHERE)
MOVED = Placed(Rule.MOVED)
KEPT = Placed(Rule.KEPT)
WITH_SOCKETS = Placed(Rule.WITH_SOCKETS)
COMPLETED = Completed()
INFEASIBLE = Infeasible()
NO_MACHINES = NoMachines()

_RULES = {
    Rule.BEST: "fits",
    Rule.ONLY: "the only machine that fits",
    Rule.RETURNED: "machine {} came back in time",
    Rule.BACK: "machine {} is back",
    Rule.RESUMED: "wanted again while it was being stopped there",
    Rule.ADOPTED: "was still running there",
    Rule.MOVED: "moved there",
    Rule.KEPT: "stays where it was",
    Rule.EVERYWHERE: "on every machine that it fits on",
    Rule.WITH_SOCKETS: "where its sockets are",
}
_REJECTIONS = {
    RejectionKind.LEAVING: "machine is leaving",
    RejectionKind.PARKED: "machine is parked (its fleetd was stopped)",
    RejectionKind.DRAINED: "machine is being drained",
    RejectionKind.REBOOTS: "machine is about to be rebooted",
    RejectionKind.ABSENT: "machine is absent",
    RejectionKind.CORDONED: "machine is cordoned: {}",
    RejectionKind.NO_SEAL_KEY: "it has no key for secrets yet",
    RejectionKind.OUTDATED: "its fleetd is too old for {}",
    RejectionKind.MACHINE_ID: "not machine {}",
    RejectionKind.METADATA: "metadata {} missing",
    RejectionKind.REFUSED: "machine {}",
    RejectionKind.NO_SOCKET: "no socket of it is there",
    RejectionKind.NO_PEER: "{} is not there",
    RejectionKind.PEER_STOPS: "{}, which it must run with, stops here",
    RejectionKind.CONFLICT: "conflicts with {}",
    RejectionKind.REPLACED: "replaced by {}",
    RejectionKind.MOVED: "moved to {}",
    RejectionKind.FAILED: "failed there: {}",
    RejectionKind.AT_WORK: "it is a oneshot at work",
}
_EMPTY = {RejectionKind.MACHINE_ID: "(empty MachineID)", RejectionKind.NO_PEER: "(empty MachineOf)"}
_PARKED = "which is parked: its fleetd was stopped"
_UNAVAILABILITIES = {
    Unavailability.UNPLACED: "is on no machine",
    Unavailability.LOST: "is on {}, which is absent",
    Unavailability.LEAVING: "is on {}, which is leaving",
    Unavailability.REBOOTS: "is on {}, which is about to be rebooted",
    Unavailability.UNREPORTED: "is not reported by {} as it is to be",
    Unavailability.INACTIVE: "is not active on {}",
    Unavailability.UNPROVEN: "is not proven yet on {}",
    Unavailability.UNHEALTHY: "is not healthy on {}",
    Unavailability.UNANNOUNCED: "is not announced on {}",
    Unavailability.SETTLING: "has just been announced on {}",
    Unavailability.DISTURBED: "is about to be changed on {}",
}
_HOLDS = {Hold.PARKED: _PARKED, Hold.ORPHANED: "where it is only kept running since the store was restored"}


def is_waiting(reason: Reason | None) -> bool:
    """True for a unit that waits for a stop, a machine or another unit before what was asked of it is done."""
    return isinstance(reason, WAITING)


def without_eviction(reason: WaitingForStop) -> WaitingForStop:
    """The wait alone, without why the unit had to stop."""
    return WaitingForStop(reason.machine, hold=reason.hold) if reason.because else reason


def render(reason: Reason | None) -> str:
    """The reason as a sentence whose subject is the unit, without subject and full stop; '' for None."""
    match reason:
        case None:
            return ""
        case Placed():
            return _render_placed(reason)
        case Completed():
            return "completed"
        case Infeasible():
            return "no machine fits"
        case NoMachines():
            return "there is no machine"
        case NowhereElse(rejections):
            why = ", ".join(f"{render_rejection(each.rejection)} ({each.machines})" for each in rejections)
            return f"stays on the drained machine: it fits nowhere else: {why or 'there is no other machine'}"
        case MayFinish(until):
            return f"may finish on the drained machine, {_until(until)}"
        case DrainEnded(deadline):
            return f"stays: the drain of its machine ended at {render_moment(deadline)}"
        case NotMoved(machine, rejection, unit):
            why = render_rejection(rejection) if rejection else "the store was restored meanwhile; ask for it again"
            whose = f"{unit}, which goes with it: " if unit else ""
            return f"was not moved to {_short(machine)}: {whose}{why}"
        case MissingSecrets(names):
            which = f"secret {names[0]} is" if len(names) == 1 else f"secrets {' and '.join(names)} are"
            return f"its {which} missing (fleetctl secret set {names[0]})"
        case Stopping(machines, hold):
            where = ", ".join(map(_short, machines))
            return f"to be stopped on {where}, {_HOLDS[hold]}" if hold else f"being stopped on {where}"
        case WaitingForStop(_, because, _):
            wait = render_wait(reason)
            return f"{render_eviction(because)}; {wait}" if because else wait
    return render_wait(reason)


def render_wait(reason: Reason | None) -> str:
    """What the unit waits for, a sentence that begins with "waits"; '' where it does not wait."""
    match reason:
        case WaitingForStop(machine, _, hold):
            if hold:
                return f"waits until it is stopped on {_short(machine)}, {_HOLDS[hold]}"
            return f"waits until {_short(machine)} has stopped it"
        case WaitingForRemoval(machine):
            return f"waits until {_short(machine)} has removed it"
        case WaitingForRoom(unit, machine):
            return f"waits for {unit} to stop on {_short(machine)}"
        case WaitingForMachine(machine, Absence.PARKED):
            return f"waits for machine {_short(machine)}, {_PARKED}"
        case WaitingForMachine(machine, Absence.RETURNING):
            return f"waits for {_short(machine)}, which is coming back with it"
        case WaitingForMachine(machine, Absence.REBOOTS, until):
            return f"waits for machine {_short(machine)} to come back from its reboot, {_until(until)}"
        case WaitingForMachine(machine, Absence.ISOLATED, until):
            return f"waits until {_short(machine)}, which is cut off, has stopped it for certain, {_until(until)}"
        case WaitingForMachine(machine, _, until):
            return f"waits for machine {_short(machine)} to come back, {_until(until)}"
        case WaitingForPeer(unit, peer_waits):
            return f"waits for {unit}, which {render_wait(peer_waits)}"
        case WaitingForDownload(machine, units):
            return f"waits until {_short(machine)} has downloaded what {' and '.join(units)} needs there"
        case BudgetWait(limit, unavailable, members):
            listed = [f"{each.unit} {_UNAVAILABILITIES[each.why].format(_short(each.machine))}" for each in members]
            more = [f"and {unavailable - len(members)} more"] if unavailable > len(members) else []
            return f"waits: {', '.join([*listed, *more])} (MaxUnavailable={limit})"
    return ""


def _render_placed(reason: Placed) -> str:
    if reason.rule is Rule.MOVED and reason.machine:
        return f"starts there first, and runs on {_short(reason.machine)} until it is proven"
    sentence = _RULES[reason.rule].format(_short(reason.machine))
    return f"{sentence}, with {', '.join(reason.units)}" if reason.units else sentence


def render_rejection(rejection: Rejection) -> str:
    """The rejection as a sentence about one machine."""
    if rejection.kind is RejectionKind.CORDONED and not rejection.subject:
        return "machine is cordoned"
    return _REJECTIONS[rejection.kind].format(rejection.subject or _EMPTY.get(rejection.kind, ""))


def render_eviction(eviction: Eviction) -> str:
    """Why the unit may not stay on its machine, as a sentence that names the machine."""
    machine, rejection = _short(eviction.machine), eviction.rejection
    if rejection.kind is RejectionKind.LEAVING:
        return f"machine {machine} is leaving"
    if rejection.kind is RejectionKind.DRAINED:
        return f"machine {machine} is being drained"
    if rejection.kind is RejectionKind.REBOOTS:
        return f"machine {machine} is about to be rebooted"
    if rejection.kind is RejectionKind.REFUSED:
        return f"machine {machine} {rejection.subject}"
    if rejection.kind is RejectionKind.MOVED:
        return f"moves from {machine} to {_short(rejection.subject)}"
    if rejection.kind is RejectionKind.FAILED:
        return f"failed on {machine}: {rejection.subject}"
    return f"{render_rejection(rejection)} on {machine}"


def _until(moment: float) -> str:
    return f"until {render_moment(moment)}" if moment else "however long that takes"


def _short(machine: str) -> str:
    return machine[:SHORT_ID_LENGTH]
