"""The locks of the units here (Lock=): taken before the unit starts, renewed while it runs, and released once it rests.

A lock counts from the sending of the last renewal that was answered, as it does for `fleetctl lock`. When that is too
long ago systemd stops the unit (agent/isolation.py), whatever fleetd does. A lock that is lost is taken anew only when
the unit is seen at rest.
"""

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable, Collection, Coroutine, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol
from weakref import WeakValueDictionary

import msgspec

from fleetd.agent.ledger import HeldLock, Ledger
from fleetd.aio import Backoff
from fleetd.model.isolation import NOT_ISOLATED, IsolationOptions
from fleetd.reconciler.observed import Observed
from fleetd.small_files import replace_file
from fleetd.store.protocol import StoreError
from fleetd.systemd.protocol import ServiceManagerError

log = logging.getLogger(__name__)

FIRST_WORDS_S, WORDS_S = 1.0, 60.0  # how often somebody looks whom a unit waits for
FIRST_RETRY_S, LONGEST_RETRY_S = 1.0, 15.0
RENEW_PART = 1 / 3


class LockGone(Exception):
    """The session does not hold the lock any more, or cannot have it. The message says why."""


class Taken(msgspec.Struct, frozen=True):
    """A session that holds a lock, and its fencing token."""

    session: str
    token: str


class TakesLocks(Protocol):
    """The locks of the cluster, for units of this machine."""

    async def take(self, unit: str, options: IsolationOptions) -> Taken:
        """Wait for the unit's lock, in line, and take it. Cancelled, it takes nothing. Raises LockGone, StoreError."""

    async def renew(self, session: str) -> float:
        """Renew a session, unless that was done a moment ago. Returns how long ago, in seconds, before it was asked
        for. Raises LockGone, StoreError."""

    async def release(self, session: str) -> None:
        """Release a session; one that is gone is no error. Raises LockGone, StoreError."""

    async def describe(self, unit: str, options: IsolationOptions) -> str:
        """Whom the lock is held by, in words. Raises StoreError."""


