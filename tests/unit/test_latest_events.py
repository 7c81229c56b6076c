"""registry/latest_events: the newest records of events, within a bound, whatever else there is."""

from functools import partial
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from fleetd.model.event import ClusterEvent, EventKind
from fleetd.registry.events import EventLog
from fleetd.registry.latest_events import PAGE_KEYS, LatestEvents, read_latest
from fleetd.registry.records import EVENTS
from fleetd.registry.registry import Registry
from fleetd.store.embedded import EmbeddedStore, inline
from fleetd.store.protocol import RangeResult

NOW = 1_800_000_000.0
DAY_S = 24 * 3600.0


class CountingStore(EmbeddedStore):
    """Counts the bytes that are read."""

    read = 0
    requests = 0

    async def range(self, prefix: str, **options: Any) -> RangeResult:
        found = await super().range(prefix, **options)
        self.read += sum(len(item.value) for item in found.items)
        self.requests += 1
        return found


async def registry_with(*ages_s: float) -> Registry:
    """Records of these ages, written in this order."""
    registry = Registry(CountingStore(":memory:", offload=inline))
    for number, age_s in enumerate(ages_s):
        log = EventLog(registry, partial(float, NOW - age_s), partial(str, f"w{number}"))
        write_set = log.write_set([ClusterEvent(EventKind.PLACED, "a.service", f"{age_s:g}")])
        await registry.store.transact(write_set.comparisons, write_set.operations)
    return registry


def ages(found: LatestEvents) -> list[str]:
    return [event.machine for item in found.items for event in EVENTS.decode(item).events]


async def test_all_are_read_in_the_order_in_which_they_were_written_while_they_are_few() -> None:
    registry = await registry_with(6 * DAY_S, 2 * DAY_S, 3 * DAY_S, 60.0, -3600.0, 0.0)
    found = await read_latest(registry, NOW)
    assert ages(found) == ["518400", "172800", "259200", "60", "-3600", "0"]
    assert found.is_all
    assert registry.store.requests == 3  # type: ignore[attr-defined]


async def test_nothing_is_found_where_nothing_has_happened() -> None:
    assert await read_latest(await registry_with(), NOW) == LatestEvents((), is_all=True)
    assert await read_latest(await registry_with(), 0.0) == LatestEvents((), is_all=True)


async def test_only_the_newest_are_kept_of_more_than_the_bound_takes() -> None:
    registry = await registry_with(*(float(age) for age in range(50, 0, -1)))
    size = sum(len(item.value) for item in (await read_latest(registry, NOW)).items)
    found = await read_latest(registry, NOW, most_bytes=size // 2)
    assert ages(found) == [str(age) for age in range(len(found.items), 0, -1)]
    assert 20 <= len(found.items) <= 25
    assert not found.is_all


async def test_many_more_old_ones_are_not_read() -> None:
    registry = await registry_with(*(DAY_S + 10.0 * number for number in range(20 * PAGE_KEYS, 0, -1)), 5.0, 4.0)
    store = registry.store
    assert isinstance(store, CountingStore)
    await store.range("/fleet.archive/events/")
    whole, store.read, store.requests = store.read, 0, 0
    found = await read_latest(registry, NOW, most_bytes=whole // 40)
    assert ages(found)[-2:] == ["5", "4"]
    assert ages(found)[-3] == "86410"
    assert store.read < whole // 4
    assert store.requests < 60


async def test_more_than_a_page_within_one_millisecond_are_read() -> None:
    registry = Registry(EmbeddedStore(":memory:", offload=inline))
    log = EventLog(registry, lambda: NOW, lambda: "w")
    for number in range(PAGE_KEYS + 5):
        write_set = log.write_set([ClusterEvent(EventKind.PLACED, "a.service", str(number))])
        await registry.store.transact(write_set.comparisons, write_set.operations)
    found = await read_latest(registry, NOW)
    assert ages(found) == [str(number) for number in range(PAGE_KEYS + 5)]
    assert found.is_all


@given(st.lists(st.floats(-3600.0, 7 * DAY_S), max_size=30), st.integers(0, 4000))
async def test_what_is_read_is_the_newest_by_name_and_within_the_bound(drawn: list[float], most_bytes: int) -> None:
    registry = await registry_with(*drawn)
    every = (await registry.store.range("/fleet.archive/events/")).items
    found = await read_latest(registry, NOW, most_bytes)
    newest = [item.key for item in every][len(every) - len(found.items) :]
    assert sorted(item.key for item in found.items) == newest
    assert sum(len(item.value) for item in found.items) <= most_bytes
    assert found.is_all == (len(found.items) == len(every))
    assert [item.mod_revision for item in found.items] == sorted(item.mod_revision for item in found.items)
