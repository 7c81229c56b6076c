"""Asks machines, through the store, what their units log and what systemd says of them (model/machine_request.py)."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import aclosing, suppress

from fleetd.api.http import ApiError
from fleetd.api.worker.limits import Allowance
from fleetd.model.machine import Capability, Machine, MachineMode
from fleetd.model.machine_request import (
    ANSWER_S,
    LEASE_S,
    MAX_ANSWER_BYTES,
    InvalidAnswer,
    MachineAnswer,
    MachineRequest,
    decode_answer,
    encode_request,
)
from fleetd.registry.records import MACHINES
from fleetd.registry.registry import Registry
from fleetd.registry.transactions import WriteSet, cut_into_transactions
from fleetd.store.protocol import Compacted, KeyValue, Put, StoreError

MAX_MACHINES = 128  # that are asked at once
QUESTIONS_PER_S, QUESTIONS_AT_ONCE = 10.0, 20.0
BYTES_PER_S, BYTES_AT_ONCE = 256.0 * 2**10, float(MAX_MACHINES * MAX_ANSWER_BYTES)
REVOKE_S = 2.0


class Asking:
    """Asks on behalf of this member. `machine` is that, `now` a monotonic clock, `new_id` returns a unique word."""

    def __init__(
        self,
        registry: Registry,
        machine: Callable[[], Machine],
        new_id: Callable[[], str],
        now: Callable[[], float],
    ) -> None:
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
        if len(requests) > MAX_MACHINES:
            raise ApiError(
                400, f"this concerns {len(requests)} machines, and {MAX_MACHINES} are asked at once: name fewer units"
            )
        found = await self._registry.get_many(MACHINES, [(id_,) for id_ in requests])
        absences = {id_: _explain_absence(found.get((id_,))) for id_ in requests}
        asked = {id_: request for id_, request in requests.items() if not absences[id_]}
        answers: dict[str, MachineAnswer] = {}
        if asked:
            self._spend(len(asked))
            answers = await self._ask(asked)
        silence = f"it gave no answer within {ANSWER_S:g} s"
        return {id_: answers.get(id_) or MachineAnswer(failure=absences[id_] or silence) for id_ in sorted(requests)}

    @property
    def asker(self) -> str:
        """The id of this member."""
        return self._machine().id

    def _spend(self, machines: int) -> None:
        """Raises ApiError over a limit."""
        now_s = self._now()
        if not (self._questions.is_left(now_s) and self._bytes.is_left(now_s)):
            raise ApiError(503, "this fleetd asks other machines very often already: try again in a second")
        self._questions.spend(1)
        self._bytes.spend(machines * MAX_ANSWER_BYTES)

    async def _ask(self, requests: Mapping[str, MachineRequest]) -> dict[str, MachineAnswer]:
        """The answers that come in time."""
        id_ = self._new_id()
        lease = await self._store.grant(LEASE_S)
        try:
            puts = [
                Put(self._registry.request_key(machine, id_), encode_request(request), lease)
                for machine, request in requests.items()
            ]
            first = 0
            for write_set in cut_into_transactions([WriteSet((), (put,)) for put in puts]):
                revision = await self._registry.write(write_set)
                first = first or revision
            return await self._collect(id_, requests, first - 1)
        finally:
            with suppress(
                StoreError, TimeoutError
            ):  # its end deletes requests and answers, at the latest after LEASE_S
                async with asyncio.timeout(REVOKE_S):
                    await self._store.revoke(lease)

    async def _collect(
        self, id_: str, requests: Mapping[str, MachineRequest], revision: int
    ) -> dict[str, MachineAnswer]:
        prefix = self._registry.answer_key(id_, "")
        answers: dict[str, MachineAnswer] = {}
        with suppress(TimeoutError, Compacted):
            async with asyncio.timeout(ANSWER_S), aclosing(self._store.watch(prefix, revision)) as watch:
                async for changes in watch:
                    items = [event.item for event in changes.events if event.item is not None]
                    answers |= _read(items, prefix, requests)
                    if len(answers) == len(requests):
                        break
        return answers


def _read(items: Sequence[KeyValue], prefix: str, requests: Mapping[str, MachineRequest]) -> dict[str, MachineAnswer]:
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
