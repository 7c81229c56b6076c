"""Concurrent requests share transactions, with the results that each would have alone."""

import asyncio
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleetd.api.write_batching import WriteBatcher
from fleetd.model.unit import TargetState, Unit
from fleetd.registry.registry import Registry
from fleetd.store.embedded import EmbeddedStore, inline
from fleetd.store.protocol import Conflict, Unavailable
from tests.api.conftest import JSON, Fleet
from tests.examples import examples

OPTIONS = [{"section": "Service", "name": "ExecStart", "value": "/bin/true"}]
OTHER = [{"section": "Service", "name": "ExecStart", "value": "/bin/false"}]


class Slow:
    """A store that answers slowly, so that requests meet. It records how many units each transaction writes, and may
    fail the first."""

    def __init__(self, error: Exception | None = None) -> None:
        self._store = EmbeddedStore(":memory:", offload=inline)
        self._error = error
        self.transactions: list[int] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def transact(self, comparisons: Any, operations: Any) -> int:
        self.transactions.append(sum(each.key.startswith("/fleet/units/") for each in operations))
        await asyncio.sleep(0.001)
        error, self._error = self._error, None
        if error:
            raise error
        return await self._store.transact(comparisons, operations)


def slow_fleet(error: Exception | None = None) -> tuple[Fleet, Slow]:
    store = Slow(error)
    return Fleet(Registry(store)), store


async def put(fleet: Fleet, name: str, options: Any = OPTIONS, only_new: bool = False, target: str = "loaded") -> int:
    headers = (*JSON, ("If-None-Match", "*")) if only_new else JSON
    return (
        await fleet.ask(f"PUT /fleet/v1/units/{name}", {"options": options, "desiredState": target}, headers)
    ).status


async def test_requests_during_a_transaction_share_the_next_one() -> None:
    fleet, store = slow_fleet()
    assert await asyncio.gather(*(put(fleet, f"u{number}.service") for number in range(9))) == [201] * 9
    assert store.transactions == [1, 8]
    assert sorted(await fleet.registry.units()) == [f"u{number}.service" for number in range(9)]


async def test_a_conflict_of_one_unit_affects_no_other() -> None:
    fleet, store = slow_fleet()
    for name in ("old.service", "same.service"):
        await fleet.add_unit(name)
    store.transactions.clear()
    asked = [
        put(fleet, "first.service"),
        put(fleet, "a.service"),
        put(fleet, "old.service", OTHER),
        put(fleet, "same.service", target="inactive"),
        put(fleet, "b.service", only_new=True),
        put(fleet, "old.service", only_new=True),
        put(fleet, "c.service"),
    ]
    assert await asyncio.gather(*asked) == [201, 201, 201, 204, 201, 412, 201]
    assert (await fleet.unit("old.service")).text == "[Service]\nExecStart=/bin/false\n"
    # the five, the three new ones among them, and old.service with its retry
    assert store.transactions == [1, 5, 3, 1, 1]


async def test_the_last_operation_on_a_unit_wins() -> None:
    fleet, _ = slow_fleet()
    operations = [(OPTIONS, "launched"), (OTHER, "inactive"), (OPTIONS, "loaded")]
    await asyncio.gather(
        put(fleet, "x.service"),
        *(put(fleet, "u.service", *operation[:1], target=operation[1]) for operation in operations),
    )
    unit = await fleet.unit("u.service")
    assert (unit.text, unit.target) == ("[Service]\nExecStart=/bin/true\n", "loaded")


async def test_all_waiting_requests_fail_if_the_store_does_not_answer() -> None:
    fleet, store = slow_fleet(Unavailable("no answer"))
    statuses = await asyncio.gather(*(put(fleet, f"u{number}.service") for number in range(4)))
    assert statuses == [503, 201, 201, 201]
    assert store.transactions == [1, 3]


async def test_transactions_stay_within_the_stores_limits() -> None:
    fleet, store = slow_fleet()
    large = [{"section": "Service", "name": f"Environment{number}", "value": "x" * 2000} for number in range(100)]
    assert await asyncio.gather(*(put(fleet, f"u{number}.service", large) for number in range(9))) == [201] * 9
    assert store.transactions == [1, 5, 3]
    store.transactions.clear()
    assert await asyncio.gather(*(put(fleet, f"s{number}.service") for number in range(140))) == [201] * 140
    assert store.transactions == [1, 127, 12]  # with the record of their events


async def test_a_cancelled_request_leaves_the_others() -> None:
    fleet, store = slow_fleet()
    writes, made = WriteBatcher(fleet.registry), fleet.registry.unit_write_set
    names = [f"u{number}.service" for number in range(4)]
    steps = [made(name, None, Unit(name, "", TargetState.LOADED)) for name in names]
    tasks = [asyncio.create_task(writes.write(step)) for step in steps]
    await asyncio.sleep(0)
    tasks[0].cancel()
    tasks[2].cancel()
    done = await asyncio.gather(*tasks, return_exceptions=True)
    assert [isinstance(each, int) for each in done] == [False, True, False, True]
    assert sorted(await fleet.registry.units()) == ["u1.service", "u3.service"]
    with pytest.raises(Conflict):
        await writes.write(steps[1])
    assert store.transactions == [1, 2, 1]


NAMES = ("a.service", "b.service", "c.service", "d.service")
OPERATIONS = st.lists(
    st.tuples(
        st.sampled_from(NAMES), st.sampled_from((OPTIONS, OTHER, [])), st.booleans(), st.sampled_from(list(TargetState))
    ),
    max_size=8,
    unique_by=lambda operation: operation[0],
)


@settings(max_examples=examples(60))
@given(OPERATIONS, st.sets(st.sampled_from(NAMES)))
async def test_shared_transactions_have_the_results_of_single_ones(operations: Any, there: set[str]) -> None:
    results = []
    for is_together in (True, False):
        fleet, _ = slow_fleet()
        for name in sorted(there):
            await fleet.add_unit(name)
        asked = [put(fleet, name, options, only_new, target) for name, options, only_new, target in operations]
        statuses = await asyncio.gather(*asked) if is_together else [await each for each in asked]
        units = {name: (unit.text, unit.target) for name, unit in (await fleet.registry.units()).items()}
        results.append((statuses, units))
    assert results[0] == results[1]
