"""What a rollout does next, from how far its members have got."""

from collections.abc import Iterable

import pytest
from msgspec.structs import replace

from fleetd.model.content import Content
from fleetd.model.group import GroupOptions, Share, UpdateFailure
from fleetd.model.placement import Placement
from fleetd.model.reason import BudgetWait, Unavailability, UnavailableMember
from fleetd.model.rollout import (
    Action,
    CanaryWait,
    Command,
    Failure,
    FormerMember,
    Member,
    MemberContents,
    Pause,
    PauseCause,
    Phase,
    Rollout,
    Step,
    TurnWait,
    render_rollout,
)
from fleetd.model.unit import Proof, TargetState, UnitState
from fleetd.scheduler.rollout_steps import MemberView, Progress, advance, assess, next_due, note_lost, obey
from tests.unit.cluster_builder import LAUNCHED, LOADED

NOW_S = 1000.0
DEFAULTS = GroupOptions()
OLD, NEW = Content("old"), Content("new")
ONE, TWO, THREE = (Member(f"w@{number}.service") for number in (1, 2, 3))
STATES = {
    "waiting": (Progress.WAITING, True),
    "waiting, down": (Progress.WAITING, False),
    "changing": (Progress.CHANGING, False),
    "proven": (Progress.PROVEN, True),
    "failed": (Progress.FAILED, False),
    "absent": (Progress.ABSENT, False),
}


def rollout(*, steps: Iterable[str | Step] = "", **fields: object) -> Rollout:
    """A rollout over w@1 to w@3, which all ran the old content. `steps` are those changed already, or their
    numbers."""
    former = tuple(FormerMember(member, 0, was_available=True) for member in (ONE, TWO, THREE))
    stepped = tuple(s if isinstance(s, Step) else Step(Member(f"w@{s}.service"), 900.0, f"m{s}") for s in steps)
    return replace(Rollout("r1", 5, changed=900.0, contents=(OLD,), former=former, steps=stepped), **fields)


def views(*states: str) -> list[MemberView]:
    """Views of w@1, w@2 … in these states."""
    return [
        MemberView(
            Member(f"w@{number}.service"), *STATES[state], where=f"m{number}", why="it crashed", is_down="down" in state
        )
        for number, state in enumerate(states, start=1)
    ]


def go_on(
    now: Rollout, *states: str, budget: int = 1, options: GroupOptions = DEFAULTS, at_s: float = NOW_S
) -> Rollout:
    """What follows. At most `budget` members may be unavailable."""
    seen = views(*states)
    down = {view.member.unit for view in seen if not view.is_available}

    def may_disturb(view: MemberView) -> list[str] | None:
        if view.is_available and len(down) >= budget:
            return sorted(down)
        down.add(view.member.unit)
        return None

    return advance(now, seen, options, may_disturb, at_s)


def stepped(found: Rollout) -> str:
    """The numbers of the members that have the new content."""
    return "".join(step.member.unit[2] for step in found.steps)


@pytest.mark.parametrize(
    ("steps", "states", "budget", "expected"),
    [
        ("", ["waiting"] * 3, 1, "1"),
        ("", ["waiting"] * 3, 2, "12"),
        ("1", ["changing", "waiting", "waiting"], 1, "1"),
        ("1", ["proven", "waiting", "waiting"], 1, "12"),
        ("", ["waiting", "waiting", "waiting, down"], 1, "3"),
        ("", ["waiting, down", "waiting", "waiting, down"], 1, "13"),
        ("1", ["proven", "absent", "waiting"], 1, "1"),
        ("1", ["proven", "absent", "waiting"], 2, "13"),
    ],
)
def test_members_are_changed_in_order_as_the_budget_allows(
    steps: str, states: list[str], budget: int, expected: str
) -> None:
    found = go_on(rollout(steps=steps), *states, budget=budget)
    assert stepped(found) == expected
    assert found.changed == (NOW_S if expected != steps else 900.0)


