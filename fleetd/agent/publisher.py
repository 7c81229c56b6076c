"""What this machine reports of its units, brought to the store: changed states only, in batches, on its lease.

While one batch is on its way, changes gather; of each unit the newest state wins. How often those of one unit are
written is publish_rate.py's matter. What states say is decided in
reconciler/plan.py, when the machine is registered and on which lease by whoever is the Membership.
"""

import asyncio
import logging
from collections.abc import Callable
from typing import Any, Protocol

from fleetd.agent.publish_rate import Pacing
from fleetd.aio import Backoff, Pace
from fleetd.model.unit import UnitState
from fleetd.registry.registry import Registry, WriteSet, cut_into_transactions
from fleetd.store.protocol import Delete, LeaseNotFound, Operation, Put, Unavailable

FIRST_RETRY_S = 0.5
LONGEST_RETRY_S = 5.0
WRITE_PERIOD_S = 0.03  # of many in a row; each has all that has changed meanwhile
STRAGGLER_S = 10.0  # a request that was given up has arrived by then, or never will


class Membership(Protocol):
    """This machine's membership of the cluster, as the agent sees it.

    `session` names this run of fleetd. `lease` is that of the registration, 0 while there is none. `is_certain`: it was
    renewed within its time, so that nobody else can have registered by this machine's id since. To register:
    `await agent.publish_all(lease)`, write the machine's key, set `lease`, call `agent.check` (and again with every
    beat's answer).
    """

    @property
    def session(self) -> str: ...

    @property
    def lease(self) -> int: ...

    @property
    def is_certain(self) -> bool: ...

    def lease_lost(self) -> None:
        """The lease was found to be gone."""


class StatePublisher:
    """Keeps `states/<machine>/` as last set. `set` and `wake` never wait; `run` does the work until it is cancelled.
    `on_written` is told the store's revision of each write."""

    def __init__(
        self,
        registry: Registry,
        machine_id: str,
        membership: Membership,
        on_written: Callable[[int], None],
        logger: logging.Logger,
    ) -> None:
        self._registry = registry
        self._machine_id = machine_id
        self._membership = membership
        self._on_written = on_written
        self._log = logger
        self._wanted: dict[str, UnitState] = {}
        self._changed: dict[str, None] = {}  # units whose state in the store is another, or is not known
        self._to_say_again: dict[str, None] = {}  # those of them that are written even if the store has the same state
        self._is_in_doubt = False  # a write that was given up may still arrive, after those that came later
        self._has_to_look = False
        self._has_work = asyncio.Event()
        self._writing = asyncio.Lock()
        self._pacing = Pacing(self._note_change)
        self._pace = Pace(WRITE_PERIOD_S)

    @property
    def names(self) -> tuple[str, ...]:
        """The units that a state is kept of."""
        return tuple(self._wanted)

    @property
    def states(self) -> dict[str, UnitState]:
        """The states that are kept, by unit."""
        return dict(self._wanted)

    def describe(self) -> dict[str, Any]:
        """The states that are kept, and the names of those that are still to be written."""
        return {
            "Cache": {name: self._wanted[name] for name in sorted(self._wanted)},
            "ToPublish": sorted(self._changed),
        }

    def set(self, name: str, state: UnitState | None) -> None:
        """The unit's state is now this; None: nothing is to be reported of it."""
        before = self._wanted.get(name)
        if before == state:
            return
        if state is None:
            del self._wanted[name]
        else:
            self._wanted[name] = state
        if self._pacing.admits(name, before, state):
            self._note_change(name)

    def close(self) -> None:
        """Publish nothing any more."""
        self._pacing.close()

    def _note_change(self, name: str) -> None:
        """The unit's state in the store is not as it should be."""
        self._changed[name] = None
        self._has_work.set()

    def wake(self) -> None:
        """Look again whether something is to be published: the machine may have been registered."""
        self._has_work.set()

    def publish_anew(self) -> None:
        """Count nothing as published: the store is not what it was, and what it has may be an old word of this machine,
        which the leader does not count."""
        self._to_say_again = dict.fromkeys(self._wanted)
        self._changed |= self._to_say_again
        self._has_work.set()

    async def publish_all(self, lease: int, first: tuple[Operation, ...] = ()) -> None:
        """Bring every state onto this lease, after these operations, and take away those that are of units no more
        here. Raises Unavailable and LeaseNotFound."""
        async with self._writing:
            self._is_in_doubt = True  # a clone may be registering too, and what it writes goes when it is refused
            await self._compare(lease)
            await self._write(lease, first)

    async def run(self) -> None:
        """Publish what changes, while the machine is registered. The store's outages are waited out."""
        backoff = Backoff(FIRST_RETRY_S, LONGEST_RETRY_S)
        while True:
            await self._has_work.wait()
            await self._pace.wait()
            self._has_work.clear()
            lease = self._membership.lease
            if not lease:
                continue
            try:
                async with self._writing:
                    if self._has_to_look:
                        await self._compare(lease)
                        self._has_to_look = False
                    await self._write(lease)
                self._pace.done()
                backoff.reset()
                if self._is_in_doubt:
                    self._is_in_doubt = False
                    asyncio.get_running_loop().call_later(STRAGGLER_S, self._look_again)
            except LeaseNotFound:
                self._log.warning("this machine's lease is gone; it registers again")
                self._membership.lease_lost()
            except Unavailable as error:
                if backoff.is_first:
                    self._log.warning("unit states cannot be published, trying on: %s", error)
                self._is_in_doubt = True
                await asyncio.sleep(backoff.next_s())
                self._has_work.set()

    def _look_again(self) -> None:
        """See whether a write that was late has undone one that came after it."""
        self._has_to_look = True
        self._has_work.set()

    async def _compare(self, lease: int) -> None:
        """Find out which states in the store are not as they should be, on this lease."""
        prefix = self._registry.key("states", self._machine_id) + "/"
        there = {item.key.removeprefix(prefix): item for item in (await self._registry.store.range(prefix)).items}
        self._changed = dict.fromkeys((*there, *self._wanted))
        for name, item in there.items():
            is_said = name not in self._to_say_again
            if is_said and Put(item.key, item.value, item.lease) == self._operation(name, lease):
                del self._changed[name]

    async def _write(self, lease: int, first: tuple[Operation, ...] = ()) -> None:
        """Write the states that changed; whatever is not known to be written stays among the changed."""
        changed, self._changed = self._changed, {}
        names = list(changed)
        write_sets = [
            WriteSet((), (operation,)) for operation in (*first, *(self._operation(name, lease) for name in names))
        ]
        written = -len(first)
        try:
            for transaction in cut_into_transactions(write_sets):
                self._on_written(await self._registry.store.transact(transaction.comparisons, transaction.operations))
                for name in names[written : written + len(transaction.operations)]:
                    self._to_say_again.pop(name, None)
                written += len(transaction.operations)
        finally:
            self._changed = dict.fromkeys(names[max(0, written) :]) | self._changed

    def _operation(self, name: str, lease: int) -> Put | Delete:
        state = self._wanted.get(name)
        if state is None:
            return Delete(self._registry.key("states", self._machine_id, name))
        return self._registry.put(state, self._machine_id, name, lease=lease)
