"""Which keys of a container, a volume and a network are translated, and why the others are not."""

from collections.abc import Iterable

from fleetd.model.quadlet.errors import InvalidQuadlet
from fleetd.model.quadlet.section import Section

CONTAINER = "Container"
VOLUME = "Volume"
NETWORK = "Network"
QUADLET = "Quadlet"

# What podman run takes for a key, in the order in which the options are written.
STRINGS = {
    "StopSignal": "--stop-signal",
    "StopTimeout": "--stop-timeout",
    "Pull": "--pull",
}
BOOLEANS = {"RunInit": "--init", "EnvironmentHost": "--env-host"}
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
        *STRINGS,
        *BOOLEANS,
        *HEALTH,
        *("AddCapability", "ContainerName", "DropCapability", "Environment", "EnvironmentFile", "Exec", "Group"),
        *("Image", "Label", "Mount", "Network", "NoNewPrivileges", "PodmanArgs", "PublishPort", "ReadOnly", "Secret"),
        *("Tmpfs", "User", "Volume"),
    }
)
_VOLUME_KEYS = frozenset(
    {
        *("ContainersConfModule", "Copy", "Device", "Driver", "GlobalArgs", "Group", "Image", "Label", "Options"),
        *("PodmanArgs", "Type", "User", "VolumeName"),
    }
)
_NETWORK_KEYS = frozenset(
    {
        *("ContainersConfModule", "DNS", "DisableDNS", "Driver", "Gateway", "GlobalArgs", "IPAMDriver", "IPRange"),
        *("IPv6", "InterfaceName", "Internal", "Label", "NetworkDeleteOnStop", "NetworkName", "Options", "PodmanArgs"),
        *("Subnet",),
    }
)
_SUPPORTED = {
    CONTAINER: _CONTAINER_KEYS,
    VOLUME: _VOLUME_KEYS,
    NETWORK: _NETWORK_KEYS,
    QUADLET: frozenset({"DefaultDependencies"}),
}

# Keys of Quadlet that are an option of podman run, and no more.
_PODMAN_OPTIONS = {
    "AddDevice": "--device",
    "AddHost": "--add-host",
    "Annotation": "--annotation",
    "AppArmor": "--security-opt=apparmor",
    "CgroupsMode": "--cgroups",
    "DNS": "--dns",
    "DNSOption": "--dns-option",
    "DNSSearch": "--dns-search",
    "Entrypoint": "--entrypoint",
    "ExposeHostPort": "--expose",
    "GIDMap": "--gidmap",
    "GroupAdd": "--group-add",
    "HostName": "--hostname",
    "HttpProxy": "--http-proxy",
    "IP": "--ip",
    "IP6": "--ip6",
    "LogDriver": "--log-driver",
    "LogOpt": "--log-opt",
    "Mask": "--security-opt=mask",
    "Memory": "--memory",
    "NetworkAlias": "--network-alias",
    "Notify": "--sdnotify",
    "PidsLimit": "--pids-limit",
    "ReadOnlyTmpfs": "--read-only-tmpfs",
    "Retry": "--retry",
    "RetryDelay": "--retry-delay",
    "SeccompProfile": "--security-opt=seccomp",
    "SecurityLabelDisable": "--security-opt=label",
    "SecurityLabelFileType": "--security-opt=label",
    "SecurityLabelLevel": "--security-opt=label",
    "SecurityLabelNested": "--security-opt=label",
    "SecurityLabelType": "--security-opt=label",
    "ShmSize": "--shm-size",
    "SubGIDMap": "--subgidname",
    "SubUIDMap": "--subuidname",
    "Sysctl": "--sysctl",
    "Timezone": "--tz",
    "UIDMap": "--uidmap",
    "Ulimit": "--ulimit",
    "Unmask": "--security-opt=unmask",
    "UserNS": "--userns",
    "WorkingDir": "--workdir",
}
_INSTEAD = {
    "AutoUpdate": "it would change the image on each machine by itself, and the cluster would not know what runs: "
    "remove it, and submit the unit anew when its image is to change",
    "ContainersConfModule": "remove it, and set up podman in containers.conf of the machines",
    "GlobalArgs": "remove it, and set up podman in containers.conf of the machines",
    "Pod": "fleet has no pods: join units with MachineOf= in [X-Fleet], and containers with "
    "PodmanArgs=--network=container:NAME",
    "ReloadCmd": "write ExecReload= in [Service]: podman exec is the command",
    "ReloadSignal": "write ExecReload= in [Service]: podman kill is the command",
    "Rootfs": "name an image with Image=",
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
    if section == CONTAINER and (option := _PODMAN_OPTIONS.get(key)):
        return f"fleet does not translate it; write PodmanArgs={option}=… for the same"
    if key in _INSTEAD:
        return _INSTEAD[key]
    if known := {each.lower(): each for each in _SUPPORTED[section]}.get(key.lower()):
        return f"it is spelt {known}="
    import difflib  # imported late: only an unknown key needs it

    close = difflib.get_close_matches(key, sorted(_SUPPORTED[section]), n=1, cutoff=0.8)
    spelling = f"perhaps {close[0]}= is meant" if close else "look at its spelling"
    return f"fleet does not know it: {spelling}, or give podman's option in PodmanArgs="
