"""A stranger on the network, who has no certificate or one of another cluster, and reaches every listener."""

import re
import ssl
import warnings

import pytest

from contrib.testbed.etcd import free_port
from fleetd.api.sockets import ListenError
from fleetd.config.options import Address
from fleetd.model.certificate import MACHINE, WORKER, CertificateIdentity
from tests.api.conftest import Fleet
from tests.api.served import LOOPBACK, serving
from tests.attacks.target import Target, request
from tests.certificates import TestAuthority

BODIES = ("", "{}", '{"secret":"a","csr":"b","machine":"c","address":"d"}', "\xff", "[" * 5000)
JSON = "Content-Type: application/json"
ANONYMOUS = ("/fleet/v2/join", "/fleet/v2/renew", "/fleet/v2/authorities")


async def test_each_route_of_https_gives_a_stranger_nothing(target: Target) -> None:
    stranger = target.authority.client_context()
    routes = {(route.method, re.sub(r"\{\w+\}", "db.service", route.path)) for route in target.fleet.api.routes}
    others = {("GET", "/health"), ("GET", "/metrics"), ("GET", "/"), ("GET", "/debug"), ("TRACE", "/fleet/v1/units")}
    for method, path in sorted(routes | others):
        for body in BODIES[:2]:
            answer = await target.send(target.https, request(f"{method} {path}", JSON, body=body), stranger)
            assert answer.gave_nothing, (method, path, answer.text)
            assert answer.statuses, (method, path)
            if path not in ANONYMOUS:
                assert answer.statuses[0] in (400, 401, 403, 404, 405), (method, path, answer.text)
    assert await target.is_untouched()


@pytest.mark.parametrize("path", ANONYMOUS)
async def test_what_is_open_to_strangers_takes_no_nonsense(target: Target, path: str) -> None:
    stranger = target.authority.client_context()
    for body in (*BODIES, "x" * 70_000):
        answer = await target.send(target.https, request(f"POST {path}", JSON, body=body), stranger)
        assert answer.gave_nothing
        assert answer.statuses != (), body[:20]
        assert 400 <= answer.statuses[0] < 500, answer.text
    assert await target.is_untouched()


async def test_headers_make_nobody_of_a_stranger(target: Target) -> None:
    """What proxies, other servers and fleet itself put into headers is believed of nobody."""
    stranger = target.authority.client_context()
    for header in (
        "Fleet-User: root",
        "Authorization: Basic cm9vdDo=",
        "Authorization: Bearer fleet1-0-0",
        "X-Forwarded-For: 127.0.0.1",
        "X-Real-IP: 127.0.0.1",
        "Forwarded: for=127.0.0.1;proto=https",
        "X-SSL-Client-Verify: SUCCESS",
        "X-SSL-Client-S-DN: O=fleet",
        "X-Forwarded-Client-Cert: URI=fleet://person/admin",
        "Cookie: session=root",
        "X-Original-URL: /fleet/v2/join",
        "X-Rewrite-URL: /fleet/v2/join",
    ):
        answer = await target.send(target.https, request("GET /fleet/v1/units", header), stranger)
        assert (answer.statuses, answer.gave_nothing) == ((401,), True), header


async def test_paths_that_look_like_an_open_one_are_none(target: Target) -> None:
    stranger = target.authority.client_context()
    for path in (
        "/fleet/v2/authorities/../units",
        "/fleet/v2/authorities/%2e%2e/units",
        "/fleet/v2/join/../../v1/units",
        "/fleet/v2/renew;/../units",
        "//fleet/v2/units",
        "/fleet/v2/authorities%00/../units",
        "/fleet/v2/units?/fleet/v2/authorities",
        "/fleet/v2/units#/fleet/v2/join",
        "/FLEET/V1/UNITS",
        "/fleet/worker/v1/../../v1/units",
    ):
        for method in ("GET", "POST"):
            answer = await target.send(target.https, request(f"{method} {path}"), stranger)
            assert answer.gave_nothing, (path, answer.text)


async def test_the_calls_of_workers_give_a_stranger_nothing(target: Target) -> None:
    stranger = target.authority.client_context()
    calls = ("cluster-id", "get", "get-many", "range", "digest", "transact", "watch", "grant", "revoke", "revision")
    for call in calls:
        data = request(f"POST /fleet/worker/v1/{call}", "Content-Type: application/msgpack", body="\x80")
        answer = await target.send(target.https, data, stranger)
        assert answer.gave_nothing, (call, answer.text)
        assert answer.statuses[0] in (401, 403), (call, answer.text)


async def test_certificates_of_another_authority_open_nothing(target: Target, other_authority: TestAuthority) -> None:
    """Of a cluster that the stranger has made: a person with every right, a server, a worker of this cluster's name."""
    worker = CertificateIdentity(MACHINE, "m1", WORKER)
    for certificate in (
        other_authority.person("admin"),
        other_authority.service("ci"),
        other_authority.machine("m1"),
        other_authority.make(worker),
    ):
        context = target.authority.client_context(certificate)
        answer = await target.send(target.https, request("GET /fleet/v1/units"), context)
        assert answer.statuses == (), answer.text
        assert answer.gave_nothing


async def test_old_protocols_and_no_tls_at_all_give_nothing(target: Target) -> None:
    answer = await target.send(target.https, request("GET /fleet/v1/units"))
    assert answer.gave_nothing, "plain HTTP to the https listener"
    for data in (b"\x16\x03\x01", b"\x80\x2e\x01\x00\x02", b"\0" * 512, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"):
        assert (await target.send(target.https, data)).gave_nothing
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    old.check_hostname, old.verify_mode = False, ssl.CERT_NONE
    with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
        old.minimum_version, old.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
    old.set_ciphers("ALL:@SECLEVEL=0")
    answer = await target.send(target.https, request("GET /fleet/v2/authorities"), old)
    assert answer.statuses == (), "TLS 1.1"


async def test_metrics_and_health_are_all_that_their_listener_has(target: Target) -> None:
    for line in ("GET /fleet/v1/units", "PUT /fleet/v1/units/db.service", "POST /fleet/v2/apply"):
        answer = await target.send(target.metrics, request(line, JSON, body="{}"))
        assert (answer.gave_nothing, answer.statuses) == (True, (404,)), line
    for path in ("/metrics", "/health"):
        answer = await target.send(target.metrics, request(f"GET {path}"))
        assert answer.statuses[0] in (200, 503)
        assert b"db.service" not in answer.text
    assert await target.is_untouched()


@pytest.mark.parametrize("host", [LOOPBACK, "", "::1"])
async def test_a_plain_listener_is_never_opened_by_accident(fleet: Fleet, host: str) -> None:
    with pytest.raises(ListenError, match="every client of the API has root"):
        await _start_securely(fleet, Address(host=host, port=free_port()))


async def _start_securely(fleet: Fleet, address: Address) -> None:
    async with serving(fleet.api) as server:
        await server.start([address], insecure=False)
