"""The actions of scenarios on a simulated cluster: operations and faults.

A fault with a duration ends by itself, any other when all faults end. faults.py draws actions at random;
systemd_actions.py has those about systemd and programs, reboot_actions.py those about reboots, expectations.py has what
a scenario may expect.
"""

from collections.abc import Awaitable, Callable

import msgspec

from fleetd.model.unit import TargetState
from fleetd.registry.records import LEADER, MACHINES
from fleetd.store.protocol import Put
from tests.simulation.machine import BOOT_S, SimulatedMachine
from tests.simulation.world import World


class Action(msgspec.Struct, frozen=True):
    """One line of a scenario: the time (seconds since the beginning), the verb, its arguments, the duration."""

    at_s: float
    verb: str
    args: tuple[str, ...] = ()
    for_s: float | None = None

    def __str__(self) -> str:
        duration = () if self.for_s is None else ("for", f"{self.for_s:g}")
        return " ".join((f"{self.at_s:g}", self.verb, *self.args, *duration))


Handler = Callable[[World, Action], Awaitable[None] | None]
VERBS: dict[str, Handler] = {}


def verb(handler: Handler) -> Handler:
    """The verb of a scenario is the function's name, with dashes."""
    VERBS[handler.__name__.rstrip("_").replace("_", "-")] = handler
    return handler


async def perform(world: World, action: Action) -> None:
    """Run the action. Operations, and what takes a machine long, continue in the background."""
    world.say(f"DO {action}")
    doing = VERBS[action.verb](world, action)
    if doing is not None:
        await doing


def _machine(world: World, action: Action) -> SimulatedMachine:
    return world.machines[action.args[0]]


# Operators.


@verb
def submit(world: World, action: Action) -> None:
    """`submit UNIT [EDITION]`"""
    _hand_in(world, action, TargetState.INACTIVE)


@verb
def load(world: World, action: Action) -> None:
    """`load UNIT [EDITION]`"""
    _hand_in(world, action, TargetState.LOADED)


@verb
def start(world: World, action: Action) -> None:
    """`start UNIT [EDITION]`: another edition replaces the unit."""
    _hand_in(world, action, TargetState.LAUNCHED)


def _hand_in(world: World, action: Action, target: TargetState) -> None:
    name, *edition = action.args
    world.spawn(world.operators.submit(name, target, int(edition[0]) if edition else 1))


@verb
def stop(world: World, action: Action) -> None:
    """`stop UNIT`: it stays loaded."""
    world.spawn(world.operators.set_target(action.args[0], TargetState.LOADED))


@verb
def unload(world: World, action: Action) -> None:
    """`unload UNIT`"""
    world.spawn(world.operators.set_target(action.args[0], TargetState.INACTIVE))


@verb
def launch(world: World, action: Action) -> None:
    """`launch UNIT`: an existing one, whatever its edition."""
    world.spawn(world.operators.set_target(action.args[0], TargetState.LAUNCHED))


@verb
def restart_unit(world: World, action: Action) -> None:
    """`restart-unit UNIT`: all running allocations of it"""
    world.spawn(world.operators.restart(action.args[0]))


@verb
def edit(world: World, action: Action) -> None:
    """`edit UNIT EDITION`: its drop-in; the first edition has none."""
    name, edition = action.args
    world.spawn(world.operators.edit(name, int(edition)))


@verb
def apply(world: World, action: Action) -> None:
    """`apply EDITION UNIT...`: together, one after the other where they are of one group."""
    edition, *names = action.args
    world.spawn(world.operators.apply(names, int(edition)))


@verb
def roll(world: World, action: Action) -> None:
    """`roll EDITION`: of the template of roll@1, roll@2 and roll@3, which are changed one after the other. Edition 4 is
    refused by systemd, and those from 5 on announce themselves."""
    world.spawn(world.operators.roll(int(action.args[0])))


@verb
def command_rollout(world: World, action: Action) -> None:
    """`command-rollout pause|resume|restart|undo`: of that group"""
    world.spawn(world.operators.command_rollout(action.args[0]))


@verb
def destroy(world: World, action: Action) -> None:
    """`destroy UNIT`"""
    world.spawn(world.operators.destroy(action.args[0]))


@verb
def metadata(world: World, action: Action) -> None:
    """`metadata MACHINE KEY [VALUE]`: without a value the key is hidden."""
    _, key, *value = action.args
    world.spawn(world.operators.set_metadata(_machine(world, action).id, key, value[0] if value else ""))


