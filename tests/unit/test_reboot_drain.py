"""The drain before a reboot: what leaves the machine, what stays there, and what the machine waits for."""

import pytest
from msgspec.structs import replace

from fleetd.model.machine import Cordon, DrainRequest, MachineSettings
from fleetd.model.reboot import RebootFailure
from fleetd.registry.records import PLACEMENTS, SETTINGS, STATES
from tests.unit.cluster_builder import INACTIVE, NOON
from tests.unit.rebooting_cluster import RebootingCluster, rebooting_group


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
