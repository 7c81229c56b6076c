"""Asks machines, through the store, what their units log and what systemd says of them (model/machine_request.py)."""

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager, aclosing, asynccontextmanager, nullcontext, suppress
from typing import TYPE_CHECKING

import msgspec
from msgspec.structs import replace

from fleetd.api.http import ApiError
from fleetd.api.worker.limits import Allowance
from fleetd.model.answer_stream import ALIVE_S
from fleetd.model.machine import Capability, Machine, MachineMode
from fleetd.model.machine_request import (
    ANSWER_S,
    LEASE_S,
    MAX_ANSWER_BYTES,
    MAX_LINES,
    MAX_STREAMED_BYTES,
    InvalidAnswer,
    MachineAnswer,
    MachineRequest,
    decode_answer,
    encode_request,
)
from fleetd.registry.records import MACHINES
from fleetd.registry.registry import Registry
from fleetd.registry.transactions import WriteSet, cut_into_transactions
from fleetd.store.protocol import Compacted, KeyValue, LeaseNotFound, Put, StoreError, Unavailable

if TYPE_CHECKING:
    from fleetd.api.peer_streams import PeerStreams

MAX_MACHINES = 128  # that are asked at once
QUESTIONS_PER_S, QUESTIONS_AT_ONCE = 10.0, 20.0
BYTES_PER_S, BYTES_AT_ONCE = 256.0 * 2**10, float(MAX_MACHINES * MAX_ANSWER_BYTES)
REVOKE_S = 2.0
QUEUED = 16  # items of a question that wait to be read; then its machines wait
MAX_COLLECTED_BYTES = 16 * 2**20  # of streams that are collected at a time, for all questions
SILENCE = f"it gave no answer within {ANSWER_S:g} s"
TOO_MUCH = "it sends more than a machine may answer at once"


Item = tuple[str, bytes | MachineAnswer]  # of a machine: an entry of its journal, or the end


class Expected:
    """What answers a question. `items` has what comes, `begun` the machines whose streams have begun."""

    def __init__(self, machines: Collection[str]) -> None:
        self.machines = frozenset(machines)
        self.begun: set[str] = set()
        self.items: asyncio.Queue[Item] = asyncio.Queue(QUEUED)
        self.tasks: set[asyncio.Task[None]] = set()


class Question(msgspec.Struct, frozen=True):
    """A question to machines, whose requests were written after `revision` of the store."""

    id: str
    lease: int
    revision: int
    machines: frozenset[str]
    expected: Expected


