"""The state of an allocation: the whole table of placement, report and machine."""

import itertools

import pytest

from fleetd.model.placement import Placement
from fleetd.model.unit import UnitState
from fleetd.scheduler.allocation_state import AllocationState as State
from fleetd.scheduler.allocation_state import Presence, classify
from tests.unit.cluster_builder import INACTIVE, LAUNCHED, A

PLACEMENTS = {
    "": None,
    "active": Placement("m", A, "", LAUNCHED, 2),
    "withdrawn": Placement("m", A, "", INACTIVE, 2),
    "superseded": Placement("m", A, "", LAUNCHED, 2, superseded=True),
    "preparing": Placement("m", A, "", INACTIVE, 2, prepares=True),
    "declined": Placement("m", A, "", INACTIVE, 2, declined=True),
}
REPORTS = {
    "": None,
    "runs": UnitState("loaded", "active", "running", "", LAUNCHED, 2),
    "orphan": UnitState("loaded", "active", "running", "", LAUNCHED, 0, orphan=True),
    "ended": UnitState("loaded", "failed", "failed", "", LAUNCHED, 2),
    "removed before": UnitState("not-found", "inactive", "dead", "", INACTIVE, 1),
    "removed": UnitState("not-found", "inactive", "dead", "", INACTIVE, 2),
}
REGISTERED, AWAY, DEAD = Presence.REGISTERED, Presence.AWAY, Presence.DEAD
ANY = (REGISTERED, AWAY, DEAD)

# The first row that matches gives the state; "*" matches any placement or report.
TABLE = [
    # placement, reports, presences, is to run, state
    ("declined", "*", ANY, None, State.DECLINED),
    ("preparing", "*", [REGISTERED, AWAY], None, State.PREPARING),
    ("preparing", "*", [DEAD], None, State.LOST),
    ("withdrawn", ["removed"], ANY, None, State.STOPPED),
    ("active", "*", [DEAD], None, State.LOST),
    ("withdrawn", "*", [DEAD], None, State.LOST),
    ("superseded", "*", [DEAD], None, State.LOST),
    ("withdrawn", ["orphan"], ANY, True, State.ORPHANED),
    ("withdrawn", "*", ANY, None, State.STOPPING),
    ("superseded", "*", ANY, None, State.SUPERSEDED),
    ("active", "*", ANY, None, State.ASSIGNED),
    ("", ["runs", "orphan"], [AWAY, DEAD], None, State.RETURNING),
    ("", ["orphan"], [REGISTERED], False, State.LEFT_RUNNING),
    ("", ["runs", "orphan"], [REGISTERED], None, State.STRAY),
    ("", ["removed before", "removed"], [REGISTERED], None, State.UNCONFIRMED),
    ("", "*", ANY, None, State.ABSENT),
]


def expected(placement: str, report: str, presence: Presence, is_to_run: bool) -> State:
    return next(
        state
        for placed, reports, presences, to_run, state in TABLE
        if placed == placement
        and (reports == "*" or report in reports)
        and presence in presences
        and to_run in (None, is_to_run)
    )


@pytest.mark.parametrize(
    ("placement", "report", "presence", "is_to_run"),
    list(itertools.product(PLACEMENTS, REPORTS, Presence, (True, False))),
)
def test_an_allocation_has_the_state_of_the_first_row_that_matches(
    placement: str, report: str, presence: Presence, is_to_run: bool
) -> None:
    state = classify(PLACEMENTS[placement], REPORTS[report], presence, is_to_run=is_to_run)
    assert state is expected(placement, report, presence, is_to_run)


def test_every_row_of_the_table_is_reached() -> None:
    reached = {expected(*case) for case in itertools.product(PLACEMENTS, REPORTS, Presence, (True, False))}
    assert reached == set(State)
