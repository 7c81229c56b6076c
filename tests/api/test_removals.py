"""Machines that are removed: what becomes of their certificates, records and units, and which are not removed."""

import asyncio

import pytest

from fleetd.model.certificate import CertificateIdentity, Revocation, is_revoked, revoke
from fleetd.model.join_token import JoinToken
from fleetd.model.machine import Machine, MachineMode, MachineSettings
from fleetd.model.machine_identity import MachineIdentity
from fleetd.model.unit import UnitState
from fleetd.registry.records import (
    JOIN_TOKENS,
    MACHINE_IDENTITIES,
    MACHINES,
    REVOCATIONS,
    SETTINGS,
    STATES,
    Leader,
)
from fleetd.store.protocol import Conflict, Put
from tests.api.conftest import JSON, Fleet
from tests.api.issuing import Issuer

SERVER, M1 = "0" * 32, "1" * 32
NOW = 1_800_000_000.0
REMOVE = f"POST /fleet/v2/machines/{M1}/remove"
BY_ANN = (*JSON, ("Fleet-User", "ann"))


@pytest.fixture
async def worker(fleet: Fleet) -> Fleet:
    """A cluster with the worker m1."""
    fleet.reconfigure(unix_now=lambda: NOW, machine=lambda: Machine(SERVER))
    await register(fleet)
    await fleet.put(MachineIdentity("worker"), M1)
    return fleet


async def register(fleet: Fleet, state: UnitState | None = None, mode: MachineMode = MachineMode.READY) -> None:
    """Register m1 on its lease, with a unit in this state."""
    store, registry = fleet.registry.store, fleet.registry
    lease = await store.grant(60)
    puts = [registry.put(Machine(M1, mode=mode), M1, lease=lease)]
    puts += [registry.put(state, M1, "a.service", lease=lease)] if state else []
    await store.transact([], puts)


async def revocations(fleet: Fleet) -> list[Revocation]:
    return list((await fleet.registry.read(REVOCATIONS)).values())


async def test_a_machine_that_is_removed_leaves_its_revocation_alone(worker: Fleet) -> None:
    await worker.put(MachineSettings({"a": "b"}), M1)
    await worker.put(JoinToken("ab", 0, 1, machine=M1), "for-it")
    await worker.put(JoinToken("ab", 0, 1, used_by=M1), "of-it")
    await worker.put(JoinToken("ab", 0, 1), "another")
    assert (await worker.ask(REMOVE, {}, BY_ANN)).status == 204
    assert await revocations(worker) == [revoke(1, f"machine/{M1}", "ann", NOW)]
    assert is_revoked(CertificateIdentity("machine", M1, "worker", issued_at_s=NOW), await revocations(worker))
    for kind in (MACHINES, MACHINE_IDENTITIES, SETTINGS):
        assert await worker.registry.read(kind) == {}
    assert list(await worker.registry.read(JOIN_TOKENS)) == [("another",)]
    assert (await worker.refused(REMOVE, {}))[0] == 404


@pytest.mark.parametrize("active", ["active", "activating", "deactivating", "reloading"])
async def test_one_on_which_units_run_stays_unless_forced(worker: Fleet, active: str) -> None:
    await register(worker, UnitState(active=active))
    status, why = await worker.refused(REMOVE, {})
    assert (status, why.split(";")[0]) == (409, "units run there: a.service")
    assert await revocations(worker) == []
    assert (await worker.ask(REMOVE, {"force": True})).status == 204
    assert await worker.registry.read(STATES) == {}


async def test_one_that_has_leases_for_years_leaves_nothing_either(worker: Fleet) -> None:
    """A worker in other hands, which reports states on a lease of their own, and registers again just before its
    connections end."""
    store, registry = worker.registry.store, worker.registry
    long = await store.grant(300_000_000)
    await store.transact([], [Put(registry.lease_key(long), M1.encode(), long)])
    await store.transact([], [registry.put(UnitState(active="active"), M1, "b.service", lease=long)])
    unknown = await store.grant(300_000_000)
    await store.transact([], [registry.put(UnitState(active="active"), M1, "c.service", lease=unknown)])
    other = await store.grant(60)
    await store.transact([], [Put(registry.lease_key(other), b"another", other)])
    removal = asyncio.create_task(worker.ask(REMOVE, {"force": True}))
    while await registry.read(MACHINES):  # noqa: ASYNC110 (no event says it)
        await asyncio.sleep(0)
    await register(worker, UnitState(active="active"))  # before the removal looks once more
    assert (await removal).status == 204
    assert await registry.read(MACHINES) == {}
    assert await registry.read(STATES) == {}
    assert await store.time_to_live(other) is not None


async def test_one_whose_units_are_at_rest_is_removed(worker: Fleet) -> None:
    await register(worker, UnitState(active="failed"))
    assert (await worker.ask(REMOVE, {})).status == 204


