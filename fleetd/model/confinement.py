"""What a machine says in its fleet.conf about the units that it takes: `accept`, their names, and `confine`, whether
they may become root there.

A confined unit is judged by what systemd reads, the lines of its files, and not by what fleet's parser makes of them:
what writes a placement may write any text. What is not allowed here is refused, and a drop-in that comes last
(`confined`) has the unit run as a user of its own. `refuse_privileges` checks what systemd makes of all that, including
drop-ins of the machine's own.
"""

import hashlib
import re
from collections.abc import Callable, Iterator
from functools import lru_cache

import msgspec

from fleetd.model.content import Content, DropIn, InvalidDropIn, check_dropin_name
from fleetd.model.install import InvalidInstall, parse_install
from fleetd.model.machine import Machine
from fleetd.model.names import (
    InvalidName,
    expand_specifiers,
    is_of_fleet,
    is_reserved,
    is_systemd_name,
    is_template,
    matches_glob,
    parse_name,
    visible,
)
from fleetd.model.requirements import requirements_of
from fleetd.model.unitfile import UnitFileError

DROPIN_NAME = "~fleet-confine.conf"  # sorts after every name that check_dropin_name allows
_SHOWN = 3  # patterns, in words

_BLANKS = " \t"
_SECTION = re.compile(r"\[(Unit|Service|Install|X-[A-Za-z0-9-]+)\]", re.ASCII)
_COMMAND = re.compile(r"[-@:]*[A-Za-z0-9_/.]", re.ASCII)  # how a command may begin: not quoted, without +, ! and !!
_PRIVILEGED = re.compile(r"[-@:]*[+!]")
_UNIT = re.compile(r"[A-Za-z0-9:_.@-]+[.]service", re.ASCII)
_DIRECTORY = re.compile(r"confined(?:/[A-Za-z0-9_@-][A-Za-z0-9_.@-]*)+", re.ASCII)

# Targets that a unit may want: they wait for something, and start nothing that may be off on purpose.
_PASSIVE = frozenset(
    f"{stem}.target"
    for stem in (
        *("basic", "local-fs", "network", "network-online", "nss-lookup", "nss-user-lookup", "paths", "remote-fs"),
        *("slices", "sockets", "swap", "sysinit", "time-set", "time-sync", "timers"),
    )
)


class Limits(msgspec.Struct, frozen=True, gc=False):
    """What a machine takes: units whose names match one of the patterns in `accept` ((): of any name), and with
    `confine` those alone that cannot become root."""

    accept: tuple[str, ...] = ()
    confine: bool = False


NO_LIMITS = Limits()


def limits_of(machine: Machine) -> Limits:
    """The limits that a machine publishes."""
    return Limits(machine.accept, machine.confine) if machine.accept or machine.confine else NO_LIMITS


def refuse(limits: Limits, name: str, content: Content) -> str:
    """Why a machine with these limits does not take this unit, as a predicate; '' if it does."""
    if limits.accept:
        foreign = next((each for each in _names(name, content) if not _matches(limits.accept, each)), "")
        if foreign:
            shown = ", ".join(map(visible, limits.accept[:_SHOWN])) + ", …" * (len(limits.accept) > _SHOWN)
            return f"accepts only {shown}" + (f", and not the alias {foreign}" if foreign != name else "")
    why = judge(name, content).refusal if limits.confine else ""
    if limits.confine and not why and (downloads := requirements_of(content, name).downloads):
        why = f"{downloads[0]} is not downloaded: root would do it, and keep it here"
    return f"confines its units: {why}" if why else ""


def _matches(patterns: tuple[str, ...], name: str) -> bool:
    return any(matches_glob(pattern, name) for pattern in patterns)


def _names(name: str, content: Content) -> tuple[str, ...]:
    """The name of the unit and its aliases."""
    if not any("Alias" in text for text in (content.text, *(dropin.text for dropin in content.dropins))):
        return (name,)
    try:
        return (name, *parse_install(content.options(), parse_name(name)).aliases)
    except (UnitFileError, InvalidName, InvalidInstall):  # it gets no alias
        return (name,)


# Confined units: what is written.


def user_of(name: str) -> str:
    """The user that a confined unit runs as. systemd would take the unit's name for it, which may be that of a user of
    the machine, as in `root.service`."""
    return f"fleet-{hashlib.sha256(name.encode()).hexdigest()[:20]}"


def _dropin(name: str) -> DropIn:
    settings = (
        *(f"User={user_of(name)}", "Group=", "SupplementaryGroups=", "AmbientCapabilities="),
        *("DynamicUser=yes", "NoNewPrivileges=yes", "ProtectSystem=strict"),
    )
    return DropIn(DROPIN_NAME, "[Service]\n" + "".join(f"{setting}\n" for setting in settings))


