"""plan_machine: what one machine does next about its units, as ordered actions, each with its reason.

Each plan brings a unit one step nearer to its placement; what follows from that step (the file that is removed once the
unit has stopped) is left to the next plan.
"""

from collections.abc import Mapping, Sequence

import msgspec

from fleetd.model.content import Content
from fleetd.model.content_change import Impact, effect
from fleetd.model.group import UpdateAction
from fleetd.model.job_result import CANCELED, FORGOTTEN
from fleetd.model.placement import Placement
from fleetd.model.unit import TargetState
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
from fleetd.reconciler.observed import Desired, LastRun, Observed, StopProgress, is_carried_out, needs_last_run
from fleetd.reconciler.socket_pairs import stop_pairs
from fleetd.reconciler.start_order import order_starts

# Reasons, as the log shows them.
REPLACED = "its unit file was replaced"
UNREAD = "systemd may not have read its unit file yet"
RESTART_NOT_ISSUED = "its restart was recorded, but did not reach systemd"

_ORDER: dict[type, int] = {Stop: 0, Remove: 1, Write: 2, Record: 3, Reload: 4, Start: 5, Restart: 5}


def plan_machine(desired: Desired, observed: Mapping[str, Observed]) -> tuple[Action, ...]:
    """Return the next actions for the observed units: stops, removals, writes, records, reloads, then starts and
    restarts; each by name, but starts in the order in which systemd would start the units together (start_order.py),
    and stops in the reverse order."""
    actions = [action for name in sorted(observed) for action in _plan_unit(name, desired, observed[name])]
    actions = [*stop_pairs(actions, desired, observed)]
    jobs = [action.unit for action in actions if isinstance(action, Stop | Start | Restart)]
    placements = desired.placements
    contents = {name: placements[name].content if name in placements else Content("") for name in jobs if len(jobs) > 1}
    positions = {name: position for position, name in enumerate(order_starts(contents))}

    def sort_key(action: Action) -> tuple[int, int]:
        sign = {Stop: -1, Start: 1, Restart: 1}.get(type(action), 0)
        return _ORDER[type(action)], sign * positions.get(action.unit, 0)

    return tuple(sorted(actions, key=sort_key))


def find_recorded(desired: Desired, plan: Sequence[Action], observed: Mapping[str, Observed]) -> dict[str, Observed]:
    """Return the units with which nothing is to be done any more once this plan has been carried out, because it only
    records something of them; each as it is seen with that. They need no second look before they are reported."""
    touched = {action.unit for action in plan if not isinstance(action, Record)}
    recorded = {
        action.unit: msgspec.structs.replace(observed[action.unit], entry=action.entry)
        for action in plan
        if isinstance(action, Record) and action.unit not in touched
    }
    left = {action.unit for action in plan_machine(desired, recorded)}
    left |= {name for name, seen in recorded.items() if _must_ask(desired.placements.get(name), seen)}
    return {name: seen for name, seen in recorded.items() if name not in left}


def _must_ask(placement: Placement | None, seen: Observed) -> bool:
    return seen.last_run is None and needs_last_run(placement, seen)


def _plan_unit(name: str, desired: Desired, seen: Observed) -> tuple[Action, ...]:
    """One unit's next actions: those of the first case that applies."""
    placement = desired.placements.get(name)
    if name in desired.held or seen.waiting:
        return ()
    if placement is None:
        return _plan_removal(name, seen, "not placed on this machine any more") if desired.removes_unplaced else ()
    if seen.forbidden:
        return _plan_removal(name, seen, seen.forbidden)
    if placement.superseded:  # it keeps running until its replacement does
        return ()
    if placement.is_withdrawn:
        return _plan_removal(name, seen, "withdrawn from this machine")
    if seen.refusal:
        return ()
    if seen.entry and is_carried_out(seen.entry, placement):
        return _plan_upkeep(name, placement, seen, seen.entry)
    stays = _restarts_loaded(placement, seen.entry) or _runs_on(placement, seen)
    if placement.target is TargetState.LAUNCHED or stays:
        if seen.entry and seen.entry.restarting and seen.entry.restarting.invocation is not None:
            return _plan_begun_restart(name, placement, seen, seen.entry, seen.entry.restarting)
        if seen.ours and seen.busy and not seen.stopping:
            return _plan_running(name, placement, seen)
    if _is_at_work(placement, seen):
        return _plan_reload(name, placement, seen, "it was only loaded")
    if seen.ours and seen.busy and seen.held_hash not in ("", placement.content.hash):
        return _stop(name, seen, REPLACED, _as_stopped(seen.entry))
    if placement.target is TargetState.LOADED and _must_stop(seen):
        return _stop(name, seen, "its target state is loaded", _as_stopped(seen.entry))
    return _plan_at_rest(name, placement, seen)