@verb
def cordon(world: World, action: Action) -> None:
    """`cordon MACHINE [WHY] [for SECONDS]`"""
    machine, why = _machine(world, action), " ".join(action.args[1:])
    world.spawn(world.operators.cordon(machine.id, why))
    world.begin(f"cordon of {machine.name}", action.for_s, lambda: world.operators.uncordon(machine.id))


@verb
def drain(world: World, action: Action) -> None:
    """`drain MACHINE [globals] [force] [SECONDS] [for SECONDS]`: SECONDS is the deadline. Without `for` it is drained
    until somebody uncordons it, even after the end of all faults."""
    machine, words = _machine(world, action), action.args[1:]
    within_s = sum(float(word) for word in words if word not in ("globals", "force"))
    world.spawn(
        world.operators.drain(machine.id, with_globals="globals" in words, force="force" in words, within_s=within_s)
    )
    if action.for_s is not None:
        world.begin(f"cordon of {machine.name}", action.for_s, lambda: world.operators.uncordon(machine.id))


@verb
def move(world: World, action: Action) -> None:
    """`move MACHINE UNIT [force]`"""
    machine, name, *words = action.args
    world.spawn(world.operators.move(world.machines[machine].id, name, force="force" in words))


@verb
def plan_drain(world: World, action: Action) -> None:
    """`plan-drain MACHINE [globals] [force]`: what `expect all is as planned` expects of a drain."""
    machine, words = _machine(world, action), action.args[1:]
    world.spawn(world.operators.plan_drain(machine.id, with_globals="globals" in words, force="force" in words))


@verb
def plan_lose(world: World, action: Action) -> None:
    """`plan-lose MACHINE...`: what `expect all is as planned` expects if they lose power."""
    world.spawn(world.operators.plan_loss([world.machines[name].id for name in action.args]))


@verb
def rebalance(world: World, action: Action) -> None:
    """`rebalance [MOST]`: move units to machines with fewer of them, one after the other."""
    world.spawn(world.operators.rebalance(int(action.args[0]) if action.args else 10))


@verb
def uncordon(world: World, action: Action) -> None:
    """`uncordon MACHINE`"""
    world.spawn(world.operators.uncordon(_machine(world, action).id))


@verb
def setting(world: World, action: Action) -> None:
    """`setting NAME [VALUE]`: of the cluster; without a value it is unset."""
    name, *value = action.args
    world.spawn(world.operators.change_setting(name, value[0] if value else ""))


@verb
def forget(world: World, action: Action) -> None:
    """`forget MACHINE`: if it is parked."""
    world.spawn(world.operators.forget_machine(_machine(world, action).id))


@verb
def remove(world: World, action: Action) -> None:
    """`remove MACHINE [force]`: for good, if it does not run; with units on it by force alone."""
    world.spawn(world.operators.remove_machine(_machine(world, action).id, force=action.args[1:] == ("force",)))


# Machines.


@verb
async def power_cut(world: World, action: Action) -> None:
    """`power-cut MACHINE [for SECONDS]`"""
    machine = _machine(world, action)
    await machine.power_cut()
    world.begin(f"power of {machine.name}", action.for_s, machine.boot)


@verb
async def reboot(world: World, action: Action) -> None:
    """`reboot MACHINE`: a power cut for as long as a boot takes."""
    await power_cut(world, msgspec.structs.replace(action, for_s=BOOT_S))  # type: ignore[misc]


@verb
def shutdown(world: World, action: Action) -> None:
    """`shutdown MACHINE [for SECONDS]`: cleanly, as with `systemctl poweroff`."""
    machine = _machine(world, action)
    machine.run_errand(machine.shut_down())
    world.begin(f"power of {machine.name}", action.for_s, machine.boot)


@verb
def pause(world: World, action: Action) -> None:
    """`pause MACHINE [for SECONDS]`: its fleetd gets no processor time, and does not notice."""
    machine = _machine(world, action)
    machine.pause()
    world.begin(f"pause of {machine.name}", action.for_s, machine.wake)


@verb
def clock(world: World, action: Action) -> None:
    """`clock MACHINE SECONDS`: its wall clock is off by this much."""
    _machine(world, action).clock_offset_s = float(action.args[1])
    world.had_wrong_clocks = True


@verb
async def clone(world: World, action: Action) -> None:
    """`clone MACHINE NAME [for SECONDS]`: another machine with the same id is switched on."""
    machine = world.add_clone(action.args[1], action.args[0])
    await machine.boot()
    world.begin(f"clone {machine.name}", action.for_s, machine.power_cut)


# fleetd.


@verb
def kill(world: World, action: Action) -> None:
    """`kill MACHINE`: its fleetd; systemd starts it again."""
    machine = _machine(world, action)
    machine.run_errand(machine.restart_fleetd(kill=True))


