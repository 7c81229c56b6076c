"""Feasibility and ranking: why a machine rejects or evicts a unit, and which machine is the best."""

import pytest

from fleetd.model.machine import MachineMode
from fleetd.model.reason import render_rejection
from fleetd.model.unit import Unit
from fleetd.registry.records import UNITS
from fleetd.scheduler.feasibility import Candidate, count_rejections, eviction_reason, rejection
from fleetd.scheduler.proposal import Proposal
from fleetd.scheduler.ranking import Ranking
from tests.unit.cluster_builder import INACTIVE, Cluster

LONG_ID = "0123456789abcdef0123456789abcdef"


def candidate_for(cluster, name, machine="m1", group=()):
    proposal = Proposal(cluster.snapshot)
    return Candidate(proposal, name, cluster.snapshot.requirements(name), machine, group)


def why_rejected(candidate):
    """Why the machine rejects the unit, rendered; '' if it fits."""
    found = rejection(candidate)
    return render_rejection(found) if found else ""


def why_evicted(candidate):
    """Why the unit may not stay on its machine, rendered; '' if it may."""
    found = eviction_reason(candidate)
    return render_rejection(found) if found else ""


def rejections_of(cluster, here=()):
    counts = count_rejections(Proposal(cluster.snapshot), "new.service", here)
    return [(render_rejection(each.rejection), each.machines) for each in counts]


def cluster_with(unit_text, residents=(), mode=MachineMode.READY, **metadata):
    """m1 with these residents (name → X-Fleet text), and the unplaced unit new.service."""
    cluster = Cluster()
    cluster.machine("m1", mode=mode, **(metadata or {"role": "web", "zone": "a"}))
    for name, text in residents:
        cluster.unit(name, text)
        cluster.place(name, "m1")
    cluster.unit("new.service", unit_text)
    return cluster


FITS = [
    ("a unit without constraints", "", []),
    ("metadata of the machine", "MachineMetadata=role=web", []),
    ("alternatives of one key, spread over lines", "MachineMetadata=role=db\nMachineMetadata=role=web", []),
    ("all of several keys", "MachineMetadata=role=web\nMachineMetadata=zone=a", []),
    ("the machine's full id", "MachineID=m1", []),
    ("a peer on the machine", "MachineOf=db.service", [("db.service", "")]),
    ("a global peer on the machine", "MachineOf=db.service", [("db.service", "Global=true")]),
    ("itself as its own peer", "MachineOf=%n", []),
    ("a conflict with units on other machines", "Conflicts=web*", [("db.service", "")]),
    ("a conflict with itself", "Conflicts=new*", []),
    ("a malformed pattern, which matches nothing", "Conflicts=[", [("db.service", "")]),
    ("a star that would have to match a slash", "Conflicts=d*/e", [("db.service", "")]),
    ("a unit that it replaces", "Replaces=db.service", [("db.service", "")]),
    ("a unit that replaces it", "", [("db.service", "Replaces=new.service")]),
]


@pytest.mark.covers("2.3.3", "2.3.5", "2.4.1", "2.5.1", "2.6.1")
@pytest.mark.parametrize(("text", "residents"), [row[1:] for row in FITS], ids=[row[0] for row in FITS])
def test_a_unit_fits_with(text, residents):
    assert why_rejected(candidate_for(cluster_with(text, residents), "new.service")) == ""


REJECTED = [
    ("another machine's id", "MachineID=m2", [], "not machine m2"),
    ("an empty id", "MachineID=", [], "not machine (empty MachineID)"),
    ("a missing key", "MachineMetadata=disk=ssd", [], "metadata disk=ssd missing"),
    ("another value", "MachineMetadata=role=db", [], "metadata role=db missing"),
    ("another case", "MachineMetadata=role=Web", [], "metadata role=Web missing"),
    (
        "only one of two keys",
        "MachineMetadata=role=web\nMachineMetadata=zone=b\nMachineMetadata=zone=c",
        [],
        "metadata zone=b|c missing",
    ),
    ("a peer that is elsewhere", "MachineOf=db.service", [], "db.service is not there"),
    ("an empty peer", "MachineOf=", [], "(empty MachineOf) is not there"),
    ("one of two peers", "MachineOf=db.service\nMachineOf=x.service", [("db.service", "")], "x.service is not there"),
    ("a glob as a peer", "MachineOf=d*.service", [("db.service", "")], "d*.service is not there"),
    ("a conflict by its own pattern", "Conflicts=d*", [("db.service", "")], "conflicts with db.service"),
    ("a conflict by the other's pattern", "", [("db.service", "Conflicts=new*")], "conflicts with db.service"),
    (
        "several conflicts: the first by name",
        "Conflicts=z* a*",
        [("z.service", ""), ("a.service", "")],
        "conflicts with a.service",
    ),
    ("a conflict with a global unit", "Conflicts=db*", [("db.service", "Global=true")], "conflicts with db.service"),
    ("another id first", "MachineID=m2\nMachineMetadata=role=db", [], "not machine m2"),
]


