"""Rollouts in a cluster: who gets the new content when, and what happens on the way."""

import pytest
from msgspec.structs import replace

from fleetd.model.rollout import Action, Apply, Command, PauseCause, Phase
from fleetd.model.unit import Unit
from fleetd.registry.records import APPLIES, COMMANDS, ROLLOUTS, UNITS
from fleetd.registry.snapshots import apply_record
from fleetd.scheduler.affected import Affected
from fleetd.scheduler.proposal import RolloutPlan
from fleetd.scheduler.relations import rolling_with
from fleetd.scheduler.snapshot import Snapshot
from fleetd.scheduler.unit_plan import UnitPlan
from tests.unit.cluster_builder import INACTIVE, LAUNCHED
from tests.unit.rolling_cluster import GROUP, MEMBERS, RollingCluster, all_run, rolling_group, text_of


def test_a_new_group_is_started_at_once_and_its_rollout_is_done() -> None:
    cluster = RollingCluster()
    cluster.request("old", *MEMBERS)
    cluster.run_leader()
    assert len(cluster.assigned()) == 3
    cluster.come_to_rest()
    assert cluster.contents() == all_run("old")
    assert cluster.rollout().phase is Phase.DONE


def test_changed_content_reaches_one_member_after_the_other() -> None:
    cluster = rolling_group()
    cluster.request("new", *MEMBERS)
    seen = []
    for _ in range(20):
        cluster.run_leader()
        cluster.run_agents()
        words = "".join(word[0] for word in cluster.contents().values())
        seen += [words] if seen[-1:] != [words] else []
    assert seen == ["ooo", "noo", "nno", "nnn"] or seen == ["noo", "nno", "nnn"]
    assert cluster.rollout().phase is Phase.DONE
    assert not cluster.run_leader().writes


def test_nothing_changes_before_the_request_is_complete() -> None:
    cluster = rolling_group()
    request = cluster.request("new", *MEMBERS, complete=False)
    cluster.come_to_rest()
    assert cluster.contents() == all_run("old")
    cluster.complete(request)
    cluster.come_to_rest()
    assert cluster.contents() == all_run("new")


def test_content_that_fails_is_reverted_and_stays_in_the_units() -> None:
    cluster = rolling_group()
    cluster.request("bad", *MEMBERS)
    cluster.come_to_rest()
    assert cluster.contents() == all_run("old")
    assert (cluster.rollout().phase, cluster.rollout().failure.why) == (Phase.REVERTED, "it crashed")
    assert "bad" in cluster.snapshot.units["w@1.service"].text
    cluster.request("new", *MEMBERS)
    cluster.come_to_rest()
    assert cluster.contents() == all_run("new")


def test_a_member_added_after_a_revert_runs_what_the_others_were_reverted_to() -> None:
    cluster = rolling_group()
    cluster.request("bad", *MEMBERS)
    cluster.come_to_rest()
    unit = Unit("w@4.service", text_of("bad"), LAUNCHED, rollout="r2")
    cluster.write(UNITS, (unit.name,), unit)
    cluster.come_to_rest()
    assert cluster.rollout().phase is Phase.REVERTED
    assert cluster.contents() == all_run("old") | {"w@4": "old"}


def test_a_global_unit_is_changed_machine_by_machine() -> None:
    cluster = RollingCluster()
    cluster.request("old", "g.service", fleet="Global=true")
    cluster.come_to_rest()
    cluster.request("new", "g.service", fleet="Global=true")
    seen = []
    for _ in range(20):
        cluster.run_leader()
        cluster.run_agents()
        seen.append(sorted(cluster.contents().values()).count("new"))
    assert sorted(set(seen)) == [1, 2, 3] or sorted(set(seen)) == [0, 1, 2, 3]
    cluster.request("bad", "g.service", fleet="Global=true")
    cluster.come_to_rest()
    assert set(cluster.contents().values()) == {"new"}


