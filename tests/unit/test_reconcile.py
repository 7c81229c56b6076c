"""plan_machine: tables of placements, what systemd reports, and the actions that follow."""

import msgspec
import pytest

from fleetd.model.content import Content
from fleetd.model.placement import Placement
from fleetd.model.unit import TargetState
from fleetd.reconciler.actions import LedgerEntry, Record, Restarting, Start, Stop, Write
from fleetd.reconciler.machine_plan import REPLACED, find_recorded, plan_machine
from fleetd.reconciler.observed import Desired, LastRun, Observed, is_settled, needs_last_run
from tests.unit.reconcile_builder import (
    INACTIVE,
    LAUNCHED,
    LOADED,
    NAME,
    NEW,
    OLD,
    OLD_HASH,
    STOPPED,
    WITHDRAWN,
    entry,
    here,
    kinds,
    placed,
    plan,
)

RAN = LastRun(invocation="1", result="success", oneshot=True)
FORGOTTEN = LastRun(result="success", oneshot=True)


def rolled_out(target: TargetState, generation: int) -> Placement:
    """A placement of a rollout, which asks for a proof."""
    return msgspec.structs.replace(placed(target, generation), prove_after_s=10.0)


TABLE = [
    # A unit that is to be removed.
    ("a_withdrawn_unit_that_runs_is_stopped", WITHDRAWN, here("active"), "Stop"),
    ("a_withdrawn_unit_whose_start_is_queued_is_stopped", WITHDRAWN, here(job=True), "Stop"),
    ("a_stop_under_way_is_not_asked_for_again", WITHDRAWN, here("active", job=True, stop="under way"), ""),
    ("a_deactivating_unit_is_not_stopped_again", WITHDRAWN, here("deactivating"), ""),
    ("a_unit_active_again_after_its_stop_is_stopped_again", WITHDRAWN, here("active", stop="ended"), "Stop"),
    ("a_withdrawn_unit_that_is_inactive_is_removed", WITHDRAWN, here(), "Remove"),
    ("a_withdrawn_unit_that_failed_is_removed", WITHDRAWN, here("failed"), "Remove"),
    ("an_entry_without_a_file_is_removed_too", WITHDRAWN, here(hash_="", entry=entry()), "Remove"),
    ("a_withdrawn_unit_of_which_nothing_is_left_needs_nothing", WITHDRAWN, Observed(), ""),
    ("the_systems_own_unit_of_that_name_is_not_stopped", WITHDRAWN, here("active", hash_=""), ""),
    ("a_unit_without_placement_is_stopped", None, here("active"), "Stop"),
    ("a_unit_without_placement_that_rests_is_removed", None, here(), "Remove"),
    ("a_retiring_copy_is_left_alone", placed(generation=9, superseded=True), here("active", entry=entry()), ""),
    # A unit that is to be loaded.
    ("a_loaded_unit_without_a_file_is_written", placed(LOADED), Observed(), "Write Record"),
    ("a_loaded_unit_with_its_file_is_recorded", placed(LOADED), here(), "Record"),
    ("a_loaded_unit_that_is_recorded_needs_nothing", placed(LOADED), here(entry=entry(LOADED)), ""),
    ("a_launched_unit_that_is_to_be_loaded_is_stopped", placed(LOADED, 6), here("active", entry=entry()), "Stop"),
    (
        "while_that_stop_is_under_way_it_is_waited_for",
        placed(LOADED, 6),
        here("deactivating", job=True, stop="under way", entry=entry()),
        "",
    ),
    ("once_it_has_stopped_it_is_recorded_as_loaded", placed(LOADED, 6), here(entry=entry()), "Record"),
    (
        "a_timer_that_starts_it_right_after_the_stop_is_left_alone",
        placed(LOADED, 6),
        here("active", stop="ended", entry=entry()),
        "Record",
    ),
    ("a_loaded_unit_that_became_active_is_left_alone", placed(LOADED), here("active", entry=entry(LOADED)), ""),
    (
        "a_loaded_unit_run_by_its_socket_is_stopped_on_request",
        placed(LOADED, 6),
        here("active", entry=entry(LOADED)),
        "Stop",
    ),
    (
        "what_its_socket_starts_again_after_that_stop_is_left_alone",
        placed(LOADED, 6),
        here("active", stop="ended", entry=entry(LOADED)),
        "Record",
    ),
    ("what_runs_here_without_an_entry_is_recorded_as_loaded", placed(LOADED), here("active"), "Record"),
    ("replacing_a_loaded_unit_writes_it", placed(LOADED, 6), here(hash_=OLD_HASH, entry=entry(LOADED)), "Write Record"),
    ("replacing_what_a_timer_runs_stops_it_first", placed(LOADED, 6), here("active", hash_=OLD_HASH), "Stop"),
    (
        "what_a_timer_runs_finishes_in_a_rollout",
        rolled_out(LOADED, 6),
        here("active", hash_=OLD_HASH, entry=entry(LOADED, hash_=OLD_HASH)),
        "Write Reload",
    ),
    (
        "what_a_timer_runs_finishes_in_a_rollout_after_a_crash",
        rolled_out(LOADED, 6),
        here("active", entry=entry(LOADED, hash_=OLD_HASH, reload=True)),
        "Reload",
    ),
    (
        "what_was_launched_until_a_rollout_is_stopped",
        rolled_out(LOADED, 6),
        here("active", hash_=OLD_HASH, entry=entry(hash_=OLD_HASH)),
        "Stop",
    ),
    # A unit that is to be launched.
    ("a_launched_unit_without_a_file_is_written_and_started", placed(), Observed(), "Write Start"),
    ("a_file_that_is_here_without_an_entry_is_started", placed(), here(), "Start"),
    ("what_runs_without_an_entry_is_recorded", placed(), here("active"), "Record"),
    (
        "what_runs_of_this_name_without_a_file_of_ours_is_left_running",
        placed(),
        here("active", hash_=""),
        "Write Record",
    ),
    (
        "a_replaced_unit_that_runs_is_restarted",
        placed(generation=6),
        here("active", hash_=OLD_HASH),
        "Write Restart",
    ),
    ("a_replaced_unit_that_rests_is_written_and_started", placed(generation=6), here(hash_=OLD_HASH), "Write Start"),
    ("a_start_asked_for_again_starts_what_rests", placed(generation=6), here(entry=entry()), "Start"),
    ("a_start_asked_for_again_starts_what_failed", placed(generation=6), here("failed", entry=entry()), "Start"),
    ("a_start_asked_for_again_leaves_alone_what_runs", placed(generation=6), here("active", entry=entry()), "Record"),
    (
        "a_unit_placed_again_while_it_is_stopped_is_started_again",
        placed(),
        here("deactivating", stop="under way", job=True, entry=STOPPED),
        "Start",
    ),
    ("a_unit_launched_after_it_was_loaded_is_started", placed(generation=6), here(entry=entry(LOADED)), "Start"),
    ("a_unit_that_runs_as_asked_needs_nothing", placed(), here("active", entry=entry()), ""),
    ("a_unit_that_failed_by_itself_is_not_restarted", placed(), here("failed", entry=entry()), ""),
    ("a_unit_that_stopped_by_itself_is_not_restarted", placed(), here(entry=entry()), ""),
    ("a_wish_older_than_the_one_carried_out_is_none", placed(), here("active", entry=entry(LOADED, 6)), ""),
    ("a_file_that_vanished_is_written_and_nothing_else", placed(), here("active", hash_="", entry=entry()), "Write"),
    ("a_file_that_was_edited_is_written_without_a_stop", placed(), here("active", hash_="x", entry=entry()), "Write"),
    # A start recorded before fleetd ended.
    ("an_intended_start_is_not_repeated_unasked", placed(), here(entry=entry(issued=False)), ""),
    (
        "an_intended_start_that_systemd_knows_nothing_of_is_made",
        placed(),
        here(entry=entry(issued=False), last_run=LastRun()),
        "Start",
    ),
    (
        "an_intended_start_that_systemd_remembers_is_recorded",
        placed(),
        here(entry=entry(issued=False), last_run=RAN),
        "Record",
    ),
    (
        "an_intended_start_of_what_runs_is_recorded",
        placed(),
        here("active", entry=entry(issued=False), last_run=LastRun()),
        "Record",
    ),
    (
        "an_intended_start_of_what_failed_is_recorded",
        placed(),
        here("failed", entry=entry(issued=False), last_run=LastRun()),
        "Record",
    ),
    # A oneshot that ran.
    ("a_oneshot_that_succeeded_is_recorded_as_completed", placed(), here(entry=entry(), last_run=RAN), "Record"),
    ("a_oneshot_that_systemd_forgot_has_completed", placed(), here(entry=entry(), last_run=FORGOTTEN), "Record"),
    (
        "a_service_that_ended_has_not_completed",
        placed(),
        here(entry=entry(), last_run=LastRun(invocation="1", result="success")),
        "",
    ),
    (
        "a_oneshot_that_was_killed_has_not_completed",
        placed(),
        here(entry=entry(), last_run=LastRun(invocation="1", result="signal", oneshot=True)),
        "",
    ),
    ("a_oneshot_whose_job_is_queued_has_not_completed", placed(), here(job=True, entry=entry(), last_run=RAN), ""),
    ("a_completed_oneshot_is_not_run_again", placed(), here(entry=entry(completed=True)), ""),
    # A unit that may not be here, or that has an error.
    ("a_refused_unit_is_not_written", placed(), here("active", hash_="", refusal="it would shadow"), ""),
    ("a_unit_that_may_not_be_here_is_stopped", placed(), here("active", entry=entry(), forbidden="root"), "Stop"),
    (
        "a_superseded_unit_that_may_not_be_here_is_stopped",
        placed(superseded=True),
        here("active", entry=entry(), forbidden="root"),
        "Stop",
    ),
    ("a_unit_that_may_not_be_here_is_removed_once_it_has_stopped", placed(), here(forbidden="root"), "Remove"),
    ("a_unit_that_waits_for_its_retry_is_left_alone", placed(), here(waiting=True), ""),
    # A unit held since the store was restored.
    ("an_adopted_unit_of_another_target_is_left_alone", placed(LOADED), here("active", entry=entry(adopted=True)), ""),
    (
        "an_adopted_unit_of_another_content_is_left_alone",
        placed(),
        here("active", hash_=OLD_HASH, entry=entry(hash_=OLD_HASH, adopted=True)),
        "",
    ),
    (
        "the_next_wish_for_an_adopted_unit_is_carried_out",
        placed(LOADED, 6),
        here("active", entry=entry(adopted=True)),
        "Stop",
    ),
]