def test_a_rollout_is_done_when_every_member_is_proven_or_absent() -> None:
    found = go_on(rollout(steps="12"), "proven", "proven", "absent")
    assert (found.phase, found.steps, [former.member for former in found.former]) == (Phase.DONE, (), [THREE])
    assert (MemberContents(found).held(THREE), MemberContents(found).held(TWO)) == (OLD, None)
    assert go_on(found, "proven", "proven", "absent") is found
    assert go_on(found, "proven", "failed", "waiting") is found, "it waits for the budget"
    done = go_on(found, "proven", "proven", "waiting")
    assert (done.former, done.contents, done.phase) == ((), (), Phase.DONE)
    assert go_on(done, "waiting", "waiting", "waiting") is done
    assert go_on(found, "proven", "proven").former == (), "it is gone"


def test_a_member_that_is_new_has_the_new_content_and_counts() -> None:
    found = go_on(rollout(steps="123"), "proven", "proven", "proven", "changing")
    assert (found.phase, stepped(found)) == (Phase.RUNNING, "1234")
    assert go_on(found, "proven", "proven", "proven", "proven").phase is Phase.DONE


def test_a_failed_member_has_the_rollout_reverted_one_by_one() -> None:
    found = go_on(rollout(steps="12"), "proven", "failed", "waiting")
    assert (found.phase, found.failure) == (Phase.REVERTING, Failure("w@2.service", "m2", "it crashed"))
    assert (stepped(found), found.reverted) == ("1", (TWO,)), "the one that is down costs nothing"
    assert go_on(found, "proven", "changing", "proven") == found
    found = go_on(found, "proven", "proven", "proven")
    assert (stepped(found), found.reverted) == ("", (TWO, ONE))
    found = go_on(found, "proven", "proven", "proven")
    assert found.phase is Phase.REVERTED
    assert [MemberContents(found).held(member) for member in (ONE, TWO, THREE, Member("w@9.service"))] == [OLD] * 4


def test_a_revert_that_fails_is_paused_and_goes_on_when_resumed() -> None:
    found = go_on(rollout(steps="1", phase=Phase.REVERTING, reverted=(TWO,)), "proven", "failed", "proven")
    assert found.pause == Pause(PauseCause.REVERT_FAILED, units=(TWO.unit,))
    found = obey(found, Command("c", Action.RESUME, "r1"), NOW_S)
    found = go_on(found, "proven", "failed", "proven", budget=2)
    assert (found.pause, found.reverted) == (None, (TWO, ONE))
    assert go_on(found, "proven", "failed", "proven").phase is Phase.REVERTED


def test_a_rollout_of_what_was_down_before_is_paused_instead_of_reverted() -> None:
    former = tuple(FormerMember(member, 0) for member in (ONE, TWO))
    steps = tuple(Step(member, 900.0, was_down=True) for member in (ONE, TWO, THREE))
    now = rollout(former=(*former, FormerMember(THREE, 0)), steps=steps)
    assert go_on(now, "failed", "failed", "failed").phase is Phase.DONE, "they were down before"
    found = go_on(now, "failed", "failed", "failed", "failed")
    found = go_on(found, "failed", "failed", "failed", "failed")
    assert found.pause == Pause(PauseCause.NOTHING_TO_REVERT_TO, units=("w@4.service",))


def test_a_member_that_was_down_before_its_step_fails_it_once_it_was_proven() -> None:
    options = GroupOptions(max_unavailable=Share(2))
    now = go_on(rollout(), "waiting, down", "waiting", "waiting")
    assert (stepped(now), now.steps[0].was_down) == ("1", True)
    assert go_on(now, "failed", "waiting", "waiting", options=options, budget=2).phase is Phase.RUNNING
    now = go_on(now, "proven", "waiting", "waiting")
    assert (stepped(now), [step.was_down for step in now.steps]) == ("12", [False, False])
    assert go_on(now, "failed", "changing", "waiting").failure == Failure(ONE.unit, "m1", "it crashed")


