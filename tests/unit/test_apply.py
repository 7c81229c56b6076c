"""What applying a set does to each unit, which units it refuses to touch, and what scaling a template does."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleetd.model.apply import ApplyPlan, ApplyRequest, ChangeKind, Known, Stamp, plan_apply, plan_scale
from fleetd.model.content import Content, DropIn
from fleetd.model.content_change import Impact
from fleetd.model.rollout import FormerMember, Member, Phase, Rollout, Step
from fleetd.model.unit import TargetState, Unit
from fleetd.model.unit_set import MAX_MEMBERS, SetUnit, UnitSet, expand

STAMP = Stamp("a1", "ann", "why")
LIMIT = DropIn("10-limit.conf", "[Service]\nMemoryMax=1G\n")


def service(program: str = "/bin/true", fleet: str = "") -> str:
    return f"[Service]\nExecStart={program}\n" + (f"\n[X-Fleet]\n{fleet}\n" if fleet else "")


def ask(*units: SetUnit, set_: str = "deploy", **options: Any) -> ApplyRequest:
    return ApplyRequest(set_, expand(units), **options)


def known(*units: Unit, complete: tuple[str, ...] = (), **sets: str) -> Known:
    """A cluster of these units, and sets of these members."""
    found = {name: UnitSet(tuple(members.split())) for name, members in sets.items()}
    return Known({unit.name: unit for unit in units}, found, complete)


def changes(plan: ApplyPlan) -> dict[str, str]:
    """The change of each unit, without the unchanged ones."""
    return {unit.name: unit.change.value for unit in plan.units if unit.change is not ChangeKind.UNCHANGED}


def becauses(plan: ApplyPlan) -> dict[str, str]:
    return {unit.name: unit.because for unit in plan.units if unit.because}


def carry_out(state: Known, plan: ApplyPlan, complete: tuple[str, ...] = ("a1",)) -> Known:
    """The cluster after the plan."""
    units = dict(state.units)
    for unit in plan.written:
        if unit.after is None:
            del units[unit.name]
        else:
            units[unit.name] = msgspec.structs.replace(unit.after, generation=7)
    return Known(units, {**state.sets, **plan.sets}, complete)


WEB = SetUnit("web@.service", service(fleet="Instances=2"))
A, B = SetUnit("a.service", service()), SetUnit("b.service", service())
IN_A, IN_B = Unit("a.service", service(), TargetState.LAUNCHED), Unit("b.service", service(), TargetState.LOADED)


def test_a_new_unit_is_written_as_launched_with_who_and_why_and_becomes_a_member() -> None:
    plan = plan_apply(ask(A), known(), STAMP)
    assert changes(plan) == {"a.service": "new"}
    assert plan.written[0].after == Unit(
        "a.service", service(), TargetState.LAUNCHED, set="deploy", rollout="a1", by="ann", note="why"
    )
    assert plan.sets == {"deploy": UnitSet(("a.service",))}
    assert plan.refusals == ()


def test_a_new_unit_has_the_desired_state_of_its_group_and_a_template_none() -> None:
    web = SetUnit("web@.service", service(fleet="Instances=1\nDesiredState=loaded"))
    alone = SetUnit("x@1.service", service(fleet="DesiredState=inactive"))
    plan = plan_apply(ask(web, alone), known(), STAMP)
    assert {unit.name: unit.after.target for unit in plan.written if unit.after} == {
        "web@.service": TargetState.INACTIVE,
        "web@1.service": TargetState.LOADED,
        "x@1.service": TargetState.INACTIVE,
    }


@pytest.mark.parametrize("target", TargetState)
def test_a_changed_unit_keeps_its_target_state_and_its_pending_restart(target: TargetState) -> None:
    before = Unit("a.service", service("/old"), target, generation=5, restart_of=4, note="old", rollout="a0")
    plan = plan_apply(ask(A), known(before, complete=("a0",)), STAMP)
    assert plan.written[0].after == msgspec.structs.replace(
        before, text=service(), set="deploy", rollout="a1", by="ann", note="why"
    )
    assert (plan.written[0].impact, plan.written[0].because) == (Impact.RESTART, "ExecStart= changed")


def test_changed_drop_ins_are_a_change_of_their_own_impact() -> None:
    plan = plan_apply(ask(SetUnit("a.service", service(), (LIMIT,))), known(IN_A), STAMP)
    assert changes(plan) == {"a.service": "changed"}
    assert (plan.written[0].impact, plan.written[0].because) == (Impact.RELOAD, "MemoryMax= changed")


def test_the_same_content_is_not_written_even_if_it_joins_the_set() -> None:
    plan = plan_apply(ask(A, B), known(IN_A, IN_B), STAMP)
    assert plan.written == ()
    assert plan.sets == {"deploy": UnitSet(("a.service", "b.service"))}
    assert not plan.changes_nothing


@pytest.mark.covers("C.6")
def test_applying_again_changes_nothing() -> None:
    state = known(IN_A)
    state = carry_out(state, plan_apply(ask(A, B, WEB), state, STAMP))
    assert plan_apply(ask(A, B, WEB), state, Stamp("a2", "bob")).changes_nothing


def test_what_an_interrupted_apply_has_written_is_written_again_with_the_new_id() -> None:
    state = carry_out(known(), plan_apply(ask(A), known(), STAMP), complete=())
    plan = plan_apply(ask(A), state, Stamp("a2", "bob"))
    assert becauses(plan) == {"a.service": "an earlier apply was interrupted before its end"}
    assert plan.written[0].after == msgspec.structs.replace(state.units["a.service"], rollout="a2", by="bob", note="")
    assert plan_apply(ask(A), state, STAMP).written != ()  # by the same apply, too, after a conflict


def test_what_was_reverted_is_planned_again_only_on_request() -> None:
    state = carry_out(known(IN_A, IN_B), plan_apply(ask(WEB, A, B), known(IN_A, IN_B), STAMP))
    reverted = Rollout("a1", phase=Phase.REVERTED, contents=(Content(service("/old")),))
    state = msgspec.structs.replace(state, rollouts={"web@.service": reverted, "a.service": reverted})
    plan = plan_apply(ask(WEB, A, B), state, Stamp("a2"))
    assert plan.changes_nothing
    assert plan.reverted == ("web@.service",)  # what no apply has written is not reverted
    retried = plan_apply(ask(WEB, A, B, retry=True), state, Stamp("a2"))
    assert retried.reverted == ()
    assert changes(retried) == dict.fromkeys(("web@.service", "web@1.service", "web@2.service"), "changed")
    assert (retried.written[0].impact, retried.written[0].because) == (Impact.RESTART, "ExecStart= changed")
    other = plan_apply(ask(SetUnit("web@.service", service("/new", "Instances=2"))), state, Stamp("a2"))
    assert other.reverted == ()


def test_more_and_fewer_instances() -> None:
    state = carry_out(known(), plan_apply(ask(WEB), known(), STAMP))
    more = plan_apply(ask(SetUnit("web@.service", service(fleet="Instances=3"))), state, STAMP)
    assert changes(more) == {
        "web@.service": "changed",
        "web@1.service": "changed",
        "web@2.service": "changed",
        "web@3.service": "new",
    }
    assert becauses(more)["web@3.service"] == "Instances=2 → 3"
    assert more.written[0].impact is Impact.NONE
    fewer = plan_apply(ask(SetUnit("web@.service", service(fleet="Instances=1"))), state, STAMP)
    assert changes(fewer) == {"web@.service": "changed", "web@1.service": "changed", "web@2.service": "destroyed"}
    assert becauses(fewer)["web@2.service"] == "Instances=2 → 1"
    assert fewer.sets == {"deploy": UnitSet(("web@.service", "web@1.service"))}


def test_an_instance_that_was_destroyed_by_hand_is_made_again_as_the_file_says() -> None:
    state = carry_out(known(), plan_apply(ask(WEB), known(), STAMP))
    left = Known({n: u for n, u in state.units.items() if n != "web@2.service"}, state.sets, state.complete)
    plan = plan_apply(ask(WEB), left, STAMP)
    assert changes(plan) == {"web@2.service": "new"}
    assert becauses(plan) == {"web@2.service": "Instances=2"}


@pytest.mark.covers("B.4")
def test_more_canaries_than_instances_are_said() -> None:
    template = SetUnit("web@.service", service(fleet="Instances=2\nUpdateCanary=3"))
    note = "web@.service: UpdateCanary=3 is more than there are in the group (2): all of it goes first"
    plan = plan_apply(ask(template), known(), STAMP)
    assert plan.notes == (note,)
    state = carry_out(known(), plan)
    assert plan_apply(ask(template), state, STAMP).notes == ()
    alone = Unit("web@.service", service(fleet="UpdateCanary=3"))
    assert plan_scale(alone, 1, known(alone), STAMP).notes == (note.replace("(2)", "(1)"),)
    assert plan_scale(alone, 3, known(alone), STAMP).notes == ()
    assert plan_apply(ask(SetUnit("web@.service", service(fleet="UpdateCanary=3"))), known(), STAMP).notes == ()


def test_instances_follow_a_template_that_does_not_say_which_there_are() -> None:
    state = known(
        Unit("web@.service", service("/old")),
        Unit("web@1.service", service("/old"), TargetState.LAUNCHED),
        Unit("web@eu.service", service("/other"), TargetState.LAUNCHED),
        Unit("web@us.service", service("/old"), TargetState.LAUNCHED),
        other="web@us.service",
    )
    plan = plan_apply(ask(SetUnit("web@.service", service())), state, STAMP)
    assert changes(plan) == dict.fromkeys(("web@.service", "web@1.service", "web@eu.service"), "changed")
    assert plan.sets == {"deploy": UnitSet(("web@.service", "web@1.service", "web@eu.service"))}
    as_none = plan_apply(ask(SetUnit("web@.service", service()), set_=""), state, STAMP)
    assert "web@us.service" in changes(as_none)
    assert as_none.sets == {}


def test_instances_that_are_named_leave_others_alone() -> None:
    state = known(Unit("web@1.service", service("/old")), Unit("web@eu.service", service("/old")))
    plan = plan_apply(ask(SetUnit("web@.service", service()), SetUnit("web@eu.service")), state, STAMP)
    assert changes(plan) == {"web@.service": "new", "web@eu.service": "changed"}


def test_a_member_that_is_not_among_the_units_stays_a_member_until_it_is_pruned() -> None:
    state = known(IN_A, IN_B, deploy="a.service b.service gone-already.service")
    plan = plan_apply(ask(A), state, STAMP)
    assert changes(plan) == {"b.service": "gone"}
    assert plan.sets == {"deploy": UnitSet(("a.service", "b.service"))}
    assert plan.written == ()
    pruned = plan_apply(ask(A, prune=True), state, STAMP)
    assert changes(pruned) == {"b.service": "destroyed"}
    assert becauses(pruned) == {"b.service": "--prune"}
    assert pruned.written[0].after is None
    assert pruned.sets == {"deploy": UnitSet(("a.service",))}
    assert pruned.refusals == ()


def test_prune_leaves_units_of_no_set_and_of_other_sets_alone() -> None:
    plan = plan_apply(ask(A, prune=True), known(IN_A, IN_B, Unit("c.service", ""), other="c.service"), STAMP)
    assert changes(plan) == {}


def test_prune_refuses_an_empty_folder() -> None:
    plan = plan_apply(ask(prune=True, confirmed=True), known(IN_A, deploy="a.service"), STAMP)
    assert len(plan.refusals) == 1
    assert "there are no units" in plan.refusals[0]


def test_prune_refuses_more_than_half_of_a_set_unless_it_is_confirmed() -> None:
    units = [Unit(f"{name}.service", service()) for name in "abcde"]
    state = known(*units, deploy=" ".join(unit.name for unit in units))
    assert plan_apply(ask(A, B, SetUnit("c.service", service()), prune=True), state, STAMP).refusals == ()
    plan = plan_apply(ask(A, prune=True), state, STAMP)
    assert plan.refusals == (
        '--prune would destroy 4 of the 5 units of the set "deploy" (b.service, c.service, d.service, …): '
        "add --yes if that is meant",
    )
    assert plan_apply(ask(A, prune=True, confirmed=True), state, STAMP).refusals == ()
    few = plan_apply(ask(A, prune=True), known(*units[:3], deploy="a.service b.service c.service"), STAMP)
    assert "(b.service, c.service)" in few.refusals[0]


def test_a_unit_of_another_set_is_taken_over_only_if_that_is_asked_for() -> None:
    state = known(IN_A, IN_B, other="a.service b.service", third="x.service")
    plan = plan_apply(ask(A), state, STAMP)
    assert plan.refusals == ('unit "a.service" belongs to the set "other": --take-over makes it one of "deploy"',)
    taken = plan_apply(ask(A, take_over=True), state, STAMP)
    assert taken.refusals == ()
    assert taken.written == ()
    assert taken.units[0].owner == "other"
    assert taken.sets == {"deploy": UnitSet(("a.service",)), "other": UnitSet(("b.service",))}


def test_which_units_get_a_content() -> None:
    state = known(
        IN_A, IN_B, Unit("c.service", service("/old")), Unit("d.service", "", rollout="x"), deploy="b.service"
    )
    units = [A, SetUnit("c.service", service()), SetUnit("d.service", service()), SetUnit("n.service", service())]
    plan = plan_apply(ask(*units, prune=True, confirmed=True), state, STAMP)
    found = {unit.name: unit.new_content for unit in plan.units}
    assert found.pop("a.service") is found.pop("b.service") is None
    assert set(found.values()) == {Content(service())}


def test_a_changed_unit_of_another_set_is_refused_as_well() -> None:
    plan = plan_apply(ask(SetUnit("a.service", service("/new"))), known(IN_A, other="a.service"), STAMP)
    assert len(plan.refusals) == 1


def test_a_destroyed_unit_of_another_set_is_made_anew_in_this_one() -> None:
    plan = plan_apply(ask(A), known(other="a.service"), STAMP)
    assert plan.refusals == ()
    assert plan.sets == {"deploy": UnitSet(("a.service",)), "other": UnitSet(())}


def test_a_set_that_its_record_cannot_hold_is_refused() -> None:
    members = [f"{number}.service" for number in range(MAX_MEMBERS + 1)]
    units = {name: Unit(name, "") for name in members}
    plan = plan_apply(ask(A), Known(units, {"deploy": UnitSet(tuple(members))}), STAMP)
    assert plan.refusals == (
        f"the set would have {MAX_MEMBERS + 2} units, and it may have 10000: make several sets of it",
    )


def web_cluster(*instances: str, fleet: str = "", **sets: str) -> Known:
    text = service(fleet=fleet)
    return known(Unit("web@.service", text), *(Unit(f"web@{each}.service", text) for each in instances), **sets)


def scale(state: Known, count: int) -> ApplyPlan:
    return plan_scale(state.units["web@.service"], count, state, STAMP)


def test_scaling_makes_what_is_missing_and_destroys_the_highest() -> None:
    state = web_cluster("1", "3", "4", "eu", "01")
    assert changes(scale(state, 3)) == {"web@2.service": "new", "web@4.service": "destroyed"}
    assert changes(scale(state, 0)) == dict.fromkeys(("web@1.service", "web@3.service", "web@4.service"), "destroyed")
    assert becauses(scale(state, 3)) == dict.fromkeys(("web@2.service", "web@4.service"), "scaled to 3")


def test_a_new_instance_has_the_content_of_its_template_and_is_launched() -> None:
    template = Unit("web@.service", service(), dropins=(LIMIT,))
    plan = plan_scale(template, 1, known(template), STAMP)
    assert plan.written[0].after == Unit(
        "web@1.service", service(), TargetState.LAUNCHED, dropins=(LIMIT,), rollout="a1", by="ann", note="why"
    )
    assert plan.sets == {}


def test_scaled_instances_are_of_the_set_of_their_template() -> None:
    state = web_cluster("1", "2", deploy="a.service web@.service web@1.service web@2.service")
    plan = scale(state, 1)
    assert plan.sets == {"deploy": UnitSet(("a.service", "web@.service", "web@1.service"))}
    plan = scale(state, 3)
    assert plan.written[0].after is not None
    assert plan.written[0].after.set == "deploy"
    assert "web@3.service" in plan.sets["deploy"].members


OLD, BAD = (Content(service(program)) for program in ("/old", "/bad"))
MEMBERS = tuple(f"web@{number}.service" for number in (1, 2, 3))


def half_rolled(phase: Phase, *stepped: str, **more: Any) -> Known:
    """A cluster whose rollout from OLD to BAD has reached these members, or was reverted."""
    former = tuple(FormerMember(Member(name), 0, was_available=True) for name in MEMBERS)
    steps = tuple(Step(Member(name), 1.0) for name in stepped)
    rollout = Rollout("r1", 9, phase=phase, contents=(OLD,), former=former, steps=steps)
    units = {name: Unit(name, BAD.text, TargetState.LAUNCHED, 9, rollout="r1") for name in MEMBERS}
    template = Unit("web@.service", BAD.text, generation=9, rollout="r1")
    return Known({**units, template.name: template}, {}, ("r1",), {"web@.service": rollout}, **more)


def put(state: Known, *units: SetUnit, **options: Any) -> ApplyPlan:
    return plan_apply(ask(*units, set_="", **options), state, STAMP)


RUNS_ALREADY = (Impact.NONE, "nothing restarts: this runs already")
RESTARTS = (Impact.RESTART, "ExecStart= changed")


def impacts(plan: ApplyPlan) -> dict[str, Any]:
    return {unit.name: (unit.impact, unit.because) for unit in plan.units if unit.name != "web@.service"}


def test_the_plan_compares_with_what_reverted_units_run() -> None:
    state = half_rolled(Phase.REVERTED)
    back = put(state, SetUnit("web@.service", OLD.text))
    assert impacts(back) == dict.fromkeys(MEMBERS, RUNS_ALREADY)
    assert len(back.written) == 4
    assert impacts(put(state, SetUnit("web@.service", service("/new")))) == dict.fromkeys(MEMBERS, RESTARTS)
    limited = put(state, SetUnit("web@.service", OLD.text + "MemoryMax=1G\n"))
    assert impacts(limited) == dict.fromkeys(MEMBERS, (Impact.RELOAD, "MemoryMax= changed"))
    again = put(state, SetUnit("web@.service", OLD.text + "[X-Fleet]\nUpdateAction=restart\n"))
    assert impacts(again) == dict.fromkeys(MEMBERS, (Impact.RESTART, "UpdateAction=restart"))


def test_the_plan_compares_with_what_units_of_a_rollout_under_way_run() -> None:
    state = half_rolled(Phase.RUNNING, MEMBERS[0])
    found = impacts(put(state, SetUnit("web@.service", OLD.text)))
    assert found == {MEMBERS[0]: RESTARTS, MEMBERS[1]: RUNS_ALREADY, MEMBERS[2]: RUNS_ALREADY}


def test_the_plan_compares_with_what_was_asked_for_at_once_since() -> None:
    state = half_rolled(Phase.REVERTED)
    changed = Unit(MEMBERS[1], service("/new"), TargetState.LAUNCHED, 10)
    state = msgspec.structs.replace(state, units={**state.units, changed.name: changed})
    assert impacts(put(state, SetUnit("web@.service", OLD.text)))[MEMBERS[1]] == RESTARTS


@pytest.mark.parametrize("phase", [Phase.REVERTING, Phase.REVERTED])
def test_a_new_instance_of_a_reverted_group_runs_what_the_others_were_reverted_to(phase: Phase) -> None:
    state = half_rolled(phase)
    note = "the last change of web@.service was reverted, so new instances run what the others were reverted to"
    plan = scale(state, 4)
    assert [unit.after and (unit.after.rollout, unit.after.content) for unit in plan.written] == [("r1", BAD)]
    assert plan.notes == (note,)
    plan = put(state, SetUnit("web@.service", BAD.text), SetUnit("web@eu.service"), SetUnit(MEMBERS[0]))
    assert [unit.after and (unit.name, unit.after.rollout) for unit in plan.written] == [("web@eu.service", "r1")]
    assert (plan.notes, plan.reverted) == ((note,), ())
    own = put(state, SetUnit("web@.service", BAD.text), SetUnit("web@eu.service", service("/eu")), SetUnit(MEMBERS[0]))
    assert own.refusals == ()
    assert [unit.after and unit.after.rollout for unit in own.written] == [""], "at once: no new rollout of the others"
    done = scale(half_rolled(Phase.DONE), 4)
    assert [unit.after and unit.after.rollout for unit in done.written] == ["a1"]


def test_a_change_of_some_units_of_a_reverted_group_does_not_roll_out_again_what_was_reverted() -> None:
    state = half_rolled(Phase.REVERTED)
    some = (SetUnit("web@.service", BAD.text), SetUnit(MEMBERS[0], service("/new")), *map(SetUnit, MEMBERS[1:]))
    (refusal,) = put(state, *some).refusals
    assert refusal == (
        "the last change of web@.service was reverted, and web@.service, web@2.service, web@3.service would have it "
        "again: change their content as well, or add --retry if that is meant"
    )
    assert put(state, *some, retry=True).refusals == ()
    assert put(half_rolled(Phase.DONE), *some).refusals == ()


def edit(state: Known, text: str, generation: int = 7, *dropins: DropIn) -> ApplyPlan:
    return plan_apply(ApplyRequest("", {"web@.service": Content(text, dropins)}, edited=generation), state, STAMP)


def test_an_edit_of_a_template_reaches_its_instances_which_keep_what_they_have_of_their_own() -> None:
    own = DropIn("own.conf", "[Service]\nTasksMax=5\n")
    units = [
        Unit("web@.service", service(fleet="Instances=5"), generation=7),
        Unit("web@1.service", service(fleet="Instances=5"), generation=8, dropins=(own,)),
        Unit("web@2.service", service("/own"), generation=8),
        Unit("other@1.service", service(), generation=8),
    ]
    plan = edit(known(*units), service("/new"), 7, LIMIT)
    contents = {unit.name: unit.after.content for unit in plan.written if unit.after}
    assert contents == {
        "web@.service": Content(service("/new"), (LIMIT,)),
        "web@1.service": Content(service("/new"), (LIMIT, own)),
        "web@2.service": Content(service("/own"), (LIMIT,)),
    }
    assert (plan.sets, plan.refusals) == ({}, ())


@pytest.mark.parametrize("generation", [7, 8, 0])
def test_an_edit_of_what_was_changed_or_destroyed_meanwhile_is_refused(generation: int) -> None:
    units = [Unit("web@.service", service(), generation=generation)] if generation else []
    refusal = 'unit "web@.service" was changed meanwhile: look at it and repeat what you want of it'
    assert edit(known(*units), service("/new")).refusals == (() if generation == 7 else (refusal,))


def test_scaling_to_what_there_is_changes_nothing() -> None:
    assert scale(web_cluster("1", "2", deploy="web@.service"), 2).changes_nothing


def test_scaling_says_if_the_file_says_otherwise() -> None:
    (note,) = scale(web_cluster("1", fleet="Instances=1"), 2).notes
    assert note == "web@.service says Instances=1: the next apply of its folder makes that of it again"


NAMES = ["a.service", "b.service", "web@.service", "web@1.service", "web@2.service", "web@eu.service"]
TEXTS = [service(), service("/other"), service(fleet="Instances=1"), service("/x", "Instances=eu\nDesiredState=loaded")]
STATES = st.dictionaries(st.sampled_from(NAMES), st.tuples(st.sampled_from(TEXTS), st.sampled_from(TargetState)))
FOLDERS = st.dictionaries(st.sampled_from(NAMES), st.sampled_from(TEXTS))


@given(STATES, FOLDERS, st.sets(st.sampled_from(NAMES)), st.sets(st.sampled_from(NAMES)), st.booleans(), st.booleans())
def test_whatever_there_is(  # type: ignore[no-untyped-def]
    state, folder, mine, others, prune: bool, take_over: bool
) -> None:
    """After an apply the cluster has what the folder says, a second one changes nothing, no unit that existed has got
    another target state, and no unit was destroyed that was not of the set."""
    units = {name: Unit(name, text, target) for name, (text, target) in state.items()}
    before = Known(units, {"deploy": UnitSet(tuple(sorted(mine))), "other": UnitSet(tuple(sorted(others - mine)))})
    asked = ask(
        *(SetUnit(name, text) for name, text in folder.items()), prune=prune, take_over=take_over, confirmed=True
    )
    plan = plan_apply(asked, before, STAMP)
    if plan.refusals:
        return
    after = carry_out(before, plan)
    for name, content in asked.contents.items():
        assert after.units[name].content == content
    for name, unit in before.units.items():
        assert name in after.units or name in mine
        assert name not in after.units or after.units[name].target is unit.target
    again = plan_apply(asked, after, Stamp("a2", "bob"))
    assert again.changes_nothing


def test_contents_compare_by_value() -> None:
    assert plan_apply(ApplyRequest("s", {"a.service": Content(service(), ())}), known(IN_A), STAMP).written == ()
