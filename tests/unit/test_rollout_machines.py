"""A rollout and the machines of its members: absent, parked, drained, rebooting, lost, or too old to prove anything."""

import pytest
from msgspec.structs import replace

from fleetd.model.machine import DrainRequest, MachineMode, MachineSettings
from fleetd.model.rollout import Action, Member, PauseCause, Phase, Step
from fleetd.model.unit import Unit
from fleetd.registry.records import PLACEMENTS, ROLLOUTS, SETTINGS, UNITS
from fleetd.scheduler.affected import Affected
from tests.unit.cluster_builder import INACTIVE, LAUNCHED, NOON
from tests.unit.rebooting_cluster import rebooting_group
from tests.unit.rolling_cluster import MEMBERS, RollingCluster, all_run, rolling_group, text_of, word_of


@pytest.mark.covers("B.7", "C.2")
def test_a_member_that_is_lost_before_its_turn_fails_over_with_its_former_content() -> None:
    cluster = rolling_group()
    cluster.machine("m4")
    cluster.request("new", *MEMBERS)
    cluster.command(Action.PAUSE)
    cluster.run_leader()
    machine = cluster.assigned()["w@3.service"]
    del cluster.running[machine, "w@3.service"]
    cluster.die(machine)
    cluster.come_to_rest()
    assert cluster.rollout().pause.cause is PauseCause.OPERATOR
    assert cluster.contents() == all_run("old")
    cluster.command(Action.RESUME)
    cluster.come_to_rest()
    assert cluster.contents() == all_run("new")


def test_a_unit_that_has_no_machine_when_the_rollout_begins_is_new() -> None:
    cluster = rolling_group(instances=1)
    cluster.write(UNITS, ("w@2.service",), Unit("w@2.service", text_of("old", "MachineID=m9"), LAUNCHED, rollout="r1"))
    cluster.come_to_rest()
    cluster.request("new", "w@1.service", "w@2.service")
    cluster.come_to_rest()
    assert cluster.contents() == {"w@1": "new", "w@2": "new"}


def test_a_member_lost_when_the_rollout_begins_keeps_its_own_former_content() -> None:
    cluster = rolling_group()
    cluster.request("other", "w@1.service")
    cluster.come_to_rest()
    cluster.request("new", *MEMBERS)
    machine = cluster.assigned()["w@2.service"]
    del cluster.running[machine, "w@2.service"]
    cluster.die(machine)
    cluster.run_leader()
    rollout = cluster.rollout()
    words = {former.member.unit: word_of(rollout.contents[former.content]) for former in rollout.former}
    assert words == {"w@1.service": "other", "w@2.service": "old", "w@3.service": "old"}


def test_a_unit_on_no_machine_that_a_request_does_not_name_runs_what_was_asked_of_it() -> None:
    cluster = rolling_group(instances=1)
    cluster.write(UNITS, ("w@2.service",), Unit("w@2.service", text_of("old", "MachineID=m9"), LAUNCHED, rollout="r1"))
    cluster.come_to_rest()
    cluster.request("new", "w@1.service", fleet="MaxUnavailable=2")
    cluster.come_to_rest()
    cluster.request("bad", "w@1.service", fleet="MaxUnavailable=2")
    cluster.come_to_rest()
    cluster.machine("m9")
    cluster.come_to_rest()
    assert cluster.contents() == {"w@1": "new", "w@2": "old"}


def test_a_machine_whose_fleetd_does_not_prove_is_passed_over_until_the_others_are_done() -> None:
    cluster = rolling_group()
    old = cluster.snapshot.assigned_machine("w@1.service")
    cluster.machine(old, is_old=True)
    cluster.request("new", *MEMBERS)
    cluster.run_leader()
    assert word_of(cluster.snapshot.placements["w@1.service"][old].content) == "old"
    cluster.come_to_rest()
    assert cluster.contents() == all_run("new")
    assert cluster.rollout().phase is Phase.DONE
    assert cluster.snapshot.placements["w@1.service"][old].prove_after_s is None


def test_a_machine_whose_fleetd_does_not_prove_is_not_asked() -> None:
    cluster = rolling_group()
    old = cluster.snapshot.assigned_machine("w@1.service")
    cluster.request("new", "w@1.service")
    cluster.run_leader()
    assert cluster.snapshot.placements["w@1.service"][old].prove_after_s is not None
    cluster.machine(old, is_old=True)
    cluster.run_leader()
    assert cluster.snapshot.placements["w@1.service"][old].prove_after_s is None


