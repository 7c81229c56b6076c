"""Machines that join with a token and renew their certificates: who gets one, who is refused, and what is recorded."""

import asyncio
import json
from typing import Any

import pytest
from msgspec.structs import replace

from fleetd.api.http import Request
from fleetd.api.v2.joining import MAX_JOINING, MAX_WAITING
from fleetd.model.certificate import (
    BACKDATED_S,
    CLOCKS_DIFFER_S,
    DAY_S,
    MACHINE_LIFE_S,
    CertificateIdentity,
    fingerprint,
    parse_peer_certificate,
    revoke,
)
from fleetd.model.join_token import LIFE_S, parse_token
from fleetd.model.machine import Machine
from fleetd.model.machine_identity import MachineIdentity
from fleetd.model.permission import EVERY_RIGHT
from fleetd.model.placement import Placement
from fleetd.model.unit import TargetState
from fleetd.registry.records import MACHINE_IDENTITIES, PLACEMENTS, Synced
from fleetd.store.protocol import Delete, Put
from fleetd.trust import x509
from fleetd.trust.signing import SigningFailed
from tests.api.conftest import JSON, Fleet
from tests.api.issuing import Issuer

BY_ANN = (*JSON, ("Fleet-User", "ann"))
SERVER, M1, M2 = "0" * 32, "1" * 32, "2" * 32
NOW = 1_800_000_000.0
KEY, CSR = x509.make_request()
OTHER_CSR = x509.make_request()[1]
PLACED = Placement(M1, "a.service", "", TargetState.LAUNCHED, 1)
HOST_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE"


class Cluster:
    """A server with an authority, a clock that tests set, and the entries of its audit."""

    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet
        self.now_s = NOW
        self.trust = Issuer(NOW)
        self.audited: list[dict[str, str]] = []
        fleet.reconfigure(
            unix_now=lambda: self.now_s,
            trust=self.trust,
            machine=lambda: Machine(SERVER),
            audit=lambda fields: self.audited.append(dict(fields)),
        )

    async def token(self, **asked: str) -> str:
        answer = await self.fleet.ask("POST /fleet/v2/machine-tokens", asked, BY_ANN)
        assert answer.status == 200, answer.body
        return str(json.loads(answer.body)["token"])

    def claim(self, token: str, machine: str = M1, csr: str = CSR, **said: Any) -> dict[str, Any]:
        return {"secret": parse_token(token).secret, "machine": machine, "csr": csr, **said}

    async def join(self, token: str, machine: str = M1, csr: str = CSR, **said: Any) -> dict[str, Any]:
        answer = await self.fleet.ask("POST /fleet/v2/join", self.claim(token, machine, csr, **said))
        assert answer.status == 200, answer.body
        return dict(json.loads(answer.body))

    async def refused(self, token: str, machine: str = M1, csr: str = CSR, **said: Any) -> tuple[int, str]:
        revision = await self.fleet.registry.store.revision()
        refusal = await self.fleet.refused("POST /fleet/v2/join", self.claim(token, machine, csr, **said))
        assert await self.fleet.registry.store.revision() == revision
        return refusal

    async def renew(self, certificate: str, csr: str = CSR) -> dict[str, Any]:
        answer = await self.fleet.ask("POST /fleet/v2/renew", {"certificate": certificate, "csr": csr})
        assert answer.status == 200, answer.body
        return dict(json.loads(answer.body))

    async def not_renewed(self, certificate: str, csr: str = CSR) -> tuple[int, str]:
        return await self.fleet.refused("POST /fleet/v2/renew", {"certificate": certificate, "csr": csr})


def identity_of(certificate: str) -> CertificateIdentity:
    return parse_peer_certificate(x509.describe(certificate))


@pytest.fixture
async def cluster(fleet: Fleet) -> Cluster:
    await fleet.put(Machine(SERVER, address="10.0.0.5", https=":7443"), SERVER)
    return Cluster(fleet)


# Tokens


