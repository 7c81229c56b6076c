"""What a step of a rollout includes beside its member, what it costs, and what it waits for."""

import pytest
from msgspec.structs import replace

from fleetd.model.reason import Unavailability
from fleetd.model.rollout import Action, PauseCause, Phase
from fleetd.model.unit import UnitState
from fleetd.registry.records import STATES, UNITS
from fleetd.scheduler.controllers.rollout import member_views
from fleetd.scheduler.disruption import DisruptionBudget
from fleetd.scheduler.joint_steps import GroupRollout, JointSteps
from fleetd.scheduler.proposal import Proposal
from tests.unit.cluster_builder import INACTIVE, LOADED
from tests.unit.rolling_cluster import RollingCluster, text_of, word_of

NAMES = ("a@1.service", "a@2.service", "b@1.service", "b@2.service")


def pairs(a: str = "", b: str = "", word: str = "old", fleet: str = "") -> dict[str, str]:
    """The unit files of a@1, a@2, b@1 and b@2. a@1 and b@1 run on m1, a@2 and b@2 on m2. `a` and `b` are sections
    [Unit], in which N stands for the instance; lines that begin with X- go to [X-Fleet]."""
    texts = {}
    for name in NAMES:
        number = name[2]
        lines = (a if name[0] == "a" else b).replace("N", number).splitlines()
        ours = [line.removeprefix("X-") for line in lines if line.startswith("X-")]
        section = "\n".join([f"MachineMetadata=number={number}", *ours, fleet])
        texts[name] = text_of(word, section, "\n".join(line for line in lines if not line.startswith("X-")))
    return texts


def running_pairs(a: str = "", b: str = "", fleet: str = "") -> RollingCluster:
    cluster = RollingCluster(0)
    for number in ("1", "2"):
        cluster.machine(f"m{number}", number=number)
    cluster.request_texts(pairs(a, b, fleet=fleet))
    cluster.come_to_rest()
    cluster.started.clear()
    cluster.restarted_along.clear()
    return cluster


def given(cluster: RollingCluster, word: str = "new") -> str:
    """The units whose placement has this content, as a1, a2 …"""
    placed = [
        name.replace("@", "")[:2]
        for name, at in sorted(cluster.snapshot.placements.items())
        for placement in at.values()
        if word_of(placement.content) == word
    ]
    return " ".join(placed)


def run(cluster: RollingCluster, rounds: int = 40) -> list[str]:
    """What had the new content after each pass, without repetitions."""
    seen: list[str] = []
    for _ in range(rounds):
        cluster.run_leader()
        cluster.run_agents()
        words = given(cluster)
        seen += [words] if seen[-1:] != [words] else []
    return seen


def test_groups_of_one_request_roll_side_by_side() -> None:
    cluster = running_pairs()
    cluster.request_texts(pairs(word="new"))
    assert run(cluster) == ["a1 b1", "a1 a2 b1 b2"]


@pytest.mark.parametrize("option", ["After", "Requires", "BindsTo", "PartOf", "Requisite"])
def test_a_member_waits_for_the_units_of_its_request_that_it_names_on_its_machine(option: str) -> None:
    cluster = running_pairs(a=f"{option}=b@N.service")
    cluster.request_texts(pairs(a=f"{option}=b@N.service", word="new"))
    # But for After=, b@2 takes a@2 along, which has to wait until a@1 is proven.
    between = ["a1 b1 b2"] if option == "After" else ["a1 b1", "a1 b1 b2"]
    assert run(cluster) == ["b1", *between, "a1 a2 b1 b2"]
    assert not cluster.run_leader().writes


def test_a_member_does_not_wait_for_units_that_are_elsewhere_or_changed_by_another_request() -> None:
    cluster = running_pairs()
    cluster.request_texts(pairs(a="After=b@3.service\nAfter=nothing.service", word="new"))
    assert run(cluster)[0] == "a1 b1"
    texts = pairs(a="After=b@N.service", word="newer")
    cluster.request_texts({name: text for name, text in texts.items() if name[0] == "a"})
    cluster.request_texts({name: text for name, text in texts.items() if name[0] == "b"})
    cluster.run_leader()
    assert given(cluster, "newer") == "a1 b1"