# A unit that is not to be here.


def _plan_removal(name: str, seen: Observed, reason: str) -> tuple[Action, ...]:
    if not seen.ours:
        return ()
    if seen.busy and seen.held_hash:  # without a hash, what runs is the machine's own unit
        return _stop(name, seen, reason, LedgerEntry(0, TargetState.INACTIVE, seen.held_hash))
    return (Remove(name, reason),)


def _stop(name: str, seen: Observed, reason: str, entry: LedgerEntry | None) -> tuple[Action, ...]:
    return () if seen.stopping else (Stop(name, reason, entry),)


def _as_stopped(entry: LedgerEntry | None) -> LedgerEntry | None:
    # What comes next is given its own time to be proven.
    return entry and msgspec.structs.replace(entry, stopped=True, applied=None)


def _must_stop(seen: Observed) -> bool:
    """True if a unit that is to be loaded runs, and its stop was requested: it was launched, or something else (its
    socket or timer, another unit, an operator) started it. One that was started after its stop had ended may run."""
    was_here = seen.entry is not None and seen.entry.target is not TargetState.INACTIVE
    return was_here and seen.busy and seen.stop is not StopProgress.ENDED


def _is_at_work(placement: Placement, seen: Observed) -> bool:
    """True if a rollout, which asks for a proof, changes a loaded unit that something else has started: that may
    finish."""
    was_loaded = seen.entry is not None and seen.entry.target is TargetState.LOADED
    is_rolled_out = placement.target is TargetState.LOADED and placement.prove_after_s is not None
    return was_loaded and is_rolled_out and seen.ours and seen.busy


# A placement that was carried out.


def _plan_upkeep(name: str, placement: Placement, seen: Observed, entry: LedgerEntry) -> tuple[Action, ...]:
    """Restore its file, and record how its start ended. Never stop or start it: keeping it up is left to Restart=."""
    actions: list[Action] = []
    if entry.hash == placement.content.hash != seen.hash:
        actions.append(Write(name, "its unit file was changed on disk", placement.content))
    if entry.reload:
        done = msgspec.structs.replace(entry, reload=False, reloads_unit=False)
        actions.append(Reload(name, UNREAD, done, entry.reloads_unit))
    if actions or entry.target is not TargetState.LAUNCHED:
        return tuple(actions)
    if reason := _find_news(seen, entry):
        return (Record(name, reason, msgspec.structs.replace(entry, result="" if seen.runs else seen.job_result)),)
    return () if seen.last_run is None else _plan_from_last_run(name, seen, entry, seen.last_run)


def _find_news(seen: Observed, entry: LedgerEntry) -> str:
    """Return what is to be recorded of how the start ended, in words for the log, or ''."""
    if seen.runs:
        return "it runs after all" if entry.result else ""
    ended = not seen.job and seen.job_result in FORGOTTEN and seen.job_result != entry.result
    return f"systemd did not start it ({seen.job_result})" if ended else ""


def _plan_from_last_run(name: str, seen: Observed, entry: LedgerEntry, last_run: LastRun) -> tuple[Action, ...]:
    if not entry.issued:
        if last_run.invocation or seen.busy or seen.active == "failed":
            reason = "systemd accepted its start before fleetd was restarted"
            return (Record(name, reason, msgspec.structs.replace(entry, issued=True)),)
        return (Start(name, "its start was recorded, but did not reach systemd", entry),)
    if not entry.result and _has_completed(seen, last_run):
        return (Record(name, "the oneshot has completed", msgspec.structs.replace(entry, completed=True)),)
    return ()


def _has_completed(seen: Observed, last_run: LastRun) -> bool:
    """True for a oneshot that succeeded. One that nothing refers to is forgotten by systemd, and has no invocation."""
    ended = seen.active == "inactive" and not seen.job
    return ended and last_run.oneshot and (last_run.result == "success" or not last_run.invocation)


# A placement that is to be carried out, of a unit at rest.


def _plan_at_rest(name: str, placement: Placement, seen: Observed) -> tuple[Action, ...]:
    """Write its file if need be; then start it, or record that nothing is to be started."""
    wanted = placement.content.hash
    actions: list[Action] = []
    if seen.hash != wanted:
        actions.append(Write(name, REPLACED if seen.hash else "placed on this machine", placement.content))
    entry = LedgerEntry(placement.generation, placement.target, wanted)
    if placement.target is TargetState.LOADED:
        actions.append(Record(name, "loaded", entry))
    elif not seen.busy and (placement.completed or _has_completed_before(placement, seen.entry)):
        actions.append(Record(name, "the oneshot has completed before", msgspec.structs.replace(entry, completed=True)))
    elif seen.busy and not seen.stopping:
        actions.append(Record(name, "it runs already", entry))
    else:
        reason = "start requested again" if seen.entry else "start requested"
        actions.append(Start(name, reason, msgspec.structs.replace(entry, issued=False)))
    return tuple(actions)


