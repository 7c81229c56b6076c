"""Which requests are answered: none from web pages of other origins, and only bodies that no HTML form can send."""

from typing import Any

import pytest

from contrib.testbed.etcd import free_port
from fleetd.api.http import ApiError, Request
from fleetd.api.origin import check_caller
from fleetd.config.options import Address
from tests.api.served import LOOPBACK, Client, ask, serving

NAMES = frozenset({"m1.example.org"})
EDITS = b'[{"op": "remove", "path": "/m1/metadata/a"}]'


def request(**headers: str) -> Request:
    return Request("GET", "/", headers=tuple((name.replace("_", "-"), value) for name, value in headers.items()))


@pytest.mark.parametrize(
    "host",
    ["10.0.0.1", "10.0.0.1:49153", "[::1]:80", "[fe80::1%eth0]", "localhost", "LOCALHOST:80", "m1.example.org:80"],
)
def test_a_client_that_names_this_machine_is_answered(host: str) -> None:
    check_caller(request(Host=host), NAMES)


def test_an_http_1_0_client_needs_no_host_header() -> None:
    check_caller(request(), NAMES)


@pytest.mark.covers("R.15")
@pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example:80", "", "[evil]", "10.0.0.1.evil.example"])
def test_a_foreign_host_name_is_refused(host: str) -> None:
    with pytest.raises(ApiError, match=r"host name .* is not allowed: .* allowed_hosts=") as refused:
        check_caller(request(Host=host), NAMES)
    assert refused.value.status == 403


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://10.0.0.1:80"},
        {"Origin": "http://10.0.0.1:80", "Sec_Fetch_Site": "same-origin"},
        {"Sec_Fetch_Site": "none"},
    ],
)
def test_a_page_of_this_origin_is_answered(headers: dict[str, str]) -> None:
    check_caller(request(Host="10.0.0.1:80", **headers), NAMES)


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": ""},
        {"Origin": "http://10.0.0.1:81"},
        {"Sec_Fetch_Site": "cross-site"},
        {"Sec_Fetch_Site": "same-site"},
        {"Origin": "http://10.0.0.1:80", "Sec_Fetch_Site": "cross-site"},
    ],
)
def test_a_page_of_another_origin_is_refused(headers: dict[str, str]) -> None:
    with pytest.raises(ApiError, match="cross-origin requests") as refused:
        check_caller(request(Host="10.0.0.1:80", **headers), NAMES)
    assert refused.value.status == 403


async def test_origins_are_checked_over_tcp_and_on_a_unix_socket(fleet: Any, path: Address) -> None:
    fleet.reconfigure(allowed_hosts=NAMES)
    tcp = Address(host=LOOPBACK, port=free_port())
    async with serving(fleet.api, path, tcp):
        for headers, over_tcp, on_socket in (
            ({}, 200, 200),
            ({"Host": "m1.example.org"}, 200, 200),
            ({"Host": "evil.example"}, 403, 403),
            ({"Origin": "http://evil.example"}, 403, 403),
            ({"Sec-Fetch-Site": "cross-site"}, 403, 403),
            ({"Host": "fleet"}, 403, 200),  # the name is not looked up
            ({"Host": ""}, 403, 200),
        ):
            assert (await ask(Client(tcp), "GET", "/fleet/v1/units", headers=headers))[0].status == over_tcp
            assert (await ask(Client(path), "GET", "/fleet/v1/units", headers=headers))[0].status == on_socket


@pytest.mark.parametrize("resource", ["PATCH /fleet/v1/machines", "POST /fleet/v2/units", "POST /fleet/v2/reports"])
async def test_a_body_that_is_not_declared_as_json_is_refused(fleet: Any, resource: str) -> None:
    for headers in ((), (("Content-Type", "text/plain"),), (("Content-Type", "application/x-www-form-urlencoded"),)):
        assert (await fleet.refused(resource, b"[]", headers))[0] == 415


@pytest.mark.covers("4.6.2")
async def test_a_local_script_may_edit_machines_with_a_forms_content_type(fleet: Any, path: Address) -> None:
    form = {"Content-Type": "application/x-www-form-urlencoded"}  # as `curl -d` declares it
    async with serving(fleet.api, path):
        response, _ = await ask(Client(path), "PATCH", "/fleet/v1/machines", body=b"[]", headers=form)
    assert (response.status, response.getheader("Content-Type")) == (204, "application/json")
