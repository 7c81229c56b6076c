"""Answers requests to this machine (model/machine_request.py): what units log here, what systemd says of them, and
what registries say of images.

Whatever goes wrong here concerns only the user who asked: nothing of it disturbs the units.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING, Protocol

import msgspec
from msgspec import structs

from fleetd.aio import Backoff
from fleetd.model.machine_request import (
    ANSWER_S,
    MAX_STREAMED_BYTES,
    MAX_TEXT_BYTES,
    ImageAnswer,
    JournalQuery,
    MachineAnswer,
    MachineRequest,
    UnitProperties,
    decode_request,
    encode_answer,
    pack_whole,
)
from fleetd.model.names import is_reserved
from fleetd.registry.registry import Registry
from fleetd.store.protocol import Compacted, CreatedAt, KeyValue, Put, StoreError, Unavailable
from fleetd.systemd.inspector import Entries, InspectionFailed
from fleetd.systemd.protocol import ManagerUnavailable

if TYPE_CHECKING:
    from fleetd.agent.answer_streams import AnswerStream, Dial

log = logging.getLogger(__name__)

AT_ONCE = 8  # requests that are answered together
WAITING = 32  # requests that wait for their turn; more are refused
FOLLOWED = 8  # logs that are followed together; more are refused
FOLLOWED_FOR_USER = FOLLOWED // 2  # of these, for one user
WITHIN_S = ANSWER_S - 1.0  # of the program that is asked; the rest is for the store
FIRST_RETRY_S, LONGEST_RETRY_S = 1.0, 60.0


class Inspects(Protocol):
    """Reads what a machine says of its units (systemd/inspector.py). All raise InspectionFailed."""

    async def read_journal(self, query: JournalQuery, most_bytes: int = MAX_TEXT_BYTES) -> Entries:
        """The entries, of at most so many bytes together."""

    def follow_journal(self, query: JournalQuery) -> AsyncGenerator[bytes, None]:
        """The entries, and those that come later, as they come."""

    async def show_units(self, units: Sequence[str]) -> tuple[UnitProperties, ...]:
        """The properties of these units, in this order."""

    async def resolve_image(self, image: str) -> ImageAnswer:
        """What the registry of this image says of it."""


class Answers:
    """Answers the requests to a machine. `shadows(name)` returns the machine's own unit of that name, '' if it has
    none: of those, nothing is told. `dial` connects to servers for streams; a machine without certificate has none."""

    def __init__(
        self,
        machine_id: str,
        registry: Registry,
        inspector: Inspects,
        shadows: Callable[[str], str],
        dial: "Dial | None" = None,
    ) -> None:
        self._machine_id = machine_id
        self._registry = registry
        self._store = registry.store
        self._inspector = inspector
        self._shadows = shadows
        self._dial = dial
        self._followed: Counter[str] = Counter()  # by the user for whom they are followed
        self._prefix = f"{registry.requests_prefix}{machine_id}/"
        self._turn = asyncio.Semaphore(AT_ONCE)
        self._tasks: dict[str, asyncio.Task[None]] = {}  # by key of the request

    async def run(self) -> None:
        """Answer requests until cancelled."""
        backoff = Backoff(FIRST_RETRY_S, LONGEST_RETRY_S)
        try:
            while True:
                try:
                    found = await self._store.range(self._prefix)
                    for item in found.items:
                        self._begin(item)
                    backoff.reset()
                    await self._follow(found.revision)
                    await asyncio.sleep(backoff.next_s())  # the store was closed
                except Compacted:
                    continue
                except Unavailable as error:
                    log.debug("cannot read the requests to this machine, retrying: %s", error)
                    await asyncio.sleep(backoff.next_s())
        finally:
            for task in self._tasks.values():
                task.cancel()
            await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    async def _follow(self, revision: int) -> None:
        async for changes in self._store.watch(self._prefix, revision):
            for event in changes.events:
                if event.item is not None:
                    self._begin(event.item)
                elif task := self._tasks.get(event.key):
                    task.cancel()  # nobody waits for it any more

    def _begin(self, item: KeyValue) -> None:
        """Answer this request, unless that is being done. One without a lease would stay for ever: fleet makes none."""
        if item.key in self._tasks or not item.lease:
            return
        task = asyncio.create_task(self._answer(item))
        self._tasks[item.key] = task
        task.add_done_callback(lambda _: self._tasks.pop(item.key, None))

    async def _answer(self, item: KeyValue) -> None:
        id_ = item.key.removeprefix(self._prefix)
        try:
            value = await self._find_answer(id_, item.value)
            if value:
                guard = CreatedAt(item.key, item.create_revision)  # the server that asked may have gone
                key = self._registry.answer_key(id_, self._machine_id)
                await self._store.transact([guard], [Put(key, value, item.lease)])
        except (StoreError, OSError) as error:
            log.debug("cannot answer a request: %s", error)
        except Exception:
            log.exception("cannot answer a request; please report this as a bug")

    async def _find_answer(self, id_: str, value: bytes) -> bytes:
        """What is to be written into the store; b'' if the answer went as a stream. Raises OSError if the server that
        takes the stream has gone."""
        try:
            request = decode_request(value)
        except ValueError as error:
            return _refuse(str(error))
        for unit in request.units:
            if refusal := self._refuse_unit(unit):
                return _refuse(refusal)
        if request.journal is not None and request.journal.follow:
            return await self._follow_journal(id_, request, request.journal)
        if len(self._tasks) - self._followed.total() > AT_ONCE + WAITING:
            return _refuse(f"it answers {len(self._tasks) - 1} requests already: try again")
        try:
            async with asyncio.timeout(WITHIN_S), self._turn:
                answer = await self._inspect(request)
        except TimeoutError:
            whom = f"the registry of {request.image}" if request.image else "its journal and its systemd"
            return _refuse(f"{whom} gave no answer within {WITHIN_S:g} s")
        except InspectionFailed as error:
            return _refuse(str(error))
        if packed := pack_whole(answer):
            return packed
        if request.stream_to and self._dial is not None and await self._stream(self._dial, id_, request, answer):
            return b""
        keeps_first = request.journal is not None and bool(request.journal.after)
        return encode_answer(answer, keeps_first=keeps_first)

    def _refuse_unit(self, unit: str) -> str:
        """Why nothing is told of this unit; '' if it may be one of fleet's."""
        if is_reserved(unit):  # some of these have no file
            return f"{unit} is not fleet's there: its name is that of what runs the machine itself"
        try:
            path = self._shadows(unit)
        except ManagerUnavailable:
            return "its fleetd is not connected to systemd yet: try again"
        return f"{unit} is not fleet's there: the machine has {path}" if path else ""

    async def _inspect(self, request: MachineRequest) -> MachineAnswer:
        units = await self._inspector.show_units(request.status) if request.status else ()
        image = await self._inspector.resolve_image(request.image) if request.image else None
        if request.journal is None:
            return MachineAnswer(units=units, image=image)
        most_bytes = MAX_STREAMED_BYTES if request.stream_to and self._dial else MAX_TEXT_BYTES
        entries = await self._inspector.read_journal(request.journal, most_bytes)
        return MachineAnswer(tuple(map(msgspec.Raw, entries.lines)), units, entries.is_cut, image=image)

    async def _stream(self, dial: "Dial", id_: str, request: MachineRequest, answer: MachineAnswer) -> bool:
        """Stream an answer. False if the server cannot be reached; raises OSError if it has gone."""
        from fleetd.agent.answer_streams import CannotDial, open_stream  # few answers need it

        try:
            async with open_stream(dial, request.stream_to, request.asker, id_) as stream:
                await stream.send(_iterate(answer.entries))
                await stream.end(structs.replace(answer, entries=()))
        except CannotDial as error:
            log.debug("cannot stream an answer, so that it is cut: %s", error)
            return False
        return True

    async def _follow_journal(self, id_: str, request: MachineRequest, query: JournalQuery) -> bytes:
        """Stream entries until the user has gone; or what is to be written into the store, why that cannot be."""
        if self._dial is None:
            return _refuse("it has no certificate with which it could send a stream (listen=https://… gives it one)")
        if self._followed.total() >= FOLLOWED:
            return _refuse(f"{FOLLOWED} logs are followed there already")
        if request.user and self._followed[request.user] >= FOLLOWED_FOR_USER:
            return _refuse(f"you follow {FOLLOWED_FOR_USER} logs there already, which is the limit for one user")
        from fleetd.agent.answer_streams import CannotDial, open_stream  # few logs are followed

        self._followed[request.user] += 1
        try:
            async with open_stream(self._dial, request.stream_to, request.asker, id_) as stream:
                await self._send_journal(stream, query)
        except CannotDial as error:
            return _refuse(f"it cannot send a stream: {error}")
        finally:
            self._followed -= Counter([request.user])  # without those who have none
        return b""

    async def _send_journal(self, stream: "AnswerStream", query: JournalQuery) -> None:
        failure = "journalctl has ended there"
        try:
            async with aclosing(self._inspector.follow_journal(query)) as lines:
                await stream.send(lines)
        except InspectionFailed as error:
            failure = str(error)
        await stream.end(MachineAnswer(failure=failure))


async def _iterate(entries: Sequence[msgspec.Raw]) -> AsyncIterator[bytes]:
    for entry in entries:
        yield bytes(entry)


def _refuse(why: str) -> bytes:
    return encode_answer(MachineAnswer(failure=why))