def _has_completed_before(placement: Placement, entry: LedgerEntry | None) -> bool:
    """True if it is a oneshot that has completed for this generation: other content does not run it again."""
    return entry is not None and entry.completed and entry.generation == placement.generation


# A placement that is to be carried out, of a unit that runs and is to go on running.


def _plan_running(name: str, placement: Placement, seen: Observed) -> tuple[Action, ...]:
    """Do as little as the new content, or a requested restart, demands: record, daemon-reload or restart."""
    wanted = placement.content.hash
    kind, cause = _find_impact(placement, seen, wanted)
    if kind is not Impact.RESTART:
        return _plan_reload(name, placement, seen, cause)
    base = seen.entry or LedgerEntry(0, placement.target, seen.hash)
    entry = msgspec.structs.replace(base, restarting=Restarting(placement.generation, placement.target))
    write = [Write(name, _reason_to_write(seen), placement.content, entry)] if seen.hash != wanted else []
    return (*write, Restart(name, cause, entry))


def _plan_reload(name: str, placement: Placement, seen: Observed, cause: str) -> tuple[Action, ...]:
    """Have systemd read the new content, with the unit running on."""
    wanted = placement.content.hash
    base = seen.entry or LedgerEntry(0, placement.target, seen.hash)
    done = LedgerEntry(placement.generation, placement.target, wanted, applied=base.applied)
    if seen.hash == wanted:
        if base.reload:
            return (Reload(name, UNREAD, done, base.reloads_unit),)
        return (Record(name, "it runs already", done),)
    reloads_unit = placement.update is UpdateAction.RELOAD and seen.hash != ""
    due = msgspec.structs.replace(base, reload=True, reloads_unit=reloads_unit)
    reload = Reload(name, f"it keeps running: {cause}", done, reloads_unit)
    return (Write(name, _reason_to_write(seen), placement.content, due), reload)


def _reason_to_write(seen: Observed) -> str:
    return REPLACED if seen.hash else "its unit file is missing"


def _find_impact(placement: Placement, seen: Observed, wanted: str) -> tuple[Impact, str]:
    """Return what has to happen to a running unit for it to be as it is placed, and the cause."""
    entry = seen.entry
    if entry and entry.restarting and entry.hash != seen.hash:
        return Impact.RESTART, RESTART_NOT_ISSUED
    if _restart_requested(placement, entry):
        return Impact.RESTART, "restart requested"
    if seen.held_hash in ("", wanted):
        return Impact.NONE, "its unit file is unchanged"
    if not seen.hash:
        return Impact.RESTART, "the unit file that it runs with is unknown"
    return effect(seen.content, placement.content, placement.update)


def _restarts_loaded(placement: Placement, entry: LedgerEntry | None) -> bool:
    """True if a loaded unit, which something else has started, is to be restarted. One that was launched until now is
    stopped instead."""
    return entry is not None and entry.target is TargetState.LOADED and _restart_requested(placement, entry)


def _runs_on(placement: Placement, seen: Observed) -> bool:
    """True if a loaded unit, which something else has started, is to run on with changed content (UpdateAction=)."""
    was_loaded = seen.entry is not None and seen.entry.target is TargetState.LOADED
    is_changed = seen.hash not in ("", placement.content.hash) or (seen.entry is not None and seen.entry.reload)
    return placement.update in (UpdateAction.RELOAD, UpdateAction.NONE) and was_loaded and is_changed


def _restart_requested(placement: Placement, entry: LedgerEntry | None) -> bool:
    """True if the unit was last started before a restart was requested."""
    return entry is not None and 0 < entry.generation <= placement.restart_of


def _plan_begun_restart(
    name: str, placement: Placement, seen: Observed, entry: LedgerEntry, restarting: Restarting
) -> tuple[Action, ...]:
    """Once systemd may have been asked for the restart: it is done if the invocation has changed or the job has ended.
    After a crash of fleetd, a unit that is merely busy may still be the old invocation."""
    if seen.last_run is None:
        return ()
    has_ended = not seen.job and seen.job_result not in ("", CANCELED)
    if has_ended or seen.last_run.invocation not in ("", restarting.invocation):
        done = LedgerEntry(restarting.generation, restarting.target, seen.hash, applied=entry.applied)
        return (Record(name, "restarted", done),)
    if seen.job:
        return ()
    is_written = seen.hash == placement.content.hash
    write = [] if is_written else [Write(name, REPLACED, placement.content, entry)]
    return (*write, Restart(name, "its restart began, but the old invocation still runs", entry))