async def test_a_token_says_the_authority_and_the_store_has_the_hash_of_its_secret_alone(cluster: Cluster) -> None:
    answer = await cluster.fleet.ask("POST /fleet/v2/machine-tokens", {}, BY_ANN)
    made = json.loads(answer.body)
    text = parse_token(made.pop("token"))
    assert text.authority == fingerprint(cluster.trust.authority.certificate)
    assert made == {"expires": NOW + LIFE_S, "servers": ["https://10.0.0.5:7443"]}
    everything = await cluster.fleet.registry.store.range("/fleet/")
    assert not any(text.secret in item.key or text.secret.encode() in item.value for item in everything.items)
    assert cluster.audited[0]["MESSAGE"] == "ann: POST /fleet/v2/machine-tokens"


@pytest.mark.parametrize(
    ("asked", "why"),
    [
        ({"machine": "m1"}, "'m1' is no machine id, which has 32 hexadecimal digits"),
    ],
)
async def test_a_token_for_nothing_is_refused(cluster: Cluster, asked: Any, why: str) -> None:
    assert await cluster.fleet.refused("POST /fleet/v2/machine-tokens", asked) == (400, why)


async def test_a_machine_without_an_authority_makes_no_token_and_says_what_to_do(cluster: Cluster) -> None:
    cluster.fleet.reconfigure(trust=None)
    for request in ("POST /fleet/v2/machine-tokens", "GET /fleet/v2/authorities"):
        status, why = await cluster.fleet.refused(request, {} if "POST" in request else None)
        assert (status, why.split(":", 1)[0]) == (409, "this machine serves no https")


async def test_a_token_needs_a_server_to_use_it_at(cluster: Cluster) -> None:
    await cluster.fleet.put(Machine(SERVER, address="10.0.0.5"), SERVER)
    status, why = await cluster.fleet.refused("POST /fleet/v2/machine-tokens", {})
    assert (status, why.split(":")[0]) == (
        409,
        "no machine of the cluster says where it serves https",
    )


async def test_whoever_comes_sees_the_authorities(cluster: Cluster) -> None:
    shown = json.loads((await cluster.fleet.ask("GET /fleet/v2/authorities")).body)
    certificate = cluster.trust.authority.certificate
    assert shown == {"authorities": certificate, "fingerprint": fingerprint(certificate)}
    for subject in ("machine/m2", "person/ann"):
        await cluster.trust.revoke(subject, "ann")
    shown = json.loads((await cluster.fleet.ask("GET /fleet/v2/authorities")).body)
    assert shown["revocations"] == [{"machine": "m2", "before": cluster.trust.known[0].before_s}]


# Joining


async def test_a_machine_that_joins_gets_its_certificate_and_is_recorded(cluster: Cluster) -> None:
    keys = [f"{HOST_KEY} root@m1", "x"]
    said = {"address": "10.0.0.7", "metadata": {"disk": "ssd"}, "hostKeys": keys}
    answer = await cluster.join(await cluster.token(), **said)
    assert replace(identity_of(answer.pop("certificate")), serial="") == CertificateIdentity(
        "machine", M1, "worker", issued_at_s=NOW, expires_at_s=NOW + MACHINE_LIFE_S
    )
    assert answer == {
        "authorities": cluster.trust.authority.certificate,
        "servers": ["https://10.0.0.5:7443"],
        "clusterId": await cluster.fleet.registry.store.cluster_id(),
    }
    recorded = await cluster.fleet.registry.read(MACHINE_IDENTITIES)
    assert recorded == {
        (M1,): MachineIdentity("worker", "10.0.0.7", {"disk": "ssd"}, (HOST_KEY,), joined_at_s=NOW, by="ann")
    }
    entry = cluster.audited[-1]
    assert (entry["MESSAGE"], entry["ACTION"], entry["FLEET_MACHINE"]) == (f"token of ann: join {M1}", "join", M1)


async def test_its_metadata_is_recorded_as_it_is_written(cluster: Cluster) -> None:
    """Units ask for it so."""
    metadata = {"Disk": "ssd", "disk": "slow", "machineid": "7", "MachineID": "8"}
    await cluster.join(await cluster.token(), metadata=metadata)
    recorded = await cluster.fleet.registry.read(MACHINE_IDENTITIES)
    assert recorded[M1,].metadata == metadata


