"""Locks of units on workers (Lock=): a server takes, renews and releases them for the worker that runs the unit.

Which lock it is, the server reads in the unit's placement: a worker can have no other. A worker asks again and again
while it waits; a server keeps its place in the line as long as it does.
"""

import asyncio
from typing import Any

import msgspec

from fleetd.api.locking import Held, Locking, SessionGone, SlotsDiffer
from fleetd.api.unit_lock import ask_for_unit, owner_of
from fleetd.api.v2.locks import describe_wait
from fleetd.api.worker.errors import Forbidden
from fleetd.model.isolation import IsolationOptions
from fleetd.model.isolation_options import isolation_options_of
from fleetd.model.lock import SessionId, parse_session_id
from fleetd.model.unit import TargetState
from fleetd.registry.records import PLACEMENTS, MalformedRecord
from fleetd.registry.registry import Registry
from fleetd.store import worker_wire as wire

ANSWER_S = 1.0  # how long an answer may take: a worker gives a server up soon after
FORGET_S = 15.0  # after so long without a request a place in the line is given up


class _Place(msgspec.Struct):
    """The place of one unit in a line. Once `is_given`, the worker was told the session: it may renew that with another
    server, so that it is not ours to release."""

    options: IsolationOptions
    taking: "asyncio.Task[Held]"
    forgetting: asyncio.TimerHandle | None = None
    is_given: bool = False


class WorkerLocks:
    """Answers the call `lock` of workers. `locking` goes by the event loop's clock."""

    def __init__(self, registry: Registry, locking: Locking) -> None:
        self._registry = registry
        self._locking = locking
        self._places: dict[tuple[str, str], _Place] = {}

    def close(self) -> None:
        """Give up all places."""
        for key in list(self._places):
            self._give_up(key)

    async def answer(self, machine: str, request: wire.LockRequest) -> wire.LockAnswer:
        """The answer, but for the store's revision and history. Raises Forbidden, StoreError, ValueError."""
        asked_s, age_s = asyncio.get_running_loop().time(), 0.0
        if request.session:
            self._forget_given(machine, request.session)
        try:
            match request.action:
                case wire.TAKE_LOCK:
                    return await self._take(machine, request.unit)
                case wire.RENEW_LOCK:
                    session = await self._find_own(machine, request.session)
                    age_s = max(0.0, asked_s - (await self._locking.renew(session)).renewed)
                case wire.RELEASE_LOCK:
                    session = await self._find_own(machine, request.session)
                    await self._locking.release(session)
                case _:
                    raise ValueError(f"{request.action!r} is nothing that is done with a lock")
        except (SlotsDiffer, SessionGone, MalformedRecord) as error:
            return _answer(gone=str(error))
        return _answer(session=request.session, age_s=age_s)

    async def _take(self, machine: str, unit: str) -> wire.LockAnswer:
        """Who asks for the same again, because an answer was lost, gets the same."""
        options = await self._find_options(machine, unit)
        assert options.lock is not None
        key = machine, unit
        place = self._places.get(key)
        if place is not None and place.options != options:
            self._give_up(key)
            place = None
        if place is None:
            if words := await self._find_other(machine, options.lock.name):
                return _answer(words=words)
            taking = asyncio.create_task(self._locking.acquire(ask_for_unit(unit, options, machine)))
            place = self._places[key] = _Place(options, taking)
        self._expect_again(key, place)
        await asyncio.wait([place.taking], timeout=ANSWER_S)
        if not place.taking.done():
            return _answer(words=describe_wait(await self._locking.read(options.lock.name)))
        if place.taking.cancelled():
            return _answer(gone="the place in the line was given up")
        if error := place.taking.exception():
            self._give_up(key)
            raise error
        held = place.taking.result()
        place.is_given = True
        return _answer(session=str(held.session), token=held.holder.token)

    async def _find_other(self, machine: str, lock: str) -> str:
        """Whom a lock is held by that this machine has already, or waits for, with another session; '' if it has none.
        Of a lock with several slots, a machine has one: else a worker's root could have all of them."""
        view = await self._locking.read(lock)
        present = {session.lease for session in view.sessions}
        waits = any(
            key[0] == machine and place.options.lock is not None and place.options.lock.name == lock
            for key, place in self._places.items()
        )
        has_it = any(each.by == owner_of(machine) and each.lease in present for each in view.record.holders)
        return describe_wait(view) if waits or has_it else ""

    async def _find_options(self, machine: str, unit: str) -> IsolationOptions:
        """What the unit asks for, as it is placed there. Raises Forbidden if it is not to run there with a lock."""
        item = await self._registry.store.get(self._registry.key(PLACEMENTS, machine, unit))
        placement = PLACEMENTS.decode(item) if item else None
        if placement is not None and placement.is_active and placement.target is TargetState.LAUNCHED:
            options = isolation_options_of(placement.content, unit)
            if options.lock is not None:
                return options
        raise Forbidden(f"no unit {unit} with a lock is to run on this machine")

    async def _find_own(self, machine: str, text: str) -> SessionId:
        """The session with this id, if this machine holds a lock with it. Raises SessionGone, Forbidden."""
        session = parse_session_id(text)
        if session is None:
            raise ValueError("this is no session of a lock")
        holder = (await self._locking.read(session.name)).record.find(session.hex)
        if holder is None:
            raise SessionGone("it was released, or taken away with `fleetctl unlock --force`")
        if holder.by != owner_of(machine):
            raise Forbidden("another one holds this lock")
        return session

    def _forget_given(self, machine: str, session: str) -> None:
        """The worker has the answer that gave it this session, and asks for another one if it cannot use it."""
        for key, place in list(self._places.items()):
            if key[0] == machine and place.is_given and str(place.taking.result().session) == session:
                self._give_up(key)

    def _expect_again(self, key: tuple[str, str], place: _Place) -> None:
        if place.forgetting:
            place.forgetting.cancel()
        place.forgetting = asyncio.get_running_loop().call_later(FORGET_S, self._give_up, key)

    def _give_up(self, key: tuple[str, str]) -> None:
        place = self._places.pop(key, None)
        if place is None:
            return
        if place.forgetting:
            place.forgetting.cancel()
        if not place.is_given:
            place.taking.add_done_callback(self._abandon)
            place.taking.cancel()

    def _abandon(self, taking: "asyncio.Task[Held]") -> None:
        if not taking.cancelled() and not taking.exception():
            self._locking.abandon(taking.result().session)


def _answer(**fields: Any) -> wire.LockAnswer:
    return wire.LockAnswer(store_revision=0, history="", **fields)
