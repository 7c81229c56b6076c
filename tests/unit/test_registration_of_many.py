"""Hundreds of machines register at once in a store that can hardly serve them, on a virtual clock."""

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any, TypeVar

from fleetd.membership.registration import Membership, Registration
from fleetd.model.machine import Machine
from fleetd.registry.registry import Registry
from fleetd.store.embedded import EmbeddedStore
from fleetd.store.protocol import Comparison, KeepAlive, KeyValue, Operation, Put, Unavailable
from tests.virtual_time import offload_inline, run_virtually

T = TypeVar("T")

TTL_S = 10.0
TIMEOUT_S = 3.0
UNITS = 2  # on each machine


class StarvedStore(EmbeddedStore):
    """Serves one request after the other; a write takes `write_s`, and anything else a tenth of that. It also serves
    those that nobody waits for any more, as etcd does."""

    def __init__(self, write_s: float) -> None:
        super().__init__(":memory:", offload=offload_inline)
        self._write_s = write_s
        self._served = asyncio.Lock()

    async def get(self, key: str) -> KeyValue | None:
        return await self._serve(super().get(key), self._write_s / 10)

    async def keep_alive(self, lease: int) -> KeepAlive:
        return await self._serve(super().keep_alive(lease), self._write_s / 10)

    async def grant(self, ttl_s: float) -> int:
        return await self._serve(super().grant(ttl_s), self._write_s)

    async def transact(self, comparisons: Sequence[Comparison], operations: Sequence[Operation]) -> int:
        return await self._serve(super().transact(comparisons, operations), self._write_s)

    async def _serve(self, work: Coroutine[Any, Any, T], takes_s: float) -> T:
        served = asyncio.get_running_loop().create_task(self._serve_in_turn(work, takes_s))
        done, _ = await asyncio.wait([served], timeout=TIMEOUT_S)
        if not done:
            raise Unavailable("the store did not answer in time")
        return served.result()

    async def _serve_in_turn(self, work: Coroutine[Any, Any, T], takes_s: float) -> T:
        async with self._served:
            await asyncio.sleep(takes_s)
            return await work


def start(store: EmbeddedStore, number: int) -> tuple[Membership, asyncio.Task[None]]:
    """A machine with units begins to register."""
    id_, now = f"{number:032x}", asyncio.get_running_loop().time

    async def publish(lease: int) -> None:
        for unit in range(UNITS):
            await store.transact([], [Put(f"/states/{id_}/{unit}", b"", lease)])

    membership = Membership(
        Machine(id_, session=id_, boot_id="boot"),
        Registry(store),
        Registration(id_, now),
        ttl_s=TTL_S,
        now=now,
        publish=publish,
        heard=lambda _: None,
    )
    return membership, asyncio.create_task(membership.run())


async def register(machines: int, write_s: float, at_most_s: float) -> tuple[float, int]:
    """How long it takes until all these machines have registered, and how many are a minute later. Raises
    TimeoutError."""
    store, now = StarvedStore(write_s), asyncio.get_running_loop().time
    began_s = now()
    started = [start(store, number) for number in range(machines)]
    async with asyncio.timeout(at_most_s):
        for membership, _ in started:
            await membership.registered.wait()
    took_s = now() - began_s
    await asyncio.sleep(60.0)
    registered = sum(membership.lease != 0 for membership, _ in started)
    for _, task in started:
        task.cancel()
    await asyncio.gather(*(task for _, task in started), return_exceptions=True)
    return took_s, registered


def test_machines_that_a_store_cannot_serve_together_give_way_to_each_other() -> None:
    # Their writes alone take 13 s, more than a lease lasts. When each tried once a second, none was ever registered.
    took_s, registered = run_virtually(register(200, 0.016, at_most_s=120.0))
    assert took_s > 200 * (UNITS + 2) * 0.016
    assert registered == 200


def test_a_machine_that_is_alone_registers_at_once() -> None:
    took_s, registered = run_virtually(register(1, 0.016, at_most_s=120.0))
    assert took_s < 0.2
    assert registered == 1
