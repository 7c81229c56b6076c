"""A machine that serves no https has nothing of certificates: no file, no key in the store, no module in memory."""

import asyncio
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fleetd.api.http import Request
from fleetd.config.config import Config, parse_config
from fleetd.model.machine import Machine
from fleetd.process import directories
from fleetd.process.host_environment import HostEnvironment
from fleetd.process.node import Node
from fleetd.process.trusting import refuse_store
from fleetd.registry.records import MACHINES
from fleetd.store.embedded import inline
from fleetd.testing.simulated_systemd import SimulatedSystemd
from tests.actors import ADMIN
from tests.unit.trusting_server import TrustingServer, open_store
from tests.virtual_time import run_virtually

_LIGHT = ("signing", "sealing_process", "sealing_wire", "credentials_wire")  # they start processes, and no more
_LOOK = """
import sys
import fleetd.__main__, fleetd.process.daemon
heavy = [name for name in sys.modules if name.startswith(("cryptography", "fleetd.trust.")) or "trusting" in name]
print(*heavy)
"""


def make_config(text: str) -> Config:
    return parse_config(text, "fleet.conf", {}, {})[0]


def test_the_daemon_imports_nothing_that_makes_certificates() -> None:
    done = subprocess.run([sys.executable, "-c", _LOOK], capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) <= {f"fleetd.trust.{name}" for name in _LIGHT}


class World:
    """A fleetd on a virtual clock, with or without what listen=https:// makes it keep."""

    def __init__(self, directory: Path, *, serves_https: bool) -> None:
        self.store = open_store()
        environment = HostEnvironment(directory, find_address=lambda: "10.0.0.1", offload=inline)
        server = TrustingServer("m1", self.store, directory, time.time)
        self.trust = server.keeper if serves_https else None
        self.node = Node(
            make_config("disable_engine=true"),
            self.store,
            SimulatedSystemd(),
            Machine("m1", session="s1", address="10.0.0.1"),
            environment,
            trust=self.trust,
        )

    async def published(self) -> Machine:
        item = await self.store.get("/fleet/machines/m1")
        assert item is not None
        return MACHINES.decode(item)

    async def metrics(self) -> str:
        return (await self.node.api.handle(Request("GET", "/metrics", actor=ADMIN))).body.decode()


METRIC = "fleet_certificate_not_after_timestamp_seconds"


def test_a_machine_without_https_has_no_certificate(tmp_path: Path) -> None:
    async def scenario() -> None:
        world = World(tmp_path, serves_https=False)
        world.node.start()
        await asyncio.sleep(30)
        found = [item.key for item in (await world.store.range("/fleet")).items]
        assert not [key for key in found if "trust" in key or "authority" in key]
        assert (await world.published()).certificate_expires_s == 0
        assert f"{METRIC} 0.0" in await world.metrics()
        await world.node.close()

    run_virtually(scenario())


def test_a_machine_with_https_says_when_its_certificate_expires(tmp_path: Path) -> None:
    async def scenario() -> None:
        world = World(tmp_path, serves_https=True)
        world.node.start()
        await asyncio.sleep(30)
        assert world.trust is not None
        expires_s = world.trust.expires_at_s
        assert time.time() + 29 * 86400 < expires_s < time.time() + 31 * 86400
        assert (await world.published()).certificate_expires_s == expires_s
        assert float((await world.metrics()).split(f"\n{METRIC} ")[1].split()[0]) == expires_s
        await world.node.close()

    run_virtually(scenario())


def test_the_state_directory_is_the_users_own_for_a_user() -> None:
    assert directories.trust_directory(make_config("")) == Path("/var/lib/fleet/trust")
    for environ, expected in [
        ({"XDG_STATE_HOME": "/home/ann/state", "HOME": "/home/ann"}, "/home/ann/state/fleet"),
        ({"HOME": "/home/ann"}, "/home/ann/.local/state/fleet"),
    ]:
        assert directories.state_directory(make_config("systemd_user=true"), environ) == Path(expected)


@pytest.mark.parametrize(
    ("text", "is_refused"),
    [
        ("", False),
        ("standalone=true", False),
        ("etcd_servers=http://localhost:2379,http://[::1]:2379", False),
        ("etcd_servers=https://10.0.0.1:2379\netcd_certfile=/c\netcd_keyfile=/k", False),
        ("etcd_servers=http://127.0.0.1:2379,http://10.0.0.1:2379\ninsecure_etcd=true", True),
    ],
)
def test_the_key_of_an_authority_does_not_pass_a_network_unencrypted(text: str, is_refused: bool) -> None:
    assert ("http://10.0.0.1:2379 is not encrypted" in refuse_store(make_config(text))) is is_refused
