"""Explanations: all rules that keep a unit from a machine, and the order among those that fit."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleetd.model.reason import Rejection, RejectionKind
from fleetd.scheduler.explanation import Explanation, Narrowing, Requirement, Verdict, explain
from fleetd.scheduler.feasibility import Candidate, every_rejection, rejection
from fleetd.scheduler.preference import Preference
from fleetd.scheduler.proposal import Proposal
from fleetd.scheduler.ranking import Ranking
from tests.unit.drawn_clusters import submit
from tests.unit.rolling_cluster import RollingCluster
from tests.unit.test_ranking_properties import clusters


def three_machines() -> RollingCluster:
    """w@1 is on m1, w@2 on m2; m3 has no ssd, and is cordoned."""
    cluster = RollingCluster(0)
    cluster.machine("m1", disk="ssd")
    cluster.machine("m2", disk="ssd")
    cluster.machine("m3", disk="hdd")
    cluster.cordon("m3", "disk")
    for number in (1, 2):
        submit(cluster, f"w@{number}.service", "Conflicts=w@*\nMachineMetadata=disk=ssd")
    cluster.come_to_rest()
    return cluster


def explained(cluster: RollingCluster, name: str) -> Explanation:
    return explain(cluster.snapshot, name)


def test_all_rules_that_keep_it_from_a_machine_are_told() -> None:
    cluster = three_machines()
    cluster.cordon("m2", "fan")
    found = explained(cluster, "w@1.service")
    cordoned, lacking = Rejection(RejectionKind.CORDONED, "disk"), Rejection(RejectionKind.METADATA, "disk=ssd")
    fan, other = Rejection(RejectionKind.CORDONED, "fan"), Rejection(RejectionKind.CONFLICT, "w@2.service")
    assert found.here == ("m1",)
    assert found.others == (Verdict("m2", (fan, other)), Verdict("m3", (cordoned, lacking)))
    assert found.narrowings == (Narrowing(Requirement.ACCEPTS, 1, (fan, cordoned)),)
    assert found.best == "m1"


def test_rules_narrow_the_machines_in_their_order() -> None:
    cluster = three_machines()
    cluster.uncordon("m3")
    found = explained(cluster, "w@1.service")
    lacking, other = Rejection(RejectionKind.METADATA, "disk=ssd"), Rejection(RejectionKind.CONFLICT, "w@2.service")
    assert found.narrowings == (
        Narrowing(Requirement.HAS, 2, (lacking,)),
        Narrowing(Requirement.CONFLICTS, 1, (other,)),
    )


def test_the_first_preference_that_separates_two_machines_is_the_reason() -> None:
    cluster = RollingCluster(2)
    for name in ("a.service", "v@1.service", "v@2.service", "b.service", "c.service"):
        submit(cluster, name)
        cluster.come_to_rest()
    found = explained(cluster, "v@2.service")
    assert found.here == ("m1",)
    assert found.narrowings == (Narrowing(Preference.INSTANCES, 1, value=0),)
    assert found.others == (Verdict("m2", (), Preference.INSTANCES, 1),)
    found = explained(cluster, "c.service")
    assert (found.here, found.best) == (("m1",), "m1")
    assert found.narrowings == (Narrowing(Preference.ID, 1, value=1),)
    submit(cluster, "d.service", "MachineID=m1")
    submit(cluster, "e.service", "MachineID=m1")
    cluster.come_to_rest()
    found = explained(cluster, "c.service")
    assert (found.here, found.best) == (("m1",), "m2")
    assert found.others == (Verdict("m2", (), Preference.UNITS, 2, is_better=True),)


def test_a_unit_on_many_machines_and_one_that_fits_nowhere() -> None:
    cluster = RollingCluster(2)
    submit(cluster, "log.service", "Global=true\nMachineID=m1")
    submit(cluster, "far.service", "MachineID=m9")
    cluster.come_to_rest()
    found = explained(cluster, "log.service")
    assert (found.here, found.best) == (("m1",), "")
    assert found.others == (Verdict("m2", (Rejection(RejectionKind.MACHINE_ID, "m1"),)),)
    found = explained(cluster, "far.service")
    assert (found.here, found.best) == ((), "")
    assert [verdict.machine for verdict in found.others] == ["m1", "m2"]


@pytest.mark.covers("C.16")
@settings(max_examples=100, deadline=None)
@given(clusters())
def test_the_first_rejection_is_the_one_that_counts(cluster: RollingCluster) -> None:
    proposal = Proposal(cluster.snapshot)
    for name in cluster.snapshot.units:
        for machine in cluster.snapshot.machines:
            candidate = Candidate(proposal, name, cluster.snapshot.requirements(name), machine)
            assert next(iter(every_rejection(candidate)), None) == rejection(candidate)


@pytest.mark.covers("C.16")
@settings(max_examples=100, deadline=None)
@given(clusters(), st.data())
def test_the_best_machine_is_the_one_that_ranking_chooses(cluster: RollingCluster, data: st.DataObject) -> None:
    names = [name for name in cluster.snapshot.units if name not in cluster.snapshot.placements]
    names = [name for name in names if name not in cluster.snapshot.global_units and "@." not in name]
    if names:
        name = data.draw(st.sampled_from(names))
        choice = Ranking(Proposal(cluster.snapshot)).choose([name])
        found = explain(cluster.snapshot, name)
        assert found.best == (choice.machine if choice else "")
        counts = [len(cluster.snapshot.machines), *(narrowing.left for narrowing in found.narrowings)]
        assert counts == sorted(counts, reverse=True)
        assert counts[-1] == (1 if choice else 0)
