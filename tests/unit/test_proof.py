"""Whether a unit is healthy, for a placement that asks."""

import math

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleetd.model.group import UpdateAction
from fleetd.model.job_result import WAITS_FOR_LOCK
from fleetd.model.unit import Proof, TargetState
from fleetd.reconciler.actions import Applied, Restarting
from fleetd.reconciler.observed import LastRun, needs_last_run
from fleetd.reconciler.proof import Announced, Judgement, explain, judge_health
from tests.unit.reconcile_builder import LAUNCHED, LOADED, NEW_HASH, OLD_HASH, entry, here, placed

ASKED = msgspec.structs.replace(placed(), prove_after_s=10.0, prove_within_s=60.0)
PROVEN = Judgement(Proof(5, NEW_HASH, "run1"))
NOT_SETTLED = "systemd restarted it before it had been active for 10 s"
LATE = "it was not active for 10 s within 60 s"


def failed(words, due_s=None):
    return Judgement(Proof(5, NEW_HASH, failed=words), due_s)


def seen(active="active", *, at_s=112.0, since_s=101.0, restarts=0, ledger=None, **more):
    """A unit started at 100 s, active since 101 s, seen at 112 s."""
    run = LastRun("run1", "success", active_since_s=since_s, restarts=restarts)
    ledger = ledger or entry(applied=Applied(100.0))
    return msgspec.structs.replace(here(active), **({"entry": ledger, "at_s": at_s, "last_run": run} | more))


def after_reload(at_s, restarts=0):
    return entry(applied=Applied(at_s, restarts))


JUDGED = [
    ("one that was active long enough", seen(), PROVEN),
    ("one that reads its configuration again", seen("reloading"), PROVEN),
    ("one that was active just long enough", seen(at_s=111.0), PROVEN),
    ("one that is not active long enough", seen(at_s=110.9), Judgement(due_s=111.0)),
    ("one with new content since", seen(ledger=after_reload(105.0)), Judgement(due_s=115.0)),
    ("one with new content long ago", seen(at_s=200.0, ledger=after_reload(105.0)), PROVEN),
    ("one that starts", seen("activating"), Judgement(due_s=160.0)),
    ("one that starts, at the deadline", seen("activating", at_s=160.0), failed(LATE)),
    ("one that has stopped by itself", seen("inactive"), Judgement(due_s=160.0)),
    ("one that settles after the deadline", seen(at_s=162.0, since_s=155.0), failed(LATE, due_s=165.0)),
    ("one that settled late, but settled", seen(at_s=166.0, since_s=155.0), PROVEN),
    ("one that is to be stopped", seen(job=True), Judgement(due_s=160.0)),
    ("one restarted by systemd", seen(since_s=108.0, restarts=1), failed(NOT_SETTLED, due_s=118.0)),
    ("one between two restarts", seen("activating", restarts=2), failed(NOT_SETTLED)),
    ("one restarted before its content", seen(ledger=after_reload(105.0, 3), restarts=3), Judgement(due_s=115.0)),
    ("one that settled after a restart", seen(at_s=120.0, since_s=108.0, restarts=1), PROVEN),
    ("one whose last job failed", seen(job_result="failed"), PROVEN),
    ("one that failed", seen("failed", last_run=LastRun("run1", "exit-code")), failed("exit-code")),
    ("one that failed, of a type without results", seen("failed", last_run=LastRun("run1")), failed("it failed")),
    ("one that the machine refuses", here(hash_="", refusal="hides ssh.service"), failed("hides ssh.service")),
    ("one of which systemd cannot be asked", seen(last_run=None), Judgement()),
    ("one without a start", here(), Judgement()),
    ("one with an earlier start", seen(ledger=entry(generation=4, applied=Applied(100.0))), Judgement(due_s=160.0)),
    ("one with other content", seen(ledger=entry(hash_=OLD_HASH, adopted=True)), Judgement()),
    (
        "one whose restart hangs",
        seen(at_s=160.0, ledger=entry(restarting=Restarting(5, LAUNCHED), applied=Applied(100.0))),
        failed(LATE),
    ),
    ("one whose start was before the boot", seen(at_s=50.0, since_s=40.0), PROVEN),
    ("one that runs with an older ledger", seen(since_s=108.0, restarts=1, ledger=entry()), Judgement(due_s=118.0)),
]