def test_a_cycle_is_changed_as_one() -> None:
    cluster = running_pairs()
    cluster.request_texts(pairs(a="After=b@N.service", b="Requires=a@N.service", word="new"))
    assert run(cluster) == ["a1 b1", "a1 a2 b1 b2"]


def test_what_machine_of_binds_to_a_member_is_changed_with_it() -> None:
    cluster = running_pairs(b="X-MachineOf=a@N.service")
    cluster.request_texts(pairs(b="X-MachineOf=a@N.service", word="new"))
    assert run(cluster) == ["a1 b1", "a1 a2 b1 b2"]
    assert {group: len(r.steps) for group, r in cluster.snapshot.rollouts.items()} == {"a@.service": 0, "b@.service": 0}
    assert all(rollout.phase is Phase.DONE for rollout in cluster.snapshot.rollouts.values())


def test_a_bound_unit_whose_group_comes_first_is_changed_with_its_peer() -> None:
    cluster = running_pairs(a="X-MachineOf=b@N.service")
    cluster.request_texts(pairs(a="X-MachineOf=b@N.service", word="new"))
    assert run(cluster) == ["a1 b1", "a1 a2 b1 b2"]


def test_a_unit_that_cannot_be_read_names_no_other() -> None:
    cluster = running_pairs()
    cluster.request_texts({**pairs(word="new"), "x.service": "[Unit"})
    assert run(cluster)[0] == "a1 b1"


def test_what_machine_of_binds_and_what_that_requires_is_changed_in_one_step() -> None:
    b = "Requires=a@N.service\nAfter=a@N.service\nX-MachineOf=a@N.service"
    cluster = running_pairs(b=b)
    cluster.request_texts(pairs(b=b, word="new"))
    assert run(cluster) == ["a1 b1", "a1 a2 b1 b2"]


def test_a_bound_unit_that_waits_for_another_one_follows_later() -> None:
    cluster = running_pairs(b="X-MachineOf=a@N.service")
    texts = pairs(b="After=c.service\nX-MachineOf=a@N.service", word="new")
    c = text_of("old", "MachineID=m1")
    cluster.request_texts({"c.service": c})
    cluster.come_to_rest()
    cluster.request_texts({**texts, "c.service": c.replace("old", "new")})
    cluster.run_leader()
    assert given(cluster) == "a1 c."
    cluster.come_to_rest()
    assert set(cluster.contents().values()) == {"new"}


def test_a_bound_unit_whose_rollout_is_paused_is_left_out() -> None:
    cluster = running_pairs(b="X-MachineOf=a@N.service")
    cluster.request_texts(pairs(b="X-MachineOf=a@N.service", word="new"))
    cluster.command(Action.PAUSE, "b@.service")
    assert run(cluster) == ["a1", "a1 a2"]


def test_members_of_one_group_that_machine_of_joins_are_changed_together() -> None:
    cluster = RollingCluster(2)
    fleet = {"w@1.service": "", "w@2.service": "MachineOf=w@1.service"}
    for word in ("old", "new"):
        cluster.request_texts({name: text_of(word, each) for name, each in fleet.items()})
        cluster.run_leader()
        assert len(cluster.snapshot.placements) == 2
        if word == "new":
            assert len(cluster.rollout().steps) == 2, "more than the budget, while the others are available"
        cluster.come_to_rest()
    assert cluster.contents() == {"w@1": "new", "w@2": "new"}


def test_a_unit_that_fails_is_reverted_without_what_was_changed_with_it() -> None:
    cluster = running_pairs(b="X-MachineOf=a@N.service")
    texts = pairs(b="X-MachineOf=a@N.service", word="new")
    cluster.request_texts(
        {name: text.replace("new", "bad") if name[0] == "b" else text for name, text in texts.items()}
    )
    cluster.come_to_rest()
    assert cluster.contents() == {"a@1": "new", "a@2": "new", "b@1": "old", "b@2": "old"}


def test_a_step_is_charged_with_what_is_restarted_along() -> None:
    cluster = running_pairs(b="Requires=a@N.service")
    texts = pairs(b="Requires=a@N.service", word="new")
    cluster.state("b@2.service", "m2", "failed", generation=99)
    cluster.request_texts({name: text for name, text in texts.items() if name[0] == "a"})
    plan = cluster.plan()
    cluster.apply(plan)
    assert given(cluster) == "a2", "b@1 would be restarted with a@1 while b@2 is down"
    cluster.come_to_rest()
    assert set(cluster.contents().values()) == {"new", "old"}
    assert sorted(cluster.restarted_along) == ["b@1.service", "b@2.service"]