@verb
def restart(world: World, action: Action) -> None:
    """`restart MACHINE`: its fleetd."""
    machine = _machine(world, action)
    machine.run_errand(machine.restart_fleetd())


@verb
def park(world: World, action: Action) -> None:
    """`park MACHINE [for SECONDS]`: systemctl stop fleet."""
    machine = _machine(world, action)
    machine.run_errand(machine.stop_fleetd())
    world.begin(f"stop of fleetd on {machine.name}", action.for_s, machine.start_fleetd)


@verb
def leave(world: World, action: Action) -> None:
    """`leave MACHINE [for SECONDS]`: then its fleetd is restarted, and it joins again."""
    machine = _machine(world, action)
    machine.run_errand(machine.leave())
    world.begin(f"leaving of {machine.name}", action.for_s, machine.rejoin)


# The network.


def _degrade(world: World, action: Action) -> None:
    machine = _machine(world, action)
    machine.begin_trouble("network")

    def mend() -> None:
        machine.link.mend()
        machine.end_trouble("network")

    world.begin(f"network of {machine.name}", action.for_s, mend)


@verb
def cut(world: World, action: Action) -> None:
    """`cut MACHINE [for SECONDS]`: from the store, in both directions."""
    link = _machine(world, action).link
    link.loses_requests = link.loses_answers = 1.0
    _degrade(world, action)


@verb
def unheard(world: World, action: Action) -> None:
    """`unheard MACHINE [for SECONDS]`: its requests do not reach the store; its watches work."""
    _machine(world, action).link.loses_requests = 1.0
    _degrade(world, action)


@verb
def unanswered(world: World, action: Action) -> None:
    """`unanswered MACHINE [for SECONDS]`: its requests are carried out, but not answered."""
    _machine(world, action).link.loses_answers = 1.0
    _degrade(world, action)


@verb
def lossy(world: World, action: Action) -> None:
    """`lossy MACHINE SHARE [for SECONDS]`: this share of requests and of answers is lost."""
    machine, share = _machine(world, action), float(action.args[1])
    machine.link.loses_requests = machine.link.loses_answers = share
    _degrade(world, action)


@verb
def slow(world: World, action: Action) -> None:
    """`slow MACHINE SECONDS [for SECONDS]`: a message takes up to this long, and may overtake others."""
    machine = _machine(world, action)
    machine.link.latency_s = float(action.args[1])
    _degrade(world, action)


@verb
def deaf(world: World, action: Action) -> None:
    """`deaf MACHINE [for SECONDS]`: its watches report nothing. It learns late that its lease is gone."""
    _machine(world, action).link.hears.clear()
    _degrade(world, action)


# The store.


@verb
async def store_crash(world: World, action: Action) -> None:
    """`store-crash [for SECONDS]`"""
    await world.server.crash()
    world.begin("crash of the store", action.for_s, world.server.start)


@verb
def store_freeze(world: World, action: Action) -> None:
    """`store-freeze [for SECONDS]`: it does not answer, and drops leases meanwhile."""
    world.server.freeze()
    world.begin("frost of the store", action.for_s, world.server.thaw)


@verb
async def store_compact(world: World, action: Action) -> None:
    """`store-compact`: all history is forgotten."""
    if world.server.is_up:
        await world.server.store.compact(world.server.store.latest_revision)


@verb
async def store_write(world: World, action: Action) -> None:
    """`store-write COUNT`: another user of the store writes this often."""
    for number in range(int(action.args[0]) if world.server.is_up else 0):
        await world.server.store.transact([], [Put("/elsewhere", str(number).encode())])


@verb
async def expire(world: World, action: Action) -> None:
    """`expire COUNT`: this many leases end early, the newest first."""
    if world.server.is_up:
        await world.server.expire(tuple(reversed(world.server.store.leases))[: int(action.args[0])])


@verb
async def revoke(world: World, action: Action) -> None:
    """`revoke MACHINE|leader …`: their leases end early."""
    keys = [(LEADER,) if name == "leader" else (MACHINES, world.machines[name].id) for name in action.args]
    items = [world.records.item(*key) for key in keys]
    await world.server.expire(tuple(item.lease for item in items if item))


@verb
def snapshot(world: World, action: Action) -> None:
    """`snapshot`: of the store's data."""
    if world.server.is_up:
        world.server.take_snapshot()


@verb
async def restore(world: World, action: Action) -> None:
    """`restore`: the store goes back to its last snapshot, if there is one."""
    if world.server.has_snapshot:
        await world.restore_store()
