"""A cluster's limits: by how much a change lets it grow, and the error beyond a limit."""

import pytest

from fleetd.model.content import Content, DropIn
from fleetd.model.quota import Usage, measure_growth, refuse_growth
from fleetd.model.unit import TargetState, Unit
from fleetd.scheduler.affected import set_unit, set_usage
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
def test_only_growth_counts(before: Content | None, after: Content | None, growth: Usage) -> None:
    assert measure_growth(before, after) == growth


def test_a_change_up_to_the_limits_is_accepted() -> None:
    assert refuse_growth(Usage(9, 90), Usage(1, 10), Usage(10, 100)) == ""


def test_units_beyond_the_limits_may_change_without_growing() -> None:
    assert refuse_growth(Usage(20, 200), Usage(), Usage(10, 100)) == ""
    assert refuse_growth(Usage(20, 50), Usage(0, 1), Usage(10, 100)) == ""


def test_an_error_names_the_limit_and_the_remedy() -> None:
    remedy = "destroy what is not needed, or raise it with `fleetctl settings set`"
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
