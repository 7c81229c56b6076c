"""The queue of reboots: which machine has its turn, and when."""

import pytest

from fleetd.model.machine import MachineMode
from fleetd.model.reboot import RebootFailure, RebootRefusal
from fleetd.model.reboot_window import parse_reboot_windows
from fleetd.scheduler.disruption import DisruptionBudget
from fleetd.scheduler.reboot_policy import RebootPolicy
from tests.unit.rebooting_cluster import RebootingCluster, rebooting_group


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
