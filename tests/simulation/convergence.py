"""When the faults are over: within a bounded time every unit that can run runs once, every one that cannot says why,
nothing is left of what was destroyed, and the store sees no further write.

invariants.py judges what must hold while the faults last.
"""

import asyncio

from fleetd.model.machine import MachineMode, MachineSettings
from fleetd.model.names import matches_glob, parse_name
from fleetd.model.reason import (
    Hold,
    Reason,
    Rejection,
    RejectionKind,
    WaitingForPeer,
    WaitingForRoom,
    WaitingForStop,
    is_waiting,
    render,
    render_rejection,
    without_eviction,
)
from fleetd.model.unit import TargetState, Unit
from fleetd.scheduler.snapshot import requirements_of
from tests.simulation.world import World

HEALING_S = 300.0  # a stop that hangs takes 90 s, a step that failed is tried again after 60 s, a boot takes 15 s
QUIET_S = 60.0
QUIET_REQUESTS = frozenset({"keep_alive", "compact"})


async def heal(world: World, within_s: float = HEALING_S) -> None:
    """End all faults, wait for so long, and judge. What is wrong is the world's failure."""
    world.say("HEAL")
    world.heal_all()
    for machine in world.machines.values():
        machine.clock_offset_s = 0.0
    if await _sleep(world, within_s):
        return
    _judge(world)
    await _judge_silence(world)


async def _sleep(world: World, for_s: float) -> bool:
    """Let time pass; whether the run has failed meanwhile."""
    try:
        async with asyncio.timeout(for_s):
            await world.failed.wait()
    except TimeoutError:
        return False
    return True


async def _judge_silence(world: World) -> None:
    """Nothing is written any more, and nothing is asked but that the machines are there."""
    revision = world.server.store.latest_revision
    wires = [machine.wire for machine in world.machines.values() if machine.wire is not None]
    before = [dict(wire.requests) for wire in wires]
    if await _sleep(world, QUIET_S):
        return
    if world.server.store.latest_revision != revision:
        world.fail("Rule 8: silence", f"the store is written to at rest: {world.lines[-1]}")
    for wire, counts in zip(wires, before, strict=True):
        asked = {kind: n - counts.get(kind, 0) for kind, n in wire.requests.items() if n != counts.get(kind, 0)}
        if not asked.keys() <= QUIET_REQUESTS:
            world.fail("Rule 8: silence", f"at rest, the store is asked for {asked}")


def _judge(world: World) -> None:
    truth = world.truth
    for machine in world.machines.values():
        if machine.is_up and machine.node is not None and machine.id not in truth.machines:
            world.fail("Healing", f"{machine.name} is not registered: {machine.node.membership.refusal}")
    for name, unit in truth.units.items():
        wrong = _judge_unit(world, name, unit)
        if wrong:
            world.fail("Healing", f"{name}, to be {unit.target}: {wrong}")
    _judge_leftovers(world)


def _running(world: World, name: str) -> list[str]:
    return [world.machines[machine].id for machine, unit in world.processes if unit == name]


def _is_orphan(world: World, machine: str, name: str) -> bool:
    """Whether the machine says that it only keeps what a restored store does not know, or wants gone."""
    state = world.truth.states.get((machine, name))
    return state is not None and state.orphan


def _running_orphans(world: World, name: str) -> list[str]:
    return [machine for machine in _running(world, name) if _is_orphan(world, machine, name)]


def _judge_unit(world: World, name: str, unit: Unit) -> str:
    """What is wrong with a unit that the store knows, or ''."""
    running = [machine for machine in _running(world, name) if not _is_orphan(world, machine, name)]
    homes = world.truth.homes(name)
    if parse_name(name).is_template:
        return _judge_template(world, name, homes)
    if unit.target is TargetState.INACTIVE:
        return f"it is on {', '.join(running + homes)}" if running or homes else ""
    if requirements_of(unit.content, name).is_global:
        return _judge_global(world, name, unit, homes)
    decision = world.truth.decisions.get(name)
    if decision is None or decision.generation != unit.generation:
        return "nothing is decided for it"
    if not homes:
        completed = decision.completed == unit.generation
        return _judge_completed(world, name, unit) if completed else _judge_absence(world, name, unit)
    if [machine for machine in running if machine != homes[0] and not _stands_in(world, name, machine, homes[0])]:
        return f"its home is {homes[0]}, it runs on {', '.join(running)}"
    kept = [machine for machine in _running_orphans(world, name) if (machine, name) in world.truth.placements]
    if homes[0] in running and unit.target is TargetState.LAUNCHED and (twins := _running_orphans(world, name)):
        return f"it runs on {homes[0]}, its home, and is kept running on {', '.join(twins)} as well"
    if homes[0] not in running and any(_may_stay(world, name, machine) for machine in kept):
        return f"its home is {homes[0]}, it is only kept running on {', '.join(kept)}, and might stay there"
    if decision.machine != homes[0]:
        return f"the decision says {decision.machine}, the order is for {homes[0]}"
    return _judge_copy(world, name, unit, homes[0])


