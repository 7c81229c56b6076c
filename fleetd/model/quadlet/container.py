"""make_service: the service of a container, with the arguments of podman that Quadlet gives it."""

import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import NoReturn

from fleetd.model.quadlet.errors import InvalidQuadlet
from fleetd.model.quadlet.keys import (
    BOOLEANS,
    CONTAINER,
    HEALTH,
    LISTS,
    PAIRS,
    QUADLET,
    SECURITY_FLAGS,
    SECURITY_PATHS,
    SECURITY_VALUES,
    STRINGS,
    WORDS,
    check_keys,
)
from fleetd.model.quadlet.mounts import parse_mount
from fleetd.model.quadlet.resources import Resource, check_image
from fleetd.model.quadlet.section import YES, Section
from fleetd.model.quadlet.service import SERVICE, UNIT, Service, absolute, begin_service, podman_of
from fleetd.model.quadlet.users import user_options
from fleetd.model.quadlet.words import join_words
from fleetd.model.unit_option import UnitOption

_CIDFILE = "--cidfile=%t/%N.cid"
_WRITTEN_HERE = ("ExecStart",)  # in [Service]
_DEVICES = "PODMAN_DEVICES"
_DEVICE = re.compile(r"/[A-Za-z0-9@_=:,./%-]+", re.ASCII)
_PORTS = re.compile(r"[0-9]+(-[0-9]+)?(/(udp|tcp))?", re.ASCII)


def make_service(
    file: str, options: Sequence[UnitOption], resources: Mapping[str, Resource], image: str = ""
) -> list[UnitOption]:
    """The options of the service of the container `file`, which holds these. `resources` are the volumes and networks
    that it names, by the names of their files; `image` is the one that runs ('': that of the file). Raises
    InvalidQuadlet."""
    container = Section(CONTAINER, options)
    check_keys(file, (container, Section(QUADLET, options)))
    try:
        return _Container(file, container, begin_service(options), resources).make(image)
    except InvalidQuadlet as error:
        raise InvalidQuadlet(f"{file}: {error}") from error


def named_files(options: Sequence[UnitOption]) -> list[str]:
    """The files of volumes and networks that a container with these options names. What cannot be read names none."""
    container = Section(CONTAINER, options)
    names = [value.partition(":")[0] for key in ("Volume", "Network") for value in container.all(key)]
    with suppress(InvalidQuadlet):  # said when the service is made
        names += [mount.source for word in container.words("Mount") if (mount := parse_mount(word))]
    return [name for name in dict.fromkeys(names) if name.endswith((".volume", ".network")) and "/" not in name]