def test_members_on_a_parked_machine_are_changed_one_after_the_other_when_it_is_back() -> None:
    cluster = rolling_group(instances=4)
    moved = cluster.snapshot.assigned_machine("w@4.service")
    cluster.machine("m1", MachineMode.PARKED)
    cluster.machine(moved, MachineMode.PARKED)
    names = [f"w@{number}.service" for number in (1, 2, 3, 4)]
    cluster.request("new", *names, fleet="MaxUnavailable=2")
    cluster.come_to_rest()
    rollout = cluster.rollout()
    assert rollout.phase is Phase.DONE
    assert sorted(former.member.unit for former in rollout.former) == sorted(
        name for name in names if cluster.snapshot.assigned_machine(name) in ("m1", moved)
    )
    assert len(rollout.former) == 2
    for machine in dict.fromkeys(("m1", moved)):
        cluster.machine(machine, MachineMode.READY)
    cluster.come_to_rest()
    assert set(cluster.contents().values()) == {"new"}
    assert (cluster.rollout().former, cluster.rollout().contents) == ((), ())


def test_a_rollout_waits_until_it_is_known_whether_an_absent_machine_is_dead() -> None:
    cluster = rolling_group()
    machine = cluster.snapshot.assigned_machine("w@2.service")
    cluster.request("new", *MEMBERS)
    cluster.expire_lease(machine)
    for _ in range(20):
        cluster.run_leader()
        cluster.run_agents()
    assert cluster.rollout().phase is Phase.RUNNING
    cluster.machine(machine)
    cluster.come_to_rest()
    assert cluster.contents() == all_run("new")
    assert cluster.rollout().phase is Phase.DONE


def test_a_placement_that_a_global_unit_is_to_leave_is_no_member() -> None:
    cluster = RollingCluster()
    cluster.request("old", "g.service", fleet="Global=true")
    cluster.come_to_rest()
    placement = cluster.snapshot.placements["g.service"]["m1"]
    cluster.write(PLACEMENTS, ("m1", "g.service"), replace(placement, target=INACTIVE))
    cluster.request("new", "g.service", fleet="Global=true")
    cluster.run_leader()
    assert [former.member.machine for former in cluster.rollout("g.service").former] == ["m2", "m3"]


def test_a_rollout_waits_for_all_of_its_members_while_the_machine_of_one_is_drained() -> None:
    cluster = rolling_group()
    cluster.request("new", *MEMBERS)
    cluster.run_leader()
    machine = cluster.snapshot.assigned_machine("w@1.service")
    cluster.write(SETTINGS, (machine,), MachineSettings(drain=DrainRequest(at=1.0)))
    cluster.run_leader()
    cluster.machine("m9")  # affects no unit of the group by itself
    cluster.changed = Affected()
    cluster.run_leader()
    assert cluster.rollout().phase is Phase.RUNNING
    assert list(cluster.contents().values()).count("new") <= 1


def test_what_a_machine_was_given_stays_while_it_reboots_and_the_others_are_changed() -> None:
    cluster = rebooting_group()
    fleet = "Global=true\nMaxUnavailable=2"
    cluster.request("old", "g.service", fleet=fleet)
    cluster.come_to_rest()
    cluster.ask_to_reboot("m1")
    cluster.stuck.add("m1")
    cluster.deaf.add("m1")
    cluster.run()
    cluster.request("new", "g.service", fleet=fleet)
    given = replace(cluster.snapshot.placements["g.service"]["m1"], text=text_of("new", fleet))
    cluster.run_leader()
    step = Step(Member("g.service", "m1"), NOON)
    rollout = cluster.rollout("g.service")
    cluster.write(ROLLOUTS, ("g.service",), replace(rollout, steps=(*rollout.steps, step)))
    cluster.write(PLACEMENTS, ("m1", "g.service"), given)
    cluster.deaf.clear()
    cluster.run()
    assert "m1" in cluster.down
    rollout = cluster.rollout("g.service")
    assert (rollout.phase, rollout.former) == (Phase.DONE, ())
    assert word_of(cluster.snapshot.placements["g.service"]["m1"].content) == "new"


