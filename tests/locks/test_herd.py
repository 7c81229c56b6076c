"""Many machines wait for one lock: a release has one of them ask the store, and the others only hear of it."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator

import pytest

from fleetd.api.locking import Asked, Held, Locking
from fleetd.membership.store_epoch import StoreEpoch
from fleetd.registry.registry import Registry
from fleetd.store.embedded import EmbeddedStore, inline
from fleetd.store.instrumented import InstrumentedStore

MACHINES = 100
ASKED = Asked("backup", 300.0, 1)


class CountedMachines:
    """The locks of as many fleetds over one store, and what each asks it."""

    def __init__(self, store: EmbeddedStore) -> None:
        self.asked: list[Counter[str]] = []
        self.machines: list[Locking] = []
        self.epochs: list[StoreEpoch] = []
        now = asyncio.get_running_loop().time
        for number in range(MACHINES):
            counts: Counter[str] = Counter()
            self.asked.append(counts)

            def observe(operation: str, _: object, answer: object, counts: Counter[str] = counts) -> None:
                counts["delivered" if operation == "watch" and answer is not None else operation] += 1

            registry = Registry(InstrumentedStore(store, observe))
            epoch = StoreEpoch(registry, f"m{number}", now=now)
            self.machines.append(Locking(registry, epoch, now, now))
            self.epochs.append(epoch)

    async def know_the_epoch(self) -> None:
        for epoch in self.epochs:
            epoch.accept(await epoch.check(0, 1))

    def forget(self) -> None:
        for counts in self.asked:
            counts.clear()


@pytest.fixture
async def counted() -> AsyncIterator[CountedMachines]:
    store = EmbeddedStore(":memory:", offload=inline, now=asyncio.get_running_loop().time)
    counted = CountedMachines(store)
    await counted.know_the_epoch()
    yield counted
    await store.close()


async def test_a_release_has_one_machine_ask_the_store(counted: CountedMachines) -> None:
    held = await counted.machines[0].acquire(ASKED)
    waiting: list[asyncio.Task[Held]] = []
    for machine in counted.machines[1:]:
        waiting.append(asyncio.create_task(machine.acquire(ASKED)))
        await asyncio.sleep(0.01)
    holder = counted.machines[0]
    for number, task in enumerate(waiting[:10]):
        counted.forget()
        assert await holder.release(held.session)
        async with asyncio.timeout(10):
            held = await task
        await asyncio.sleep(0.01)
        holder = counted.machines[number + 1]
        assert sum(each.done() for each in waiting) == number + 1
        asked = [counts - Counter(delivered=counts["delivered"]) for counts in counted.asked]
        assert asked[number] == {"transact": 1}, "the release"
        assert asked[number + 1] == {"transact": 1, "keep_alive": 1}, "one guarded write, without a read before it"
        assert [counts for place, counts in enumerate(asked) if counts and place not in (number, number + 1)] == []
        assert max(counts["delivered"] for counts in counted.asked) <= 1
    for task in waiting[10:]:
        task.cancel()
    await asyncio.gather(*waiting[10:], return_exceptions=True)


async def test_a_holder_that_has_vanished_is_not_taken_for_one_that_has_released(counted: CountedMachines) -> None:
    held = await counted.machines[0].acquire(ASKED)
    taking = asyncio.create_task(counted.machines[1].acquire(ASKED))
    await asyncio.sleep(0.01)
    await counted.machines[0].evict((await counted.machines[0].read("backup")).sessions[:1])
    before = asyncio.get_running_loop().time()
    later = await taking
    assert asyncio.get_running_loop().time() - before >= ASKED.ttl_s
    assert later.holder.token > held.holder.token
