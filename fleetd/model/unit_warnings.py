"""Warnings about the content of a unit that the cluster accepts: options without the effect they seem to have."""

from collections.abc import Sequence

from fleetd.model.announce_options import has_unknown_health
from fleetd.model.constraints import (
    malformed_metadata,
    options_without_effect,
    requirement_values,
    unknown_requirements,
)
from fleetd.model.fleet_options import FLEET_SECTION
from fleetd.model.group import UpdateAction, parse_group_options
from fleetd.model.install import INSTALL_SECTION, InvalidInstall, install_values, parse_install
from fleetd.model.names import is_reserved, parse_name, template_of, visible
from fleetd.model.quadlet.source import without_sources
from fleetd.model.secret_options import advise_on_secrets
from fleetd.model.unit_option import UnitOption

_LIKENESS = 0.8
_SYSTEMD_SECTIONS = frozenset(
    ("Unit", "Install", "Service", "Socket", "Timer", "Path", "Mount", "Automount", "Swap", "Slice", "Scope")
)


def advise(name: str, options: Sequence[UnitOption]) -> tuple[str, ...]:
    """Warnings, as sentences about the unit: what has no effect in fleet, or another effect than in systemd."""
    options = without_sources(options)
    advice = [
        f'unrecognized requirement in [X-Fleet] section: "{visible(option)}"'
        for option in unknown_requirements(options)
    ]
    advice += [
        f'MachineMetadata "{visible(item)}" is not of the form key=value, and restricts nothing'
        for item in malformed_metadata(options)
    ]
    advice += [f"{option}= in [X-Fleet] has no effect in this version" for option in options_without_effect(options)]
    if "Instances" in requirement_values(options) and not template_of(name):
        advice.append(f"Instances= has no effect: {name} is not a template, and has no instances")
    if has_unknown_health(options):
        advice.append(
            "Check=container passes only if the image has a health check of its own: if not, add HealthCmd= to "
            "[Container]"
        )
    advice += _advise_on_reload(name, options)
    advice += advise_on_secrets(options)
    sections = dict.fromkeys(option.section for option in options)
    advice += [
        f"[{visible(section)}] is not [{FLEET_SECTION}], and is not read by fleet"
        for section in sections
        if section != FLEET_SECTION and section not in _SYSTEMD_SECTIONS and _resembles_ours(section)
    ]
    if INSTALL_SECTION in sections:
        advice += _advise_on_install(name, options)
    return tuple(advice)


def _advise_on_reload(name: str, options: Sequence[UnitOption]) -> list[str]:
    """What becomes of UpdateAction=reload in a service that systemd cannot reload."""
    service = [option for option in options if option.section == "Service"]
    can_reload = any(
        option.name == "ExecReload" or (option.name, option.value) == ("Type", "notify-reload") for option in service
    )
    if can_reload or not name.endswith(".service") or parse_group_options(options).action is not UpdateAction.RELOAD:
        return []
    return [f"UpdateAction=reload runs a daemon-reload alone: {name} has no ExecReload=, nor Type=notify-reload"]


def _resembles_ours(section: str) -> bool:
    import difflib  # imported late: only an unusual section needs it

    ours, other = (_letters(text) for text in (FLEET_SECTION, section))
    return other in (ours, "fleet") or difflib.SequenceMatcher(None, ours, other).ratio() >= _LIKENESS


def _letters(text: str) -> str:
    return "".join(filter(str.isalnum, text)).casefold()


def _advise_on_install(name: str, options: Sequence[UnitOption]) -> list[str]:
    advice = [
        f"[Install] Also={visible(word)} has no effect in fleet: each unit's own [Install] counts, where that unit is"
        for word in install_values(options, "Also")
    ]
    advice += [
        f"[Install] DefaultInstance={visible(word)} has no effect in fleet: templates are on no machine"
        for word in install_values(options, "DefaultInstance")
    ]
    try:
        install = parse_install(options, parse_name(name))
    except InvalidInstall:
        return advice  # it is refused for that
    for option, owner in install.dependents:
        if is_reserved(owner):
            advice.append(
                f"[Install] {option}={owner} has no effect in fleet: {owner} is of what runs the machine itself"
            )
        elif option != "WantedBy":
            advice.append(
                f"[Install] {option}={owner} has an effect on machines alone where {owner} is a unit of fleet's, too"
            )
    return advice