@pytest.mark.covers(
    "1.7.2", "1.8.4", "2.3.2", "2.3.3", "2.3.4", "2.3.6", "2.4.1", "2.4.2", "2.5.2", "2.6.1", "2.6.2", "2.7.4"
)
@pytest.mark.parametrize(("text", "residents", "reason"), [r[1:] for r in REJECTED], ids=[r[0] for r in REJECTED])
def test_a_unit_is_rejected_for(text, residents, reason):
    assert why_rejected(candidate_for(cluster_with(text, residents), "new.service")) == reason


@pytest.mark.covers("1.7.1", "2.3.1", "10.4.9")
@pytest.mark.parametrize("length", [7, 9, 31])
def test_machine_id_matches_the_full_and_the_short_id_but_no_other_prefix(length):
    cluster = Cluster()
    cluster.machine(LONG_ID)
    for text, reason in ((LONG_ID, ""), (LONG_ID[:8], ""), (LONG_ID[:length], f"not machine {LONG_ID[:length]}")):
        cluster.unit("new.service", f"MachineID={text}")
        assert why_rejected(candidate_for(cluster, "new.service", LONG_ID)) == reason


@pytest.mark.parametrize(
    ("mode", "why"), [(MachineMode.LEAVING, "leaving"), (MachineMode.PARKED, "parked (its fleetd was stopped)")]
)
def test_a_leaving_or_parked_machine_accepts_no_unit(mode, why):
    assert why_rejected(candidate_for(cluster_with("", mode=mode), "new.service")) == f"machine is {why}"


@pytest.mark.covers("2.4.3", "4.6.9")
def test_settings_override_metadata_and_an_empty_value_hides_a_key():
    cluster = cluster_with("MachineMetadata=role=db")
    cluster.settings("m1", role="db")
    assert why_rejected(candidate_for(cluster, "new.service")) == ""
    cluster.settings("m1", role="")
    assert why_rejected(candidate_for(cluster, "new.service")) == "metadata role=db missing"


def test_peers_of_the_same_group_count_as_present():
    cluster = cluster_with("MachineOf=db.service")
    assert why_rejected(candidate_for(cluster, "new.service", group=("db.service", "new.service"))) == ""


@pytest.mark.covers("2.5.1")
def test_a_withdrawn_unit_is_no_peer_but_still_conflicts():
    cluster = cluster_with("MachineOf=db.service", [("db.service", "")])
    cluster.unit("rival.service", "Conflicts=db*")
    cluster.unit("db.service", target=INACTIVE)
    cluster.run_leader()
    assert cluster.placement_states("db.service") == {"m1": "withdrawn"}
    assert why_rejected(candidate_for(cluster, "new.service")) == "db.service is not there"
    assert why_rejected(candidate_for(cluster, "rival.service")) == "conflicts with db.service"


def test_a_superseded_allocation_does_not_conflict():
    cluster = cluster_with("Conflicts=db*", [("db.service", "")])
    proposal = Proposal(cluster.snapshot)
    proposal.vacate("db.service", "m1")
    assert why_rejected(Candidate(proposal, "new.service", cluster.snapshot.requirements("new.service"), "m1")) == ""


def test_a_text_that_is_no_unit_file_requires_nothing():
    cluster = cluster_with("")
    cluster.write(UNITS, ("bad.service",), Unit("bad.service", "[X-Fleet\n"))
    assert why_rejected(candidate_for(cluster, "bad.service")) == ""


# Eviction.

EVICTED = [
    ("the machine lost the metadata", "MachineMetadata=role=db", [], "metadata role=db missing"),
    ("it asks for another machine", "MachineID=m2", [], "not machine m2"),
    ("its peer is gone", "MachineOf=db.service", [], "db.service is not there"),
    (
        "it conflicts with a unit changed earlier",
        "Conflicts=db*",
        [("db.service", "")],
        "conflicts with db.service",
    ),
]


@pytest.mark.parametrize(("text", "residents", "reason"), [r[1:] for r in EVICTED], ids=[r[0] for r in EVICTED])
def test_a_unit_is_evicted_because(text, residents, reason):
    cluster = cluster_with(text, residents)
    cluster.place("new.service", "m1")
    assert why_evicted(candidate_for(cluster, "new.service")) == reason