def test_a_member_that_fails_while_the_canaries_are_waited_for_fails_its_step() -> None:
    options = GroupOptions(canary=1)
    waits = go_on(rollout(steps="1"), "proven", "waiting", "waiting", options=options)
    assert waits.phase is Phase.RUNNING
    assert go_on(waits, "failed", "waiting", "waiting", options=options).phase is Phase.REVERTING


def test_members_that_were_down_when_the_rollout_began_and_not_before_their_step_fail_it() -> None:
    former = tuple(FormerMember(member, 0, was_available=member != ONE) for member in (ONE, TWO, THREE))
    now = go_on(rollout(former=former), "waiting", "waiting", "waiting")
    assert go_on(now, "failed", "waiting", "waiting").phase is Phase.REVERTING


def test_a_member_that_only_waits_for_its_turn_blocks_nothing() -> None:
    found = advance(rollout(), views("waiting"), DEFAULTS, lambda _: (), 5000.0)
    assert (stepped(found), found.pause) == ("", None)


@pytest.mark.parametrize(
    ("alive", "dead", "is_failed"),
    [
        (895.0, 925.0, True),
        (909.0, 950.0, True),
        (910.1, 950.0, False),
        (800.0, 899.9, False),
    ],
)
def test_a_machine_that_may_have_died_of_its_step_fails_it(alive: float, dead: float, is_failed: bool) -> None:
    now = rollout(steps="1")
    found = note_lost(now, {"m1": (alive, dead), "m2": (alive, dead)}, settle_s=10.0)
    assert (found.steps[0].lost_after_s is not None) == is_failed
    if is_failed:
        assert found.steps[0].lost_after_s == dead - 900.0
        assert note_lost(found, {"m1": (alive, dead + 60.0)}, settle_s=10.0) is found, "it is noted once"
    else:
        assert found is now


def test_losses_do_not_matter_to_a_rollout_that_is_over() -> None:
    now = rollout(steps="1", phase=Phase.DONE)
    assert note_lost(now, {"m1": (899.0, 925.0)}, settle_s=10.0) is now


@pytest.mark.parametrize(("tolerate", "phase"), [(Share(0), Phase.REVERTING), (Share(1), Phase.DONE)])
def test_so_many_failures_are_tolerated(tolerate: Share, phase: Phase) -> None:
    options = GroupOptions(tolerate=tolerate)
    assert go_on(rollout(steps="123"), "proven", "failed", "proven", options=options).phase is phase


def test_a_rollout_that_continues_gets_to_its_end_whatever_fails() -> None:
    options = GroupOptions(on_failure=UpdateFailure.CONTINUE)
    found = go_on(rollout(steps="1"), "failed", "waiting", "waiting", options=options, budget=2)
    assert stepped(found) == "12"
    assert go_on(rollout(steps="123"), "failed", "failed", "proven", options=options).phase is Phase.DONE


def test_a_failure_pauses_the_rollout_until_an_operator_accepts_it() -> None:
    options = GroupOptions(on_failure=UpdateFailure.PAUSE)
    paused = go_on(rollout(steps="1"), "failed", "waiting", "waiting", options=options)
    assert paused.pause == Pause(PauseCause.FAILED, units=(ONE.unit,))
    assert go_on(paused, "proven", "waiting", "waiting", options=options) is paused
    resumed = obey(paused, Command("c1", Action.RESUME, "r1", "ann"), NOW_S)
    found = go_on(resumed, "failed", "waiting", "waiting", options=options, budget=2)
    assert (found.accepted, stepped(found), found.failure) == ((ONE,), "12", None)


def test_a_canary_is_waited_for_until_an_operator_continues() -> None:
    options = GroupOptions(canary=1)
    first = go_on(rollout(), "waiting", "waiting", "waiting", options=options, budget=3)
    assert stepped(first) == "1"
    assert go_on(first, "proven", "waiting", "waiting", options=options, at_s=9e9) is first
    found = obey(first, Command("c1", Action.CONTINUE, "r1"), NOW_S)
    assert stepped(go_on(found, "proven", "waiting", "waiting", options=options)) == "12"


