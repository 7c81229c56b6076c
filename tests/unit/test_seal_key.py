"""The key that secrets are sealed to: a machine makes one, once, and its units get secrets by it, in one fleetd."""

import asyncio
import base64
import shutil
from pathlib import Path

import msgspec
import pytest

from fleetd.api.http import Request
from fleetd.config.config import parse_config
from fleetd.model.machine import Capability, Machine
from fleetd.process.host_environment import HostEnvironment
from fleetd.process.node import Node
from fleetd.registry.records import MACHINES
from fleetd.store.embedded import EmbeddedStore
from fleetd.testing.simulated_systemd import SimulatedSystemd
from fleetd.trust import sealing_wire
from fleetd.trust.credentials_wire import Delivered
from fleetd.trust.sealing import answer, open_value, read_seal_key
from fleetd.trust.sealing_process import Sealing, SealingFailed
from fleetd.trust.tpm import Tpm
from tests import software_tpm
from tests.actors import ADMIN
from tests.requirements import require
from tests.virtual_time import offload_inline, run_virtually

VALUE = b"hunter2-hunter2"
JSON = (("Content-Type", "application/json"),)


class Fleetd:
    """A fleetd on a virtual clock, which finds the TPM in `directory`/tpm if there is one. `failures` are why the next
    keys cannot be made, `store` is the file of the store."""

    def __init__(self, directory: Path, failures: tuple[str, ...] = (), store: str = ":memory:") -> None:
        self.directory = directory
        self.tpm = Tpm(software_tpm.command(directory / "tpm"), timeout_s=60.0)
        self.failures = list(failures)
        self.asked: list[sealing_wire.Request] = []
        self.store = EmbeddedStore(store, offload=offload_inline)
        self.sealing = Sealing(directory / "trust", self._ask, directory / "tpm")
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
        try:
            return answer(request, self.tpm)
        except (OSError, ValueError) as error:  # of which the process writes the words
            raise SealingFailed(str(error)) from error

    async def key(self) -> str:
        item = await self.store.get("/fleet/machines/m1")
        assert item is not None
        return MACHINES.decode(item).seal_key

    async def set_secret(self) -> None:
        value = base64.b64encode(VALUE).decode()
        assert await self.ask("PUT", "/fleet/v2/secrets/db.pw", {"value": value}) == 200

    async def start_reader(self) -> int:
        """Start a unit that is given the secret. Returns the status of the answer."""
        options = [
            {"section": "Service", "name": "ExecStart", "value": "/bin/x"},
            {"section": "Service", "name": "LoadCredential", "value": "db.pw:/run/fleet/credentials.sock"},
            {"section": "X-Fleet", "name": "Secret", "value": "db.pw"},
        ]
        asked = {"options": options, "desiredState": "launched"}
        return await self.ask("PUT", "/fleet/v1/units/a.service", asked)

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
        await fleetd.set_secret()
        assert await fleetd.start_reader() == 201
        await asyncio.sleep(10)
        file = tmp_path / "credentials" / "a.service" / "db.pw"
        found = msgspec.json.decode(file.read_bytes(), type=Delivered)
        own = read_seal_key(tmp_path / "trust" / "seal.key")
        assert open_value(own, "db.pw", found.version, found.key, found.box) == VALUE
        for item in (await fleetd.store.range("/")).items:
            assert b"hunter2" not in item.value
            assert base64.b64encode(VALUE)[:16] not in item.value
        before = await fleetd.store.revision()
        await asyncio.sleep(600)
        assert await fleetd.store.revision() == before, "nothing is written at rest"
        await fleetd.node.close()

    run_virtually(scenario())


def test_a_machine_whose_tpm_was_cleared_has_a_new_key_and_units_wait_until_secrets_are_sealed_to_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    require(software_tpm.missing(), "runs systemd-creds with a TPM in software")
    (tmp_path / "tpm").mkdir()
    store = str(tmp_path / "fleet.db")

    async def scenario() -> None:
        fleetd = Fleetd(tmp_path, store=store)
        await asyncio.sleep(10)
        former = await fleetd.key()
        assert (tmp_path / "trust" / "seal.cred").exists()
        await fleetd.set_secret()
        assert await fleetd.start_reader() == 201
        await asyncio.sleep(10)
        file = tmp_path / "credentials" / "a.service" / "db.pw"
        assert msgspec.json.decode(file.read_bytes(), type=Delivered).recipient == former
        await fleetd.node.close()
        # The machine is off, somebody clears its TPM, and it boots.
        shutil.rmtree(tmp_path / "tpm")
        shutil.rmtree(tmp_path / "credentials")
        (tmp_path / "tpm").mkdir()
        again = Fleetd(tmp_path, store=store)
        await asyncio.sleep(30)
        assert await again.key() == again.sealing.find_public() != former
        assert "the key for secrets is lost, and there is a new one" in caplog.text
        assert "the secret db.pw is not sealed to this machine, which leads: set it again" in caplog.text
        assert not file.exists(), "what nothing can open is given to no unit"
        await again.set_secret()
        await asyncio.sleep(90)
        assert msgspec.json.decode(file.read_bytes(), type=Delivered).recipient == await again.key()
        await again.node.close()

    run_virtually(scenario())


def test_a_unit_is_not_started_while_the_tpm_that_opens_its_secrets_is_away(tmp_path: Path) -> None:
    require(software_tpm.missing(), "runs systemd-creds with a TPM in software")
    (tmp_path / "tpm").mkdir()
    store = str(tmp_path / "fleet.db")

    async def scenario() -> None:
        fleetd = Fleetd(tmp_path, store=store)
        await asyncio.sleep(10)
        await fleetd.set_secret()
        former = await fleetd.key()
        await fleetd.node.close()
        (tmp_path / "tpm").rename(tmp_path / "away")
        again = Fleetd(tmp_path, store=store)
        assert await again.start_reader() == 201
        await asyncio.sleep(30)
        assert await again.key() == former
        assert again.sealing.awaits_tpm()
        assert not (tmp_path / "credentials" / "a.service").exists()
        (tmp_path / "away").rename(tmp_path / "tpm")
        await asyncio.sleep(180)
        assert await again.key() == former
        assert (tmp_path / "credentials" / "a.service" / "db.pw").exists()
        await again.node.close()

    run_virtually(scenario())
