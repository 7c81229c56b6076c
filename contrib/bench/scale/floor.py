"""The floor of a run: etcd given the same requests by a bare client that decides and starts nothing.

As many transactions with as many keys and bytes, as many reads and heartbeats, and as many watches open meanwhile; the
requests are rendered beforehand and the answers not looked at. What the cluster took beyond that is fleet's own.
"""

import asyncio
import itertools
import resource
import time
from collections.abc import Iterator
from contextlib import suppress

import aiohttp
import msgspec

from contrib.bench import process
from contrib.bench.scale.request_counts import Count, Counts
from fleetd.store import etcd_wire as wire
from fleetd.store.protocol import Put

AT_ONCE = 32
WATCHES_A_MACHINE = 4
PREFIX = "/floor/"


class Floor(msgspec.Struct, frozen=True):
    """What it took: seconds on the clock, and of processor time in etcd and in the client."""

    took_s: float
    etcd_cpu_s: float
    client_cpu_s: float


async def measure_floor(etcd_url: str, counts: Counts, machines: int) -> Floor:
    """Make these requests of etcd as fast as possible. `etcd_url` is an etcd of this measurement alone."""
    timeout = aiohttp.ClientTimeout(total=None)
    async with aiohttp.ClientSession(etcd_url, connector=aiohttp.TCPConnector(limit=0), timeout=timeout) as session:
        watches = [asyncio.create_task(_watch(session, prefix)) for prefix in _watched(machines)]
        requests = iter(list(_requests(counts, machines, await _grant(session))))
        await asyncio.sleep(1)
        before, began = process.observe_etcd(etcd_url), time.monotonic()
        cpu_before = _own_cpu_s()
        await asyncio.gather(*(_send(session, requests) for _ in range(AT_ONCE)))
        took_s, cpu_s = time.monotonic() - began, _own_cpu_s() - cpu_before
        after = process.observe_etcd(etcd_url)
        for watch in watches:
            watch.cancel()
        await asyncio.gather(*watches, return_exceptions=True)
    return Floor(took_s, after.cpu_s - before.cpu_s, cpu_s)


def _watched(machines: int) -> Iterator[str]:
    for number in range(machines):
        for kind in ("placements", "synced", "machines", "leader")[:WATCHES_A_MACHINE]:
            yield f"{PREFIX}{kind}/{number}/"


async def _watch(session: aiohttp.ClientSession, prefix: str) -> None:
    body = msgspec.json.encode(wire.WatchPosition(prefix, 0).request())
    with suppress(aiohttp.ClientError):
        async with session.post("/v3/watch", data=body) as response:
            async for _ in response.content.iter_any():
                pass


async def _grant(session: aiohttp.ClientSession) -> int:
    async with session.post("/v3/lease/grant", data=msgspec.json.encode(wire.LeaseGrantRequest(600))) as response:
        return wire.parse_lease_grant(await response.read()).ID


async def _send(session: aiohttp.ClientSession, requests: Iterator[tuple[str, bytes]]) -> None:
    for path, body in requests:
        async with session.post(path, data=body, raise_for_status=True) as response:
            await response.read()


def _requests(counts: Counts, machines: int, lease: int) -> Iterator[tuple[str, bytes]]:
    """Path and body of each request, kind by kind."""
    for label, count in counts.items():
        operation, _, kind = label.partition(" ")
        if operation == "transaction":
            yield from _transactions(kind, count, machines)
        elif operation == "read":
            body = msgspec.json.encode(wire.RangeRequest(f"{PREFIX}{kind}/0/0".encode()))
            yield from itertools.repeat(("/v3/kv/range", body), count.requests)
        elif label == "lease beat":
            body = msgspec.json.encode(wire.LeaseRequest(lease))
            yield from itertools.repeat(("/v3/lease/keepalive", body), count.requests)


def _transactions(kind: str, count: Count, machines: int) -> Iterator[tuple[str, bytes]]:
    """Transactions of as many keys and bytes on average, spread evenly over the machines."""
    keys = max(1, count.keys // count.requests)
    value = b"x" * (count.size // max(1, count.keys))
    for number in range(count.requests):
        names = (f"{PREFIX}{kind}/{number % machines}/{number}-{each}" for each in range(keys))
        request = wire.render_transaction([], [Put(name, value) for name in names])
        yield "/v3/kv/txn", msgspec.json.encode(request)


def _own_cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime
