"""The queue of reboots: which machine is drained, told to reboot and waited for, and when."""

import pytest
from msgspec.structs import replace

from fleetd.model.machine import Cordon, DrainRequest, MachineMode, MachineSettings
from fleetd.model.reboot import RebootFailure, RebootPhase, RebootRefusal
from fleetd.model.reboot_window import parse_reboot_windows
from fleetd.registry.records import PLACEMENTS, REBOOT_REQUESTS, SETTINGS, STATES, UNITS
from fleetd.scheduler.disruption import DisruptionBudget
from fleetd.scheduler.proposal import RebootPlan, SessionPlan
from fleetd.scheduler.reboot_policy import RebootPolicy
from tests.unit.cluster_builder import INACTIVE, NOON
from tests.unit.rebooting_cluster import RebootingCluster, rebooting_group

TEN_MINUTES_S = 600.0


def test_a_machine_is_drained_rebooted_and_back_in_service() -> None:
    cluster = rebooting_group()
    before = dict(cluster.boots)
    assert cluster.on("m1") == ["w@1.service"]
    cluster.ask_to_reboot("m1")
    cluster.run_leader()
    assert cluster.phases() == {"m1": "draining"}
    assert cluster.reboot_of("m1").began == NOON + cluster.clock_s
    cluster.run()
    assert cluster.phases() == {}
    assert cluster.snapshot.reboot_requests == {}
    assert cluster.boots == before | {"m1": 2}
    assert len(cluster.running) == 3
    assert cluster.snapshot.effective["m1"].cordon is None


def test_while_it_drains_it_takes_no_new_units_and_says_why() -> None:
    cluster = rebooting_group(machines=2, instances=2)
    cluster.ask_to_reboot("m1")
    cluster.run_leader()
    cluster.submit_unit("x.service", "MachineID=m1")
    assert cluster.rejections("x.service") == {"machine is about to be rebooted": 1, "not machine m1": 1}
    cluster.run()
    assert cluster.on("m1") == ["x.service"]


def test_what_leaves_says_why() -> None:
    cluster = rebooting_group()
    cluster.ask_to_reboot("m1")
    cluster.run_leader()
    cluster.run_leader()
    assert cluster.reason("w@1.service") == "machine m1 is about to be rebooted; waits until m1 has stopped it"


def test_machines_reboot_in_the_order_in_which_they_were_asked_and_one_at_a_time() -> None:
    cluster = rebooting_group()
    cluster.ask_to_reboot("m3")
    cluster.wait(1)
    cluster.ask_to_reboot("m2", "m1")
    order = []
    for _ in range(200):
        if not cluster.turn():
            break
        assert len(cluster.snapshot.reboots) <= 1
        assert len(cluster.down) <= 1
        order += [machine for machine in cluster.down if machine not in order]
        budget = DisruptionBudget(cluster.snapshot, {})
        assigned = cluster.assigned()
        unavailable = [name for name in assigned if budget.unavailability(name, assigned[name]) is not None]
        assert len(unavailable) <= 1
    assert order == ["m3", "m1", "m2"]
    assert cluster.phases() == {}


@pytest.mark.covers("C.9")
def test_so_many_machines_reboot_at_a_time_as_there_are_slots() -> None:
    cluster = rebooting_group(machines=5, instances=1)
    cluster.reboots = RebootPolicy(slots=2)
    cluster.ask_to_reboot("m2", "m3", "m4", "m5")
    cluster.stuck = {"m2", "m3", "m4", "m5"}
    cluster.run()
    assert set(cluster.down) == {"m2", "m3"}
    assert cluster.phases() == {"m2": "ordered", "m3": "ordered"}
    cluster.stuck = set()
    cluster.run()
    assert [cluster.boots[machine] for machine in ("m2", "m3", "m4", "m5")] == [2, 2, 2, 2]


def test_drains_are_one_at_a_time_so_that_they_do_not_close_the_way_for_each_other() -> None:
    cluster = rebooting_group(machines=2, instances=2)
    cluster.reboots = RebootPolicy(slots=2)
    cluster.ask_to_reboot("m1", "m2")
    while cluster.turn():
        assert len(cluster.running) + len(cluster.snapshot.moving) >= 1
        for reboot in cluster.snapshot.reboots.values():
            assert reboot.kept == ()
    assert cluster.boots == {"m1": 2, "m2": 2}


