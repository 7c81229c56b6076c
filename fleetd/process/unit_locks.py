"""The locks of units (Lock=): of a machine that reaches the store itself, and of a worker, by its servers."""

import asyncio

from fleetd.agent.unit_locks import LockGone, Taken
from fleetd.api.locking import Locking, SessionGone, SlotsDiffer
from fleetd.api.unit_lock import ask_for_unit
from fleetd.api.v2.locks import describe_wait
from fleetd.model.isolation import IsolationOptions
from fleetd.model.lock import SessionId, parse_session_id
from fleetd.registry.records import MalformedRecord
from fleetd.store import worker_wire as wire
from fleetd.store.protocol import Store
from fleetd.store.worker import Forbidden, WorkerStore

ASK_AGAIN_S = 4.0  # between the requests of a worker that waits; a server forgets it after FORGET_S


class ServerLocks:
    """See TakesLocks. `machine` is the id of this machine; `locking` goes by the event loop's clock."""

    def __init__(self, locking: Locking, machine: str) -> None:
        self._locking = locking
        self._machine = machine

    async def take(self, unit: str, options: IsolationOptions) -> Taken:
        try:
            held = await self._locking.acquire(ask_for_unit(unit, options, self._machine))
        except (SlotsDiffer, MalformedRecord) as error:
            raise LockGone(str(error)) from error
        return Taken(str(held.session), held.holder.token)

    async def renew(self, session: str) -> float:
        asked_s = asyncio.get_running_loop().time()
        try:
            held = await self._locking.renew(_parse(session))
            return max(0.0, asked_s - held.renewed)
        except (SessionGone, MalformedRecord) as error:
            raise LockGone(str(error)) from error

    async def release(self, session: str) -> None:
        try:
            await self._locking.release(_parse(session))
        except MalformedRecord as error:
            raise LockGone(str(error)) from error

    async def describe(self, unit: str, options: IsolationOptions) -> str:
        assert options.lock is not None
        return describe_wait(await self._locking.read(options.lock.name))


class WorkerLocks:
    """See TakesLocks. Which lock it is, the servers read in the placement of the unit."""

    def __init__(self, store: WorkerStore) -> None:
        self._store = store
        self._words: dict[str, str] = {}

    async def take(self, unit: str, options: IsolationOptions) -> Taken:
        while True:
            answer = await self._ask(wire.TAKE_LOCK, unit=unit)
            if answer.session:
                self._words.pop(unit, None)
                return Taken(answer.session, answer.token)
            self._words[unit] = answer.words
            await asyncio.sleep(ASK_AGAIN_S)

    async def renew(self, session: str) -> float:
        return (await self._ask(wire.RENEW_LOCK, session=session)).age_s

    async def release(self, session: str) -> None:
        await self._ask(wire.RELEASE_LOCK, session=session)

    async def describe(self, unit: str, options: IsolationOptions) -> str:
        return self._words.get(unit, "")

    async def _ask(self, action: str, *, unit: str = "", session: str = "") -> wire.LockAnswer:
        """Raises LockGone, StoreError."""
        try:
            answer = await self._store.ask_lock(action, unit, session)
        except Forbidden as error:
            raise LockGone(str(error)) from error
        if answer.gone:
            raise LockGone(answer.gone)
        return answer


def _parse(session: str) -> SessionId:
    parsed = parse_session_id(session)
    if parsed is None:
        raise LockGone(f"{session!r} is no session of a lock")
    return parsed


def take_locks_by_servers(store: Store) -> WorkerLocks | None:
    """What takes the locks of a worker's units; None if this is no store of a worker."""
    return WorkerLocks(store) if isinstance(store, WorkerStore) else None