def _judge_template(world: World, name: str, homes: list[str]) -> str:
    """Whether a template is where sockets need it, and nowhere else."""
    units = world.truth.units.values()
    sockets = [unit.name for unit in units if requirements_of(unit.content, unit.name).template == name]
    needed = sorted({machine for socket in sockets for machine in world.truth.homes(socket)})
    taken = [machine for machine in needed if name not in world.machine(machine).systemd.own_names]
    return "" if sorted(homes) == taken else f"it is on {', '.join(homes)}, its sockets are on {', '.join(needed)}"


def _judge_completed(world: World, name: str, unit: Unit) -> str:
    """Whether a oneshot that has run, on a machine that is lost or left, need not run again."""
    asked = requirements_of(unit.content, name).rerun_after_failover
    again = world.config.rerun_after_failover if asked is None else asked
    return "it ran on a machine that was lost, and is to run again" if again else ""


def _judge_global(world: World, name: str, unit: Unit, homes: list[str]) -> str:
    for machine in world.truth.machines:
        if machine not in homes and not _why_not(world, name, unit, machine):
            return f"it is not on {machine}"
        if machine in homes and (wrong := _judge_copy(world, name, unit, machine)):
            return wrong
    return ""


def _judge_copy(world: World, name: str, unit: Unit, home: str) -> str:
    """Whether a copy is as it should be, or says why it is not."""
    state = world.truth.states.get((home, name))
    if state is None:
        return f"{home} says nothing of it"
    if state.error:
        return ""
    if state.generation != unit.generation:
        return f"{home} has carried out {state.generation} of {unit.generation}"
    has_process = name.endswith(".service")
    runs = home in _running(world, name) if has_process else state.runs
    if unit.target is TargetState.LAUNCHED and not (runs or state.completed):
        return f"it does not run on {home}, and no reason is given"
    if runs != state.runs:
        return f"{home} says {state.active} of it"
    if unit.target is TargetState.LOADED and runs:
        return f"it runs on {home}"
    held = world.machine(home).systemd.read_files().get(name)
    return "" if held == unit.text else f"{home} has another file of it"


def _judge_absence(world: World, name: str, unit: Unit) -> str:
    """What is wrong with the reasons of a unit that is nowhere, or ''."""
    decision = world.truth.decisions[name]
    if is_waiting(decision.reason):
        return _judge_wait(world, name, decision.reason)
    fitting = [machine for machine in world.truth.machines if not _why_not(world, name, unit, machine)]
    if fitting:
        return f"it is nowhere, and fits on {', '.join(fitting)} ({render(decision.reason)}, {decision.rejections})"
    if sum(each.machines for each in decision.rejections) != len(world.truth.machines):
        return f"{len(world.truth.machines)} machines refuse it, and it says {decision.rejections}"
    rejections = [each.rejection for each in decision.rejections]
    untrue = [render_rejection(rejection) for rejection in rejections if not _is_true(world, rejection)]
    return f"no machine refuses it because {', '.join(untrue)}" if untrue else ""


