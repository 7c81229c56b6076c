"""What units announce, read by a client of Consul: its library for Python."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import consul
import pytest

from contrib.testbed.etcd import free_port
from fleetd.config.options import Address
from fleetd.model.announcement import ServicePort, ServiceRecord
from tests.api.conftest import Fleet
from tests.api.served import LOOPBACK, serving

A, B = "web@1.service", "web@2.service"
PATIENCE_S = 60.0


@pytest.fixture
async def cluster(fleet: Fleet) -> Fleet:
    """web on m1 (it passes, on two ports) and m2 (it fails), dns on m1 over UDP."""
    two = (ServicePort(80), ServicePort(81, "udp"))
    await fleet.put(ServiceRecord("10.0.0.1", two, "eu"), "web", "m1", A)
    await fleet.put(ServiceRecord("fd00::2", (ServicePort(80),), failing="its check fails: status 503"), "web", "m2", B)
    await fleet.put(ServiceRecord("10.0.0.1", (ServicePort(53, "udp"),)), "dns", "m1", "dns.service")
    return fleet


@pytest.fixture
async def address(cluster: Fleet) -> AsyncIterator[Address]:
    """Where the API is served."""
    address = Address(host=LOOPBACK, port=free_port())
    async with serving(cluster.api, address):
        yield address


@pytest.fixture
def library(address: Address) -> consul.Consul:
    return consul.Consul(host=address.host, port=address.port)


async def call(function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    async with asyncio.timeout(PATIENCE_S):
        return await asyncio.to_thread(function, *arguments, **options)


async def test_the_library_reads_names_and_health(library: consul.Consul) -> None:
    _, names = await call(library.catalog.services)
    assert names == {"dns": ["udp"], "web": ["tcp", "udp"]}
    _, entries = await call(library.health.service, "web")
    assert [
        (each["Node"]["Node"], each["Service"]["Address"], each["Service"]["Port"], each["Checks"][0]["Status"])
        for each in entries
    ] == [
        ("m1", "10.0.0.1", 80, "passing"),
        ("m1", "10.0.0.1", 81, "passing"),
        ("m2", "fd00::2", 80, "critical"),
    ]
    assert entries[2]["Checks"][0]["Output"] == "its check fails: status 503"
    assert len({each["Service"]["ID"] for each in entries}) == 3
    _, catalog = await call(library.catalog.service, "web")
    assert [each["ServiceID"] for each in catalog] == [each["Service"]["ID"] for each in entries]
    assert (catalog[0]["ServiceAddress"], catalog[0]["ServicePort"]) == ("10.0.0.1", 80)
    assert (catalog[0]["NodeMeta"], catalog[0]["ServiceMeta"]["unit"]) == ({"zone": "eu"}, A)
    assert (await call(library.agent.self))["Config"]["Datacenter"] == "fleet"


async def test_the_library_selects_what_passes_and_by_protocol(library: consul.Consul) -> None:
    _, entries = await call(library.health.service, "web", passing=True)
    assert [each["Service"]["Port"] for each in entries] == [80, 81]
    _, entries = await call(library.health.service, "web", passing=True, tag="udp")
    assert [each["Service"]["Port"] for each in entries] == [81]
    _, found = await call(library.catalog.service, "web", tag="green")
    assert found == []
    _, entries = await call(library.health.service, "none")
    assert entries == []
    _, entries = await call(library.health.service, "dns", dc="fleet")
    assert len(entries) == 1


async def test_the_library_waits_for_a_change(cluster: Fleet, library: consul.Consul) -> None:
    index, _ = await call(library.health.service, "dns")
    assert int(index) > 0
    waiting = asyncio.create_task(call(library.health.service, "dns", index=index, wait="50s"))
    await asyncio.sleep(0.1)
    await cluster.put(ServiceRecord("10.0.0.3", (ServicePort(80),)), "web", "m3", "web@3.service")
    await asyncio.sleep(0.1)
    assert not waiting.done()
    await cluster.put(ServiceRecord("10.0.0.2", (ServicePort(53),)), "dns", "m2", "dns.service")
    later, entries = await waiting
    assert len(entries) == 2
    assert int(later) > int(index)
    same, _ = await call(library.catalog.services, index=later, wait="50ms")
    assert int(same) == int(later)


@pytest.mark.parametrize(
    ("request_line", "status", "cause"),
    [
        ("GET /v1/health/service/a.b", 400, "is no label of a DNS name"),
        ("GET /v1/health/service/web?dc=elsewhere", 400, 'there is one datacenter here, "fleet", and no "elsewhere"'),
        ("GET /v1/health/service/web?filter=Service.Port==80", 400, "filter= selects nothing here"),
        ("GET /v1/catalog/service/web?node-meta=zone:eu", 400, "node-meta= selects nothing here"),
        ("GET /v1/catalog/services?index=x", 400, "index=x is no index"),
        ("GET /v1/kv/a", 404, "of Consul's API there are, to be read, /v1/health/service/NAME"),
        ("GET /v1/catalog/nodes", 404, "/v1/catalog/service/NAME"),
        ("PUT /v1/agent/service/register", 404, "a unit is announced by Announce= in its file"),
        ("PUT /v1/catalog/services", 405, "only GET supported"),
    ],
)
async def test_what_there_is_not_is_said(cluster: Fleet, request_line: str, status: int, cause: str) -> None:
    found, message = await cluster.refused(request_line)
    assert found == status
    assert cause in message