def test_a_step_that_takes_more_than_the_budget_waits_until_the_others_are_available() -> None:
    cluster = RollingCluster(2)
    cluster.request("old", "base.service", fleet="MachineID=m1")
    cluster.request("old", "w@1.service", "w@2.service", fleet="MachineID=m1", unit="Requires=base.service")
    cluster.request("old", "w@3.service", fleet="MachineID=m2", unit="Requires=base.service")
    cluster.come_to_rest()
    cluster.state("w@3.service", "m2", "failed", generation=99)
    cluster.request("new", "base.service", fleet="MachineID=m1")
    cluster.run_leader()
    assert given(cluster) == ""
    cluster.run_agents()
    cluster.come_to_rest()
    assert cluster.contents()["base"] == "new"


def test_what_is_yet_to_be_restarted_along_is_unavailable() -> None:
    cluster = running_pairs(b="Requires=a@N.service")
    texts = pairs(b="Requires=a@N.service", word="new")
    cluster.request_texts({name: text for name, text in texts.items() if name[0] == "a"})
    cluster.run_leader()
    budget = DisruptionBudget(cluster.snapshot, {})
    assert budget.unavailability("b@1.service", "m1") is Unavailability.DISTURBED
    assert budget.unavailability("b@2.service", "m2") is None
    cluster.step("m1", "a@1.service")
    assert DisruptionBudget(cluster.snapshot, {}).unavailability("b@1.service", "m1") is None
    assert "b@1.service" in cluster.changed.units, "the next of its group may be changed now"


def test_an_operation_at_once_has_what_is_restarted_along_counted_until_it_is_reported() -> None:
    cluster = running_pairs(b="Requires=a@N.service")
    cluster.write(UNITS, ("a@1.service",), replace(cluster.snapshot.units["a@1.service"], text=text_of("new")))
    cluster.run_leader()
    texts = pairs(b="Requires=a@N.service", word="new")
    cluster.request_texts({name: text for name, text in texts.items() if name[0] == "b"})
    cluster.run_leader()
    assert given(cluster) == "a1 b1", "the one that is restarted anyway"


def test_a_member_whose_peer_is_paused_for_its_whole_deadline_is_blocked() -> None:
    cluster = running_pairs(a="After=b@N.service")
    cluster.request_texts(pairs(a="After=b@N.service", word="new", fleet="UpdateDeadlineSec=300s"))
    cluster.command(Action.PAUSE, "b@.service")
    for _ in range(5):
        cluster.run_leader()
        cluster.run_agents()
    assert cluster.rollout("a@.service").pause is None
    cluster.come_to_rest()
    assert cluster.rollout("a@.service").pause.cause is PauseCause.BLOCKED
    assert cluster.rollout("a@.service").pause.units == ("b@1.service", "b@2.service")
    for group in ("b@.service", "a@.service"):
        cluster.command(Action.RESUME, group)
        cluster.come_to_rest()
    assert set(cluster.contents().values()) == {"new"}


def test_a_member_waits_for_its_peer_however_long_its_rollout_takes() -> None:
    cluster = running_pairs(a="After=b@N.service")
    cluster.request_texts(pairs(a="After=b@N.service", word="new"))
    cluster.run_leader()
    for _ in range(5):
        cluster.wait(1000.0)
        cluster.run_leader()
    assert (given(cluster), cluster.rollout("a@.service").pause) == ("b1", None)
    cluster.come_to_rest()
    assert set(cluster.contents().values()) == {"new"}


def test_a_job_that_runs_finishes_before_it_is_changed_and_blocks_nothing() -> None:
    cluster = RollingCluster(1)
    oneshot = text_of("old").replace("[Service]", "[Service]\nType=oneshot")
    cluster.request_texts({"job.service": oneshot})
    cluster.come_to_rest()
    state = cluster.snapshot.states["job.service"]["m1"]
    cluster.write(STATES, ("m1", "job.service"), replace(state, active="activating"))
    cluster.request_texts({"job.service": oneshot.replace("old", "new")})
    for _ in range(3):
        cluster.run_leader()
        cluster.wait(1000.0)
    assert (given(cluster), cluster.rollout("job.service").pause) == ("", None)
    cluster.write(STATES, ("m1", "job.service"), replace(state, active="inactive", completed=True))
    cluster.run_leader()
    assert given(cluster) == "jo"


