"""A laptop is stolen, with the certificate and the private key of an administrator on it."""

import asyncio
import socket
import ssl
from contextlib import suppress
from pathlib import Path

import pytest

from fleetd.trust import x509
from tests.api.served import Client, ask
from tests.attacks.target import Target, request
from tests.certificates import TestAuthority

HOUR_S = 3600.0
LIFE_S = 12 * HOUR_S
JSON = "Content-Type: application/json"


def csr_of(pem: Path) -> str:
    """A request for another certificate of the key that was stolen."""
    text = pem.read_text()
    return x509.make_request(text[text.index("-----BEGIN PRIVATE KEY") :])[1]


def loot(certificate: Path) -> list[tuple[str, bytes]]:
    """What the thief tries with it, each with what is sent."""
    csr = csr_of(certificate).replace("\n", "\\n")
    pem = certificate.read_text().partition("-----BEGIN PRIVATE")[0].replace("\n", "\\n")
    return [
        ("read the units", request("GET /fleet/v1/units")),
        ("who am I", request("GET /fleet/v2/whoami")),
        ("stop a unit", request("PUT /fleet/v1/units/db.service", JSON, body='{"desiredState":"inactive"}')),
        ("submit a unit", request("POST /fleet/v2/apply", JSON, body='{"units":[]}')),
        ("log in for another 12 hours", request("POST /fleet/v2/login", JSON, body=f'{{"csr":"{csr}"}}')),
        ("log in as a service", request("POST /fleet/v2/login", JSON, body=f'{{"csr":"{csr}","for":"ci","days":90}}')),
        (
            "renew, as machines do",
            request("POST /fleet/v2/renew", JSON, body=f'{{"certificate":"{pem}","csr":"{csr}"}}'),
        ),
        ("take the revocation back", request("DELETE /fleet/v2/revocations/1")),
        ("revoke everybody else", request("POST /fleet/v2/revocations", JSON, body='{"subject":"person/bob"}')),
        ("a token for a machine of one's own", request("POST /fleet/v2/machine-tokens", JSON, body="{}")),
        ("a new authority", request("POST /fleet/v2/authorities", JSON, body="{}")),
        ("ask as a worker", request("POST /fleet/worker/v1/range", "Content-Type: application/msgpack", body="x")),
        ("as somebody else", request("GET /fleet/v1/units", "Fleet-User: bob")),
    ]


async def test_it_opens_everything_until_it_is_revoked(target: Target) -> None:
    """So that the tests below show what a revocation and the time do."""
    certificate = target.authority.person("ann")
    answer = await target.send(
        target.https, request("GET /fleet/v1/units"), target.authority.client_context(certificate)
    )
    assert (answer.statuses, answer.gave_nothing) == ((200,), False)


@pytest.mark.parametrize("ended", ["revoked", "expired"])
async def test_what_was_stolen_gives_nothing(target: Target, ended: str) -> None:
    age_s = LIFE_S + 1 if ended == "expired" else 0.0
    certificate = target.authority.person("ann", age_s=age_s, life_s=LIFE_S)
    if ended == "revoked":
        target.trust.revoke("person/ann")
    context = target.authority.client_context(certificate)
    for tried, data in loot(certificate):
        answer = await target.send(target.https, data, context)
        assert answer.gave_nothing, (tried, answer.text)
        assert answer.statuses, tried
        if b"/renew" not in data:  # which is open to everybody, and refuses what is not a worker's
            assert answer.statuses[0] in (401, 403), (tried, answer.text)
            assert ended in answer.text.decode(), "the words say why"
    assert await target.is_untouched()


async def test_a_revocation_counts_for_copies_and_for_later_logins_of_the_thief_alone(target: Target) -> None:
    stolen, copied = target.authority.person("ann"), target.authority.person("ann", rights="view")
    target.trust.revoke("person/ann")
    for each in (stolen, copied):
        answer = await target.send(target.https, request("GET /fleet/v1/units"), target.authority.client_context(each))
        assert answer.statuses == (403,)
    bob = target.authority.client_context(target.authority.person("bob"))
    assert (await target.send(target.https, request("GET /fleet/v1/units"), bob)).statuses == (200,)


async def test_a_connection_that_was_open_before_ends(target: Target) -> None:
    certificate = target.authority.person("ann")
    client = Client(target.https, target.authority.client_context(certificate))
    assert (await ask(client, "GET", "/fleet/v1/units"))[0].status == 200
    target.trust.revoke("person/ann")
    response, body = await ask(client, "GET", "/fleet/v1/units")  # before anybody has closed it
    assert (response.status, b"revoked" in body) == (403, True)
    target.server.close_revoked()
    assert client.sock is not None
    client.sock.settimeout(1.0)
    with suppress(ConnectionError):
        assert await asyncio.to_thread(client.sock.recv, 1) == b""


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_a_session_from_before_is_worth_no_more_than_the_certificate(
    target: Target, version: ssl.TLSVersion
) -> None:
    """TLS 1.2 resumes sessions without showing the certificate again, and remembers it; TLS 1.3 has no tickets here."""
    context = target.authority.client_context(target.authority.person("ann"))
    context.maximum_version = version

    def ask_again(before: ssl.SSLSession | None) -> tuple[ssl.SSLSession | None, bool, bytes]:
        with (
            socket.create_connection((target.https.host, target.https.port), 5) as plain,
            context.wrap_socket(plain, session=before) as tls,
        ):
            tls.sendall(request("GET /fleet/v1/units"))
            answer = b""
            while more := tls.recv(65536):
                answer += more
            return tls.session, bool(tls.session_reused), answer

    session, _, answer = await asyncio.to_thread(ask_again, None)
    assert answer.startswith(b"HTTP/1.1 200")
    target.trust.revoke("person/ann")
    _, was_resumed, answer = await asyncio.to_thread(ask_again, session)
    assert answer.startswith(b"HTTP/1.1 403")
    assert not (was_resumed and version is ssl.TLSVersion.TLSv1_3)


async def test_the_key_alone_signs_nothing_that_counts(target: Target, tmp_path: Path) -> None:
    """The thief makes certificates by it: of the same name, with every right, for a server."""
    stolen = target.authority.person("ann").read_text()
    key = stolen[stolen.index("-----BEGIN PRIVATE KEY") :]
    own = TestAuthority(tmp_path, number=7)
    forged = own.person("ann")
    chained = tmp_path / "chained.pem"  # the stolen certificate as if it were an authority's
    made = x509.Authority(1, stolen.partition("-----BEGIN PRIVATE")[0], key)
    own.authority = made
    child = own.person("root")
    chained.write_text(child.read_text() + made.certificate)
    for certificate in (forged, chained):
        context = target.authority.client_context(certificate)
        answer = await target.send(target.https, request("GET /fleet/v1/units"), context)
        assert (answer.statuses, answer.gave_nothing) == ((), True)
