"""The SSH host keys of machines by the API."""

import json
from typing import Any

import pytest

from fleetd.model.machine import Machine
from tests.api.conftest import Fleet

PATH = "/fleet/v2/host-keys"


@pytest.fixture
async def cluster(fleet: Fleet) -> Fleet:
    """m1 and m3 publish keys, m2 does not."""
    await fleet.put(Machine("m1", host_keys=("ssh-ed25519 AAAA", "ssh-rsa BBBB")), "m1")
    await fleet.put(Machine("m2"), "m2")
    await fleet.put(Machine("m3", host_keys=("ssh-rsa CCCC",)), "m3")
    return fleet


M1 = {"machine": "m1", "keys": ["ssh-ed25519 AAAA", "ssh-rsa BBBB"]}
M3 = {"machine": "m3", "keys": ["ssh-rsa CCCC"]}


@pytest.mark.parametrize(
    ("query", "shown"),
    [
        ("", [M1, M3]),
        ("?machine=m1", [M1]),
        ("?machine=m3&machine=m2&machine=m1&machine=m1", [M1, M3]),
        ("?machine=m2&machine=none", []),
        ("?machine=", []),
        ("?machine=m1/..%2Fm1&machine=..", []),
    ],
)
async def test_the_keys_of_the_machines_that_publish_some_are_shown(
    cluster: Fleet, query: str, shown: list[dict[str, Any]]
) -> None:
    response = await cluster.ask(f"GET {PATH}{query}")
    assert (response.status, json.loads(response.body)) == (200, {"hostKeys": shown})


async def test_the_list_of_machines_does_not_have_them(cluster: Fleet) -> None:
    machines = json.loads((await cluster.ask("GET /fleet/v1/machines")).body)["machines"]
    assert machines == [{"id": "m1"}, {"id": "m2"}, {"id": "m3"}]
