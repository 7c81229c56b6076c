"""The client of the API: what it splits into several requests, and names that need care in a URL."""

from collections.abc import Iterator

import pytest

from fleetctl.client import Client, put_operation
from fleetctl.endpoint import parse_endpoint
from fleetd.model.reboot import RebootRequest
from fleetd.model.unitfile import UnitFile
from tests.fleetctl.scripted_cluster import M1, PAGE_SIZE, ScriptedCluster

FILE = UnitFile.parse("[Service]\nExecStart=/bin/a\nExecStart=\n")


@pytest.fixture
def client(cluster: ScriptedCluster) -> Iterator[Client]:
    return Client(parse_endpoint(cluster.unix), timeout_s=10)


@pytest.mark.parametrize("count", [0, 1, PAGE_SIZE, 2 * PAGE_SIZE + 1])
def test_a_list_of_any_length_is_complete_and_in_order(client: Client, cluster: ScriptedCluster, count: int) -> None:
    names = [f"web@{number}.service" for number in range(count)]
    for name in reversed(names):
        cluster.add(name)
    assert [unit.name for unit in client.units()] == names


@pytest.mark.parametrize("name", ["a\\x2db.service", "a:b@c@d.service", "%2F.service", "also\udcff.service"])
def test_a_name_reaches_the_api_unchanged(client: Client, name: str) -> None:
    is_valid = "%" not in name and "\udcff" not in name
    if is_valid:
        client.put_unit(put_operation(name, FILE.options, "inactive"))
    assert (client.unit(name) is not None) is is_valid
    assert bool(client.reports([name])) is is_valid


def test_reports_on_more_names_than_a_url_holds_are_requested_by_post(client: Client, cluster: ScriptedCluster) -> None:
    names = [f"{'x' * 240}@{number}.service" for number in range(50)]
    for name in names[::10]:
        cluster.add(name)
    assert sorted(client.reports(names)) == sorted(names[::10])
    assert cluster.requests == [("POST", "/fleet/v2/reports")]


@pytest.mark.parametrize(("count", "text", "requests"), [(600, "", 5), (12, f"Environment={'x' * 2000}\n" * 100, 3)])
def test_many_or_large_operations_are_sent_in_several_requests(
    client: Client, cluster: ScriptedCluster, count: int, text: str, requests: int
) -> None:
    options = UnitFile.parse("[Service]\nExecStart=/bin/a\n" + text).options
    names = [f"web@{number:03}.service" for number in range(count)]
    assert client.carry_out([put_operation(name, options, "inactive") for name in names]) == {}
    assert list(cluster.units) == names
    assert len(cluster.changes) == requests


def test_reboots_of_more_machines_than_fit_in_a_url_are_asked_for_in_parts(
    cluster: ScriptedCluster, client: Client
) -> None:
    cluster.put(RebootRequest("q1", "b1"), M1.id)
    ids = [M1.id, *(f"{number:032x}" for number in range(300))]
    found = client.reboots(ids)
    assert list(found) == ids
    assert [report.phase for report in found.values()] == ["queued", *["idle"] * 300]
    assert len(cluster.requests) < 10