class _Container:
    """Makes the service of one container."""

    def __init__(self, file: str, container: Section, service: Service, resources: Mapping[str, Resource]) -> None:
        self._section = container
        self._podman = podman_of(container)
        self._name = container.last("ContainerName") or ("systemd-%p_%i" if "@" in file else "systemd-%N")
        self._service = service
        self._resources = resources
        self._used: dict[str, Resource] = {}  # in the order in which they are named

    def make(self, image: str) -> list[UnitOption]:
        section, service = self._section, self._service
        self._check_service()
        is_oneshot = service.last(SERVICE, "Type") == "oneshot"
        named = self._image()
        words = [*self._podman, "run", *self._run_options(is_oneshot=is_oneshot), *named[:-1], image or named[-1]]
        words += section.last_words("Exec")
        service.put_first(
            UnitOption(SERVICE, "ExecStartPre", join_words(each.create_anywhere)) for each in self._used.values()
        )
        # The podman of Debian 12 leaves the file when the container has ended by itself, and does not start over it.
        service.put_first([UnitOption(SERVICE, "ExecStartPre", "-/bin/rm -f %t/%N.cid")])
        service.add(SERVICE, "Environment", "PODMAN_SYSTEMD_UNIT=%n")
        service.set(SERVICE, "KillMode", service.last(SERVICE, "KillMode") or "mixed")
        remove = [*self._podman, "rm", "-v", "-f", "-i", _CIDFILE]
        service.add_command("ExecStop", remove)
        service.add_command("ExecStopPost", remove, may_fail=True)
        for each in self._used.values():
            if each.remove:
                service.add_command("ExecStopPost", each.remove, may_fail=True)
        if reload := self._reload():
            service.add_command("ExecReload", reload)
        service.add(SERVICE, "Delegate", "yes")
        if not is_oneshot:
            service.set(SERVICE, "Type", "notify")
            service.set(SERVICE, "NotifyAccess", "all")
        if service.last(SERVICE, "SyslogIdentifier") is None:
            service.add(SERVICE, "SyslogIdentifier", "%N")
        service.add_command("ExecStart", words)
        return service.in_order()

    def _check_service(self) -> None:
        service = self._service
        kind = service.last(SERVICE, "Type")
        if kind not in (None, "notify", "oneshot"):
            raise InvalidQuadlet(f"[Service] Type={kind} is not possible for a container: remove it, or write oneshot")
        mode = service.last(SERVICE, "KillMode")
        if mode not in (None, "mixed", "control-group"):
            raise InvalidQuadlet(
                f"[Service] KillMode={mode} would leave parts of the container behind: remove it, or "
                "write mixed or control-group"
            )
        self._refuse_user()
        for key in _WRITTEN_HERE:
            if service.last(SERVICE, key) is not None:
                raise InvalidQuadlet(f"[Service] {key}= is made of [Container]: remove it, and write Exec= there")

    def _refuse_user(self) -> None:
        """podman is root's: as another user it could not even write its files in /run."""
        service = Section(SERVICE, self._service.options)
        user = service.last("User")
        if service.last("DynamicUser").lower() in YES:
            key = "DynamicUser"
        elif user not in ("", "0", "root"):
            key = "User"
        else:
            return
        raise InvalidQuadlet(
            f"[Service] {key}={service.last(key)} is not possible for a container, since podman runs as root: remove "
            "it, and name the user of the container with User= in [Container]"
        )

    def _image(self) -> list[str]:
        """What runs, as the last word: an image, or a folder of the machine after the option that says so."""
        image, folder = self._section.last("Image"), self._section.last("Rootfs")
        if image and folder:
            raise InvalidQuadlet("[Container] has both Image= and Rootfs=: remove one of them")
        if not image and not folder:
            raise InvalidQuadlet("[Container] names no image: add Image=REGISTRY/NAME:TAG")
        if not folder:
            check_image(image)
            return [image]
        return ["--rootfs", absolute(folder, "Rootfs")]

    def _reload(self) -> list[str]:
        """The command that reloads the container; empty if there is none."""
        command, signal = self._section.last_words("ReloadCmd"), self._section.last("ReloadSignal")
        if command and signal:
            raise InvalidQuadlet("[Container] has both ReloadCmd= and ReloadSignal=: remove one of them")
        if signal:
            return [*self._podman, "kill", "--signal", signal, self._name]
        return [*self._podman, "exec", self._name, *command] if command else []

    def _run_options(self, *, is_oneshot: bool) -> list[str]:
        section = self._section
        words = ["--name", self._name, _CIDFILE, "--replace", "--rm"]
        words += self._string("LogDriver", "--log-driver")
        words += self._each("--log-opt", section.plain_words("LogOpt"))
        words += self._string("CgroupsMode", "--cgroups") or ["--cgroups=split"]
        for key, option in STRINGS.items():
            words += self._string(key, option)
        # An empty one takes away the entry point of the image.
        words += ["--entrypoint", section.last("Entrypoint")] if section.has("Entrypoint") else []
        for key, option in LISTS.items():
            words += self._each(option, section.all(key))
        for key, option in BOOLEANS.items():
            words += self._flag(key, option)
        words += self._each("--network", [self._network(value) for value in section.all("Network")])
        words += [] if is_oneshot else [f"--sdnotify={self._notify()}", "-d"]
        words += self._security()
        words += [*self._flag("ReadOnly", "--read-only"), *self._volatile_tmp(), *user_options(section)]
        words += self._each("-v", [self._volume(value) for value in section.all("Volume")])
        words += self._each("--expose", [_port(value) for value in section.all("ExposeHostPort")])
        words += self._each("--publish", section.all("PublishPort"))
        for key, option in PAIRS.items():
            words += self._each(option, section.pairs(key))
        for key, option in SECURITY_PATHS.items():
            words += self._each("--security-opt", [option + path for path in section.words(key)])
        words += self._each("--env-file", [_environment_file(path) for path in section.words("EnvironmentFile")])
        words += self._each("--secret", section.words("Secret"))
        words += self._each("--mount", [self._mount(value) for value in section.words("Mount")])
        for key, option in HEALTH.items():
            words += self._string(key, option)
        return [*words, *section.words("PodmanArgs")]

    def _security(self) -> list[str]:
        section = self._section
        words = ["--security-opt=no-new-privileges"] if section.boolean("NoNewPrivileges") else []
        chosen = [option for key, option in SECURITY_FLAGS.items() if section.boolean(key)]
        chosen += [option + value for key, option in SECURITY_VALUES.items() if (value := section.last(key))]
        words += self._each("--security-opt", chosen)
        words += self._devices()
        for key, option in WORDS.items():
            values = section.plain_words(key)
            words += self._each(option, [each.lower() for each in values] if key != "Sysctl" else values)
        return words

    def _devices(self) -> list[str]:
        """The devices. Which of those with a dash are there shows on the machine alone, when the container starts: a
        shell writes them into a variable."""
        values = self._section.plain_words("AddDevice")
        words = self._each("--device", [value for value in values if not value.startswith("-")])
        perhaps = [value[1:] for value in values if value.startswith("-")]
        if not perhaps:
            return words
        for value in perhaps:
            if not _DEVICE.fullmatch(value):
                raise InvalidQuadlet(
                    f"[Container] AddDevice=-{value} is no path that a shell takes as it is: remove the -"
                )
        tests = "; ".join(
            f'if test -e {each.partition(":")[0]}; then found="$$found --device={each}"; fi' for each in perhaps
        )
        script = f'found=; {tests}; echo {_DEVICES}="$$found" >%t/%N.devices'
        self._service.add_command("ExecStartPre", ["/bin/sh", "-c", script])
        self._service.add(SERVICE, "EnvironmentFile", "-%t/%N.devices")
        return [*words, f"${_DEVICES}"]

    def _notify(self) -> str:
        """What tells systemd that the container has started: conmon that it runs, its check, or itself."""
        if self._section.last("Notify").lower() == "healthy":
            return "healthy"
        return "container" if self._section.boolean("Notify") else "conmon"

    def _volatile_tmp(self) -> list[str]:
        is_wanted = self._section.boolean("VolatileTmp") and not self._section.boolean("ReadOnly")
        return ["--tmpfs", "/tmp:rw,size=512M,mode=1777"] if is_wanted else []  # noqa: S108  (in the container)

    def _string(self, key: str, option: str) -> list[str]:
        value = self._section.last(key)
        return [option, value] if value else []

    @staticmethod
    def _each(option: str, values: Iterable[str]) -> list[str]:
        return [word for value in values for word in (option, value)]

    def _flag(self, key: str, option: str) -> list[str]:
        value = self._section.boolean(key)
        return [] if value is None else [option if value else f"{option}=false"]

    def _network(self, value: str) -> str:
        name, colon, options = value.partition(":")
        if name.endswith(".container"):
            raise InvalidQuadlet(
                f"[Container] Network={value}: containers of two units are on different machines: join the units with "
                "MachineOf= in [X-Fleet], and write Network=container:NAME"
            )
        if not name.endswith(".network"):
            return value
        return self._use(name, "Network").name + colon + options

    def _volume(self, value: str) -> str:
        source, *rest = value.split(":", 2)
        if not rest or not source:
            return rest[0] if rest else source
        return ":".join((self._source(source, "Volume"), *rest))

    def _mount(self, value: str) -> str:
        mount = parse_mount(value)
        if mount is None:
            return value
        if mount.source.endswith((".image", ".build")):
            raise InvalidQuadlet(f"Mount={value} names another file: name the image itself")
        return mount.with_source(self._source(mount.source, "Mount") if mount.source else "")

    def _source(self, source: str, key: str) -> str:
        """What is mounted: a path, which has to be mounted before, a volume of a file, or one of podman's."""
        if source.startswith("."):
            absolute(source, key)
        if source.startswith("/"):
            self._service.add(UNIT, "RequiresMountsFor", source)
        return self._use(source, key).name if source.endswith(".volume") else source

    def _use(self, name: str, key: str) -> Resource:
        """The resource of a file that the container names. Raises InvalidQuadlet if there is no such file."""
        resource = self._resources.get(name)
        if resource is None:
            self._refuse_missing(name, key)
        if name not in self._used and resource.mounted:
            self._service.add(UNIT, "RequiresMountsFor", resource.mounted)
        self._used[name] = resource
        return resource

    def _refuse_missing(self, name: str, key: str) -> NoReturn:
        kind = name.rpartition(".")[2]
        raise InvalidQuadlet(
            f"[Container] {key}= names {name}, and there is no such file beside it: add the file, or name a {kind} of "
            f'podman\'s, without ".{kind}"'
        )


def _environment_file(path: str) -> str:
    """The path; a dash before it says that the file may be missing."""
    return f"-{absolute(path[1:], 'EnvironmentFile')}" if path.startswith("-") else absolute(path, "EnvironmentFile")


def _port(value: str) -> str:
    if not _PORTS.fullmatch(value.strip()):
        raise InvalidQuadlet(f"[Container] ExposeHostPort={value} is no port: write PORT or PORT-PORT, with /udp if so")
    return value.strip()
