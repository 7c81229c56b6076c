"""Locks on a real etcd, beside etcdctl, which has etcd's own locks: each waits behind the other."""

import asyncio
import os
import shutil
import statistics
import time
from asyncio.subprocess import PIPE, Process
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import uuid4

import pytest

from contrib.testbed.etcd import EtcdServer
from fleetd.api.locking import Asked, Held, Locking, SessionGone
from fleetd.membership.store_epoch import StoreEpoch
from fleetd.registry.registry import Registry
from fleetd.store.etcd import EtcdStore
from fleetd.store.instrumented import InstrumentedStore
from tests.fleetctl.test_lock_recipes import examples

PATIENCE_S = 60.0
TTL_S = 30.0


class Cluster:
    """The locks of a cluster on etcd, below a prefix of its own, as one fleetd takes them, and what that has `asked` of
    etcd."""

    def __init__(self, etcd: EtcdServer, prefix: str, directory: Path) -> None:
        self.etcd = etcd
        self.directory = directory
        self.asked: Counter[str] = Counter()
        store = EtcdStore([etcd.client_url], request_timeout_s=10, identity_key=f"/{prefix}/cluster")
        self.registry = Registry(InstrumentedStore(store, self._observe), prefix)
        now = asyncio.get_running_loop().time
        self.epoch = StoreEpoch(self.registry, "m1", now=now)
        self.locking = Locking(self.registry, self.epoch, now, time.time)

    def _observe(self, operation: str, _: object, answer: object) -> None:
        if operation != "watch" or answer is None:  # not what a watch delivers
            self.asked[operation] += 1

    async def start(self) -> "Cluster":
        self.epoch.accept(await self.epoch.check(0, await self.registry.store.revision()))
        return self

    async def take(self, name: str = "x", ttl_s: float = TTL_S, slots: int = 1) -> Held:
        async with asyncio.timeout(PATIENCE_S):
            return await self.locking.acquire(Asked(name, ttl_s, slots))

    async def etcdctl_lock(self, name: str = "x") -> "Etcdctl":
        """etcdctl that waits for the lock, and then holds it until it is ended."""
        fifo = str(self.directory / f"{uuid4().hex}")
        os.mkfifo(fifo)
        command = ["etcdctl", f"--endpoints={self.etcd.client_url}", "lock", self.registry.locks_prefix + name, "--"]
        holding = ["sh", "-c", f"echo held; cat {fifo}"]  # it gives its command no standard input
        environment = {"ETCDCTL_API": "3", "PATH": "/usr/bin:/bin"}
        process = await asyncio.create_subprocess_exec(*command, *holding, env=environment, stdout=PIPE)
        return Etcdctl(process, fifo)

    async def sessions(self, count: int, name: str = "x") -> None:
        """Wait until the lock has so many sessions."""
        async with asyncio.timeout(PATIENCE_S):
            while len((await self.locking.read(name)).sessions) != count:  # noqa: ASYNC110 (only etcd knows)
                await asyncio.sleep(0.01)


class Etcdctl:
    """A process that waits for a lock or holds it."""

    def __init__(self, process: Process, fifo: str) -> None:
        self._process = process
        self._fifo = fifo

    async def held(self) -> None:
        """Wait until it holds the lock."""
        assert self._process.stdout is not None
        async with asyncio.timeout(PATIENCE_S):
            assert await self._process.stdout.readline() == b"held\n"

    async def end(self) -> None:
        """Have it release the lock."""
        with open(self._fifo, "w"):
            pass
        async with asyncio.timeout(PATIENCE_S):
            await self._process.communicate()


@pytest.fixture
async def cluster(shared_etcd: EtcdServer, request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Cluster]:
    if shutil.which("etcdctl") is None:
        pytest.skip("etcdctl is not installed")
    cluster = await Cluster(shared_etcd, f"locks-{request.node.name}", tmp_path).start()
    yield cluster
    await cluster.registry.store.close()


async def test_etcdctl_waits_behind_fleet_and_has_the_lock_after_its_release(cluster: Cluster) -> None:
    ours = await cluster.take()
    etcdctl = await cluster.etcdctl_lock()
    await cluster.sessions(2)
    assert await cluster.locking.release(ours.session)
    await etcdctl.held()
    await etcdctl.end()


async def test_fleet_waits_behind_etcdctl_and_has_the_lock_after_its_release(cluster: Cluster) -> None:
    etcdctl = await cluster.etcdctl_lock()
    await etcdctl.held()
    assert await cluster.locking.try_to_acquire(Asked("x", TTL_S, 1)) is None
    taking = asyncio.create_task(cluster.take())
    await cluster.sessions(2)
    assert not taking.done()
    await etcdctl.end()
    ours = await taking
    assert (await cluster.locking.renew(ours.session)).holder.token == ours.holder.token
    await cluster.locking.release(ours.session)