def _judge_wait(world: World, name: str, reason: Reason | None) -> str:
    """What is untrue of the reason to wait, or ''. When all faults are over, one thing is left to wait for: that an
    operator stops a unit which a machine keeps running and which may not be there."""
    truth = world.truth
    if isinstance(reason, WaitingForPeer):
        decision = truth.decisions.get(reason.unit) if reason.unit in truth.units else None
        waits = decision.reason if decision else None
        if isinstance(waits, WaitingForStop):
            waits = without_eviction(waits)
        if waits != reason.peer_waits:
            return f"it waits for {reason.unit}, whose reason is another one"
        name, reason = reason.unit, reason.peer_waits
    if isinstance(reason, WaitingForRoom):
        stays_on = _is_orphan(world, reason.machine, reason.unit)
        return "" if stays_on else f"{name} waits for {reason.unit}, which nobody keeps from stopping"
    if isinstance(reason, WaitingForStop) and reason.hold is Hold.ORPHANED:
        order = truth.placements.get((reason.machine, name))
        is_kept = _is_orphan(world, reason.machine, name) and not _may_stay(world, name, reason.machine)
        if order and order.is_withdrawn and is_kept:
            return ""
    return f"{name} has nothing to wait for: {render(reason)}"


def _stands_in(world: World, name: str, machine: str, home: str) -> bool:
    """Whether a copy that outlived a cut is the only one that runs, for its replacement does not, and says why; where
    it may not be the unit again."""
    order, state = world.truth.placements.get((machine, name)), world.truth.states.get((home, name))
    if order is None or not order.superseded or home in _running(world, name):
        return False
    return state is not None and bool(state.error) and not _may_stay(world, name, machine)


def _may_stay(world: World, name: str, machine: str) -> bool:
    """Whether what a machine only keeps running might as well be there as a person wants it."""
    unit = world.truth.units[name]
    return unit.target is TargetState.LAUNCHED and not _why_not(world, name, unit, machine)


def _is_true(world: World, rejection: Rejection) -> bool:
    """Whether a rejection that names another unit is true of any machine."""
    orders = [(machine, name, order) for (machine, name), order in world.truth.placements.items()]
    if rejection.kind is RejectionKind.CONFLICT:
        return any(name == rejection.subject and not order.superseded for _, name, order in orders)
    if rejection.kind is not RejectionKind.NO_PEER:
        return True
    having = {m for m, n, o in orders if n == rejection.subject and o.is_active}
    return len(having) < len(world.truth.machines)


def _why_not(world: World, name: str, unit: Unit, machine: str) -> str:
    """Why a unit cannot be on a machine, by rules of the simulator's own."""
    truth = world.truth
    record = truth.machines[machine]
    asked = requirements_of(unit.content, name)
    here = {n: o for (m, n), o in truth.placements.items() if m == machine and n != name and not o.superseded}
    if record.mode is not MachineMode.READY:
        return "takes no work"
    own = world.machine(machine).systemd.own_names
    if name in own:
        return "its own"
    if asked.template and asked.template not in truth.units and asked.template not in own:
        return "its template is missing"
    if asked.machine_id not in (None, machine):
        return "another machine"
    if asked.metadata and not _offers(world, machine, asked.metadata):
        return "metadata"
    if [peer for peer in asked.machine_of if peer not in here or not here[peer].is_active]:
        return "a peer is missing"
    others = {other: requirements_of(order.content, other).conflicts for other, order in here.items()}
    if any(matches_glob(pattern, other) for other in others for pattern in asked.conflicts):
        return "conflict"
    return "conflict" if any(matches_glob(p, name) for patterns in others.values() for p in patterns) else ""


def _offers(world: World, machine: str, wanted: tuple[tuple[str, tuple[str, ...]], ...]) -> bool:
    settings = world.truth.settings.get(machine, MachineSettings())
    offer = {**world.truth.machines[machine].metadata, **settings.metadata}
    return all(offer.get(key) in alternatives for key, alternatives in wanted)


def _judge_leftovers(world: World) -> None:
    """Nothing is left of units that are gone, but for what a restored store does not know."""
    truth = world.truth
    for machine, name in (*truth.placements, *truth.states):
        if name not in truth.units and not _is_orphan(world, machine, name):
            world.fail("Healing", f"{name}, which is destroyed, is still known to be on {machine}")
    for name in truth.decisions:
        if name not in truth.units and not any(_is_orphan(world, machine, name) for machine in truth.machines):
            world.fail("Healing", f"{name}, which is destroyed, has still a decision")
    for found in world.machines.values():
        for name in (*found.systemd.read_files(), *found.systemd.processes()):
            if (found.id, name) not in truth.placements and not _is_orphan(world, found.id, name):
                world.fail("Healing", f"{name} is still on {found.name}")
