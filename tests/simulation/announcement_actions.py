"""The actions of scenarios about units that announce themselves."""

import asyncio

from tests.simulation.actions import Action, verb
from tests.simulation.world import World


@verb
def fail_checks(world: World, action: Action) -> None:
    """`fail-checks MACHINE [hang] [for SECONDS]`: all checks of its units fail, or hang."""
    name, *words = action.args
    machine = world.machines[name]
    world.end_fault(f"failure of the checks on {name}")
    machine.failing_check = None if "hang" in words else "connection refused"

    def mend() -> None:
        machine.failing_check = ""

    world.begin(f"failure of the checks on {name}", action.for_s, mend)


@verb
def flap_checks(world: World, action: Action) -> None:
    """`flap-checks MACHINE SECONDS [for SECONDS]`: all checks of its units fail, and pass, for so long in turn."""
    machine, period_s = world.machines[action.args[0]], float(action.args[1])
    timer: asyncio.TimerHandle | None = None

    def turn() -> None:
        nonlocal timer
        machine.failing_check = "" if machine.failing_check else "connection refused"
        timer = asyncio.get_running_loop().call_later(period_s, turn)

    def mend() -> None:
        assert timer is not None
        timer.cancel()
        machine.failing_check = ""

    world.end_fault(f"failure of the checks on {machine.name}")
    turn()
    world.begin(f"failure of the checks on {machine.name}", action.for_s, mend)


@verb
def expect_announced(world: World, action: Action) -> None:
    """`expect-announced UNIT NUMBER`: of the unit, on so many machines."""
    unit, number = action.args
    found = sorted(
        machine
        for (_, machine, name), record in world.records.services.items()
        if name == unit and record.announcements()
    )
    if len(found) != int(number):
        world.fail("Expectation", f"{unit} is announced on {', '.join(found) or 'no machine'}")


@verb
def expect_name(world: World, action: Action) -> None:
    """`expect-name NAME NUMBER`: it is announced on so many machines."""
    name, number = action.args
    found = sorted(
        machine for (service, machine, _), each in world.records.services.items() if service == name and each.ports
    )
    if len(found) != int(number):
        world.fail("Expectation", f"the name {name} is announced on {', '.join(found) or 'no machine'}")
