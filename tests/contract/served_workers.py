"""The real server half of a worker's store, over any store, for whom every key is allowed."""

from collections.abc import Sequence

from msgspec.structs import replace

from contrib.testbed.etcd import free_port
from fleetd.api.http import Request, Response, StreamedResponse
from fleetd.api.server import Server
from fleetd.api.worker.limits import Limits
from fleetd.api.worker.server import WorkerApi
from fleetd.config.options import Address
from fleetd.model.certificate import MACHINE, WORKER, CertificateIdentity
from fleetd.model.worker_access import Selection
from fleetd.registry.registry import Registry
from fleetd.registry.transactions import WriteSet
from fleetd.store.protocol import Operation, Store

LOOPBACK = "127.0.0.1"


class EveryKey:
    """The access of somebody who may read and write everything."""

    machine = ""

    def may_read(self, key: str) -> bool:
        return True

    def select(self, prefix: str) -> Selection:
        return Selection((), (prefix,))

    def refuse_put(self, key: str, lease: int) -> str:
        return ""

    def refuse_delete(self, key: str) -> str:
        return ""

    def is_answer(self, key: str) -> bool:
        return False

    def request_of(self, key: str) -> str:
        return ""


class AnyRecord:
    """Prepares nothing: what is written is no record of fleet."""

    async def prepare(self, machine: str, operations: Sequence[Operation]) -> WriteSet:
        return WriteSet((), tuple(operations))


class ServedWorkers:
    """Serves `store` at `url`, without TLS, to a worker that is known all the same."""

    def __init__(self, store: Store, port: int = 0) -> None:
        self._store = store
        self.workers = WorkerApi(
            Registry(store, ""),
            find_access=lambda prefix, machine: EveryKey(),
            records=AnyRecord(),
            limits=Limits(requests=1000, requests_at_once=1e6, bytes_at_once=1e9),
        )
        self.port = port or free_port()
        self.server = Server(self)

    @property
    def url(self) -> str:
        return f"http://{LOOPBACK}:{self.port}"

    async def start(self) -> "ServedWorkers":
        await self._store.cluster_id()  # the first to ask writes it, which is a revision
        await self.server.start([Address(host=LOOPBACK, port=self.port)], insecure=True)
        return self

    async def stop(self) -> None:
        self.workers.close()
        await self.server.stop()

    async def handle(self, request: Request) -> Response | StreamedResponse:
        return await self.workers.handle(replace(request, certificate=CertificateIdentity(MACHINE, "w1", WORKER)))
