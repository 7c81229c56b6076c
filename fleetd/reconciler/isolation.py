"""What one machine decides about units that must not run while it is cut off (IsolationSec=, Lock=)."""

import math
from collections.abc import Callable, Collection, Mapping, Sequence

import msgspec

from fleetd.model.isolation import IsolationOptions
from fleetd.model.unit import TargetState
from fleetd.reconciler.actions import Action, LedgerEntry, Restart, Start, Stop, Write
from fleetd.reconciler.observed import Observed

LOCK_LOST = "this machine does not hold its lock"


def isolation_deadline_s(
    units: Mapping[str, IsolationOptions], heartbeat_s: float, locked_s: Mapping[str, float]
) -> float:
    """When the first of these units has to be stopped, unless something is heard before: infinite if none has to.

    `heartbeat_s` is when the last heartbeat that was answered was sent, and `locked_s` says the same of renewals, by
    unit, for those whose lock this machine holds, or held when they last ran.
    """
    due_s = math.inf
    for name, options in units.items():
        if options.is_single:
            due_s = min(due_s, heartbeat_s + options.isolation_s)
        if options.lock is not None and name in locked_s:
            due_s = min(due_s, locked_s[name] + options.isolation_s)
    return due_s


class Admission(msgspec.Struct, frozen=True):
    """What of a plan may be done. `leased` are the units that the lease has to name before, and `waiting` those that
    wait for their lock."""

    plan: tuple[Action, ...]
    leased: tuple[str, ...] = ()
    waiting: tuple[str, ...] = ()


def admit(
    plan: Sequence[Action],
    isolating: Callable[[str], IsolationOptions],
    is_open: Callable[[IsolationOptions], bool],
    locked: Collection[str],
) -> Admission:
    """Take out the starts that may not be made yet. `isolating` says what a unit asks for, as it is placed.

    A unit that has to be stopped where its machine is cut off is started only while the machine `is_open` for it: it
    holds nothing back, and the leader has acknowledged it since it was away, so that the unit is nowhere else. One with
    a lock is started only when it is among those `locked`.
    """
    kept: list[Action] = []
    leased: dict[str, None] = {}
    waiting: dict[str, None] = {}
    for action in plan:
        if isinstance(action, Start | Restart | Write) and (options := isolating(action.unit)).is_set:
            if not isinstance(action, Write):
                if not is_open(options):
                    continue
                if options.lock is not None and action.unit not in locked:
                    waiting[action.unit] = None
                    continue
            leased[action.unit] = None
        kept.append(action)
    return Admission(tuple(kept), tuple(leased), tuple(waiting))


def stop_unlocked(
    plan: Sequence[Action],
    observed: Mapping[str, Observed],
    units: Mapping[str, IsolationOptions],
    locked: Collection[str],
) -> tuple[Action, ...]:
    """The plan, with what runs without its lock stopped first; nothing else is done with it then."""
    stops: dict[str, tuple[Action, ...]] = {}
    for name, seen in observed.items():
        options = units.get(name)
        if options is None or options.lock is None or name in locked or not seen.ours or not seen.busy:
            continue
        stop = Stop(name, LOCK_LOST, seen.entry and as_not_started(seen.entry))
        stops[name] = () if seen.stopping else (stop,)
    return (
        *(stop for each in stops.values() for stop in each),
        *(action for action in plan if action.unit not in stops or isinstance(action, Stop)),
    )


def as_not_started(entry: LedgerEntry) -> LedgerEntry:
    """The entry of a unit that was stopped without being asked to: its placement is carried out anew."""
    if entry.target is not TargetState.LAUNCHED or entry.completed:
        return entry
    return msgspec.structs.replace(entry, generation=0, stopped=True, applied=None, restarting=None)