def test_global_units_on_machines_that_reboot_count_while_these_are_away() -> None:
    cluster = rebooting_group(instances=1)
    cluster.reboots = RebootPolicy(slots=3)
    cluster.submit_unit("g.service", "Global=true")
    cluster.stuck = {"m2"}
    cluster.ask_to_reboot("m2", "m3")
    cluster.run()
    assert cluster.phases() == {"m2": "ordered", "m3": "draining"}
    assert cluster.reboot_of("m3").waits == ("g.service",)
    cluster.stuck = set()
    cluster.run()
    assert cluster.boots == {"m1": 1, "m2": 2, "m3": 2}


def test_global_units_and_what_fits_nowhere_else_stay_and_are_waited_for() -> None:
    cluster = rebooting_group()
    cluster.submit_unit("db.service", "MachineID=m1")
    cluster.submit_unit("g.service", "Global=true")
    cluster.stuck.add("m1")
    cluster.ask_to_reboot("m1")
    cluster.run()
    assert cluster.down
    reboot = cluster.reboot_of("m1")
    assert (reboot.phase, reboot.kept, reboot.awaited) == (
        RebootPhase.ORDERED,
        ("db.service", "g.service"),
        ("db.service", "g.service"),
    )
    assert cluster.assigned()["db.service"] == "m1"
    assert cluster.assigned()["g.service"] == "m1 m2 m3"
    assert cluster.reason("db.service") == (
        "waits for machine m1 to come back from its reboot, until 2027-01-15 12:10:00 UTC"
    )
    cluster.wait(300)
    cluster.boot("m1")
    cluster.run_leader()
    assert cluster.phases() == {"m1": "returning"}
    assert cluster.reboot_of("m1").waits == ("db.service", "g.service")
    cluster.run()
    assert cluster.phases() == {}
    assert cluster.on("m1") == ["db.service", "g.service"]
    assert cluster.reason("db.service") == "machine m1 came back in time"


def test_what_stays_says_why() -> None:
    cluster = rebooting_group()
    cluster.submit_unit("db.service", "MachineID=m1")
    cluster.deaf.add("m1")
    cluster.ask_to_reboot("m1")
    cluster.run_leader()
    cluster.run_leader()
    assert cluster.reason("db.service").startswith("stays on the drained machine: it fits nowhere else")
    cluster.run()
    assert cluster.phases() == {"m1": "ordered"}


def test_a_machine_that_leaves_to_reboot_keeps_what_stayed() -> None:
    cluster = rebooting_group()
    cluster.submit_unit("db.service", "MachineID=m1")
    cluster.submit_unit("g.service", "Global=true")
    cluster.deaf.add("m1")
    cluster.ask_to_reboot("m1")
    cluster.run()
    cluster.machine("m1", MachineMode.LEAVING, shuts_down=True)
    cluster.run()
    assert cluster.assigned()["db.service"] == "m1"
    assert "m1" in cluster.assigned()["g.service"]
    cluster.machine("m1", MachineMode.LEAVING)  # for good
    cluster.run()
    assert "db.service" not in cluster.assigned()


@pytest.mark.covers("B.13")
def test_after_ten_minutes_what_stayed_fails_over_and_the_queue_stops() -> None:
    cluster = rebooting_group()
    cluster.submit_unit("g.service", "Global=true")
    cluster.submit_unit("only.service", "MachineID=m1")
    cluster.stuck.add("m1")
    cluster.ask_to_reboot("m1", "m2")
    cluster.run()
    assert cluster.due_s == cluster.clock_s + TEN_MINUTES_S
    cluster.wait(TEN_MINUTES_S - 1)
    cluster.run()
    assert cluster.assigned()["only.service"] == "m1"
    cluster.wait(1)
    cluster.run()
    assert cluster.phases() == {"m1": "not-back"}
    assert "only.service" not in cluster.assigned()
    assert "m1" not in cluster.assigned()["g.service"].split()
    assert set(cluster.snapshot.reboot_requests) == {"m1", "m2"}
    cluster.stuck.clear()
    cluster.run()  # it goes on by itself when the machine is back
    assert cluster.phases() == {}
    assert cluster.snapshot.reboot_requests == {}
    assert cluster.boots["m2"] == 2
    assert cluster.assigned()["only.service"] == "m1"


