"""Secrets by the API: set, list, go back, remove; who may, and what is refused. No answer has a value."""

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from fleetd.model.certificate import WORKER
from fleetd.model.machine import Capability, Machine
from fleetd.model.machine_identity import MachineIdentity
from fleetd.model.permission import parse_rights
from fleetd.model.placement import Decision
from fleetd.model.reason import MissingSecrets
from fleetd.model.secret import SealedSecret, SealedVersion, Secret
from fleetd.registry.records import SEALED_SECRETS, SECRETS
from fleetd.trust.sealing import answer, make_seal_key, open_value, public_half, read_seal_key
from fleetd.trust.sealing_process import Sealing, SealingFailed
from fleetd.trust.sealing_wire import Answer, Request
from tests.api.conftest import JSON, Fleet

AT = 1_800_014_400.0
URL = "/fleet/v2/secrets"
USER = "[Service]\nExecStart=/bin/true\nLoadCredential=db.pw:/run/fleet/credentials.sock\n[X-Fleet]\nSecret=db.pw\n"
WORKERS_KEY = public_half(X25519PrivateKey.generate())
ABLE = dict.fromkeys(Capability, True)
Entries = list[dict[str, str]]


async def at_once(request: Request) -> Answer:
    return answer(request)


@pytest.fixture
def entries() -> Entries:
    return []


@pytest.fixture
async def cluster(fleet: Fleet, tmp_path: Path, entries: Entries) -> Fleet:
    """m1 is asked, and has a key; m2 is a worker; m3 has no key."""
    public = make_seal_key(tmp_path / "seal.key").public
    fleet.reconfigure(
        unix_now=lambda: AT, sealing=Sealing(tmp_path, at_once), audit=entries.append, new_id=lambda: "r1"
    )
    await fleet.put(Machine("m1", seal_key=public, capabilities=ABLE), "m1")
    await fleet.put(Machine("m2", seal_key=WORKERS_KEY, capabilities=ABLE), "m2")
    await fleet.put(MachineIdentity(WORKER), "m2")
    await fleet.put(Machine("m3", capabilities=ABLE), "m3")
    return fleet


def body(value: bytes) -> dict[str, Any]:
    return {"value": base64.b64encode(value).decode()}


async def set_secret(fleet: Fleet, value: bytes, name: str = "db.pw", by: str = "ann") -> dict[str, Any]:
    response = await fleet.ask(f"PUT {URL}/{name}", body(value), (*JSON, ("Fleet-User", by)))
    assert response.status == 200, response.body
    return json.loads(response.body)


async def stored(fleet: Fleet, name: str = "db.pw") -> Secret | None:
    return (await fleet.registry.get_many(SECRETS, [(name,)])).get((name,))


async def listed(fleet: Fleet) -> list[dict[str, Any]]:
    return json.loads((await fleet.ask(f"GET {URL}")).body)["secrets"]


@pytest.mark.parametrize("value", [b"x", b"\0\0", bytes(65536)], ids=["one", "NULs", "64 KiB"])
async def test_a_value_is_sealed_to_the_servers_that_have_a_key(cluster: Fleet, tmp_path: Path, value: bytes) -> None:
    changed = await set_secret(cluster, value)
    secret = await stored(cluster)
    assert secret is not None
    version = secret.present
    own = read_seal_key(tmp_path / "seal.key")
    assert list(version.keys) == [public_half(own)]
    assert open_value(own, "db.pw", version.number, version.keys[public_half(own)], version.box) == value
    assert changed == {"name": "db.pw", "version": version.number}
    assert await listed(cluster) == [
        {"name": "db.pw", "version": version.number, "size": len(value), "by": "ann", "at": AT}
    ]


async def test_a_change_is_audited_without_its_value(cluster: Fleet, entries: Entries) -> None:
    await set_secret(cluster, b"hunter2")
    await cluster.ask(f"DELETE {URL}/db.pw", headers=(("Fleet-User", "ann"),))
    assert [entry["MESSAGE"] for entry in entries] == [f"ann: PUT {URL}/db.pw", f"ann: DELETE {URL}/db.pw"]
    assert "hunter2" not in str(entries)


async def test_a_changed_secret_restarts_the_launched_units_that_name_it(cluster: Fleet) -> None:
    for name, target in (("a.service", "launched"), ("w@1.service", "launched"), ("off.service", "loaded")):
        await cluster.add_unit(name, USER, target)
    await cluster.add_unit("other.service", target="launched")
    changed = await set_secret(cluster, b"one")
    assert changed["restarting"] == ["a.service", "w@.service"]
    assert (await cluster.unit("a.service")).rollout == "r1"
    assert [(await cluster.unit(name)).rollout for name in ("off.service", "other.service")] == ["", ""]
    assert (await listed(cluster))[0]["units"] == ["a.service", "off.service", "w@1.service"]


async def test_what_waits_for_a_secret_is_started_and_not_restarted(cluster: Fleet) -> None:
    unit = await cluster.add_unit("a.service", USER, "launched")
    await cluster.put(Decision("a.service", unit.generation, reason=MissingSecrets(("db.pw",))), "a.service")
    assert "restarting" not in await set_secret(cluster, b"one")
    assert (await cluster.unit("a.service")).generation == unit.generation


