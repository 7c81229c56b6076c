"""UpdateAction=: what changed content does to a unit that runs, instead of what its options need."""

import msgspec
import pytest

from fleetd.model.group import UpdateAction
from fleetd.model.placement import Placement
from fleetd.model.unit import TargetState
from fleetd.model.unitfile import hash_unit_file
from fleetd.reconciler.actions import Reload, Write
from tests.unit.reconcile_builder import (
    LAUNCHED,
    LOADED,
    NEW,
    NEW_HASH,
    OLD,
    OLD_HASH,
    entry,
    here,
    kinds,
    placed,
    plan,
)
from tests.unit.rolling_cluster import RollingCluster

AUTO, RESTART, RELOAD, NONE = UpdateAction
LIMITED = OLD + "MemoryMax=10M\n"


def changed(action: UpdateAction, target: TargetState = LAUNCHED, text: str = NEW) -> Placement:
    """The placement with changed content, of a later generation."""
    return msgspec.structs.replace(placed(target, 6, text), update=action)


def running(hash_: str = OLD_HASH, target: TargetState = LAUNCHED, **more):
    return here("active", hash_=hash_, content={"text": OLD}, entry=entry(target, 5, OLD_HASH), **more)


@pytest.mark.parametrize(
    ("action", "text", "expected"),
    [
        (AUTO, NEW, "Write Restart"),
        (AUTO, LIMITED, "Write Reload"),
        (RESTART, LIMITED, "Write Restart"),
        (RESTART, f"# a remark\n{OLD}", "Write Restart"),
        (RELOAD, NEW, "Write Reload"),
        (RELOAD, f"# a remark\n{OLD}", "Write Reload"),
        (NONE, NEW, "Write Reload"),
        (NONE, LIMITED, "Write Reload"),
    ],
)
def test_a_unit_that_runs_is_changed_as_its_update_action_says(action: UpdateAction, text: str, expected: str) -> None:
    actions = plan(changed(action, text=text), running())
    assert kinds(actions) == expected.split()
    reloads = [action.reloads_unit for action in actions if isinstance(action, Reload)]
    assert reloads == ([action is RELOAD] if reloads else [])


@pytest.mark.parametrize("action", [RELOAD, NONE])
def test_what_is_not_restarted_for_its_content_is_restarted_when_somebody_asks(action: UpdateAction) -> None:
    asked = msgspec.structs.replace(changed(action), restart_of=5)
    assert kinds(plan(asked, running())) == ["Write", "Restart"]


@pytest.mark.parametrize("action", [RELOAD, NONE])
def test_a_fleetd_that_is_killed_before_the_reload_makes_it_afterwards(action: UpdateAction) -> None:
    write = next(each for each in plan(changed(action), running()) if isinstance(each, Write))
    after = here("active", entry=write.entry)
    (again,) = plan(changed(action), after)
    assert isinstance(again, Reload)
    assert again.reloads_unit is (action is RELOAD)
    assert (again.entry.generation, again.entry.hash, again.entry.reload) == (6, NEW_HASH, False)
    assert not again.entry.reloads_unit
    later = msgspec.structs.replace(write.entry, generation=6, hash=NEW_HASH)
    (again,) = plan(changed(action), here("active", entry=later))
    assert isinstance(again, Reload)
    assert (again.reloads_unit, again.entry.reloads_unit) == (action is RELOAD, False)


@pytest.mark.parametrize(
    ("action", "expected"), [(AUTO, "Stop"), (RESTART, "Stop"), (RELOAD, "Write Reload"), (NONE, "Write Reload")]
)
def test_a_loaded_unit_that_its_socket_started_runs_on_with_reload_and_none(
    action: UpdateAction, expected: str
) -> None:
    assert kinds(plan(changed(action, LOADED), running(target=LOADED))) == expected.split()
    assert kinds(plan(changed(action, LOADED), running(target=LAUNCHED))) == ["Stop"], "it is not to run any more"
    as_before = msgspec.structs.replace(placed(LOADED, 6, OLD), update=action)
    assert kinds(plan(as_before, running(target=LOADED))) == ["Stop"], "somebody asks for it to be stopped"


def test_the_placement_names_the_action_of_the_template_for_changed_content_alone() -> None:
    cluster = RollingCluster(1)
    names = ("w@1.service", "w@.service")
    cluster.request("one", *names, fleet="UpdateAction=none")
    cluster.settle()
    assert cluster.snapshot.placements["w@1.service"]["m1"].update is AUTO, "it is new"
    cluster.request("two", *names, fleet="UpdateAction=reload")
    cluster.settle()
    placement = cluster.snapshot.placements["w@1.service"]["m1"]
    assert (placement.update, hash_unit_file(placement.text)) == (RELOAD, placement.content.hash)
    cluster.restart("w@1.service")
    cluster.settle()
    assert cluster.snapshot.placements["w@1.service"]["m1"].update is RELOAD, "it may not have been carried out yet"
    cluster.request("three", *names)
    cluster.settle()
    assert cluster.snapshot.placements["w@1.service"]["m1"].update is AUTO
