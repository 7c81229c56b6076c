"""A machine that leads, on a virtual clock. Nothing carries out what it writes to its store."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from fleetd.leader.election import Election
from fleetd.membership.registration import Membership, Registration
from fleetd.membership.store_epoch import StoreEpoch
from fleetd.model.machine import Machine
from fleetd.model.unit import TargetState, Unit
from fleetd.registry.records import DEFAULT_PREFIX
from fleetd.registry.registry import Registry
from fleetd.scheduler.failover_delays import FailoverPolicy
from fleetd.store.embedded import EmbeddedStore
from fleetd.store.instrumented import InstrumentedStore
from fleetd.store.protocol import Comparison, Delete, Operation, Put, RangeResult, Unavailable
from tests.virtual_time import offload_inline

MACHINE = "a" * 32
TTL_S = 9.0


class FaultyStore(EmbeddedStore):
    """A store that fails on demand."""

    overtaking: Put | None = None  # written just before the next plan for a machine that is gone
    is_failing = False  # no placement is written and no lease renewed
    is_too_large = False  # read as a whole
    is_about_to_be_restored = False  # the next write of placements is acknowledged, and lost
    full_reads = 0  # the number of full reads

    async def range(self, prefix: str, **options: Any) -> RangeResult:
        self.full_reads += prefix == DEFAULT_PREFIX
        if self.is_too_large and prefix == DEFAULT_PREFIX:
            raise Unavailable("the store does not answer")
        return await super().range(prefix, **options)

    async def transact(self, comparisons: Sequence[Comparison], operations: Sequence[Operation]) -> int:
        if self.is_failing and any("/placements/" in operation.key for operation in operations):
            raise Unavailable("the store does not answer")
        if self.overtaking and any("/synced/" in each.key and isinstance(each, Delete) for each in operations):
            overtaking, self.overtaking = self.overtaking, None
            await super().transact([], [overtaking])
        if self.is_about_to_be_restored and any("/placements/" in operation.key for operation in operations):
            self.is_about_to_be_restored = False
            return (await self.get_many([operations[0].key])).revision + 1
        return await super().transact(comparisons, operations)

    async def keep_alive(self, lease: int) -> object:  # type: ignore[override]
        if self.is_failing:
            raise Unavailable("the store does not answer")
        return await super().keep_alive(lease)


class Node:
    """A machine that leads, with a store of its own."""

    def __init__(self, store_type: type[FaultyStore] = FaultyStore) -> None:
        self.store = store_type(":memory:", offload=offload_inline, cluster_id="test")
        self.registry = Registry(InstrumentedStore(self.store))
        now = asyncio.get_running_loop().time
        self.membership = Membership(
            Machine(MACHINE, session="s1"),
            self.registry,
            Registration("s1", now),
            ttl_s=TTL_S,
            now=now,
            publish=self._publish,
            heard=lambda revision: None,
        )
        self.election = Election(
            MACHINE,
            self.registry,
            self.membership,
            StoreEpoch(self.registry, MACHINE),
            ttl_s=TTL_S,
            failover=FailoverPolicy(handover_timeout_s=30.0),
            compact=False,
            now=now,
            unix_now=lambda: 1_700_000_000.0,
            new_id=lambda: "term",
            offload=self._plan,
        )
        self.may_plan = asyncio.Event()
        self.may_plan.set()
        self.plans: list[Callable[[], Any]] = []  # the long plans, which are made off the event loop

    async def _plan(self, work: Callable[[], Any], /) -> Any:
        self.plans.append(work)
        await self.may_plan.wait()
        return work()

    async def _publish(self, lease: int) -> None:
        """Nothing runs here."""

    async def start(self) -> None:
        self.tasks = [asyncio.create_task(self.membership.run()), asyncio.create_task(self.election.run())]
        await asyncio.sleep(0.1)

    async def add(self, name: str, text: str = "", target: TargetState = TargetState.LAUNCHED) -> None:
        await self.registry.write_unit(Unit(name, text, target), None)
        await asyncio.sleep(0.1)

    async def stop(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        await self.store.close()
