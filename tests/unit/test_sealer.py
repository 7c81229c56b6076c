"""The leader has secrets sealed: for machines that are to run units with them, and for servers that have come since."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from fleetd.leader.sealer import RETRY_S, CannotOpenHere, Sealer
from fleetd.model.machine import Machine
from fleetd.model.placement import Placement
from fleetd.model.secret import Secret, SecretRef, SecretVersion
from fleetd.model.unit import TargetState
from fleetd.registry.records import SEALED_SECRETS, SECRETS
from fleetd.registry.registry import Registry
from fleetd.registry.snapshots import make_snapshot
from fleetd.scheduler.snapshot import Snapshot
from fleetd.store.embedded import EmbeddedStore, inline
from fleetd.store.protocol import Conflict, Delete
from fleetd.trust.sealing import answer, encrypt, make_seal_key, open_value, public_half
from fleetd.trust.sealing_process import Sealing, SealingFailed
from fleetd.trust.sealing_wire import Answer, Request

ONE, OTHER = X25519PrivateKey.generate(), X25519PrivateKey.generate()


class Leader:
    """A leader with a seal key, and its store. `failure` is why nothing can be sealed."""

    def __init__(self, directory: Path) -> None:
        self.store = EmbeddedStore(":memory:", offload=inline)
        self.registry = Registry(self.store)
        self.public = make_seal_key(directory / "seal.key").public
        self.failure = ""
        self.asked: list[Request] = []
        self.sealer = Sealer(self.registry, Sealing(directory, self._ask), lambda: self.public, (), lambda revision: 0)

    async def _ask(self, request: Request) -> Answer:
        self.asked.append(request)
        if self.failure:
            raise SealingFailed(self.failure)
        return answer(request)

    async def machine(self, name: str, key: str, **fields: object) -> None:
        record = Machine(name, seal_key=key, **fields)  # type: ignore[arg-type]
        await self.store.transact([], [self.registry.put(record, name)])

    async def set_secret(self, *values: bytes, name: str = "db.pw", keys: tuple[str, ...] = ()) -> None:
        versions = []
        for number, value in enumerate(values, start=1):
            sealed = encrypt(name, number, value, keys or (self.public,))
            versions.append(SecretVersion(number, sealed.box, sealed.keys))
        await self.store.transact([], [self.registry.put(Secret(tuple(versions)), name)])

    async def snapshot(self) -> Snapshot:
        return make_snapshot(self.registry, (await self.store.range(self.registry.prefix)).items)

    async def seal(self, *coming: Placement) -> float | None:
        return await self.sealer.seal(await self.snapshot(), coming)

    async def given(self, machine: str, own: X25519PrivateKey, name: str = "db.pw") -> dict[int, bytes]:
        """What a machine can open of a secret, by version."""
        found = (await self.registry.get_many(SEALED_SECRETS, [(machine, name)])).get((machine, name))
        versions = found.versions if found else ()
        return {each.number: open_value(own, name, each.number, each.key, each.box) for each in versions}


@pytest.fixture
async def leader(tmp_path: Path) -> AsyncIterator[Leader]:
    leader = Leader(tmp_path)
    await leader.machine("m0", leader.public)
    yield leader
    await leader.store.close()


def placement(machine: str, version: int = 1, name: str = "db.pw", unit: str = "a.service") -> Placement:
    return Placement(machine, unit, "", TargetState.LAUNCHED, 1, secrets=(SecretRef(name, version),))


async def test_a_machine_can_open_what_its_units_name_and_another_cannot(leader: Leader) -> None:
    await leader.machine("m1", public_half(ONE), capabilities={"DISABLE_ENGINE": True})
    await leader.set_secret(b"value", keys=(leader.public, public_half(ONE)))
    assert await leader.seal(placement("m1")) is None
    assert await leader.given("m1", ONE) == {1: b"value"}
    assert leader.sealer.revision == await leader.store.revision()
    assert list(await leader.registry.read(SEALED_SECRETS)) == [("m1", "db.pw")]


async def test_nothing_is_read_written_or_started_where_there_is_nothing_to_seal(leader: Leader) -> None:
    before = await leader.store.revision()
    assert await leader.seal() is None
    assert (leader.asked, await leader.store.revision(), leader.sealer.revision) == ([], before, 0)


async def test_both_versions_are_sealed_while_a_rollout_gets_from_one_to_the_other(leader: Leader) -> None:
    await leader.set_secret(b"old", b"new")
    await leader.seal(placement("m0", 1), placement("m0", 2, unit="b.service"))
    own = X25519PrivateKey.from_private_bytes((leader.sealer._sealing._directory / "seal.key").read_bytes())
    assert await leader.given("m0", own) == {1: b"old", 2: b"new"}


async def test_a_server_that_came_later_is_given_all_versions(leader: Leader) -> None:
    await leader.set_secret(b"old", b"new")
    await leader.machine("m1", public_half(ONE))
    assert await leader.seal() is None
    secret = (await leader.registry.get_many(SECRETS, [("db.pw",)]))[("db.pw",)]
    for version, value in zip(secret.versions, (b"old", b"new"), strict=True):
        key = version.keys[public_half(ONE)]
        assert open_value(ONE, "db.pw", version.number, key, version.box) == value
    assert await leader.seal() is None
    assert len(leader.asked) == 1, "it is done"


async def test_what_nothing_names_any_more_is_deleted(leader: Leader) -> None:
    await leader.set_secret(b"value")
    await leader.seal(placement("m0"))
    await leader.seal()
    assert await leader.registry.read(SEALED_SECRETS) == {}


async def test_what_cannot_be_sealed_is_tried_again_and_holds_nothing_else_up(leader: Leader) -> None:
    await leader.set_secret(b"value")
    leader.failure = "out of memory"
    snapshot = await leader.snapshot()
    for _ in range(2):
        assert await leader.sealer.seal(snapshot, [placement("m0")]) == RETRY_S
    assert snapshot.sealing_is_due
    leader.failure = ""
    assert await leader.sealer.seal(snapshot, [placement("m0")]) is None
    assert await leader.registry.read(SEALED_SECRETS) != {}


async def test_of_several_the_others_are_sealed_when_one_cannot_be(leader: Leader) -> None:
    await leader.set_secret(b"value")
    await leader.set_secret(b"value", name="other", keys=(public_half(OTHER),))
    assert await leader.seal(placement("m0"), placement("m0", name="other")) == RETRY_S
    assert list(await leader.registry.read(SEALED_SECRETS)) == [("m0", "db.pw")]


async def test_a_leader_that_cannot_open_a_secret_gives_up_its_term_for_one_that_can(leader: Leader) -> None:
    await leader.set_secret(b"value", keys=(public_half(ONE),))
    assert await leader.seal(placement("m0")) == RETRY_S, "nobody else is there"
    await leader.machine("m1", public_half(ONE), capabilities={"DISABLE_ENGINE": True})
    assert await leader.seal(placement("m0")) == RETRY_S, "it does not lead"
    await leader.machine("m1", public_half(ONE))
    with pytest.raises(CannotOpenHere, match=r"another machine can open the secret db\.pw, and this one cannot"):
        await leader.seal(placement("m0"))


async def test_a_secret_that_is_removed_meanwhile_is_not_sealed(leader: Leader) -> None:
    await leader.set_secret(b"value")
    snapshot = await leader.snapshot()
    await leader.set_secret(b"value")  # another revision
    ask = leader.sealer._sealing._ask

    async def ask_while_it_changes(request: Request) -> Answer:
        await leader.set_secret(b"changed")
        return await ask(request)

    leader.sealer._sealing._ask = ask_while_it_changes
    with pytest.raises(Conflict):
        await leader.sealer.seal(snapshot, [placement("m0")])
    snapshot.sealing_is_due = True
    key = leader.registry.key(SECRETS, "db.pw")
    await leader.store.transact([], [Delete(key)])
    assert await leader.sealer.seal(snapshot, [placement("m0")]) is None
    assert await leader.registry.read(SEALED_SECRETS) == {}
