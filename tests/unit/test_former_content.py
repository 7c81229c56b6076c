"""What was before a rollout: the contents of its members, and what became of those before it."""

from fleetd.model.machine import Cordon, DrainRequest, MachineSettings
from fleetd.model.rollout import Action, Outcome, PastRollout
from fleetd.model.unit import Unit
from fleetd.registry.records import ROLLOUTS, SETTINGS, UNITS
from tests.unit.cluster_builder import LAUNCHED
from tests.unit.rolling_cluster import GROUP, MEMBERS, all_run, rolling_group, text_of, word_of


def test_a_member_that_moves_when_the_rollout_begins_has_its_own_former_content() -> None:
    cluster = rolling_group()
    cluster.request("own", MEMBERS[2])
    cluster.come_to_rest()
    machine = cluster.snapshot.assigned_machine(MEMBERS[2])
    cluster.write(SETTINGS, (machine,), MachineSettings(cordon=Cordon(), drain=DrainRequest(at=1.0)))
    cluster.run_leader()
    assert cluster.snapshot.placements[MEMBERS[2]][machine].is_withdrawn
    cluster.request("bad", *MEMBERS)
    cluster.run_leader()
    record = cluster.rollout()
    assert [word_of(record.contents[each.content]) for each in record.former] == ["old", "old", "own"]


def test_a_group_that_was_reverted_destroyed_and_made_again_runs_nothing_of_before() -> None:
    cluster = rolling_group()
    cluster.request("bad", *MEMBERS)
    cluster.come_to_rest()
    for name in MEMBERS:
        cluster.destroy(name)
    cluster.come_to_rest()
    cluster.request("new", *MEMBERS, fleet="UpdateCanary=1")
    cluster.come_to_rest()
    assert cluster.contents() == all_run("new")


def test_members_keep_their_content_when_the_record_of_their_rollout_is_lost() -> None:
    cluster = rolling_group()
    cluster.request("new", *MEMBERS)
    cluster.run_leader()
    cluster.command(Action.PAUSE)
    cluster.come_to_rest()
    assert cluster.contents() == all_run("old") | {"w@1": "new"}
    cluster.write(ROLLOUTS, (GROUP,), None)
    cluster.run_leader()
    record = cluster.rollout()
    assert [word_of(record.contents[each.content]) for each in record.former] == ["new", "old", "old"]
    cluster.come_to_rest()
    assert cluster.contents() == all_run("old") | {"w@1": "new"}
    assert cluster.rollout().pause is not None, "what the operator said holds for the new record, too"


def test_a_rollout_keeps_what_became_of_those_before_it() -> None:
    cluster = rolling_group()
    cluster.request("bad", *MEMBERS)
    cluster.come_to_rest()
    cluster.request("new", *MEMBERS)
    cluster.run_leader()
    cluster.request("newer", *MEMBERS)
    cluster.run_leader()
    cluster.command(Action.PAUSE)
    cluster.come_to_rest()
    last = [cluster.request(word, *MEMBERS) for word in ("newest",)]
    cluster.come_to_rest()
    found = [past.outcome for past in cluster.rollout().past]
    assert found == [Outcome.DONE, Outcome.REVERTED, Outcome.REPLACED, Outcome.PAUSED]
    for number in range(10):
        last.append(cluster.request(f"x{number}", *MEMBERS))
        cluster.come_to_rest()
    assert cluster.rollout().past == tuple(PastRollout(id_, Outcome.DONE) for id_ in last[:-1]), "the last ten"


def test_a_request_that_is_begun_anew_is_not_among_its_own_past() -> None:
    cluster = rolling_group()
    cluster.request("bad", *MEMBERS[:2], complete=False)
    cluster.run_leader()
    unit = Unit(MEMBERS[2], text_of("bad"), LAUNCHED, rollout="r2")
    cluster.write(UNITS, (unit.name,), unit)
    cluster.complete("r2")
    cluster.come_to_rest()
    assert cluster.rollout().past == (PastRollout("r1", Outcome.DONE),)
    cluster.request("new", *MEMBERS)
    cluster.come_to_rest()
    assert cluster.rollout().past[1:] == (PastRollout("r2", Outcome.REVERTED),)