def test_an_operation_at_once_is_not_held_back() -> None:
    cluster = rolling_group()
    cluster.request("new", *MEMBERS)
    cluster.command(Action.PAUSE)
    cluster.come_to_rest()
    cluster.write(UNITS, ("w@2.service",), Unit("w@2.service", text_of("other"), LAUNCHED))
    cluster.come_to_rest()
    assert cluster.contents() == {"w@1": "old", "w@2": "other", "w@3": "old"}


def test_a_member_that_is_stopped_is_stopped_and_is_not_waited_for() -> None:
    cluster = rolling_group()
    cluster.request("new", *MEMBERS)
    cluster.write(UNITS, ("w@3.service",), Unit("w@3.service", text_of("new"), INACTIVE, rollout="r2"))
    cluster.come_to_rest()
    assert cluster.contents() == {"w@1": "new", "w@2": "new"}
    assert cluster.rollout().phase is Phase.DONE


def test_constraints_of_new_content_hold_from_the_step_on() -> None:
    cluster = rolling_group()
    cluster.machine("m4", role="x")
    cluster.request("new", *MEMBERS, fleet="MachineMetadata=role=x")
    cluster.run_leader()
    cluster.run_agents()
    assert sorted(cluster.contents().values()).count("old") == 2
    cluster.come_to_rest()
    assert set(cluster.assigned().values()) == {"m4"}
    assert cluster.contents() == all_run("new")


@pytest.mark.covers("B.9")
def test_a_restored_store_pauses_the_rollout() -> None:
    cluster = rolling_group()
    cluster.request("new", *MEMBERS)
    cluster.run_leader()
    cluster.snapshot.restored_at = cluster.revision + 1
    cluster.request("newer", "w@3.service")
    cluster.run_leader()
    assert cluster.rollout().pause.cause is PauseCause.STORE_RESTORED


@pytest.mark.parametrize("first", ["", "new"])
def test_what_is_asked_for_after_a_restore_is_not_paused(first: str) -> None:
    cluster = rolling_group()
    if first:
        cluster.request(first, *MEMBERS)
        cluster.come_to_rest()
    cluster.snapshot.restored_at = cluster.revision + 1
    cluster.request("newer", *MEMBERS)
    cluster.come_to_rest()
    assert (cluster.rollout().phase, cluster.rollout().pause) == (Phase.DONE, None)


@pytest.mark.covers("B.8", "C.4")
@pytest.mark.parametrize("word", ["new", "bad"])
def test_a_leader_that_dies_after_any_write_comes_to_the_same_end(word: str) -> None:
    for writes in range(1, 40):
        cluster = rolling_group()
        cluster.request(word, *MEMBERS)
        left = writes
        for _ in range(40):
            plan = cluster.plan()
            for write in plan.writes[:left]:
                if isinstance(write, RolloutPlan):
                    cluster.apply_rollout(write)
                elif isinstance(write, UnitPlan):
                    cluster.apply_unit(write)
            left -= len(plan.writes)
            if left <= 0:
                break
            cluster.acknowledge(plan)
            cluster.run_agents()
        cluster.elect()
        cluster.come_to_rest()
        assert cluster.contents() == all_run("new" if word == "new" else "old"), writes
        assert cluster.rollout(GROUP).is_over
        if left > 0:
            return
    raise AssertionError("more writes than were tried")


def test_records_of_a_rollout_affect_its_units_and_leave_nothing_behind() -> None:
    cluster = rolling_group()
    for kind, name, record in (
        (ROLLOUTS, GROUP, cluster.rollout()),
        (COMMANDS, GROUP, Command("c1", Action.PAUSE, "r1")),
        (APPLIES, "r1", Apply()),
    ):
        for given in (record, None):
            cluster.changed = Affected()
            cluster.write(kind, (name,), given)
            assert list(cluster.changed.units) == list(MEMBERS)
    assert [cluster.snapshot.rollouts, cluster.snapshot.commands, cluster.snapshot.applies] == [{}] * 3


