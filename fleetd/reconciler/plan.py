"""plan_machine: what one machine does next about its units, each step with its reason; and what it reports of them.

Pure. What was asked (placements), what is there (files, systemd's states) and what was done before (the ledger) come
in as values; steps come out, in the order in which they are to be applied. Each plan takes one unit one step nearer
to what is asked: what follows (the file that goes when the stop is finished) is the next plan's matter.
"""

from collections.abc import Collection, Mapping
from enum import StrEnum

import msgspec

from fleetd.model.content_change import Impact, impact
from fleetd.model.placement import Placement
from fleetd.model.unit import AT_REST, TargetState, UnitState
from fleetd.model.unitfile import hash_unit_file
from fleetd.reconciler.actions import (
    Action,
    LedgerEntry,
    Record,
    Reload,
    Remove,
    Restart,
    Restarting,
    Start,
    Stop,
    Write,
)
from fleetd.reconciler.start_order import order_starts

# Results of jobs (ServiceManager.job_result).
NEVER_RAN = ("dependency", "refused")  # a start job that ended so did not start anything: to be tried again
SKIPPED = "condition"  # a condition was not met, which is no failure, and the unit's own affair
_KEPT = (SKIPPED, "assert")  # what systemd remembers of no unit that nothing refers to
CANCELED = "canceled"
_UNREAD = "whether systemd has read its file is not known"


class StopProgress(StrEnum):
    """How far a stop is that this fleetd has asked for (and no start since)."""

    NONE = "none"
    UNDER_WAY = "under way"
    ENDED = "ended"


class LastRun(msgspec.Struct, frozen=True):
    """What systemd remembers of a unit's last run: its invocation ('': none), its result, whether it is a oneshot."""

    invocation: str = ""
    result: str = ""
    oneshot: bool = False


class Observed(msgspec.Struct, frozen=True):
    """What one machine sees of one unit.

    `hash` is of the content of our file ('' where there is none). `load`, `active`, `sub`, `job` are as systemd lists
    them. `waiting`: a step failed, and it is too early to try again. `refusal` is why a unit of this name may not be
    written here, or '', for a person; `obstacle` is the same in short, as what the machine does, `lacks` the unit that
    it does not have if that is why. `job_result` is how the job ended that was asked for last, '' where none has.
    `last_run` is asked for only where needs_last_run says so, `text` (of our file) only where needs_text does.
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
    job_result: str = ""
    last_run: LastRun | None = None
    text: str = ""

    @property
    def ours(self) -> bool:
        """Whether fleet has anything to do with the unit: else what systemd says of the name is not our affair."""
        return self.refusal == "" and (self.hash != "" or self.entry is not None)

    @property
    def runs(self) -> bool:
        """Whether processes of the unit may exist."""
        return self.active not in AT_REST

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


_TURNS: dict[type, int] = {Stop: 0, Remove: 1, Write: 2, Record: 3, Reload: 4, Start: 5, Restart: 5}


def plan_machine(desired: Desired, observed: Mapping[str, Observed]) -> tuple[Action, ...]:
    """The next steps for the units observed: all stops, then removals, writes, records, reloads, starts and restarts;
    each by name, but jobs in the order in which systemd would do them together (start_order.py), stops the other way
    round."""
    steps = [step for name in sorted(observed) for step in _plan_unit(name, desired, observed[name])]
    jobs = [step.unit for step in steps if isinstance(step, Stop | Start | Restart)]
    placements = desired.placements
    texts = {name: placements[name].text if name in placements else "" for name in jobs if len(jobs) > 1}
    turns = {name: turn for turn, name in enumerate(order_starts(texts))}

    def turn(step: Action) -> tuple[int, int]:
        sign = {Stop: -1, Start: 1, Restart: 1}.get(type(step), 0)
        return _TURNS[type(step)], sign * turns.get(step.unit, 0)

    return tuple(sorted(steps, key=turn))


def needs_last_run(placement: Placement | None, seen: Observed) -> bool:
    """Whether a plan for the unit needs what systemd remembers of its last run."""
    entry = seen.entry
    if placement is not None and entry is not None and entry.restarting is not None:
        return entry.restarting.invocation is not None
    if placement is None or entry is None or entry.target is not TargetState.LAUNCHED or entry.completed:
        return False
    may_have_completed = seen.active == "inactive" and not seen.job
    return _carried_out(entry, placement) and (may_have_completed or not entry.issued)


def needs_text(placement: Placement | None, seen: Observed) -> bool:
    """Whether a plan for the unit needs the content of its file: it runs, and another is wanted."""
    if placement is None or not placement.is_active or not seen.busy or _carried_out(seen.entry, placement):
        return False
    return seen.hash not in ("", hash_unit_file(placement.text))


def is_settled(placement: Placement | None, seen: Observed) -> bool:
    """Whether nothing is left to be tried for the unit, so that earlier failures are history."""
    return not seen.waiting and not seen.job and (placement is None or _carried_out(seen.entry, placement))


def _plan_unit(name: str, desired: Desired, seen: Observed) -> tuple[Action, ...]:
    placement = desired.placements.get(name)
    if name in desired.held or seen.waiting:
        return ()
    if placement is None:
        return _plan_withdrawn(name, seen, "it is placed here no more") if desired.absence_is_order else ()
    if placement.superseded:
        return ()
    if placement.is_withdrawn:
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
    if entry.adopted:
        return True
    is_content = entry.hash == hash_unit_file(placement.text)
    return entry.target is placement.target and is_content and entry.restarting is None


def _plan_withdrawn(name: str, seen: Observed, reason: str) -> tuple[Action, ...]:
    if not seen.ours:
        return ()
    held = seen.hash or (seen.entry.hash if seen.entry else "")
    if seen.busy and held:  # else nothing of ours was ever here: what runs is the machine's own
        return _stop(name, seen, reason, LedgerEntry(0, TargetState.INACTIVE, held))
    return (Remove(name, reason),)


def _stop(name: str, seen: Observed, reason: str, entry: LedgerEntry | None) -> tuple[Action, ...]:
    return () if seen.stopping else (Stop(name, reason, entry),)


def _plan_carried_out(name: str, placement: Placement, seen: Observed) -> tuple[Action, ...]:
    """Nothing is stopped or started for what was carried out, whatever systemd says: that is `Restart=`'s matter."""
    entry = seen.entry
    assert entry is not None
    steps: list[Action] = []
    if entry.hash == hash_unit_file(placement.text) != seen.hash:
        steps.append(Write(name, "its file is not as it was written", placement.text))
    if entry.reload:
        done = msgspec.structs.replace(entry, reload=False)
        steps.append(Reload(name, _UNREAD, done))
    if steps or entry.target is not TargetState.LAUNCHED:
        return tuple(steps)
    if news := _find_result(seen, entry):
        return (Record(name, news, msgspec.structs.replace(entry, result="" if seen.runs else seen.job_result)),)
    return () if seen.last_run is None else _plan_from_last_run(name, seen, entry, seen.last_run)