@pytest.mark.covers("B.13")
def test_a_machine_that_does_not_serve_after_ten_minutes_stops_the_queue() -> None:
    cluster = rebooting_group()
    cluster.submit_unit("db.service", "MachineID=m1")
    cluster.ask_to_reboot("m1", "m2")
    while "m1" not in cluster.down:
        cluster.turn()
    cluster.broken = True
    cluster.run()
    assert cluster.phases() == {"m1": "returning"}
    cluster.wait(TEN_MINUTES_S)
    cluster.run()
    assert cluster.phases() == {"m1": "not-serving"}
    assert cluster.reboot_of("m1").waits == ("db.service",)
    cluster.broken = False
    cluster.restart("db.service")
    cluster.run()
    assert cluster.phases() == {}
    assert cluster.boots["m2"] == 2


@pytest.mark.parametrize("phase", ["draining", "ordered", "not-back"])
def test_an_operator_cancels_a_reboot_at_any_time(phase) -> None:
    cluster = rebooting_group()
    cluster.submit_unit("db.service", "MachineID=m1")
    cluster.stuck.add("m1")
    cluster.ask_to_reboot("m1")
    if phase == "draining":
        cluster.run_leader()
    else:
        cluster.run()
    if phase == "not-back":
        cluster.wait(TEN_MINUTES_S)
        cluster.run()
    assert cluster.phases() == {"m1": phase}
    cluster.cancel("m1")
    cluster.run()
    assert cluster.phases() == {}


def test_a_drain_that_does_not_end_gives_up_slot_and_cordon() -> None:
    cluster = rebooting_group(instances=2, machines=2)
    cluster.ask_to_reboot("m1", drain_within_s=60.0)
    cluster.ask_to_reboot("m2")
    state = cluster.snapshot.states["w@2.service"]["m2"]
    cluster.write(STATES, ("m2", "w@2.service"), replace(state, active="failed"))
    cluster.run_leader()
    cluster.run_leader()
    cluster.run_leader()
    assert cluster.reboot_of("m1").waits == ("w@1.service",)
    assert cluster.reboot_of("m1").deadline == NOON + cluster.clock_s + 60
    assert cluster.due_s == cluster.clock_s + 60
    cluster.wait(60)
    cluster.run_leader()
    reboot = cluster.reboot_of("m1")
    assert (reboot.failure, reboot.waits) == (RebootFailure.DEADLINE, ("w@1.service",))
    assert cluster.snapshot.effective["m1"].cordon is None
    assert set(cluster.snapshot.reboot_requests) == {"m2"}
    cluster.run_leader()
    assert cluster.phases() == {"m1": "deadline", "m2": "draining"}
    cluster.run()
    cluster.ask_to_reboot("m1")
    cluster.run()
    assert cluster.phases() == {}


@pytest.mark.covers("C.1")
def test_what_stays_goes_down_only_as_the_budget_allows() -> None:
    cluster = rebooting_group()
    cluster.submit_unit("g.service", "Global=true")
    state = cluster.snapshot.states["g.service"]["m2"]
    cluster.write(STATES, ("m2", "g.service"), replace(state, active="failed"))
    cluster.ask_to_reboot("m1")
    for _ in range(10):
        cluster.run_leader()
        cluster.step("m1", "w@1.service")
    assert cluster.phases() == {"m1": "draining"}
    assert cluster.reboot_of("m1").waits == ("g.service",)
    cluster.run()
    assert cluster.phases() == {}


def test_more_of_a_group_than_may_be_unavailable_stay_only_if_all_others_are_available() -> None:
    cluster = RebootingCluster(2)
    cluster.machine("m1", x="y")
    cluster.request("old", "w@1.service", "w@2.service", "w@3.service", fleet="MachineMetadata=x=y")
    cluster.come_to_rest()
    assert len(cluster.on("m1")) == 3
    cluster.ask_to_reboot("m1")
    cluster.run()
    assert cluster.phases() == {}
    assert cluster.boots["m1"] == 2
    assert len(cluster.on("m1")) == 3


