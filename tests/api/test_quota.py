"""Limits of the cluster's units, and of the memory that requests share."""

import asyncio
import json
from contextlib import AsyncExitStack, ExitStack, aclosing
from typing import Any
from uuid import uuid4

import pytest
from msgspec.structs import replace

from fleetd.api.connection_limits import (
    MAX_LISTINGS,
    OVERLOADED,
    ConnectionLimiter,
    reserve_read,
    wait_for_listing_slot,
)
from fleetd.api.http import ApiError, Request, StreamedResponse
from fleetd.api.routes import Api
from fleetd.api.v2.kept_events import SCANS
from fleetd.model.certificate import CertificateIdentity
from fleetd.model.event import ClusterEvent, EventKind
from fleetd.model.quota import Usage
from fleetd.registry.events import EventLog
from fleetd.registry.records import EVENTS as RECORDS
from fleetd.registry.registry import Registry
from tests.actors import ADMIN

OPTIONS = [{"section": "Service", "name": "ExecStart", "value": "/bin/true"}]
TEXT_BYTES = len("[Service]\nExecStart=/bin/true\n")


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock(fleet: Any) -> Clock:
    clock = Clock()
    fleet.reconfigure(allowed_usage=Usage(3, 10 * TEXT_BYTES), now=clock)
    return clock


async def create(fleet: Any, *names: str) -> list[int]:
    return [(await fleet.ask(f"PUT /fleet/v1/units/{name}", {"options": OPTIONS})).status for name in names]


async def test_a_unit_beyond_the_limit_is_refused_and_existing_ones_can_change(fleet: Any, clock: Clock) -> None:
    assert await create(fleet, "a.service", "b.service", "c.service", "d.service") == [201, 201, 201, 507]
    status, said = await fleet.refused("PUT /fleet/v1/units/d.service", {"options": OPTIONS})
    assert (status, said.partition(":")[0]) == (507, "the cluster has 3 units, and max_units=3 of them are allowed")
    launched = {"desiredState": "launched"}
    assert (await fleet.ask("PUT /fleet/v1/units/a.service", launched)).status == 204
    assert (await fleet.ask("PUT /fleet/v1/units/a.service", {"options": [*OPTIONS, *OPTIONS]})).status == 201


async def test_a_destroyed_unit_frees_its_share_at_once(fleet: Any, clock: Clock) -> None:
    await create(fleet, "a.service", "b.service", "c.service")
    assert (await fleet.ask("DELETE /fleet/v1/units/a.service")).status == 204
    assert await create(fleet, "d.service", "e.service") == [201, 507]


async def test_of_several_units_those_within_the_limit_are_accepted(fleet: Any, clock: Clock) -> None:
    operations = [{"name": f"{letter}.service", "options": OPTIONS} for letter in "abcde"]
    response = await fleet.ask("POST /fleet/v2/units", {"operations": operations})
    results = json.loads(response.body)["results"]
    assert [result["code"] for result in results] == [201, 201, 201, 507, 507]
    assert sorted(await fleet.registry.units()) == ["a.service", "b.service", "c.service"]


async def test_the_size_of_all_unit_files_is_limited_by_the_leaders_count(fleet: Any, clock: Clock) -> None:
    await fleet.put(Usage(0, 8 * TEXT_BYTES))
    assert await create(fleet, "a.service", "b.service") == [201, 201]
    larger = ("PUT /fleet/v1/units/b.service", {"options": OPTIONS * 4})
    for passed_s in (0.0, 2.0):  # this API counts what it accepted, also without a leader's count
        clock.now_s += passed_s
        status, said = await fleet.refused(*larger)
        assert status == 507
        assert f"have {10 * TEXT_BYTES} bytes together, and max_units_bytes={10 * TEXT_BYTES} are allowed" in said
    await fleet.put(Usage(2, 2 * TEXT_BYTES))  # another client destroyed units: read again before a refusal
    assert (await fleet.ask(*larger)).status == 201