def confined(name: str, content: Content) -> Content:
    """The content with the drop-in that confines the unit."""
    return Content(content.text, (*content.dropins, _dropin(name)))


def is_confined(name: str, content: Content) -> bool:
    """True if this drop-in is there."""
    return content.dropins[-1:] == (_dropin(name),)


def unconfined(content: Content) -> Content:
    """The content without its last drop-in."""
    return Content(content.text, content.dropins[:-1])


# Confined units: what they may have.


class Judgement(msgspec.Struct, frozen=True, gc=False):
    """Why a unit cannot be confined ('': it can), and the services that it has systemd start: they have to be
    fleet's."""

    refusal: str = ""
    starts: tuple[str, ...] = ()


class _Refused(Exception):
    """The unit cannot be confined. The message says why."""


@lru_cache(maxsize=1024)
def judge(name: str, content: Content) -> Judgement:
    """Whether a unit of this name and content can be confined."""
    starts: dict[str, None] = {}
    try:
        _check_name(name)
        for dropin in content.dropins:
            _check_dropin(dropin.name)
        for text in (content.text, *(dropin.text for dropin in content.dropins)):
            for section, key, value in _read(text):
                starts |= dict.fromkeys(filter(None, _check(name, section, key, value)))
    except _Refused as refused:
        return Judgement(str(refused))
    return Judgement(starts=tuple(starts))


def _check_name(name: str) -> None:
    if not is_systemd_name(name) or not name.endswith(".service"):
        raise _Refused("it takes services only")
    if is_template(name):
        raise _Refused("a template is started by others than fleet")
    if parse_name(name).prefix.endswith("-"):  # systemd reads NAME-.service.d for every unit that begins so
        raise _Refused('drop-ins of a name that ends in "-" are those of other units, too')


def _check_dropin(name: str) -> None:
    try:
        check_dropin_name(name)
    except InvalidDropIn as error:
        raise _Refused(str(error)) from error


def _read(text: str) -> Iterator[tuple[str, str, str]]:
    """The (section, key, value) that systemd reads of the text. What it might read in another way is refused."""
    section = ""
    lines = iter(text.split("\n"))
    for line in lines:
        if _is_passed_over(line):
            continue
        while _goes_on(line):
            following = next(lines, "")
            if _is_passed_over(following):
                raise _Refused("a line that ends in a backslash is followed by an empty line or a comment")
            line = f"{line[:-1]} {following}"
        line = line.strip(_BLANKS)
        if line.startswith("["):
            found = _SECTION.fullmatch(line)
            if not found:
                raise _Refused(f"section {visible(line)} is not allowed")
            section = found[1]
            continue
        key, equals, value = line.partition("=")
        if not section or not equals:
            raise _Refused(f"the line {visible(line)!r} is no setting of a section")
        if not section.startswith("X-"):
            yield section, key.rstrip(_BLANKS), value.lstrip(_BLANKS)


def _is_passed_over(line: str) -> bool:
    """True for an empty line and a comment."""
    if not line.replace("\t", "").isprintable():
        raise _Refused(f"the line {visible(line)!r} has a character that is not printable")
    words = line.strip(_BLANKS)
    return not words or words[0] in "#;"


def _goes_on(line: str) -> bool:
    """True if the line ends in a backslash that is not escaped."""
    return (len(line) - len(line.rstrip("\\"))) % 2 == 1


def _check(name: str, section: str, key: str, value: str) -> tuple[str, ...]:
    """The services that this setting starts. Raises _Refused if it is not allowed."""
    if key.startswith("X-"):
        return ()
    if key in _STARTING and section == "Unit":
        return tuple(_check_started(name, key, word) for word in value.split())
    if key in _ORDERING and section == "Unit":
        for word in value.split():
            _check_other(name, key, word)
    elif key in _COMMANDS and section == "Service":
        _check_command(key, value)
    elif key in _DIRECTORIES and section == "Service":
        for word in value.split():
            if not _DIRECTORY.fullmatch(expand_specifiers(word, parse_name(name))):
                raise _Refused(f"{key}={visible(word)} is not allowed; only directories below confined/ are")
    elif key in _PATTERNS and section == "Service":
        if not _PATTERNS[key].fullmatch(value):
            raise _Refused(f"{key}={visible(value)} is not allowed{_REASONS.get(key, '')}")
    elif key not in _ANY_VALUE[section]:
        raise _Refused(f"{visible(key)}= is not allowed in [{section}]{_REASONS.get(key, '')}")
    return ()


