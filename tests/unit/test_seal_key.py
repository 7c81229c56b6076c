"""The key that secrets are sealed to: a machine makes one, once, and its units get secrets by it, in one fleetd."""

import asyncio
import base64
from pathlib import Path

import msgspec

from fleetd.api.http import Request
from fleetd.config.config import parse_config
from fleetd.model.machine import Capability, Machine
from fleetd.process.node import HostEnvironment, Node
from fleetd.registry.records import MACHINES
from fleetd.store.embedded import EmbeddedStore
from fleetd.testing.simulated_systemd import SimulatedSystemd
from fleetd.trust import sealing_wire
from fleetd.trust.credentials_wire import Delivered
from fleetd.trust.sealing import answer, open_value, read_seal_key
from fleetd.trust.sealing_process import Sealing, SealingFailed
from tests.actors import ADMIN
from tests.virtual_time import offload_inline, run_virtually

JSON = (("Content-Type", "application/json"),)


class Fleetd:
    """A fleetd on a virtual clock. `failures` are why the next keys cannot be made."""

    def __init__(self, directory: Path, failures: tuple[str, ...] = ()) -> None:
        self.directory = directory
        self.failures = list(failures)
        self.asked: list[sealing_wire.Request] = []
        self.store = EmbeddedStore(":memory:", offload=offload_inline)
        self.sealing = Sealing(directory / "trust", self._ask)
        surroundings = HostEnvironment(directory, offload=offload_inline, sealing=self.sealing)
        config, _ = parse_config("", "fleet.conf", {}, {})
        able = dict.fromkeys(Capability, True)
        machine = Machine("m1", session="s1", capabilities=able, seal_key=self.sealing.find_public())
        self.node = Node(config, self.store, SimulatedSystemd(), machine, surroundings)
        self.node.start()

    async def _ask(self, request: sealing_wire.Request) -> sealing_wire.Answer:
        self.asked.append(request)
        if self.failures:
            raise SealingFailed(self.failures.pop())
        return answer(request)

    async def key(self) -> str:
        item = await self.store.get("/fleet/machines/m1")
        assert item is not None
        return MACHINES.decode(item).seal_key

    async def ask(self, method: str, path: str, body: object) -> int:
        content = msgspec.json.encode(body)
        return (await self.node.api.handle(Request(method, path, (), JSON, content, local=True, actor=ADMIN))).status


def test_a_machine_makes_its_key_once_and_tries_again_if_it_cannot(tmp_path: Path) -> None:
    async def scenario() -> None:
        fleetd = Fleetd(tmp_path, ("out of memory",))
        await asyncio.sleep(10)
        assert await fleetd.key() == ""
        await asyncio.sleep(60)
        assert await fleetd.key() == fleetd.sealing.find_public() != ""
        await fleetd.node.close()
        again = Fleetd(tmp_path)
        await asyncio.sleep(120)
        assert (await again.key(), again.asked) == (fleetd.sealing.find_public(), [])
        await again.node.close()

    run_virtually(scenario())


def test_a_secret_gets_from_the_api_to_where_systemd_asks_for_it_and_is_nowhere_in_the_store(tmp_path: Path) -> None:
    async def scenario() -> None:
        fleetd = Fleetd(tmp_path)
        await asyncio.sleep(10)
        value = base64.b64encode(b"hunter2-hunter2")
        assert await fleetd.ask("PUT", "/fleet/v2/secrets/db.pw", {"value": value.decode()}) == 200
        options = [
            {"section": "Service", "name": "ExecStart", "value": "/bin/x"},
            {"section": "Service", "name": "LoadCredential", "value": "db.pw:/run/fleet/credentials.sock"},
            {"section": "X-Fleet", "name": "Secret", "value": "db.pw"},
        ]
        asked = {"options": options, "desiredState": "launched"}
        assert await fleetd.ask("PUT", "/fleet/v1/units/a.service", asked) == 201
        await asyncio.sleep(10)
        file = tmp_path / "credentials" / "a.service" / "db.pw"
        found = msgspec.json.decode(file.read_bytes(), type=Delivered)
        own = read_seal_key(tmp_path / "trust" / "seal.key")
        assert open_value(own, "db.pw", found.version, found.key, found.box) == b"hunter2-hunter2"
        for item in (await fleetd.store.range("/")).items:
            assert b"hunter2" not in item.value
            assert value[:16] not in item.value
        before = await fleetd.store.revision()
        await asyncio.sleep(600)
        assert await fleetd.store.revision() == before, "nothing is written at rest"
        await fleetd.node.close()

    run_virtually(scenario())
