"""model/event: the names of records, and which of them are dropped."""

from hypothesis import given
from hypothesis import strategies as st

from fleetd.model.event import (
    KEPT_BYTES,
    KEPT_S,
    StoredRecord,
    first_name_at,
    pick_outdated,
    record_name,
)

NOW = 1_800_000_000.0
TIMES = st.floats(0, 4e9)


def stored(*ages_s: float, size: int = 100) -> list[StoredRecord]:
    return [StoredRecord(record_name(NOW - age_s, f"u{number}"), size) for number, age_s in enumerate(ages_s)]


@given(TIMES, TIMES)
def test_names_are_in_the_order_of_times(one: float, other: float) -> None:
    if int(one * 1000) < int(other * 1000):
        assert record_name(one, "z") < first_name_at(other) < record_name(other, "a")


def test_a_record_of_a_clock_before_1970_has_the_first_name() -> None:
    assert record_name(-5.0, "u") == record_name(0.0, "u")


def test_what_is_older_than_seven_days_is_dropped() -> None:
    old, kept = stored(KEPT_S + 1, KEPT_S - 1)
    assert pick_outdated([old, kept], 200, NOW) == (old.name,)


def test_nothing_is_dropped_of_what_is_young_and_fits() -> None:
    assert pick_outdated(stored(3.0, 2.0), KEPT_BYTES, NOW) == ()
    assert pick_outdated([], 0, NOW) == ()


def test_the_oldest_are_dropped_until_the_rest_fits() -> None:
    records = stored(3.0, 2.0, 1.0)
    assert pick_outdated(records, KEPT_BYTES + 101, NOW) == (records[0].name, records[1].name)


def test_all_are_dropped_if_more_than_they_must_go() -> None:
    records = stored(3.0, 2.0)
    assert pick_outdated(records, KEPT_BYTES + 1000, NOW) == tuple(record.name for record in records)
