"""How the daemon finds its lock, its systemd, its own unit and its address."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest

from fleetd.api.http import Request
from fleetd.config.config import parse_config
from fleetd.model.machine import Machine
from fleetd.process.daemon import AlreadyRunning, claim_machine, unit_of_process
from fleetd.process.host_environment import HostEnvironment
from fleetd.process.node import READY_TIMEOUT_S, Node
from fleetd.store.embedded import EmbeddedStore
from fleetd.store.protocol import KeyValue, Unavailable
from fleetd.testing.simulated_systemd import SimulatedSystemd
from tests.actors import ADMIN
from tests.virtual_time import offload_inline, run_virtually


class UnavailableStore(EmbeddedStore):
    """A store that answers nothing."""

    async def get(self, key: str) -> KeyValue | None:
        raise Unavailable("the store does not answer")


LIST_UNITS = Request("GET", "/fleet/v2/units", local=True, actor=ADMIN)


def test_a_second_fleetd_is_refused_and_the_first_is_reported(tmp_path: Path) -> None:
    with claim_machine(tmp_path / "fleet"), pytest.raises(AlreadyRunning, match=f"process {os.getpid()}"):
        claim_machine(tmp_path / "fleet")


def test_the_lock_of_a_fleetd_that_has_ended_is_free(tmp_path: Path) -> None:
    claim_machine(tmp_path).close()
    claim_machine(tmp_path).close()


@pytest.mark.covers("R.15")
def test_a_lock_file_left_open_to_others_is_closed(tmp_path: Path) -> None:
    (tmp_path / "lock").touch()
    (tmp_path / "lock").chmod(0o644)
    with claim_machine(tmp_path):
        assert (tmp_path / "lock").stat().st_mode & 0o7777 == 0o600


@pytest.mark.covers("5.4.2")
def test_without_systemd_on_the_bus_it_exits_with_one_line(tmp_path: Path) -> None:
    config = tmp_path / "fleet.conf"
    config.write_text(f"standalone=true\nstandalone_path={tmp_path}/fleet.db\nsystemd_user=true\nlisten={tmp_path}/s\n")
    nowhere = {"XDG_RUNTIME_DIR": str(tmp_path), "DBUS_SESSION_BUS_ADDRESS": f"unix:path={tmp_path}/bus"}
    done = subprocess.run(
        [sys.executable, "-m", "fleetd", "--config", str(config)],
        env={**os.environ, **nowhere},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        "CRITICAL cannot run: connect to the user's bus: no such file or directory; check DBUS_SESSION_BUS_ADDRESS "
        "and XDG_RUNTIME_DIR\n"
    )
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize(
    ("cgroups", "unit"),
    [
        ("0::/system.slice/fleet.service\n", "fleet.service"),
        ("0::/system.slice/my-fleet.service/supervised\n", "my-fleet.service"),
        ("1:name=systemd:/system.slice/fleet.service\n0::/payload/system.slice/fleet.service\n", "fleet.service"),
        ("0::/user.slice/user-0.slice/session-1.scope\n", "fleet.service"),
        ("", "fleet.service"),
    ],
)
def test_fleetd_knows_its_own_unit_by_its_cgroup(cgroups: str, unit: str) -> None:
    assert unit_of_process(cgroups) == unit


@pytest.mark.covers("5.3.15")
@pytest.mark.parametrize(("value", "leads"), [("false", True), ("true", False)])
def test_a_machine_without_an_engine_joins_and_never_leads(tmp_path: Path, value: str, leads: bool) -> None:
    async def scenario() -> None:
        config, _ = parse_config(f"disable_engine={value}", "fleet.conf", {}, {})
        store = EmbeddedStore(":memory:", offload=offload_inline)
        surroundings = HostEnvironment(tmp_path, new_id=lambda: "an-id", offload=offload_inline)
        node = Node(config, store, SimulatedSystemd(), Machine("m1", session="s1"), surroundings)
        node.start()
        await asyncio.sleep(60)
        assert await store.get("/fleet/machines/m1") is not None
        assert (await store.get("/fleet/leader") is not None) is leads
        await node.close()

    run_virtually(scenario())


@pytest.mark.covers("5.3.8", "5.4.8", "9.7")
def test_a_changed_address_is_published_within_a_minute(tmp_path: Path) -> None:
    async def scenario() -> None:
        config, _ = parse_config("disable_engine=true", "fleet.conf", {}, {})
        store = EmbeddedStore(":memory:", offload=offload_inline)
        addresses = ["10.0.0.1"]
        surroundings = HostEnvironment(tmp_path, find_address=lambda: addresses[-1], offload=offload_inline)
        node = Node(config, store, SimulatedSystemd(), Machine("m1", session="s1", address="10.0.0.1"), surroundings)
        node.start()
        await asyncio.sleep(1)
        registered = await store.get("/fleet/machines/m1")
        assert registered is not None
        addresses.append("")
        await asyncio.sleep(121)
        assert await store.get("/fleet/machines/m1") == registered
        addresses.append("10.0.0.2")
        await asyncio.sleep(60)
        changed = await store.get("/fleet/machines/m1")
        assert changed is not None
        assert (b"10.0.0.2" in changed.value, changed.lease) == (True, registered.lease)
        await asyncio.sleep(60)
        assert await store.get("/fleet/machines/m1") == changed
        await node.close()

    run_virtually(scenario())


def test_a_request_that_arrives_before_the_registration_waits_for_it_and_not_for_a_store_that_is_away(
    tmp_path: Path,
) -> None:
    async def scenario() -> None:
        config, _ = parse_config("disable_engine=true", "fleet.conf", {}, {})
        store = EmbeddedStore(":memory:", offload=offload_inline)
        surroundings = HostEnvironment(tmp_path, new_id=lambda: "an-id", offload=offload_inline)
        node = Node(config, store, SimulatedSystemd(), Machine("m1", session="s1"), surroundings)
        asked = asyncio.create_task(node.api.handle(LIST_UNITS))
        await asyncio.sleep(1)
        assert not asked.done()
        node.start()
        assert (await asked).status == 200
        await node.close()
        begun_s = asyncio.get_running_loop().time()

        away = UnavailableStore(":memory:", offload=offload_inline)
        node = Node(config, away, SimulatedSystemd(), Machine("m1", session="s1"), surroundings)
        node.start()
        assert (await node.api.handle(LIST_UNITS)).status == 503
        assert asyncio.get_running_loop().time() < begun_s + READY_TIMEOUT_S
        await node.close()

    run_virtually(scenario())
