"""Another authority for the cluster, and its key for the other servers."""

import json
import time

import pytest

from fleetd.api.http import Request
from fleetd.api.routes import Api
from fleetd.model.certificate import CertificateIdentity
from fleetd.registry.registry import Registry
from tests.actors import ADMIN
from tests.api.conftest import JSON
from tests.api.issuing import Issuer
from tests.unit.trusting_server import open_store

NOW = 1_790_000_000.0
KEY_FILE = "/var/lib/fleet/trust/authority-1.key"


class Asked:
    """An API, and the audit of what is asked of it."""

    def __init__(self, trust: Issuer | None) -> None:
        self.entries: list[dict[str, str]] = []
        self.api = Api(Registry(open_store()), trust=trust, audit=self.entries.append)

    async def ask(self, request: str, **options):
        method, path = request.split()
        answer = await self.api.handle(Request(method, path, headers=JSON, **options))
        return answer.status, json.loads(answer.body)


async def test_an_authority_is_replaced_and_who_asked_is_known():
    trust = Issuer(NOW)
    asked = Asked(trust)
    status, body = await asked.ask("POST /fleet/v2/authorities", actor=ADMIN)
    assert (status, body["number"], body["fingerprint"]) == (200, 2, await trust.fingerprint())
    assert body["formerUntil"] == NOW + 30 * 86400
    assert "keyFile" not in body
    assert "POST /fleet/v2/authorities" in asked.entries[-1]["MESSAGE"]
    trust.keys_are_in = KEY_FILE
    assert (await asked.ask("POST /fleet/v2/authorities", actor=ADMIN))[1]["keyFile"] == KEY_FILE


async def test_a_machine_without_https_replaces_no_authority():
    status, body = await Asked(None).ask("POST /fleet/v2/authorities", actor=ADMIN)
    assert status == 409
    assert "listen=https://" in body["error"]["message"]


@pytest.mark.parametrize(
    ("certificate", "is_given"),
    [
        (None, False),
        (CertificateIdentity("person", "ann"), False),
        (CertificateIdentity("service", "ci"), False),
        (CertificateIdentity("machine", "w1", "worker"), False),
        (CertificateIdentity("machine", "m2", "server"), True),
    ],
)
async def test_the_keys_of_authorities_are_for_servers_alone(certificate, is_given):
    trust = Issuer(time.time())
    trust.keys_are_in = KEY_FILE
    asked = Asked(trust)
    actor = ADMIN if certificate is None or certificate.kind != "machine" else None
    options = {"actor": actor} if actor else {}
    status, body = await asked.ask("GET /fleet/v2/authority-keys", certificate=certificate, **options)
    assert status == (200 if is_given else 403)
    assert (trust.authority.key in json.dumps(body).replace("\\n", "\n")) is is_given
    if is_given:
        assert "machine/m2: fetch keys of authorities" in asked.entries[-1]["MESSAGE"]


async def test_keys_that_are_in_the_store_are_not_given():
    certificate = CertificateIdentity("machine", "m2", "server")
    status, body = await Asked(Issuer(NOW)).ask("GET /fleet/v2/authority-keys", certificate=certificate)
    assert (status, body) == (200, {"keys": []})