@pytest.mark.parametrize("body", [b"", b"{", b'{"secret":1}', b'{"x":' + b"[" * 50_000])
async def test_a_request_to_join_that_cannot_be_read_is_refused(cluster: Cluster, body: bytes) -> None:
    answer = await cluster.fleet.api.handle(Request("POST", "/fleet/v2/join", headers=JSON, body=body, local=True))
    assert answer.status == 400
    assert b"unable to decode body" in answer.body


async def test_a_token_is_used_once(cluster: Cluster) -> None:
    token = await cluster.token()
    await cluster.join(token)
    for machine, csr in ((M2, OTHER_CSR), (M2, CSR), (M1, OTHER_CSR)):
        status, why = await cluster.refused(token, machine, csr)
        assert (status, why.split(",")[0]) == (403, f"machine {M1} has used this token")


async def test_a_machine_whose_answer_was_lost_may_ask_again(cluster: Cluster) -> None:
    token = await cluster.token()
    await cluster.join(token)
    assert identity_of((await cluster.join(token))["certificate"]).name == M1


async def test_of_two_machines_with_one_token_at_the_same_moment_one_joins(cluster: Cluster) -> None:
    token = await cluster.token()
    claims = [cluster.claim(token, machine, csr) for machine, csr in ((M1, CSR), (M2, OTHER_CSR))]
    answers = await asyncio.gather(*(cluster.fleet.ask("POST /fleet/v2/join", claim) for claim in claims))
    assert sorted(answer.status for answer in answers) == [200, 403]
    assert len(await cluster.fleet.registry.read(MACHINE_IDENTITIES)) == 1


async def test_a_token_has_expired_after_an_hour(cluster: Cluster) -> None:
    token = await cluster.token()
    cluster.now_s += 3 * LIFE_S
    status, why = await cluster.refused(token)
    assert (status, why.split(":")[0]) == (403, "the token has expired")


@pytest.mark.parametrize("ahead_s", [-3600.0, 3600.0])
async def test_the_clock_of_the_server_that_is_asked_may_be_an_hour_off(cluster: Cluster, ahead_s: float) -> None:
    token = await cluster.token()
    cluster.now_s += ahead_s
    found = identity_of((await cluster.join(token))["certificate"])
    assert found.issued_at_s - BACKDATED_S < NOW < found.expires_at_s


async def test_a_token_that_was_made_up_is_refused_before_anything_is_signed(cluster: Cluster) -> None:
    token = (await cluster.token())[:-4] + "aaaa"
    status, why = await cluster.refused(token)
    assert (status, why.split(":")[0]) == (403, "there is no such token")
    assert cluster.trust.signed == 0


async def test_a_token_for_one_machine_is_refused_to_another(cluster: Cluster) -> None:
    token = await cluster.token(machine=M2)
    status, why = await cluster.refused(token)
    assert (status, why.split(";")[0]) == (403, f"the token is for machine {M2} alone, and this is {M1}")
    assert identity_of((await cluster.join(token, M2))["certificate"]).name == M2


@pytest.mark.parametrize("record", ["machine", "identity", "settings", "placement", "synced"])
async def test_a_machine_that_is_known_joins_only_with_a_token_for_it(cluster: Cluster, record: str) -> None:
    if record == "machine":
        await cluster.fleet.put(Machine(M1), M1)
    elif record == "identity":
        await cluster.fleet.put(MachineIdentity("worker"), M1)
    elif record == "placement":
        await cluster.fleet.put(PLACED, M1, PLACED.unit)
    elif record == "synced":
        await cluster.fleet.put(Synced("s1"), M1)
    else:
        await cluster.fleet.registry.change_settings(M1, lambda settings, _: replace(settings, metadata={"a": "b"}))
    status, why = await cluster.refused(await cluster.token())
    assert (status, why.split(":")[0]) == (403, f"the cluster knows a machine {M1} already")
    assert identity_of((await cluster.join(await cluster.token(machine=M1)))["certificate"]).name == M1


