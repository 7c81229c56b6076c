"""Which keys of a container, a volume and a network are translated, and why the others are not."""

from collections.abc import Iterable

from fleetd.model.quadlet.errors import InvalidQuadlet
from fleetd.model.quadlet.section import Section

CONTAINER = "Container"
VOLUME = "Volume"
NETWORK = "Network"
QUADLET = "Quadlet"

# What podman run takes for a key, in the order in which the options are written: of the last value, of each value, of
# each word of each value, and of a boolean.
STRINGS = {
    "Timezone": "--tz",
    "PidsLimit": "--pids-limit",
    "ShmSize": "--shm-size",
    "WorkingDir": "--workdir",
    "IP": "--ip",
    "IP6": "--ip6",
    "HostName": "--hostname",
    "StopSignal": "--stop-signal",
    "StopTimeout": "--stop-timeout",
    "Pull": "--pull",
    "ImageVolume": "--image-volume",
    "Umask": "--umask",
    "Memory": "--memory",
    "Retry": "--retry",
    "RetryDelay": "--retry-delay",
}
LISTS = {
    "NetworkAlias": "--network-alias",
    "Ulimit": "--ulimit",
    "DNS": "--dns",
    "DNSOption": "--dns-option",
    "DNSSearch": "--dns-search",
    "GroupAdd": "--group-add",
    "AddHost": "--add-host",
    "Tmpfs": "--tmpfs",
}
WORDS = {"DropCapability": "--cap-drop", "AddCapability": "--cap-add", "Sysctl": "--sysctl"}
BOOLEANS = {
    "RunInit": "--init",
    "EnvironmentHost": "--env-host",
    "HttpProxy": "--http-proxy",
    "ReadOnlyTmpfs": "--read-only-tmpfs",
}
# What podman run takes as --security-opt: of a boolean that is true, and of the last value.
SECURITY_FLAGS = {"SecurityLabelDisable": "label=disable", "SecurityLabelNested": "label=nested"}
SECURITY_VALUES = {
    "SecurityLabelType": "label=type:",
    "SecurityLabelFileType": "label=filetype:",
    "SecurityLabelLevel": "label=level:",
    "AppArmor": "apparmor=",
    "SeccompProfile": "seccomp=",
}
SECURITY_PATHS = {"Mask": "mask=", "Unmask": "unmask="}
PAIRS = {"Environment": "--env", "Label": "--label", "Annotation": "--annotation"}
USERS = frozenset(
    {
        *("GIDMap", "Group", "RemapGid", "RemapUid", "RemapUidSize", "RemapUsers", "SubGIDMap", "SubUIDMap", "UIDMap"),
        *("User", "UserNS"),
    }
)
HEALTH = {
    "HealthCmd": "--health-cmd",
    "HealthInterval": "--health-interval",
    "HealthOnFailure": "--health-on-failure",
    "HealthLogDestination": "--health-log-destination",
    "HealthMaxLogCount": "--health-max-log-count",
    "HealthMaxLogSize": "--health-max-log-size",
    "HealthRetries": "--health-retries",
    "HealthStartPeriod": "--health-start-period",
    "HealthTimeout": "--health-timeout",
    "HealthStartupCmd": "--health-startup-cmd",
    "HealthStartupInterval": "--health-startup-interval",
    "HealthStartupRetries": "--health-startup-retries",
    "HealthStartupSuccess": "--health-startup-success",
    "HealthStartupTimeout": "--health-startup-timeout",
}
_CONTAINER_KEYS = frozenset(
    {
        *(*STRINGS, *LISTS, *WORDS, *BOOLEANS, *SECURITY_FLAGS, *SECURITY_VALUES, *SECURITY_PATHS, *PAIRS, *USERS),
        *HEALTH,
        *("AddDevice", "CgroupsMode", "ContainerName", "ContainersConfModule", "Entrypoint", "EnvironmentFile"),
        *("Exec", "ExposeHostPort", "GlobalArgs", "Image", "LogDriver", "LogOpt", "Mount", "Network"),
        *("NoNewPrivileges", "Notify", "PodmanArgs", "PublishPort", "ReadOnly", "ReloadCmd", "ReloadSignal"),
        *("Rootfs", "Secret", "VolatileTmp", "Volume"),
    }
)
_VOLUME_KEYS = frozenset(
    {
        *("ContainersConfModule", "Copy", "Device", "Driver", "GID", "GlobalArgs", "Group", "Image", "Label"),
        *("Options", "PodmanArgs", "ServiceName", "Type", "UID", "User", "VolumeName"),
    }
)
_NETWORK_KEYS = frozenset(
    {
        *("ContainersConfModule", "DNS", "DisableDNS", "Driver", "Gateway", "GlobalArgs", "IPAMDriver", "IPRange"),
        *("IPv6", "InterfaceName", "Internal", "Label", "NetworkDeleteOnStop", "NetworkName", "Options", "PodmanArgs"),
        *("ServiceName", "Subnet"),
    }
)
_SUPPORTED = {
    CONTAINER: _CONTAINER_KEYS,
    VOLUME: _VOLUME_KEYS,
    NETWORK: _NETWORK_KEYS,
    QUADLET: frozenset({"DefaultDependencies"}),
}

_INSTEAD = {
    "AutoUpdate": "it would change the image on each machine by itself, and the cluster would not know what runs: "
    "remove it, and submit the unit anew when its image is to change",
    "Pod": "fleet has no pods: join units with MachineOf= in [X-Fleet], and containers with "
    "PodmanArgs=--network=container:NAME",
    "ServiceName": "the unit is named like its file: rename the file",
    "StartWithPod": "fleet has no pods: remove it",
}


def check_keys(file: str, sections: Iterable[Section]) -> None:
    """Raises InvalidQuadlet for a key that is not translated. `file` is where it stands."""
    for section in sections:
        for key in section.keys:
            if key not in _SUPPORTED[section.name]:
                raise InvalidQuadlet(f"{file}: {key}= in [{section.name}] is refused: {_explain(section.name, key)}")


def _explain(section: str, key: str) -> str:
    if key in _INSTEAD:
        return _INSTEAD[key]
    if known := {each.lower(): each for each in _SUPPORTED[section]}.get(key.lower()):
        return f"it is spelt {known}="
    import difflib  # imported late: only an unknown key needs it

    close = difflib.get_close_matches(key, sorted(_SUPPORTED[section]), n=1, cutoff=0.8)
    spelling = f"perhaps {close[0]}= is meant" if close else "look at its spelling"
    return f"fleet does not know it: {spelling}, or give podman's option in PodmanArgs="
