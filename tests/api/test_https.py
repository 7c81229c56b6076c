"""The API over https: who a certificate names, which count, and what everybody else is told."""

import asyncio
import json
import logging
import socket
import ssl
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from contrib.testbed.etcd import free_port
from fleetd.api import tls_listener
from fleetd.api.connection_limits import ConnectionLimiter
from fleetd.api.server import MAX_ANONYMOUS_BYTES, Server
from fleetd.api.sockets import ListenError
from fleetd.api.tls_listener import TlsListener
from fleetd.config.options import Address
from fleetd.trust import x509
from tests.api.conftest import Fleet
from tests.api.served import LOOPBACK, Client, Echo, ask, serving
from tests.certificates import TestAuthority, TestTrust

HOUR_S = 3600.0
DAY_S = 86400.0


class Cluster:
    """A served API, its authority, and clients with certificates."""

    def __init__(self, authority: TestAuthority, trust: TestTrust, fleet: Fleet, server: Server, address: Address):
        self.authority = authority
        self.trust = trust
        self.fleet = fleet
        self.server = server
        self.address = address

    def client(self, certificate: Path | None = None) -> Client:
        return Client(self.address, self.authority.client_context(certificate))

    async def ask(self, certificate: Path | None, request: str, **options: Any) -> tuple[int, Any]:
        """Status and decoded answer."""
        return await self.ask_over(self.client(certificate), request, **options)

    async def ask_over(self, client: Client, request: str, **options: Any) -> tuple[int, Any]:
        method, path = request.split(" ")
        response, body = await ask(client, method, path, **options)
        return response.status, json.loads(body) if body else None


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> TestAuthority:
    return TestAuthority(tmp_path_factory.mktemp("authority"))


@pytest.fixture
async def cluster(authority: TestAuthority, fleet: Fleet) -> AsyncIterator[Cluster]:
    trust = TestTrust(authority)
    address = Address(host=LOOPBACK, port=free_port(), tls=True)
    async with serving(fleet.api, address, trust=trust) as server:
        yield Cluster(authority, trust, fleet, server, address)


def message(answer: Any) -> str:
    text = answer["error"]["message"]
    assert isinstance(text, str)
    return text


# Who asks


async def test_a_certificate_says_who_asks_and_what_they_may_do(cluster: Cluster) -> None:
    ann = cluster.authority.person("ann", "operate:web-*")
    status, found = await cluster.ask(ann, "GET /fleet/v2/whoami", headers={"Fleet-User": "root"})
    assert found.pop("expires") > time.time()
    assert (status, found) == (
        200,
        {"name": "ann", "identity": "person/ann", "grants": [{"permission": "operate", "pattern": "web-*"}]},
    )
    await cluster.fleet.add_unit("web-1.service")
    await cluster.fleet.add_unit("db.service")
    start = {"body": b'{"desiredState":"launched"}', "headers": {"Content-Type": "application/json"}}
    assert (await cluster.ask(ann, "PUT /fleet/v1/units/web-1.service", **start))[0] == 204
    status, refused = await cluster.ask(ann, "PUT /fleet/v1/units/db.service", **start)
    assert (status, message(refused)[:60]) == (403, "ann may not do this: it needs the permission operate:db.serv")
    assert (await cluster.fleet.unit("web-1.service")).by == "ann"
    ci = cluster.authority.service("ci", "view")
    assert (await cluster.ask(ci, "GET /fleet/v2/whoami"))[1]["identity"] == "service/ci"


async def test_a_change_is_audited_with_what_the_certificate_names(authority: TestAuthority, fleet: Fleet) -> None:
    entries: list[dict[str, str]] = []
    fleet.reconfigure(audit=entries.append)
    await fleet.add_unit("web.service")
    address = Address(host=LOOPBACK, port=free_port(), tls=True)
    async with serving(fleet.api, address, trust=TestTrust(authority)):
        client = Client(address, authority.client_context(authority.person("ann")))
        assert (await ask(client, "DELETE", "/fleet/v1/units/web.service"))[0].status == 204
    assert [entry["FLEET_ACTOR"] for entry in entries] == ["person/ann@"]


