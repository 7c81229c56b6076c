"""impact: what a changed content asks of a unit that runs: nothing, that systemd reads it, or a restart.

Pure. Tried on a real systemd, option by option (tests/cluster/test_content_change.py): after a daemon-reload, with its
process kept, `systemctl show` says of a unit with another value of an option of class RELOAD what it says after a
fresh start. What is not known to be so is a restart. The options of drop-ins follow those of the unit file, as systemd
reads them, so that an option counts as changed as well if only a reset (`Name=`) before it is new.
"""

from collections.abc import Iterable
from enum import StrEnum

from fleetd.model.content import Content
from fleetd.model.fleet_options import FLEET_SECTION
from fleetd.model.group import UpdateAction
from fleetd.model.unit_option import UnitOption
from fleetd.model.unitfile import UnitFileError


class Impact(StrEnum):
    """What a change requires of systemd. NONE: nothing; systemd ignores it, or only shows it after the next
    daemon-reload."""

    NONE = "none"
    RELOAD = "reload"
    RESTART = "restart"


# systemd ignores sections and options with this prefix (systemd.unit(5)).
_IGNORED = "X-"
_NAMED = 5  # options named in a message


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


# The unit has to stop for another lock, and begins with it; and a file under a name that it has is another one.
_RESTARTING = ((FLEET_SECTION, "Lock"), (FLEET_SECTION, "Fetch"))

_WORDLESS = {"Unit": frozenset(("Description", "Documentation"))}

_UNIT = _names("OnFailure OnFailureJobMode StartLimitIntervalSec StartLimitInterval StartLimitBurst StartLimitAction")
_RESOURCES = _names("""
    CPUAccounting CPUWeight StartupCPUWeight CPUQuota CPUQuotaPeriodSec
    MemoryAccounting MemoryMin MemoryLow MemoryHigh MemoryMax MemorySwapMax
    TasksAccounting TasksMax
    IOAccounting IOWeight StartupIOWeight
    """)
_ENDING = _names("TimeoutSec TimeoutStopSec KillMode KillSignal SendSIGHUP SendSIGKILL FinalKillSignal")
_SERVICE = _names("""
    Restart RestartSec RestartPreventExitStatus RestartForceExitStatus RestartKillSignal
    TimeoutStartSec TimeoutAbortSec TimeoutStartFailureMode TimeoutStopFailureMode
    ExecStop ExecStopPost ExecReload
    """)
RELOADED = {  # by section
    "Unit": _UNIT,
    "Service": _RESOURCES | _ENDING | _SERVICE,
    "Socket": _RESOURCES,
    "Mount": _RESOURCES,
    "Slice": _RESOURCES,
}


def effect(before: Content, after: Content, action: UpdateAction) -> tuple[Impact, str]:
    """What the change from `before` to `after`, which differ, does to a unit that runs, with this UpdateAction=, and
    why."""
    match action:
        case UpdateAction.AUTO:
            return impact(before, after)
        case UpdateAction.NONE:
            return Impact.NONE, "the new content counts from its next start (UpdateAction=none)"
    kind = Impact.RESTART if action is UpdateAction.RESTART else Impact.RELOAD
    return kind, f"UpdateAction={action}"


def impact(before: Content, after: Content) -> tuple[Impact, str]:
    """What it takes to run a unit with the content `after` instead of `before`, and because of which options."""
    try:
        old, new = _by_class(before.options()), _by_class(after.options())
    except UnitFileError as error:
        return Impact.RESTART, f"its content cannot be compared: {error}"
    for kind in (Impact.RESTART, Impact.RELOAD):
        changed = _differences(old[kind], new[kind])
        if changed:
            return kind, f"{', '.join(changed)} changed"
    return Impact.NONE, "nothing that systemd acts on changed"


def _by_class(options: Iterable[UnitOption]) -> dict[Impact, dict[str, list[UnitOption]]]:
    """The options by impact and section: their order counts only within a section."""
    found: dict[Impact, dict[str, list[UnitOption]]] = {kind: {} for kind in Impact}
    for option in options:
        found[_classify(option)].setdefault(option.section, []).append(option)
    return found


def _classify(option: UnitOption) -> Impact:
    section, name = option.section, option.name
    if (section, name) in _RESTARTING:
        return Impact.RESTART
    if section.startswith(_IGNORED) or section == "Install" or name.startswith(_IGNORED):
        return Impact.NONE
    if name in _WORDLESS.get(section, ()):
        return Impact.NONE
    return Impact.RELOAD if name in RELOADED.get(section, ()) else Impact.RESTART


def _differences(old: dict[str, list[UnitOption]], new: dict[str, list[UnitOption]]) -> list[str]:
    """The names of the options that differ, each once, as `Name=`; all of the section if only their order differs. At
    most a few."""
    names: dict[str, None] = {}
    for section in {**old, **new}:
        was, is_now = old.get(section, []), new.get(section, [])
        if was != is_now:
            before, after = _values(was), _values(is_now)
            every = {**before, **after}
            changed = [name for name in every if before.get(name) != after.get(name)] or every
            names |= dict.fromkeys(f"{name}=" for name in changed)
    few = list(names)[:_NAMED]
    return few if len(few) == len(names) else [*few, "…"]


def _values(options: Iterable[UnitOption]) -> dict[str, list[str]]:
    """The values of each option, in order."""
    values: dict[str, list[str]] = {}
    for option in options:
        values.setdefault(option.name, []).append(option.value)
    return values
