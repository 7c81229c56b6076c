"""What people's looks at a cluster take: the stream of events and its readers, and a log from many machines.

A part of `make bench`; alone: `python -m contrib.bench --only events --only readers --only journal`.
"""

import asyncio
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import aiohttp
import msgspec

from contrib.bench import process
from contrib.bench.api import Api
from contrib.bench.figure import Figure
from contrib.bench.measures import OPTIONS, POLL_MANY_S, SETTLE_S, Bench, clear, time_command
from fleetd.api import schema
from fleetd.model.unit_option import UnitOption
from fleetd.registry.records import KeySpace
from fleetd.store.etcd import EtcdStore

STARTS = 30  # of units: each has events, of what was asked, where it was placed, what became of it
READERS = 60  # one person may have 64
REST_S = 60.0
LINES = 100
EVENTS, READING, JOURNAL = "events", "readers", "journal"
MOST_LATE_S, MOST_KIB, MOST_JOURNAL_S = 0.05, 64.0, 0.8
MOST_PERCENT = 1.0 * READERS / 100  # a hundred are to take less than one

_decode = msgspec.json.Decoder(schema.Event).decode


async def measure_events(bench: Bench) -> list[Figure]:
    """How much later than a watch of etcd a reader of the stream sees an event of the cluster; the watch itself sees it
    a moment after the transaction."""
    stored: dict[int, float] = {}  # revision → when the watch has seen it
    read: dict[int, float] = {}  # … and when the reader has
    async with bench.api() as api, _following(bench) as lines:
        await clear(api)
        tasks = [asyncio.create_task(_note_stored(bench, stored)), asyncio.create_task(_note_read(lines, read))]
        await asyncio.sleep(SETTLE_S)
        for number in range(STARTS):
            name = f"told-{number}.service"
            await api.start(name, OPTIONS)
            await asyncio.sleep(0.3)
        await asyncio.sleep(SETTLE_S)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await clear(api)
    late = tuple(max(0.0, read[revision] - stored[revision]) for revision in stored if revision in read)
    if len(late) < STARTS:
        raise RuntimeError(f"of {len(stored)} records of events the reader has seen {len(late)}")
    return [Figure(EVENTS, "an event, from the transaction to a reader", "s", late, limit=MOST_LATE_S)]


async def _note_stored(bench: Bench, stored: dict[int, float]) -> None:
    store = EtcdStore([bench.cluster.etcd.client_url], request_timeout_s=60.0)
    try:
        async for changes in store.watch(KeySpace(KeySpace().archive_prefix).prefix, await store.revision()):
            for event in changes.events:
                stored.setdefault(event.revision, time.monotonic())
    finally:
        await store.close()


async def _note_read(lines: aiohttp.StreamReader, read: dict[int, float]) -> None:
    async for line in lines:
        token = _decode(line).token
        if token:
            read.setdefault(int(token.rpartition(".")[2]), time.monotonic())


@asynccontextmanager
async def _following(bench: Bench) -> AsyncIterator[aiohttp.StreamReader]:
    """The lines of a stream of events, from the first machine."""
    connector = aiohttp.UnixConnector(str(bench.cluster.machines[0].path("/run/fleet.sock")))
    timeout = aiohttp.ClientTimeout(total=None)
    async with (
        aiohttp.ClientSession("http://fleet", connector=connector, timeout=timeout) as session,
        session.get(f"{schema.V2}/events", raise_for_status=True) as response,
    ):
        await response.content.readline()  # begin
        yield response.content


async def measure_readers(bench: Bench) -> list[Figure]:
    """What many readers of the stream take of a fleetd at rest."""
    machine = bench.cluster.machines[0]
    async with bench.api() as api:
        await clear(api)
        print(f"readers: looks at fleetd for twice {REST_S:g} s", file=sys.stderr, flush=True)
        async with _following(bench):  # what the first one has it load counts once, not for each
            await asyncio.sleep(SETTLE_S)
        without, before_mib = await _rest_percent(bench), process.resident_mib(machine)
        async with AsyncExitStack() as stack:
            for _ in range(READERS):
                await stack.enter_async_context(_following(bench))
            await asyncio.sleep(SETTLE_S)
            with_readers = await _rest_percent(bench)
            each_kib = max(0.0, process.resident_mib(machine) - before_mib) * 1024 / READERS
    more = max(0.0, with_readers - without)
    return [
        Figure("readers_cpu", f"{READERS} readers of events at rest, more of a core", "%", (more,), limit=MOST_PERCENT),
        Figure("readers_memory", "memory for each of them", "KiB", (each_kib,), limit=MOST_KIB),
    ]


async def _rest_percent(bench: Bench) -> float:
    """How much of a core the first machine's fleetd takes."""
    machine = bench.cluster.machines[0]
    began, before = time.monotonic(), process.cpu_s(machine)
    await asyncio.sleep(REST_S)
    return (process.cpu_s(machine) - before) / (time.monotonic() - began) * 100


async def measure_journal(bench: Bench) -> list[Figure]:
    """The last lines of a global unit's log, from all machines."""
    name = "talks.service"
    says = f"/bin/sh -c 'for line in $(seq {LINES}); do echo line $line; done; exec sleep infinity'"
    options = (UnitOption("Service", "ExecStart", says), UnitOption("X-Fleet", "Global", "true"))
    async with bench.api() as api:
        await clear(api)
        await api.start(name, options)
        await _wait_until_on_all(bench, api, name)
        await asyncio.sleep(SETTLE_S)
        endpoint = f"--endpoint=unix://{bench.cluster.machines[0].path('/run/fleet.sock')}"
        fleetctl = f"{sys.prefix}/bin/fleetctl"
        took = await time_command(bench.rounds, fleetctl, endpoint, "journal", f"--lines={LINES}", name)
        await clear(api)
    count = len(bench.cluster.machines)
    return [
        Figure(JOURNAL, f"journal -n {LINES} of a global unit on {count} machines", "s", took, limit=MOST_JOURNAL_S)
    ]


async def _wait_until_on_all(bench: Bench, api: Api, name: str) -> None:
    count = len(bench.cluster.machines)

    def is_on_all(reports: dict[str, schema.UnitReport]) -> bool:
        allocations = reports[name].allocations if name in reports else ()
        return sum(each.active == "active" for each in allocations) == count

    await api.wait(is_on_all, POLL_MANY_S, name)


MEASURES = {EVENTS: measure_events, READING: measure_readers, JOURNAL: measure_journal}