async def test_a_machine_that_was_removed_is_new_whatever_was_placed_there_before_and_known_once_more_is(
    cluster: Cluster,
) -> None:
    await cluster.fleet.put(PLACED, M1, PLACED.unit)
    await cluster.fleet.put(revoke(1, f"machine/{M1}", "ann", NOW), "1")
    await cluster.fleet.put(replace(PLACED, superseded=True), M1, PLACED.unit)
    token = await cluster.token()
    await cluster.fleet.put(replace(PLACED, unit="b.service"), M1, "b.service")
    status, why = await cluster.refused(token)
    assert (status, why.split(":")[0]) == (403, f"the cluster knows a machine {M1} already")
    key = cluster.fleet.registry.key(PLACEMENTS, M1, "b.service")
    await cluster.fleet.registry.store.transact([], [Delete(key)])
    assert identity_of((await cluster.join(token))["certificate"]).name == M1


@pytest.mark.covers("R.15")
async def test_a_token_from_before_a_restore_is_void(cluster: Cluster) -> None:
    token = await cluster.token()
    registry = cluster.fleet.registry
    await registry.store.transact([], [Put(registry.history_key, b"restored")])
    status, why = await cluster.refused(token)
    assert (status, why.split(",")[0]) == (403, "the store was restored since the token was made")


@pytest.mark.parametrize(
    ("said", "status", "words"),
    [
        ({"csr": "-----BEGIN"}, 403, ""),
        ({"csr": "x" * 10_000}, 400, "csr has more than 8192 characters"),
        ({"machine": "M1"}, 400, "'M1' is no machine id"),
        ({"address": "a b"}, 400, "'a b' is neither an IP address nor a host name"),
    ],
)
async def test_what_is_no_machine_leaves_the_token_as_it_is(
    cluster: Cluster, said: Any, status: int, words: str
) -> None:
    token = await cluster.token()
    found, why = await cluster.refused(token, **said)
    assert found == status
    assert why.startswith(words)
    await cluster.join(token)


async def test_a_machine_that_was_removed_joins_again_with_a_certificate_that_counts(cluster: Cluster) -> None:
    cluster.trust.known.append(revoke(1, f"machine/{M1}", "ann", NOW))
    found = identity_of((await cluster.join(await cluster.token()))["certificate"])
    assert found.issued_at_s > NOW + CLOCKS_DIFFER_S


# Renewal


async def test_a_certificate_is_renewed_with_its_key_also_once_it_has_expired(cluster: Cluster) -> None:
    first = (await cluster.join(await cluster.token()))["certificate"]
    cluster.now_s += MACHINE_LIFE_S + DAY_S
    answer = await cluster.renew(first)
    assert identity_of(answer["certificate"]).expires_at_s == cluster.now_s + MACHINE_LIFE_S
    assert answer["authorities"] == cluster.trust.authority.certificate
    assert answer["servers"] == ["https://10.0.0.5:7443"]


async def test_it_is_renewed_where_a_restore_has_lost_the_record_of_the_machine(cluster: Cluster) -> None:
    first = (await cluster.join(await cluster.token()))["certificate"]
    key = cluster.fleet.registry.key(MACHINE_IDENTITIES, M1)
    await cluster.fleet.registry.store.transact([], [Delete(key)])
    assert identity_of((await cluster.renew(first))["certificate"]).role == "worker"


async def test_another_key_gets_no_certificate(cluster: Cluster) -> None:
    first = (await cluster.join(await cluster.token()))["certificate"]
    status, why = await cluster.not_renewed(first, OTHER_CSR)
    assert (status, "key" in why) == (403, True)


async def test_a_certificate_of_another_authority_is_not_renewed(cluster: Cluster) -> None:
    first = (await cluster.join(await cluster.token()))["certificate"]
    cluster.trust.authority = x509.make_authority(1, NOW)
    cluster.trust.trusted = [cluster.trust.authority]
    status, why = await cluster.not_renewed(first)
    assert (status, "authority" in why) == (403, True)


@pytest.mark.parametrize("where", ["disk", "store"])
async def test_a_revoked_certificate_is_not_renewed(cluster: Cluster, where: str) -> None:
    first = (await cluster.join(await cluster.token()))["certificate"]
    revocation = revoke(1, f"machine/{M1}", "ann", cluster.now_s)
    if where == "disk":
        cluster.trust.known.append(revocation)
    else:
        await cluster.fleet.put(revocation, "1")
    status, why = await cluster.not_renewed(first)
    assert (status, why.split(" (")[0]) == (403, f"machine {M1} was removed from the cluster")


