"""A worker's requests to the server half, made in this process, and a store with the records of two machines."""

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

from fleetd.api.http import Request, Response, StreamedResponse
from fleetd.api.worker.server import WorkerApi
from fleetd.model.certificate import MACHINE, WORKER, CertificateIdentity
from fleetd.model.machine import Machine
from fleetd.model.machine_identity import MachineIdentity
from fleetd.model.unit import UnitState
from fleetd.registry.records import KeySpace, encode
from fleetd.registry.registry import Registry
from fleetd.store import worker_wire as wire
from fleetd.store.embedded import EmbeddedStore, inline
from fleetd.store.protocol import Put

OWN, OTHER = "ab12", "ab123"
KEYS = KeySpace()
UNIT = "web.service"
SECRET = b"what-is-not-for-this-worker"
PATIENCE_S = 60.0
OF_CERTIFICATE = CertificateIdentity(MACHINE, OWN, WORKER)

RECORDED = MachineIdentity(WORKER, "10.0.0.7", {"zone": "a"}, ("ssh-ed25519 GOOD",))


def machine_value(id_: str = OWN, **fields: Any) -> bytes:
    return encode(Machine(id_, session="s", **fields))


def state_value(**fields: Any) -> bytes:
    return encode(UnitState(**fields))


async def make_store() -> EmbeddedStore:
    """A store with what is of OWN, of OTHER, and of the cluster."""
    store = EmbeddedStore(":memory:", offload=inline, cluster_id="c0ffee")
    await fill(store)
    return store


async def fill(store: EmbeddedStore) -> None:
    """Write these records."""
    prefix = KEYS.prefix
    secrets = [
        f"{prefix}units/{UNIT}",
        f"{prefix}leader",
        f"{prefix}secrets/db.pw",
        f"{prefix}placements/{OTHER}/{UNIT}",
        f"{prefix}states/{OTHER}/{UNIT}",
        f"{prefix}sealed-secrets/{OTHER}/db.pw",
        f"{prefix}machines/{OTHER}",
        f"{prefix}synced/{OTHER}",
        f"{prefix}trust/machines/{OTHER}",
        f"{prefix}trust/tokens/abc",
        "/fleet-authority/1",
        "/other/key",
    ]
    own = {
        f"{prefix}trust/machines/{OWN}": encode(RECORDED),
        f"{prefix}placements/{OWN}/{UNIT}": b"a placement",
        f"{prefix}synced/{OWN}": b"{}",
    }
    await store.transact([], [Put(key, SECRET) for key in secrets])
    await store.transact([], [Put(key, value) for key, value in own.items()])


class Caller:
    """A worker that says what it likes."""

    def __init__(self, store: EmbeddedStore, certificate: CertificateIdentity | None = OF_CERTIFICATE, **options: Any):
        self.store = store
        self.api = WorkerApi(Registry(store), **options)
        self.certificate = certificate

    async def send(self, call: str, body: bytes, method: str = "POST", type_: str = wire.CONTENT_TYPE) -> Any:
        request = Request(
            method, wire.PREFIX + call, headers=(("Content-Type", type_),), body=body, certificate=self.certificate
        )
        return await self.api.handle(request)

    async def ask(self, call: str, request: wire.Request) -> Any:
        """The answer; or the status of a failure, and the failure."""
        response = await self.send(call, wire.encode(request))
        if isinstance(response, StreamedResponse):
            return response
        assert isinstance(response, Response)
        if response.status == 200:
            return wire.decode_body(response.body, wire.CALLS[call].answer)
        return response.status, wire.decode_body(response.body, wire.Failure)

    async def get(self, key: str) -> Any:
        return await self.ask("get", wire.KeyRequest(key=key))

    async def range(self, prefix: str, **options: Any) -> Any:
        return await self.ask("range", wire.RangeRequest(prefix=prefix, **options))

    async def transact(self, *operations: Any, comparisons: Any = ()) -> Any:
        return await self.ask("transact", wire.TransactRequest(comparisons=comparisons, operations=operations))

    async def grant(self, ttl_s: float = 60) -> int:
        return (await self.ask("grant", wire.GrantRequest(ttl_s=ttl_s))).lease

    async def watch(self, *watches: tuple[str, int], **known: Any) -> "Frames":
        asked = wire.WatchRequest(watches=tuple(wire.WatchFrom(*watch) for watch in watches), **known)
        response = await self.ask("watch", asked)
        assert isinstance(response, StreamedResponse), response
        return Frames(response.chunks)


class Frames:
    """The frames of a stream."""

    def __init__(self, chunks: AsyncGenerator[bytes, None]) -> None:
        self.chunks = chunks

    async def next(self) -> wire.WatchFrame | None:
        """The next frame; None: the stream is over."""
        async with asyncio.timeout(PATIENCE_S):
            chunk = await anext(self.chunks, None)
        if chunk is None:
            return None
        body = wire.take_frame(bytearray(chunk))
        assert body is not None
        return wire.decode_body(body, wire.WatchFrame)

    async def close(self) -> None:
        await self.chunks.aclose()
