"""A store that was restored while a machine was away: the name of its epoch tells, where the revision does not."""

import pytest

from fleetd.membership.store_epoch import StoreChange, StoreEpoch, is_same_cluster
from fleetd.model.unit import UnitState
from fleetd.registry.registry import Registry
from fleetd.store.embedded import EmbeddedStore, inline
from fleetd.store.protocol import Delete, Put, Unavailable
from tests.agent.machine import DAEMON, MachineUnderTest


async def restored(registry: Registry, by: str, known: str) -> str:
    """The epoch as read by a machine that knew a higher revision."""
    revision = await registry.store.revision()
    return (await StoreEpoch(registry, by, known).check(revision + 50, revision)).name


async def test_the_first_machine_to_see_the_revision_fall_names_the_epoch() -> None:
    registry = Registry(EmbeddedStore(":memory:", offload=inline, cluster_id="one"))
    before = (await StoreEpoch(registry, "m1", "").check(0, 1)).name
    named = await restored(registry, "m1", before)
    assert named != before
    assert await restored(registry, "m2", before) == named
    assert (await StoreEpoch(registry, "m3", before).check(5, 5)).name == named
    again = await restored(registry, "m3", named)
    assert again not in (before, named)
    assert is_same_cluster(before, again)
    epochs = [StoreEpoch(registry, "m1", name) for name in (before, named, again)]
    assert [epoch.was_restored for epoch in epochs] == [False, True, True]


async def test_a_store_restored_twice_gets_one_new_name() -> None:
    store = EmbeddedStore(":memory:", offload=inline, cluster_id="one")
    registry = Registry(store)
    named = await restored(registry, "m1", await store.cluster_id())
    known = await restored(registry, "m1", named)
    for restored_to in ([], [Put(registry.history_key, named.partition("/")[2].encode())]):
        await store.transact([], restored_to or [Delete(registry.history_key)])
        revision = await store.revision()
        again = await restored(registry, "m1", known)
        assert again not in (named, known)
        assert await restored(registry, "m2", known) == again
        assert (await StoreEpoch(registry, "m3", known).check(revision, revision)).name == again


async def test_the_name_has_a_bounded_length() -> None:
    registry = Registry(EmbeddedStore(":memory:", offload=inline, cluster_id="one"))
    name = "one"
    for _ in range(50):
        before, name = name, await restored(registry, "m1", name)
        assert name != before
    assert len(name) < 1000


async def test_two_machines_that_notice_at_once_write_one_name() -> None:
    store = EmbeddedStore(":memory:", offload=inline, cluster_id="one")
    registry = Registry(store)
    before = await store.cluster_id()
    first, second = (StoreEpoch(registry, machine, before) for machine in ("m1", "m2"))
    named = await first.check(60, 10)
    assert named.name != before
    assert (await second.check(50, 10)).name == named.name
    first.accept(named)
    assert (await first.check(10, 11)).name == named.name


async def test_a_fall_that_the_leader_notes_is_recorded_once() -> None:
    registry = Registry(EmbeddedStore(":memory:", offload=inline, cluster_id="one"))
    epoch = StoreEpoch(registry, "m1")
    epoch.accept(await epoch.check(0, 1))
    before = epoch.name
    epoch.note_set_back(before)
    noted = await epoch.check(5, 9)
    assert noted.fell
    assert noted.name != before
    assert (await epoch.check(5, 9)).name == noted.name  # the reading is repeated before it was accepted
    epoch.accept(noted)
    assert not epoch.set_back.is_set()
    epoch.note_set_back(before)
    assert not (await epoch.check(9, 9)).fell


async def test_a_fall_noted_during_a_reading_that_misses_it_is_kept() -> None:
    registry = Registry(EmbeddedStore(":memory:", offload=inline, cluster_id="one"))
    epoch = StoreEpoch(registry, "m1")
    epoch.accept(await epoch.check(0, 1))
    reading = await epoch.check(1, 9)
    epoch.note_set_back(epoch.name)
    epoch.accept(reading)
    assert (await epoch.check(9, 9)).fell


async def test_a_worker_told_again_of_a_restore_that_it_knows_records_nothing_and_has_not_changed() -> None:
    store = EmbeddedStore(":memory:", offload=inline, cluster_id="one")
    epoch = StoreEpoch(Registry(store), "w1", is_worker=True)
    revision = await store.revision()
    epoch.accept(await epoch.check(0, 9))
    epoch.note_set_back(epoch.name)
    epoch.accept(await epoch.check(9, 5))
    assert await store.revision() == revision
    assert not epoch.set_back.is_set()
    assert epoch.highest_revision == 5
    assert epoch.take_change(epoch.name) is StoreChange.NONE


async def test_a_worker_sees_a_restore_once_a_server_has_recorded_it() -> None:
    registry = Registry(EmbeddedStore(":memory:", offload=inline, cluster_id="one"))
    epoch = StoreEpoch(registry, "w1", is_worker=True)
    epoch.accept(await epoch.check(0, 9))
    known = epoch.name
    named = await restored(registry, "m1", known)
    epoch.note_set_back(known)
    epoch.accept(await epoch.check(9, 5))
    assert epoch.name == named
    assert epoch.take_change(known) is StoreChange.SET_BACK


async def test_a_worker_waits_until_servers_have_recorded_that_an_earlier_epoch_is_back() -> None:
    registry = Registry(EmbeddedStore(":memory:", offload=inline, cluster_id="one"))
    later = await restored(registry, "m1", await registry.store.cluster_id())
    await registry.store.transact([], [Delete(registry.history_key)])
    with pytest.raises(Unavailable, match="no server has recorded"):
        await StoreEpoch(registry, "w1", later, is_worker=True).check(5, 5)


async def test_nothing_is_written_if_the_revision_did_not_fall() -> None:
    store = EmbeddedStore(":memory:", offload=inline, cluster_id="one")
    revision = await store.revision()
    assert (await StoreEpoch(Registry(store), "m1", "").check(revision, revision)).name == "one"
    assert await store.revision() == revision


async def restore_meanwhile(machine: MachineUnderTest) -> None:
    """While this machine is away its store is restored, another machine notices, and the revision rises above the old
    one."""
    known, highest = await machine.store.cluster_id(), await machine.store.revision()
    await machine.stop()
    await machine.store.close()
    machine.use_store(known)
    await restored(machine.registry, "m2", known)
    while await machine.store.revision() <= highest + 10:
        await machine.put(UnitState(), "m2", "busy.service")


async def test_a_machine_away_at_a_restore_keeps_unknown_units_and_stops_moved_ones(
    machine: MachineUnderTest,
) -> None:
    await machine.start()
    names = ("known.service", "moved.service", "young.service")
    await machine.place_all(dict.fromkeys(names, DAEMON), 70)
    for name in names:
        await machine.until_active(name, 70)
    pids = dict(machine.systemd.processes())
    await restore_meanwhile(machine)
    await machine.place("known.service", 3)
    await machine.withdraw("moved.service", 3)
    await machine.start()
    states = await machine.until(lambda states: states["moved.service"].active == "inactive")
    states = await machine.until(lambda states: states["young.service"].error != "")
    assert "does not know this unit" in states["young.service"].error
    assert machine.ledger.orphans == ("young.service",)
    del pids["moved.service"]
    assert machine.systemd.processes() == pids
