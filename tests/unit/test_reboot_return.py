"""While a machine reboots, and after: what stayed there keeps its place, and is waited for when the machine is back."""

import pytest
from msgspec.structs import replace

from fleetd.model.machine import MachineMode
from fleetd.model.reboot import RebootFailure, RebootPhase
from fleetd.registry.records import UNITS
from fleetd.scheduler.disruption import DisruptionBudget
from tests.unit.cluster_builder import INACTIVE
from tests.unit.rebooting_cluster import TEN_MINUTES_S, rebooting_group


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


def test_a_machine_that_is_there_and_has_not_done_as_it_was_told_loses_its_slot() -> None:
    cluster = rebooting_group()
    cluster.deaf.add("m1")
    cluster.ask_to_reboot("m1", "m2")
    cluster.run()
    assert cluster.phases() == {"m1": "ordered"}
    cluster.wait(TEN_MINUTES_S)
    cluster.run()
    reboot = cluster.reboot_of("m1")
    assert (reboot.failure, reboot.detail) == (
        RebootFailure.REFUSED,
        "it is there, and has not rebooted although it was told to",
    )
    assert cluster.boots["m2"] == 2


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
