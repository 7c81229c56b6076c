"""Command lines: Go-style flags, global options in any position, and the help page of a command."""

import inspect
import itertools
import math
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Literal

import click

from fleetctl import output, terminal
from fleetctl.commands import SUMMARIES
from fleetctl.errors import CommandFailed
from fleetctl.settings import GLOBAL_OPTIONS, HELP, Checking, GlobalOption, resolve_settings

ATTEMPT_S = 2.0
LEAST_ROOM = 24  # columns: less is not worth wrapping
DEFAULT_BOUND_S = 300.0
BLOCK_ATTEMPTS_HELP = (
    f"how many times {ATTEMPT_S:g} seconds to wait for the result; 0 waits for {DEFAULT_BOUND_S / 60:g} minutes"
)
# What completion knows as arguments.
Completable = Literal[
    "cluster-actions",
    "commands",
    "files",
    "folders",
    "groups",
    "locks",
    "machine-actions",
    "machines",
    "plan-actions",
    "plan-arguments",
    "rollout-actions",
    "secrets",
    "services",
    "settings",
    "templates",
    "unit-and-machine",
    "unit-files",
    "units",
]
HELP_OPTIONS = {"help_option_names": ["-h", "--help"]}


class Flag(click.Option):
    """A boolean option: `--name`, `--name=true`, `--name=false`; click's own flags take no value."""

    def __init__(self, declarations: Sequence[str], **attributes: Any) -> None:
        super().__init__(declarations, **{"type": click.BOOL, **attributes})


class TimeSpan(click.ParamType):  # type: ignore[type-arg]  # it has none at run time
    """A time span as in systemd.time(7), in seconds. `infinity` is `infinity_s`, or refused if that is None."""

    name = "time"

    def __init__(self, infinity_s: float | None = None) -> None:
        self._infinity_s = infinity_s

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        from fleetd.model.timespan import parse_time_span

        try:
            span_s = parse_time_span(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)
        if not math.isinf(span_s):
            return span_s
        if self._infinity_s is None:
            self.fail("has to be finite", param, ctx)
        return self._infinity_s


def normalise_arguments(arguments: Sequence[str], parameters: Iterable[click.Parameter], whole: bool) -> list[str]:
    """The arguments in click's form: flags with a value, long options with two dashes (`-full` is accepted).

    Stops at `--` and, unless `whole`, at the first argument that is not an option (the command).
    """
    options = {name[2:]: p for p in parameters if isinstance(p, click.Option) for name in p.opts if name[:2] == "--"}
    normalised: list[str] = []
    rest = list(arguments)
    while rest and rest[0] != "--":
        argument = rest.pop(0)
        if not argument.startswith("-") and not whole:
            return [*normalised, argument, *rest]
        name, equals, _ = argument.lstrip("-").partition("=")
        option = options.get(name) if argument.startswith("-") else None
        if option is not None:
            argument = "--" + argument.lstrip("-")
            if isinstance(option, Flag) and not equals:
                argument += "=true"
        normalised.append(argument)
        if option is not None and takes_value(option) and not equals and rest:
            normalised.append(rest.pop(0))
    return normalised + rest


def takes_value(option: click.Option) -> bool:
    """True if the option has a value, which may be the next argument."""
    return not isinstance(option, Flag) and not option.is_flag


def show_version(ctx: click.Context, _: click.Parameter, value: bool | None) -> None:
    """Print the version and exit, wherever --version is."""
    if value and not ctx.resilient_parsing:
        from fleetd import __version__

        output.result(f"fleetctl version {__version__}")
        ctx.exit()


def global_options() -> list[click.Option]:
    """Every global option, for the root and for each command; the default None means not given."""
    version = click.Option(
        ["--version", "-v"],
        is_flag=True,
        is_eager=True,
        expose_value=False,
        callback=show_version,
        help="print the version",
    )
    return [_global_option(option) for option in GLOBAL_OPTIONS] + [version]


def _global_option(option: GlobalOption) -> click.Option:
    declarations = ["--" + option.name.replace("_", "-"), option.name]
    if option.type is click.BOOL or isinstance(option.type, Checking):
        return Flag(declarations, type=option.type, default=None, help=HELP[option.name])
    return click.Option(declarations, type=option.type, default=None, help=HELP[option.name])


class Command(click.Command):
    """A command that accepts global options after its name, and gets the merged Settings as `ctx.obj`.

    `completes` says what its arguments may be. If it `takes_command`, its options end at its first argument: the rest
    belongs to another command.
    """

    def __init__(
        self,
        name: str,
        *,
        usage: str = "",
        completes: Sequence[Completable] = (),
        takes_command: bool = False,
        **attributes: Any,
    ) -> None:
        context_settings = {**HELP_OPTIONS, "allow_interspersed_args": not takes_command}
        super().__init__(name, context_settings=context_settings, **attributes)
        self.usage = usage
        self.completes = completes
        self.takes_command = takes_command
        self.own_params = tuple(self.params)
        self.params.extend(global_options())

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        return super().parse_args(ctx, normalise_arguments(args, self.get_params(ctx), whole=not self.takes_command))

    def invoke(self, ctx: click.Context) -> Any:
        """Run the callback with its own options; global options after the command override those before it."""
        given = dict(ctx.parent.params) if ctx.parent else {}
        for option in GLOBAL_OPTIONS:
            value = ctx.params.pop(option.name)
            if value is not None:
                given[option.name] = value
        ctx.obj = resolve_settings(given, os.environ)
        output.set_debugging(ctx.obj.debug)
        return super().invoke(ctx)

    @property
    def usage_line(self) -> str:
        """The command line in short."""
        return f"fleetctl {self.name} {self.usage}".rstrip()

    def get_help(self, ctx: click.Context) -> str:
        own = [option for option in self.own_params if isinstance(option, click.Option)]
        sections = [
            ("NAME", [f"{self.name} - {SUMMARIES[self.name or '']}"]),
            ("USAGE", [self.usage_line]),
            ("DESCRIPTION", inspect.cleandoc(self.help or "").splitlines()),
            ("OPTIONS", option_lines(own) or ["none"]),
            ("GLOBAL OPTIONS", global_option_lines()),
        ]
        return render_sections(sections)


