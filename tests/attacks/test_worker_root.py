"""Whoever is root on a worker, against a whole server over TLS: what it says, asks and floods concerns it alone."""

import asyncio
import http.client
import ssl
import time
from contextlib import suppress
from pathlib import Path

import pytest

from fleetd.model.machine import Machine
from fleetd.registry.records import MACHINES, STATES, encode
from fleetd.store import worker_wire as wire
from fleetd.store.protocol import Delete, HasValue, Put
from fleetd.store.worker import Forbidden, WorkerStore
from fleetd.store.worker_wire import WatchFrom
from tests.api.served import ask
from tests.attacks.conftest import BAD, LEADER, MARK, PATIENCE_S, RECORDED, VICTIM, Attacked
from tests.certificates import TestAuthority

HEADERS = {"Content-Type": wire.CONTENT_TYPE}
FLOOD_S = 3.0


def bad_store(cluster: Attacked) -> WorkerStore:
    context = cluster.authority.client_context(cluster.certificates[BAD])
    return WorkerStore([cluster.url], lambda: context, request_timeout_s=5)


async def test_a_worker_runs_what_is_placed_on_it_and_is_what_was_recorded_of_it(cluster: Attacked) -> None:
    await cluster.until(lambda: bool(cluster.victim_systemd.processes()))
    machine = (await cluster.registry.read(MACHINES))[VICTIM,]
    assert (machine.address, machine.metadata, machine.host_keys) == (
        RECORDED.address,
        RECORDED.metadata,
        RECORDED.host_keys,
    )
    async with asyncio.timeout(PATIENCE_S):
        while True:
            state = (await cluster.registry.read(STATES, VICTIM)).get((VICTIM, "v.service"))
            if state is not None and state.active == "active":
                break
            await asyncio.sleep(0.05)


@pytest.mark.covers("R.10")
async def test_it_reads_nothing_of_the_others(cluster: Attacked) -> None:
    store = bad_store(cluster)
    everything = [item.key for prefix in ("", "/", "/fleet/") for item in (await store.range(prefix)).items]
    assert set(everything) <= {"/fleet/cluster", "/fleet/history"}
    for prefix in (
        f"/fleet/placements/{VICTIM}/",
        f"/fleet/states/{VICTIM[:-1]}",
        "/fleet/units/",
        "/fleet-authority/",
    ):
        assert (await store.range(prefix)).items == ()
        assert (await store.digest(prefix)).count == 0
    for key in (
        f"/fleet/placements/{VICTIM}/v.service",
        "/fleet-authority/1",
        "/fleet/leader",
        "/fleet/units/v.service",
    ):
        with pytest.raises(Forbidden):
            await store.get(key)
        with pytest.raises(Forbidden):
            await store.transact([HasValue(key, MARK.encode())], [])
    await store.close()


class Follower:
    """A stream of changes that the bad worker reads."""

    def __init__(self, cluster: Attacked, *watches: WatchFrom) -> None:
        self.client = cluster.client()
        self.read = bytearray()
        self.body = wire.encode(wire.WatchRequest(watches=watches))
        self.task = asyncio.create_task(asyncio.to_thread(self._follow))

    def _follow(self) -> None:
        self.client.request("POST", "/fleet/worker/v1/watch", body=self.body, headers=HEADERS)
        response = self.client.getresponse()
        with suppress(OSError, http.client.HTTPException):
            while chunk := response.read1():
                self.read.extend(chunk)


async def test_it_watches_nothing_of_the_others(cluster: Attacked) -> None:
    revision = await cluster.store.revision()
    prefixes = ("", "/fleet/", f"/fleet/placements/{VICTIM}/", "/fleet-authority/")
    follower = Follower(cluster, *(WatchFrom(prefix, revision) for prefix in prefixes))
    await cluster.store.transact([], [Put(f"/fleet/placements/{VICTIM}/x.service", MARK.encode())])
    await cluster.store.transact([], [Put(f"/fleet/settings/{BAD}", b"its own")])
    await cluster.until(lambda: b"its own" in follower.read)
    await cluster.server.stop()
    await follower.task
    assert b"its own" in follower.read
    assert MARK.encode() not in follower.read


