"""Publishes this machine's unit states: only changed ones, in batches, on the machine's lease.

Changes gather while a batch is being written; of each unit the newest state wins.
"""

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from fleetd.agent.publish_rate import PublishRate
from fleetd.aio import Backoff, Pace
from fleetd.membership.registration import Registration
from fleetd.model.unit import UnitState
from fleetd.registry.records import STATES
from fleetd.registry.registry import Registry
from fleetd.registry.transactions import WriteSet, cut_into_transactions
from fleetd.store.protocol import Delete, LeaseNotFound, Put, Unavailable

log = logging.getLogger(__name__)

FIRST_RETRY_S = 0.5
LONGEST_RETRY_S = 5.0
WRITE_PERIOD_S = 0.03  # between the batches of a burst
LATE_WRITE_S = 10.0  # a request that timed out has reached the store by then, or never will


class StatePublisher:
    """Keeps `states/<machine>/` in the store as last `set`. `set` and `wake` never wait; `run` writes until cancelled.
    `on_written` is called with the store's revision of each write."""

    def __init__(
        self,
        registry: Registry,
        machine_id: str,
        registration: Registration,
        on_written: Callable[[int], None],
    ) -> None:
        self._registry = registry
        self._machine_id = machine_id
        self._registration = registration
        self._on_written = on_written
        self._wanted: dict[str, UnitState] = {}
        self._changed: dict[str, None] = {}  # units whose state in the store is outdated or unknown
        self._forced: dict[str, None] = {}  # those of them to write even if the store has the same value
        self._may_write_late = False  # a write that timed out may yet reach the store, after newer ones
        self._must_compare = False
        self._has_work = asyncio.Event()
        self._writing = asyncio.Lock()
        self._rate = PublishRate(self._mark_changed)
        # The rest is short: the agent rests between its passes, too, and somebody may wait for the last state.
        self._pace = Pace(WRITE_PERIOD_S, longest_rest_s=0.05)

    @property
    def names(self) -> tuple[str, ...]:
        """The units that have a state."""
        return tuple(self._wanted)

    @property
    def states(self) -> dict[str, UnitState]:
        """A copy of the states, by unit."""
        return dict(self._wanted)

    def describe(self) -> dict[str, Any]:
        """The states, and the names of those not yet written, as CoreOS fleet names them."""
        return {
            "Cache": {name: self._wanted[name] for name in sorted(self._wanted)},
            "ToPublish": sorted(self._changed),
        }

    def set(self, name: str, state: UnitState | None) -> None:
        """Set the unit's state; None: delete it."""
        before = self._wanted.get(name)
        if before == state:
            return
        if state is None:
            del self._wanted[name]
        else:
            self._wanted[name] = state
        if self._rate.admits(name, before, state):
            self._mark_changed(name)

    def close(self) -> None:
        """Cancel what is held back."""
        self._rate.close()

    def _mark_changed(self, name: str) -> None:
        """Have the unit's state written."""
        self._changed[name] = None
        self._has_work.set()

    def wake(self) -> None:
        """Check for something to publish: the machine may have been registered."""
        self._has_work.set()

    def republish(self) -> None:
        """Write every state again, even those that the store seems to have: it was restored, and what it holds may be
        an old state of this machine, which the leader ignores."""
        self._forced = dict.fromkeys(self._wanted)
        self._changed |= self._forced
        self._has_work.set()

    async def stop(self) -> None:
        """Finish the write under way, and write nothing more."""
        await self._writing.acquire()

    async def publish_all(self, lease: int) -> None:
        """Write every state on this lease, and delete the states of units that are not here any more. Raises
        Unavailable and LeaseNotFound."""
        async with self._writing:
            self._may_write_late = True  # a machine with the same id may write here until it is refused
            await self._compare(lease)
            await self._write(lease)

    async def run(self) -> None:
        """Write changed states while the machine is registered. Retries while the store is unavailable."""
        backoff = Backoff(FIRST_RETRY_S, LONGEST_RETRY_S)
        while True:
            await self._has_work.wait()
            await self._pace.wait()
            self._has_work.clear()
            lease = self._registration.lease
            if not lease:
                continue
            try:
                async with self._writing:
                    if self._must_compare:
                        await self._compare(lease)
                        self._must_compare = False
                    await self._write(lease)
                self._pace.done()
                backoff.reset()
                if self._may_write_late:
                    self._may_write_late = False
                    asyncio.get_running_loop().call_later(LATE_WRITE_S, self._compare_again)
            except LeaseNotFound:
                log.warning("this machine's lease is gone from the store; registering again")
                self._registration.lost.set()
            except Unavailable as error:
                if backoff.is_first:
                    log.warning("cannot publish unit states, retrying: %s", error)
                self._may_write_late = True
                await asyncio.sleep(backoff.next_s())
                self._has_work.set()

    def _compare_again(self) -> None:
        """Check whether a late write has overwritten a newer one."""
        self._must_compare = True
        self._has_work.set()

    async def _compare(self, lease: int) -> None:
        """Find the states that the store does not have as they should be, on this lease."""
        prefix = self._registry.key(STATES, self._machine_id) + "/"
        there = {item.key.removeprefix(prefix): item for item in (await self._registry.store.range(prefix)).items}
        self._changed = dict.fromkeys((*there, *self._wanted))
        for name, item in there.items():
            if name not in self._forced and Put(item.key, item.value, item.lease) == self._operation(name, lease):
                del self._changed[name]

    async def _write(self, lease: int) -> None:
        """Write the changed states. Those not known to be written stay changed."""
        names, self._changed = list(self._changed), {}
        write_sets = (WriteSet((), (self._operation(name, lease),)) for name in names)
        written = 0
        try:
            for transaction in cut_into_transactions(write_sets):
                self._on_written(await self._registry.store.transact(transaction.comparisons, transaction.operations))
                for name in names[written : written + len(transaction.operations)]:
                    self._forced.pop(name, None)
                written += len(transaction.operations)
        finally:
            self._changed = dict.fromkeys(names[written:]) | self._changed

    def _operation(self, name: str, lease: int) -> Put | Delete:
        state = self._wanted.get(name)
        if state is None:
            return Delete(self._registry.key(STATES, self._machine_id, name))
        return self._registry.put(state, self._machine_id, name, lease=lease)
