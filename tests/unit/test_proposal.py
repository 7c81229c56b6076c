"""A proposal shows what controllers have proposed, laid over a snapshot."""

from fleetd.scheduler.proposal import Proposal
from tests.unit.cluster_builder import placed_cluster


def test_a_unit_is_woken_at_the_earliest_time_asked_for():
    proposal = Proposal(placed_cluster().snapshot)
    for at_s in (7.0, 5.0, 6.0):
        proposal.wake("a.service", at_s)
    assert proposal.wakeups == {"a.service": 5.0}


def test_a_proposal_leaves_the_snapshot_as_it_is():
    cluster = placed_cluster(a=("Conflicts=x*", "m1"), b=("Replaces=y*", "m1"), c=("", ""))
    cluster.unit("w@1.service")
    cluster.place("w@1.service", "m1")
    proposal = Proposal(cluster.snapshot)
    requirements = cluster.snapshot.requirements("a.service")
    proposal.vacate("b.service", "m1")
    proposal.withdraw("w@1.service", "m1", cluster.snapshot.requirements("w@1.service"))
    proposal.occupy("a.service", "m2", requirements)
    proposal.vacate("a.service", "m1")
    assert list(proposal.machines_with("a.service")) == ["m1", "m2"]
    assert list(proposal.occupancy("m2").units) == ["a.service"]
    assert list(proposal.occupancy("m1").units) == ["w@1.service"]
    assert list(proposal.occupancy("m1").staying) == []
    assert proposal.occupancy("m3").units == {}
    assert cluster.snapshot.assigned_machine("a.service") == "m1"
    assert list(cluster.snapshot.occupancy("m1").staying) == ["a.service", "b.service", "w@1.service"]
    assert cluster.snapshot.occupancy("m1").has_patterns()
    assert cluster.snapshot.occupancy("m1").templates == {"w@.service": 1}


def test_a_unit_that_leaves_keeps_the_equal_conflicts_of_another():
    cluster = placed_cluster(a=("Conflicts=x*", "m1"), b=("Conflicts=x*", "m1"))
    cluster.unit("x.service")
    proposal = Proposal(cluster.snapshot)
    proposal.vacate("a.service", "m1")
    assert list(proposal.occupancy("m1").conflicting("x.service", cluster.snapshot.requirements("x.service"))) == [
        "b.service"
    ]
    proposal.vacate("b.service", "m1")
    assert list(proposal.occupancy("m1").conflicting("x.service", cluster.snapshot.requirements("x.service"))) == []


def test_one_of_two_instances_stays_counted_when_the_other_leaves():
    cluster = placed_cluster()
    for name in ("w@1.service", "w@2.service"):
        cluster.unit(name)
        cluster.place(name, "m1")
    proposal = Proposal(cluster.snapshot)
    proposal.vacate("w@1.service", "m1")
    assert proposal.occupancy("m1").templates == {"w@.service": 1}
    proposal.vacate("w@2.service", "m1")
    assert proposal.occupancy("m1").templates == {}
