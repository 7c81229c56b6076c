"""What one machine reports of its units."""

from fleetd.model.job_result import FORGOTTEN, NEVER_RAN, SKIPPED, WAITS_FOR_LOCK
from fleetd.model.placement import Placement
from fleetd.model.unit import Proof, TargetState, UnitState
from fleetd.reconciler.actions import LedgerEntry
from fleetd.reconciler.observed import Observed

WAITING = "lock-wait"  # of a unit that waits for its lock, in place of systemd's sub state
_CANNOT_LOAD = ("error", "bad-setting")  # load states of a unit file that systemd cannot load
_HELD = (
    "held as it was when the store was restored from a snapshot, which has another target state or content for it; "
    "start, stop or replace the unit to have it as you want it"
)
_ORPHAN = (
    "the store was restored from a snapshot that does not know this unit (or wants it gone), so it is kept running; "
    "submit a unit of this name to take it over, or stop it on its machine"
)


def report(
    placement: Placement | None,
    seen: Observed,
    *,
    error: str = "",
    result: str = "",
    note: str = "",
    orphan: bool = False,
    proof: Proof | None = None,
    unannounced: str = "",
    is_prepared: bool = False,
) -> UnitState | None:
    """Return the state to publish for the unit; None: none, for it neither is here nor is placed here.

    `error` is why the unit, or the last action for it, failed; `result` is systemd's word for it (find_result); `note`
    is something else worth telling; `unannounced` is why the names of a unit at work cannot be relied on;
    `is_prepared`: all that the unit needs is here. Target
    inactive with a placement's generation says that nothing is left of a withdrawn unit: the leader waits for this
    before it deletes the placement.
    """
    if not seen.ours:
        return _report_absent(placement, seen, error, proof, note, is_prepared=is_prepared)
    if result == SKIPPED and not _is_broken(seen):  # no failure
        note, error = error or note, ""
    entry = seen.entry
    done = entry if entry is not None and entry.issued and entry.target is not TargetState.INACTIVE else None
    if orphan:
        error = error or _ORPHAN
    elif placement is not None and done is not None and _differs(done, placement):
        error = error or _HELD
    return UnitState(
        load=seen.load,
        active=seen.active,
        sub=WAITING if result == WAITS_FOR_LOCK and not seen.busy else seen.sub,
        hash=seen.hash,
        target=done.target if done else TargetState.LOADED,
        generation=done.generation if done else 0,
        completed=done.completed if done else False,
        error=error,
        result=result,
        note=note,
        orphan=orphan,
        refusal=seen.obstacle,
        proof=proof,
        unannounced=unannounced,
    )


def find_result(seen: Observed, refused: str = "") -> str:
    """Return how the unit's last job ended, if the unit is at rest now; `refused` is the result of a job that systemd
    refused, and takes precedence."""
    entry = seen.entry
    if refused or seen.busy or entry is None or entry.target is not TargetState.LAUNCHED or entry.completed:
        return refused
    return entry.result or seen.job_result


def needs_explanation(seen: Observed, result: str) -> bool:
    """True if only systemd, asked about the unit, can say why it does not run: it cannot load the unit's file, or the
    cause of the job's result is in the journal alone."""
    is_of_last_job = result in (seen.job_result, seen.entry and seen.entry.result)
    return _is_broken(seen) or (result in (*NEVER_RAN, *FORGOTTEN) and is_of_last_job and not seen.busy)


def _is_broken(seen: Observed) -> bool:
    return seen.ours and seen.load in _CANNOT_LOAD


def _differs(entry: LedgerEntry, placement: Placement) -> bool:
    """True if a unit adopted after a restore is not as its placement says."""
    if not entry.adopted or entry.generation != placement.generation:
        return False
    return entry.target is not placement.target or entry.hash != placement.content.hash


def _report_absent(
    placement: Placement | None, seen: Observed, error: str, proof: Proof | None, note: str, *, is_prepared: bool
) -> UnitState | None:
    """No unit of fleet's is here. systemd's states for this name are about another unit, and are not reported."""
    if placement is None:
        return None
    if placement.prepares:  # without a generation: nothing was carried out that the leader could wait for
        prepared = placement.content.hash if is_prepared and not seen.refusal else ""
        return UnitState(
            "not-found", "inactive", "dead", error=seen.refusal, refusal=seen.obstacle, note=note, prepared=prepared
        )
    return UnitState(
        "not-found",
        "inactive",
        "dead",
        generation=placement.generation if placement.is_withdrawn else 0,
        error=seen.refusal or error,
        note=note,
        refusal=seen.obstacle,
        lacks=seen.lacks,
        proof=proof,
    )
