"""What a simulated systemd does for a unit file, from the few options that the simulation supports.

An ExecStart= is understood as far as it sleeps, echoes and exits; any other command runs until it is stopped.
"""

import math
import re

import msgspec

from fleetd.model.confinement import Privileges
from fleetd.model.timespan import parse_time_span
from fleetd.model.unit_option import UnitOption
from fleetd.model.unitfile import UnitFileError, list_values, parse_unit_file

STOP_TIMEOUT_S = 90.0  # systemd's defaults
RESTART_S = 0.1
_RUNNING = {  # the sub state of an active unit
    "service": "running",
    "socket": "listening",
    "timer": "waiting",
    "path": "waiting",
    "mount": "mounted",
    "automount": "waiting",
}
_YES = ("yes", "true", "1", "on")
_TRIGGERS = {"socket": ("Socket", "Service"), "timer": ("Timer", "Unit"), "path": ("Path", "Unit")}
_SLEEP = re.compile(r"\bsleep (\d+(?:\.\d+)?|infinity)")
_EXIT = re.compile(r"\bexit (\d+)")
_ECHO = re.compile(r"\becho ([^;'\"]+)")
_ENDS_AT_ONCE = re.compile(r"(?:^|/)(?:true|false|echo)\b")


class Program(msgspec.Struct, frozen=True):
    """One unit file as the simulation runs it. A duration of infinity lasts until the unit is stopped.

    `conditions` and `asserts` are paths that have to exist; `triggers` is the unit that this one starts. `restart` is
    Restart=, and `start_limit` how often it may start within ten seconds (0: without limit). `reload` is ExecReload=,
    which takes no time ('': the unit cannot be reloaded).
    """

    kind: str
    load: str = "loaded"
    oneshot: bool = False
    remains: bool = False
    lasts_s: float = math.inf
    exit_status: int = 0
    stop_s: float = 0.0
    stop_timeout_s: float = STOP_TIMEOUT_S
    says: tuple[str, ...] = ()
    requires: tuple[str, ...] = ()
    wants: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    part_of: tuple[str, ...] = ()
    binds_to: tuple[str, ...] = ()
    triggers: str = ""
    conditions: tuple[str, ...] = ()
    asserts: tuple[str, ...] = ()
    exec_condition: bool = True
    manual_start: bool = True
    manual_stop: bool = True
    restart: str = ""
    restart_s: float = RESTART_S
    start_limit: int = 5
    reload: str = ""

    @property
    def running(self) -> str:
        """The unit's sub state while it is active."""
        return _RUNNING.get(self.kind, "active")


def parse_program(name: str, text: str) -> Program:
    """Parse a unit file as systemd would; a malformed one becomes a bad setting."""
    kind = name.rpartition(".")[2]
    try:
        options = parse_unit_file(text)
    except UnitFileError:
        return Program(kind, load="bad-setting")
    command = " ; ".join(list_values(options, "Service", "ExecStart"))
    lasts_s, exit_status = _parse_command(command)
    return Program(
        kind,
        load="bad-setting" if kind == "service" and not command else "loaded",
        oneshot=_last(options, "Service", "Type") == "oneshot",
        remains=_last(options, "Service", "RemainAfterExit") in _YES,
        lasts_s=lasts_s if kind == "service" else math.inf,
        exit_status=exit_status,
        stop_s=_sleeping_s(" ; ".join(list_values(options, "Service", "ExecStop"))),
        stop_timeout_s=float(_last(options, "Service", "TimeoutStopSec") or STOP_TIMEOUT_S),
        says=tuple(line.strip() for line in _ECHO.findall(command)),
        requires=_words(options, "Unit", "Requires", "BindsTo"),
        wants=_words(options, "Unit", "Wants"),
        after=_words(options, "Unit", "After"),
        part_of=_words(options, "Unit", "PartOf"),
        binds_to=_words(options, "Unit", "BindsTo"),
        triggers=_find_triggered(name, options),
        conditions=tuple(list_values(options, "Unit", "ConditionPathExists")),
        asserts=tuple(list_values(options, "Unit", "AssertPathExists")),
        exec_condition=not any("false" in each for each in list_values(options, "Service", "ExecCondition")),
        manual_start=_last(options, "Unit", "RefuseManualStart") not in _YES,
        manual_stop=_last(options, "Unit", "RefuseManualStop") not in _YES,
        restart=_last(options, "Service", "Restart"),
        restart_s=parse_time_span(_last(options, "Service", "RestartSec") or str(RESTART_S)),
        reload=" ; ".join(list_values(options, "Service", "ExecReload")),
        start_limit=0 if _last(options, "Unit", "StartLimitIntervalSec") == "0" else 5,
    )


def parse_privileges(name: str, text: str) -> Privileges:
    """What a service of this text would run with, as far as the simulation knows the options."""
    options = parse_unit_file(text)
    prefixed = [value for value in list_values(options, "Service", "ExecStart") if value.startswith("+")]
    return Privileges(
        name,
        is_ours=True,
        is_read=True,
        user=_last(options, "Service", "User"),
        group=_last(options, "Service", "Group"),
        groups=_words(options, "Service", "SupplementaryGroups"),
        dynamic_user=_last(options, "Service", "DynamicUser") in _YES,
        no_new_privileges=_last(options, "Service", "NoNewPrivileges") in _YES,
        protect_system=_last(options, "Service", "ProtectSystem"),
        ambient_capabilities=len(_words(options, "Service", "AmbientCapabilities")),
        flags=frozenset(["privileged"] if prefixed else []),
    )


def _find_triggered(name: str, options: tuple[UnitOption, ...]) -> str:
    stem, _, kind = name.rpartition(".")
    section, option = _TRIGGERS.get(kind, ("", ""))
    return (_last(options, section, option) or f"{stem}.service") if section else ""


def _words(options: tuple[UnitOption, ...], section: str, *names: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(" ".join(list_values(options, section, *names)).split()))


def _last(options: tuple[UnitOption, ...], section: str, name: str) -> str:
    return next(reversed(list_values(options, section, name)), "")


def _sleeping_s(command: str) -> float:
    return sum((float("inf") if text == "infinity" else float(text) for text in _SLEEP.findall(command)), 0.0)


def _parse_command(command: str) -> tuple[float, int]:
    """Return how long a command runs, and its exit status."""
    exits = _EXIT.search(command)
    if exits:
        return _sleeping_s(command), int(exits[1])
    if _ENDS_AT_ONCE.search(command) or _SLEEP.search(command):
        return _sleeping_s(command), 1 if "false" in command else 0
    return math.inf, 0
