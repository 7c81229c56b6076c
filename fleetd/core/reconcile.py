"""plan_machine: what one machine does next about its units, each step with its reason; and what it reports of them.

Pure. What was asked (placements), what is there (files, systemd's states) and what was done before (the ledger) come
in as values; steps come out, in the order in which they are to be applied. Each plan takes one unit one step nearer
to what is asked: what follows (the file that goes when the stop is finished) is the next plan's matter.
"""

from collections.abc import Collection, Mapping
from enum import StrEnum

import msgspec

from fleetd.core.decoding import Count
from fleetd.core.placement import Placement
from fleetd.core.start_order import order_starts
from fleetd.core.unit import TargetState, UnitState
from fleetd.core.unitfile import hash_unit_file

NEVER_RAN = "dependency"  # a start job that ended so did not start anything: to be tried again


class LedgerEntry(msgspec.Struct, frozen=True, omit_defaults=True):
    """The wish that this machine has carried out last for one unit, kept across restarts of fleetd (not reboots).

    `hash` is of the content it was carried out with. A start is written down before systemd is asked for it; `issued`
    says that systemd has accepted it. `completed`: it was a oneshot, and it ran to its end with success. `stopped`: for
    the sake of what is asked next, which is not carried out yet, a stop was begun.
    Target inactive says that we stopped the unit; generation 0, that any placement is news. `adopted`: the store was
    restored, and the unit was left as it was, so `target` and `hash` need not be what the wish of this generation says.
    """

    generation: Count
    target: TargetState
    hash: str
    issued: bool = True
    completed: bool = False
    adopted: bool = False
    stopped: bool = False


class StopProgress(StrEnum):
    """How far a stop is that this fleetd has asked for (and no start since)."""

    NONE = "none"
    UNDER_WAY = "under way"
    ENDED = "ended"


class LastRun(msgspec.Struct, frozen=True):
    """What systemd remembers of a unit's last run: whether there was one, its result, and whether it is a oneshot."""

    invoked: bool = False
    result: str = ""
    oneshot: bool = False


class Observed(msgspec.Struct, frozen=True):
    """What one machine sees of one unit.

    `hash` is of the content of our file ('' where there is none). `load`, `active`, `sub`, `job` are as systemd lists
    them. `waiting`: a step failed, and it is too early to try again. `refusal` is why a unit of this name may not be
    written here, or ''. `last_run` is asked for only where needs_last_run says so.
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
    last_run: LastRun | None = None

    @property
    def ours(self) -> bool:
        """Whether fleet has anything to do with the unit: else what systemd says of the name is not our affair."""
        return self.refusal == "" and (self.hash != "" or self.entry is not None)

    @property
    def runs(self) -> bool:
        """Whether processes of the unit may exist."""
        return self.active not in ("inactive", "failed")

    @property
    def busy(self) -> bool:
        """Whether the unit runs, or is about to."""
        return self.runs or self.job

    @property
    def stopping(self) -> bool:
        """Whether a stop is under way, so that none need be asked for."""
        return self.active == "deactivating" or (self.stop is StopProgress.UNDER_WAY and self.busy)


class Desired(msgspec.Struct, frozen=True):
    """What is asked of one machine: its placements by unit. `absence_is_order`: a unit without one is to go.
    `held` are units that are left alone whatever is asked: orphans, and those whose placement cannot be read."""

    placements: Mapping[str, Placement]
    absence_is_order: bool = False
    held: Collection[str] = ()


class Stop(msgspec.Struct, frozen=True):
    """Ask systemd to stop the unit. `entry` goes into the ledger before: what was carried out holds no more."""

    unit: str
    reason: str
    entry: LedgerEntry | None


class Remove(msgspec.Struct, frozen=True):
    """Delete the unit's file and forget the unit; it does not run."""

    unit: str
    reason: str


class Write(msgspec.Struct, frozen=True):
    """Write the unit's file."""

    unit: str
    reason: str
    text: str


class Record(msgspec.Struct, frozen=True):
    """Write down in the ledger what is so already."""

    unit: str
    reason: str
    entry: LedgerEntry


class Start(msgspec.Struct, frozen=True):
    """Ask systemd to start the unit. `entry` goes into the ledger before, and as issued when systemd has accepted."""

    unit: str
    reason: str
    entry: LedgerEntry


Step = Stop | Remove | Write | Record | Start
_ORDER = (Stop, Remove, Write, Record, Start)


def plan_machine(desired: Desired, observed: Mapping[str, Observed]) -> tuple[Step, ...]:
    """The next steps for the units observed: all stops, then removals, writes, records and starts; each by name, but
    the jobs in the order in which systemd would do them together (start_order.py), stops the other way round."""
    steps = [step for name in sorted(observed) for step in _plan_unit(name, desired, observed[name])]
    jobs = [step.unit for step in steps if isinstance(step, Stop | Start)]
    placements = desired.placements
    texts = {name: placements[name].text if name in placements else "" for name in jobs if len(jobs) > 1}
    turns = {name: turn for turn, name in enumerate(order_starts(texts))}

    def turn(step: Step) -> tuple[int, int]:
        sign = {Stop: -1, Start: 1}.get(type(step), 0)
        return _ORDER.index(type(step)), sign * turns.get(step.unit, 0)

    return tuple(sorted(steps, key=turn))