def test_a_machine_that_was_told_to_reboot_is_changed_when_it_is_back() -> None:
    cluster = rebooting_group()
    cluster.request("old", "g.service", fleet="Global=true")
    cluster.come_to_rest()
    cluster.deaf.add("m1")
    cluster.stuck.add("m1")
    cluster.ask_to_reboot("m1")
    cluster.run()
    assert cluster.phases() == {"m1": "ordered"}
    cluster.request("new", "g.service", fleet="Global=true")
    cluster.run()
    assert word_of(cluster.snapshot.placements["g.service"]["m1"].content) == "old"
    cluster.deaf.clear()
    cluster.run()
    assert "m1" in cluster.down
    cluster.stuck.clear()
    cluster.run()
    assert {word_of(cluster.running[machine, "g.service"].content) for machine in ("m1", "m2", "m3")} == {"new"}
    assert cluster.phases() == {}


def lose(cluster: RollingCluster, machine: str) -> None:
    """The machine dies, with what runs there."""
    for key in [key for key in cluster.running if key[0] == machine]:
        del cluster.running[key]
    cluster.die(machine)


def test_content_whose_machine_is_lost_after_its_step_is_reverted_and_does_not_move_on() -> None:
    cluster = rolling_group()
    cluster.machine("m4")
    cluster.request("new", *MEMBERS)
    cluster.run_leader()
    cluster.run_agents()
    (step,) = cluster.rollout().steps
    assert cluster.snapshot.assigned_machine(step.member.unit) == step.machine
    lose(cluster, step.machine)
    cluster.started.clear()
    cluster.run_leader()
    assert word_of(next(iter(cluster.snapshot.placements[step.member.unit].values())).content) == "old"
    cluster.come_to_rest()
    assert cluster.contents() == all_run("old")
    rollout = cluster.rollout()
    assert rollout.phase is Phase.REVERTED
    assert (rollout.failure.unit, rollout.failure.why) == (
        step.member.unit,
        f"its machine {step.machine} was lost within 0 s of the change",
    )


def test_a_global_member_whose_machine_is_lost_after_its_step_fails() -> None:
    cluster = RollingCluster()
    cluster.request("old", "g.service", fleet="Global=true")
    cluster.come_to_rest()
    cluster.request("new", "g.service", fleet="Global=true\nUpdateTolerate=1")
    for lost in (1, 2):
        cluster.run_leader()
        cluster.run_agents()
        lose(cluster, cluster.rollout("g.service").steps[-1].machine)
        cluster.run_leader()
        assert cluster.rollout("g.service").phase is (Phase.RUNNING if lost == 1 else Phase.REVERTING)
    cluster.come_to_rest()
    assert set(cluster.contents().values()) == {"old"}


def test_a_loss_that_an_operator_accepts_does_not_stop_the_rollout() -> None:
    cluster = rolling_group(instances=3)
    cluster.machine("m4")
    cluster.request("new", *MEMBERS, fleet="UpdateFailure=pause")
    cluster.run_leader()
    cluster.run_agents()
    lose(cluster, cluster.rollout().steps[0].machine)
    cluster.come_to_rest()
    assert cluster.rollout().pause.cause is PauseCause.FAILED
    cluster.command(Action.RESUME)
    cluster.come_to_rest()
    assert cluster.contents() == all_run("new")
    assert cluster.rollout().phase is Phase.DONE


def test_a_machine_that_is_lost_long_after_its_step_is_no_failure() -> None:
    cluster = rolling_group()
    cluster.machine("m4")
    cluster.request("new", *MEMBERS, fleet="UpdateCanary=1")
    cluster.come_to_rest()
    cluster.wait(60.0)
    lose(cluster, cluster.rollout().steps[0].machine)
    cluster.come_to_rest()
    assert cluster.rollout().phase is Phase.RUNNING
    cluster.command(Action.CONTINUE)
    cluster.come_to_rest()
    assert cluster.contents() == all_run("new")


def test_members_on_a_machine_that_is_being_switched_off_are_not_changed_until_it_is_back() -> None:
    waits = "MachineID=m1\nFailoverDelay=10min"
    cluster = rolling_group(fleet=waits)
    cluster.machine("m1", MachineMode.LEAVING, shuts_down=True)
    cluster.request("new", *MEMBERS, fleet=waits)
    cluster.run_leader()
    placed = (cluster.snapshot.placements[name]["m1"].content for name in MEMBERS)
    assert [word_of(content) for content in placed] == ["old"] * 3
    cluster.machine("m1", MachineMode.READY)
    cluster.come_to_rest()
    assert cluster.contents() == all_run("new")
