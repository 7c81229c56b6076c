"""The actions of scenarios about secrets."""

import base64

from tests.simulation.actions import Action, verb
from tests.simulation.world import World


@verb
def set_secret(world: World, action: Action) -> None:
    """`set-secret NAME VALUE`"""
    name, value = action.args
    world.spawn(world.operators.change_secret(name, base64.b64encode(value.encode()).decode()))


@verb
def remove_secret(world: World, action: Action) -> None:
    """`remove-secret NAME`: by force."""
    world.spawn(world.operators.change_secret(action.args[0], ""))
