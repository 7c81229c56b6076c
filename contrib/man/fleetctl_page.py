"""fleetctl(1), from the help of its commands and options."""

import inspect
from typing import Any

import click

from contrib.man import differences, roff
from fleetctl.cli import root
from fleetctl.commands import HIDDEN, SUMMARIES, list_machines, list_unit_files, list_units
from fleetctl.listing import Listing
from fleetctl.parsing import Command
from fleetctl.settings import ENVIRONMENT_PREFIX, GLOBAL_OPTIONS, HELP
from fleetctl.ssh.keywords import Use, keywords_of

LISTINGS: dict[str, Listing[Any]] = {
    "list-units": list_units.LISTING,
    "list-unit-files": list_unit_files.LISTING,
    "list-machines": list_machines.LISTING,
}
FIELDS = {
    "active": "what systemd says that the unit does: active, inactive, failed, activating, deactivating, reloading",
    "desc": "the description in the unit file",
    "dstate": "what is wanted of the unit: inactive, loaded, launched",
    "global": "whether the unit is for every machine; true or false",
    "hash": "the hash of the unit file, 40 digits",
    "ip": "the address of the machine",
    "load": "whether systemd knows the unit: loaded, not-found, bad-setting, error, masked",
    "machine": "the machine's id, 32 digits; in tables its beginning, and in those of units its address too",
    "metadata": "what units can ask for with MachineMetadata=; in JSON an object",
    "mode": "ready, leaving, or parked",
    "reason": "why the unit is on no machine though it should be on one",
    "state": "what the unit has come to: inactive, loaded, launched; none for global units",
    "sub": "the same as active, in the words of the unit's type: running, exited, listening, …",
    "target": "the machine that the unit is placed on; global in tables for global units",
    "tmachine": "deprecated: target",
    "unit": "the unit's name",
}
_DESCRIPTION = """
fleetctl hands systemd unit files to a cluster of machines that run fleetd(8), and shows how they fare. What the unit
files may hold is said in fleet.unit(5).

A command may be shortened to any beginning that no other command has. Global options may stand before or after the
command, its own options only after it. `--` ends options.
"""
_UNITS = """
A {UNIT} is named by the last part of a path; `.service` is added where there is no type. `submit`, `load` and `start`
look for a unit that the cluster does not have in the file of that path, and for an instance (`name@instance.service`)
in the template (`name@.service`) in the cluster, then beside that path. A unit that the cluster has stays as it is; a
warning says so where the file differs, and `--replace` replaces it. That holds for one that somebody else has created
only just now, too.

A unit that runs while it is replaced is restarted where it is, as `systemctl restart` does, with what needs it. Its
process is kept where systemd need only read the file: where [X-Fleet], [Install], comments, `Description=`, processor,
memory, task and IO limits, `Restart=` and the like, timeouts, how it is killed, `ExecStop=`, `ExecStopPost=`,
`ExecReload=`, `StartLimit…=` or `OnFailure=` changed, and nothing else.

A {UNIT} may be a pattern, as systemctl takes them (`*`, `?`, `[…]`, in quotes, so that the shell leaves it alone): it
stands for the units of the cluster whose whole name matches. Where a name or a pattern finds nothing to do, that is
said, the others are done, and the command ends with 1; `--ignore-missing` passes over it, and so does
`FLEETCTL_IGNORE_MISSING=true`, for scripts that were written for CoreOS fleet.

The units of a command are sent to the cluster together. One that is refused is named, and hinders no other.
"""
_OUTPUT = """
Results go to standard output, everything else to standard error. In a pipe, the columns of a list are parted by tabs.
At a terminal they are parted by blanks and cut to its width (but for `--full`), failed units are red, and while a
command waits, a line for each unit says what it waits for. `NO_COLOR` set, or `TERM=dumb`, leaves out colours. What a
terminal would obey is escaped in unit files and in what machines say of units.

With `--output=json` a list is an array of objects, with one object for each line of the table. It holds
the fields below, or those of `--fields`. Ids and hashes are whole, and a value that is not known is null. Fields may be
added in later versions; none changes its meaning.
"""
_EXIT = (
    ("0", "What was asked for has been done, and waited for unless `--no-block` was given."),
    ("1", "It failed, or did not happen in time; standard error says why."),
    ("2", "The command line is malformed."),
    ("130", "Interrupted. What was sent to the cluster is not taken back."),
    ("other", "Of `ssh`, `status` and `journal`: that of the program they run there; 255 where SSH failed."),
)
_FILES = (
    ("/run/fleet.sock", "The API of the daemon on this machine. Root and the group fleet may use it."),
    ("~/.fleetctl/known_hosts", "Host keys that were accepted."),
    (
        "~/.ssh/config",
        "As OpenSSH itself reads it, which is asked with `ssh -G`: Host, Match, Include and all else that chooses. Of "
        f"what it says count {', '.join(keywords_of(Use.HONOURED))}. Not followed, and named once where set: "
        f"{', '.join(keywords_of(Use.MISSING))}. Known hosts, how keys are checked, the forwarding of the agent and "
        "the time to connect are fleetctl's own options. Where no ssh is installed, no configuration is read.",
    ),
)
_EXAMPLES = """
fleetctl start hello.service            # submit, place, start, and wait until it is active
fleetctl start web@{1..3}.service       # three instances of web@.service
fleetctl stop 'web@*'                   # every instance that the cluster has
fleetctl list-units --output=json | jq -r '.[] | select(.active == "failed").unit'
fleetctl --tunnel bastion.example.com list-machines
"""