def test_a_machine_waits_for_a_oneshot_at_work_and_for_what_is_not_proven() -> None:
    cluster = rebooting_group()
    cluster.submit_unit("once.service", "MachineID=m1", "Type=oneshot")
    cluster.submit_unit("db.service", "MachineID=m1")
    state = cluster.snapshot.states["once.service"]["m1"]
    cluster.write(STATES, ("m1", "once.service"), replace(state, active="activating"))
    unreported = cluster.snapshot.states["db.service"]["m1"]
    cluster.write(STATES, ("m1", "db.service"), replace(unreported, generation=1))
    cluster.ask_to_reboot("m1")
    for _ in range(10):
        cluster.run_leader()
        cluster.step("m1", "w@1.service")
    assert cluster.reboot_of("m1").waits == ("db.service", "once.service")
    cluster.write(STATES, ("m1", "db.service"), unreported)
    cluster.write(STATES, ("m1", "once.service"), replace(state, active="inactive", completed=True))
    cluster.run_leader()
    assert cluster.reboot_of("m1").awaited == ("db.service",)


def test_a_request_begins_in_a_window_and_goes_on_after_it() -> None:
    cluster = rebooting_group()
    cluster.submit_unit("db.service", "MachineID=m1")
    cluster.reboots = RebootPolicy(parse_reboot_windows("13:00 1h"))  # it is noon
    cluster.ask_to_reboot("m1")
    cluster.run()
    assert cluster.phases() == {}
    assert cluster.due_s == cluster.clock_s + 3600
    cluster.ask_to_reboot("m2", now=True)
    cluster.run()
    assert cluster.boots["m2"] == 2
    cluster.stuck.add("m1")
    cluster.wait(3600 - cluster.clock_s + 3599)
    cluster.run()
    assert cluster.phases() == {"m1": "ordered"}
    cluster.wait(60)
    cluster.stuck.clear()
    cluster.run()
    assert cluster.phases() == {}


def test_a_machine_that_needs_a_reboot_gets_one_if_the_cluster_says_so() -> None:
    cluster = rebooting_group()
    cluster.machine("m1", facts={"reboot_required": "linux-image"})
    cluster.run()
    assert cluster.boots["m1"] == 1
    cluster.reboots = RebootPolicy(when_required=True)
    cluster.run_leader()
    request = cluster.snapshot.reboot_requests["m1"]
    assert (request.by, request.boot_id) == ("reboot_when_required", "m1-boot1")
    cluster.run()
    assert cluster.boots["m1"] == 2
    assert cluster.phases() == {}


def test_what_the_settings_asked_for_is_tried_a_day_later_but_not_after_it_was_cancelled() -> None:
    cluster = rebooting_group()
    cluster.reboots = RebootPolicy(when_required=True)
    cluster.machine("m1", facts={"reboot_required": "linux-image"})
    cluster.run_leader()
    order = cluster.reboot_of("m1").id
    cluster.machine("m1", facts={"reboot_required": "linux-image", "reboot_refused": RebootRefusal(order, "no")})
    cluster.deaf.add("m1")
    cluster.run()
    reboot = cluster.reboot_of("m1")
    assert (reboot.failure, reboot.detail) == (RebootFailure.REFUSED, "no")
    cluster.wait(86400 - 1)
    cluster.run()
    assert cluster.phases() == {"m1": "refused"}
    cluster.machine("m1", facts={"reboot_required": "linux-image"})
    cluster.wait(1)
    cluster.run_leader()
    assert cluster.phases() == {"m1": "draining"}
    cluster.cancel("m1")
    cluster.run()
    assert cluster.phases() == {"m1": "cancelled"}
    cluster.wait(86400)
    cluster.run()
    assert cluster.phases() == {"m1": "cancelled"}
    cluster.boot("m1")
    cluster.machine("m1", facts={"reboot_required": "linux-image"})
    cluster.deaf.clear()
    cluster.run()
    assert cluster.boots["m1"] == 3


def test_a_request_about_another_boot_is_ended() -> None:
    cluster = rebooting_group()
    cluster.ask_to_reboot("m1", boot_id="m1-boot0")
    cluster.run()
    assert cluster.snapshot.reboot_requests == {}
    assert cluster.boots["m1"] == 1
    cluster.ask_to_reboot("m1")
    cluster.run_leader()
    cluster.power_off("m1")  # by itself
    cluster.run()
    assert cluster.boots["m1"] == 2
    assert cluster.phases() == {}
    assert cluster.snapshot.reboot_requests == {}


def test_a_later_request_outlives_the_end_of_the_earlier_one() -> None:
    cluster = rebooting_group()
    cluster.submit_unit("db.service", "MachineID=m1")
    cluster.ask_to_reboot("m1")
    while cluster.boots["m1"] < 2 or "m1" in cluster.down:
        cluster.turn()
    cluster.ask_to_reboot("m1")
    cluster.run()
    assert cluster.boots["m1"] == 3
    assert cluster.phases() == {}


