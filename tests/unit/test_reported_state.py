"""report: what a machine publishes of a unit."""

import msgspec
import pytest

from fleetd.model.job_result import WAITS_FOR_LOCK
from fleetd.model.placement import Placement
from fleetd.model.unit import UnitState
from fleetd.reconciler.actions import LedgerEntry
from fleetd.reconciler.observed import Observed
from fleetd.reconciler.reported_state import report
from tests.unit.reconcile_builder import (
    LAUNCHED,
    LOADED,
    NEW_HASH,
    OLD,
    STOPPED,
    WITHDRAWN,
    entry,
    here,
    placed,
)


@pytest.mark.covers("6.3.4")
def test_a_completed_action_is_reported_with_systemds_words() -> None:
    seen = here("active", sub="running", entry=entry(completed=True))
    expected = UnitState("loaded", "active", "running", NEW_HASH, LAUNCHED, 5, completed=True)
    assert report(placed(generation=6), seen) == expected


def test_a_unit_is_reported_gone_when_nothing_is_left_of_it() -> None:
    gone = UnitState("not-found", "inactive", "dead", generation=5)
    assert report(WITHDRAWN, Observed()) == gone
    still_here = report(WITHDRAWN, here("deactivating", entry=STOPPED))
    assert still_here is not None
    assert (still_here.target, still_here.generation, still_here.hash) == (LOADED, 0, NEW_HASH)


@pytest.mark.covers("6.3.5")
def test_nothing_is_reported_without_a_unit_and_a_placement() -> None:
    assert report(None, Observed()) is None
    assert report(None, here("active", hash_="")) is None


def test_a_machine_that_gets_what_a_unit_needs_says_when_it_has_it() -> None:
    order = msgspec.structs.replace(placed(), prepares=True)
    assert report(order, Observed()) == UnitState("not-found", "inactive", "dead")
    note = "cannot get the image reg.example/hello"
    assert report(order, Observed(), note=note) == UnitState("not-found", "inactive", "dead", note=note)
    ready = UnitState("not-found", "inactive", "dead", prepared=NEW_HASH)
    assert report(order, Observed(), is_prepared=True) == ready
    own = report(
        order, here("active", hash_="", refusal="it would shadow /lib/x", obstacle="has /lib/x"), is_prepared=True
    )
    assert own == UnitState("not-found", "inactive", "dead", error="it would shadow /lib/x", refusal="has /lib/x")


def test_a_refused_unit_is_reported_without_the_state_of_the_machines_own() -> None:
    state = report(placed(), here("active", hash_="", refusal="it would shadow /lib/x"))
    assert state == UnitState("not-found", "inactive", "dead", error="it would shadow /lib/x")


def test_a_unit_that_waits_for_its_lock_is_reported_as_such() -> None:
    note = "waits for lock db, held by backup"
    state = report(placed(), here(sub="dead"), result=WAITS_FOR_LOCK, note=note)
    assert state is not None
    assert (state.active, state.sub, state.result, state.note) == ("inactive", "lock-wait", WAITS_FOR_LOCK, note)
    busy = report(placed(), here("active", sub="running"), result=WAITS_FOR_LOCK)
    assert busy is not None
    assert busy.sub == "running"


@pytest.mark.covers("10.7.10")
def test_a_refused_start_is_not_reported_as_carried_out() -> None:
    state = report(placed(), here(entry=entry(issued=False)), error="refused")
    assert state is not None
    assert (state.target, state.generation, state.error) == (LOADED, 0, "refused")


@pytest.mark.parametrize(
    ("placement", "adopted", "said"),
    [
        (placed(LOADED), entry(adopted=True), True),
        (placed(text=OLD), entry(adopted=True), True),
        (placed(), entry(adopted=True), False),
        (placed(generation=6, text=OLD), entry(adopted=True), False),
        (placed(text=OLD), entry(), False),
    ],
)
def test_a_unit_held_since_a_restore_reports_that_it_differs(
    placement: Placement, adopted: LedgerEntry, said: bool
) -> None:
    state = report(placement, here("active", entry=adopted))
    assert state is not None
    assert ("held as it was" in state.error) is said
    with_error = report(placement, here("active", entry=adopted), error="refused")
    assert with_error is not None
    assert with_error.error == "refused"


def test_an_orphan_is_reported_with_the_remedy() -> None:
    state = report(None, here("active", entry=entry(generation=0, adopted=True)), orphan=True)
    assert state is not None
    assert "submit a unit of this name" in state.error
    failing = report(None, here("active", entry=entry()), orphan=True, error="refused")
    assert failing is not None
    assert failing.error == "refused"
