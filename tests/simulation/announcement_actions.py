"""The actions of scenarios about units that announce themselves."""

from tests.simulation.actions import Action, verb
from tests.simulation.world import World


@verb
def fail_checks(world: World, action: Action) -> None:
    """`fail-checks MACHINE [hang] [for SECONDS]`: all checks of its units fail, or hang."""
    name, *words = action.args
    machine = world.machines[name]
    machine.failing_check = None if "hang" in words else "connection refused"

    def mend() -> None:
        machine.failing_check = ""

    world.begin(f"failure of the checks on {name}", action.for_s, mend)


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
