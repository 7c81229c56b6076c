"""plan_adoption: which units a machine adopts after a restore of the store, and which are orphans."""

import msgspec
import pytest

from fleetd.model.content import Content
from fleetd.model.placement import Placement
from fleetd.reconciler.actions import LedgerEntry, Record, Stop, Write
from fleetd.reconciler.after_restore import is_orphan_still, plan_adoption
from fleetd.reconciler.observed import Observed
from fleetd.reconciler.reported_state import report
from tests.unit.reconcile_builder import (
    LAUNCHED,
    LOADED,
    NAME,
    NEW,
    OLD_HASH,
    STOPPED,
    WITHDRAWN,
    entry,
    here,
    kinds,
    placed,
    plan,
)


def test_a_placed_unit_is_adopted_with_the_restored_stores_generation() -> None:
    seen = here("active", hash_=OLD_HASH, entry=entry(generation=90, hash_=OLD_HASH, completed=True))
    adoption = plan_adoption({NAME: placed(LOADED, 3)}, {NAME: seen})
    adopted = LedgerEntry(3, LAUNCHED, OLD_HASH, completed=True, adopted=True)
    assert adoption.entries == {NAME: adopted}
    assert adoption.orphans == ()
    assert plan(placed(LOADED, 3), msgspec.structs.replace(seen, entry=adopted)) == []


def test_a_restore_starts_no_placed_unit_that_is_not_here() -> None:
    adoption = plan_adoption({NAME: placed(generation=3)}, {NAME: Observed()})
    assert plan(placed(generation=3), Observed(entry=adoption.entries[NAME])) == []
    assert kinds(plan(placed(generation=4), Observed(entry=adoption.entries[NAME]))) == ["Write", "Start"]


def test_a_restore_starts_a_unit_that_must_not_run_twice_as_it_was_stopped_everywhere_else() -> None:
    single = Content("[X-Fleet]\nIsolationSec=30s\n")
    placement = msgspec.structs.replace(placed(generation=3), text=single.text)
    adopted = plan_adoption({NAME: placement}, {NAME: Observed()}).entries[NAME]
    assert adopted == LedgerEntry(0, LOADED, "", adopted=True)
    assert kinds(plan(placement, Observed(entry=adopted))) == ["Write", "Start"]
    runs = here("active", hash_=single.hash, entry=entry(generation=90, hash_=single.hash))
    assert plan_adoption({NAME: placement}, {NAME: runs}).entries[NAME].generation == 3
    loaded = msgspec.structs.replace(placement, target=LOADED)
    assert plan_adoption({NAME: loaded}, {NAME: Observed()}).entries[NAME].generation == 3


@pytest.mark.parametrize(
    "seen",
    [
        here("deactivating", job=True, entry=STOPPED),
        here("deactivating", job=True, entry=entry(generation=90, stopped=True)),
        here(entry=STOPPED),
        here(entry=entry(generation=90, stopped=True)),
        here("failed", entry=entry(generation=90, stopped=True)),
        here("inactive", entry=entry(generation=90, issued=False)),  # systemd refuses to start it
    ],
)
def test_a_unit_that_is_stopped_or_not_started_at_a_restore_is_held_as_that(seen: Observed) -> None:
    adopted = plan_adoption({NAME: placed(generation=3)}, {NAME: seen}).entries[NAME]
    assert adopted == entry(LOADED, 3, adopted=True)
    at_rest = here(entry=adopted)
    assert plan(placed(generation=3), at_rest) == []
    state = report(placed(generation=3), at_rest)
    assert state is not None
    assert "held as it was" in state.error


@pytest.mark.parametrize(
    "seen",
    [
        here("deactivating", entry=entry(generation=90)),  # it stops by itself
        here("deactivating", job=True, entry=entry(generation=90, issued=False)),  # it is to start again
        here("active", entry=entry(generation=90, stopped=True)),  # fleetd ended before systemd received the stop
        here("inactive", entry=entry(generation=90)),
        here("failed", entry=entry(generation=90)),
    ],
)
def test_a_unit_not_being_stopped_at_a_restore_is_adopted_as_launched(seen: Observed) -> None:
    adopted = plan_adoption({NAME: placed(generation=3)}, {NAME: seen}).entries[NAME]
    assert adopted == entry(LAUNCHED, 3, adopted=True)