def page() -> roff.Page:
    """The page fleetctl(1)."""
    body = (
        roff.section(
            "Synopsis",
            ".PP\n\\fBfleetctl\\fR [\\fIglobal options\\fR] \\fICOMMAND\\fR [\\fIoptions\\fR] [\\fIarguments\\fR]",
        ),
        roff.section("Description", roff.paragraph(_DESCRIPTION)),
        roff.section("Commands", *(_command(name) for name in SUMMARIES if name not in HIDDEN)),
        roff.section("Units", roff.paragraph(_UNITS)),
        _global_options(),
        roff.section("Output", roff.paragraph(_OUTPUT), *(_json(name) for name in LISTINGS)),
        roff.section("Exit status", roff.entries((roff.bold(status), text) for status, text in _EXIT)),
        roff.section("Files", roff.entries((f"\\fI{roff.escape(path)}\\fR", text) for path, text in _FILES)),
        roff.section("Examples", roff.example(_EXAMPLES)),
        differences.section(differences.FLEETCTL),
        roff.see_also(["fleetd(8)", "fleet.conf(5)", "fleet.unit(5)", "systemctl(1)", "systemd.unit(5)"]),
    )
    return roff.Page("fleetctl", 1, "hand systemd units to a cluster, and see how they fare", body)


def _command(name: str) -> str:
    command = root.get_command(click.Context(root), name)
    assert isinstance(command, Command)
    options = [option for option in command.own_params if isinstance(option, click.Option) and not option.hidden]
    return roff.subsection(
        f"{name} {command.usage}".strip(),
        roff.paragraph(f"{SUMMARIES[name]}.\n\n{inspect.cleandoc(command.help or '')}"),
        roff.entries(
            (_spell(option), f"{_sentence(option.help or '')}{_default(option.default)}") for option in options
        ),
    )


def _spell(option: click.Option) -> str:
    return ", ".join(roff.bold(spelling) for spelling in option.opts)


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."


def _default(default: object) -> str:
    """What stands behind an option that has a default worth saying."""
    if default is None or default is False or default == "":
        return ""
    if isinstance(default, float):
        default = f"{default:g}"
    return f" Default: {str(default).lower() if default is True else default}."


def _global_options() -> str:
    intro = (
        "Each has an environment variable, which counts where the option is not given: "
        f"`{ENVIRONMENT_PREFIX}ENDPOINT` for `--endpoint`, and so on. One that is empty counts as unset."
    )
    named = [
        (roff.bold("--" + option.name.replace("_", "-")), f"{_sentence(HELP[option.name])}{_default(option.default)}")
        for option in GLOBAL_OPTIONS
    ]
    plain = [(roff.bold("--help, -h"), "Show help."), (roff.bold("--version, -v"), "Print the version.")]
    return roff.section("Global options", roff.paragraph(intro), roff.entries([*named, *plain]))


def _json(name: str) -> str:
    values = LISTINGS[name].values
    return roff.subsection(
        f"Objects of {name}", roff.entries((roff.bold(field), _sentence(FIELDS[field])) for field in values)
    )
