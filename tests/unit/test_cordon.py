"""A cordoned machine gets no new unit but global ones, and keeps those that it has."""

from tests.unit.cluster_builder import INACTIVE, LAUNCHED, LOADED, A, Cluster, after_partition, settled_cluster


def test_new_units_go_elsewhere_and_those_that_are_there_stay() -> None:
    cluster = settled_cluster("m1", "m2", a="")
    cluster.cordon("m1", "disk")
    cluster.submit(b="", c="")
    cluster.settle()
    assert cluster.assigned_services() == {"a": "m1", "b": "m2", "c": "m2"}


def test_a_unit_that_fits_nowhere_else_waits_and_says_why_until_the_machine_is_uncordoned() -> None:
    cluster = settled_cluster("m1", "m2")
    cluster.cordon("m1", "disk")
    cluster.submit(a="MachineID=m1")
    cluster.settle()
    assert cluster.assigned() == {}
    assert cluster.rejections(A) == {"machine is cordoned: disk": 1, "not machine m1": 1}
    cluster.cordon("m1", "kernel")
    cluster.settle()
    assert cluster.rejections(A) == {"machine is cordoned: kernel": 1, "not machine m1": 1}
    cluster.uncordon("m1")
    cluster.settle()
    assert cluster.assigned() == {A: "m1"}


def test_what_is_there_may_be_replaced_stopped_and_started() -> None:
    cluster = settled_cluster("m1", "m2", a="")
    cluster.cordon("m1")
    for text, target in (("Conflicts=x*", LOADED), ("Conflicts=y*", LAUNCHED)):
        cluster.unit(A, text, target)
        cluster.settle()
        assert cluster.assigned() == {A: "m1"}


def test_a_unit_that_was_taken_away_and_is_wanted_again_goes_elsewhere() -> None:
    cluster = settled_cluster("m1", "m2", a="")
    cluster.cordon("m1")
    cluster.unit(A, target=INACTIVE)
    cluster.run_leader()
    cluster.unit(A)
    cluster.settle()
    assert cluster.assigned() == {A: "m2"}


def test_a_rebooted_machine_keeps_its_units_if_they_waited_for_it() -> None:
    cluster = settled_cluster("m1", "m2", a="FailoverDelay=100")
    cluster.cordon("m1")
    cluster.die("m1")
    cluster.run_leader()
    cluster.local_units["m1"] = {}
    cluster.come_back("m1")
    cluster.settle()
    assert cluster.assigned() == {A: "m1"}


def test_a_global_unit_comes_to_cordoned_machines_and_does_not_count_them() -> None:
    cluster = settled_cluster("m1", "m2", "m3 role=web")
    cluster.cordon("m1")
    cluster.submit(g="Global=true", w="Global=true\nMachineMetadata=role=web")
    cluster.settle()
    assert cluster.assigned_services() == {"g": "m1 m2 m3", "w": "m3"}
    assert cluster.rejections("w.service") == {"metadata role=web missing": 2}


def test_the_template_of_a_global_socket_comes_with_it() -> None:
    cluster = Cluster()
    cluster.machine("m1")
    cluster.cordon("m1")
    cluster.unit("echo@.service", target=INACTIVE)
    cluster.unit("echo.socket", "Global=true\n[Socket]\nAccept=yes")
    cluster.settle()
    assert cluster.assigned() == {"echo.socket": "m1", "echo@.service": "m1"}


def test_what_still_runs_there_is_taken_back_when_its_replacement_fails() -> None:
    cluster = after_partition()
    cluster.cordon("m1")
    cluster.state(A, "m2", "failed")
    cluster.run_leader()
    assert cluster.placement_states(A) == {"m1": "assigned", "m2": "withdrawn"}


def test_a_unit_of_machine_of_does_not_come_to_a_cordoned_machine_for_its_peer() -> None:
    cluster = settled_cluster("m1", "m2", a="MachineID=m1")
    cluster.cordon("m1")
    cluster.submit(b="MachineOf=a.service")
    cluster.settle()
    assert cluster.assigned_services() == {"a": "m1"}
    assert cluster.rejections("b.service") == {"a.service is not there": 1, "machine is cordoned": 1}
