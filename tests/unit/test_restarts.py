"""plan_machine for a running unit that is to change: nothing, a reload, or a restart; also after every crash."""

import msgspec
import pytest

from fleetd.model.content import Content
from fleetd.model.placement import Placement
from fleetd.model.unit import TargetState
from fleetd.model.unitfile import hash_unit_file
from fleetd.reconciler.actions import LedgerEntry, Record, Reload, Restart, Restarting, Start, Stop, Write
from fleetd.reconciler.machine_plan import REPLACED, RESTART_NOT_ISSUED, UNREAD
from fleetd.reconciler.observed import LastRun, Observed, needs_content, needs_last_run
from fleetd.reconciler.reported_state import find_result, needs_explanation, report
from tests.unit.reconcile_builder import LAUNCHED, LOADED, NAME, NEW, NEW_HASH, OLD, OLD_HASH, entry, here, kinds, plan

LIMITED = NEW + "MemoryMax=10M\n"
LIMITED_HASH = hash_unit_file(LIMITED)


def placed(generation: int = 6, text: str = NEW, *, restart_of: int = 0, target: TargetState = LAUNCHED) -> Placement:
    return Placement("m1", NAME, text, target, generation, restart_of=restart_of)


def runs(text: str = NEW, **more: object) -> Observed:
    """A unit that runs with this content, launched by generation 5."""
    hash_ = hash_unit_file(text)
    return here("active", **{"hash_": hash_, "content": Content(text), "entry": entry(hash_=hash_), **more})


def restarting(invocation: str | None = None, generation: int = 6, **more: object) -> LedgerEntry:
    return msgspec.structs.replace(entry(**more), restarting=Restarting(generation, LAUNCHED, invocation))


# What an operation does to a running unit.


def test_a_content_change_needing_a_restart_is_recorded_then_restarted() -> None:
    assert needs_content(placed(), runs(OLD))
    assert not needs_content(placed(), runs())
    assert not needs_content(placed(), here(hash_=OLD_HASH))
    assert not needs_content(None, runs(OLD))
    due = restarting(hash_=OLD_HASH)
    assert plan(placed(), runs(OLD)) == [
        Write(NAME, REPLACED, Content(NEW), due),
        Restart(NAME, "ExecStart= changed", due),
    ]


def test_a_content_change_needing_only_a_reload_keeps_the_process() -> None:
    done = entry(generation=6, hash_=LIMITED_HASH)
    assert plan(placed(text=LIMITED), runs()) == [
        Write(NAME, REPLACED, Content(LIMITED), entry(reload=True)),
        Reload(NAME, "it keeps running: MemoryMax= changed", done),
    ]


def test_a_change_without_meaning_to_systemd_keeps_the_process() -> None:
    text = "[X-Fleet]\nConflicts=a.service\n\n" + NEW
    write, reload = plan(placed(text=text), runs())
    assert isinstance(write, Write)
    assert reload == Reload(
        NAME, "it keeps running: nothing that systemd acts on changed", entry(generation=6, hash_=hash_unit_file(text))
    )


def test_a_requested_restart_restarts_only_what_was_started_before_it() -> None:
    assert plan(placed(restart_of=5), runs()) == [Restart(NAME, "restart requested", restarting())]
    assert kinds(plan(placed(restart_of=5), here(entry=entry()))) == ["Start"]
    assert kinds(plan(placed(7, restart_of=5), runs(entry=entry(generation=6)))) == ["Record"]
    assert kinds(plan(placed(restart_of=5), runs(entry=None))) == ["Record"]
    assert kinds(plan(placed(restart_of=5), runs(entry=LedgerEntry(0, LAUNCHED, NEW_HASH)))) == ["Record"]


def test_a_restart_is_not_lost_if_another_operation_follows_at_once() -> None:
    assert kinds(plan(placed(9, restart_of=5), runs())) == ["Restart"]