@pytest.mark.parametrize("placement", [None, WITHDRAWN])
def test_a_running_unit_that_the_restored_store_does_not_want_is_an_orphan(placement: Placement | None) -> None:
    seen = here("active", entry=entry(generation=90))
    adoption = plan_adoption({NAME: placement} if placement else {}, {NAME: seen})
    assert (adoption.orphans, adoption.unwanted) == ((NAME,), (NAME,))
    taken_over = msgspec.structs.replace(seen, entry=adoption.entries[NAME])
    assert kinds(plan(placed(generation=4), taken_over)) == ["Record"], "its lost generation must not count"


def test_one_that_was_to_go_while_the_machine_was_away_is_no_orphan_and_is_not_wanted() -> None:
    adoption = plan_adoption({NAME: WITHDRAWN}, {NAME: here("active", entry=entry(generation=90))}, is_late=True)
    assert (adoption.orphans, adoption.unwanted) == ((), (NAME,))


@pytest.mark.parametrize("seen", [here(), Observed(), here("active", hash_="")])
def test_an_inactive_unit_or_one_not_ours_is_no_orphan(seen: Observed) -> None:
    adoption = plan_adoption({}, {NAME: seen})
    assert (adoption.orphans, adoption.unwanted) == ((), ())


def test_generations_of_inactive_units_do_not_count_after_a_restore() -> None:
    seen = here("inactive", entry=entry(generation=90))
    taken_over = msgspec.structs.replace(seen, entry=plan_adoption({}, {NAME: seen}).entries[NAME])
    assert kinds(plan(placed(generation=4), taken_over)) == ["Start"]


def test_a_unit_of_the_machines_own_is_not_adopted_at_a_restore() -> None:
    seen = Observed(load="loaded", active="active", refusal="it would shadow one of the system")
    adoption = plan_adoption({NAME: placed(generation=3)}, {NAME: seen})
    assert (adoption.entries, adoption.orphans) == ({}, ())


@pytest.mark.parametrize("active", ["active", "inactive"])
def test_a_unit_without_our_file_or_entry_is_neither_adopted_nor_stopped(active: str) -> None:
    """An operator submitted a unit with the name of a mount of the machine, and fleet unmounted /tmp."""
    seen = here(active, hash_="")
    adoption = plan_adoption({NAME: placed(generation=3)}, {NAME: seen})
    assert (adoption.entries, adoption.orphans) == ({}, ())
    assert plan(WITHDRAWN, seen) == []


def test_a_machines_own_unit_is_not_stopped_with_one_held_at_a_restore() -> None:
    adopted = plan_adoption({NAME: placed(generation=3)}, {NAME: Observed()}).entries[NAME]
    assert kinds(plan(WITHDRAWN, here("active", hash_="", entry=adopted))) == ["Remove"]


def test_a_unit_whose_file_was_deleted_is_stopped_before_it_is_forgotten() -> None:
    seen = here("active", hash_="", entry=entry())
    [step] = plan(WITHDRAWN, seen)
    assert isinstance(step, Stop)
    assert kinds(plan(WITHDRAWN, here("active", hash_="", entry=step.entry))) == ["Stop"]


def test_a_oneshot_completed_before_a_reboot_is_recorded_and_not_started() -> None:
    placement = msgspec.structs.replace(placed(), completed=True)
    done = entry(completed=True)
    assert plan(placement, Observed()) == [
        Write(NAME, "placed on this machine", Content(NEW)),
        Record(NAME, "the oneshot has completed before", done),
    ]


def test_an_orphan_is_forgotten_when_it_stops_or_its_name_is_placed() -> None:
    assert is_orphan_still(None, here("active"))
    assert is_orphan_still(WITHDRAWN, here("active"))
    assert not is_orphan_still(None, here("failed"))
    assert not is_orphan_still(placed(), here("active"))
