"""After the faults, within a bounded time: every unit that can run runs once, every other one has a reason, nothing is
left of destroyed units, and the store sees no more writes.

invariants.py checks what must hold during the faults.
"""

import asyncio
from collections.abc import Sequence

from fleetd.model.group import group_of
from fleetd.model.machine import DrainRequest, MachineMode, MachineSettings
from fleetd.model.names import matches_glob, parse_name
from fleetd.model.reason import (
    BudgetWait,
    DrainEnded,
    Hold,
    MissingSecrets,
    NotMoved,
    NowhereElse,
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
from fleetd.model.reboot import RebootFailure, RebootPhase
from fleetd.model.requirements import requirements_of
from fleetd.model.rollout import Phase
from fleetd.model.unit import TargetState, Unit
from fleetd.registry.records import APPLIES
from fleetd.scheduler.effective_machine import drain_of
from tests.simulation.limit_invariants import held_contents, takes
from tests.simulation.secret_invariants import judge_secrets
from tests.simulation.world import World

CONVERGENCE_S = 300.0  # a hanging stop takes 90 s, a failed action is retried after 60 s, a boot takes 15 s
QUIET_S = 60.0
QUIET_REQUESTS = frozenset({"keep_alive", "compact", "keep-alive"})
# What a worker asks for every ten minutes, which servers there are, and what that server reads for it.
SELDOM_REQUESTS = frozenset({"cluster-id", "cluster_id", "revision", "range"})


async def converge(world: World, within_s: float = CONVERGENCE_S) -> None:
    """End all faults, wait this long, and check. Failures go to world.fail."""
    world.say("HEAL")
    world.end_faults()
    for machine in world.machines.values():
        machine.clock_offset_s = 0.0
    if await _sleep(world, within_s):
        return
    _judge(world)
    await _judge_silence(world)


async def _sleep(world: World, for_s: float) -> bool:
    """Let time pass. Return True if the run has failed meanwhile."""
    try:
        async with asyncio.timeout(for_s):
            await world.failed.wait()
    except TimeoutError:
        return False
    return True


async def _judge_silence(world: World) -> None:
    """There are no more writes, and no requests but keep-alives. Where certificates live for minutes, machines say all
    the time that they have another one."""
    if world.life_s:
        return
    revision = world.server.store.latest_revision
    wires = [machine.wire for machine in world.machines.values() if machine.wire is not None]
    before = [dict(wire.requests) for wire in wires]
    workers = sum(machine.is_worker for machine in world.machines.values())
    if await _sleep(world, QUIET_S):
        return
    if world.server.store.latest_revision != revision:
        world.fail("Rule 8: silence", f"the store is written to at rest: {world.lines[-1]}")
    for wire, counts in zip(wires, before, strict=True):
        asked = {kind: n - counts.get(kind, 0) for kind, n in wire.requests.items() if n != counts.get(kind, 0)}
        asked = {kind: n for kind, n in asked.items() if kind not in SELDOM_REQUESTS or n > workers}
        if not asked.keys() <= QUIET_REQUESTS:
            world.fail("Rule 8: silence", f"at rest, the store is asked for {asked}")


def _judge(world: World) -> None:
    records = world.records
    for machine in world.machines.values():
        if machine.is_up and machine.node is not None and machine.id not in records.machines:
            world.fail("Convergence", f"{machine.name} is not registered: {machine.node.membership.refusal}")
    for name, unit in records.units.items():
        wrong = _judge_unit(world, name, unit)
        if wrong:
            world.fail("Convergence", f"{name}, to be {unit.target}: {wrong}")
    for machine in records.machines:
        drain = drain_of(records.settings.get(machine), records.reboots.get(machine))
        if drain is not None:
            _judge_drain(world, machine, drain)
    _judge_reboots(world)
    for name, move in records.moves.items():
        decision = records.decisions.get(name)
        if decision is None or not is_waiting(decision.reason):
            world.fail("Convergence", f"{name} is neither moved to {move.machine}, nor is the move over: {decision}")
    for group, rollout in records.rollouts.items():
        units = [unit for unit in records.units.values() if unit.rollout and group_of(unit.name) == group]
        if units and _is_written(world, units) and not rollout.is_over and rollout.pause is None:
            world.fail("Convergence", f"the rollout of {group} is neither over nor paused: {rollout}")
    _judge_leftovers(world)
    if wrong := judge_secrets(world):
        world.fail("Convergence", wrong)
    for checker in world.checkers:
        checker.see_end()


def _judge_reboots(world: World) -> None:
    """Every reboot is over, or was given up for a reason, or says for which units it waits. Who has no slot waits for
    one who has."""
    records = world.records
    for machine, reboot in records.reboots.items():
        if reboot.is_under_way and (reboot.phase is RebootPhase.ORDERED or not reboot.waits):
            world.fail("Convergence", f"the reboot of {machine} has not ended: {reboot}")
        waits = [name for name in reboot.waits if (machine, name) in records.placements]
        if reboot.phase is RebootPhase.DRAINING and not waits:
            world.fail("Convergence", f"{machine} waits for what is not there: {reboot}")
        if reboot.failure in (RebootFailure.NOT_BACK, RebootFailure.NOT_SERVING) and not waits:
            world.fail("Convergence", f"{machine} serves, and its reboot is not over: {reboot}")
    if records.reboot_requests and not any(reboot.holds_slot for reboot in records.reboots.values()):
        world.fail("Convergence", f"{', '.join(records.reboot_requests)} waits for a slot, and all are free")


def _judge_drain(world: World, machine: str, request: DrainRequest) -> None:
    """What is still on a drained machine says why, and that is true."""
    records = world.records
    for (where, name), placement in records.placements.items():
        unit, decision = records.units.get(name), records.decisions.get(name)
        if where != machine or not placement.is_active or unit is None or parse_name(name).is_template:
            continue
        asked = requirements_of(unit.content, name)
        if asked.is_global:
            continue
        reason = decision.reason if decision else None
        if isinstance(reason, NowhereElse) and not request.force:
            others = [other for other in records.machines if other != machine]
            fitting = [other for other in others if not asked.machine_of and not _why_not(world, name, unit, other)]
            if fitting and not _is_peer(world, name):
                world.fail("Convergence", f"{name} stays on drained {machine}, and fits on {', '.join(fitting)}")
        elif isinstance(reason, BudgetWait) and not request.force:
            if not any(_is_down(world, member.unit) for member in reason.members):
                world.fail("Convergence", f"{name} stays on drained {machine}, and need not wait: {render(reason)}")
        elif isinstance(reason, NotMoved) and not request.force:
            if reason.drained_at != request.at:
                world.fail("Convergence", f"{name} stays on drained {machine}, for an earlier drain: {render(reason)}")
        elif not (isinstance(reason, DrainEnded) and reason.deadline == request.deadline):
            world.fail("Convergence", f"{name} stays on drained {machine}, and does not say why: {render(reason)}")


def _is_peer(world: World, name: str) -> bool:
    """True if another unit has to be where this one is."""
    return any(name in requirements_of(unit.content, other).machine_of for other, unit in world.records.units.items())


def _is_down(world: World, name: str) -> bool:
    """True if the unit is not active where it is assigned, or runs another content there: one that a machine holds as
    it was when the store was restored."""
    records = world.records
    return not any(
        (state.active == "active" or state.completed)
        and state.hash in ("", records.placements[machine, name].content.hash)
        for machine in records.assigned_machines(name)
        if (state := records.states.get((machine, name))) is not None
    )


def _is_written(world: World, units: Sequence[Unit]) -> bool:
    """True if the requests of these units were written to their end."""
    return all(world.records.item(APPLIES, unit.rollout) for unit in units)


def _is_held(world: World, unit: Unit) -> bool:
    """True if a rollout that is paused, was reverted, or is not written completely keeps a unit's former content."""
    rollout = world.records.rollouts.get(group_of(unit.name)) if unit.rollout else None
    if rollout is None:
        return False
    group = [other for other in world.records.units.values() if group_of(other.name) == group_of(unit.name)]
    rolled = [other for other in group if other.rollout]
    return rollout.pause is not None or rollout.phase is Phase.REVERTED or not _is_written(world, rolled)


def _running(world: World, name: str) -> list[str]:
    return [world.machines[machine].id for machine, unit in world.processes if unit == name]


def _is_orphan(world: World, machine: str, name: str) -> bool:
    """True if the machine reports that it only keeps the unit because a restored store does not know or want it."""
    state = world.records.states.get((machine, name))
    return state is not None and state.orphan


def _running_orphans(world: World, name: str) -> list[str]:
    return [machine for machine in _running(world, name) if _is_orphan(world, machine, name)]


def _judge_unit(world: World, name: str, unit: Unit) -> str:
    """What is wrong with a unit that the store knows, or ''."""
    running = [machine for machine in _running(world, name) if not _is_orphan(world, machine, name)]
    machines = world.records.assigned_machines(name)
    if parse_name(name).is_template:
        return _judge_template(world, name, machines)
    if unit.target is TargetState.INACTIVE:
        return f"it is on {', '.join(running + machines)}" if running or machines else ""
    if requirements_of(unit.content, name).is_global:
        return _judge_global(world, name, unit, machines)
    decision = world.records.decisions.get(name)
    if decision is None or decision.generation != unit.generation:
        return "nothing is decided for it"
    if not machines:
        completed = decision.completed == unit.generation
        return _judge_completed(world, name, unit) if completed else _judge_absence(world, name, unit)
    if [machine for machine in running if machine != machines[0] and not _stands_in(world, name, machine, machines[0])]:
        return f"it is assigned to {machines[0]}, it runs on {', '.join(running)}"
    kept = [machine for machine in _running_orphans(world, name) if (machine, name) in world.records.placements]
    if machines[0] in running and unit.target is TargetState.LAUNCHED and (duplicates := _running_orphans(world, name)):
        return f"it runs on {machines[0]}, where it is assigned, and also on {', '.join(duplicates)}"
    if machines[0] not in running and any(_may_stay(world, name, machine) for machine in kept):
        return f"it is assigned to {machines[0]}, runs only on {', '.join(kept)}, and might stay there"
    if decision.machine != machines[0]:
        return f"the decision says {decision.machine}, the placement is on {machines[0]}"
    return _check_allocation(world, name, unit, machines[0])


def _judge_template(world: World, name: str, machines: list[str]) -> str:
    """True if a template is on the machines whose sockets need it, and on no other."""
    units = world.records.units.values()
    sockets = [unit.name for unit in units if requirements_of(unit.content, unit.name).template == name]
    needed = sorted({machine for socket in sockets for machine in world.records.assigned_machines(socket)})
    taken = [machine for machine in needed if name not in world.machine(machine).systemd.own_names]
    return (
        "" if sorted(machines) == taken else f"it is on {', '.join(machines)}, its sockets are on {', '.join(needed)}"
    )


def _judge_completed(world: World, name: str, unit: Unit) -> str:
    """True if a completed oneshot of a lost machine, or one that left, need not run again. A drain loses no machine."""
    asked = requirements_of(unit.content, name).rerun_after_failover
    again = (world.config.rerun_after_failover if asked is None else asked) and name not in world.drained
    return "it ran on a machine that was lost, and is to run again" if again else ""


def _judge_global(world: World, name: str, unit: Unit, machines: list[str]) -> str:
    for machine in world.records.machines:
        if machine not in machines and not _why_not(world, name, unit, machine):
            return f"it is not on {machine}"
        if machine in machines and (wrong := _check_allocation(world, name, unit, machine)):
            return wrong
    return ""


def _check_allocation(world: World, name: str, unit: Unit, assigned: str) -> str:
    """True if an allocation is as it should be, or reports why not."""
    state = world.records.states.get((assigned, name))
    if state is None:
        return f"{assigned} says nothing of it"
    if state.error:
        return ""
    is_held = _is_held(world, unit)
    if state.generation != unit.generation and not is_held:
        return f"{assigned} has carried out {state.generation} of {unit.generation}"
    has_process = name.endswith(".service")
    runs = assigned in _running(world, name) if has_process else state.runs
    if unit.target is TargetState.LAUNCHED and not (runs or state.completed):
        return f"it does not run on {assigned}, and no reason is given"
    if runs != state.runs:
        return f"{assigned} says {state.active} of it"
    if unit.target is TargetState.LOADED and runs:
        return f"it runs on {assigned}"
    held = held_contents(world.machine(assigned)).get(name)
    return "" if held == unit.content or is_held else f"{assigned} has another content of it"


def _judge_absence(world: World, name: str, unit: Unit) -> str:
    """What is wrong with the reason of an unplaced unit, or ''."""
    decision = world.records.decisions[name]
    if is_waiting(decision.reason):
        return _judge_wait(world, name, decision.reason)
    if isinstance(decision.reason, MissingSecrets):
        there = [secret for secret in decision.reason.names if secret in world.records.secrets]
        return f"it misses secrets that there are: {', '.join(there)}" if there else ""
    fitting = [machine for machine in world.records.machines if not _why_not(world, name, unit, machine)]
    if fitting:
        return f"it is nowhere, and fits on {', '.join(fitting)} ({render(decision.reason)}, {decision.rejections})"
    if sum(each.machines for each in decision.rejections) != len(world.records.machines):
        return f"{len(world.records.machines)} machines refuse it, and it says {decision.rejections}"
    rejections = [each.rejection for each in decision.rejections]
    untrue = [render_rejection(rejection) for rejection in rejections if not _is_true(world, rejection)]
    return f"no machine refuses it because {', '.join(untrue)}" if untrue else ""


def _judge_wait(world: World, name: str, reason: Reason | None) -> str:
    """What is untrue of the reason to wait, or ''. After all faults, a unit may wait for one thing: that an operator
    stops a unit which a machine keeps running where it may not be."""
    records = world.records
    if isinstance(reason, WaitingForPeer):
        decision = records.decisions.get(reason.unit) if reason.unit in records.units else None
        waits = decision.reason if decision else None
        if isinstance(waits, WaitingForStop):
            waits = without_eviction(waits)
        if waits != reason.peer_waits:
            return f"it waits for {reason.unit}, whose reason is another one"
        name, reason = reason.unit, reason.peer_waits
    if isinstance(reason, WaitingForRoom):
        stays_on = _is_orphan(world, reason.machine, reason.unit)
        return "" if stays_on else f"{name} waits for {reason.unit}, and nothing keeps that from stopping"
    if isinstance(reason, WaitingForStop) and reason.hold is Hold.ORPHANED:
        placement = records.placements.get((reason.machine, name))
        is_kept = _is_orphan(world, reason.machine, name) and not _may_stay(world, name, reason.machine)
        if placement and placement.is_withdrawn and is_kept:
            return ""
    return f"{name} has nothing to wait for: {render(reason)}"


def _stands_in(world: World, name: str, machine: str, assigned: str) -> bool:
    """True if a superseded allocation is the only one that runs because its replacement reports why it does not; where
    it may not be the assigned one."""
    placement, state = world.records.placements.get((machine, name)), world.records.states.get((assigned, name))
    if placement is None or not placement.superseded or assigned in _running(world, name):
        return False
    return state is not None and bool(state.error) and not _may_stay(world, name, machine)


def _may_stay(world: World, name: str, machine: str) -> bool:
    """True if a unit that a machine only keeps running could be assigned to it."""
    unit = world.records.units[name]
    return unit.target is TargetState.LAUNCHED and not _why_not(world, name, unit, machine, runs_there=True)


def _is_true(world: World, rejection: Rejection) -> bool:
    """True if a rejection that names another unit is true of any machine."""
    placements = [(machine, name, placement) for (machine, name), placement in world.records.placements.items()]
    if rejection.kind is RejectionKind.CONFLICT:
        return any(name == rejection.subject and not placement.superseded for _, name, placement in placements)
    if rejection.kind is not RejectionKind.NO_PEER:
        return True
    having = {m for m, n, o in placements if n == rejection.subject and o.is_active}
    return len(having) < len(world.records.machines)


def _why_not(world: World, name: str, unit: Unit, machine: str, *, runs_there: bool = False) -> str:
    """Why a unit cannot be on a machine, by the simulator's own rules."""
    records = world.records
    record = records.machines[machine]
    asked = requirements_of(unit.content, name)
    here = {n: o for (m, n), o in records.placements.items() if m == machine and n != name and not o.superseded}
    if record.mode is not MachineMode.READY or not takes(record, name):
        return "takes it not"
    settings = records.settings.get(machine)
    reboot = records.reboots.get(machine)
    is_cordoned = (settings and settings.cordon) or (reboot and reboot.is_under_way)
    if is_cordoned and not asked.is_global and not runs_there:
        return "cordoned"
    if settings and settings.drain and settings.drain.with_globals:
        return "drained"
    own = world.machine(machine).systemd.own_names
    if name in own:
        return "its own"
    if asked.template and asked.template not in records.units and asked.template not in own:
        return "its template is missing"
    if asked.machine_id not in (None, machine):
        return "another machine"
    if asked.metadata and not _offers(world, machine, asked.metadata):
        return "metadata"
    if [peer for peer in asked.machine_of if peer not in here or not here[peer].is_active]:
        return "a peer is missing"
    others = {other: requirements_of(placement.content, other).conflicts for other, placement in here.items()}
    if any(matches_glob(pattern, other) for other in others for pattern in asked.conflicts):
        return "conflict"
    return "conflict" if any(matches_glob(p, name) for patterns in others.values() for p in patterns) else ""


def _offers(world: World, machine: str, wanted: tuple[tuple[str, tuple[str, ...]], ...]) -> bool:
    settings = world.records.settings.get(machine, MachineSettings())
    offer = {**world.records.machines[machine].metadata, **settings.metadata}
    return all(offer.get(key) in alternatives for key, alternatives in wanted)


def _judge_leftovers(world: World) -> None:
    """Nothing is left of destroyed units, but for units that a restored store does not know."""
    records = world.records
    for machine, name in (*records.placements, *records.states):
        if name not in records.units and not _is_orphan(world, machine, name):
            world.fail("Convergence", f"{name}, which is destroyed, is still known to be on {machine}")
    for name in records.decisions:
        if name not in records.units and not any(_is_orphan(world, machine, name) for machine in records.machines):
            world.fail("Convergence", f"{name}, which is destroyed, has still a decision")
    for found in world.machines.values():
        for name in (*found.systemd.read_files(), *found.systemd.processes()):
            if (found.id, name) not in records.placements and not _is_orphan(world, found.id, name):
                world.fail("Convergence", f"{name} is still on {found.name}")