async def test_the_example_in_the_manual_takes_a_lock_of_fleets(
    cluster: Cluster, shared_etcd: EtcdServer, tmp_path: Path
) -> None:
    (line,) = (each for each in examples() if each.startswith("etcdctl"))
    words = line.replace("/fleet-locks/", cluster.registry.locks_prefix).split()
    ours = await cluster.take("backup")
    words[-1:] = ["sh", "-c", "echo held"]
    environment = {"ETCDCTL_API": "3", "PATH": "/usr/bin:/bin", "ETCDCTL_ENDPOINTS": shared_etcd.client_url}
    etcdctl = Etcdctl(await asyncio.create_subprocess_exec(*words, env=environment, stdout=PIPE), str(tmp_path))
    await cluster.sessions(2, "backup")
    await cluster.locking.release(ours.session)
    await etcdctl.held()


async def test_both_take_turns_in_the_order_in_which_they_came(cluster: Cluster) -> None:
    first = await cluster.take()
    etcdctl = await cluster.etcdctl_lock()
    await cluster.sessions(2)
    second = asyncio.create_task(cluster.take())
    await cluster.sessions(3)
    await cluster.locking.release(first.session)
    await etcdctl.held()
    assert not second.done()
    await etcdctl.end()
    await cluster.locking.release((await second).session)


async def test_a_session_whose_lease_is_revoked_is_gone_and_its_place_is_kept_for_its_ttl(cluster: Cluster) -> None:
    ours = await cluster.take(ttl_s=3)
    await cluster.locking.renew(ours.session)  # only the first one needs no store
    await cluster.registry.store.revoke(ours.session.lease)
    with pytest.raises(SessionGone):
        await cluster.locking.renew(ours.session)
    began = time.monotonic()
    later = await cluster.take(ttl_s=3)
    assert time.monotonic() - began >= 3
    assert later.holder.token > ours.holder.token
    await cluster.locking.release(later.session)


async def test_a_session_that_waits_for_longer_than_its_ttl_keeps_its_place(cluster: Cluster) -> None:
    first = await cluster.take(ttl_s=TTL_S)
    taking = asyncio.create_task(cluster.take(ttl_s=9))
    await cluster.sessions(2)
    (own,) = (
        session.lease for session in (await cluster.locking.read("x")).sessions if session.lease != first.session.hex
    )
    await asyncio.sleep(11)  # longer than its ttl: it is renewed
    await cluster.locking.release(first.session)
    assert (await taking).session.hex == own


async def test_the_hand_over_from_fleet_to_fleet_takes_milliseconds(cluster: Cluster) -> None:
    took_s = []
    ours = await cluster.take()
    for _ in range(10):
        taking = asyncio.create_task(cluster.take())
        await cluster.sessions(2)
        began = time.monotonic()
        await cluster.locking.release(ours.session)
        ours = await taking
        took_s.append(time.monotonic() - began)
    assert statistics.median(took_s) < 1.0, took_s  # on a machine with nothing else to do it is below 20 ms


async def test_of_a_thousand_who_wait_at_ten_machines_one_at_a_time_wakes(
    cluster: Cluster, shared_etcd: EtcdServer, tmp_path: Path
) -> None:
    others = [await Cluster(shared_etcd, cluster.registry.prefix.strip("/"), tmp_path).start() for _ in range(10)]
    ours = await cluster.take(ttl_s=300)
    waiting = {asyncio.create_task(other.take(ttl_s=300)): other for _ in range(100) for other in others}
    await cluster.sessions(1 + len(others))
    await asyncio.sleep(0.5)  # for their watches
    holder = cluster
    for _ in range(20):
        for other in others:
            other.asked.clear()
        await holder.locking.release(ours.session)
        (task,) = (await asyncio.wait(waiting, timeout=PATIENCE_S, return_when=asyncio.FIRST_COMPLETED))[0]
        former, holder, ours = holder, waiting.pop(task), task.result()
        await cluster.sessions(len(others) + 1)  # the next one of that machine has taken its place
        quiet = [other.asked.total() for other in others if other not in (former, holder)]
        assert quiet == [0] * len(quiet), "who waits is woken only when it is its turn"
        assert not any(each.done() for each in waiting)
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    await holder.locking.release(ours.session)
    for other in others:
        await other.registry.store.close()
