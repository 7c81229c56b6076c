"""Observes the cluster from outside with one watch: its machines, its leader, its active units.

It costs as much as one more leader's watch, is not measured, and uses no API.
"""

import asyncio
import time
from collections.abc import Callable, Collection
from contextlib import suppress

from fleetd.registry.records import LEADER, MACHINES, STATES, MalformedRecord
from fleetd.registry.registry import Registry
from fleetd.store.etcd import EtcdStore
from fleetd.store.protocol import KeyValue


class Observer:
    """The cluster as the store shows it. As a context manager it follows the store."""

    def __init__(self, etcd_url: str) -> None:
        self._registry = Registry(EtcdStore([etcd_url], request_timeout_s=60.0))
        self._news = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._active: dict[str, set[str]] = {}  # unit → the machines on which it is active
        self._moved: dict[str, None] = {}  # units whose entry there has changed since the last look
        self.machines: set[str] = set()
        self.leader = ""

    async def __aenter__(self) -> "Observer":
        self._task = asyncio.create_task(self._follow())
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._task
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task
        await self._registry.store.close()

    @property
    def active(self) -> list[str]:
        """The units that are active somewhere, by name."""
        return sorted(name for name, where in self._active.items() if where)

    def active_on(self, machines: Collection[str]) -> list[str]:
        """The units that are active on one of these machines, by name."""
        return sorted(name for name, where in self._active.items() if not where.isdisjoint(machines))

    async def until(self, what: str, holds: Callable[[], bool], timeout_s: float) -> float:
        """The time.monotonic() at which it held; it is asked with every change. Raises TimeoutError with `what`."""
        deadline = time.monotonic() + timeout_s
        while not holds():
            await self._wait_for_news(what, deadline)
        return time.monotonic()

    async def until_active(self, units: Collection[str], timeout_s: float, besides: Collection[str] = ()) -> float:
        """The time.monotonic() at which each of the units was active on a machine that is none of these."""
        elsewhere = frozenset(besides)
        deadline = time.monotonic() + timeout_s
        self._moved.clear()
        missing = {name for name in units if self._active.get(name, set()) <= elsewhere}
        while missing:
            await self._wait_for_news(f"{len(missing)} of {len(units)} units are active", deadline)
            missing -= {name for name in self._moved if not self._active.get(name, set()) <= elsewhere}
            self._moved.clear()
        return time.monotonic()

    async def _wait_for_news(self, what: str, deadline: float) -> None:
        self._news.clear()
        try:
            async with asyncio.timeout(deadline - time.monotonic()):
                await self._news.wait()
        except TimeoutError:
            raise TimeoutError(f"did not happen in time: {what}") from None
        if self._task and self._task.done():
            self._task.result()

    async def _follow(self) -> None:
        try:
            snapshot = await self._registry.store.range(self._registry.prefix)
            for item in snapshot.items:
                self._take(item.key, item)
            async for changes in self._registry.store.watch(self._registry.prefix, snapshot.revision):
                for event in changes.events:
                    self._take(event.key, event.item)
                self._news.set()
        finally:
            self._news.set()

    def _take(self, key: str, item: KeyValue | None) -> None:
        path = self._registry.parse_key(key)
        if path is None:
            return
        if path.kind is MACHINES:
            (self.machines.add if item else self.machines.discard)(path.names[0])
        elif path.kind is LEADER:
            self.leader = LEADER.decode(item).machine if item else ""
        elif path.kind is STATES:
            machine, unit = path.names
            self._take_state(machine, unit, item)

    def _take_state(self, machine: str, unit: str, item: KeyValue | None) -> None:
        try:
            state = STATES.decode(item) if item else None
        except MalformedRecord:
            return
        where = self._active.setdefault(unit, set())
        if state and state.active == "active":
            where.add(machine)
        else:
            where.discard(machine)
        self._moved[unit] = None
