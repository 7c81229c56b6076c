"""A whole cluster in this process, whose first machine serves the web page: fleetds over simulated systemds."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from contrib.testbed.etcd import free_port
from fleetd.api.http import Request
from fleetd.api.server import Server
from fleetd.config.config import parse_config
from fleetd.config.options import Address
from fleetd.model.machine import Capability, Machine
from fleetd.process.host_environment import HostEnvironment
from fleetd.process.node import Node
from fleetd.registry.registry import Registry
from fleetd.store.embedded import EmbeddedStore
from fleetd.testing.simulated_systemd import SimulatedSystemd
from tests.actors import ADMIN
from tests.api.served import LOOPBACK
from tests.browser.flags import PATIENCE_S
from tests.scripted_inspector import ScriptedInspector

M1, M2, M3 = (number * 32 for number in "123")
SERVICE = "[Service]\nExecStart=/bin/sleep infinity\n"
ANNOUNCING = f"{SERVICE}[X-Fleet]\nAnnounce=api 8080\nAnnounceDelay=0\n"


class Cluster:
    """Three machines of three zones. `inspectors` have what units log there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.address = Address(host=LOOPBACK, port=free_port())
        self.url = f"http://{LOOPBACK}:{self.address.port}"
        self.store = EmbeddedStore(":memory:", cluster_id="c")
        self.registry = Registry(self.store)
        self.systemds = {id_: SimulatedSystemd() for id_ in (M1, M2, M3)}
        self.inspectors = {id_: ScriptedInspector() for id_ in self.systemds}
        self.nodes: dict[str, Node] = {}
        self.server: Server | None = None

    async def start(self) -> None:
        config = parse_config("agent_ttl=10s", "the test", {}, {})[0]
        for id_, systemd in self.systemds.items():
            number = id_[0]
            address, metadata = f"10.0.0.{number}", {"zone": f"z{number}"}
            capabilities = dict.fromkeys(Capability, True)
            machine = Machine(id_, number, address, metadata, boot_id=f"boot-{number}", capabilities=capabilities)
            environment = HostEnvironment(self.folder / id_, inspector=self.inspectors[id_])
            self.nodes[id_] = Node(config, self.store, systemd, machine, environment)
            self.nodes[id_].start()
        await self.serve()
        for node in self.nodes.values():
            await asyncio.wait_for(node.membership.registered.wait(), PATIENCE_S)

    async def serve(self) -> None:
        """Serve the API of the first machine."""
        self.server = Server(self.nodes[M1].api)
        await self.server.start([self.address], insecure=True)

    async def stop_serving(self) -> None:
        if self.server is not None:
            await self.server.stop()
        self.server = None

    async def stop(self) -> None:
        for node in self.nodes.values():
            await node.close()
        await self.stop_serving()
        await self.store.close()

    async def ask(self, method: str, path: str, body: Any = None) -> Any:
        """Somebody else's request; it must not be refused."""
        headers = (("Content-Type", "application/json"),) if body is not None else ()
        content = json.dumps(body).encode() if body is not None else b""
        response = await self.nodes[M1].api.handle(Request(method, path, (), headers, content, actor=ADMIN))
        assert response.status < 300, response
        return json.loads(response.body) if response.body else None

    async def apply(self, **texts: str) -> None:
        """Apply units: `web_1` stands for `web@1.service`, `db` for `db.service`."""
        units = [{"name": unit_name(name), "text": text} for name, text in texts.items()]
        await self.ask("POST", "/fleet/v2/apply", {"units": units})

    async def state(self, name: str) -> str:
        """The state of a unit as the first machine that has it reports it, '' for none."""
        found = await self.ask("POST", "/fleet/v2/reports", {"names": [name]})
        allocations = [each for unit in found.get("units", ()) for each in unit.get("allocations", ())]
        return allocations[0].get("active", "") if allocations else ""

    async def until_active(self, *names: str) -> None:
        for name in names:
            await self.until(lambda name=name: self.state(name), "active")

    async def until(self, read: Callable[[], Any], wanted: Any) -> None:
        """Wait until what is read is this."""
        async with asyncio.timeout(PATIENCE_S):
            while await read() != wanted:  # noqa: ASYNC110 (nothing says so)
                await asyncio.sleep(0.05)


def unit_name(short: str) -> str:
    stem, _, instance = short.partition("_")
    return f"{stem}@{instance}.service" if instance else f"{stem}.service"