@pytest.mark.covers("10.5.6")
def test_of_two_conflicting_units_the_one_changed_earlier_stays():
    cluster = cluster_with("Conflicts=db*", [("db.service", "")])
    cluster.place("new.service", "m1")
    assert why_evicted(candidate_for(cluster, "db.service")) == ""


def test_a_unit_is_not_evicted_for_a_destroyed_unit():
    cluster = cluster_with("Conflicts=db*", [("db.service", "")])
    cluster.place("new.service", "m1")
    cluster.destroy("db.service")
    assert why_evicted(candidate_for(cluster, "new.service")) == ""


@pytest.mark.parametrize("mode", [MachineMode.LEAVING, MachineMode.PARKED])
def test_eviction_reason_ignores_the_mode_of_the_machine(mode):
    cluster = cluster_with("", mode=mode)
    cluster.place("new.service", "m1")
    assert why_evicted(candidate_for(cluster, "new.service")) == ""


# Ranking.


def best(cluster, name):
    return Ranking(Proposal(cluster.snapshot)).choose([name]).machine


def three_machines():
    cluster = Cluster()
    for machine in ("m1", "m2", "m3"):
        cluster.machine(machine)
    return cluster


@pytest.mark.covers("2.9.1")
def test_of_equal_machines_the_first_by_id_is_chosen():
    cluster = three_machines()
    cluster.unit("new.service")
    assert best(cluster, "new.service") == "m1"


@pytest.mark.covers("2.7.5", "2.9.1")
def test_the_machine_with_the_fewest_units_is_chosen_not_counting_withdrawn_ones():
    cluster = three_machines()
    for name, machine in (("a.service", "m1"), ("b.service", "m2"), ("c.service", "m3"), ("d.service", "m3")):
        cluster.unit(name)
        cluster.place(name, machine)
    cluster.unit("new.service")
    assert best(cluster, "new.service") == "m1"
    cluster.unit("c.service", target=INACTIVE)
    cluster.unit("d.service", target=INACTIVE)
    cluster.destroy("new.service")
    cluster.run_leader()
    cluster.unit("new.service")
    assert best(cluster, "new.service") == "m3"


@pytest.mark.covers("2.7.4")
def test_global_units_count_as_load():
    cluster = three_machines()
    cluster.unit("g.service", "Global=true")
    cluster.place("g.service", "m1")
    cluster.unit("new.service")
    assert best(cluster, "new.service") == "m2"


@pytest.mark.covers("2.9.1", "P.15")
def test_instances_of_one_template_spread_before_load_counts():
    cluster = three_machines()
    for name, machine in (("web@1.service", "m3"), ("a.service", "m1"), ("b.service", "m1"), ("c.service", "m2")):
        cluster.unit(name)
        cluster.place(name, machine)
    cluster.unit("web@2.service")
    assert best(cluster, "web@2.service") == "m2"


def test_the_machine_that_runs_the_unit_already_is_chosen():
    cluster = three_machines()
    cluster.unit("a.service")
    cluster.place("a.service", "m3")
    cluster.unit("new.service")
    cluster.state("new.service", "m3", "active")
    assert best(cluster, "new.service") == "m3"


def test_a_machine_where_the_unit_is_not_replaced_is_better_than_an_emptier_one():
    cluster = three_machines()
    for name, text, machine in (
        ("replacer.service", "Replaces=new.service", "m1"),
        ("a.service", "", "m2"),
        ("b.service", "", "m2"),
        ("c.service", "", "m3"),
        ("d.service", "", "m3"),
    ):
        cluster.unit(name, text)
        cluster.place(name, machine)
    cluster.unit("new.service")
    assert best(cluster, "new.service") == "m2"


def test_rejections_are_counted_by_frequency_then_name_without_own_machines():
    cluster = Cluster()
    for machine, mode in (("m1", MachineMode.PARKED), ("m2", MachineMode.LEAVING), ("m3", MachineMode.READY)):
        cluster.machine(machine, mode=mode, role="web")
    for machine in ("m4", "m5", "m6"):
        cluster.machine(machine, role="db")
    cluster.unit("resident.service")
    cluster.place("resident.service", "m3")
    cluster.unit("new.service", "MachineMetadata=role=web\nConflicts=resident*")
    expected = {
        "metadata role=web missing": 3,
        "conflicts with resident.service": 1,
        "machine is leaving": 1,
        "machine is parked (its fleetd was stopped)": 1,
    }
    assert rejections_of(cluster) == list(expected.items())
    del expected["machine is parked (its fleetd was stopped)"]
    expected["metadata role=web missing"] = 2
    assert dict(rejections_of(cluster, ["m1", "m5", "gone"])) == expected
