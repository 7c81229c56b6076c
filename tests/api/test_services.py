"""What units announce by the API, for fleetctl and Prometheus."""

import asyncio
import json
from typing import Any

import pytest

from fleetd.api.http import Response
from fleetd.api.v2.services import MOST_OF_USER
from fleetd.model.announcement import ServicePort, ServiceRecord
from fleetd.model.machine import Machine, MachineSettings
from fleetd.registry.records import SERVICES
from fleetd.store.protocol import Delete
from tests.api.conftest import Fleet

A, B = "web@1.service", "web@2.service"
V2 = "/fleet/v2"


async def read(fleet: Fleet, path: str) -> Any:
    response = await fleet.ask(f"GET {path}")
    assert isinstance(response, Response)
    assert response.status == 200, response.body
    return json.loads(response.body)


@pytest.fixture
async def cluster(fleet: Fleet) -> Fleet:
    """web on m1 (it passes, on two ports) and m2 (it fails), dns on m1 over UDP."""
    two = (ServicePort(80), ServicePort(81))
    await fleet.put(ServiceRecord("10.0.0.1", two, "eu"), "web", "m1", A)
    await fleet.put(ServiceRecord("fd00::2", (ServicePort(80),), failing="its check fails: status 503"), "web", "m2", B)
    await fleet.put(ServiceRecord("10.0.0.1", (ServicePort(53, "udp"),)), "dns", "m1", "dns.service")
    return fleet


ONE = {"service": "web", "unit": A, "machine": "m1", "address": "10.0.0.1", "port": 80, "protocol": "tcp", "zone": "eu"}
TWO = ONE | {"port": 81}
FAILING = {
    "service": "web",
    "unit": B,
    "machine": "m2",
    "address": "fd00::2",
    "port": 80,
    "protocol": "tcp",
    "failing": "its check fails: status 503",
}
DNS = {
    "service": "dns",
    "unit": "dns.service",
    "machine": "m1",
    "address": "10.0.0.1",
    "port": 53,
    "protocol": "udp",
}


@pytest.mark.parametrize(
    ("path", "shown"),
    [
        ("/services", [DNS, ONE, TWO, FAILING]),
        ("/services?passing", [DNS, ONE, TWO]),
        ("/services?passing=false", [DNS, ONE, TWO, FAILING]),
        ("/services/web", [ONE, TWO, FAILING]),
        ("/services/web?passing=1", [ONE, TWO]),
        ("/services/none", []),
    ],
)
async def test_what_is_announced_is_shown(cluster: Fleet, path: str, shown: list[dict[str, Any]]) -> None:
    assert (await read(cluster, V2 + path))["services"] == shown


async def test_prometheus_gets_all_targets_of_a_name_that_take_tcp(cluster: Fleet) -> None:
    await cluster.put(Machine("m1", metadata={"disk-type": "ssd", "zone": "eu"}), "m1")
    await cluster.put(MachineSettings({"rack": "7"}), "m1")
    found = await read(cluster, f"{V2}/http_sd?service=web")
    assert [each["targets"] for each in found] == [["10.0.0.1:80"], ["10.0.0.1:81"], ["[fd00::2]:80"]]
    assert found[0]["labels"] == {
        "__meta_fleet_service": "web",
        "__meta_fleet_unit": A,
        "__meta_fleet_machine": "m1",
        "__meta_fleet_zone": "eu",
        "__meta_fleet_metadata_disk_type": "ssd",
        "__meta_fleet_metadata_rack": "7",
        "__meta_fleet_metadata_zone": "eu",
    }
    assert await read(cluster, f"{V2}/http_sd") == await read(cluster, f"{V2}/http_sd?service=web&service=dns") == found
    assert await read(cluster, f"{V2}/http_sd?service=dns") == []


async def test_a_request_with_an_index_is_answered_when_something_changes(cluster: Fleet) -> None:
    index = (await read(cluster, f"{V2}/services/web"))["index"]
    waiting = asyncio.create_task(read(cluster, f"{V2}/services/web?index={index}&wait=60s"))
    others = asyncio.create_task(read(cluster, f"{V2}/services/dns?index={index}&wait=60s"))
    await asyncio.sleep(0.05)
    assert not waiting.done()
    await cluster.registry.store.transact([], [Delete(cluster.registry.key(SERVICES, "web", "m1", A))])
    async with asyncio.timeout(60):
        found = await waiting
    assert found["services"] == [FAILING]
    assert found["index"] > index
    assert not others.done()
    await cluster.put(ServiceRecord("10.0.0.2", (ServicePort(53),)), "dns", "m2", "dns.service")
    async with asyncio.timeout(60):
        assert len((await others)["services"]) == 2
    assert len((await read(cluster, f"{V2}/services?index={index}"))["services"]) == 3  # it has changed since then


async def test_a_wait_ends_when_its_time_is_over(cluster: Fleet) -> None:
    index = (await read(cluster, f"{V2}/services"))["index"]
    async with asyncio.timeout(60):
        assert len((await read(cluster, f"{V2}/services?index={index}&wait=50ms"))["services"]) == 4


@pytest.mark.parametrize(
    ("path", "cause"),
    [
        (f"{V2}/services/Web", "is no label of a DNS name"),
        (f"{V2}/http_sd?service=Web", "is no label of a DNS name"),
        (f"{V2}/services?index=x", "index=x is no index of an earlier answer"),
        (f"{V2}/services?index=-1", "is no index"),
        (f"{V2}/services?index=1&wait=soon", "wait: 'soon' is no time span"),
    ],
)
async def test_what_cannot_be_asked_is_refused_in_words(cluster: Fleet, path: str, cause: str) -> None:
    response = await cluster.ask(f"GET {path}")
    assert response.status == 400
    assert cause in json.loads(response.body)["error"]["message"]


async def test_one_user_has_so_many_waiting_requests_and_no_more(cluster: Fleet) -> None:
    index = (await read(cluster, f"{V2}/services"))["index"]
    path = f"GET {V2}/services?index={index}&wait=60s"
    waiting = [asyncio.create_task(cluster.ask(path)) for _ in range(MOST_OF_USER + 1)]
    (refused,), others = await asyncio.wait(waiting, timeout=60, return_when=asyncio.FIRST_COMPLETED)
    response = refused.result()
    assert (response.status, b"which is the limit" in response.body) == (503, True)
    await cluster.put(ServiceRecord("10.0.0.2", (ServicePort(53),)), "dns", "m2", "dns.service")
    async with asyncio.timeout(60):
        assert {each.status for each in await asyncio.gather(*others)} == {200}
    assert (await cluster.ask(f"GET {V2}/services?index=1&wait=1ms")).status == 200
