"""What one machine decides about units that must not run while it is cut off, and the drop-in that it gives them."""

import math

import pytest

from fleetd.model.confinement import confined, is_confined
from fleetd.model.content import Content, DropIn
from fleetd.model.isolation import NOT_ISOLATED, IsolationOptions, UnitLock
from fleetd.model.isolation_dropin import DROPIN_NAME, find_isolating, isolating_dropins, without_isolating
from fleetd.model.unit import TargetState
from fleetd.reconciler.actions import Action, LedgerEntry, Record, Remove, Restart, Start, Stop, Write
from fleetd.reconciler.isolation import admit, as_not_started, isolation_deadline_s, stop_unlocked
from fleetd.reconciler.observed import Observed

WEB, DB, APP = "web.service", "db.service", "app.service"
SINGLE = IsolationOptions(30.0, is_single=True)
LOCKED = IsolationOptions(20.0, lock=UnitLock("db"))
BOTH = IsolationOptions(20.0, is_single=True, lock=UnitLock("db"))
LAUNCHED = LedgerEntry(5, TargetState.LAUNCHED, "h")


@pytest.mark.parametrize(
    ("units", "locked_s", "expected"),
    [
        ({}, {}, math.inf),
        ({WEB: SINGLE}, {}, 130.0),
        ({WEB: LOCKED}, {}, math.inf),
        ({WEB: LOCKED}, {WEB: 90.0}, 110.0),
        ({WEB: BOTH}, {WEB: 99.0}, 119.0),
        ({WEB: BOTH, DB: SINGLE}, {WEB: 120.0}, 120.0),
    ],
)
def test_the_first_unit_that_has_to_be_stopped_says_when(
    units: dict[str, IsolationOptions], locked_s: dict[str, float], expected: float
) -> None:
    assert isolation_deadline_s(units, 100.0, locked_s) == expected


def start(name: str) -> Start:
    return Start(name, "wanted", LAUNCHED)


def test_a_unit_is_started_only_where_the_machine_is_open_and_holds_its_lock() -> None:
    asked = {WEB: SINGLE, DB: LOCKED, APP: NOT_ISOLATED}
    write = Write(DB, "wanted", Content("x"))
    plan: list[Action] = [Stop(WEB, "", None), write, start(APP), start(DB), Restart(WEB, "", LAUNCHED)]
    closed = admit(plan, asked.__getitem__, lambda options: False, ())
    assert closed.plan == (plan[0], write, start(APP))
    assert (closed.leased, closed.waiting) == ((DB,), ())
    waiting = admit(plan, asked.__getitem__, lambda options: True, ())
    assert waiting.plan == (plan[0], write, start(APP), plan[4])
    assert (waiting.leased, waiting.waiting) == ((DB, WEB), (DB,))
    held = admit(plan, asked.__getitem__, lambda options: True, (DB,))
    assert held.plan == tuple(plan)


def test_what_runs_without_its_lock_is_stopped_and_nothing_else_is_done_with_it() -> None:
    units = {WEB: LOCKED, DB: LOCKED, APP: SINGLE}
    running = Observed(hash="h", load="loaded", active="active", entry=LAUNCHED)
    observed = {
        WEB: running,
        DB: running,
        APP: running,
        "other.service": running,
    }
    plan = stop_unlocked([Record(WEB, "", LAUNCHED), start(APP)], observed, units, (DB,))
    assert plan == (Stop(WEB, "this machine does not hold its lock", as_not_started(LAUNCHED)), start(APP))
    stopping = Observed(hash="h", load="loaded", active="deactivating", entry=LAUNCHED)
    assert stop_unlocked([Record(WEB, "", LAUNCHED)], {WEB: stopping}, units, ()) == ()
    at_rest = Observed(hash="h", load="loaded", entry=LAUNCHED)
    foreign = Observed(load="loaded", active="active", refusal="its own")
    removal = (Remove(WEB, ""),)
    assert stop_unlocked(removal, {WEB: at_rest, DB: foreign}, units, ()) == removal
    unknown = Observed(hash="h", load="loaded", active="active")
    assert stop_unlocked((), {WEB: unknown}, units, ()) == (Stop(WEB, "this machine does not hold its lock", None),)


def test_only_what_was_to_run_is_carried_out_anew() -> None:
    again = as_not_started(LAUNCHED)
    assert (again.generation, again.stopped) == (0, True)
    loaded = LedgerEntry(5, TargetState.LOADED, "h")
    completed = LedgerEntry(5, TargetState.LAUNCHED, "h", completed=True)
    assert as_not_started(loaded) is loaded
    assert as_not_started(completed) is completed


def test_the_drop_in_is_found_again_in_what_is_written() -> None:
    own = DropIn("10-own.conf", "[Service]\nNice=1\n")
    content = Content("[Service]\nExecStart=/bin/x\n[X-Fleet]\nLock=db\n", (own,))
    [dropin] = isolating_dropins(WEB, content)
    assert dropin.name == DROPIN_NAME
    assert dropin.text.splitlines()[1:] == [
        "Conflicts=fleet-isolated.target",
        "ConditionPathExists=!%t/fleet/isolation/isolated",
        f"ConditionPathExists=%t/fleet/isolation/permits/{WEB}",
    ]
    [without_lock] = isolating_dropins(WEB, Content("[Service]\nExecStart=/bin/x\n[X-Fleet]\nIsolationSec=30\n"))
    assert without_lock.text.splitlines() == dropin.text.splitlines()[:-1]
    written = Content(content.text, (*confined(WEB, content).dropins, dropin))
    assert is_confined(WEB, without_isolating(WEB, written))
    assert without_isolating(WEB, Content(content.text, (own, dropin))) == content
    assert without_isolating(WEB, content) == content
    assert without_isolating(WEB, Content("[Service]\n")) == Content("[Service]\n")
    other = Content(content.text, (DropIn(DROPIN_NAME, "[Unit]\n"),))
    assert without_isolating(WEB, other) == other
    assert list(find_isolating([(WEB, content), (DB, Content("[Service]\n"))])) == [WEB]
