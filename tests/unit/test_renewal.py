"""What a worker is told that cannot have its certificate renewed."""

import asyncio
import time

import pytest

from contrib.testbed.etcd import free_port
from fleetd.api.http import Request, Response
from fleetd.config.options import Address
from fleetd.model.certificate import CertificateIdentity, Revocation, uris
from fleetd.trust import x509
from fleetd.trust.renewal import ask_servers
from tests.api.served import LOOPBACK, serving
from tests.certificates import TestAuthority, TestTrust


class Answers:
    """An API that answers with what it is given."""

    def __init__(self, status: int, body: bytes) -> None:
        self._response = Response(status, (), body)
        self.asked_by: list[str] = []  # whom the certificates name that counted

    async def handle(self, request: Request) -> Response:
        assert (request.method, request.path) == ("POST", "/fleet/v2/renew")
        self.asked_by.append(request.certificate.subject if request.certificate else "")
        return self._response


def ask(urls, authority, **options):
    _, request = x509.make_request()
    worker = CertificateIdentity("machine", "w1", "worker")
    certificate = x509.sign(authority.authority, request, uris(worker), now_s=time.time(), life_s=60)
    own = authority.machine("w1", "worker", **options)
    return asyncio.to_thread(ask_servers, urls, certificate, request, [authority.authority.certificate], (own, own))


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        (403, b'{"error":{"code":403,"message":"machine w1 was removed"}}', "machine w1 was removed"),
        (500, b"{}", "Internal Server Error"),
        (200, b"[]", "what answers there is no fleetd"),
        (502, b"<html>", "what answers there is no fleetd"),
    ],
)
async def test_what_a_server_says_is_passed_on(tmp_path, status, body, words):
    authority = TestAuthority(tmp_path)
    address = Address(host=LOOPBACK, port=free_port(), tls=True)
    async with serving(Answers(status, body), address, trust=TestTrust(authority)):  # type: ignore[arg-type]
        with pytest.raises(ValueError, match=words):
            await ask([f"https://{LOOPBACK}:{address.port}"], authority)


async def test_a_server_that_does_not_answer_is_passed_over_and_named(tmp_path):
    authority = TestAuthority(tmp_path)
    address = Address(host=LOOPBACK, port=free_port(), tls=True)
    body = b'{"certificate":"C","authorities":"A","servers":["https://m1:7443"]}'
    dead = f"https://{LOOPBACK}:{free_port()}"
    async with serving(Answers(200, body), address, trust=TestTrust(authority)):  # type: ignore[arg-type]
        found = await ask([dead, f"https://{LOOPBACK}:{address.port}"], authority)
        assert (found.certificate, found.authorities, found.servers) == ("C", "A", ("https://m1:7443",))
    with pytest.raises(ValueError, match=f"{dead}: Connection refused"):
        await ask([dead], authority)
    with pytest.raises(ValueError, match="no server is known"):
        await ask([], authority)


async def test_a_server_of_another_cluster_is_not_believed(tmp_path):
    (tmp_path / "other").mkdir()
    authority, other = TestAuthority(tmp_path), TestAuthority(tmp_path / "other")
    address = Address(host=LOOPBACK, port=free_port(), tls=True)
    async with serving(Answers(200, b"{}"), address, trust=TestTrust(other)):  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="its certificate does not count"):
            await ask([f"https://{LOOPBACK}:{address.port}"], authority)


@pytest.mark.parametrize(("age_s", "of", "known"), [(0, 1, "machine/w1"), (7200, 1, ""), (0, 2, "")])
async def test_a_certificate_that_counts_is_shown_and_another_one_is_no_obstacle(tmp_path, age_s, of, known):
    authority = TestAuthority(tmp_path)
    (tmp_path / "other").mkdir()
    shown = authority if of == 1 else TestAuthority(tmp_path / "other")
    own = shown.machine("w1", "worker", age_s=age_s)
    answers = Answers(200, b'{"certificate":"C","authorities":"A"}')
    address = Address(host=LOOPBACK, port=free_port(), tls=True)
    url = f"https://{LOOPBACK}:{address.port}"
    async with serving(answers, address, trust=TestTrust(authority)):  # type: ignore[arg-type]
        _, request = x509.make_request()
        trusted = [authority.authority.certificate]
        found = await asyncio.to_thread(ask_servers, [url], "", request, trusted, (str(own), str(own)))
    assert (found.certificate, answers.asked_by) == ("C", [known])


async def test_a_server_that_was_revoked_is_not_asked(tmp_path):
    authority = TestAuthority(tmp_path)
    address = Address(host=LOOPBACK, port=free_port(), tls=True)
    answers = Answers(200, b'{"certificate":"C","authorities":"A"}')
    own = authority.machine("w1", "worker")
    revoked = [Revocation(1, "machine/m1", time.time() + 3600)]
    trusted = [authority.authority.certificate]
    async with serving(answers, address, trust=TestTrust(authority)):  # type: ignore[arg-type]
        url = f"https://{LOOPBACK}:{address.port}"
        with pytest.raises(ValueError, match="machine/m1 was removed from the cluster"):
            await asyncio.to_thread(ask_servers, [url], "", "csr", trusted, (str(own), str(own)), revoked)
    assert answers.asked_by == []