def test_absent_leaving_and_parked_machines_wait_and_others_go_first() -> None:
    cluster = rebooting_group(machines=4)
    cluster.power_off("m1")
    cluster.stuck.add("m1")
    cluster.machine("m2", MachineMode.PARKED)
    cluster.machine("m3", MachineMode.LEAVING)
    cluster.ask_to_reboot("m1", "m2", "m3", "m4")
    cluster.run()
    assert {machine: cluster.boots[machine] for machine in ("m1", "m2", "m3", "m4")} == {
        "m1": 1,
        "m2": 1,
        "m3": 1,
        "m4": 2,
    }


def test_a_machine_that_is_lost_while_it_drains_keeps_its_slot_until_it_is_back() -> None:
    cluster = rebooting_group()
    cluster.ask_to_reboot("m1", drain_within_s=60.0)
    cluster.ask_to_reboot("m2")
    cluster.run_leader()
    cluster.stuck.add("m1")
    cluster.power_off("m1")
    cluster.wait(3600)
    cluster.run()
    assert cluster.phases() == {"m1": "draining"}
    cluster.stuck.clear()
    cluster.run()
    assert cluster.phases() == {}
    assert cluster.boots["m2"] == 2


@pytest.mark.covers("B.9")
def test_the_store_was_restored() -> None:
    cluster = rebooting_group()
    cluster.ask_to_reboot("m1", "m2")
    cluster.run_leader()
    cluster.snapshot.restored_at = cluster.revision + 1
    cluster.revision += 1
    cluster.run()
    assert cluster.phases() == {"m1": "restored", "m2": "restored"}
    assert cluster.snapshot.reboot_requests == {}
    cluster.ask_to_reboot("m1")
    cluster.run()
    assert cluster.phases() == {"m2": "restored"}


def etcd_cluster() -> RebootingCluster:
    cluster = rebooting_group()
    for machine in ("m1", "m2"):
        cluster.machine(machine, facts={"etcd_member": f"e-{machine}"})
    return cluster


def test_a_machine_with_a_member_of_the_store_goes_when_all_others_are_healthy() -> None:
    cluster = etcd_cluster()
    cluster.run()
    assert cluster.asked == 0
    cluster.unhealthy = {"e-m2"}
    cluster.ask_to_reboot("m1")
    cluster.run()
    assert cluster.phases() == {}
    assert cluster.asked == 1
    assert cluster.due_s == cluster.clock_s + 5
    cluster.ask_to_reboot("m3")
    cluster.run()
    assert cluster.boots["m3"] == 2
    cluster.unhealthy = {"e-m1"}
    cluster.wait(6)
    cluster.run()
    assert cluster.boots["m1"] == 2
    assert cluster.phases() == {}


def test_a_member_that_fails_during_the_drain_keeps_the_machine_up() -> None:
    cluster = etcd_cluster()
    cluster.ask_to_reboot("m1")
    cluster.run_leader()
    cluster.run_leader()
    assert cluster.phases() == {"m1": "draining"}
    cluster.unhealthy = {"e-m2"}
    cluster.wait(6)
    cluster.run()
    assert cluster.phases() == {"m1": "draining"}
    assert cluster.due_s == cluster.clock_s + 5
    cluster.unhealthy = set()
    cluster.wait(6)
    cluster.run()
    assert cluster.boots["m1"] == 2


def test_two_machines_with_members_never_reboot_at_once() -> None:
    cluster = etcd_cluster()
    cluster.reboots = RebootPolicy(slots=3)
    cluster.ask_to_reboot("m1", "m2", "m3")
    while cluster.turn():
        if cluster.boots["m1"] == 1 and "m1" not in cluster.down and "m1" in cluster.snapshot.machines:
            cluster.machine("m1", facts={"etcd_member": "e-m1"})
        assert len({"m1", "m2"} & set(cluster.snapshot.reboots)) <= 1
    assert cluster.boots == {"m1": 2, "m2": 2, "m3": 2}