def _check_started(name: str, key: str, word: str) -> str:
    """The service that a unit wants or requires; '' for a target that only waits."""
    other = expand_specifiers(word, parse_name(name))
    if other in _PASSIVE:
        return ""
    if not _UNIT.fullmatch(other) or is_reserved(other):
        raise _Refused(f"{key}={visible(word)} is not allowed; services of fleet are, and targets like network.target")
    return other


def _check_other(name: str, key: str, word: str) -> None:
    """A unit that takes long to stop holds up those that it is ordered after, also when they start: fleet's own would
    not stop others in time, or not be restarted."""
    other = expand_specifiers(word, parse_name(name))
    if is_of_fleet(other) or not _OTHER.fullmatch(other):
        raise _Refused(
            f"{key}={visible(word)} is not allowed; other units are, without quotes, but those of fleet itself"
        )


def _check_command(key: str, value: str) -> None:
    words = value.split()
    starts = words[:1] + [words[at + 1] for at, word in enumerate(words[:-1]) if word == ";"]
    for word in starts:
        if _PRIVILEGED.match(word):
            raise _Refused(f"{key}={visible(word)} has a prefix that takes away its confinement")
        if not _COMMAND.match(word):
            raise _Refused(f"{key}={visible(word)}: a command has to begin with its path, without quotes")


_STARTING = frozenset(("Wants", "Requires", "BindsTo"))
_ORDERING = frozenset(("After", "Requisite", "PartOf"))
_OTHER = re.compile(r"[A-Za-z0-9:_.@\\-]+", re.ASCII)
_COMMANDS = frozenset(
    ("ExecCondition", "ExecStartPre", "ExecStart", "ExecStartPost", "ExecReload", "ExecStop", "ExecStopPost")
)
_DIRECTORIES = frozenset(("StateDirectory", "CacheDirectory", "LogsDirectory", "RuntimeDirectory"))
_YES = re.compile(r"(?:|1|y|yes|t|true|on)")
_MODE = re.compile(r"0?[0-7]{3}")
_OUTPUT = re.compile(r"(?:|journal|null|inherit)")
_PATTERNS = {
    "Type": re.compile(r"(?:|simple|exec|forking|oneshot|notify|notify-reload|idle)"),
    "DynamicUser": _YES,
    "NoNewPrivileges": _YES,
    "Nice": re.compile(r"(?:|\+?1?[0-9])", re.ASCII),
    "OOMScoreAdjust": re.compile(r"(?:|\+?[0-9]{1,4})", re.ASCII),
    "StandardInput": re.compile(r"(?:|null)"),
    "StandardOutput": _OUTPUT,
    "StandardError": _OUTPUT,
    "EnvironmentFile": re.compile(r"(?:|-?/etc/environment)"),
    "LoadCredential": re.compile(r"(?:|[A-Za-z0-9_.-]+:/run/fleet/credentials[.]sock)", re.ASCII),
    **{f"{directory}Mode": _MODE for directory in _DIRECTORIES},
}
_REASONS = {
    "User": ": the unit runs as a user of its own",
    "Group": ": the unit runs in a group of its own",
    "SupplementaryGroups": ": the unit runs in a group of its own",
    "EnvironmentFile": ": systemd reads it as root; use Environment= or Secret=",
    "LoadCredential": ": systemd reads it as root; use Secret= and /run/fleet/credentials.sock",
    "StandardInput": ": systemd opens files as root",
    "StandardOutput": ": systemd opens files as root",
    "StandardError": ": systemd opens files as root",
    "PermissionsStartOnly": ": commands would run as root",
}
_ANY_VALUE = {
    "Unit": frozenset(
        (
            *("Description", "Documentation", "CollectMode", "StopWhenUnneeded"),
            *("StartLimitIntervalSec", "StartLimitInterval", "StartLimitBurst"),
            *("ConditionPathExists", "ConditionPathIsDirectory", "ConditionPathIsMountPoint", "ConditionFileNotEmpty"),
            *("ConditionPathIsReadWrite", "ConditionFileIsExecutable", "ConditionDirectoryNotEmpty"),
            *("ConditionArchitecture", "ConditionVirtualization", "ConditionHost", "ConditionKernelVersion"),
        )
    ),
    "Install": frozenset(("WantedBy",)),  # it has no effect on a machine that confines its units
    "Service": frozenset(
        (
            *("Environment", "UnsetEnvironment", "WorkingDirectory", "UMask", "RemainAfterExit", "GuessMainPID"),
            *("Restart", "RestartSec", "RestartSteps", "RestartMaxDelaySec", "SuccessExitStatus", "OOMPolicy"),
            *("RestartPreventExitStatus", "RestartForceExitStatus", "NotifyAccess", "WatchdogSec", "WatchdogSignal"),
            *("TimeoutSec", "TimeoutStartSec", "TimeoutStopSec", "TimeoutAbortSec", "RuntimeMaxSec"),
            *("TimeoutStartFailureMode", "TimeoutStopFailureMode", "StartLimitInterval", "StartLimitBurst"),
            *("KillMode", "KillSignal", "RestartKillSignal", "FinalKillSignal", "SendSIGKILL", "SendSIGHUP"),
            *("SyslogIdentifier", "SyslogLevel", "SyslogLevelPrefix", "LogLevelMax", "RuntimeDirectoryPreserve"),
            # Resources.
            *("CPUAccounting", "CPUWeight", "CPUShares", "CPUQuota", "MemoryAccounting", "MemoryMin", "MemoryLow"),
            *("MemoryHigh", "MemoryMax", "MemorySwapMax", "MemoryLimit", "TasksAccounting", "TasksMax"),
            *("IOAccounting", "IOWeight", "BlockIOWeight", "LimitNOFILE", "LimitNPROC", "LimitCORE", "LimitAS"),
            *("LimitCPU", "LimitFSIZE", "LimitDATA", "LimitSTACK", "LimitRSS", "LimitMEMLOCK"),
            # What only takes rights away.
            *("CapabilityBoundingSet", "InaccessiblePaths", "ReadOnlyPaths", "NoExecPaths", "IPAddressDeny"),
            *("LockPersonality", "MemoryDenyWriteExecute", "PrivateDevices", "PrivateNetwork", "PrivateTmp"),
            *("PrivateUsers", "ProcSubset", "ProtectClock", "ProtectControlGroups", "ProtectHome", "ProtectHostname"),
            *("ProtectKernelLogs", "ProtectKernelModules", "ProtectKernelTunables", "ProtectProc", "ProtectSystem"),
            *("RemoveIPC", "RestrictAddressFamilies", "RestrictNamespaces", "RestrictRealtime", "RestrictSUIDSGID"),
            *("SystemCallArchitectures", "SystemCallErrorNumber", "SystemCallFilter", "SystemCallLog"),
        )
    ),
}


