"""Properties of ranking and rejections: the same results as the slow implementation, on random clusters."""

from hypothesis import event, given, settings
from hypothesis import strategies as st

from fleetd.model.machine import MachineMode
from fleetd.model.reason import render_rejection
from fleetd.scheduler.feasibility import count_rejections
from fleetd.scheduler.proposal import Proposal
from fleetd.scheduler.ranking import Ranking, rank
from tests.examples import examples
from tests.unit import slow_ranking
from tests.unit.cluster_builder import Cluster, write_placement

MACHINES = [f"{index:02}abcdef-{index:02}" for index in range(12)] + ["00abcdef-99"]  # two share a short id
UNITS = ["a.service", "b.service", "c.service", *(f"w@{n}.service" for n in range(6)), "x@1.service", "g.service"]
TEXTS = (
    "",
    "",
    "",
    "MachineMetadata=role=x",
    "MachineMetadata=role=x\nMachineMetadata=role=y\nMachineMetadata=zone=1",
    "MachineID=00abcdef",
    "MachineID=01abcdef-01",
    "MachineID=",
    "Conflicts=w@*.service",
    "Conflicts=%p@*.service",
    "Conflicts=a.service x@*.service",
    "MachineOf=a.service",
    "MachineOf=w@1.service\nMachineMetadata=zone=1",
    "MachineOf=g.service",
    "MachineOf=",
    "Replaces=w@*.service",
    "Replaces=a.service b.service",
    "Global=true",
)

names = st.sampled_from(UNITS)
machines = st.sampled_from(MACHINES)
modes = st.sampled_from((MachineMode.READY,) * 6 + (MachineMode.PARKED, MachineMode.LEAVING))
cordons = st.sampled_from(("",) * 5 + ("disk", "kernel"))
metadata = st.fixed_dictionaries({"role": st.sampled_from("xyz"), "zone": st.sampled_from("12")})
texts = st.sampled_from(TEXTS)
residents = st.tuples(
    names, machines, texts, st.sampled_from(("assigned", "assigned", "assigned", "withdrawn", "superseded"))
)


@st.composite
def clusters(draw):
    """Machines with placements, which need not be those that the leader would make."""
    cluster = Cluster()
    for machine, (mode, fields) in draw(st.dictionaries(machines, st.tuples(modes, metadata), max_size=13)).items():
        cluster.machine(machine, mode, **fields)
        if why := draw(cordons):
            cluster.cordon(machine, why)
    for name in UNITS:
        cluster.unit(name, draw(texts))
    for name, machine, text, state in draw(st.lists(residents, max_size=25)):
        write_placement(cluster, name, machine, text, state)
    for name, machine in draw(st.lists(st.tuples(names, machines), max_size=4)):
        cluster.state(name, machine, draw(st.sampled_from(("active", "failed"))))
    return cluster


moves = st.lists(st.tuples(names, machines, st.sampled_from(("place", "withdraw", "vacate", "renew"))), max_size=8)
groups = st.lists(st.lists(names, min_size=1, max_size=3, unique=True), min_size=1, max_size=12)


@settings(max_examples=examples(400))
@given(clusters(), moves, groups)
def test_ranking_chooses_the_same_machine_as_the_slow_implementation(cluster, moves, groups):
    proposal = Proposal(cluster.snapshot)
    for name, machine, action in moves:
        move(proposal, name, machine, action)
    ranking = Ranking(proposal)
    for group in groups:
        found = ranking.choose(group)
        expected = slow_ranking.choose(proposal, group)
        event("no machine fits" if expected is None else f"{min(expected[1], 3)} machines or more fit")
        assert (found and (found.machine, found.is_only)) == (expected and (expected[0], expected[1] == 1))
        for name in group:
            assert ranking.is_placeable(name, group) == slow_ranking.is_placeable(proposal, name, group)
        for name in group if found else ():
            proposal.occupy(name, found.machine, cluster.snapshot.requirements(name))
            ranking.record_placement(name, found.machine)


@settings(max_examples=examples(200))
@given(clusters(), moves, groups)
def test_what_is_told_of_a_choice_is_what_makes_it_better_than_the_next_best(cluster, moves, groups):
    proposal = Proposal(cluster.snapshot, standings={})
    for name, machine, action in moves:
        move(proposal, name, machine, action)
    ranking = Ranking(proposal)
    for group in groups:
        proposal.standings.clear()
        found = ranking.choose(group)
        standing = proposal.standings.get(group[0])
        assert (standing and standing.machine) == (found and found.machine)
        assert list(proposal.standings) == (group if found else [])
        assert standing is None or (standing.values == ()) == found.is_only
        if found and not found.is_only:
            second = ranking.choose(group, without=found.machine).machine
            theirs = rank(proposal, group[0], second, runs_there=cluster.snapshot.is_running_on(group[0], second))
            ranks = [(value, theirs[preference]) for preference, value in standing.values]
            assert [mine == other for mine, other in ranks] == [True] * (len(ranks) - 1) + [False]
            assert ranks[-1][0] < ranks[-1][1]


@settings(max_examples=examples(200))
@given(clusters(), moves, names, st.lists(machines, unique=True, max_size=4))
def test_rejections_are_counted_as_by_the_slow_implementation(cluster, moves, name, here):
    proposal = Proposal(cluster.snapshot)
    for moved, machine, action in moves:
        move(proposal, moved, machine, action)
    counted = count_rejections(proposal, name, here)
    assert [(render_rejection(each.rejection), each.machines) for each in counted] == slow_ranking.count_rejections(
        proposal, name, here
    )


def move(proposal, name, machine, action):
    requirements = proposal.snapshot.requirements(name)
    match action:
        case "place":
            proposal.occupy(name, machine, requirements)
        case "withdraw":
            proposal.withdraw(name, machine, requirements)
        case "vacate":
            proposal.vacate(name, machine)
        case "renew" if name in proposal.occupancy(machine).staying:
            proposal.occupy(name, machine, requirements)