def test_a_fleetlock_client_reboots_by_itself_once_it_was_told() -> None:
    cluster = rebooting_group()
    cluster.submit_unit("db.service", "MachineID=m1")
    cluster.deaf.add("m1")
    cluster.ask_to_reboot("m1", client="zincati")
    cluster.run()
    assert cluster.phases() == {"m1": "ordered"}
    cluster.wait(TEN_MINUTES_S)
    cluster.run()
    assert cluster.phases() == {"m1": "ordered"}
    granted = NOON + cluster.clock_s
    request = cluster.snapshot.reboot_requests["m1"]
    cluster.write(REBOOT_REQUESTS, ("m1",), replace(request, granted=granted))
    cluster.run()
    assert cluster.reboot_of("m1").ordered == granted
    cluster.wait(TEN_MINUTES_S - 1)
    cluster.run()
    assert cluster.phases() == {"m1": "ordered"}
    cluster.wait(1)
    cluster.run()
    assert cluster.phases() == {"m1": "not-back"}


def test_a_fleetlock_client_that_asks_no_more_loses_its_slot() -> None:
    cluster = rebooting_group()
    cluster.deaf.add("m1")
    cluster.ask_to_reboot("m1", client="zincati")
    cluster.run()
    assert cluster.due_s == cluster.clock_s + 1800
    cluster.wait(1800)
    cluster.run()
    reboot = cluster.reboot_of("m1")
    assert (reboot.failure, reboot.detail) == (
        RebootFailure.REFUSED,
        "its FleetLock client has not asked again whether it may reboot",
    )


def test_members_on_a_machine_that_was_told_to_reboot_count_as_unavailable() -> None:
    cluster = rebooting_group()
    cluster.submit_unit("g.service", "Global=true")
    cluster.deaf.add("m1")
    cluster.ask_to_reboot("m1")
    cluster.run()
    budget = DisruptionBudget(cluster.snapshot, {})
    wait = budget.may_disturb("g.service", "m2")
    assert wait is not None
    cluster.write(UNITS, ("g.service",), replace(cluster.snapshot.units["g.service"], target=INACTIVE))
    assert [(member.machine, member.why) for member in wait.members] == [("m1", "reboots")]


@pytest.mark.covers("B.8", "C.4")
def test_a_new_leader_goes_on() -> None:
    cluster = rebooting_group()
    cluster.submit_unit("db.service", "MachineID=m1")
    cluster.ask_to_reboot("m1", "m2")
    for _ in range(300):
        cluster.elect()
        if not cluster.turn():
            break
    assert cluster.phases() == {}
    assert cluster.boots == {"m1": 2, "m2": 2, "m3": 1}


def test_a_drain_that_an_operator_asked_for_takes_global_units_along() -> None:
    cluster = rebooting_group()
    cluster.submit_unit("g.service", "Global=true")
    drain = DrainRequest("ann", NOON, with_globals=True)
    cluster.write(SETTINGS, ("m1",), MachineSettings(cordon=Cordon(), drain=drain))
    cluster.ask_to_reboot("m1")
    cluster.run()
    assert cluster.boots["m1"] == 2
    assert cluster.on("m1") == []


def test_what_the_machine_does_not_take_and_files_for_sockets_do_not_keep_it_up() -> None:
    cluster = rebooting_group()
    cluster.submit_unit("echo@.service", "", "")
    cluster.submit_unit("echo.socket", "MachineID=m1", "[Socket]\nListenStream=7\nAccept=yes")
    assert cluster.assigned()["echo@.service"] == "m1"
    cluster.submit_unit("g.service", "Global=true")
    declined = replace(cluster.snapshot.placements["g.service"]["m1"], target=INACTIVE, declined=True)
    cluster.write(PLACEMENTS, ("m1", "g.service"), declined)
    cluster.ask_to_reboot("m1")
    cluster.run_leader()
    assert cluster.phases() == {"m1": "draining"}
    cluster.run()
    assert cluster.boots["m1"] == 2


def test_the_session_of_a_machine_that_is_told_to_reboot_is_written_once() -> None:
    cluster = rebooting_group()
    cluster.ask_to_reboot("m1")
    cluster.run_leader()
    for _ in range(10):
        cluster.step("m1", "w@1.service")
        plan = cluster.plan()
        orders = [write for write in plan.writes if isinstance(write, RebootPlan) and write.reboot]
        if orders and orders[0].reboot.phase is RebootPhase.ORDERED:
            break
        cluster.apply(plan)
    assert orders[0].session == cluster.snapshot.machines["m1"].session
    cluster.machine("m1", session="another")
    cluster.changed = None
    plan = cluster.plan()
    sessions = [write.session for write in plan.writes if isinstance(write, RebootPlan | SessionPlan)]
    assert sessions == ["", "another"]