def render_sections(sections: Sequence[tuple[str, Sequence[str]]]) -> str:
    """A help page: headings, their lines indented by a tab, and at a narrow terminal wrapped between words."""
    if terminal.is_watched(sys.stdout):
        room = terminal.measure(sys.stdout).columns - output.TAB
        sections = [(heading, list(wrap_lines(lines, room))) for heading, lines in sections]
    pages = ["\n".join([heading + ":", *(f"\t{line}".rstrip() for line in lines)]) for heading, lines in sections]
    return "\n\n".join(pages)


def wrap_lines(lines: Sequence[str], room: int) -> Iterator[str]:
    """The lines in at most so many columns, if they have words that fit. If one is too long, its paragraph is filled
    anew; what follows two spaces is a column, and goes on below itself."""
    if room < LEAST_ROOM or all(len(line) <= room for line in lines):
        yield from lines
        return
    import textwrap  # imported late: rarely needed

    for is_table, block in itertools.groupby(lines, lambda line: "  " in line):
        texts = list(block)
        if not is_table:
            paragraphs = " ".join(line or "\n" for line in texts).split("\n")
            texts = [part.strip() for paragraph in paragraphs for part in (paragraph, "")][:-1]
        for text in texts:
            column = len(text) - len(text[text.rfind("  ") :].lstrip()) if is_table else 0
            indent = " " * (column if column <= room - LEAST_ROOM else 4)
            yield from textwrap.wrap(
                text,
                room,
                subsequent_indent=indent if is_table else "",
                break_long_words=False,
                break_on_hyphens=False,
            ) or [""]


def option_lines(options: Iterable[click.Option]) -> list[str]:
    """A command's own options: spellings, defaults and meanings."""
    shown = [option for option in options if not option.hidden]
    spellings = [f"{', '.join(option.opts)}={_plain(option.default)}" for option in shown]
    width = max(map(len, spellings), default=0)
    return [f"{spelling:{width}}  {option.help}" for spelling, option in zip(spellings, shown, strict=True)]


def global_option_lines() -> list[str]:
    """All global options with their defaults and meanings."""
    rows = [
        (f"--{option.name.replace('_', '-')}={_plain(option.default)}", HELP[option.name]) for option in GLOBAL_OPTIONS
    ]
    rows += [("--help, -h", "show this help"), ("--version, -v", "print the version")]
    width = max(len(spelling) for spelling, _ in rows)
    note = "Each but the last two has an environment variable: FLEETCTL_ENDPOINT for --endpoint, and so on."
    return [*(f"{spelling:{width}}  {text}" for spelling, text in rows), note]


def _plain(value: Any) -> str:
    """A default as it would be given; '' for none."""
    if value is None or value == ():
        return ""
    return str(value).lower() if isinstance(value, bool) else f"{value:g}" if isinstance(value, float) else str(value)


Callback = Callable[..., int]


def new_command(name: str, usage: str = "", **attributes: Any) -> Callable[[Callback], Command]:
    """Make a function a command. It gets the Settings and the values of its options and arguments, and returns the exit
    status; its docstring is the description.
    """
    return lambda function: click.command(name, cls=Command, usage=usage, **attributes)(click.pass_obj(function))


def flag(*declarations: str, text: str) -> Callable[[Callback], Callback]:
    """A boolean option that is off unless given."""
    return click.option(*declarations, cls=Flag, default=False, help=text)


def blocking_options(function: Callback) -> Callback:
    """Adds --no-block and --block-attempts, for commands that wait."""
    function = click.option("--block-attempts", type=int, default=0, help=BLOCK_ATTEMPTS_HELP)(function)
    return flag("--no-block", text="do not wait for the result")(function)


def missing_option(function: Callback) -> Callback:
    """Adds --ignore-missing. The environment variable is for scripts that were written for CoreOS fleet."""
    return click.option(
        "--ignore-missing",
        cls=Flag,
        default=False,
        envvar="FLEETCTL_IGNORE_MISSING",
        help="ignore units that the cluster does not have; also FLEETCTL_IGNORE_MISSING=true",
    )(function)


def bound_s(block_attempts: int) -> float:
    """The longest wait for this --block-attempts."""
    return block_attempts * ATTEMPT_S if block_attempts > 0 else DEFAULT_BOUND_S


def creation_options(function: Callback) -> Callback:
    """Adds --replace, and --sign, which fails with an explanation."""
    function = click.option("--sign", cls=Flag, hidden=True, expose_value=False, callback=_refuse_signing)(function)
    return flag("--replace", text="replace the unit in the cluster by the local unit file")(function)


def _refuse_signing(_: click.Context, __: click.Parameter, value: bool | None) -> None:
    if value:
        raise CommandFailed("WARNING: --sign is deprecated: units are not signed any more, leave it out", status=2)


def unit_arguments(function: Callback) -> Callback:
    """Adds any number of unit arguments."""
    return click.argument("units", nargs=-1)(function)