@pytest.mark.covers("R.9")
@pytest.mark.parametrize(
    "request_",
    [
        "GET /fleet/v2/whoami",
        "GET /health",
        "GET /metrics",
        "GET /fleet/v1/units",
        "POST /none",
        "GET //fleet/v2/leave",
    ],
)
async def test_without_a_certificate_nothing_is_served(cluster: Cluster, request_: str) -> None:
    status, refused = await cluster.ask(None, request_)
    assert (status, message(refused)) == (
        401,
        "this needs a client certificate: fleetctl login --tunnel SERVER gets one, if you can log in to that server "
        "over SSH",
    )


async def test_routes_for_anybody_are_served_without_a_certificate_and_take_small_bodies(cluster: Cluster) -> None:
    sent = {"body": b"{}", "headers": {"Content-Type": "application/json"}}
    anybody = [None, cluster.authority.machine("w1", "worker"), cluster.authority.machine("w2", "worker", age_s=DAY_S)]
    for certificate in anybody:
        for request in ("GET /fleet/v2/authorities", "POST /fleet/v2/join", "POST /fleet/v2/renew"):
            status, refused = await cluster.ask(certificate, request, **sent)
            assert status == 409, refused  # by the route itself: there is no authority here
        for request in ("POST /fleet/v2/authorities", "GET /fleet/v2/join", "GET /fleet/v2/whoami"):
            assert (await cluster.ask(certificate, request, **sent))[0] in (401, 403)
    body = b"x" * (MAX_ANONYMOUS_BYTES + 1)
    for certificate in (anybody[0], anybody[2]):
        status, refused = await cluster.ask(certificate, "POST /fleet/v2/join", body=body)
        assert (status, message(refused)) == (413, "the request body has more than 65536 bytes")


@pytest.mark.parametrize("role", ["worker", "server"])
async def test_a_machines_certificate_opens_nothing_of_the_api(cluster: Cluster, role: str) -> None:
    machine = cluster.authority.machine("m7", role)
    for request in ("GET /fleet/v2/whoami", "GET /fleet/v1/units", "GET /health"):
        status, refused = await cluster.ask(machine, request)
        assert status == 403
        assert message(refused).startswith(
            "this certificate is that of machine/m7, and the API is for people: fleetctl"
        )


async def test_a_certificate_of_something_unknown_is_refused(cluster: Cluster, tmp_path: Path) -> None:
    key, request = x509.make_request()
    path = tmp_path / "odd.pem"
    certificate = x509.sign(
        cluster.authority.authority, request, ["fleet://person/ann", "fleet://night/only"], now_s=time.time()
    )
    path.write_text(certificate + key)
    status, refused = await cluster.ask(path, "GET /fleet/v2/whoami")
    assert status == 401
    assert message(refused).startswith("this client certificate cannot be used: a certificate of fleet does not say")


# Certificates that do not count


@pytest.mark.covers("R.13")
async def test_an_expired_certificate_is_refused_in_words(cluster: Cluster) -> None:
    status, refused = await cluster.ask(cluster.authority.person("ann", age_s=2 * HOUR_S), "GET /fleet/v2/whoami")
    assert status == 401
    assert message(refused).startswith("the certificate of person/ann expired at 20")
    assert " UTC: fleetctl login --tunnel SERVER gets one" in message(refused)


async def test_a_certificate_of_tomorrow_is_refused_in_words_and_a_clock_an_hour_off_is_not(cluster: Cluster) -> None:
    status, refused = await cluster.ask(cluster.authority.person("ann", age_s=-DAY_S - HOUR_S), "GET /fleet/v2/whoami")
    assert status == 401
    assert message(refused).startswith("the certificate of person/ann counts from 20")
    assert message(refused).endswith("one of the two clocks is wrong")
    assert (await cluster.ask(cluster.authority.person("ann", age_s=-HOUR_S), "GET /fleet/v2/whoami"))[0] == 200


async def test_a_certificate_expires_on_an_open_connection_too(authority: TestAuthority, fleet: Fleet) -> None:
    now_s = time.time()
    address = Address(host=LOOPBACK, port=free_port(), tls=True)
    server = Server(fleet.api, trust=TestTrust(authority), unix_now=lambda: now_s)
    await server.start([address], insecure=False)
    client = Client(address, authority.client_context(authority.person("ann")))
    assert (await ask(client, "GET", "/fleet/v2/whoami"))[0].status == 200
    now_s += 2 * HOUR_S
    assert (await ask(client, "GET", "/fleet/v2/whoami"))[0].status == 401
    await server.stop()