@pytest.mark.covers(
    "1.6.3", "2.1.8", "6.1.3", "6.1.4", "6.1.5", "6.1.6", "6.1.7", "6.1.8", "6.1.9", "6.1.10", "6.1.12", "10.7.9"
)
@pytest.mark.parametrize(("placement", "seen", "expected"), [row[1:] for row in TABLE], ids=[row[0] for row in TABLE])
def test_the_plan_for_one_unit(placement: Placement | None, seen: Observed, expected: str) -> None:
    assert kinds(plan(placement, seen)) == expected.split()


@pytest.mark.parametrize("seen", [here("active", entry=entry()), here(), Observed()])
def test_a_missing_placement_changes_nothing_before_the_acknowledgement(seen: Observed) -> None:
    assert plan(None, seen, removes_unplaced=False) == []


@pytest.mark.parametrize("placement", [None, WITHDRAWN, placed(generation=9, text=OLD)])
def test_a_held_unit_is_left_alone_whatever_its_placement(placement: Placement | None) -> None:
    assert plan(placement, here("active", entry=entry()), held=(NAME,)) == []


def test_every_action_has_a_reason() -> None:
    steps = [step for _, placement, seen, _ in TABLE for step in plan(placement, seen)]
    assert len(steps) > 20
    assert all(step.reason and step.unit == NAME for step in steps)


