"""Whether a unit is announced, by its checks and its state; and which stops wait for its withdrawal."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleetd.model.announce_options import AnnounceOptions, Check
from fleetd.model.announcement import ServicePort
from fleetd.model.placement import Placement
from fleetd.model.unit import TargetState
from fleetd.reconciler.actions import Action, LedgerEntry, Restart, Stop, Write
from fleetd.reconciler.announcing import (
    FLAP_WINDOW_S,
    MAX_FAILING,
    MOST_PASSES,
    Health,
    describe_health,
    is_at_work,
    may_begin,
    note_end,
    note_result,
)
from fleetd.reconciler.observed import Observed, StopProgress
from fleetd.reconciler.withdrawal import hold_back

OPTIONS = AnnounceOptions((("web", (ServicePort(80),)),), Check("tcp", 80), 5.0, 2)
WEB = "web.service"
ENTRY = LedgerEntry(1, TargetState.LAUNCHED, "h")


def after(results: Sequence[str], every_s: float = 5.0) -> Health:
    health = Health()
    for number, failure in enumerate(results):
        health = note_result(health, OPTIONS, failure, 1000.0 + number * every_s)
    return health


@pytest.mark.parametrize(
    ("results", "passes", "words"),
    [
        ([], False, "its check has not passed yet"),
        (["refused"], False, "its check fails: refused"),
        ([""], True, ""),
        (["", "refused"], True, ""),
        (["", "refused", "", "refused"], True, ""),
        (["", "refused", "503"], False, "its check fails: 503"),
        (["", "x", "x", ""], True, ""),
        (
            ["", *"xx", "", *"xx"],
            False,
            "its check fails: x (it has failed 2 times in 5 min, and has to pass 2 times in a row)",
        ),
        (
            ["", *"xx", "", *"xx", ""],
            False,
            "its check fails: x (it has failed 2 times in 5 min, and has to pass 2 times in a row)",
        ),
        (
            ["", *"xx", "", *"xx", "", "y", ""],
            False,
            "its check fails: y (it has failed 2 times in 5 min, and has to pass 2 times in a row)",
        ),
        (["", *"xx", "", *"xx", "", ""], True, ""),
    ],
)
def test_health_follows_the_checks(results: list[str], passes: bool, words: str) -> None:
    health = after(results)
    assert (health.passes, describe_health(health)) == (passes, words)


def test_failures_are_forgotten_after_five_minutes_and_reasons_are_cut() -> None:
    flapping = after([*[""] * 16, *"xx"] * 6, every_s=1.0)
    assert flapping.needed == MOST_PASSES
    later = note_result(flapping, OPTIONS, "x" * 1000, 1200.0 + FLAP_WINDOW_S)
    assert (later.needed, len(later.failing)) == (1, MAX_FAILING)
    assert note_result(later, OPTIONS, "", 1220.0 + FLAP_WINDOW_S).passes


def test_a_run_that_ends_by_itself_counts_as_a_failure_of_a_unit_that_was_well() -> None:
    assert note_end(Health(True), 7.0) == Health(failed_at_s=(7.0,))
    assert note_end(Health(failing="x", failed_at_s=(1.0,)), 7.0) == Health(failed_at_s=(1.0,))


@given(st.lists(st.sampled_from(["", "x"]), max_size=60))
def test_a_unit_passes_only_after_a_pass_and_until_enough_failures(results: list[str]) -> None:
    health = Health()
    for number, failure in enumerate(results):
        before, health = health, note_result(health, OPTIONS, failure, number * 5.0)
        if health.passes and not before.passes:
            assert failure == ""
        if before.passes and not health.passes:
            assert results[number - 1 : number + 1] == ["x", "x"]
        assert (describe_health(health) == "") == health.passes


SEEN = Observed(hash="h", active="active", entry=ENTRY)


@pytest.mark.parametrize(
    ("seen", "superseded", "hands_over", "expected"),
    [
        (SEEN, False, False, True),
        (Observed(hash="h", active="reloading", entry=ENTRY), False, False, True),
        (Observed(hash="h", active="activating", entry=ENTRY), False, False, False),
        (Observed(active="active"), False, False, False),
        (Observed(hash="h", active="active", job=True, stop=StopProgress.UNDER_WAY), False, False, False),
        (SEEN, True, False, False),
        (SEEN, True, True, True),
    ],
)
def test_a_unit_is_at_work_where_it_is_active_and_no_other_machine_does_its_work(
    seen: Observed, superseded: bool, hands_over: bool, expected: bool
) -> None:
    placement = Placement("m1", WEB, "", TargetState.LAUNCHED, 1, superseded, hands_over)
    assert is_at_work(placement, seen) is expected
    if not superseded:
        assert is_at_work(None, seen) is expected
    assert may_begin(seen) is not seen.job


def place(name: str, unit: str = "", section: str = "Service") -> Placement:
    return Placement("m1", name, f"[Unit]\n{unit}\n[{section}]\n", TargetState.LAUNCHED, 1)


PLACEMENTS = {
    each.unit: each
    for each in (
        place(WEB, "Requires=mid.service"),
        place("mid.service", "PartOf=base.service\nBindsTo=web.service"),
        place("base.service"),
        place("web.socket", section="Socket"),
        place("alone.service"),
    )
}


def stop(unit: str) -> Stop:
    return Stop(unit, "", None)


@pytest.mark.parametrize("unit", [WEB, "mid.service", "base.service", "web.socket"])
def test_what_takes_down_an_announced_unit_waits_until_it_is_withdrawn(unit: str) -> None:
    plan: tuple[Action, ...] = (stop("alone.service"), Write(unit, "", PLACEMENTS[WEB].content), stop(unit))
    held = hold_back(plan, [WEB], PLACEMENTS, lambda name: False)
    assert (held.plan, held.waits) == (plan[:1], {unit: (WEB,)})
    assert hold_back(plan, [WEB], PLACEMENTS, lambda name: name == WEB).plan == plan


def test_nothing_else_waits() -> None:
    write = Write(WEB, "", PLACEMENTS[WEB].content)
    for plan, announced in (((write,), [WEB]), ((stop(WEB),), []), ((Restart("alone.service", "", ENTRY),), [WEB])):
        assert hold_back(plan, announced, PLACEMENTS, lambda name: False).plan == plan
    gone = hold_back([stop(WEB)], [WEB], {}, lambda name: False)
    assert gone.waits == {WEB: (WEB,)}
    mount = hold_back([stop("a.mount")], ["a.mount"], {"a.mount": place("a.mount")}, lambda name: False)
    assert mount.waits == {"a.mount": ("a.mount",)}