# Confined units: what systemd makes of them.


class Privileges(msgspec.Struct, frozen=True):
    """What systemd says that a service would run with, if it was started. `is_ours`: its file is fleet's; `is_read`:
    systemd has read the files as they are now; `flags` are those of its commands (systemd's names)."""

    name: str
    is_ours: bool
    is_read: bool
    user: str
    group: str
    groups: tuple[str, ...]
    dynamic_user: bool
    no_new_privileges: bool
    protect_system: str
    ambient_capabilities: int
    as_root_before: bool = False  # PermissionsStartOnly= or RootDirectoryStartOnly=
    pam_name: str = ""
    flags: frozenset[str] = frozenset()


_HARMLESS_FLAGS = frozenset(("ignore-failure", "no-env-expand"))
_CHECKS: tuple[tuple[str, Callable[[str, Privileges], bool]], ...] = (
    ("its name or its file is another unit's", lambda name, found: found.name == name and found.is_ours),
    ("systemd has not read its files", lambda name, found: found.is_read),
    ("User=", lambda name, found: found.user == user_of(name)),
    ("Group=", lambda name, found: found.group in ("", user_of(name))),
    ("SupplementaryGroups=", lambda name, found: not found.groups),
    ("DynamicUser=", lambda name, found: found.dynamic_user),
    ("NoNewPrivileges=", lambda name, found: found.no_new_privileges),
    ("ProtectSystem=", lambda name, found: found.protect_system == "strict"),
    ("AmbientCapabilities=", lambda name, found: found.ambient_capabilities == 0),
    ("PermissionsStartOnly=", lambda name, found: not found.as_root_before),
    ("PAMName=", lambda name, found: not found.pam_name),
    ("the prefix of a command", lambda name, found: found.flags <= _HARMLESS_FLAGS),
)


def refuse_privileges(name: str, found: Privileges) -> str:
    """Why a confined unit may not be started with these, or ''."""
    wrong = [what for what, holds in _CHECKS if not holds(name, found)]
    if not wrong:
        return ""
    return (
        f"start {name}: it would not be confined ({', '.join(wrong)}); look for drop-ins of this machine's own with "
        f"systemctl cat {name}"
    )
