"""How much a cluster may hold: what a change makes it grow by, and what is said where that is too much."""

import pytest

from fleetd.model.content import Content, DropIn
from fleetd.model.quota import Usage, measure_growth, refuse_growth
from fleetd.model.unit import TargetState, Unit
from fleetd.scheduler.impact import set_unit, set_usage
from fleetd.scheduler.snapshot import Snapshot


@pytest.mark.parametrize(
    ("before", "after", "growth"),
    [
        (None, Content("abc"), Usage(1, 3)),
        (None, Content("ä"), Usage(1, 2)),
        (None, Content(""), Usage(1, 0)),
        (Content("abc"), Content("abcd"), Usage(0, 1)),
        (Content("abc"), Content("abc"), Usage()),
        (Content("abc"), Content("a"), Usage()),
        (Content("abc"), None, Usage()),
        (Content("abc"), Content("abc", (DropIn("é", "ä"),)), Usage(0, 4)),
    ],
)
def test_what_becomes_larger_counts(before: Content | None, after: Content | None, growth: Usage) -> None:
    assert measure_growth(before, after) == growth


def test_up_to_the_bounds_all_is_well() -> None:
    assert refuse_growth(Usage(9, 90), Usage(1, 10), Usage(10, 100)) == ""


def test_what_is_over_the_bounds_may_still_change_without_growing() -> None:
    assert refuse_growth(Usage(20, 200), Usage(), Usage(10, 100)) == ""
    assert refuse_growth(Usage(20, 50), Usage(0, 1), Usage(10, 100)) == ""


def test_beyond_them_the_bound_and_the_remedy_are_named() -> None:
    remedy = "destroy what is not needed, or raise it in fleet.conf on every machine"
    assert refuse_growth(Usage(10, 0), Usage(1, 5), Usage(10, 100)) == (
        f"the cluster has 10 units, and max_units=10 of them are allowed: {remedy}"
    )
    assert refuse_growth(Usage(1, 96), Usage(1, 5), Usage(10, 100)) == (
        f"the unit files of the cluster have 96 bytes together, and max_units_bytes=100 are allowed: {remedy}"
    )


def test_a_snapshot_counts_units_and_bytes() -> None:
    snapshot = Snapshot()
    assert snapshot.usage is None
    for name, text in (("a.service", "abc"), ("b.service", "ää"), ("a.service", "x")):
        set_unit(snapshot, name, Unit(name, text, TargetState.INACTIVE))
    assert snapshot.measure_usage() == Usage(2, 5)
    set_unit(snapshot, "b.service", None)
    set_unit(snapshot, "c.service", None)
    assert snapshot.measure_usage() == Usage(1, 1)
    set_usage(snapshot, Usage(1, 1))
    assert snapshot.usage == snapshot.measure_usage()
