"""The parts of docs/ that are generated from the programs: commands, options, routes.

Each is a function in PARTS, under the name by which a page asks for it with a line `{{ name }}` (docs/conf.py).
In texts of the programs, `word` is to be typed as it stands, and {WORD} stands for a value.
"""

import argparse
import inspect
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, cast

import click

from fleetctl.cli import root
from fleetctl.command_line import Command
from fleetctl.commands import HIDDEN, SUMMARIES, list_machines, list_unit_files, list_units, settings
from fleetctl.listing import Listing
from fleetctl.settings import GLOBAL_OPTIONS, HELP
from fleetctl.ssh.openssh import HONOURED, MISSING
from fleetd.__main__ import build_parser
from fleetd.api.routes import Api
from fleetd.api.v2.openapi import render_openapi
from fleetd.config.config import ROLE_MEANING
from fleetd.config.options import OPTIONS, RETIRED, ConfigOption
from fleetd.model import fleet_options
from fleetd.registry.registry import Registry
from fleetd.store.protocol import Store

_API = render_openapi(Api(Registry(cast(Store, None))).routes)  # no route is called
LISTINGS: Mapping[str, Listing[Any]] = {
    "list-units": list_units.LISTING,
    "list-unit-files": list_unit_files.LISTING,
    "list-machines": list_machines.LISTING,
    "settings": settings.LISTING,
}
FIELDS = {
    "active": "the ActiveState of systemd: active, inactive, failed, activating, deactivating, reloading",
    "desc": "the description in the unit file",
    "dstate": "the unit's target state: inactive, loaded, launched",
    "global": "whether the unit runs on every machine; true or false",
    "hash": "the SHA-1 hash of the unit file, 40 digits",
    "ip": "the address of the machine",
    "load": "the LoadState of systemd: loaded, not-found, bad-setting, error, masked",
    "machine": "the machine's id, 32 digits; in tables its first digits, and in those of units its address too",
    "metadata": "what units can require with MachineMetadata=; in JSON an object",
    "mode": "ready, leaving, or parked",
    "cordon": "why the machine takes no new units, who cordoned it, and when (Unix time)",
    "drain": "whether the units of the machine are to leave it; in JSON who asked for that, when, and how",
    "reboot": "how far the reboot of the machine has got: queued, draining, ordered, returning or gave-up",
    "certificate": "when the machine's certificate expires (a Unix time in JSON)",
    "reboot_required": "why the machine wants to be rebooted",
    "at": "when it was set for the cluster (Unix time)",
    "by": "who set it for the cluster",
    "from": "default, fleet.conf (of the machine), or cluster: set for all machines; in tables with whom and when",
    "setting": "the setting's name",
    "value": "the setting's value, as fleet.conf has it",
    "reason": "why the unit is on no machine although it should be on one",
    "state": "the unit's current state: inactive, loaded, launched; none for global units",
    "announces": "the names and ports that the unit announces there (`Announce=`), with a `!` while its check fails; "
    "in JSON a list of objects with service, port, protocol and failing, null with -w or from an older fleetd",
    "sub": "the SubState of systemd: running, exited, listening and others",
    "target": "the machine that the unit is placed on; in tables, global for global units",
    "tmachine": "deprecated: target",
    "unit": "the unit's name",
}
_MARKED = re.compile(r"(`[^`]+`)|\{([A-Z][A-Z0-9_-]*)\}")
_SPECIAL = re.compile(r"([\\*_\[\]<>|~$#{}])")


def escape(text: str) -> str:
    """Plain text as Markdown."""
    return _SPECIAL.sub(r"\\\1", text)


def mark(text: str) -> str:
    """Text with `word` and {WORD} as Markdown, in one line a paragraph."""
    parts = []
    for paragraph in text.strip().split("\n\n"):
        line, end, marked = " ".join(paragraph.split()), 0, []
        for found in _MARKED.finditer(line):
            marked += [escape(line[end : found.start()]), found[1] or f"*{escape(found[2])}*"]
            end = found.end()
        parts.append("".join([*marked, escape(line[end:])]))
    return "\n\n".join(parts)


def entries(pairs: Iterable[tuple[str, str]]) -> str:
    """A definition list of terms (in Markdown), each with its text."""
    return "\n\n".join(f"{term}\n: {mark(text)}" for term, text in pairs)


def bold(text: str) -> str:
    """A term to be typed as it stands."""
    return f"**{escape(text)}**"