class UnitLocks:
    """The locks of one machine's units. `mark` has the agent look at a unit again, `on_heard` is called when a renewal
    was answered. `boot_now` is the machine's boot clock, `permit` has systemd start these units and no others, and
    `runs` asks it about one. Tokens are written into `directory`."""

    def __init__(
        self,
        locks: TakesLocks,
        ledger: Ledger,
        directory: Path,
        boot_now: Callable[[], float],
        mark: Callable[[str], None],
        on_heard: Callable[[], None],
        permit: Callable[[Collection[str]], None],
        runs: Callable[[str], Awaitable[bool]],
    ) -> None:
        self._locks = locks
        self._ledger = ledger
        self._directory = directory
        self._boot_now = boot_now
        self._mark = mark
        self._on_heard = on_heard
        self._permit = permit
        self._runs = runs
        self._held: dict[str, HeldLock] = dict(ledger.locks)
        self._heard_s: dict[str, float] = {name: held.heard_s for name, held in self._held.items()}
        self._lost: dict[str, str] = {}  # units that may run without the lock that they had → why
        self._wanted: dict[str, IsolationOptions] = {}  # units that wait
        self._words: dict[str, str] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}  # by unit: it takes its lock, or renews it
        # By the name of a lock, while units here wait for it: one at a time does so elsewhere.
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._freed = asyncio.Event()  # the next lock of this machine is free for another of its units
        self._releasing: dict[asyncio.Task[None], None] = {}

    @property
    def heard_s(self) -> Mapping[str, float]:
        """When the last renewal that was answered was sent, by the boot clock, for each unit that may run by its
        lock."""
        return self._heard_s

    @property
    def names(self) -> tuple[str, ...]:
        """The units that hold a lock, or have to stop because they have lost it."""
        return (*self._held, *self._lost)

    def resume(self) -> None:
        """Renew what an earlier fleetd held."""
        self._permit(tuple(self._held))
        for name, held in self._held.items():
            self._begin(name, self._keep(name, held))

    def holds(self, name: str, options: IsolationOptions) -> bool:
        """True if the unit has the lock that these options ask for."""
        held = self._held.get(name)
        return held is not None and held.lock == options.lock

    def note(self, name: str) -> str:
        """Whom the unit waits for, or why it lost its lock; ''."""
        if name in self._lost:
            return f"stopped, because its lock is lost: {self._lost[name]}"
        options = self._wanted.get(name)
        if options is None or options.lock is None:
            return ""
        words = self._words.get(name, "")
        return f"waits for lock {options.lock.name}" + f", {words}" * bool(words)

    def waits(self, name: str) -> bool:
        """True if the unit would be started if it had its lock."""
        return name in self._wanted

    def settle(
        self,
        observed: Mapping[str, Observed],
        written: Mapping[str, IsolationOptions],
        waiting: Mapping[str, IsolationOptions],
        starting: Collection[str],
    ) -> None:
        """Take the locks that the `waiting` units ask for, and release those of units at rest that are not `starting`.
        `written` says what the units ask for as they are written here."""
        for name, seen in observed.items():
            runs = seen.ours and seen.busy
            if name in self._lost and not runs:
                del self._lost[name]
                self._heard_s.pop(name, None)
            held = self._held.get(name)
            if held is not None and name not in starting:
                is_kept = runs and (written.get(name, NOT_ISOLATED).lock == held.lock or _is_changing(seen))
                if not is_kept:
                    self._release(name, held, has_rested=not runs)
            if name in waiting and name not in self._held and name not in self._lost:
                self._want(name, waiting[name])
            elif name not in waiting:
                self._unwant(name)

    def close(self) -> None:
        """Renew nothing any more. What is held stays held for the next fleetd."""
        for task in (*self._tasks.values(), *self._releasing):
            task.cancel()

    # Taking.

    def _want(self, name: str, options: IsolationOptions) -> None:
        if self._wanted.get(name) == options:
            return
        self._unwant(name)
        self._wanted[name] = options
        self._begin(name, self._take(name, options))

    def _unwant(self, name: str) -> None:
        if self._wanted.pop(name, None) is not None:
            self._words.pop(name, None)
            self._end(name)

    async def _take(self, name: str, options: IsolationOptions) -> None:
        assert options.lock is not None
        log.info("waiting for its lock", extra={"unit": name, "lock": options.lock.name})
        describing = asyncio.create_task(self._describe(name, options))
        try:
            held = await self._take_in_turn(name, options)
        finally:
            describing.cancel()
        self._wanted.pop(name, None)
        self._words.pop(name, None)
        self._mark(name)
        await self._keep(name, held)

    async def _take_in_turn(self, name: str, options: IsolationOptions) -> HeldLock:
        """A lock has one holder on this machine; the other units here wait for that."""
        assert options.lock is not None
        lock, backoff = options.lock.name, Backoff(FIRST_RETRY_S, LONGEST_RETRY_S)
        async with self._turns.setdefault(lock, asyncio.Lock()):
            while any(held.lock.name == lock for held in self._held.values()):
                await self._freed.wait()
            while True:
                try:
                    return await self._take_once(name, options)
                except (LockGone, StoreError, OSError) as error:
                    self._say(name, str(error))
                    await asyncio.sleep(backoff.next_s())

    async def _take_once(self, name: str, options: IsolationOptions) -> HeldLock:
        """Take the lock, and renew it, so that it is known since when it counts. Raises LockGone, StoreError,
        OSError."""
        assert options.lock is not None
        taken = await self._locks.take(name, options)
        try:
            sent_s = self._boot_now()
            sent_s -= await self._locks.renew(taken.session)
            renew_s = min(options.hold_s, options.isolation_s) * RENEW_PART
            held = HeldLock(options.lock, taken.session, taken.token, options.hold_s, renew_s, sent_s)
            self._put(name, held)
        except BaseException:
            self._in_background(self._release_session(taken.session, options.hold_s))
            raise
        log.info("has its lock", extra={"unit": name, "lock": options.lock.name, "token": taken.token})
        return held

    async def _describe(self, name: str, options: IsolationOptions) -> None:
        """Keep the words of whom the unit waits for."""
        pause_s = FIRST_WORDS_S
        while True:
            await asyncio.sleep(pause_s)
            pause_s = WORDS_S
            with suppress(StoreError):
                self._say(name, await self._locks.describe(name, options))

    def _say(self, name: str, words: str) -> None:
        if self._words.get(name) != words:
            self._words[name] = words
            self._mark(name)

    # Holding.

    async def _keep(self, name: str, held: HeldLock) -> None:
        """Renew the lock until it is lost."""
        pause_s = held.heard_s + held.renew_s - self._boot_now()
        while True:
            await asyncio.sleep(pause_s)
            pause_s = held.renew_s
            sent_s = self._boot_now()
            try:
                sent_s -= await self._locks.renew(held.session)
                self._note_heard(name, held, sent_s)
            except LockGone as error:
                self._lose(name, held, str(error))
                return
            except (StoreError, OSError) as error:
                log.debug("lock %s is not renewed yet: %s", held.lock.name, error)
                pause_s /= 4

    def _note_heard(self, name: str, held: HeldLock, sent_s: float) -> None:
        self._held[name] = msgspec.structs.replace(held, heard_s=sent_s)
        self._heard_s[name] = sent_s
        self._ledger.put_locks(dict(self._held))
        self._on_heard()

    def _lose(self, name: str, held: HeldLock, why: str) -> None:
        log.warning("its lock is lost: %s", why, extra={"unit": name, "lock": held.lock.name})
        self._lost[name] = why
        self._forget(name, held)
        self._mark(name)

    def _release(self, name: str, held: HeldLock, *, has_rested: bool) -> None:
        """The unit rests, or runs with other content, which asks for no lock: the next one may have it."""
        log.info("releases its lock", extra={"unit": name, "lock": held.lock.name})
        self._end(name)
        self._forget(name, held)
        if has_rested:
            self._in_background(self._release_at_rest(name, held))
        else:
            self._heard_s.pop(name, None)
            self._in_background(self._release_session(held.session, held.ttl_s))

    async def _release_at_rest(self, name: str, held: HeldLock) -> None:
        """Somebody may have started it just before it lost its permit: then it is stopped first."""
        while name not in self._held and await self._may_run(name):
            self._lost[name] = "it was to be released, and something else than fleet has started the unit"
            self._mark(name)
            await asyncio.sleep(FIRST_RETRY_S / 4)
        if name not in self._held:
            self._lost.pop(name, None)
            self._heard_s.pop(name, None)
        await self._release_session(held.session, held.ttl_s)

    async def _may_run(self, name: str) -> bool:
        try:
            return await self._runs(name)
        except ServiceManagerError:
            return True

    def _in_background(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._releasing[task] = None
        task.add_done_callback(lambda done: self._releasing.pop(done, None))

    async def _release_session(self, session: str, ttl_s: float) -> None:
        """Release it as soon as the store answers. After a while its lease has ended, and others wait for that."""
        ends_s = self._boot_now() + 2 * ttl_s
        while self._boot_now() < ends_s:
            try:
                await self._locks.release(session)
                return
            except LockGone:
                return
            except StoreError as error:
                log.info("lock %s is not released yet: %s", session, error)
                await asyncio.sleep(FIRST_RETRY_S)

    # What is kept.

    def _put(self, name: str, held: HeldLock) -> None:
        """Raises OSError; then the unit does not have the lock."""
        self._directory.mkdir(mode=0o755, parents=True, exist_ok=True)
        replace_file(self._path(held), f"FLEET_LOCK_TOKEN={held.token}\n", sync=lambda file: None, for_all=True)
        self._ledger.put_locks({**self._held, name: held})
        self._held[name] = held
        self._heard_s[name] = held.heard_s
        self._permit(tuple(self._held))

    def _forget(self, name: str, held: HeldLock) -> None:
        del self._held[name]
        freed, self._freed = self._freed, asyncio.Event()
        freed.set()
        try:
            self._permit(tuple(self._held))
            self._ledger.put_locks(dict(self._held))
            with suppress(FileNotFoundError):
                os.unlink(self._path(held))
        except OSError as error:
            log.warning("cannot note that a lock is not held any more: %s", error)

    def _path(self, held: HeldLock) -> Path:
        return self._directory / f"{held.lock.name}.env"

    def _begin(self, name: str, work: Coroutine[Any, Any, None]) -> None:
        self._end(name)
        self._tasks[name] = asyncio.create_task(work)

    def _end(self, name: str) -> None:
        if task := self._tasks.pop(name, None):
            task.cancel()


def _is_changing(seen: Observed) -> bool:
    """True if what runs may still be what ran with the content before."""
    return seen.job or seen.entry is None or seen.entry.restarting is not None
