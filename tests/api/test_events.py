"""The stream of events: what readers get, from where, and when it ends."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from random import Random
from typing import Any
from uuid import uuid4

import pytest

from fleetd.api.http import Request, StreamedResponse
from fleetd.api.v2.event_hub import BEHIND_BYTES, EventHub
from fleetd.api.v2.event_lines import Moment, Selection
from fleetd.api.v2.events import MOST_OF_USER
from fleetd.api.v2.kept_events import KeptEvents
from fleetd.model.actor import Actor
from fleetd.model.event import ClusterEvent, EventKind
from fleetd.model.name_patterns import NamePatterns
from fleetd.model.permission import EVERY_RIGHT
from fleetd.model.unit import UnitState
from fleetd.registry.events import EventLog
from fleetd.registry.moment import read_moment
from fleetd.registry.registry import Registry
from fleetd.store.protocol import Put
from tests.api.conftest import Fleet
from tests.metrics import Counted

EVENTS = "GET /fleet/v2/events"
AT = 1_800_014_400.0
ESCAPED = r"mnt-my\x2ddata.mount"
PATIENCE_S = 60.0
TURNS = 100  # of the loop; what has been written is distributed after a few


class Following:
    """A reader of the stream."""

    def __init__(self, response: StreamedResponse) -> None:
        self._chunks = response.chunks
        self._lines: list[dict[str, Any]] = []

    async def line(self) -> dict[str, Any]:
        """The next line."""
        while not self._lines:
            async with asyncio.timeout(PATIENCE_S):
                chunk = await anext(self._chunks)
            self._lines = [json.loads(line) for line in chunk.splitlines()]
        return self._lines.pop(0)

    async def rest(self) -> list[dict[str, Any]]:
        """All lines until the end."""
        async with asyncio.timeout(PATIENCE_S):
            chunks = [chunk async for chunk in self._chunks]
        lines, self._lines = self._lines, []
        return lines + [json.loads(line) for chunk in chunks for line in chunk.splitlines()]

    async def close(self) -> None:
        await self._chunks.aclose()


async def follow(fleet: Fleet, query: str = "") -> Following:
    response: Any = await fleet.ask(f"{EVENTS}?{query}")
    assert isinstance(response, StreamedResponse), response
    return Following(response)


async def happen(fleet: Fleet, *events: ClusterEvent, at_s: float = AT) -> None:
    """Write these events in one transaction."""
    found = EventLog(fleet.registry, lambda: at_s, lambda: uuid4().hex).write_set(events)
    await fleet.registry.store.transact(found.comparisons, found.operations)


def placed(unit: str, machine: str = "m1") -> ClusterEvent:
    return ClusterEvent(EventKind.PLACED, unit=unit, machine=machine)


@pytest.fixture
async def following(fleet: Fleet) -> AsyncIterator[Following]:
    """A reader from now, which has read the first line."""
    reader = await follow(fleet)
    assert (await reader.line())["kind"] == "begin"
    yield reader
    await reader.close()


async def test_a_reader_gets_what_happens_after_it_has_come(fleet: Fleet, following: Following) -> None:
    await happen(fleet, placed("web.service"))
    line = await following.line()
    assert line.pop("token") == str(await read_moment(fleet.registry))
    assert line == {"kind": "placed", "unit": "web.service", "machine": "m1", "at": AT}


async def test_only_the_last_event_of_a_transaction_has_a_token(fleet: Fleet, following: Following) -> None:
    await happen(fleet, placed("a.service"), placed("b.service"))
    assert "token" not in await following.line()
    assert (await following.line())["token"]


async def test_states_of_units_are_told_as_machines_report_them(fleet: Fleet, following: Following) -> None:
    await fleet.put(UnitState("loaded", "failed", "failed", error="exit 1"), "m1", "web.service")
    line = await following.line()
    del line["token"]
    words = {"load": "loaded", "active": "failed", "sub": "failed", "error": "exit 1"}
    assert line == {"kind": "state", "unit": "web.service", "machine": "m1", **words}


async def test_a_reader_that_comes_again_goes_on_after_its_token(fleet: Fleet, following: Following) -> None:
    await happen(fleet, placed("a.service"))
    token = (await following.line())["token"]
    await following.close()
    await happen(fleet, placed("b.service"))
    await happen(fleet, placed("c.service"))
    again = await follow(fleet, f"after={token}")
    assert (await again.line()) == {"kind": "begin", "token": token}
    assert [(await again.line())["unit"] for _ in range(2)] == ["b.service", "c.service"]
    await again.close()


async def test_beyond_the_history_of_the_store_events_go_on_and_a_gap_is_told(fleet: Fleet) -> None:
    await happen(fleet, placed("a.service"))
    token = await read_moment(fleet.registry)
    await happen(fleet, placed("b.service"))
    await fleet.put(UnitState("loaded", "active", "running"), "m1", "a.service")
    await fleet.registry.store.compact(await fleet.registry.store.revision())
    reader = await follow(fleet, f"after={token}")
    assert [(line := await reader.line())["kind"] for _ in range(3)] == ["begin", "placed", "gap"]
    assert line["token"] == str(await read_moment(fleet.registry))
    await happen(fleet, placed("c.service"))
    assert (await reader.line())["unit"] == "c.service"
    await reader.close()


async def test_all_that_is_kept_comes_in_the_order_in_which_it_was_written(fleet: Fleet) -> None:
    await happen(fleet, placed("a.service"), at_s=AT)
    await happen(fleet, placed("b.service"), at_s=AT - 60)  # the clock of its machine is behind
    found = await (await follow(fleet, "follow=false")).rest()
    assert [line.get("unit") for line in found] == [None, "a.service", "b.service", None]
    reader = await follow(fleet, "after=0")
    await reader.line()
    assert [(await reader.line())["unit"] for _ in range(2)] == ["a.service", "b.service"]
    await happen(fleet, placed("c.service"))
    assert (await reader.line())["unit"] == "c.service"
    await reader.close()


async def read_after(fleet: Fleet, token: str, count: int) -> tuple[list[str], str]:
    """The units of the next so many events after this token, as far as a later token stands behind them, and that."""
    told: list[str] = []
    moment: list[str] = []
    reader = await follow(fleet, f"after={token}")
    while count > 0 or (not told and not moment):
        line = await reader.line()
        if line["kind"] == "placed":
            moment.append(line["unit"])
            count -= 1
        if line.get("token"):
            told, moment, token = told + moment, [], line["token"]
        if count <= 0:
            break
    await reader.close()
    return told, token


@pytest.mark.parametrize("seed", range(8))
async def test_a_client_that_goes_on_after_its_last_token_gets_each_event_once_and_in_order(
    fleet: Fleet, seed: int
) -> None:
    """Whatever it has read when it goes away, whatever the store has forgotten, and however wrong clocks are."""
    random = Random(seed)
    written: list[str] = []
    got: list[str] = []
    token = str(await read_moment(fleet.registry))
    for _ in range(40):
        act = random.choice(("happen", "happen", "state", "read", "compact"))
        if act == "happen":
            names = [f"{len(written) + number}.service" for number in range(random.randint(1, 3))]
            await happen(fleet, *map(placed, names), at_s=AT + random.uniform(-60, 60))
            written += names
        elif act == "state":
            await fleet.put(UnitState("loaded", "active", f"{random.random()}"), "m1", "web.service")
        elif act == "read":
            told, token = await read_after(fleet, token, random.randint(0, len(written) - len(got)))
            got += told
        else:
            await fleet.registry.store.compact(await fleet.registry.store.revision())
    told, _ = await read_after(fleet, token, len(written) - len(got))
    assert got + told == written


@pytest.mark.parametrize("held_bytes", [1, 500, 4 * 2**20])
async def test_all_that_is_kept_comes_in_order_however_little_is_held(fleet: Fleet, held_bytes: int) -> None:
    numbers = list(range(30))
    for number in numbers:  # keys in another order than revisions
        await happen(fleet, placed(f"{number}.service"), placed("other.service"), at_s=AT + number * 7 % 30)
    now = await read_moment(fleet.registry)
    reserved: list[int] = []
    registry = Registry(fleet.registry.store, note_read=reserved.append)
    kept = KeptEvents(registry, held_bytes)
    found = [moment async for moment in kept.read(Selection(), 0.0, 0, now.revision)]
    assert [moment.lines[0].unit for moment in found] == [f"{number}.service" for number in numbers]
    assert sum(reserved) == 0
    async with aclosing(kept.read(Selection(), 0.0, found[9].revision, now.revision)) as rest:
        assert (await anext(rest)).lines[0].unit == "10.service"
    assert sum(reserved) == 0


@pytest.mark.parametrize(("held_bytes", "shown"), [(4 * 2**20, 30), (600, None), (1, 0)])
async def test_the_latest_of_what_is_kept_comes_in_order_and_says_if_there_is_more(
    fleet: Fleet, held_bytes: int, shown: int | None
) -> None:
    for number in range(30):
        await happen(fleet, placed(f"{number}.service"), at_s=AT + number)
    now = await read_moment(fleet.registry)
    reserved: list[int] = []
    kept = KeptEvents(Registry(fleet.registry.store, note_read=reserved.append), held_bytes)
    found, is_all = await kept.read_latest(Selection(), AT, 0, now.revision)
    units = [moment.lines[0].unit for moment in found]
    assert units == [f"{number}.service" for number in range(30 - len(found), 30)]
    assert len(found) == shown if shown is not None else 0 < len(found) < 30
    assert is_all == (len(found) == 30)
    assert sum(reserved) == 0
    one, _ = await kept.read_latest(Selection(units=NamePatterns(["29.service"])), AT, 0, now.revision)
    assert len(one) == (held_bytes > 1)
    assert await kept.read_latest(Selection(), AT, now.revision - 1, now.revision - 1) == ([], is_all)


async def test_what_has_happened_to_a_unit_of_late_is_asked_for_in_one_request(fleet: Fleet) -> None:
    await happen(fleet, placed("a.service"), at_s=time.time())
    await happen(fleet, placed("b.service"), at_s=time.time())
    found = await (await follow(fleet, "follow=false&latest=true&unit=a.service")).rest()
    assert [(line["kind"], line.get("unit")) for line in found] == [
        ("begin", None),
        ("placed", "a.service"),
        ("mark", None),
    ]


@pytest.mark.parametrize(
    ("query", "units"),
    [
        ("unit=web@*.service", ["web@1.service"]),
        ("machine=m2", ["db.service", ESCAPED]),
        (f"unit={ESCAPED}", [ESCAPED]),
        ("kind=unplaced", []),
        ("kind=placed&kind=moved", ["web@1.service", "db.service", ESCAPED]),
        (f"since={AT + 1}", ["db.service", ESCAPED]),
    ],
)
async def test_a_reader_gets_only_what_it_has_selected(fleet: Fleet, query: str, units: list[str]) -> None:
    await happen(fleet, placed("web@1.service"))
    await happen(fleet, placed("db.service", "m2"), at_s=AT + 5)
    await happen(fleet, placed(ESCAPED, "m2"), at_s=AT + 6)
    found = await (await follow(fleet, f"follow=false&{query}")).rest()
    assert [line["unit"] for line in found[1:-1]] == units


async def test_a_reader_to_whom_nothing_happens_gets_marks(fleet: Fleet) -> None:
    fleet.reconfigure(event_mark_s=0.01)
    reader = await follow(fleet)
    assert [(await reader.line())["kind"] for _ in range(3)] == ["begin", "mark", "mark"]
    await reader.close()


async def test_tokens_that_mean_nothing_here_are_refused(fleet: Fleet) -> None:
    now = await read_moment(fleet.registry)
    await fleet.registry.store.transact([], [Put(fleet.registry.history_key, b"restored")])
    assert (await fleet.refused(f"{EVENTS}?after={now}"))[0] == 410
    later = await read_moment(fleet.registry)
    assert (await fleet.refused(f"{EVENTS}?after={later.epoch}.{later.revision + 1}"))[0] == 410
    assert (await fleet.refused(f"{EVENTS}?after=yesterday"))[0] == 400


WRONG = ["kind=none", "follow=maybe", "since=now", "since=-1", "after=0&after=0", "latest=1", "latest=true"]
WRONG += ["&".join(f"unit=*{number}*" for number in range(33))]  # each is compared with each event


@pytest.mark.parametrize("query", WRONG)
async def test_a_wrong_parameter_is_refused(fleet: Fleet, query: str) -> None:
    assert (await fleet.refused(f"{EVENTS}?{query}"))[0] == 400


async def test_a_restore_of_the_store_ends_the_stream(fleet: Fleet, following: Following) -> None:
    await happen(fleet, placed("a.service"))
    await following.line()
    await fleet.registry.store.transact([], [Put(fleet.registry.history_key, b"restored")])
    assert (await following.rest())[-1]["kind"] == "end"


async def test_browsers_get_server_sent_events_and_go_on_after_the_last_one(fleet: Fleet) -> None:
    accept = ("Accept", "text/event-stream")
    response: Any = await fleet.ask(EVENTS, headers=(accept,))
    assert ("Content-Type", "text/event-stream") in response.headers
    first = (await anext(response.chunks)).decode()
    token = first.partition("\n")[0].removeprefix("id: ")
    assert first == f'id: {token}\ndata: {{"kind":"begin","token":"{token}"}}\n\n'
    await response.chunks.aclose()
    await happen(fleet, placed("a.service"))
    again: Any = await fleet.ask(EVENTS, headers=(accept, ("Last-Event-ID", token)))
    assert await anext(again.chunks) == first.encode()
    assert b'"a.service"' in await anext(again.chunks)
    await again.chunks.aclose()


async def test_the_store_is_watched_once_and_only_while_there_are_readers(fleet: Fleet) -> None:
    hub = EventHub(fleet.registry, lambda: 0.0)
    first, _ = await hub.join(0, 1)
    task = hub._task
    second, _ = await hub.join(1, 1)
    assert task is not None
    assert hub._task is task
    hub.leave(first)
    assert not task.cancelling()
    hub.leave(second)
    assert task.cancelling()


async def test_one_user_takes_only_a_part_of_the_streams(fleet: Fleet) -> None:
    def come(user: str) -> Any:
        return fleet.api.handle(Request("GET", "/fleet/v2/events", actor=Actor(user, user, EVERY_RIGHT)))

    every = [Following(await come("ann")) for _ in range(MOST_OF_USER)]
    for each in every:
        assert (await each.line())["kind"] == "begin"
    assert (await come("ann")).status == 503
    assert (await come("ben")).status == 200
    for each in every:
        await each.close()
    assert (await come("ann")).status == 200


async def test_a_reader_that_does_not_read_is_told_and_its_stream_ends(fleet: Fleet, following: Following) -> None:
    large = ClusterEvent(EventKind.REBOOT, machine="m1", detail="x" * (BEHIND_BYTES // 2))
    for _ in range(4):
        await happen(fleet, large)
    for _ in range(TURNS):
        await asyncio.sleep(0)
    assert (await following.rest())[-1]["kind"] == "behind"


async def test_a_reader_that_has_not_read_for_too_long_is_behind(fleet: Fleet) -> None:
    now = 0.0
    hub = EventHub(fleet.registry, lambda: now)
    reader, _ = await hub.join(0, 0)
    reader.offer(Moment(1, (), 10))
    now = 31.0
    reader.offer(Moment(2, (), 10))
    assert reader.is_behind
    hub.leave(reader)


@pytest.mark.parametrize("path", ["/fleet/v1/units", "/fleet/v1/state", "/fleet/v1/machines", "/fleet/v2/units"])
async def test_what_happens_after_a_list_follows_its_token(fleet: Fleet, path: str) -> None:
    await happen(fleet, placed("a.service"))
    token = dict((await fleet.ask(f"GET {path}", headers=(("Fleet-Token", "?"),))).headers)["Fleet-Token"]
    await happen(fleet, placed("b.service"))
    reader = await follow(fleet, f"after={token}")
    await reader.line()
    assert (await reader.line())["unit"] == "b.service"
    await reader.close()


async def test_readers_are_counted_while_they_read_and_those_that_were_too_slow(fleet: Fleet) -> None:
    counted = Counted()
    following = await follow(fleet)
    await following.line()
    kept = await follow(fleet, "follow=false")
    await kept.line()
    assert counted("fleet_event_readers") == 2
    await kept.rest()
    assert counted("fleet_event_readers") == 1
    big = "x" * 10_000
    for _ in range(BEHIND_BYTES // len(big) + 1):
        await fleet.put(UnitState("loaded", "failed", "failed", error=big), "m1", "web.service")
        big = big[::-1] + "y"
    for _ in range(TURNS):
        await asyncio.sleep(0)
    assert (await following.rest())[-1]["kind"] == "behind"
    assert counted("fleet_event_readers_behind_total") == 1
    assert counted("fleet_event_readers") == 0
