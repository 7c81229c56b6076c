"""Commands that are groups of actions, as `machine add`: the first argument says which, and each has options of its
own."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import click
import msgspec

from fleetctl import output
from fleetctl.errors import CommandFailed
from fleetctl.settings import Settings
from fleetctl.suggestion import nearest, render_hint


class Action(msgspec.Struct, frozen=True):
    """What an action does (`meaning`, for completion), the names of the parameters that are its own, and what runs it:
    with the settings, the arguments after the action's name and the values of these parameters. It returns the exit
    status."""

    meaning: str
    run: Callable[..., int]
    options: tuple[str, ...] = ()


def run_action(
    command: str, actions: Mapping[str, Action], settings: Settings, words: Sequence[str], options: Mapping[str, Any]
) -> int:
    """Run the action that the first word names. Raises CommandFailed (status 2) for one that does not exist, and for
    options of another one."""
    listed = ", ".join(actions)
    if not words:
        raise CommandFailed(f"fleetctl {command} needs one of: {listed}", status=2)
    name, *rest = words
    if name not in actions:
        hint = render_hint(nearest(name, actions)).rstrip()
        raise CommandFailed(f"{output.printable(name)} is none of: {listed}{hint}", status=2)
    action = actions[name]
    context = click.get_current_context()
    for option in options:
        is_given = context.get_parameter_source(option) is click.core.ParameterSource.COMMANDLINE
        if option not in action.options and is_given:
            owners = " and ".join(f"{command} {other}" for other, each in actions.items() if option in each.options)
            spelling = next(each.opts[0] for each in context.command.params if each.name == option)
            raise CommandFailed(f"{spelling} is for {owners}, not for {command} {name}", status=2)
    return action.run(settings, rest, **{option: options[option] for option in action.options})
