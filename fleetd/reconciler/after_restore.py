"""What a machine does when the store was restored from an old snapshot: it takes its units as they are."""

from collections.abc import Mapping

import msgspec

from fleetd.model.isolation_options import isolation_options_of
from fleetd.model.placement import Placement
from fleetd.model.unit import TargetState
from fleetd.reconciler.actions import LedgerEntry
from fleetd.reconciler.observed import Observed


class Adoption(msgspec.Struct, frozen=True):
    """What the machine records: ledger entries by unit, the names of the orphans, and of all units that run though the
    store does not want them here."""

    entries: Mapping[str, LedgerEntry]
    orphans: tuple[str, ...]
    unwanted: tuple[str, ...]


def plan_adoption(
    placements: Mapping[str, Placement], observed: Mapping[str, Observed], *, is_late: bool = False
) -> Adoption:
    """Record every unit as being what the restored store wants. One that runs although the store does not know it, or
    wants it gone, becomes an orphan.

    Units without a placement get generation 0: their old generations belong to a history that was lost, and would pass
    for later than the next operation's. `is_late`: the machine was away when the store was restored. A unit that is
    withdrawn from it then has been placed elsewhere since, so it is no orphan.

    A unit that must not run twice (IsolationSec=) is stopped wherever the store does not want it, so that it has to be
    started where the store does.
    """
    entries: dict[str, LedgerEntry] = {}
    orphans: list[str] = []
    unwanted: list[str] = []
    for name in sorted(observed):
        seen, placement = observed[name], placements.get(name)
        entry = _as_it_is(seen)
        if seen.refusal or not (seen.ours or seen.load == "not-found"):
            continue  # the machine's own unit has this name
        if placement is not None and not placement.is_withdrawn:
            is_started = entry.completed or entry.target is TargetState.LAUNCHED or not _starts_anew(placement)
            entries[name] = msgspec.structs.replace(entry, generation=placement.generation if is_started else 0)
        elif seen.ours:
            entries[name] = entry
            unwanted += [name] if seen.busy else []
            orphans += [name] if seen.busy and not (is_late and placement) else []
    return Adoption(entries, tuple(orphans), tuple(unwanted))


def is_orphan_still(placement: Placement | None, seen: Observed) -> bool:
    """True if an orphan still runs, and no unit of its name was submitted."""
    return seen.busy and (placement is None or placement.is_withdrawn)


def _starts_anew(placement: Placement) -> bool:
    is_single = isolation_options_of(placement.content, placement.unit).is_single
    return is_single and placement.target is TargetState.LAUNCHED


def _as_it_is(seen: Observed) -> LedgerEntry:
    return LedgerEntry(
        generation=0,
        target=TargetState.LAUNCHED if _is_launched(seen) else TargetState.LOADED,
        hash=seen.hash,
        completed=seen.entry is not None and seen.entry.completed,
        adopted=True,
        applied=seen.entry.applied if seen.entry else None,
    )


def _is_launched(seen: Observed) -> bool:
    """True if the unit runs, or ran until it ended by itself; False if fleetd stopped it, or is stopping it, or systemd
    has not accepted its start."""
    if seen.busy and not seen.stopping:
        return True
    if seen.entry is None:
        return seen.busy
    is_begun = seen.entry.issued or seen.busy
    return seen.entry.target is TargetState.LAUNCHED and is_begun and not seen.entry.stopped