def options_of(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    """The options of a command line."""
    return [action for action in parser._actions if action.option_strings]  # argparse has no public way to list them


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."


def _default(default: object) -> str:
    if default is None or default is False or default in ("", ()):
        return ""
    if isinstance(default, float):
        default = f"{default:g}"
    return f" Default: {str(default).lower() if default is True else default}."


def _fleetctl_commands() -> str:
    return "\n\n".join(_fleetctl_command(name) for name in SUMMARIES if name not in HIDDEN)


def _fleetctl_command(name: str) -> str:
    command = root.get_command(click.Context(root), name)
    assert isinstance(command, Command)
    options = [option for option in command.own_params if isinstance(option, click.Option) and not option.hidden]
    return "\n\n".join(
        (
            f"### {escape(f'{name} {command.usage}'.strip())}",
            mark(f"{SUMMARIES[name]}.\n\n{inspect.cleandoc(command.help or '')}"),
            entries(
                (", ".join(map(bold, option.opts)), _sentence(option.help or "") + _default(option.default))
                for option in options
            ),
        )
    )


def _fleetctl_options() -> str:
    named = [
        (bold("--" + option.name.replace("_", "-")), _sentence(HELP[option.name]) + _default(option.default))
        for option in GLOBAL_OPTIONS
    ]
    return entries(
        [*named, (bold("--help, -h"), "Show help."), (bold("--version, -v"), "Print the version.")],
    )


def _fleetctl_objects() -> str:
    return "\n\n".join(
        f"### Objects of {name}\n\n" + entries((bold(field), _sentence(FIELDS[field])) for field in listing.values)
        for name, listing in LISTINGS.items()
    )


def _fleetd_options() -> str:
    return entries(
        (
            ", ".join(map(bold, action.option_strings))
            + (f" *{escape(action.metavar)}*" if isinstance(action.metavar, str) else ""),
            _sentence(action.help or ""),
        )
        for action in options_of(build_parser())
    )


def _conf_options() -> str:
    options = [(bold(option.name + "="), _conf_meaning(option)) for option in OPTIONS]
    return entries([*options, (bold("role.GROUP="), ROLE_MEANING)])


def _conf_meaning(option: ConfigOption) -> str:
    return f"{option.meaning} Default: {f'`{option.default}`' if option.default else 'empty'}."


def _conf_retired() -> str:
    return entries((bold(name + "="), _sentence(why)) for name, why in RETIRED.items())


def _unit_options() -> str:
    return entries(
        (f"`{option.name}=`*{escape(option.syntax)}*", _unit_meaning(option)) for option in fleet_options.OPTIONS
    )


def _unit_meaning(option: fleet_options.XFleetOption) -> str:
    parts = [option.meaning]
    if option.of_group:
        parts.append("Of the group: see below.")
    if option.units != "all":
        parts.append(f"For {option.units}.")
    if option.excludes:
        parts.append(f"Excludes {', '.join(f'`{name}`' for name in option.excludes)}.")
    if option.deprecated:
        parts.append(f"Deprecated spellings: {', '.join(option.deprecated)}.")
    if option.since != fleet_options.COREOS:
        parts.append(f"Since version {option.since} of fleet; CoreOS fleet does not have it.")
    if not option.has_effect:
        parts.append("It is checked, and has no effect yet.")
    return " ".join(parts)


def _api_routes() -> str:
    rows = [
        f"| `{method.upper()} {path}` | {escape(operation['summary'])} |"
        for path, operations in _API["paths"].items()
        for method, operation in operations.items()
    ]
    return "\n".join(["| request | what it does |", "|---|---|", *rows])


def _api_types() -> str:
    schemas = _API["components"]["schemas"]
    return "\n\n".join(_api_type(name, schemas[name]) for name in sorted(schemas))


def _api_type(name: str, described: Mapping[str, Any]) -> str:
    if "properties" not in described:
        return f"### {name}\n\n`{_type_name(described)}`"
    required = described.get("required", ())
    fields = [
        f"| `{field}`{' (required)' if field in required else ''} | `{_type_name(value)}` |"
        for field, value in described["properties"].items()
    ]
    text = mark(described["description"]) if "description" in described else ""
    return "\n\n".join(filter(None, (f"### {name}", text, "\n".join(["| field | type |", "|---|---|", *fields]))))


def _type_name(described: Mapping[str, Any]) -> str:
    if "$ref" in described:
        return str(described["$ref"].rpartition("/")[2])
    if "anyOf" in described:
        return " or ".join(_type_name(one) for one in described["anyOf"])
    if described.get("type") == "array":
        return f"{_type_name(described['items'])}[]"
    if isinstance(described.get("additionalProperties"), Mapping):
        return f"object of {_type_name(described['additionalProperties'])}"
    return str(described.get("type", "any"))


PARTS: Mapping[str, Callable[[], str]] = {
    "fleetctl-commands": _fleetctl_commands,
    "fleetctl-options": _fleetctl_options,
    "fleetctl-objects": _fleetctl_objects,
    "ssh-honoured": lambda: ", ".join(HONOURED.split()),
    "ssh-missing": lambda: ", ".join(MISSING.split()),
    "fleetd-options": _fleetd_options,
    "conf-options": _conf_options,
    "conf-retired": _conf_retired,
    "unit-options": _unit_options,
    "api-routes": _api_routes,
    "api-types": _api_types,
}


def fill_in(text: str) -> str:
    """The text with each `{{ name }}` replaced by that part. Raises KeyError for an unknown name."""
    return re.sub(r"\{\{ ([a-z-]+) \}\}", lambda found: PARTS[found[1]](), text)