@pytest.mark.covers("R.13")
async def test_a_revoked_certificate_is_refused_in_words_and_its_connections_are_closed(cluster: Cluster) -> None:
    ann, bob = cluster.authority.person("ann"), cluster.authority.person("bob")
    clients = [cluster.client(ann), cluster.client(ann), cluster.client(bob)]
    for client in clients:
        assert (await cluster.ask_over(client, "GET /fleet/v2/whoami"))[0] == 200
    cluster.trust.revoke("person/ann")
    status, refused = await cluster.ask_over(clients[0], "GET /fleet/v2/whoami")
    assert (status, message(refused).partition(";")[0]) == (403, "the certificate of person/ann was revoked")
    cluster.server.close_revoked()
    for client, ended in ((clients[0], True), (clients[1], True), (clients[2], False)):
        assert client.sock is not None
        client.sock.settimeout(0.5)
        try:
            assert await asyncio.to_thread(client.sock.recv, 1) == b""
        except ConnectionError:
            assert ended
        except TimeoutError:
            assert not ended
    status, refused = await cluster.ask(ann, "GET /fleet/v2/whoami")
    assert (status, message(refused).partition(";")[0]) == (403, "the certificate of person/ann was revoked")
    assert (await cluster.ask(bob, "GET /fleet/v2/whoami"))[0] == 200


async def test_connections_with_a_certificate_of_an_authority_that_is_no_longer_trusted_are_closed(
    cluster: Cluster, tmp_path: Path
) -> None:
    """Who has its private key may have made it for years."""
    ann, anybody = cluster.client(cluster.authority.person("ann")), cluster.client()
    assert (await cluster.ask_over(ann, "GET /fleet/v2/whoami"))[0] == 200
    assert (await cluster.ask_over(anybody, "GET /fleet/v2/whoami"))[0] == 401
    cluster.trust.context = TestTrust(TestAuthority(tmp_path, 2)).context
    cluster.server.close_revoked()
    for client, ended in ((ann, True), (anybody, False)):
        assert client.sock is not None
        client.sock.settimeout(0.5)
        try:
            assert await asyncio.to_thread(client.sock.recv, 1) == b""
        except ConnectionError:
            assert ended
        except TimeoutError:
            assert not ended


async def test_no_certificate_counts_while_it_is_not_known_which_were_revoked(cluster: Cluster) -> None:
    ann, worker = cluster.authority.person("ann"), cluster.authority.machine("w1", "worker")
    cluster.trust.unsure = "not read yet"
    for certificate, path in ((ann, "/fleet/v2/whoami"), (worker, "/fleet/worker/v1/get")):
        status, refused = await cluster.ask(certificate, f"GET {path}")
        assert (status, message(refused)) == (503, "not read yet")
    assert (await cluster.ask(worker, "GET /fleet/v2/authorities"))[0] == 409, "by the route, which is for anybody"
    cluster.trust.unsure = ""
    assert (await cluster.ask(ann, "GET /fleet/v2/whoami"))[0] == 200


