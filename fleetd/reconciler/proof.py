"""Judges whether a unit is healthy, for a placement that asks: without memory, by what systemd and the ledger keep.

The answer is the same after a restart of fleetd. A unit that crashes and is restarted again and again looks active
whenever systemd is asked, but never for long: the time counts, not the state.
"""

import math

import msgspec

from fleetd.model.group import UpdateAction
from fleetd.model.job_result import CANCELED, SKIPPED, WAITS_FOR_LOCK
from fleetd.model.placement import Placement
from fleetd.model.unit import Proof, TargetState
from fleetd.reconciler.actions import Applied, LedgerEntry
from fleetd.reconciler.observed import LastRun, Observed, is_carried_out

MAX_LINES, MAX_LINE = 12, 200  # of an explanation, and characters of one
_ACTIVE = ("active", "reloading")


class Judgement(msgspec.Struct, frozen=True):
    """An answer, or None while there is none. `due_s`: when time alone may change it (None: it cannot)."""

    proof: Proof | None = None
    due_s: float | None = None


class Announced(msgspec.Struct, frozen=True):
    """From when on others can rely on the names of a unit (Announce=), on the machine's monotonic clock: math.inf while
    it is not announced, 0 if it has none; and why not, in words."""

    settled_s: float = 0.0
    unannounced: str = ""


UNDECIDED = Judgement()
_NO_NAMES = Announced()


def judge_health(
    placement: Placement | None,
    seen: Observed,
    *,
    error: str = "",
    result: str = "",
    announced: Announced = _NO_NAMES,
) -> Judgement:
    """Return whether the unit is proven to be healthy.

    `error` is why the last action for it failed, `result` how its last job ended (find_result). Settling counts from
    when the unit became active, or had its present content, whichever is later; the deadline from when it was started,
    restarted, or had that content. A unit with names has to be announced as well.
    """
    if placement is None or placement.prove_after_s is None or not placement.is_active:
        return UNDECIDED
    if seen.refusal or (seen.waiting and error):
        return _fail(placement, seen.refusal or error)
    if result == WAITS_FOR_LOCK and seen.hash == placement.content.hash and not seen.busy:
        return Judgement(_prove(placement, None))  # it is ready to take over
    entry = seen.entry
    if entry is None or not is_carried_out(entry, placement) or entry.hash != placement.content.hash:
        return _judge_late(placement, seen, _find_applied(entry, seen))
    if placement.target is TargetState.LOADED or entry.completed or result == SKIPPED:
        return Judgement(_prove(placement, seen.last_run))
    if seen.last_run is None:
        return UNDECIDED  # systemd could not be asked
    return _judge_run(placement, seen, entry, seen.last_run, result, announced)


def explain(proof: Proof, words: str) -> Proof:
    """The answer with systemd's explanation of the failure ('': there is none): what it adds to the cause, and the last
    log lines, cut to a length that rollouts can keep."""
    lines = [line if len(line) <= MAX_LINE else line[: MAX_LINE - 1] + "…" for line in words.splitlines()[:MAX_LINES]]
    if not lines:
        return proof
    cause = [] if lines[0].startswith(proof.failed) else [proof.failed]
    return msgspec.structs.replace(proof, failed="; ".join([*cause, "\n".join(lines)]))


def _judge_run(
    placement: Placement, seen: Observed, entry: LedgerEntry, run: LastRun, result: str, announced: Announced
) -> Judgement:
    """Judge a unit that was started as the placement says."""
    assert placement.prove_after_s is not None
    applied = _find_applied(entry, seen)
    if seen.active == "failed":
        return _fail(placement, run.result or "it failed")
    if not seen.busy and result not in ("", "done"):
        return _fail(placement, f"it was not started ({result})")
    if placement.update is UpdateAction.RELOAD and seen.job_result not in ("", "done", CANCELED):
        return _fail(placement, f"its reload ended with: {seen.job_result}")
    settled_s = math.inf
    if seen.active in _ACTIVE and not seen.job:
        settled_s = max(run.active_since_s, applied.at_s if applied else 0.0) + placement.prove_after_s
    proven_s = max(settled_s, announced.settled_s)
    if proven_s <= seen.at_s:
        return Judgement(_prove(placement, run))
    if applied and run.restarts > applied.restarts:
        words = f"systemd restarted it before it had been active for {placement.prove_after_s:g} s"
        return _fail(placement, words, due_s=settled_s)
    # A job that runs to its end may take as long as it needs.
    why = announced.unannounced if settled_s <= seen.at_s else ""
    return _judge_late(placement, seen, None if run.oneshot else applied, due_s=proven_s, why=why)


def _judge_late(
    placement: Placement, seen: Observed, applied: Applied | None, *, due_s: float = math.inf, why: str = ""
) -> Judgement:
    """Judge a unit that is not proven yet: it has failed at its deadline. `due_s`: when it may be proven; `why` it is
    not, if it is active."""
    if applied is None or placement.prove_within_s is None:
        return Judgement(due_s=_finite(due_s))
    deadline_s = applied.at_s + placement.prove_within_s
    if deadline_s <= seen.at_s:
        words = f"it was not active for {placement.prove_after_s:g} s within {placement.prove_within_s:g} s"
        if why:
            words = f"it was not announced within {placement.prove_within_s:g} s: {why}"
        return _fail(placement, words, due_s=due_s)
    return Judgement(due_s=_finite(min(due_s, deadline_s)))


def _find_applied(entry: LedgerEntry | None, seen: Observed) -> Applied | None:
    """When the unit was started or had its content; None if that is not known, or was before the machine booted."""
    applied = entry.applied if entry else None
    return applied if applied is not None and applied.at_s <= seen.at_s else None


def _prove(placement: Placement, run: LastRun | None) -> Proof:
    return Proof(placement.generation, placement.content.hash, run.invocation if run else "")


def _fail(placement: Placement, words: str, *, due_s: float = math.inf) -> Judgement:
    return Judgement(Proof(placement.generation, placement.content.hash, failed=words), _finite(due_s))


def _finite(due_s: float) -> float | None:
    return due_s if math.isfinite(due_s) else None