@pytest.mark.parametrize(("unit", "judgement"), [row[1:] for row in JUDGED], ids=[row[0] for row in JUDGED])
def test_a_unit_is_judged_by_what_systemd_and_the_ledger_keep(unit, judgement):
    assert judge_health(ASKED, unit) == judgement


@pytest.mark.parametrize(
    ("unit", "error", "result", "judgement"),
    [
        (seen("inactive"), "", "assert", failed("it was not started (assert)")),
        (seen("inactive"), "", "done", Judgement(due_s=160.0)),
        (seen("inactive"), "", "condition", PROVEN),
        (seen(waiting=True), "disk full", "", failed("disk full")),
        (seen(), "disk full", "", PROVEN),
    ],
)
def test_a_job_or_an_action_that_failed_is_told(unit, error, result, judgement):
    assert judge_health(ASKED, unit, error=error, result=result) == judgement


def test_a_oneshot_is_proven_when_it_has_completed_and_has_no_deadline():
    run = LastRun("run1", "success", oneshot=True)
    assert judge_health(ASKED, seen("activating", at_s=900.0, last_run=run)) == Judgement()
    done = here(entry=entry(completed=True, applied=Applied(100.0)), at_s=900.0)
    assert judge_health(ASKED, done) == Judgement(Proof(5, NEW_HASH))


def test_a_unit_that_is_not_to_run_is_proven_when_it_is_loaded():
    asked = msgspec.structs.replace(ASKED, target=LOADED)
    assert judge_health(asked, here(entry=entry(LOADED))) == Judgement(Proof(5, NEW_HASH))
    assert judge_health(asked, here()) == Judgement()


def test_a_unit_that_waits_for_its_lock_is_ready_to_take_over():
    assert judge_health(ASKED, here(), result=WAITS_FOR_LOCK) == Judgement(Proof(5, NEW_HASH))
    assert judge_health(ASKED, here(hash_=OLD_HASH), result=WAITS_FOR_LOCK) == Judgement()


def test_without_a_deadline_a_unit_has_all_the_time():
    asked = msgspec.structs.replace(ASKED, prove_within_s=None)
    assert judge_health(asked, seen("activating", at_s=1e6)) == Judgement()
    assert judge_health(asked, seen(at_s=105.0)) == Judgement(due_s=111.0)


@pytest.mark.parametrize(
    "placement",
    [
        None,
        placed(),
        msgspec.structs.replace(ASKED, superseded=True),
        msgspec.structs.replace(ASKED, target=TargetState.INACTIVE),
    ],
)
def test_nothing_is_judged_that_was_not_asked(placement):
    assert judge_health(placement, seen()) == Judgement()


def test_systemd_is_asked_about_a_running_unit_only_for_a_proof():
    unit = here("active", entry=entry())
    assert not needs_last_run(placed(), unit)
    assert needs_last_run(ASKED, unit)
    assert not needs_last_run(ASKED, here("active", entry=entry(generation=4)))


# A unit that runs several times, each time for so long, and is seen at any time.


@pytest.mark.parametrize(
    ("unit", "announced", "judgement"),
    [
        (seen(), Announced(112.0), PROVEN),
        (seen(), Announced(113.0, "announced for less than 2 s"), Judgement(due_s=113.0)),
        (seen(at_s=105.0), Announced(102.0), Judgement(due_s=111.0)),
        (seen(), Announced(math.inf, "its check fails: refused"), Judgement(due_s=160.0)),
        (
            seen(at_s=160.0),
            Announced(math.inf, "its check fails: refused"),
            failed("it was not announced within 60 s: its check fails: refused"),
        ),
        (seen("activating", at_s=160.0), Announced(math.inf), failed(LATE)),
    ],
)
def test_a_unit_with_names_is_proven_once_they_can_be_relied_on(unit, announced, judgement):
    assert judge_health(ASKED, unit, announced=announced) == judgement