async def test_many_units_are_counted(worker: Fleet) -> None:
    for name in "dcba":
        await worker.put(UnitState(active="active"), M1, f"{name}.service")
    assert "a.service, b.service, c.service and 1 more;" in (await worker.refused(REMOVE, {}))[1]


@pytest.mark.parametrize("force", [True, False])
@pytest.mark.parametrize("leads", [True, False])
async def test_a_server_that_runs_has_to_leave_first_whether_or_not_it_leads(
    fleet: Fleet, leads: bool, force: bool
) -> None:
    await register(fleet)
    await fleet.put(Leader(M1 if leads else SERVER, "t"))
    why = "it is a server, and leads the cluster" if leads else "it is a server, and its fleetd runs"
    status, said = await fleet.refused(REMOVE, {"force": force})
    assert (status, said.split(":")[0]) == (409, why)
    assert await revocations(fleet) == []


async def test_a_worker_whose_joining_a_restored_store_has_lost_is_no_server(fleet: Fleet) -> None:
    await fleet.put(Machine(M1, is_worker=True), M1)
    assert (await fleet.ask(REMOVE, {})).status == 204


async def test_a_parked_server_is_removed(fleet: Fleet) -> None:
    await register(fleet, mode=MachineMode.PARKED)
    assert (await fleet.ask(REMOVE, {})).status == 204


@pytest.mark.parametrize("force", [True, False])
async def test_the_machine_that_is_asked_does_not_remove_itself(worker: Fleet, force: bool) -> None:
    worker.reconfigure(machine=lambda: Machine(M1))
    assert await worker.refused(REMOVE, {"force": force}) == (
        409,
        "it is the machine that is asked, which cannot remove itself: ask another one",
    )


async def test_an_unknown_machine_is_refused_and_a_server_that_has_left_is_revoked_by_force(fleet: Fleet) -> None:
    status, why = await fleet.refused(REMOVE, {})
    assert (status, why.split(";")[0]) == (
        404,
        "unknown machine: give the full id of one that is or was in the cluster",
    )
    assert (await fleet.ask(REMOVE, {"force": True})).status == 204
    assert [each.subject for each in await revocations(fleet)] == [f"machine/{M1}"]


@pytest.mark.parametrize("force", [True, False])
async def test_what_is_no_machine_id_is_refused(fleet: Fleet, force: bool) -> None:
    refused = await fleet.refused("POST /fleet/v2/machines/m1/remove", {"force": force})
    assert refused == (400, "'m1' is no machine id, which has 32 hexadecimal digits")


async def test_numbers_go_on_from_those_on_disk_which_a_restore_does_not_undo(worker: Fleet) -> None:
    trust = Issuer(NOW)
    trust.known.append(Revocation(7, "person/bob", NOW))
    worker.reconfigure(trust=trust, unix_now=lambda: NOW, machine=lambda: Machine(SERVER))
    await worker.ask(REMOVE, {})
    assert [each.number for each in await revocations(worker)] == [8]


async def test_two_that_revoke_at_once_take_different_numbers(worker: Fleet) -> None:
    store = worker.registry.store
    original = store.transact
    conflicts = 1

    async def transact(comparisons, operations) -> int:  # type: ignore[no-untyped-def]
        nonlocal conflicts
        if conflicts:
            conflicts -= 1
            await original([], [worker.registry.put(Revocation(1, "person/bob", NOW), "1")])
            raise Conflict("another was quicker")
        return await original(comparisons, operations)

    class Contended:
        def __getattr__(self, name: str) -> object:
            return transact if name == "transact" else getattr(store, name)

    worker.registry.store = Contended()  # type: ignore[assignment]
    assert (await worker.ask(REMOVE, {})).status == 204
    assert [each.number for each in await revocations(worker)] == [1, 2]


async def test_what_is_written_meanwhile_is_not_deleted_as_it_was_read(worker: Fleet) -> None:
    store = worker.registry.store
    original = store.transact
    joined = MachineIdentity("worker", "10.0.0.9")

    async def transact(comparisons, operations) -> int:  # type: ignore[no-untyped-def]
        if await worker.registry.get_many(MACHINE_IDENTITIES, [(M1,)]) == {(M1,): MachineIdentity("worker")}:
            await original([], [worker.registry.put(joined, M1)])  # it joins again, at this moment
        return await original(comparisons, operations)

    class Contended:
        def __getattr__(self, name: str) -> object:
            return transact if name == "transact" else getattr(store, name)

    worker.registry.store = Contended()  # type: ignore[assignment]
    assert (await worker.ask(REMOVE, {})).status == 204
    assert await worker.registry.read(MACHINE_IDENTITIES) == {}
    assert len(await revocations(worker)) == 1


async def test_any_number_of_tokens_goes_with_a_machine(worker: Fleet) -> None:
    for number in range(150):
        await worker.put(JoinToken("ab", 0, 1, machine=M1), f"t{number}")
    assert (await worker.ask(REMOVE, {})).status == 204
    assert await worker.registry.read(JOIN_TOKENS) == {}