@pytest.mark.covers("R.13")
async def test_a_certificate_of_another_authority_ends_the_handshake_with_a_reason_on_both_sides(
    cluster: Cluster, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    other = TestAuthority(tmp_path, 2)
    context = cluster.authority.client_context(other.person("ann"))
    for _ in range(3):
        with pytest.raises(ssl.SSLError, match="unknown ca"):
            await ask(Client(cluster.address, context), "GET", "/fleet/v2/whoami")
    assert [record.getMessage() for record in caplog.records] == [
        "refused a client's certificate: unable to get local issuer certificate (client 127.0.0.1)"
    ]


async def test_a_person_cannot_play_a_server(authority: TestAuthority, fleet: Fleet) -> None:
    trust = TestTrust(authority)
    trust.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trust.context.load_cert_chain(authority.machine("w1", "worker"))
    address = Address(host=LOOPBACK, port=free_port(), tls=True)
    async with serving(fleet.api, address, trust=trust):
        with pytest.raises(ssl.SSLCertVerificationError, match="unsuitable certificate purpose"):
            await ask(Client(address, authority.client_context()), "GET", "/health")


async def test_no_session_is_resumed(cluster: Cluster) -> None:
    client = cluster.client(cluster.authority.person("ann"))
    assert (await cluster.ask_over(client, "GET /fleet/v2/whoami"))[0] == 200
    assert isinstance(client.sock, ssl.SSLSocket)
    session = client.sock.session
    assert session is None or not session.has_ticket


async def test_without_a_certificate_of_its_own_it_refuses_clients_and_says_so(
    cluster: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    cluster.trust.context = None
    with pytest.raises(ssl.SSLError, match="alert internal error"):
        await ask(cluster.client(), "GET", "/health")
    assert [record.getMessage() for record in caplog.records] == [
        "refused a client: this machine has no certificate yet"
    ]


# Clients that speak something else


async def test_plain_http_is_told_that_the_port_is_served_over_https(cluster: Cluster) -> None:
    client = Client(Address(host=LOOPBACK, port=cluster.address.port))
    response, body = await ask(client, "POST", "/fleet/v2/whoami", body=b"x" * 100_000)
    assert (response.status, message(json.loads(body))) == (
        400,
        "this port is served over https: write https:// instead of http:// (--endpoint)",
    )


@pytest.mark.parametrize(
    "sent", [b"", b"\x16", b"\x16\x03\x01\x00\x05hello", b"SSH-2.0-x\r\n", b"\x80\x2e\x01\x00\x02"]
)
async def test_junk_is_refused_and_others_are_served(cluster: Cluster, sent: bytes) -> None:
    with socket.create_connection((LOOPBACK, cluster.address.port), timeout=10) as junk:
        junk.sendall(sent)
        assert (await cluster.ask(cluster.authority.person("ann"), "GET /fleet/v2/whoami"))[0] == 200
        junk.shutdown(socket.SHUT_WR)
        await asyncio.to_thread(junk.recv, 1000)


@pytest.mark.covers("R.15")
async def test_host_and_origin_are_checked(cluster: Cluster) -> None:
    ann = cluster.authority.person("ann")
    for headers, status in (
        ({"Host": "evil.example"}, 403),
        ({"Origin": "https://evil.example"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Host": LOOPBACK}, 200),
    ):
        assert (await cluster.ask(ann, "GET /fleet/v2/whoami", headers=headers))[0] == status, headers


# Bounds


@contextmanager
def silent(port: int, count: int, sources: int = 1) -> Iterator[list[socket.socket]]:
    """Connections from so many addresses that have sent one byte each, and then nothing."""
    with ExitStack() as stack:
        connections = []
        for number in range(count):
            source = f"127.0.1.{number % sources + 1}", 0
            connections.append(
                stack.enter_context(socket.create_connection((LOOPBACK, port), source_address=source, timeout=10.0))
            )
            connections[-1].sendall(b"\x16")
        yield connections


@pytest.mark.parametrize("sources", [1, 4])
async def test_silent_handshakes_give_way_to_others_at_once_if_they_are_one_clients(
    cluster: Cluster, sources: int
) -> None:
    with silent(cluster.address.port, tls_listener.MAX_HANDSHAKES, sources) as connections:
        (listener,) = cluster.server._tls_listeners
        while len(listener._handshakes) < tls_listener.MAX_HANDSHAKES:  # noqa: ASYNC110 (no event says so)
            await asyncio.sleep(0)
        first = next(iter(listener._handshakes.values()))[0]
        assert (await cluster.ask(cluster.authority.person("ann"), "GET /fleet/v2/whoami"))[0] == 200
        took_s = asyncio.get_running_loop().time() - first
        assert took_s > tls_listener.YIELD_S or sources == 1
        assert len(listener._handshakes) == tls_listener.MAX_HANDSHAKES - 1
        with suppress(ConnectionError):
            assert await asyncio.to_thread(connections[0].recv, 1) == b""


async def test_a_handshake_ends_after_its_time_without_any_other_client(authority: TestAuthority) -> None:
    trust = TestTrust(authority)
    with socket.create_server((LOOPBACK, 0)) as listening:
        listener = TlsListener(listening, asyncio.Protocol, lambda: trust, b"", handshake_s=0.3)
        began = time.monotonic()
        with silent(listening.getsockname()[1], 1) as connections, suppress(ConnectionError):
            assert await asyncio.to_thread(connections[0].recv, 1) == b""
        assert 0.3 <= time.monotonic() - began < tls_listener.HANDSHAKE_S
        await listener.close()


async def test_a_subject_and_strangers_together_have_a_quarter_of_the_connections(
    authority: TestAuthority, fleet: Fleet
) -> None:
    trust = TestTrust(authority)
    address = Address(host=LOOPBACK, port=free_port(), tls=True)
    server = Server(fleet.api, trust=trust, limiter=ConnectionLimiter(16))
    await server.start([address], insecure=False)
    ann, bob = authority.person("ann"), authority.person("bob")
    with ExitStack() as stack:

        async def open_client(certificate: Path | None) -> Client:
            client = Client(address, authority.client_context(certificate))
            stack.callback(client.close)
            await ask(client, "GET", "/fleet/v2/whoami")
            return client

        kept = await open_client(bob)
        socket_of_bob = kept.sock
        for certificate in (ann, None):
            for _ in range(8):
                await open_client(certificate)
        counts = list(server.limiter._users.values())
        assert {user: counts.count(user) for user in counts} == {"person/bob": 1, "person/ann": 4, "": 4}
        assert (await ask(kept, "GET", "/fleet/v2/whoami"))[0].status == 200
        assert kept.sock is socket_of_bob
    await server.stop()


async def test_bodies_that_strangers_do_not_finish_leave_memory_to_others(
    authority: TestAuthority, fleet: Fleet
) -> None:
    address = Address(host=LOOPBACK, port=free_port(), tls=True)
    server = Server(fleet.api, trust=TestTrust(authority), limiter=ConnectionLimiter(64, 200_000))
    await server.start([address], insecure=False)
    begun = b"POST /fleet/v2/join HTTP/1.1\r\nHost: localhost\r\nContent-Length: 40000\r\n\r\n" + b"x" * 30_000
    with ExitStack() as stack:
        for _ in range(8):
            stranger = Client(address, authority.client_context())
            stack.callback(stranger.close)
            await asyncio.to_thread(stranger.connect)
            stranger.sock.sendall(begun)
        async with asyncio.timeout(60):
            while server.limiter.reserved < 30_000:  # noqa: ASYNC110 (no event says it)
                await asyncio.sleep(0.02)
        await asyncio.sleep(0.3)
        assert server.limiter.reserved <= 200_000 // 4
        ann = Client(address, authority.client_context(authority.person("ann")))
        response, _ = await ask(ann, "POST", "/fleet/v2/plan", body=b"x" * 100_000)
        assert response.status == 415  # it was read
    await server.stop()


async def test_stopping_ends_handshakes_and_connections(authority: TestAuthority) -> None:
    address = Address(host=LOOPBACK, port=free_port(), tls=True)
    server = Server(Echo(), trust=TestTrust(authority))
    await server.start([address], insecure=False)
    client = Client(address, authority.client_context(authority.person("ann")))
    assert (await ask(client, "GET", "/"))[0].status == 200
    with socket.create_connection((LOOPBACK, address.port)) as silent:
        await asyncio.sleep(0.1)
        began = time.monotonic()
        await server.stop()
        assert time.monotonic() - began < tls_listener.HANDSHAKE_S
        silent.settimeout(60.0)
        assert await asyncio.to_thread(silent.recv, 1) == b""
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((LOOPBACK, address.port))


async def test_a_fleetd_without_certificates_does_not_listen_on_https(path: Address) -> None:
    address = Address(host=LOOPBACK, port=free_port(), tls=True)
    server = Server(Echo())
    with pytest.raises(ListenError, match="this fleetd has no certificates"):
        await server.start([path, address], insecure=True)
    assert not Path(path.path).exists()


async def test_the_log_names_what_a_client_says_of_a_handshake(
    cluster: Cluster, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    other = TestAuthority(tmp_path, 2)
    with pytest.raises(ssl.SSLCertVerificationError):
        await ask(Client(cluster.address, other.client_context()), "GET", "/health")
    (listener,) = cluster.server._tls_listeners
    await asyncio.gather(*listener._handshakes)
    assert [record.getMessage() for record in caplog.records] == [
        "a TLS handshake failed: the client says: unknown ca (client 127.0.0.1)"
    ]
