"""A reboot from its request to its end: done, cancelled, asked for again, by a FleetLock client, across leaders."""

import pytest
from msgspec.structs import replace

from fleetd.model.reboot import RebootFailure, RebootPhase
from fleetd.registry.records import REBOOT_REQUESTS
from fleetd.scheduler.proposal import RebootPlan, SessionPlan
from tests.unit.cluster_builder import NOON
from tests.unit.rebooting_cluster import TEN_MINUTES_S, rebooting_group


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