def test_a_canary_is_waited_for_as_long_as_the_option_says_once_it_is_proven() -> None:
    options = GroupOptions(canary=1, canary_s=60.0)
    now = rollout(steps="1")
    assert go_on(now, "changing", "waiting", "waiting", options=options).is_continued is False
    assert go_on(now, "proven", "waiting", "waiting", options=options, at_s=959.0).is_continued is False
    assert go_on(now, "proven", "waiting", "waiting", options=options, at_s=960.0).is_continued
    assert next_due(now, options) == 960.0
    assert next_due(replace(now, is_continued=True), options) == 900.0 + options.deadline_s


@pytest.mark.covers("C.3")
def test_a_rollout_that_others_block_for_the_deadline_is_paused() -> None:
    states = ["waiting", "waiting", "absent"]
    assert go_on(rollout(), *states, at_s=1199.0).pause is None
    found = go_on(rollout(), *states, at_s=1200.0)
    assert found.pause == Pause(PauseCause.BLOCKED, units=(THREE.unit,))
    assert next_due(found, GroupOptions()) is None
    changing = go_on(rollout(steps="1"), "changing", "waiting", "waiting", at_s=1200.0)
    assert changing.pause is None, "its own change has a deadline of the machine's"


def test_a_revert_that_others_block_for_the_deadline_is_paused() -> None:
    now = rollout(steps="1", phase=Phase.REVERTING, reverted=(TWO,))
    assert go_on(now, "proven", "proven", "absent", at_s=1200.0).pause == Pause(PauseCause.BLOCKED, units=(THREE.unit,))


def test_each_command_is_obeyed_once() -> None:
    paused = obey(rollout(), Command("c1", Action.PAUSE, "r1", "ann"), NOW_S)
    assert paused.pause == Pause(PauseCause.OPERATOR, "ann")
    resumed = obey(paused, Command("c2", Action.RESUME, "r1"), NOW_S)
    assert resumed.pause is None
    assert obey(resumed, Command("c2", Action.RESUME, "r1"), NOW_S) is resumed
    assert obey(resumed, None, NOW_S) is resumed
    assert obey(paused, Command("c3", Action.PAUSE, "r1", "bob"), NOW_S).pause == paused.pause
    assert obey(resumed, Command("c4", Action.RESUME, "r1"), NOW_S).pause is None
    done = rollout(phase=Phase.DONE)
    assert obey(done, Command("c1", Action.PAUSE, "r1"), NOW_S) == replace(done, command="c1")
    assert next_due(done, GroupOptions()) is None


def placed(content: Content = NEW, generation: int = 5, target: TargetState = LAUNCHED) -> Placement:
    return Placement("m1", ONE.unit, content.text, target, generation)


def reported(proof: Proof | None = None, generation: int = 5, **fields: object) -> UnitState:
    values = {"target": LAUNCHED, "hash": NEW.hash, "proof": proof} | fields
    return UnitState("loaded", "active", "running", generation=generation, **values)


@pytest.mark.parametrize(
    ("placement", "state", "expected"),
    [
        (None, None, Progress.ABSENT),
        (placed(OLD), reported(), Progress.WAITING),
        (placed(generation=4), reported(), Progress.WAITING),
        (placed(), None, Progress.CHANGING),
        (placed(), reported(), Progress.CHANGING),
        (placed(), reported(Proof(4, NEW.hash)), Progress.CHANGING),
        (placed(), reported(Proof(5, OLD.hash)), Progress.CHANGING),
        (placed(), reported(Proof(5, NEW.hash)), Progress.PROVEN),
        (placed(), reported(Proof(5, NEW.hash, failed="it crashed")), Progress.FAILED),
        (placed(target=LOADED), reported(target=LOADED), Progress.PROVEN),
        (placed(target=LOADED), reported(generation=4, target=LOADED), Progress.CHANGING),
    ],
)
def test_how_far_a_member_has_got(placement: Placement | None, state: UnitState | None, expected: Progress) -> None:
    progress, why = assess(placement, state, NEW, 5)
    assert (progress, why) == (expected, "it crashed" if expected is Progress.FAILED else "")


