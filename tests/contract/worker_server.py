"""A small server of workers, over any store: what WorkerStore needs of one, without permissions. Tests make it lag,
freeze and end."""

import asyncio
from collections.abc import Awaitable, Callable

from aiohttp import web

from fleetd.store import worker_wire as wire
from fleetd.store.protocol import (
    Changes,
    Compacted,
    Conflict,
    LeaseNotFound,
    Store,
    StoreError,
)

_STATUSES = {Conflict: wire.CONFLICT, Compacted: wire.COMPACTED, LeaseNotFound: wire.LEASE_NOT_FOUND}


class WorkerServer:
    """Serves `store` at `url`. `lag` is by how many revisions it pretends to be behind; `epoch` the name of the store's
    epoch; `frozen` holds every answer back while it is clear; `refusal` is a status and body to answer instead."""

    def __init__(self, store: Store, epoch: str = "c") -> None:
        self.store = store
        self.epoch = epoch
        self.lag = 0
        self.running = asyncio.Event()
        self.running.set()
        self.refusal: tuple[int, bytes] | None = None
        self.calls: list[str] = []
        self.port = 0
        self._runner: web.AppRunner | None = None
        self._transports: set[asyncio.Transport] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def start(self) -> "WorkerServer":
        app = web.Application(client_max_size=8 * 1024 * 1024)
        app.router.add_post(wire.PREFIX + "{call}", self._serve)
        self._runner = web.AppRunner(app, shutdown_timeout=0, handler_cancellation=True)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port)
        await site.start()
        self.port = self._runner.addresses[0][1]
        return self

    def restore(self, store: Store, epoch: str) -> None:
        """Have another store from here on."""
        self.store, self.epoch = store, epoch

    async def stop(self) -> None:
        if self._runner:
            for transport in self._transports:
                transport.abort()
            await self._runner.cleanup()
            self._runner = None

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        call = request.match_info["call"]
        self.calls.append(call)
        if request.transport:
            self._transports.add(request.transport)
        await self.running.wait()
        if self.refusal:
            return web.Response(status=self.refusal[0], body=self.refusal[1])
        asked = wire.decode_request(call, await request.read())
        try:
            revision = await self.store.revision() - self.lag
            if revision < asked.highest_revision and asked.history == wire.history_mark(self.epoch):
                return _failure(wire.UNAVAILABLE, wire.Failure(message="behind", lagging=True))
            if call == wire.WATCH:
                return await self._watch(request, asked)
            answered = await getattr(self, "_" + call.replace("-", "_"))(asked)
            header = {"history": wire.history_mark(self.epoch), "store_revision": revision}
            if call == "transact":
                header["store_revision"] = answered["revision"]
            answer = wire.CALLS[call].answer(**header, **answered)
        except StoreError as error:
            return _failure(_STATUSES.get(type(error), wire.UNAVAILABLE), _describe(error))
        return web.Response(body=wire.encode(answer), content_type=wire.CONTENT_TYPE)

    async def _cluster_id(self, asked: wire.Request) -> dict[str, object]:
        return {"cluster_id": await self.store.cluster_id()}

    async def _get(self, asked: wire.KeyRequest) -> dict[str, object]:
        return {"item": await self.store.get(asked.key)}

    async def _get_many(self, asked: wire.KeysRequest) -> dict[str, object]:
        return {"found": await self.store.get_many(asked.keys, revision=asked.revision)}

    async def _range(self, asked: wire.RangeRequest) -> dict[str, object]:
        found = await self.store.range(asked.prefix, after=asked.after, limit=asked.limit, revision=asked.revision)
        return {"found": found}

    async def _digest(self, asked: wire.PrefixRequest) -> dict[str, object]:
        return {"digest": await self.store.digest(asked.prefix)}

    async def _transact(self, asked: wire.TransactRequest) -> dict[str, object]:
        return {"revision": await self.store.transact(asked.comparisons, asked.operations)}

    async def _grant(self, asked: wire.GrantRequest) -> dict[str, object]:
        return {"lease": await self.store.grant(asked.ttl_s)}

    async def _keep_alive(self, asked: wire.LeaseRequest) -> dict[str, object]:
        return {"beat": await self.store.keep_alive(asked.lease)}

    async def _time_to_live(self, asked: wire.LeaseRequest) -> dict[str, object]:
        return {"ttl_s": await self.store.time_to_live(asked.lease)}

    async def _revoke(self, asked: wire.LeaseRequest) -> dict[str, object]:
        await self.store.revoke(asked.lease)
        return {}

    async def _revision(self, asked: wire.Request) -> dict[str, object]:
        return {}

    async def _watch(self, request: web.Request, asked: wire.WatchRequest) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        write: Callable[[bytes], Awaitable[None]] = response.write

        async def send(**fields: object) -> None:
            await self.running.wait()
            mark = wire.history_mark(self.epoch)
            await write(wire.encode_frame(wire.WatchFrame(history=mark, **fields)))

        async def follow(number: int, watch: wire.WatchFrom) -> None:
            try:
                changes: Changes
                async for changes in self.store.watch(watch.prefix, watch.after_revision, end=watch.end):
                    await send(number=number, events=changes.events, store_revision=changes.revision)
            except Compacted as error:
                failure = _describe(error)
                await send(number=number, status=wire.COMPACTED, failure=failure, store_revision=error.revision)

        await send(store_revision=min([watch.after_revision for watch in asked.watches], default=0))
        following = [asyncio.create_task(follow(number, watch)) for number, watch in enumerate(asked.watches)]
        try:
            while True:
                await asyncio.sleep(wire.WATCH_HEARTBEAT_S)
                await send(store_revision=0)
        finally:
            for task in following:
                task.cancel()


def _describe(error: StoreError) -> wire.Failure:
    if isinstance(error, Compacted):
        return wire.Failure(message=str(error), revision=error.revision, was_set_back=error.was_set_back)
    return wire.Failure(message=str(error))


def _failure(status: int, failure: wire.Failure) -> web.Response:
    return web.Response(status=status, body=wire.encode(failure), content_type=wire.CONTENT_TYPE)