def test_a_restart_reaches_one_member_after_the_other() -> None:
    cluster = rolling_group()
    cluster.started.clear()
    cluster.restart(*MEMBERS)
    cluster.run_leader()
    cluster.run_agents()
    assert len(cluster.started) == 1
    cluster.come_to_rest()
    assert sorted(cluster.started) == list(MEMBERS)
    assert cluster.rollout().phase is Phase.DONE


def test_a_restart_that_fails_is_paused_because_there_is_nothing_to_revert() -> None:
    cluster = rolling_group()
    cluster.broken = True
    cluster.started.clear()
    cluster.restart(*MEMBERS)
    cluster.come_to_rest()
    assert len(cluster.started) == 1
    assert cluster.rollout().pause.cause is PauseCause.FAILED
    cluster.broken = False
    cluster.command(Action.RESUME)
    cluster.come_to_rest()
    assert cluster.rollout().phase is Phase.DONE, "the one that is down does not take up the budget any more"
    assert sorted(cluster.started) == list(MEMBERS)


@pytest.mark.covers("B.5")
def test_what_was_said_about_an_earlier_rollout_is_not_said_about_the_next() -> None:
    cluster = rolling_group()
    cluster.request("new", *MEMBERS)
    cluster.command(Action.PAUSE)
    cluster.run_leader()
    cluster.request("newer", *MEMBERS)
    cluster.come_to_rest()
    assert cluster.contents() == all_run("newer")


@pytest.mark.covers("B.5")
@pytest.mark.parametrize("turns", range(1, 6))
def test_of_two_requests_the_later_one_counts_for_the_members_that_it_names(turns: int) -> None:
    cluster = rolling_group()
    cluster.request("new", *MEMBERS)
    for _ in range(turns):
        cluster.run_leader()
        cluster.run_agents()
    cluster.request("newer", "w@1.service", "w@3.service")
    cluster.come_to_rest()
    assert cluster.contents() == {"w@1": "newer", "w@2": "new", "w@3": "newer"}
    assert (cluster.rollout().id, cluster.rollout().phase) == ("r3", Phase.DONE)


@pytest.mark.covers("B.6")
@pytest.mark.parametrize("word", ["new", "bad"])
@pytest.mark.parametrize("gone", MEMBERS)
@pytest.mark.parametrize("turns", range(1, 6))
def test_a_member_that_is_destroyed_in_the_middle_is_not_waited_for(turns: int, gone: str, word: str) -> None:
    cluster = rolling_group()
    cluster.request(word, *MEMBERS)
    for _ in range(turns):
        cluster.run_leader()
        cluster.run_agents()
    cluster.write(UNITS, (gone,), None)
    cluster.come_to_rest()
    left = {name.removesuffix(".service") for name in MEMBERS if name != gone}
    assert cluster.contents() == dict.fromkeys(left, "new" if word == "new" else "old")
    assert cluster.rollout().phase is (Phase.DONE if word == "new" else Phase.REVERTED)


@pytest.mark.parametrize("fleet", ["UpdateTolerate=1", "UpdateFailure=continue"])
def test_a_tolerated_failure_does_not_keep_others_from_being_changed(fleet: str) -> None:
    cluster = rolling_group()
    cluster.request("new", *MEMBERS, fleet=fleet)
    cluster.broken = True
    cluster.run_leader()
    cluster.run_agents()
    cluster.broken = False
    cluster.come_to_rest()
    assert cluster.contents() == all_run("new")
    assert cluster.rollout().phase is Phase.DONE


def operate(cluster: RollingCluster, name: str, **changes: object) -> None:
    """An operator starts, stops or restarts a unit at once, which keeps its content."""
    unit = cluster.snapshot.units[name]
    cluster.write(UNITS, (name,), replace(unit, **changes))