class Asking:
    """Asks on behalf of this server. `machine` is that, `now` a monotonic clock, `new_id` returns a unique word."""

    def __init__(
        self,
        registry: Registry,
        machine: Callable[[], Machine],
        new_id: Callable[[], str],
        now: Callable[[], float],
        peers: "PeerStreams | None" = None,
    ) -> None:
        """`peers` takes what machines stream; None: they cannot."""
        self._peers = peers
        self._collected = 0  # bytes
        self._registry = registry
        self._store = registry.store
        self._machine = machine
        self._new_id = new_id
        self._now = now
        self._questions = Allowance(QUESTIONS_PER_S, QUESTIONS_AT_ONCE, now())
        self._bytes = Allowance(BYTES_PER_S, BYTES_AT_ONCE, now())

    async def ask(self, requests: Mapping[str, MachineRequest]) -> dict[str, MachineAnswer]:
        """The answer of each machine, by id; that of one that cannot answer says why. Raises ApiError if too many are
        asked, or too often; Unavailable."""
        asked, absences = await self._prepare(requests)
        answers: dict[str, MachineAnswer] = {}
        if asked:
            async with self._question(asked) as question:
                answers = await self._collect(question)
        return {id_: answers.get(id_) or MachineAnswer(failure=absences[id_] or SILENCE) for id_ in sorted(requests)}

    async def begin_to_follow(self, requests: Mapping[str, MachineRequest]) -> AsyncGenerator[Item, None]:
        """What machines send as it comes, until all have ended: machine and entry, or machine and its end; '' and b''
        now and then. Raises ApiError, Unavailable."""
        if self._peers is None:
            raise ApiError(
                409,
                "logs cannot be followed through this fleetd: machines send them to the addresses of peer_listen= in "
                "its fleet.conf, and it has none",
            )
        return self._follow(*await self._prepare(requests))

    async def _follow(
        self, asked: Mapping[str, MachineRequest], absences: Mapping[str, str]
    ) -> AsyncGenerator[Item, None]:
        for machine, why in absences.items():
            if why:
                yield machine, MachineAnswer(failure=why)
        if not asked:
            return
        left = set(asked)
        async with self._question(asked) as question, aclosing(self._items(question)) as items:
            keeping = asyncio.create_task(self._keep(question))
            silent_at_s = self._now() + ANSWER_S
            following = asyncio.ensure_future(anext(items))
            try:
                while left:
                    silent = left - question.expected.begun
                    pause_s = max(0.0, silent_at_s - self._now()) if silent else ALIVE_S
                    await asyncio.wait([following, keeping], timeout=pause_s, return_when=asyncio.FIRST_COMPLETED)
                    if keeping.done():
                        keeping.result()
                    if following.done():
                        machine, item = following.result()
                        following = asyncio.ensure_future(anext(items))
                        if machine in left:
                            yield machine, item
                        if isinstance(item, MachineAnswer):
                            left.discard(machine)
                    elif silent and self._now() >= silent_at_s:
                        for machine in sorted(left - question.expected.begun):
                            left.discard(machine)
                            yield machine, MachineAnswer(failure=SILENCE)
                    else:
                        yield "", b""
            except StoreError as error:
                for machine in sorted(left):
                    yield machine, MachineAnswer(failure=f"the store does not answer this fleetd any more: {error}")
            finally:
                for task in (following, keeping):
                    task.cancel()
                await asyncio.gather(following, keeping, return_exceptions=True)

    @property
    def asker(self) -> str:
        """The id of this server."""
        return self._machine().id

    async def _prepare(
        self, requests: Mapping[str, MachineRequest]
    ) -> tuple[dict[str, MachineRequest], dict[str, str]]:
        """The requests to the machines that can be asked, and why each of the others cannot, '' for these. Raises
        ApiError over a limit."""
        absences = await self._find_absences(requests)
        asked = self._address({id_: request for id_, request in requests.items() if not absences[id_]})
        if asked:
            self._spend(len(asked))
        return asked, absences

    async def _find_absences(self, requests: Mapping[str, MachineRequest]) -> dict[str, str]:
        """Why each machine cannot be asked, '' if it can. Raises ApiError if they are too many."""
        if len(requests) > MAX_MACHINES:
            raise ApiError(
                400, f"this concerns {len(requests)} machines, and {MAX_MACHINES} are asked at once: name fewer units"
            )
        found = await self._registry.get_many(MACHINES, [(id_,) for id_ in requests])
        return {id_: _explain_absence(found.get((id_,))) for id_ in requests}

    def _address(self, requests: Mapping[str, MachineRequest]) -> dict[str, MachineRequest]:
        """The requests with the address to which streams go, if there is one."""
        if self._peers is None:
            return dict(requests)
        return {id_: replace(request, stream_to=self._peers.address()) for id_, request in requests.items()}

    def _spend(self, machines: int) -> None:
        """Raises ApiError over a limit."""
        now_s = self._now()
        if not (self._questions.is_left(now_s) and self._bytes.is_left(now_s)):
            raise ApiError(503, "this fleetd asks other machines very often already: try again in a second")
        self._questions.spend(1)
        self._bytes.spend(machines * MAX_ANSWER_BYTES)

    @asynccontextmanager
    async def _question(self, requests: Mapping[str, MachineRequest]) -> AsyncGenerator["Question", None]:
        """Ask machines, for as long as the `async with` block runs."""
        id_ = self._new_id()
        lease = await self._store.grant(LEASE_S)
        try:
            puts = [
                Put(self._registry.request_key(machine, id_), encode_request(request), lease)
                for machine, request in requests.items()
            ]
            with self._expect(id_, requests) as expected:
                first = 0
                for write_set in cut_into_transactions([WriteSet((), (put,)) for put in puts]):
                    revision = await self._registry.write(write_set)
                    first = first or revision
                yield Question(id_, lease, first - 1, frozenset(requests), expected)
        finally:
            # The end of the lease deletes requests and answers, at the latest after LEASE_S.
            with suppress(StoreError, TimeoutError):
                async with asyncio.timeout(REVOKE_S):
                    await self._store.revoke(lease)

    def _expect(self, id_: str, machines: Collection[str]) -> AbstractContextManager[Expected]:
        return self._peers.expect(id_, machines) if self._peers is not None else nullcontext(Expected(machines))

    async def _collect(self, question: "Question") -> dict[str, MachineAnswer]:
        """The answers that come in time."""
        answers: dict[str, MachineAnswer] = {}
        entries: dict[str, list[msgspec.Raw]] = {}
        taken: Counter[str] = Counter()  # bytes, by machine
        try:
            with suppress(TimeoutError, Compacted):
                async with asyncio.timeout(ANSWER_S), aclosing(self._items(question)) as items:
                    async for machine, item in items:
                        if machine in answers:
                            continue
                        if isinstance(item, MachineAnswer):
                            streamed = tuple(entries.pop(machine, ()))
                            answers[machine] = replace(item, entries=streamed) if streamed else item
                        else:
                            entries.setdefault(machine, []).append(msgspec.Raw(item))
                            taken[machine] += len(item)
                            self._collected += len(item)
                            if taken[machine] > MAX_STREAMED_BYTES or len(entries[machine]) > MAX_LINES:
                                del entries[machine]
                                self._collected -= taken.pop(machine)
                                answers[machine] = MachineAnswer(failure=TOO_MUCH)
                        if self._collected > MAX_COLLECTED_BYTES:
                            break
                        if len(answers) == len(question.machines):
                            break
        finally:
            self._collected -= taken.total()
        if entries and taken:
            why = "this fleetd has no room for all that it sends"
            answers |= {machine: MachineAnswer(failure=why) for machine in entries if machine not in answers}
        return answers

    async def _items(self, question: "Question") -> AsyncGenerator[Item, None]:
        """What the machines answer, in the store and by streams. Raises Compacted, Unavailable."""
        items = question.expected.items
        watching = asyncio.create_task(self._watch_answers(question))
        try:
            while True:
                getting = asyncio.ensure_future(items.get())
                try:
                    await asyncio.wait([getting, watching], return_when=asyncio.FIRST_COMPLETED)
                    if not getting.done():
                        watching.result()
                        raise Unavailable("the store was closed")
                    item = getting.result()
                finally:
                    getting.cancel()
                yield item
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)

    async def _watch_answers(self, question: "Question") -> None:
        prefix = self._registry.answer_key(question.id, "")
        async with aclosing(self._store.watch(prefix, question.revision)) as watch:
            async for changes in watch:
                found = [event.item for event in changes.events if event.item is not None]
                for answer in _read(found, prefix, question.machines).items():
                    await question.expected.items.put(answer)

    async def _keep(self, question: "Question") -> None:
        """Keep the question alive while its answers are followed. Raises Unavailable if it is lost."""
        lost_at_s = self._now() + LEASE_S
        while True:
            await asyncio.sleep(LEASE_S / 3)
            try:
                await self._store.keep_alive(question.lease)
                lost_at_s = self._now() + LEASE_S
            except LeaseNotFound:
                raise Unavailable("the store has lost the question: was it restored?") from None
            except Unavailable:
                if self._now() >= lost_at_s:
                    raise


def _read(items: Sequence[KeyValue], prefix: str, requests: Collection[str]) -> dict[str, MachineAnswer]:
    """The answers of machines that were asked."""
    found: dict[str, MachineAnswer] = {}
    for item in items:
        machine = item.key.removeprefix(prefix)
        if machine not in requests:
            continue
        try:
            found[machine] = decode_answer(item.value)
        except InvalidAnswer as error:
            found[machine] = MachineAnswer(failure=str(error))
    return found


def _explain_absence(machine: Machine | None) -> str:
    """Why the machine cannot be asked; '' if it can."""
    if machine is None:
        return "it is not in the cluster now"
    if machine.mode is MachineMode.PARKED:
        return "its fleetd is stopped"
    if not machine.capabilities.get(Capability.ANSWERS):
        version = f"fleetd {machine.version}" if machine.version else "an older fleetd"
        return f"it runs {version}, which does not answer this: update fleetd there"
    return ""