async def test_a_certificate_that_is_revoked_while_it_is_renewed_is_not_renewed(cluster: Cluster) -> None:
    """The next one would count as made after the revocation."""
    first = (await cluster.join(await cluster.token()))["certificate"]
    sign = cluster.trust.sign

    async def remove_and_sign(request: str, identity: CertificateIdentity, **options: Any) -> str:
        revocation = revoke(1, identity.subject, "ann", cluster.now_s)
        await cluster.fleet.put(revocation, "1")
        now_s = max(options.pop("now_s"), revocation.before_s + 1)  # as the keeper does, which has learned of it
        return await sign(request, identity, now_s=now_s, **options)

    cluster.trust.sign = remove_and_sign  # type: ignore[method-assign]
    status, why = await cluster.not_renewed(first)
    assert (status, why.split(" (")[0]) == (403, f"machine {M1} was removed from the cluster")


@pytest.mark.parametrize(
    ("identity", "who"),
    [
        (CertificateIdentity("person", "ann", rights=EVERY_RIGHT), "person/ann"),
        (CertificateIdentity("machine", SERVER, "server"), f"machine/{SERVER}, a server"),
    ],
)
async def test_those_of_people_and_servers_are_not_renewed(
    cluster: Cluster, identity: CertificateIdentity, who: str
) -> None:
    certificate = await cluster.trust.sign(CSR, identity, now_s=NOW)
    assert await cluster.not_renewed(certificate) == (
        403,
        f"this is the certificate of {who}: only those of workers are renewed here",
    )


@pytest.mark.parametrize("certificate", ["", "x", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"])
async def test_what_is_no_certificate_is_not_renewed(cluster: Cluster, certificate: str) -> None:
    assert (await cluster.not_renewed(certificate))[0] == 403


async def test_what_is_too_long_for_a_certificate_is_refused(cluster: Cluster) -> None:
    assert await cluster.not_renewed("x" * 9000) == (400, "certificate and csr have at most 8192 characters each")


async def test_strangers_cannot_have_any_number_of_certificates_read(cluster: Cluster) -> None:
    waiting = asyncio.Event()

    async def wait(*_: Any) -> CertificateIdentity:
        await waiting.wait()
        raise ValueError("no")

    cluster.trust.read = wait
    body = {"certificate": "", "csr": ""}
    asking = [asyncio.create_task(cluster.fleet.ask("POST /fleet/v2/renew", body)) for _ in range(MAX_WAITING)]
    await asyncio.sleep(0)
    refused = await cluster.fleet.ask("POST /fleet/v2/renew", body)
    assert (refused.status, dict(refused.headers)["Retry-After"]) == (503, "1")
    known = Request("POST", "/fleet/v2/renew", headers=JSON, body=b'{"certificate":"","csr":""}')
    worker = replace(known, certificate=CertificateIdentity("machine", M1, "worker"))
    asking.append(asyncio.create_task(cluster.fleet.api.handle(worker)))
    waiting.set()
    assert {answer.status for answer in await asyncio.gather(*asking)} == {403}


async def test_strangers_cannot_have_any_number_of_tokens_looked_up(cluster: Cluster) -> None:
    body = cluster.claim((await cluster.token())[:-4] + "aaaa")
    asking = [cluster.fleet.ask("POST /fleet/v2/join", body) for _ in range(MAX_JOINING + 1)]
    answers = await asyncio.gather(*asking)
    assert sorted(answer.status for answer in answers) == [403] * MAX_JOINING + [503]
    assert (await cluster.fleet.ask("POST /fleet/v2/join", body)).status == 403


async def test_a_process_that_cannot_sign_is_no_fault_of_the_machine(cluster: Cluster) -> None:
    async def fail(*_: Any) -> CertificateIdentity:
        raise SigningFailed("the process that signs ended with 1: no memory")

    cluster.trust.read = fail
    assert await cluster.not_renewed("") == (503, "cannot sign: the process that signs ended with 1: no memory")
