"""Certificates for people and services: who gets which, who is refused, and what a revocation ends."""

import json
from typing import Any

import pytest
from msgspec.structs import replace

from fleetd.api.http import Request
from fleetd.model.actor import Actor
from fleetd.model.certificate import (
    BACKDATED_S,
    DAY_S,
    PERSON,
    PERSON_LIFE_S,
    CertificateIdentity,
    is_revoked,
    parse_peer_certificate,
)
from fleetd.model.machine import Machine
from fleetd.model.permission import EVERY_RIGHT, parse_rights
from fleetd.trust import x509
from tests.api.conftest import JSON, Fleet
from tests.api.issuing import Issuer

BY_ANN = (*JSON, ("Fleet-User", "ann"))
SERVER = "0" * 32
NOW = 1_800_000_000.0
CSR = x509.make_request()[1]


class Cluster:
    """A server with an authority, asked over its socket, a clock that tests set, and the entries of its audit."""

    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet
        self.now_s = NOW
        self.trust = Issuer(NOW)
        self.audited: list[tuple[str, str]] = []
        fleet.local = True
        fleet.reconfigure(
            unix_now=lambda: self.now_s,
            trust=self.trust,
            audit=lambda fields: self.audited.append((fields["ACTION"], fields["MESSAGE"])),
        )

    async def login(self, **asked: Any) -> tuple[dict[str, Any], CertificateIdentity]:
        """The answer, and what the certificate in it says."""
        response = await self.fleet.ask("POST /fleet/v2/login", {"csr": CSR, **asked}, BY_ANN)
        assert response.status == 200, response.body
        answer = json.loads(response.body)
        return answer, parse_peer_certificate(x509.describe(answer["certificate"]))

    async def refuse(self, **asked: Any) -> tuple[int, str]:
        return await self.fleet.refused("POST /fleet/v2/login", {"csr": CSR, **asked}, BY_ANN)


@pytest.fixture
async def cluster(fleet: Fleet) -> Cluster:
    for id_, https in ((SERVER, ":7443"), ("1" * 32, "m1.example.com:1"), ("2" * 32, "")):
        await fleet.put(Machine(id_, "s", "10.0.0.1", https=https), id_)
    return Cluster(fleet)


# People


async def test_a_person_gets_a_certificate_with_their_rights_for_twelve_hours(cluster: Cluster) -> None:
    cluster.fleet.rights = parse_rights("view,operate:web-*")
    answer, found = await cluster.login()
    assert (found.subject, found.rights) == ("person/ann", cluster.fleet.rights)
    assert (found.issued_at_s, found.expires_at_s) == (NOW, NOW + PERSON_LIFE_S)
    assert answer == {
        "certificate": answer["certificate"],
        "authorities": await cluster.trust.authorities(),
        "subject": "person/ann",
        "rights": "view:*,operate:web-*",
        "expires": NOW + PERSON_LIFE_S,
        "servers": ["https://10.0.0.1:7443", "https://m1.example.com:1"],
    }
    assert x509.is_signed_by(answer["certificate"], cluster.trust.authority.certificate)
    assert cluster.audited == [("login", "ann: login person/ann")]


async def test_a_person_may_have_less_than_they_may_do_and_never_more(cluster: Cluster) -> None:
    cluster.fleet.rights = parse_rights("submit:web-*")
    assert (await cluster.login(rights="operate:web-1*,view"))[1].rights == parse_rights("operate:web-1*,view")
    for wanted in ("admin", "operate", "submit:w*", "view,submit:db.service"):
        status, why = await cluster.refuse(rights=wanted)
        assert (status, why.partition(": ")[0]) == (403, "you cannot give what you do not have yourself")
    assert (await cluster.refuse(rights="everything"))[0] == 400
    assert (await cluster.refuse(days=1)) == (
        400,
        "a person's certificate counts for 12 hours; days are for services",
    )
    assert cluster.trust.signed == 1


async def test_only_a_unix_socket_says_who_logs_in(cluster: Cluster) -> None:
    """Not the certificate that is to be replaced: who left a group would keep its rights for ever."""
    cluster.fleet.local = False
    status, why = await cluster.refuse()
    assert (status, why[:54]) == (403, "a certificate is given to whom the kernel of a server ")
    holder = Request(
        "POST",
        "/fleet/v2/login",
        headers=JSON,
        body=json.dumps({"csr": CSR}).encode(),
        actor=Actor("ann", "person/ann", EVERY_RIGHT),
        certificate=CertificateIdentity(PERSON, "ann", rights=EVERY_RIGHT),
    )
    assert (await cluster.fleet.api.handle(holder)).status == 403
    service = replace(holder, body=json.dumps({"csr": CSR, "service": "ci", "rights": "view"}).encode())
    assert (await cluster.fleet.api.handle(service)).status == 403
    assert (await cluster.refuse(service="ci", rights="view"))[0] == 403