def test_a_loaded_unit_run_by_its_socket_is_restarted_and_stays_loaded() -> None:
    seen = runs(entry=entry(LOADED))
    operation = Restarting(6, LOADED)
    assert plan(placed(restart_of=5, target=LOADED), seen) == [
        Restart(NAME, "restart requested", msgspec.structs.replace(entry(LOADED), restarting=operation))
    ]
    assert kinds(plan(placed(restart_of=5, target=LOADED), here(entry=entry(LOADED)))) == ["Record"]


def test_a_launched_unit_that_is_to_be_loaded_is_stopped_even_if_a_restart_is_requested() -> None:
    [stop] = plan(placed(restart_of=5, target=LOADED), runs(entry=entry(LAUNCHED)))
    assert isinstance(stop, Stop)


def test_a_unit_without_its_file_is_restarted_unless_it_runs_as_placed() -> None:
    assert kinds(plan(placed(), here("active", hash_="", entry=entry(hash_=OLD_HASH)))) == ["Write", "Restart"]
    assert kinds(plan(placed(), here("active", hash_="", entry=entry()))) == ["Write", "Reload"]


def test_a_content_changed_under_one_generation_is_carried_out() -> None:
    assert kinds(plan(placed(5), runs(OLD))) == ["Write", "Restart"]
    assert kinds(plan(placed(5, LIMITED), runs())) == ["Write", "Reload"]
    assert kinds(plan(placed(5), here(hash_=OLD_HASH, entry=entry(hash_=OLD_HASH)))) == ["Write", "Start"]
    done = entry(hash_=OLD_HASH, completed=True)
    assert kinds(plan(placed(5), here(hash_=OLD_HASH, entry=done))) == ["Write", "Record"]
    assert plan(placed(5), runs(OLD, entry=entry(hash_=OLD_HASH, adopted=True))) == []


def test_a_unit_that_runs_as_its_file_says_is_not_restarted() -> None:
    assert kinds(plan(placed(), runs(entry=entry(hash_="of another release")))) == ["Record"]


def test_a_replaced_unit_that_is_being_stopped_is_waited_for() -> None:
    assert plan(placed(), here("deactivating", hash_=OLD_HASH, entry=entry(hash_=OLD_HASH))) == []


def test_a_replaced_unit_that_is_to_be_loaded_only_is_stopped() -> None:
    [stop] = plan(placed(target=LOADED), runs(OLD))
    assert isinstance(stop, Stop)


# After a crash at each point.


def test_a_recorded_restart_that_was_not_requested_is_requested() -> None:
    due = restarting(hash_=OLD_HASH)
    assert plan(placed(), runs(OLD, entry=due))[1:] == [Restart(NAME, "ExecStart= changed", due)]
    assert kinds(plan(placed(7, OLD), runs(OLD, entry=due))) == ["Record"], "it was never written"
    assert plan(placed(), runs(entry=due)) == [Restart(NAME, RESTART_NOT_ISSUED, due)]
    assert kinds(plan(placed(), here(entry=due))) == ["Start"]


DONE = Record(NAME, "restarted", entry(generation=6))


@pytest.mark.parametrize(
    ("seen", "expected"),
    [
        (runs(last_run=LastRun("old")), "Restart"),  # busy, but with the former process
        (runs(last_run=LastRun("old"), job=True), ""),  # a job is queued: its end decides
        (runs(last_run=LastRun("new")), DONE),
        (runs(last_run=LastRun("new"), job=True), DONE),  # it starts slowly
        (here("failed", last_run=LastRun("new")), DONE),  # it was started, and failed
        (here("failed", last_run=LastRun("old")), "Restart"),  # it failed before
        (here(last_run=LastRun("")), "Restart"),  # it is gone, and systemd has forgotten it
        (here(last_run=LastRun(""), job_result="done"), DONE),  # a completed oneshot
        (here(last_run=LastRun(""), job_result="condition"), DONE),
        (runs(last_run=LastRun("old"), job_result="canceled"), "Restart"),
        (runs(), ""),  # systemd was not asked, or has not answered
    ],
)
def test_a_restart_is_done_when_the_invocation_changed_or_its_job_ended(seen: Observed, expected: str | Record) -> None:
    seen = msgspec.structs.replace(seen, entry=restarting("old"))
    assert needs_last_run(placed(), seen)
    steps = plan(placed(), seen)
    assert steps == [expected] if isinstance(expected, Record) else kinds(steps) == expected.split()