def _find_result(seen: Observed, entry: LedgerEntry) -> str:
    """What is to be written down of how the start ended, in words for the log, or ''."""
    if seen.runs:
        return "it runs after all" if entry.result else ""
    ended = not seen.job and seen.job_result in _KEPT and seen.job_result != entry.result
    return f"systemd did not start it ({seen.job_result})" if ended else ""


def _plan_from_last_run(name: str, seen: Observed, entry: LedgerEntry, last_run: LastRun) -> tuple[Action, ...]:
    if not entry.issued:
        if last_run.invocation or seen.busy or seen.active == "failed":
            reason = "systemd was asked to start it before fleetd ended"
            return (Record(name, reason, msgspec.structs.replace(entry, issued=True)),)
        return (Start(name, "its start was written down, but systemd was not asked", entry),)
    if not entry.result and _has_completed(seen, last_run):
        return (Record(name, "it ran to its end", msgspec.structs.replace(entry, completed=True)),)
    return ()


def _has_completed(seen: Observed, last_run: LastRun) -> bool:
    """A oneshot that ended well. Systemd forgets those that nothing refers to: they read as never invoked."""
    ended = seen.active == "inactive" and not seen.job
    return ended and last_run.oneshot and (last_run.result == "success" or not last_run.invocation)


def _plan_wish(name: str, placement: Placement, seen: Observed) -> tuple[Action, ...]:
    """The steps for a wish that is not yet carried out: out of the way with what hinders it, the file, the job."""
    wanted = hash_unit_file(placement.text)
    held = seen.hash or (seen.entry.hash if seen.entry else "")
    if placement.target is TargetState.LAUNCHED or _is_to_restart(placement, seen.entry):
        restarting = seen.entry.restarting if seen.entry else None
        if seen.entry and restarting and restarting.invocation is not None:
            return _plan_restarting(name, placement, seen, seen.entry, restarting)
        if seen.ours and seen.busy and not seen.stopping:
            return _plan_running(name, placement, seen, wanted)
    if seen.ours and seen.busy and held not in ("", wanted):
        return _stop(name, seen, "its content was replaced", _stopped(seen.entry))
    if placement.target is TargetState.LOADED and _has_to_stop(seen):
        return _stop(name, seen, "it is to be loaded only", _stopped(seen.entry))
    steps: list[Action] = []
    if seen.hash != wanted:
        steps.append(Write(name, "its content was replaced" if seen.hash else "it is placed here", placement.text))
    entry = LedgerEntry(placement.generation, placement.target, wanted)
    if placement.target is TargetState.LOADED:
        steps.append(Record(name, "it is loaded", entry))
    elif not seen.busy and (placement.completed or _has_run_for(placement, seen.entry)):
        steps.append(Record(name, "it ran to its end before", msgspec.structs.replace(entry, completed=True)))
    elif seen.busy and not seen.stopping:
        steps.append(Record(name, "it runs already", entry))
    else:
        reason = "it was asked for again" if seen.entry else "it is to be launched"
        steps.append(Start(name, reason, msgspec.structs.replace(entry, issued=False)))
    return tuple(steps)