async def test_units_that_cannot_be_restarted_are_named_with_the_reason(cluster: Fleet) -> None:
    await cluster.add_unit("a.service", USER, "launched")
    await cluster.put(Machine("m4", capabilities={Capability.SECRETS: True}), "m4")
    (left,) = (await set_secret(cluster, b"one"))["unrestarted"]
    assert left["group"] == "a.service"
    assert left["why"].startswith("rollouts cannot be used yet: machine m4 runs an older fleetd")
    cluster.rights = parse_rights("submit:db*")
    (left,) = (await set_secret(cluster, b"two"))["unrestarted"]
    assert left["why"].startswith("ann may not do this: it needs the permission operate:a.service")


async def test_one_can_go_back_to_the_version_before(cluster: Fleet) -> None:
    assert await cluster.refused(f"PUT {URL}/db.pw", {"previous": True}) == (409, "there is no secret db.pw")
    first = (await set_secret(cluster, b"one"))["version"]
    assert await cluster.refused(f"PUT {URL}/db.pw", {"previous": True}) == (
        409,
        "the secret db.pw has no version before the present one",
    )
    second = (await set_secret(cluster, b"two"))["version"]
    assert second > first
    response = await cluster.ask(f"PUT {URL}/db.pw", {"previous": True})
    assert json.loads(response.body) == {"name": "db.pw", "version": first}
    assert [(each["version"], each["previous"]) for each in await listed(cluster)] == [(first, second)]
    assert (await set_secret(cluster, b"three"))["version"] > second


async def test_a_secret_that_units_name_is_removed_by_force_alone(cluster: Fleet) -> None:
    await set_secret(cluster, b"one")
    for number in range(7):
        await cluster.add_unit(f"a{number}.service", USER)
    await cluster.put(SealedSecret("k", (SealedVersion(1, b"k", b"b"),)), "m1", "db.pw")
    await cluster.put(SealedSecret("k", (SealedVersion(1, b"k", b"b"),)), "m1", "other")
    status, why = await cluster.refused(f"DELETE {URL}/db.pw")
    assert status == 409
    assert why.startswith(
        "the secret db.pw is named by a0.service, a1.service, a2.service, a3.service, a4.service and 2 more: destroy or"
    )
    assert (await cluster.ask(f"DELETE {URL}/db.pw?force=true")).status == 204
    assert await stored(cluster) is None
    assert list(await cluster.registry.read(SEALED_SECRETS)) == [("m1", "other")]
    assert await cluster.refused(f"DELETE {URL}/db.pw") == (404, "there is no secret db.pw")


@pytest.mark.parametrize(
    ("name", "asked", "status", "words"),
    [
        ("db.pw", body(b""), 400, "secret db.pw: the value is empty"),
        ("db.pw", {}, 400, "secret db.pw: the value is empty"),
        ("db.pw", body(bytes(2**20)), 400, "secret db.pw: the value has 1048576 bytes, and at most 65536 are allowed"),
        ("db.pw", {**body(b"x"), "previous": True}, 400, "either give a value, or ask for the previous version"),
        ("db.pw", {"value": "?"}, 400, "unable to decode body"),
        ("a:b", body(b"x"), 400, '"a:b" is no name of a secret'),
        (".a", body(b"x"), 400, '".a" is no name of a secret'),
    ],
)
async def test_bad_input_is_refused_in_words_and_changes_nothing(
    cluster: Fleet, name: str, asked: dict[str, Any], status: int, words: str
) -> None:
    before = await cluster.registry.store.revision()
    found, why = await cluster.refused(f"PUT {URL}/{name}", asked)
    assert (found, why[: len(words)]) == (status, words)
    assert await cluster.registry.store.revision() == before


@pytest.mark.parametrize(
    ("rights", "request_", "status"),
    [
        ("submit:db*", f"PUT {URL}/db.pw", 200),
        ("submit:web*", f"PUT {URL}/db.pw", 403),
        ("operate", f"PUT {URL}/db.pw", 403),
        ("submit:web*", f"DELETE {URL}/db.pw", 403),
        ("submit:db*", f"DELETE {URL}/db.pw", 404),
        ("view", f"GET {URL}", 200),
    ],
)
async def test_who_may_submit_units_of_a_name_may_set_secrets_of_that_name(
    cluster: Fleet, rights: str, request_: str, status: int
) -> None:
    cluster.rights = parse_rights(rights)
    asked = None if request_.startswith(("GET", "DELETE")) else body(b"x")
    assert (await cluster.ask(request_, asked)).status == status


async def test_no_secret_is_set_where_nothing_could_open_it(cluster: Fleet, tmp_path: Path) -> None:
    await cluster.put(Machine("m4", version="2.0.0"), "m4")
    status, why = await cluster.refused(f"PUT {URL}/db.pw", body(b"x"))
    assert (status, why) == (
        409,
        "secrets cannot be used yet: machine m4 runs fleetd 2.0.0, which does not know of them; update fleetd there "
        "first",
    )
    await cluster.put(Machine("m4", capabilities=ABLE), "m4")
    await cluster.put(Machine("m1", capabilities=ABLE), "m1")
    words = "no machine has a key for secrets yet"
    assert (await cluster.refused(f"PUT {URL}/db.pw", body(b"x")))[1].startswith(words)

    async def fail(request: Request) -> Answer:
        raise SealingFailed("out of memory")

    await cluster.put(Machine("m1", seal_key=WORKERS_KEY, capabilities=ABLE), "m1")
    cluster.reconfigure(sealing=Sealing(tmp_path, fail))
    assert await cluster.refused(f"PUT {URL}/db.pw", body(b"x")) == (
        500,
        "the secret db.pw cannot be sealed: out of memory",
    )
    cluster.reconfigure(sealing=None)
    assert (await cluster.refused(f"PUT {URL}/db.pw", body(b"x")))[1].startswith(words)