RUNS = st.lists(st.floats(0.01, 30.0), min_size=1, max_size=8)


@given(runs=RUNS, look_s=st.floats(0.0, 300.0), applied_s=st.floats(0.0, 300.0), pause_s=st.floats(0.05, 1.0))
def test_a_unit_is_proven_exactly_while_it_has_been_active_long_enough(runs, look_s, applied_s, pause_s):
    began_s, number, is_active = 1000.0, 0, True
    at_s = 1000.0 + look_s
    for lasts_s in runs:
        if at_s < began_s + lasts_s:
            break
        is_active = at_s >= began_s + lasts_s + pause_s
        if not is_active:
            break
        began_s, number = began_s + lasts_s + pause_s, number + 1  # the last run does not end
    ledger = entry(applied=Applied(min(1000.0 + applied_s, at_s)))
    run = LastRun(f"run{number}", active_since_s=began_s, restarts=number)
    unit = here("active" if is_active else "activating", entry=ledger, at_s=at_s, last_run=run)
    judgement = judge_health(ASKED, unit)
    is_settled = is_active and max(began_s, ledger.applied.at_s) + 10.0 <= at_s
    assert (judgement.proof == Proof(5, NEW_HASH, f"run{number}")) is is_settled
    if not is_settled and judgement.due_s is not None:
        assert judgement.due_s > at_s, "a timer that is due at once would go off again and again"


@given(number=st.integers(1, 10_000), age_s=st.floats(0.0, 9.9), is_active=st.booleans())
def test_a_crash_loop_is_never_proven(number, age_s, is_active):
    run = LastRun("any", active_since_s=2000.0 - age_s, restarts=number)
    unit = seen("active" if is_active else "activating", at_s=2000.0, last_run=run)
    assert judge_health(ASKED, unit).proof.failed == NOT_SETTLED


@pytest.mark.parametrize("ended", ["", "done", "canceled", "failed", "timeout"])
def test_a_reload_that_fails_is_a_failure_of_the_change(ended):
    reloaded = msgspec.structs.replace(ASKED, update=UpdateAction.RELOAD)
    found = judge_health(reloaded, seen(job_result=ended))
    assert found == (failed(f"its reload ended with: {ended}") if ended in ("failed", "timeout") else PROVEN)


def test_a_reload_that_takes_long_is_waited_for():
    reloaded = msgspec.structs.replace(ASKED, update=UpdateAction.RELOAD)
    assert judge_health(reloaded, seen("reloading", job=True, at_s=150.0)) == Judgement(due_s=160.0)


@pytest.mark.parametrize(
    ("failed", "words", "expected"),
    [
        (NOT_SETTLED, "", NOT_SETTLED),
        (NOT_SETTLED, "last lines:\nno disk", f"{NOT_SETTLED}; last lines:\nno disk"),
        (
            NOT_SETTLED,
            "exit-code: 3; last lines:\na\nb",
            f"{NOT_SETTLED}; exit-code: 3; last lines:\na\nb",
        ),
        ("exit-code", "exit-code: status 3; last lines:\nno disk", "exit-code: status 3; last lines:\nno disk"),
        ("exit-code", "x" * 300, "exit-code; " + "x" * 199 + "…"),
        ("exit-code", "\n".join("abcdefghijklmnopq"), "exit-code; " + "\n".join("abcdefghijkl")),
    ],
)
def test_a_failure_is_explained_within_bounds(failed, words, expected):
    explained = explain(Proof(5, NEW_HASH, failed=failed), words)
    assert explained == Proof(5, NEW_HASH, failed=expected)


def test_the_cause_of_a_failure_is_without_its_log_lines():
    assert Proof(5, "h", failed=f"{NOT_SETTLED}; last lines:\nno disk").cause == NOT_SETTLED
    assert Proof(5, "h", failed=LATE).cause == LATE
    assert Proof(5, "h").cause == ""