def needs_last_run(placement: Placement | None, seen: Observed) -> bool:
    """Whether a plan for the unit needs what systemd remembers of its last run."""
    entry = seen.entry
    if placement is None or entry is None or entry.target is not TargetState.LAUNCHED or entry.completed:
        return False
    may_have_completed = seen.active == "inactive" and not seen.job
    return _carried_out(entry, placement) and (may_have_completed or not entry.issued)


def is_settled(placement: Placement | None, seen: Observed) -> bool:
    """Whether nothing is left to be tried for the unit, so that earlier failures are history."""
    return not seen.waiting and not seen.job and (placement is None or _carried_out(seen.entry, placement))


def _plan_unit(name: str, desired: Desired, seen: Observed) -> tuple[Step, ...]:
    placement = desired.placements.get(name)
    if name in desired.held or seen.waiting:
        return ()
    if placement is None:
        return _plan_withdrawn(name, seen, "it is placed here no more") if desired.absence_is_order else ()
    if placement.retiring:
        return ()
    if placement.withdrawn:
        return _plan_withdrawn(name, seen, "it was withdrawn from here")
    if seen.refusal:
        return ()
    if _carried_out(seen.entry, placement):
        return _plan_carried_out(name, placement, seen)
    return _plan_wish(name, placement, seen)


def _carried_out(entry: LedgerEntry | None, placement: Placement) -> bool:
    """Whether the placement's wish, or one that came after it, has been carried out (or, if a start, was begun)."""
    if entry is None:
        return False
    if entry.generation != placement.generation:
        return entry.generation > placement.generation
    return entry.adopted or entry.target is placement.target


def _plan_withdrawn(name: str, seen: Observed, reason: str) -> tuple[Step, ...]:
    if not seen.ours:
        return ()
    held = seen.hash or (seen.entry.hash if seen.entry else "")
    if seen.busy and held:  # else nothing of ours was ever here: what runs is the machine's own
        return _stop(name, seen, reason, LedgerEntry(0, TargetState.INACTIVE, held))
    return (Remove(name, reason),)


def _stop(name: str, seen: Observed, reason: str, entry: LedgerEntry | None) -> tuple[Step, ...]:
    return () if seen.stopping else (Stop(name, reason, entry),)


def _plan_carried_out(name: str, placement: Placement, seen: Observed) -> tuple[Step, ...]:
    """Nothing is stopped or started for what was carried out, whatever systemd says: that is `Restart=`'s matter."""
    entry = seen.entry
    assert entry is not None
    if entry.hash == hash_unit_file(placement.text) != seen.hash:
        return (Write(name, "its file is not as it was written", placement.text),)
    if entry.target is not TargetState.LAUNCHED or seen.last_run is None:
        return ()
    if not entry.issued:
        if seen.last_run.invoked or seen.busy or seen.active == "failed":
            reason = "systemd was asked to start it before fleetd ended"
            return (Record(name, reason, msgspec.structs.replace(entry, issued=True)),)
        return (Start(name, "its start was written down, but systemd was not asked", entry),)
    if _has_completed(seen, seen.last_run):
        return (Record(name, "it ran to its end", msgspec.structs.replace(entry, completed=True)),)
    return ()


def _has_completed(seen: Observed, last_run: LastRun) -> bool:
    """A oneshot that ended well. Systemd forgets those that nothing refers to: they read as never invoked."""
    ended = seen.active == "inactive" and not seen.job
    return ended and last_run.oneshot and (last_run.result == "success" or not last_run.invoked)


def _plan_wish(name: str, placement: Placement, seen: Observed) -> tuple[Step, ...]:
    """The steps for a wish that is not yet carried out: out of the way with what hinders it, the file, the start."""
    wanted = hash_unit_file(placement.text)
    held = seen.hash or (seen.entry.hash if seen.entry else "")
    if seen.ours and seen.busy and held not in ("", wanted):
        return _stop(name, seen, "its content was replaced", _stopped(seen.entry))
    if placement.target is TargetState.LOADED and _has_to_stop(seen):
        return _stop(name, seen, "it is to be loaded only", _stopped(seen.entry))
    steps: list[Step] = []
    if seen.hash != wanted:
        steps.append(Write(name, "its content was replaced" if seen.hash else "it is placed here", placement.text))
    entry = LedgerEntry(placement.generation, placement.target, wanted)
    if placement.target is TargetState.LOADED:
        steps.append(Record(name, "it is loaded", entry))
    elif placement.completed and not seen.busy:
        steps.append(Record(name, "it ran to its end before", msgspec.structs.replace(entry, completed=True)))
    elif seen.busy and not seen.stopping:
        steps.append(Record(name, "it runs already", entry))
    else:
        reason = "it was asked for again" if seen.entry else "it is to be launched"
        steps.append(Start(name, reason, msgspec.structs.replace(entry, issued=False)))
    return tuple(steps)