def test_a_member_that_is_stopped_and_started_after_a_revert_runs_what_was_reverted_to() -> None:
    cluster = rolling_group()
    cluster.request("bad", *MEMBERS)
    cluster.come_to_rest()
    before = cluster.rollout()
    operate(cluster, "w@2.service", target=INACTIVE)
    cluster.come_to_rest()
    assert cluster.contents() == {"w@1": "old", "w@3": "old"}
    operate(cluster, "w@2.service", target=LAUNCHED)
    cluster.come_to_rest()
    assert cluster.contents() == all_run("old")
    assert cluster.rollout() == before


def test_a_member_that_waits_is_restarted_at_once_with_its_own_content_and_ends_no_pause() -> None:
    cluster = rolling_group()
    cluster.request("new", *MEMBERS)
    cluster.run_leader()
    cluster.command(Action.PAUSE)
    cluster.come_to_rest()
    assert cluster.contents() == all_run("old") | {"w@1": "new"}
    cluster.started.clear()
    operate(cluster, "w@3.service", restart_of=cluster.snapshot.units["w@3.service"].generation)
    cluster.come_to_rest()
    assert cluster.started == ["w@3.service"]
    assert cluster.contents() == all_run("old") | {"w@1": "new"}
    assert cluster.rollout().pause.cause is PauseCause.OPERATOR
    cluster.command(Action.RESUME)
    cluster.come_to_rest()
    assert cluster.contents() == all_run("new")


def test_a_restart_that_is_written_in_two_parts_takes_one_member_after_the_other() -> None:
    cluster = rolling_group()
    cluster.started.clear()
    for names in (MEMBERS[:1], MEMBERS[1:]):
        for name in names:
            unit = cluster.snapshot.units[name]
            operate(cluster, name, restart_of=unit.generation, rollout="r9")
        cluster.come_to_rest()
        assert cluster.started == []
    cluster.complete("r9")
    cluster.run_leader()
    cluster.run_agents()
    assert len(cluster.started) == 1
    cluster.come_to_rest()
    assert sorted(cluster.started) == list(MEMBERS)


def test_a_pause_before_the_request_is_complete_holds() -> None:
    cluster = rolling_group()
    cluster.request("new", *MEMBERS[:1], complete=False)
    cluster.command(Action.PAUSE)
    cluster.run_leader()
    for name in MEMBERS[1:]:
        operate(cluster, name, text=text_of("new"), rollout="r2")
    cluster.complete("r2")
    cluster.come_to_rest()
    assert cluster.contents() == all_run("old")


def test_a_revert_does_not_run_oneshots_again() -> None:
    cluster = RollingCluster()
    jobs = ("j@1.service", "j@2.service", "j@3.service")
    for word in ("old", "bad"):
        cluster.started.clear()
        text = text_of(word).replace("[Service]", "[Service]\nType=oneshot")
        cluster.request_texts(dict.fromkeys(jobs, text))
        cluster.come_to_rest()
    assert cluster.rollout("j@.service").phase is Phase.REVERTED
    assert cluster.contents() == {"j@1": "old", "j@2": "old", "j@3": "old"}
    assert cluster.started == ["j@1.service"], "the one that failed"
    operate(cluster, "j@1.service", restart_of=cluster.snapshot.units["j@1.service"].generation)
    cluster.come_to_rest()
    assert cluster.started == ["j@1.service", "j@1.service"], "an operator may run it again"


@pytest.mark.parametrize("order", ["units first", "rollouts first"])
def test_a_new_leader_plans_a_rollout_with_all_of_its_members(order: str) -> None:
    cluster = rolling_group()
    cluster.request("new", *MEMBERS)
    cluster.command(Action.PAUSE)
    cluster.run_leader()
    cluster.run_agents()
    first = ROLLOUTS if order == "rollouts first" else UNITS
    records = sorted(cluster.store.items(), key=lambda item: item[0][0] is not first)
    cluster.store = dict(records)
    cluster.snapshot = Snapshot()
    for (kind, names), record in records:
        apply_record(cluster.snapshot, kind, names, record)
    assert list(rolling_with(cluster.snapshot, ["w@2.service"])) == list(MEMBERS)