def test_jobs_are_ordered_as_in_one_transaction_of_systemd() -> None:
    texts = {"a.service": "[Unit]\nAfter=z.service\n" + NEW, "m.service": NEW, "z.service": NEW}
    placements = {name: Placement("m1", name, text, LAUNCHED, 5) for name, text in texts.items()}
    steps = plan_machine(Desired(placements), dict.fromkeys(texts, Observed()))
    starts = [step.unit for step in steps if isinstance(step, Start)]
    assert starts == ["z.service", "a.service", "m.service"]
    gone = {name: msgspec.structs.replace(order, target=INACTIVE) for name, order in placements.items()}
    steps = plan_machine(Desired(gone), dict.fromkeys(texts, here("active")))
    assert [step.unit for step in steps if isinstance(step, Stop)] == starts[::-1]


@pytest.mark.covers("6.1.13")
def test_actions_are_ordered_by_kind_and_by_name() -> None:
    observed = {
        "new.service": Observed(),
        "b-gone.service": here("active"),
        "a-gone.service": here("active"),
        "rests.service": here(),
        "loaded.service": Observed(),
    }
    placements = {
        "new.service": msgspec.structs.replace(placed(), unit="new.service"),
        "loaded.service": msgspec.structs.replace(placed(LOADED), unit="loaded.service"),
    }
    steps = plan_machine(Desired(placements, removes_unplaced=True), observed)
    assert [(type(step).__name__, step.unit) for step in steps] == [
        ("Stop", "b-gone.service"),
        ("Stop", "a-gone.service"),
        ("Remove", "rests.service"),
        ("Write", "loaded.service"),
        ("Write", "new.service"),
        ("Record", "loaded.service"),
        ("Start", "new.service"),
    ]


