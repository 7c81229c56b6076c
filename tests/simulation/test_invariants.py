"""The checkers themselves: each finds a violation of its rule. The violations are made directly in the store and the
systemds, because fleet does not make them."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from msgspec.structs import replace

from fleetd.model.announcement import ServicePort, ServiceRecord
from fleetd.model.confinement import Limits
from fleetd.model.event import ClusterEvent, EventKind, EventRecord
from fleetd.model.placement import Decision, Placement
from fleetd.model.reason import BEST, Eviction, Rejection, RejectionKind, WaitingForStop
from fleetd.model.secret import SecretRef
from fleetd.model.unit import TargetState, UnitState
from fleetd.registry.records import MACHINES, PLACEMENTS, REBOOTS, SYNCED, UNITS, Synced, encode
from fleetd.store import worker_wire
from fleetd.store.protocol import Delete, Event, KeyValue, Operation, Put
from tests.simulation.clock import run_cluster
from tests.simulation.convergence import converge
from tests.simulation.event_invariants import EventsTellWhatWasDone
from tests.simulation.event_reader import EachEventIsReadOnceInOrder
from tests.simulation.units import ROLLED_UNITS, rolled_text, unit_text
from tests.simulation.wire import acting_for
from tests.simulation.world import Failure, World

WEB = "web@1.service"
M1, M2 = "1" * 32, "2" * 32
RECORD = ServiceRecord("10.0.0.1", (ServicePort(80),))

Violation = Callable[[World], Awaitable[None]]


def failure_after(
    violation: Violation, directory: Path, *, converged: bool = False, role: str = "server"
) -> Failure | None:
    """The failures that checkers report for two machines that run WEB, after this was done to them. The second one has
    this role."""

    async def run() -> Failure | None:
        world = World(directory, 0, {"m1": {}, "m2": {"role": role}})
        try:
            for machine in world.machines.values():
                await machine.boot()
            await asyncio.sleep(1)
            await world.operators.submit(WEB, TargetState.LAUNCHED, 1)
            await asyncio.sleep(5)
            assert world.failure is None
            await violation(world)
            await asyncio.sleep(1)
            if converged:
                await converge(world)
            return world.failure
        finally:
            await world.close()

    return run_cluster(run())


def placement(world: World, machine: str, name: str = WEB, target: TargetState = TargetState.LAUNCHED) -> Put:
    return world.registry.put(Placement(machine, name, unit_text(name), target, 99), machine, name)


async def write(world: World, *operations: Operation) -> None:
    await world.server.store.transact([], operations)


async def place_twice(world: World) -> None:
    await write(world, placement(world, M1), placement(world, M2))


async def place_conflicting(world: World) -> None:
    await write(world, placement(world, M1, "left.service"), placement(world, M1, "right.service"))


async def run_twice_what_must_not(world: World) -> None:
    name = "single.service"
    await world.operators.submit(name, TargetState.LAUNCHED, 1)
    await asyncio.sleep(5)
    other = next(machine for machine in world.machines.values() if (machine.name, name) not in world.processes)
    unit = world.records.units[name]
    second = Placement(other.id, name, unit.text, unit.target, unit.generation, superseded=True)
    await write(world, world.registry.put(second, other.id, name))  # as one that was left behind
    await other.systemd.write({name: unit_text(name)})
    other.systemd._units.queue_start(name)


async def run_under_a_lock_that_another_has(world: World) -> None:
    await world.operators.submit("locked.service", TargetState.LAUNCHED, 1)
    await asyncio.sleep(5)
    machine = world.machines["m2"]
    await machine.systemd.write({"locked-single.service": unit_text("locked-single.service")})
    machine.systemd._units.queue_start("locked-single.service")


async def write_without_office(world: World) -> None:
    wire = world.machines["m2"].wire
    assert wire
    await wire.transact([], [placement(world, M1)])


async def write_anothers_state(world: World) -> None:
    wire = world.machines["m2"].wire
    assert wire
    await wire.transact([], [world.registry.put(UnitState(), M1, WEB)])


async def bury_the_living(world: World) -> None:
    await asyncio.sleep(60)
    item = world.records.item(MACHINES, M1)
    assert item
    await write(world, Delete(item.key), Delete(world.registry.key(PLACEMENTS, M1, WEB)))


async def lose_patience(world: World) -> None:
    await world.operators.submit("patient.service", TargetState.LAUNCHED, 1)
    await asyncio.sleep(5)
    (assigned,) = world.records.assigned_machines("patient.service")
    await world.machine(assigned).power_cut()
    await asyncio.sleep(60)
    await write(world, Delete(world.registry.key(PLACEMENTS, assigned, "patient.service")))


async def move_without_a_word(world: World) -> None:
    silence = world.registry.put(Decision(WEB, 99, M1), WEB)
    await write(world, placement(world, M1, target=TargetState.INACTIVE), silence)


async def stop_unasked(world: World) -> None:
    await world.machines["m1"].systemd.stop(WEB)


async def start_unasked(world: World) -> None:
    systemd = world.machines["m2"].systemd
    await systemd.write({WEB: unit_text(WEB)})
    await systemd.start(WEB)


async def run_twice(world: World) -> None:
    systemd = world.machines["m2"].systemd
    await systemd.write({WEB: unit_text(WEB)})
    systemd._units.queue_start(WEB)


async def stop_the_last_copy(world: World) -> None:
    superseded = Placement(M1, WEB, unit_text(WEB), TargetState.LAUNCHED, 99, superseded=True)
    await world.machines["m2"].kill_fleetd()
    await write(world, world.registry.put(superseded, M1, WEB))
    await write(world, placement(world, M1, target=TargetState.INACTIVE))


async def run_what_is_completed(world: World) -> None:
    done = world.registry.put(Decision(WEB, 99, M1, reason=BEST, completed=99), WEB)
    await write(world, placement(world, M1), done)
    await world.machines["m1"].systemd.start(WEB)


async def forget_what_is_completed(world: World) -> None:
    generation = world.records.units[WEB].generation
    for completed in (generation, 0):
        await write(world, world.registry.put(Decision(WEB, generation, M1, reason=BEST, completed=completed), WEB))


async def lose_what_was_acknowledged(world: World) -> None:
    await write(world, Delete(world.registry.key(UNITS, WEB)))


async def remove_what_runs(world: World) -> None:
    await world.machines["m1"].systemd.remove([WEB])


async def touch_the_systems_own(world: World) -> None:
    await world.machines["m1"].systemd.write({"ssh.service": unit_text(WEB)})


async def announce_what_does_not_run(world: World) -> None:
    await write(world, Put(f"/fleet/services/x/{M1}/gone.service", encode(RECORD)))
    await asyncio.sleep(60)


async def announce_what_its_machine_knows_to_fail(world: World) -> None:
    await world.operators.submit("named.service", TargetState.LAUNCHED, 1)
    await asyncio.sleep(40)
    ((_, id_, unit),) = world.records.services
    world.machine(id_).failing_check = "connection refused"
    await asyncio.sleep(16)
    await write(world, Put(f"/fleet/services/named/{id_}/{unit}", encode(RECORD)))
    await asyncio.sleep(2)


async def stop_what_is_announced(world: World) -> None:
    await asyncio.sleep(20)
    await write(world, Put(f"/fleet/services/x/{M1}/{WEB}", encode(RECORD)))
    await world.operators.set_target(WEB, TargetState.LOADED)
    await asyncio.sleep(5)


async def start_without_its_image(world: World) -> None:
    await world.operators.submit("boxed.service", TargetState.LAUNCHED, 1)
    await asyncio.sleep(10)
    (machine,) = world.records.assigned_machines("boxed.service")
    found = next(each for each in world.machines.values() if each.id == machine)
    found.fetcher.here.clear()
    await found.systemd.restart("boxed.service")


async def stop_for_an_image_that_is_not_there(world: World) -> None:
    await world.operators.submit("boxed.service", TargetState.LAUNCHED, 1)
    await asyncio.sleep(10)
    (machine,) = world.records.assigned_machines("boxed.service")
    await write(world, *told_to_leave(world, "boxed.service", M2 if machine == M1 else M1))


async def stop_what_is_replaced_for_nothing(world: World) -> None:
    await world.operators.submit("boxed.service", TargetState.LAUNCHED, 1)
    await asyncio.sleep(10)
    await write(world, *told_to_leave(world, "boxed.service", "", RejectionKind.REPLACED, WEB))


async def stop_for_what_is_not_ready(world: World) -> None:
    await world.operators.submit("boxed.service", TargetState.LAUNCHED, 1)
    await asyncio.sleep(10)
    for machine in world.machines.values():
        machine.fetcher.here.clear()
    await write(world, *told_to_leave(world, WEB, "", RejectionKind.REPLACED, "boxed.service"))


async def keep_states_of_the_gone(world: World) -> None:
    await world.machines["m1"].power_cut()
    await write(world, world.registry.put(UnitState(active="active"), M1, WEB))
    await asyncio.sleep(60)


async def ask_without_end(world: World) -> None:
    wire = world.machines["m1"].wire
    assert wire
    for _ in range(20_000):
        await wire.get("/fleet/leader")


async def write_as_a_machine(world: World, *operations: Operation) -> None:
    (checker,) = (each for each in world.checkers if isinstance(each, EventsTellWhatWasDone))
    checker.see_request("m1", (), operations)
    await write(world, *operations)


async def move_silently(world: World) -> None:
    (machine,) = world.records.assigned_machines(WEB)
    withdrawn = placement(world, machine, target=TargetState.INACTIVE)
    await write_as_a_machine(world, withdrawn, world.registry.put(Decision(WEB, 99, reason=BEST), WEB))


async def lose_a_machine_silently(world: World) -> None:
    await write_as_a_machine(world, Delete(world.registry.key(SYNCED, M1)))


def told(world: World, kind: EventKind, machine: str) -> Put:
    record = EventRecord(0.0, (ClusterEvent(kind, machine=machine),))
    return world.registry.archive.put(record, "000000000000001-x")


async def tell_what_was_not_done(world: World) -> None:
    synced = world.registry.put(Synced(world.records.synced[M1]), M1)
    await write_as_a_machine(world, synced, told(world, EventKind.JOINED, M1))


async def tell_twice(world: World) -> None:
    await write(world, told(world, EventKind.ASKED, M1))
    await write(world, told(world, EventKind.ASKED, M1))


def event_reader(world: World) -> EachEventIsReadOnceInOrder:
    (checker,) = (each for each in world.checkers if isinstance(each, EachEventIsReadOnceInOrder))
    return checker


async def lose_what_was_told(world: World) -> None:
    """The reader should have been told something between two events that it is told."""
    lost, revision = told(world, EventKind.ASKED, M2), world.server.store.latest_revision + 1
    item = KeyValue(lost.key, lost.value, revision, revision)
    path = world.records.path(lost.key)
    assert path
    event_reader(world).see_events([(path, Event(lost.key, item, revision))], {})
    await write(world, told(world, EventKind.ASKED, M1))
    await asyncio.sleep(60)


async def forget_a_restore(world: World) -> None:
    """Nobody is there who would notice it."""
    for machine in world.machines.values():
        await machine.power_cut()
    world.restore_lost_writes = True
    event_reader(world).see_restore({})
    event_reader(world).see_end()


async def ignore_a_cordon(world: World) -> None:
    for machine in (M1, M2):
        await world.operators.cordon(machine, "disk")
    await asyncio.sleep(60)
    (assigned,) = world.records.assigned_machines(WEB)
    await write(world, placement(world, M2 if assigned == M1 else M1, "picky.service"))


def told_to_leave(
    world: World, name: str, target: str, why: RejectionKind = RejectionKind.DRAINED, subject: str = ""
) -> tuple[Operation, ...]:
    """The writes of a leader that has a unit leave its machine, because that is drained unless something else is
    said."""
    (machine,) = world.records.assigned_machines(name)
    reason = WaitingForStop(machine, Eviction(machine, Rejection(why, subject)))
    decision = world.registry.put(Decision(name, 99, reason=reason, target=target), name)
    return placement(world, machine, name, TargetState.INACTIVE), decision


async def drain_to_nowhere(world: World) -> None:
    await write(world, *told_to_leave(world, WEB, ""))


async def drain_beyond_the_budget(world: World) -> None:
    await world.operators.submit("web@2.service", TargetState.LAUNCHED, 1)
    await asyncio.sleep(5)
    await write(world, *told_to_leave(world, WEB, M1), *told_to_leave(world, "web@2.service", M1))


async def take_a_kept_place(world: World) -> None:
    await world.operators.submit("left.service", TargetState.LAUNCHED, 1)
    await asyncio.sleep(5)
    (machine,) = world.records.assigned_machines("left.service")
    other = M2 if machine == M1 else M1
    await write(world, *told_to_leave(world, "left.service", other))
    await write(world, placement(world, other, "right.service"))


async def change_two_at_once(world: World) -> None:
    await world.operators.roll(1)
    await asyncio.sleep(30)
    placed = [order for (_, name), order in world.records.placements.items() if name in ROLLED_UNITS]
    changed = [replace(order, text=rolled_text(2)) for order in placed[:2]]
    await write(world, *(world.registry.put(order, order.machine, order.unit) for order in changed))


def superseded(world: World, machine: str, name: str) -> Put:
    """The unit starts elsewhere, and is to run here until it is proven there."""
    order = Placement(machine, name, unit_text(name), TargetState.LAUNCHED, 99, superseded=True, hands_over=True)
    return world.registry.put(order, machine, name)


async def start_first_unasked(world: World) -> None:
    await write(world, superseded(world, M1, WEB), placement(world, M2))


async def start_first_without_a_move(world: World) -> None:
    await world.operators.submit("twice.service", TargetState.LAUNCHED, 1)
    await asyncio.sleep(40)
    (machine,) = world.records.assigned_machines("twice.service")
    await write(world, superseded(world, machine, "twice.service"))


async def stop_what_is_proven_nowhere_else(world: World) -> None:
    await world.operators.submit("twice.service", TargetState.LAUNCHED, 1)
    await asyncio.sleep(5)
    (machine,) = world.records.assigned_machines("twice.service")
    await world.operators.drain(machine)
    await asyncio.sleep(1)
    for each in world.machines.values():
        await each.kill_fleetd()
    await write(world, placement(world, machine, "twice.service", TargetState.INACTIVE))


async def start_without_its_secret(world: World) -> None:
    with_secret = Placement(M1, WEB, unit_text(WEB), TargetState.LAUNCHED, 99, secrets=(SecretRef("db.pw", 1),))
    await write(world, world.registry.put(with_secret, M1, WEB))
    await world.machines["m1"].systemd.start(WEB)


async def start_what_is_not_taken(world: World) -> None:
    world.machines["m1"].limits_in_force = Limits(accept=("left.*",))
    await world.machines["m1"].systemd.start(WEB)


async def start_unconfined(world: World) -> None:
    world.machines["m1"].limits_in_force = Limits(confine=True)
    await world.machines["m1"].systemd.start(WEB)


VIOLATIONS: tuple[tuple[str, Violation], ...] = (
    ("OneMachinePerUnit", place_twice),
    ("ConflictsApart", place_conflicting),
    ("SinglesRunOnce", run_twice_what_must_not),
    ("LocksAreKept", run_under_a_lock_that_another_has),
    ("CordonedMachinesGetNothingNew", ignore_a_cordon),
    ("DrainsKeepTheBudget", drain_to_nowhere),
    ("DrainsKeepTheBudget", drain_beyond_the_budget),
    ("KeptPlacesAreKept", take_a_kept_place),
    ("StartFirstIsAskedFor", start_first_unasked),
    ("StartFirstIsAskedFor", start_first_without_a_move),
    ("StartFirstKeepsWhatRuns", stop_what_is_proven_nowhere_else),
    ("OnlyTheLeaderDecides", write_without_office),
    ("OnlyTheLeaderDecides", write_anothers_state),
    ("Rule1StoreIsNoLifeLine", bury_the_living),
    ("DelaysAreKept", lose_patience),
    ("Rule1MovesHaveReasons", move_without_a_word),
    ("Rule2OrdersAlone", stop_unasked),
    ("Rule2OrdersAlone", start_unasked),
    ("Rule3OneCopyRuns", run_twice),
    ("Rule3TheLastCopyStays", stop_the_last_copy),
    ("Rule5NothingCompletedRunsAgain", run_what_is_completed),
    ("Rule5NothingCompletedRunsAgain", forget_what_is_completed),
    ("Rule5NothingAcknowledgedIsLost", lose_what_was_acknowledged),
    ("Rule6StopsAreFinished", remove_what_runs),
    ("Rule7OnlyOurs", touch_the_systems_own),
    ("StatesGoWithTheirMachine", keep_states_of_the_gone),
    ("DisruptionBudgetIsKept", change_two_at_once),
    ("SecretsComeFirst", start_without_its_secret),
    ("OnlyTheHealthyAreAnnounced", announce_what_does_not_run),
    ("OnlyTheHealthyAreAnnounced", announce_what_its_machine_knows_to_fail),
    ("WithdrawalComesFirst", stop_what_is_announced),
    ("DownloadsComeFirst", start_without_its_image),
    ("NothingHealthyStopsForADownload", stop_for_an_image_that_is_not_there),
    ("NothingHealthyStopsForADownload", stop_what_is_replaced_for_nothing),
    ("NothingHealthyStopsForADownload", stop_for_what_is_not_ready),
    ("EventsTellWhatWasDone", move_silently),
    ("EventsTellWhatWasDone", lose_a_machine_silently),
    ("EventsTellWhatWasDone", tell_what_was_not_done),
    ("EventsTellWhatWasDone", tell_twice),
    ("LimitsAreKept", start_what_is_not_taken),
    ("LimitsAreKept", start_unconfined),
    ("EachEventIsReadOnceInOrder", lose_what_was_told),
    ("EachEventIsReadOnceInOrder", forget_a_restore),
    ("Rule8NobodyStorms", ask_without_end),
)


@pytest.mark.covers("R.3")
@pytest.mark.parametrize(("rule", "violation"), VIOLATIONS, ids=lambda value: getattr(value, "__name__", ""))
def test_a_violation_is_found(rule: str, violation: Violation, tmp_path: Path) -> None:
    failure = failure_after(violation, tmp_path)
    assert failure is not None
    assert failure.rule == rule


async def write_for_a_worker_on_anothers_lease(world: World) -> None:
    wire, item = world.machines["m1"].wire, world.records.item(MACHINES, M1)
    assert wire
    assert item
    acting_for.set("m2")
    await wire.transact([], [world.registry.put(UnitState(), M2, WEB, lease=item.lease)])


async def write_for_a_worker_what_servers_write(world: World) -> None:
    wire = world.machines["m1"].wire
    assert wire
    acting_for.set("m2")
    await wire.transact([], [Delete(world.registry.key(REBOOTS, M2))])


async def tell_a_worker_of_another(world: World) -> None:
    found = worker_wire.KeyAnswer(item=world.records.item(MACHINES, M1), store_revision=1, history="")
    world._see_answer("m2", "get", worker_wire.encode(found))


async def bury_a_worker_that_is_served(world: World) -> None:
    await world.operators.submit("everywhere.service", TargetState.LAUNCHED, 1)
    await asyncio.sleep(60)
    keys = (MACHINES, M2), (PLACEMENTS, M2, "everywhere.service")
    await write(world, *(Delete(world.registry.key(*key)) for key in keys))


async def bury_a_worker_that_nobody_serves(world: World) -> None:
    world.part("m2", "m1")
    await bury_a_worker_that_is_served(world)


@pytest.mark.covers("R.10")
@pytest.mark.parametrize(
    ("rule", "violation"),
    [
        ("WorkersHaveTheirOwnOnly", write_for_a_worker_on_anothers_lease),
        ("WorkersHaveTheirOwnOnly", write_for_a_worker_what_servers_write),
        ("WorkersHaveTheirOwnOnly", tell_a_worker_of_another),
        ("Rule1StoreIsNoLifeLine", bury_a_worker_that_is_served),
    ],
)
def test_a_violation_that_concerns_a_worker_is_found(rule: str, violation: Violation, tmp_path: Path) -> None:
    failure = failure_after(violation, tmp_path, role="worker")
    assert failure is not None
    assert failure.rule == rule


def test_a_worker_that_no_server_serves_may_be_taken_for_dead(tmp_path: Path) -> None:
    assert failure_after(bury_a_worker_that_nobody_serves, tmp_path, role="worker") is None


async def do_nothing(world: World) -> None:
    pass


async def kill_everyone(world: World) -> None:
    for machine in world.machines.values():
        await machine.kill_fleetd()


async def forge_a_leftover(world: World) -> None:
    world.machines["m2"].systemd._texts["web@3.service"] = unit_text("web@3.service")


async def forge_a_secret(world: World) -> None:
    secret = world.machines["m2"].directory / "credentials" / WEB / "db.pw"
    secret.parent.mkdir(parents=True)
    secret.write_bytes(b"")


async def write_on_and_on(world: World) -> None:
    async def go_on() -> None:
        while True:
            await write(world, world.registry.put(Synced("someone"), "9" * 32))
            await asyncio.sleep(5)

    world.spawn(go_on())


@pytest.mark.parametrize("role", ["server", "worker"])
def test_a_correct_cluster_has_no_violation(role: str, tmp_path: Path) -> None:
    assert failure_after(do_nothing, tmp_path, converged=True, role=role) is None


@pytest.mark.parametrize(
    ("complaint", "violation"),
    [
        ("says nothing of it", kill_everyone),
        ("is still on m2", forge_a_leftover),
        ("keeps the secret db.pw", forge_a_secret),
        ("written to at rest", write_on_and_on),
    ],
)
def test_a_cluster_that_does_not_converge_is_found(complaint: str, violation: Violation, tmp_path: Path) -> None:
    failure = failure_after(violation, tmp_path, converged=True)
    assert failure is not None
    assert complaint in failure.what