def test_a_loaded_job_is_changed_while_it_runs() -> None:
    cluster = RollingCluster(1)
    oneshot = text_of("old").replace("[Service]", "[Service]\nType=oneshot")
    cluster.request_texts({"job.service": oneshot})
    cluster.write(UNITS, ("job.service",), replace(cluster.snapshot.units["job.service"], target=LOADED))
    cluster.come_to_rest()
    unit = cluster.snapshot.units["job.service"]
    state = replace(cluster.snapshot.states["job.service"]["m1"], active="activating")
    cluster.write(STATES, ("m1", "job.service"), state)
    cluster.write(UNITS, ("job.service",), replace(unit, text=unit.text.replace("old", "new"), rollout="r9"))
    cluster.complete("r9")
    cluster.run_leader()
    assert given(cluster) == "jo"


def test_the_service_of_a_socket_is_restarted_along() -> None:
    cluster = RollingCluster(1)
    socket = "[Socket]\nListenStream=1\n"
    cluster.request_texts({"s.socket": socket})
    cluster.request("old", "s.service", fleet="MachineOf=s.socket")
    cluster.come_to_rest()
    assert cluster.snapshot.restarting_others == {"s.socket": 1}
    cluster.request_texts({"s.socket": socket.replace("1", "2")})
    cluster.run_leader()
    assert cluster.snapshot.placements["s.socket"]["m1"].text != socket
    assert DisruptionBudget(cluster.snapshot, {}).unavailability("s.service", "m1") is Unavailability.DISTURBED
    cluster.come_to_rest()
    assert DisruptionBudget(cluster.snapshot, {}).unavailability("s.service", "m1") is None


def test_a_stopped_unit_is_not_counted_as_restarted_along() -> None:
    cluster = running_pairs(b="Requires=a@N.service")
    cluster.write(UNITS, ("b@1.service",), replace(cluster.snapshot.units["b@1.service"], target=INACTIVE))
    cluster.come_to_rest()
    assert cluster.snapshot.restarting_others == {"a@2.service": 1}
    cluster.write(STATES, ("m1", "b@1.service"), UnitState("loaded", "inactive", "dead"))
    cluster.request_texts({"a@1.service": pairs(word="new")["a@1.service"]})
    cluster.run_leader()
    assert given(cluster) == "a1"


def test_what_comes_first_is_named_but_for_a_cycle() -> None:
    cluster = running_pairs()
    cluster.request_texts(pairs(a="After=b@N.service c.service", b="After=a@N.service", word="new"))
    cluster.run_leader()
    proposal = Proposal(cluster.snapshot, dict.fromkeys(NAMES))
    rolls = {}
    for group in ("a@.service", "b@.service"):
        units = [cluster.snapshot.units[name] for name in sorted(cluster.snapshot.rolling[group])]
        rollout = cluster.rollout(group)
        views = member_views(proposal, rollout, units)
        rolls[group] = GroupRollout(group, units, cluster.snapshot.group_options(group), rollout, rollout, views=views)
    assert JointSteps(proposal, rolls).find_awaited("a@2.service", "m2") == {}
    one_sided = {group: roll for group, roll in rolls.items() if group == "a@.service"}
    assert JointSteps(proposal, one_sided).find_awaited("a@2.service", "m2") == {}
    cluster.request_texts(pairs(a="After=b@N.service", word="newer"))
    proposal = Proposal(cluster.snapshot, dict.fromkeys(NAMES))
    assert JointSteps(proposal, rolls).find_awaited("a@2.service", "m2") == {"b@2.service": None}


def test_a_revert_is_charged_with_what_is_restarted_along() -> None:
    cluster = running_pairs(b="Requires=a@N.service")
    texts = pairs(b="Requires=a@N.service", word="bad")
    cluster.request_texts({name: text for name, text in texts.items() if name[0] == "a"})
    cluster.come_to_rest()
    assert cluster.rollout("a@.service").phase is Phase.REVERTED
    assert set(cluster.contents().values()) == {"old"}
    assert cluster.restarted_along == ["b@1.service", "b@1.service"], "there and back"