@pytest.mark.covers("R.10")
async def test_it_writes_nothing_of_the_others(cluster: Attacked) -> None:
    store = bad_store(cluster)
    lease = await store.grant(5)
    before = {item.key: item.value for item in (await cluster.store.range("/fleet/units/")).items}
    victim_lease = cluster.victim.membership.lease
    for operations in (
        [Put(f"/fleet/machines/{VICTIM}", encode(Machine(VICTIM)), lease)],
        [Put(f"/fleet/states/{VICTIM}/v.service", b"{}", lease)],
        [Put(f"/fleet/placements/{BAD}/v.service", b"{}", lease)],
        [Put(f"/fleet/synced/{BAD}", b"{}", lease)],
        [Put("/fleet/history", b"x", lease)],
        [Put("/fleet/leader", b"{}", lease)],
        [Put("/fleet/units/evil.service", b"{}", lease)],
        [Put(f"/fleet/trust/machines/{BAD}", b"{}", lease)],
        [Delete(f"/fleet/machines/{VICTIM}")],
        [Delete("/fleet/units/v.service")],
        [Put(f"/fleet/machines/{BAD}", b'{"format":99}', lease)],
        [Put(f"/fleet/machines/{BAD}", encode(Machine(BAD)), 0)],
    ):
        with pytest.raises(Forbidden):
            await store.transact([], operations)
    await store.revoke(victim_lease)
    await store.transact([], [Put(f"/fleet/machines/{BAD}", encode(Machine(BAD, metadata={"role": "db"})), lease)])
    assert (await cluster.registry.read(MACHINES))[BAD,].metadata == RECORDED.metadata
    assert {item.key: item.value for item in (await cluster.store.range("/fleet/units/")).items} == before
    assert await cluster.store.time_to_live(victim_lease) is not None
    assert cluster.victim.membership.registered.is_set()
    await store.close()


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/fleet/v1/units"),
        ("GET", "/fleet/v1/machines"),
        ("PUT", "/fleet/v1/units/evil.service"),
        ("POST", "/fleet/v2/machine-tokens"),
        ("POST", "/fleet/v2/leave"),
        ("DELETE", f"/fleet/v2/machines/{VICTIM}"),
        ("GET", "/metrics"),
        ("GET", "/fleet/worker/v2/get"),
        ("GET", "/fleet/worker/v1/../../v1/units"),
        ("POST", "/fleet/worker/v1/compact"),
    ],
)
async def test_nothing_else_is_for_it(cluster: Attacked, method: str, path: str) -> None:
    status, body = await cluster.send(method, path, body=b"{}", headers={"Content-Type": "application/json"})
    assert status in (400, 403)
    assert MARK.encode() not in body


async def test_its_certificate_is_not_that_of_a_server(cluster: Attacked) -> None:
    """A worker that plays a server for others: no client of the cluster believes it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cluster.certificates[BAD])
    played = await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0, ssl=context)
    port = played.sockets[0].getsockname()[1]
    with pytest.raises(ssl.SSLCertVerificationError):
        await asyncio.open_connection(
            "127.0.0.1", port, ssl=cluster.authority.client_context(cluster.certificates[VICTIM])
        )
    played.close()


async def test_a_certificate_of_another_authority_is_nobodys(cluster: Attacked, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other = TestAuthority(tmp_path / "other", 7)
    client = cluster.client()
    client.tls = cluster.authority.client_context()
    client.tls.load_cert_chain(other.machine(VICTIM, "worker"))
    body = wire.encode(wire.RangeRequest(prefix="/"))
    try:
        response, _ = await ask(client, "POST", "/fleet/worker/v1/range", body=body, headers=HEADERS)
        status = response.status
    except (ssl.SSLError, ConnectionError, http.client.HTTPException):
        status = 401  # refused by TLS itself
    assert status in (401, 403)


async def test_a_worker_that_is_removed_is_out_at_once(cluster: Attacked) -> None:
    follower = Follower(cluster, WatchFrom("/", await cluster.store.revision()))
    await asyncio.sleep(0.5)
    assert not follower.task.done()
    cluster.trust.revoke(f"machine/{BAD}")
    cluster.server.close_revoked()
    await asyncio.wait_for(follower.task, 20.0)
    body = wire.encode(wire.RangeRequest(prefix="/"))
    status, answer = await cluster.send("POST", "/fleet/worker/v1/range", body=body, headers=HEADERS)
    assert (status, b"revoked" in answer) == (403, True)


async def test_a_flood_of_one_worker_does_not_slow_another(cluster: Attacked) -> None:
    """Connections that are kept, and requests as fast as they go, beside the heartbeats of another worker."""
    held = []
    for _ in range(60):
        client = cluster.client()
        with suppress(OSError):
            await asyncio.to_thread(client.connect)
            held.append(client)
    statuses: list[int] = []

    def flood() -> None:
        until_s = time.monotonic() + FLOOD_S
        body = wire.encode(wire.RangeRequest(prefix="/"))
        while time.monotonic() < until_s:
            client = cluster.client()
            with suppress(OSError, http.client.HTTPException):
                while time.monotonic() < until_s:
                    client.request("POST", "/fleet/worker/v1/range", body=body, headers=HEADERS)
                    response = client.getresponse()
                    response.read()
                    statuses.append(response.status)

    floods = [asyncio.create_task(asyncio.to_thread(flood)) for _ in range(4)]
    slowest_s = 0.0
    until_s = time.monotonic() + FLOOD_S
    while time.monotonic() < until_s:
        began_s = time.monotonic()
        await cluster.victim.store.keep_alive(cluster.victim.membership.lease)
        slowest_s = max(slowest_s, time.monotonic() - began_s)
        await asyncio.sleep(0.1)
    await asyncio.gather(*floods)
    assert statuses.count(200) <= 300 + 100 * (FLOOD_S + 1)
    assert slowest_s < 5.0
    assert sum(1 for client in held if is_open(client)) <= 24
    assert cluster.victim.membership.registered.is_set()
    assert (LEADER,) in await cluster.registry.read(MACHINES)


def is_open(client: http.client.HTTPConnection) -> bool:
    """Whether the server has not closed the connection."""
    client.sock.settimeout(0.05)
    try:
        return client.sock.recv(1) != b""
    except TimeoutError:
        return True
    except OSError:
        return False
