"""A client of the simulated cluster that follows its events, through fleetds that die while it reads, a store whose
history is compacted, and restores: it must be told each event exactly once, in order."""

import asyncio
from collections.abc import Sequence
from contextlib import aclosing
from random import Random
from typing import TYPE_CHECKING

import msgspec
from msgspec.structs import replace

from fleetd.api import schema
from fleetd.api.event_schema import BEGIN, BEHIND, END, GAP, MARK, STATE
from fleetd.api.http import ApiError, Request, StreamedResponse
from fleetd.api.v2.event_lines import UNREADABLE_RECORD, Moment, read_kept
from fleetd.api.v2.events import Events
from fleetd.model.placement import Placement
from fleetd.model.token import parse_token
from fleetd.registry.records import EVENTS, RecordKey
from fleetd.registry.registry import Registry
from fleetd.store.protocol import Event, Unavailable
from tests.simulation.checker import Checker, Key
from tests.simulation.wire import Link, Wire

if TYPE_CHECKING:
    from tests.simulation.world import World

LIVES_S = (0.01, 0.1, 1.0, 5.0, 30.0)  # how long the fleetd lives that the client asks
LONGEST_PAUSE_S = 3.0  # until the client asks another one
LOSS = 0.05  # the share of answers of the store that are late
GONE = 410


class EachEventIsReadOnceInOrder(Checker):
    """A client that goes on after its last token each time is told what was written after its first one: each event
    once, in order, with the token of its transaction. It has to begin anew only where the store was restored."""

    def __init__(self, world: "World") -> None:
        super().__init__(world)
        self._random = Random(f"reader {world.seed}")
        self._written: list[Moment] = []  # and not read yet
        self._token = ""  # the last one; '': the client begins anew
        self._moment: list[schema.Event] = []  # lines after the last token
        self._restores = 0
        self._is_lost = False  # the store was restored, and the client was not told yet
        world.spawn(self._read())

    # What is written.

    def see_events(self, events: Sequence[tuple[RecordKey, Event]], before: dict[Key, Placement]) -> None:
        items = [event.item for path, event in events if path.kind is EVENTS and event.item is not None]
        self._written += read_kept(self.world.registry, items)

    def see_restore(self, before: dict[Key, Placement]) -> None:
        if not self.world.restore_lost_writes:
            return  # there is nothing to tell
        self._restores += 1
        self._written.clear()
        self._is_lost = self._token != ""

    def see_end(self) -> None:
        if self._is_lost:
            self.fail("a reader was not told that the store was restored")
        elif self._written:
            self.fail(f"never read: {self._written[0]}, after the token {self._token!r}")

    # The client.

    async def _read(self) -> None:
        link = Link(Random(self._random.random()))
        link.loses_answers = LOSS
        while True:
            wire = Wire("reader", self.world.server, link, lambda *_: None, self._see_failure, lambda _: False)
            events = Events(Registry(wire), now=self.world.loop.time)
            try:
                async with asyncio.timeout(self._random.choice(LIVES_S)):
                    while True:
                        await self._follow(events)
                        await asyncio.sleep(self._random.random())
            except (TimeoutError, Unavailable):
                pass
            except ApiError as error:
                self._begin_anew(error)
            finally:
                wire.cut()
            await asyncio.sleep(LONGEST_PAUSE_S * self._random.random())

    def _see_failure(self, who: str, error: BaseException) -> None:
        self.fail(f"{who}: {error}")

    def _begin_anew(self, error: ApiError) -> None:
        if error.status != GONE or not self._restores:
            self.fail(f"the stream of events answers {error.status}: {error}")
        self._token, self._is_lost = "", False

    async def _follow(self, events: Events) -> None:
        """One stream, until it ends."""
        self._moment.clear()
        query = (("after", self._token),) if self._token else ()
        response = await events.get(Request("GET", f"{schema.V2}/events", query=query), "")
        assert isinstance(response, StreamedResponse)
        async with aclosing(response.chunks) as chunks:
            async for chunk in chunks:
                for line in msgspec.json.Decoder(schema.Event).decode_lines(chunk):
                    if line.kind in (BEHIND, END):
                        return
                    self._take(line)

    def _take(self, line: schema.Event) -> None:
        if line.kind == BEGIN and not self._token:
            revision = parse_token(line.token).revision
            self._written = [moment for moment in self._written if moment.revision > revision]
        elif line.kind == GAP and line.detail == UNREADABLE_RECORD:
            self.fail(line.detail)
        elif line.kind not in (BEGIN, GAP, MARK, STATE):
            self._moment.append(replace(line, token=""))
        if line.token:
            self._token = line.token
            if not self._is_lost:
                self._compare(parse_token(line.token).revision)
            self._moment.clear()

    def _compare(self, revision: int) -> None:
        """The lines since the last token are what was written since then, up to this revision."""
        due = [moment for moment in self._written if moment.revision <= revision]
        expected = [line for moment in due for line in moment.lines]
        if self._moment != expected:
            self.fail(f"up to the revision {revision} was written {expected}, and is told {self._moment}")
        del self._written[: len(due)]
