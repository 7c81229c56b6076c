"""What members had before a rollout, where no placement and no record of a rollout says it plainly."""

from fleetd.model.machine import Cordon, DrainRequest, MachineSettings
from fleetd.model.rollout import Action
from fleetd.registry.records import ROLLOUTS, SETTINGS
from tests.unit.rolling_cluster import GROUP, rolling_group, word_of
from tests.unit.test_rollout_controller import MEMBERS, all_run


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