def _has_run_for(placement: Placement, entry: LedgerEntry | None) -> bool:
    """Whether it is a oneshot that has run for this very wish: then another content does not run it again."""
    return entry is not None and entry.completed and entry.generation == placement.generation


def _plan_running(name: str, placement: Placement, seen: Observed, wanted: str) -> tuple[Action, ...]:
    """The steps for a unit that runs and is to: as little as its new content, or a person, asks for."""
    done = LedgerEntry(placement.generation, placement.target, wanted)
    reason = "its content was replaced" if seen.hash else "its file is gone"
    kind, because = _impact_of(placement, seen, wanted)
    base = seen.entry or LedgerEntry(0, placement.target, seen.hash)
    if kind is Impact.RESTART:
        wish = Restarting(placement.generation, placement.target)
        entry = msgspec.structs.replace(base, restarting=wish)
        write = [Write(name, reason, placement.text, entry)] if seen.hash != wanted else []
        return (*write, Restart(name, because, entry))
    if seen.hash == wanted:
        return (Reload(name, _UNREAD, done) if base.reload else Record(name, "it runs already", done),)
    due = msgspec.structs.replace(base, reload=True)
    return (Write(name, reason, placement.text, due), Reload(name, f"it runs on: {because}", done))


def _impact_of(placement: Placement, seen: Observed, wanted: str) -> tuple[Impact, str]:
    """What it takes to have a unit that runs be as it is placed, and because of what."""
    entry = seen.entry
    if entry and entry.restarting and entry.hash != seen.hash:
        return Impact.RESTART, "its restart was written down, but systemd was not asked"
    if _is_to_restart(placement, entry):
        return Impact.RESTART, "a restart was asked for"
    held = seen.hash or (entry.hash if entry else "")
    if held in ("", wanted):
        return Impact.NONE, "it is what is asked for"
    return impact(seen.text, placement.text) if seen.hash else (Impact.RESTART, "what it runs with is not known")


def _is_to_restart(placement: Placement, entry: LedgerEntry | None) -> bool:
    """Whether what runs was started before a restart was asked for."""
    return entry is not None and 0 < entry.generation <= placement.restart_of


def _plan_restarting(
    name: str, placement: Placement, seen: Observed, entry: LedgerEntry, restarting: Restarting
) -> tuple[Action, ...]:
    """The steps once systemd was, or may have been, asked for the restart. What counts is that the invocation is
    another one, or that the job has ended; after a crash a unit that is merely busy may be what it was."""
    if seen.last_run is None:
        return ()
    has_ended = not seen.job and seen.job_result not in ("", CANCELED)
    if has_ended or seen.last_run.invocation not in ("", restarting.invocation):
        done = LedgerEntry(restarting.generation, restarting.target, seen.hash)
        return (Record(name, "it was restarted", done),)
    if seen.job:
        return ()
    is_written = seen.hash == hash_unit_file(placement.text)
    write = [] if is_written else [Write(name, "its content was replaced", placement.text, entry)]
    return (*write, Restart(name, "its restart was begun, but it is what it was", entry))


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
        if placement is not None and not placement.is_withdrawn:
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
    return seen.busy and (placement is None or placement.is_withdrawn)


# What the machine reports.

_HELD = (
    "held as it was when the store was restored from a snapshot, which asks for something else; "
    "start, stop or replace the unit to have it as you want it"
)
_ORPHAN = (
    "the store was restored from a snapshot that does not know this unit (or wants it gone), so it is only kept "
    "running; submit a unit of this name to take it over, or stop it on its machine"
)


def report(
    placement: Placement | None,
    seen: Observed,
    *,
    error: str = "",
    result: str = "",
    note: str = "",
    orphan: bool = False,
) -> UnitState | None:
    """What the machine publishes of the unit; None: nothing, there is nothing here and nothing was asked.

    `error` is why the last step failed or the unit did, `result` systemd's word for it (find_result), `note` is worth
    saying of one that has not failed. Target inactive with a placement's generation says that
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
        result=result,
        note=note,
        orphan=orphan,
    )


def find_result(seen: Observed, refused: str = "") -> str:
    """How the job came out that was asked for last, for a unit that it left at rest; `refused` is what a step that
    failed has to say of it."""
    entry = seen.entry
    if refused or seen.busy or entry is None or entry.target is not TargetState.LAUNCHED or entry.completed:
        return refused
    return entry.result or seen.job_result


def _differs(entry: LedgerEntry, placement: Placement) -> bool:
    """Whether a unit that was left as it was at a restore is not as its placement says."""
    if not entry.adopted or entry.generation != placement.generation:
        return False
    return entry.target is not placement.target or entry.hash != hash_unit_file(placement.text)


def _report_nothing(placement: Placement | None, seen: Observed, error: str) -> UnitState | None:
    """Nothing of ours is here: what systemd says of the name is of another's unit, and is not reported."""
    if placement is None:
        return None
    generation = placement.generation if placement.is_withdrawn else 0
    error = seen.refusal or error
    return UnitState(
        "not-found",
        "inactive",
        "dead",
        generation=generation,
        error=error,
        refusal=seen.obstacle,
        lacks=seen.lacks,
    )