def _stopped(entry: LedgerEntry | None) -> LedgerEntry | None:
    """What goes into the ledger before the stop of what was carried out so."""
    return entry and msgspec.structs.replace(entry, stopped=True)


def _has_to_stop(seen: Observed) -> bool:
    """Whether what we launched still runs, or what runs though it was to be loaded only: its socket or timer, a unit
    that wants it, or a person has started it, and somebody has asked to stop it since. Once a stop has ended, they may
    have started it again: that is theirs."""
    was_here = seen.entry is not None and seen.entry.target is not TargetState.INACTIVE
    return was_here and seen.busy and seen.stop is not StopProgress.ENDED


# After the store was restored from an old snapshot: nothing is done because of it.


class Adoption(msgspec.Struct, frozen=True):
    """What a machine writes down when the store was restored: ledger entries by unit, and the orphans by name."""

    entries: Mapping[str, LedgerEntry]
    orphans: tuple[str, ...]


def plan_adoption(
    placements: Mapping[str, Placement], observed: Mapping[str, Observed], *, is_late: bool = False
) -> Adoption:
    """Take what is here for what the restored store asks; what it does not know, or wants gone, and runs: an orphan.

    Of the past of what it does not ask for nothing counts any more: those generations are of a history that was lost,
    and would pass for later than what is asked next. `is_late`: the machine was away when the store was restored. What
    is withdrawn from it then was so by a leader of today, which has given the unit another home.
    """
    entries: dict[str, LedgerEntry] = {}
    orphans: list[str] = []
    for name in sorted(observed):
        seen, placement = observed[name], placements.get(name)
        entry = _as_it_is(seen)
        if seen.refusal or not (seen.ours or seen.load == "not-found"):
            continue  # what the machine has of this name is its own
        if placement is not None and not placement.withdrawn:
            entries[name] = msgspec.structs.replace(entry, generation=placement.generation)
        elif seen.ours:
            entries[name] = entry
            orphans += [name] if seen.busy and not (is_late and placement) else []
    return Adoption(entries, tuple(orphans))


def _as_it_is(seen: Observed) -> LedgerEntry:
    """The entry of a unit that is taken as it is, of no generation."""
    return LedgerEntry(
        generation=0,
        target=TargetState.LAUNCHED if _is_launched(seen) else TargetState.LOADED,
        hash=seen.hash,
        completed=seen.entry is not None and seen.entry.completed,
        adopted=True,
    )


def _is_launched(seen: Observed) -> bool:
    """Whether the unit runs, or did so until it ended by itself: not one that we have stopped, or are stopping."""
    if seen.busy and not seen.stopping:
        return True
    if seen.entry is None:
        return seen.busy
    return seen.entry.target is TargetState.LAUNCHED and not seen.entry.stopped


def is_orphan_still(placement: Placement | None, seen: Observed) -> bool:
    """Whether a unit that was an orphan still is: it runs, and nobody has asked for a unit of its name."""
    return seen.busy and (placement is None or placement.withdrawn)


# What the machine reports.

_HELD = (
    "held as it was when the store was restored from a snapshot, which asks for something else; "
    "start, stop or replace the unit to have it as you want it"
)
_ORPHAN = (
    "the store was restored from a snapshot that does not know this unit (or wants it gone), so it is only kept "
    "running; submit a unit of this name to take it over, or stop it on its machine"
)


def report(placement: Placement | None, seen: Observed, *, error: str = "", orphan: bool = False) -> UnitState | None:
    """What the machine publishes of the unit; None: nothing, there is nothing here and nothing was asked.

    `error` is why the last step failed or the unit did. Target inactive with a placement's generation says that
    nothing is left of a unit that was withdrawn: this is what the leader waits for before it deletes the placement.
    """
    if not seen.ours:
        return _report_nothing(placement, seen, error)
    entry = seen.entry
    done = entry if entry is not None and entry.issued and entry.target is not TargetState.INACTIVE else None
    if orphan:
        error = error or _ORPHAN
    elif placement is not None and done is not None and _differs(done, placement):
        error = error or _HELD
    return UnitState(
        load=seen.load,
        active=seen.active,
        sub=seen.sub,
        hash=seen.hash,
        target=done.target if done else TargetState.LOADED,
        generation=done.generation if done else 0,
        completed=done.completed if done else False,
        error=error,
        orphan=orphan,
    )


def _differs(entry: LedgerEntry, placement: Placement) -> bool:
    """Whether a unit that was left as it was at a restore is not as its placement says."""
    if not entry.adopted or entry.generation != placement.generation:
        return False
    return entry.target is not placement.target or entry.hash != hash_unit_file(placement.text)


def _report_nothing(placement: Placement | None, seen: Observed, error: str) -> UnitState | None:
    """Nothing of ours is here: what systemd says of the name is of another's unit, and is not reported."""
    if placement is None:
        return None
    generation = placement.generation if placement.withdrawn else 0
    return UnitState("not-found", "inactive", "dead", generation=generation, error=error or seen.refusal)
