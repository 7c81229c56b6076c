"""What one machine sees of its units, and what is desired of it: the values that the reconciler's decisions take."""

from collections.abc import Collection, Mapping
from enum import StrEnum

import msgspec

from fleetd.model.content import Content
from fleetd.model.placement import Placement
from fleetd.model.unit import AT_REST, TargetState
from fleetd.reconciler.actions import LedgerEntry


class StopProgress(StrEnum):
    """How far a stop is that this fleetd requested, if it has not started the unit since."""

    NONE = "none"
    UNDER_WAY = "under way"
    ENDED = "ended"


class LastRun(msgspec.Struct, frozen=True):
    """What systemd remembers of a unit's last run: its invocation ('': none), its result, whether it is a oneshot,
    since when it is, or was, active (monotonic clock), and how often systemd restarted it by itself since it was last
    asked to start it."""

    invocation: str = ""
    result: str = ""
    oneshot: bool = False
    active_since_s: float = 0.0
    restarts: int = 0


class Observed(msgspec.Struct, frozen=True):
    """What one machine sees of one unit.

    `hash` is of what fleet has written of it ('': no unit file). `load`, `active`, `sub` and `job` are as systemd lists
    them. `waiting`: an action failed, and it is too early to retry. `refusal` is why no unit of this name may be
    written here, or ''; `obstacle` says the same in short ("has its own /etc/…"), and `lacks` names the unit that is
    missing if that is why. `forbidden` is why a unit that has a file may not be here as it is placed, by this machine's
    fleet.conf, or ''. `job_result` is the result of the last job requested, '' while there is none. `at_s` is when it
    was seen, on the machine's monotonic clock.
    `last_run` is filled in only if needs_last_run says so, `content` (as written) only if needs_content does.
    """

    hash: str = ""
    load: str = "not-found"
    active: str = "inactive"
    sub: str = "dead"
    job: bool = False
    entry: LedgerEntry | None = None
    stop: StopProgress = StopProgress.NONE
    waiting: bool = False
    refusal: str = ""
    obstacle: str = ""
    lacks: str = ""
    forbidden: str = ""
    job_result: str = ""
    last_run: LastRun | None = None
    content: Content = Content("")
    at_s: float = 0.0

    @property
    def ours(self) -> bool:
        """True if the unit is fleet's. If not, systemd's states for this name are about another unit."""
        return self.refusal == "" and (self.hash != "" or self.entry is not None)

    @property
    def held_hash(self) -> str:
        """The hash of the content that is here, or was here when the ledger's entry was written; '' if neither."""
        return self.hash or (self.entry.hash if self.entry else "")

    @property
    def runs(self) -> bool:
        """True if a process of the unit may exist."""
        return self.active not in AT_REST

    @property
    def busy(self) -> bool:
        """True if the unit runs, or has a job."""
        return self.runs or self.job

    @property
    def stopping(self) -> bool:
        """True if a stop is under way, so that none need be requested."""
        return self.active == "deactivating" or (self.stop is StopProgress.UNDER_WAY and self.busy)


class Desired(msgspec.Struct, frozen=True):
    """The desired state of one machine: its placements by unit. `removes_unplaced`: units without one are removed.
    `held` are units to leave alone in any case: orphans, and those whose placement cannot be decoded."""

    placements: Mapping[str, Placement]
    removes_unplaced: bool = False
    held: Collection[str] = ()


def is_carried_out(entry: LedgerEntry | None, placement: Placement) -> bool:
    """True if the ledger says that the placement, or a later one, was carried out. A start counts once it has begun."""
    if entry is None:
        return False
    if entry.generation != placement.generation:
        return entry.generation > placement.generation
    if entry.adopted:
        return True
    has_content = entry.hash == placement.content.hash
    return entry.target is placement.target and has_content and entry.restarting is None


def is_settled(placement: Placement | None, seen: Observed) -> bool:
    """True if nothing is left to do for the unit, so that earlier failures do not matter any more."""
    return not seen.waiting and not seen.job and (placement is None or is_carried_out(seen.entry, placement))


def needs_last_run(placement: Placement | None, seen: Observed) -> bool:
    """True if the plan or the report for the unit depends on what systemd remembers of its last run."""
    entry = seen.entry
    if placement is not None and entry is not None and entry.restarting is not None:
        return entry.restarting.invocation is not None
    if placement is None or entry is None or entry.target is not TargetState.LAUNCHED or entry.completed:
        return False
    may_have_completed = seen.active == "inactive" and not seen.job
    is_asked = may_have_completed or not entry.issued or placement.prove_after_s is not None
    return is_asked and is_carried_out(entry, placement)


def needs_content(placement: Placement | None, seen: Observed) -> bool:
    """True if the plan for the unit depends on the content that it has: it runs, and that is to change."""
    if placement is None or not placement.is_active or not seen.busy or is_carried_out(seen.entry, placement):
        return False
    return seen.hash not in ("", placement.content.hash)
