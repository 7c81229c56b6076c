"""The actions of scenarios about systemd and the programs of units: how they behave, fail and crash."""

import math

from fleetd.testing.simulated_units import Behaviour
from tests.simulation.actions import Action, verb
from tests.simulation.world import World

START_TIMEOUT_S = 90.0  # systemd's default


def _behave(world: World, action: Action, behaviour: Behaviour) -> None:
    """The unit behaves this way on every machine."""
    name = action.args[0]

    def say(behaviour: Behaviour) -> None:
        for machine in world.machines.values():
            machine.systemd.behave(name, behaviour)

    say(behaviour)
    world.begin(f"trouble of {name}", action.for_s, lambda: say(Behaviour()))


@verb
def slow_start(world: World, action: Action) -> None:
    """`slow-start UNIT SECONDS [for SECONDS]`"""
    _behave(world, action, Behaviour(start_s=float(action.args[1])))


@verb
def slow_stop(world: World, action: Action) -> None:
    """`slow-stop UNIT SECONDS [for SECONDS]`"""
    _behave(world, action, Behaviour(stop_s=float(action.args[1])))


@verb
def hang(world: World, action: Action) -> None:
    """`hang UNIT [for SECONDS]`: its starts and stops end only by systemd's timeout."""
    _behave(world, action, Behaviour(start_s=START_TIMEOUT_S, fails="timeout", stop_s=math.inf))


@verb
def refuse(world: World, action: Action) -> None:
    """`refuse UNIT [for SECONDS]`: systemd refuses to start it."""
    _behave(world, action, Behaviour(refusal="Access denied"))


@verb
def fail(world: World, action: Action) -> None:
    """`fail UNIT [for SECONDS]`: it starts and fails."""
    _behave(world, action, Behaviour(fails="exit-code"))


@verb
def own(world: World, action: Action) -> None:
    """`own MACHINE UNIT [for SECONDS]`: the administrator has installed a unit of this name there."""
    systemd, name = world.machines[action.args[0]].systemd, action.args[1]
    if name in systemd.processes() or name in systemd.read_files():
        return  # systemd alone decides what happens to a running one
    systemd.own(name, f"/etc/systemd/system/{name}")
    if action.for_s is not None:
        world.begin(f"own {name} of {action.args[0]}", action.for_s, lambda: systemd.disown(name))


@verb
def disown(world: World, action: Action) -> None:
    """`disown MACHINE UNIT`: the administrator has removed it."""
    world.machines[action.args[0]].systemd.disown(action.args[1])


@verb
def crash(world: World, action: Action) -> None:
    """`crash UNIT`: its process dies on every machine."""
    for machine, name in [allocation for allocation in world.processes if allocation[1] == action.args[0]]:
        if world.machines[machine].systemd.pid(name):
            world.machines[machine].systemd.crash(name)


@verb
def trigger(world: World, action: Action) -> None:
    """`trigger UNIT`: its socket or timer starts it on every machine that has its file."""
    for machine in world.machines.values():
        machine.systemd.trigger(action.args[0])


@verb
def lose_bus(world: World, action: Action) -> None:
    """`lose-bus MACHINE for SECONDS`: its systemd cannot be reached."""
    assert action.for_s is not None
    machine = world.machines[action.args[0]]
    machine.begin_trouble("systemd")  # a fleetd that starts now cannot observe units, and does not register
    machine.systemd.lose_bus(for_s=action.for_s)

    def mend() -> None:
        machine.systemd.find_bus()
        machine.end_trouble("systemd")

    world.begin(f"bus of {machine.name}", action.for_s, mend)


@verb
def drift(world: World, action: Action) -> None:
    """`drift MACHINE RATE`: what its systemd takes for so many seconds lasts RATE times as long."""
    machine, rate = action.args
    world.machines[machine].systemd.lease_rate = float(rate)