def test_a_placement_during_a_removal_starts_the_unit_again() -> None:
    [stop] = plan(WITHDRAWN, here("active", entry=entry()))
    assert stop == Stop(NAME, "withdrawn from this machine", STOPPED)
    [start] = plan(placed(), here(entry=STOPPED))
    assert start == Start(NAME, "start requested again", entry(issued=False))


def test_a_stop_is_repeated_if_fleetd_ended_before_systemd_received_it() -> None:
    [stop] = plan(placed(LOADED, 6), here("active", entry=entry()))
    assert stop == Stop(NAME, "its target state is loaded", entry(stopped=True))
    assert plan(placed(LOADED, 6), here("active", entry=entry(stopped=True))) == [stop]


@pytest.mark.covers("1.5.5")
def test_the_placement_is_what_is_written_and_recorded() -> None:
    assert plan(placed(LOADED, 7), here(hash_=OLD_HASH)) == [
        Write(NAME, REPLACED, Content(NEW)),
        Record(NAME, "loaded", entry(LOADED, 7)),
    ]


def test_a_completed_oneshot_keeps_the_rest_of_its_entry() -> None:
    [record] = plan(placed(), here(entry=entry(), last_run=RAN))
    assert record == Record(NAME, "the oneshot has completed", entry(completed=True))


# What systemd is asked before a plan.


@pytest.mark.parametrize(
    ("placement", "seen", "needed"),
    [
        (placed(), here(entry=entry()), True),
        (placed(), here("active", entry=entry(issued=False)), True),
        (placed(), here("active", entry=entry()), False),
        (placed(), here("failed", entry=entry()), False),
        (placed(), here(job=True, entry=entry()), False),
        (placed(), here(entry=entry(completed=True)), False),
        (placed(), here(), False),
        (placed(LOADED), here(entry=entry(LOADED)), False),
        (placed(generation=6), here(entry=entry()), False),
        (None, here(entry=entry()), False),
    ],
)
def test_the_last_run_is_read_only_if_the_plan_depends_on_it(
    placement: Placement | None, seen: Observed, needed: bool
) -> None:
    assert needs_last_run(placement, seen) is needed


@pytest.mark.parametrize(
    ("placement", "seen", "settled"),
    [
        (placed(), here("active", entry=entry()), True),
        (None, here(), True),
        (placed(), here("active", job=True, entry=entry()), False),
        (placed(), here(), False),
        (placed(), here(entry=entry(), waiting=True), False),
    ],
)
def test_failures_are_forgotten_once_the_placement_is_carried_out(
    placement: Placement | None, seen: Observed, settled: bool
) -> None:
    assert is_settled(placement, seen) is settled


ASKED = msgspec.structs.replace(placed(), prove_after_s=0.0)
RESTARTING = entry(generation=4, restarting=Restarting(5, LAUNCHED, "1"))
BEGUN = LastRun("2", active_since_s=3.0)
RECORDED = [
    ("a_restart_that_is_done", placed(), here("active", entry=RESTARTING, last_run=BEGUN), entry()),
    ("a_unit_that_runs_already", placed(), here("active", entry=entry(generation=4)), entry()),
    ("a_unit_of_which_its_last_run_is_asked_now", ASKED, here("active", entry=entry(generation=4)), None),
    ("a_unit_of_which_more_is_to_be_recorded", placed(), here(entry=entry(issued=False), last_run=RAN), None),
    ("a_unit_whose_file_is_written", placed(LOADED), here(hash_=OLD_HASH), None),
    ("a_unit_that_is_restarted", placed(), here("active", hash_=OLD_HASH, entry=entry(hash_=OLD_HASH)), None),
]


@pytest.mark.parametrize(
    ("placement", "seen", "after"), [row[1:] for row in RECORDED], ids=[row[0] for row in RECORDED]
)
def test_what_is_only_recorded_needs_no_second_look(
    placement: Placement, seen: Observed, after: LedgerEntry | None
) -> None:
    desired = Desired({NAME: placement}, removes_unplaced=True)
    done = find_recorded(desired, plan_machine(desired, {NAME: seen}), {NAME: seen})
    assert done == ({NAME: msgspec.structs.replace(seen, entry=after)} if after else {})