async def test_a_unit_created_and_destroyed_between_two_counts_is_not_counted(fleet: Any, clock: Clock) -> None:
    await fleet.put(Usage(0, 8 * TEXT_BYTES))
    for _ in range(10):
        assert await create(fleet, "a.service") == [201]
        assert (await fleet.ask("DELETE /fleet/v1/units/a.service")).status == 204


async def test_memory_read_for_a_request_is_reserved_until_it_is_answered(fleet: Any) -> None:
    for number in range(10):
        await fleet.add_unit(f"u{number}.service", f"[A]\nB={'x' * 1000}\n")
    limiter = ConnectionLimiter(max_bytes=15_000)
    api = Api(Registry(fleet.registry.store, note_read=reserve_read))
    everything = Request("GET", "/fleet/v1/units", local=True, actor=ADMIN)
    with limiter.open_budget() as budget:
        assert (await api.handle(everything)).status == 200
        assert limiter.reserved > 10_000
        budget.release()
        assert limiter.reserved == 0
    with limiter.open_budget() as others:
        assert others.reserve(6_000)
        with limiter.open_budget():
            response = await api.handle(everything)
        assert (response.status, json.loads(response.body)["error"]["message"]) == (503, OVERLOADED)
        assert ("Retry-After", "1") in response.headers
        with limiter.open_budget(), pytest.raises(ApiError):
            reserve_read(10_000)
    reserve_read(1 << 40)  # a reservation of no request


async def test_memory_of_a_reader_of_events_that_goes_away_is_given_back_once(fleet: Any) -> None:
    events = EventLog(fleet.registry, lambda: 1_800_000_000.0, lambda: "m1")
    for number in range(20):
        record = events.write_set([ClusterEvent(EventKind.LOST, machine=f"m{number}")])
        await fleet.registry.store.transact(record.comparisons, record.operations)
    limiter = ConnectionLimiter()
    api = Api(Registry(fleet.registry.store, note_read=reserve_read))
    for query in ((("after", "0"),), (("follow", "false"),)):
        with limiter.open_budget():
            response = await api.handle(Request("GET", "/fleet/v2/events", query, local=True, actor=ADMIN))
            assert isinstance(response, StreamedResponse)
            for _ in range(3):
                await anext(response.chunks)
            await response.chunks.aclose()
        for _ in range(10):  # for what is closed later
            await asyncio.sleep(0)
        assert limiter.reserved == 0, query


async def test_the_streams_of_one_user_hold_a_quarter_of_the_memory_at_most(fleet: Any) -> None:
    limiter = ConnectionLimiter(max_bytes=400_000)
    events = EventLog(fleet.registry, lambda: 1_800_000_000.0, lambda: uuid4().hex)
    for _ in range(10):
        record = events.write_set([ClusterEvent(EventKind.DRAIN, machine="m1", detail="x" * 4_000)])
        await fleet.registry.store.transact(record.comparisons, record.operations)
    api = Api(Registry(fleet.registry.store, note_read=reserve_read))

    async with AsyncExitStack() as stack:

        async def read(user: str) -> list[dict[str, Any]]:
            """The first two lines of a reader that then reads no more."""
            actor = replace(ADMIN, identity=user)
            stack.enter_context(limiter.open_budget())
            asked = Request("GET", "/fleet/v2/events", (("follow", "false"),), local=True, actor=actor)
            response = await api.handle(asked)
            assert isinstance(response, StreamedResponse)
            chunks = await stack.enter_async_context(aclosing(response.chunks))
            return [json.loads(await anext(chunks)) for _ in range(2)]

        ann = [(await read("ann"))[1]["kind"] for _ in range(8)]
        assert ann[:2] == ["drain", "drain"]
        assert ann[-1] == "end"
        assert limiter.reserved <= limiter.max_bytes // 4
        assert "the streams of one user" in (await read("ann"))[1]["detail"]
        assert (await read("bob"))[1]["kind"] == "drain"
    assert (limiter.reserved, limiter.reserved_by) == (0, {})