@pytest.mark.parametrize("name", ["", "a/b", "x" * 64 + "y"])
async def test_who_has_no_name_that_a_certificate_can_say_gets_none(cluster: Cluster, name: str) -> None:
    asker = Request(
        "POST",
        "/fleet/v2/login",
        headers=JSON,
        body=json.dumps({"csr": CSR}).encode(),
        local=True,
        actor=Actor(name, "uid:1000(x)", EVERY_RIGHT),
    )
    response = await cluster.fleet.api.handle(asker)
    assert response.status == 400
    assert b"is no name for a certificate" in response.body


# Services


async def test_whoever_may_do_everything_has_certificates_made_for_services(cluster: Cluster) -> None:
    _, found = await cluster.login(service="ci", rights="submit:web-*", days=7)
    assert (found.subject, found.rights) == ("service/ci", parse_rights("submit:web-*"))
    assert (found.issued_at_s, found.expires_at_s) == (NOW, NOW + 7 * DAY_S)
    _, found = await cluster.login(service="ci", rights="view")
    assert found.expires_at_s == NOW + 90 * DAY_S
    for asked, why in (
        ({"rights": ""}, "say what the service may do"),
        ({"days": 91}, "a service's certificate counts for 1 to 90 days"),
        ({"days": -1}, "a service's certificate counts for 1 to 90 days"),
        ({"service": "a/b"}, "'a/b' is no name for a certificate"),
        ({"rights": "root"}, "'root' is no permission"),
    ):
        status, said = await cluster.refuse(**{"service": "ci", "rights": "view", **asked})
        assert (status, said[: len(why)]) == (400, why)


async def test_others_have_no_certificates_made_for_services(cluster: Cluster) -> None:
    cluster.fleet.rights = parse_rights("submit")
    status, why = await cluster.refuse(service="ci", rights="view")
    assert (status, why.partition(",")[0]) == (403, "ann may not do this: it needs the permission admin")
    assert cluster.trust.signed == 0


# What is refused whoever asks


async def test_a_request_that_is_none_is_refused_with_the_reason(cluster: Cluster) -> None:
    status, why = await cluster.refuse(csr="hello")
    assert (status, why[:32]) == (409, "no request for a certificate: Un")
    assert (await cluster.refuse(csr="x" * 10000)) == (400, "csr has more than 8192 characters")


async def test_without_https_there_are_no_certificates(fleet: Fleet) -> None:
    fleet.local = True
    for request, body in (("login", {"csr": CSR}), ("revocations", {"subject": "person/ann"})):
        status, why = await fleet.refused(f"POST /fleet/v2/{request}", body)
        assert (status, why[:38]) == (409, "this machine serves no https: set list")
    cluster = Cluster(fleet)
    status, why = await cluster.refuse()
    assert (status, why[:42]) == (409, "no machine of the cluster serves https: se")


# Revocation


async def test_a_revoked_person_gets_another_certificate_which_counts(cluster: Cluster) -> None:
    _, former = await cluster.login()
    response = await cluster.fleet.ask("POST /fleet/v2/revocations", {"subject": "person/ann"}, BY_ANN)
    assert response.status == 204
    assert [each.subject for each in cluster.trust.known] == ["person/ann"]
    assert is_revoked(former, cluster.trust.known)
    answer, later = await cluster.login()
    assert not is_revoked(later, cluster.trust.known)
    assert later.issued_at_s - BACKDATED_S < NOW
    assert answer["expires"] == later.expires_at_s
    assert cluster.audited[1] == ("revoke", "ann: revoke person/ann")
    assert len(cluster.audited) == 3


async def test_only_people_and_services_are_revoked_and_only_by_whoever_may_do_everything(cluster: Cluster) -> None:
    for subject in ("machine/m1", "ann", "person/", "person/a/b", ""):
        assert (await cluster.fleet.refused("POST /fleet/v2/revocations", {"subject": subject}))[0] == 400
    cluster.fleet.rights = parse_rights("submit")
    assert (await cluster.fleet.refused("POST /fleet/v2/revocations", {"subject": "person/ann"}))[0] == 403
    assert cluster.trust.known == []
