"""The actions of scenarios about what machines take."""

from fleetd.model.confinement import Limits
from tests.simulation.actions import Action, verb
from tests.simulation.world import World


@verb
def limit(world: World, action: Action) -> None:
    """`limit MACHINE [confine] [PATTERN...]`: its fleet.conf has `confine=yes`, and these patterns for `accept=`, from
    the next start of its fleetd on, which is restarted. Without both it takes every unit."""
    name, *words = action.args
    machine = world.machines[name]
    machine.limits = Limits(tuple(word for word in words if word != "confine"), "confine" in words)
    machine.run_errand(machine.restart_fleetd())
