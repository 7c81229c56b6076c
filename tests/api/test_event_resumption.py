"""The stream of events for a client that comes again: wherever it goes on, it is told each event once, in order."""

import asyncio
from collections.abc import Sequence
from contextlib import aclosing
from typing import Any

import msgspec
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fleetd.api import schema
from fleetd.api.event_schema import BEGIN, END, GAP, MARK, STATE
from fleetd.api.http import Request, StreamedResponse
from fleetd.api.v2.events import Events
from fleetd.model.event import ClusterEvent, EventKind
from fleetd.model.token import parse_token
from fleetd.model.unit import UnitState
from fleetd.registry.events import EventLog
from fleetd.registry.registry import Registry
from fleetd.store.embedded import EmbeddedStore, inline
from fleetd.store.protocol import Delete, Operation, Put

PATIENCE_S = 60.0
LAST = "last.service"
AT = 1_800_000_000.0

# What happens, a transaction each: so many events, with a state or without; something else; the store may forget, too.
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("events"), st.integers(1, 3), st.booleans()),
        st.tuples(st.sampled_from(["state", "unreported", "foreign", "compact"]), st.just(0), st.just(False)),
    ),
    max_size=12,
)
FORGOTTEN = [*[("state", 0, False)] * 3, ("compact", 0, False)]


class Story:
    """A store in which something happens."""

    def __init__(self) -> None:
        self.registry = Registry(EmbeddedStore(":memory:", offload=inline))
        self.told: list[tuple[int, str]] = []  # revision and unit of each event
        self._clock = AT

    async def happen(self, steps: Sequence[tuple[str, int, bool]]) -> None:
        for what, count, has_state in steps:
            await self._do(what, count, has_state)

    async def _do(self, what: str, count: int, has_state: bool) -> None:
        store, key = self.registry.store, self.registry.put(UnitState("loaded", "active", "running"), "m1", "s.service")
        if what == "compact":
            await store.compact(await store.revision())
            return
        changes: dict[str, Operation] = {
            "state": key,
            "unreported": Delete(key.key),
            "foreign": Put("/other/key", b"x"),
        }
        operations = [changes[what]] if what in changes else [key] if has_state else []
        units = [f"u{len(self.told) + number}.service" for number in range(count)]
        await self.tell(units, operations)

    async def tell(self, units: Sequence[str], operations: Sequence[Operation] = ()) -> None:
        """Write these operations, and an event about each unit, in one transaction."""
        events = [ClusterEvent(EventKind.PLACED, unit, "m1") for unit in units]
        self._clock -= 0.5  # names of records are in another order than their revisions
        log = EventLog(self.registry, lambda: self._clock, lambda: f"w{len(self.told)}-{self._clock}")
        written = log.write_set(events) if events else None
        all_ = [*operations, *(written.operations if written else ())]
        revision = await self.registry.store.transact(written.comparisons if written else (), all_)
        self.told += [(revision, unit) for unit in units]

    def told_after(self, token: str) -> list[str]:
        after = parse_token(token).revision if token else 0
        return [unit for revision, unit in self.told if revision > after]


async def read(events: Events, **query: str) -> list[schema.Event]:
    """The lines of a stream up to the last event, or to its end."""
    response: Any = await events.get(Request("GET", "/fleet/v2/events", query=tuple(query.items())), "")
    assert isinstance(response, StreamedResponse)
    lines: list[schema.Event] = []
    async with asyncio.timeout(PATIENCE_S), aclosing(response.chunks) as chunks:
        async for chunk in chunks:
            lines += msgspec.json.Decoder(schema.Event).decode_lines(chunk)
            if any(line.unit == LAST for line in lines):
                break
    return lines


async def stay(events: Events, token: str) -> list[schema.Event]:
    """The lines up to the last event, by a client that comes again with its last token when a stream ends."""
    lines: list[schema.Event] = []
    async with asyncio.timeout(PATIENCE_S):
        while not any(line.unit == LAST for line in lines):
            lines += await read(events, after=token)
            token = next(line.token for line in reversed(lines) if line.token)
    return lines


def units(lines: Sequence[schema.Event]) -> list[str]:
    return [line.unit for line in lines if line.kind not in (BEGIN, MARK, GAP, STATE, END)]


@settings(max_examples=60)
@given(STEPS, STEPS, st.booleans())
@example(FORGOTTEN, [], True)  # before the store is watched: the stream ends
async def test_a_client_that_goes_on_at_any_token_is_told_each_event_once_in_order(
    before: list[tuple[str, int, bool]], after: list[tuple[str, int, bool]], others_follow: bool
) -> None:
    story = Story()
    events = Events(story.registry)
    begun = await read(events, follow="false")
    watching = asyncio.create_task(stay(events, begun[-1].token)) if others_follow else None
    await asyncio.sleep(0)
    await story.happen(before)
    middle = (await read(events, follow="false"))[-1].token
    await story.happen(after)
    await story.tell(["other.service", LAST])
    whole = await read(events, after="0")
    assert units(whole) == story.told_after("")
    if watching is not None:
        lines = await watching
        assert units(lines) == story.told_after(begun[-1].token)
        whole += lines
    tokens = [begun[-1].token, middle, *(line.token for line in whole if line.token and line.unit != LAST)]
    for token in dict.fromkeys(tokens):
        for again in (events, Events(story.registry)):
            lines = await read(again, after=token)
            assert units(lines) == story.told_after(token)
            kept = await read(again, after=token, follow="false")
            assert units(kept) == story.told_after(token)
    await story.registry.store.close()