def test_a_restart_is_completed_before_the_next_placement() -> None:
    begun = restarting("old", hash_=OLD_HASH)
    assert plan(placed(8, OLD), runs(entry=begun, last_run=LastRun("new"))) == [DONE]
    assert kinds(plan(placed(8, OLD), runs(entry=begun, last_run=LastRun("old")))) == ["Write", "Restart"]


def test_a_reload_that_may_not_have_been_made_is_made() -> None:
    due = entry(hash_=LIMITED_HASH, reload=True)
    assert plan(placed(), runs(entry=due)) == [Reload(NAME, UNREAD, entry(generation=6))], "it was written"
    assert kinds(plan(placed(), runs(LIMITED, entry=due))) == ["Write", "Reload"], "it was not"
    due = entry(reload=True)
    assert plan(placed(5), runs(entry=due)) == [Reload(NAME, UNREAD, entry())], "the former content is wanted again"
    assert kinds(plan(placed(5), runs(LIMITED, entry=due))) == ["Write", "Reload"]


def test_during_a_restart_the_former_generation_is_reported() -> None:
    state = report(placed(), here("deactivating", entry=restarting("old")))
    assert state is not None
    assert (state.generation, state.target) == (5, LAUNCHED)
    assert not needs_last_run(placed(), here("active", entry=restarting()))


# The result of a job that started nothing.


@pytest.mark.parametrize("result", ["condition", "assert"])
def test_a_skipped_start_is_recorded_and_is_no_completion_of_a_oneshot(result: str) -> None:
    seen = here(entry=entry(), job_result=result, last_run=LastRun(oneshot=True))
    [record] = plan(placed(5), seen)
    assert record == Record(NAME, f"systemd did not start it ({result})", entry(result=result))
    seen = msgspec.structs.replace(seen, entry=record.entry)
    assert plan(placed(5), seen) == []
    assert plan(placed(5), msgspec.structs.replace(seen, job_result="")) == [], "fleetd was restarted"
    assert find_result(msgspec.structs.replace(seen, job_result="")) == result
    [record] = plan(placed(5), msgspec.structs.replace(seen, active="active"))
    assert record == Record(NAME, "it runs after all", entry())


@pytest.mark.parametrize(
    ("seen", "refused", "result"),
    [
        (here(entry=entry(), job_result="done"), "", "done"),
        (here(entry=entry(completed=True), job_result="done"), "", ""),
        (here(entry=entry(LOADED), job_result="done"), "", ""),
        (here("active", entry=entry(), job_result="done"), "", ""),
        (here("active", entry=entry(), job_result="done"), "refused", "refused"),
        (here(job_result="done"), "", ""),
    ],
)
def test_an_inactive_launched_unit_reports_the_result_of_its_job(seen: Observed, refused: str, result: str) -> None:
    assert find_result(seen, refused) == result


def test_a_repeated_start_forgets_the_former_result() -> None:
    [start] = plan(placed(), here(entry=entry(result="assert")))
    assert start == Start(NAME, "start requested again", entry(generation=6, issued=False))


@pytest.mark.parametrize(
    ("seen", "result", "needs"),
    [
        (msgspec.structs.replace(here(), load="bad-setting"), "", True),
        (here(hash_="", refusal="it would hide /lib/x"), "", False),
        (here(job_result="assert"), "assert", True),
        (here(entry=entry(result="condition")), "condition", True),
        (here("active", job_result="assert"), "assert", False),
        (here(job_result="done"), "done", False),
        (here(), "refused", False),  # refused before there was a job: the error says why
    ],
)
def test_systemd_is_asked_only_for_causes_that_it_alone_knows(seen: Observed, result: str, needs: bool) -> None:
    assert needs_explanation(seen, result) is needs


def test_the_unmet_condition_of_a_skipped_start_is_a_note() -> None:
    skipped = report(placed(5), here(entry=entry(result="condition")), error="no /etc/x", result="condition")
    assert skipped is not None
    assert (skipped.error, skipped.note) == ("", "no /etc/x")