def reserve(limiter: ConnectionLimiter, certificate: CertificateIdentity | None, *sizes: int) -> list[bool]:
    """Whether requests of this client may have so many bytes each, at once."""
    with ExitStack() as stack:
        budgets = [stack.enter_context(limiter.open_budget()) for _ in sizes]
        for budget in budgets:
            budget.bound(certificate)
        return [budget.reserve(size) for budget, size in zip(budgets, sizes, strict=True)]


def test_one_worker_has_an_eighth_of_the_memory_and_a_single_request_as_much_as_there_is() -> None:
    limiter = ConnectionLimiter(max_bytes=8_000)
    one, two = (CertificateIdentity("machine", name, "worker") for name in ("w1", "w2"))
    assert reserve(limiter, one, 400, 400, 400, 200) == [True, True, False, True]
    assert reserve(limiter, one, 5_000, 1) == [True, False]
    assert reserve(limiter, CertificateIdentity("person", "ann"), 5_000, 2_000) == [True, True]
    with limiter.open_budget() as first:
        first.bound(one)
        assert first.reserve(1_000)
        assert reserve(limiter, one, 1) == [False]
        assert reserve(limiter, two, 600, 400) == [True, True]
        first.release()
        assert reserve(limiter, one, 1_000) == [True]
    assert (limiter.reserved, limiter.reserved_by) == (0, {})


async def test_few_full_listings_run_at_once_and_pages_wait_for_none(fleet: Any) -> None:
    going_on = asyncio.Event()
    under_way = most = 0

    class Watched:
        """A store where a full read waits until it is released."""

        def __getattr__(self, name: str) -> Any:
            return getattr(fleet.registry.store, name)

        async def range(self, prefix: str, *, limit: int = 0, **options: Any) -> Any:
            nonlocal under_way, most
            if prefix.endswith("/units/") and not limit:
                under_way += 1
                most = max(most, under_way)
                await going_on.wait()
                under_way -= 1
            return await fleet.registry.store.range(prefix, limit=limit, **options)

    store: Any = Watched()
    limiter = ConnectionLimiter()
    api = Api(Registry(store, wait_for_turn=wait_for_listing_slot, note_read=reserve_read))

    async def ask(path: str) -> int:
        with limiter.open_budget():
            return (await api.handle(Request("GET", path, local=True, actor=ADMIN))).status

    listings = [asyncio.create_task(ask("/fleet/v2/units")) for _ in range(10)]
    await asyncio.sleep(0.05)
    assert await ask("/fleet/v1/units") == 200
    listings[0].cancel()  # a client that went away holds no slot
    going_on.set()
    assert await asyncio.gather(*listings[1:]) == [200] * 9
    assert most == MAX_LISTINGS


async def test_few_questions_where_units_were_before_read_events_at_once(fleet: Any) -> None:
    await fleet.add_unit("a.service")
    under_way = most = 0

    class Watched:
        """A store that notes how many reads of events are under way."""

        def __getattr__(self, name: str) -> Any:
            return getattr(fleet.registry.store, name)

        async def range(self, prefix: str, **options: Any) -> Any:
            nonlocal under_way, most
            is_counted = prefix.startswith(fleet.registry.archive.key(RECORDS))
            under_way += is_counted
            most = max(most, under_way)
            for _ in range(10):  # in which the others come
                await asyncio.sleep(0)
            under_way -= is_counted
            return await fleet.registry.store.range(prefix, **options)

    store: Any = Watched()
    api = Api(Registry(store, note_read=reserve_read))
    query = (("unit", "a.service"), ("previous", "true"))
    asked = Request("GET", "/fleet/v2/journal", query, local=True, actor=ADMIN)
    assert {answer.status for answer in await asyncio.gather(*(api.handle(asked) for _ in range(6)))} == {200}
    assert most == SCANS