def test_a_member_keeps_its_former_content_until_its_step() -> None:
    now = rollout(steps="1")
    assert [MemberContents(now).held(member) for member in (ONE, TWO, Member("w@9.service"))] == [None, OLD, None]
    assert MemberContents(replace(now, phase=Phase.DONE, former=())).held(TWO) is None
    assert MemberContents(replace(now, phase=Phase.REVERTED, contents=(), former=())).held(TWO) is None


FAILURE = Failure("w@2.service", "m2" * 16, "it crashed")


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, "running"),
        ({"phase": Phase.DONE}, "done"),
        (
            {"phase": Phase.REVERTING, "failure": FAILURE},
            "reverting because w@2.service failed on m2m2m2m2: it crashed",
        ),
        (
            {"phase": Phase.REVERTED, "failure": FAILURE},
            "reverted to the former content because w@2.service failed on m2m2m2m2: it crashed",
        ),
        ({"phase": Phase.REVERTED}, "reverted to the former content"),
        ({"pause": Pause(PauseCause.OPERATOR, "ann")}, "paused by ann"),
        ({"pause": Pause(PauseCause.OPERATOR)}, "paused by an operator"),
        (
            {"pause": Pause(PauseCause.FAILED, units=("w@2.service",)), "failure": FAILURE},
            "paused: w@2.service failed on m2m2m2m2: it crashed",
        ),
        (
            {"pause": Pause(PauseCause.FAILED, units=("w@2.service",)), "failure": Failure("w@2.service", "", "")},
            "paused: w@2.service failed",
        ),
        (
            {"phase": Phase.REVERTED, "failure": Failure("w@2.service", "", "exit-code 1; last lines:\nno disk")},
            "reverted to the former content because w@2.service failed: exit-code 1",
        ),
        (
            {"pause": Pause(PauseCause.REVERT_FAILED, units=("w@1.service",)), "phase": Phase.REVERTING},
            "paused while it was being reverted: w@1.service failed with the former content, too",
        ),
        (
            {"pause": Pause(PauseCause.NOTHING_TO_REVERT_TO, units=("w@1.service",))},
            "paused: w@1.service failed; it is not reverted, since no unit of it was available before",
        ),
        (
            {"pause": Pause(PauseCause.BLOCKED, units=("w@1.service", "w@2.service"))},
            "paused: blocked by w@1.service, w@2.service for the whole UpdateDeadlineSec=",
        ),
        (
            {"pause": Pause(PauseCause.STORE_RESTORED)},
            "paused: the store was restored since, so what it was doing may lie hours back",
        ),
    ],
)
def test_a_rollout_is_described_in_one_sentence(fields: dict[str, object], expected: str) -> None:
    assert render_rollout(rollout(**fields)) == expected


def test_what_a_rollout_waits_for_is_described() -> None:
    wait = BudgetWait(1, 1, (UnavailableMember("w@3.service", "m3", Unavailability.INACTIVE),))
    assert render_rollout(rollout(), wait) == "waits: w@3.service is not active on m3 (MaxUnavailable=1)"
    canaries = CanaryWait(("w@1.service",))
    expected = "waits until an operator continues: the canaries have the new content: w@1.service"
    assert render_rollout(rollout(), canaries) == expected
    assert render_rollout(rollout(), CanaryWait(("w@1.service",), NOW_S)).startswith("waits until 1970-01-01 00:16:40")
    assert render_rollout(rollout(pause=Pause(PauseCause.OPERATOR, "ann")), canaries) == "paused by ann"
    turn = TurnWait(("b@1.service", "b@2.service"))
    assert render_rollout(rollout(), turn) == "waits until these are proven, which come first: b@1.service, b@2.service"
