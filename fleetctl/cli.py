"""The command `fleetctl`: imports the module of a command, runs it, and turns errors into messages and exit statuses.

It imports nothing slow, so that --help is quick.
"""

import io
import keyword
import sys
from importlib import import_module

import click

from fleetctl import output
from fleetctl.command_line import (
    HELP_OPTIONS,
    Command,
    global_option_lines,
    global_options,
    normalise_arguments,
    render_sections,
)
from fleetctl.commands import FORMER, HIDDEN, SUMMARIES
from fleetctl.errors import ClientError, CommandFailed
from fleetctl.suggestion import nearest, render_hint

USAGE_STATUS = 2
INTERRUPTED_STATUS = 130


class UnknownCommand(click.UsageError):
    """A word that is not a command, nor a prefix of exactly one."""

    def __init__(self, word: str) -> None:
        self.candidates = nearest(word, [name for name in SUMMARIES if name not in HIDDEN])
        super().__init__(f'unknown command "{output.printable(word)}" for "fleetctl"')


class Root(click.Group):
    """The group of all commands, which may be abbreviated to a unique prefix."""

    def __init__(self) -> None:
        super().__init__(
            "fleetctl", invoke_without_command=True, context_settings=HELP_OPTIONS, params=list(global_options())
        )

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        return super().parse_args(ctx, normalise_arguments(args, self.get_params(ctx), whole=False))

    def get_command(self, ctx: click.Context, cmd_name: str) -> Command:
        """The command of this name or unique prefix. Raises UnknownCommand."""
        cmd_name = FORMER.get(cmd_name, cmd_name)
        names = [cmd_name] if cmd_name in SUMMARIES else [name for name in SUMMARIES if name.startswith(cmd_name)]
        if len(names) != 1:
            raise UnknownCommand(cmd_name)
        module = names[0].strip("_").replace("-", "_")
        command = import_module(f"fleetctl.commands.{module}{'_' * keyword.iskeyword(module)}").command
        assert isinstance(command, Command)
        return command

    def invoke(self, ctx: click.Context) -> int:
        status = super().invoke(ctx)
        if ctx.invoked_subcommand is None:
            output.result(self.get_help(ctx))
        return status or 0

    def get_help(self, ctx: click.Context) -> str:
        from fleetd import __version__

        width = max(map(len, SUMMARIES))
        commands = [f"{name:{width}}  {summary}" for name, summary in SUMMARIES.items() if name not in HIDDEN]
        return render_sections(
            [
                ("NAME", ["fleetctl - run systemd units on a cluster of machines"]),
                ("USAGE", ["fleetctl [global options] COMMAND [options] [arguments]"]),
                ("VERSION", [__version__]),
                (
                    "COMMANDS",
                    [*commands, 'See "fleetctl help COMMAND". Commands may be abbreviated to a unique prefix.'],
                ),
                ("GLOBAL OPTIONS", global_option_lines()),
            ]
        )


root = Root()


def run(arguments: list[str]) -> int:
    """Run one command line; returns the exit status."""
    try:
        status = root.main(arguments, "fleetctl", standalone_mode=False)
        return status if isinstance(status, int) else 0
    except CommandFailed as failure:
        if str(failure):
            output.error(str(failure))
        return failure.status
    except ClientError as error:
        output.error(f"Error: {error}")
        return 1
    except click.UsageError as error:
        report_misuse(error)
        return USAGE_STATUS
    except (click.Abort, KeyboardInterrupt):
        return INTERRUPTED_STATUS


def report_misuse(error: click.UsageError) -> None:
    """Print what is wrong with a command line: after the help page if it is an option, before the usage if it is an
    argument."""
    text = output.printable(describe_misuse(error))
    if isinstance(error, UnknownCommand):
        output.error(f"Error: {text}")
        hint = "Run 'fleetctl --help' for usage."
        candidates = error.candidates
    elif error.ctx and isinstance(error.ctx.command, Command) and _is_about_arguments(error):
        output.error(f"Error: {text}")
        hint = f"Usage: {error.ctx.command.usage_line}"
        candidates = []
    else:
        output.result(error.ctx.get_help() if error.ctx else root.get_help(click.Context(root)))
        output.error(f"Error: {text}")
        hint = ""
        candidates = list(getattr(error, "possibilities", None) or [])
    if candidates:
        output.note(render_hint(candidates))
    if hint:
        output.note(hint)


def _is_about_arguments(error: click.UsageError) -> bool:
    """True if an argument is missing, wrong or one too many."""
    if isinstance(error, click.BadParameter):
        return isinstance(error.param, click.Argument)
    return not isinstance(error, click.NoSuchOption | click.BadOptionUsage)


def describe_misuse(error: click.UsageError) -> str:
    """click's error in the words of CoreOS fleet's."""
    if isinstance(error, click.NoSuchOption):
        if error.option_name.startswith("--"):
            return f"unknown flag: {error.option_name}"
        return f"unknown shorthand flag: '{error.option_name.lstrip('-')}' in {error.option_name}"
    if isinstance(error, click.BadParameter) and error.param is not None:
        if isinstance(error.param, click.Argument):
            return f"missing argument {error.param.human_readable_name}"
        what = error.message.replace("a valid integer range", "a valid integer")
        return f'invalid argument for "{error.param.opts[0]}" flag: {what}'
    if isinstance(error, click.BadOptionUsage):
        return f"flag needs an argument: {error.option_name}"
    return error.message


def main() -> None:
    """The entry point. Output is UTF-8 in any locale, as unit files are."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")
    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
