"""make_service: the service of a container, with the arguments of podman that Quadlet gives it."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import NoReturn

from fleetd.model.quadlet.errors import InvalidQuadlet
from fleetd.model.quadlet.keys import BOOLEANS, CONTAINER, HEALTH, QUADLET, STRINGS, check_keys
from fleetd.model.quadlet.mounts import parse_mount
from fleetd.model.quadlet.resources import Resource, check_image
from fleetd.model.quadlet.section import Section
from fleetd.model.quadlet.service import PODMAN, SERVICE, UNIT, Service, absolute, begin_service
from fleetd.model.quadlet.words import join_words
from fleetd.model.unit_option import UnitOption

_CIDFILE = "--cidfile=%t/%N.cid"
_WRITTEN_HERE = ("ExecStart",)  # in [Service]


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
        self._file = file
        self._section = container
        self._service = service
        self._resources = resources
        self._used: dict[str, Resource] = {}  # in the order in which they are named

    def make(self, image: str) -> list[UnitOption]:
        section, service = self._section, self._service
        self._check_service()
        is_oneshot = service.last(SERVICE, "Type") == "oneshot"
        named = self._image()
        words = [PODMAN, "run", *self._run_options(is_oneshot=is_oneshot), image or named]
        words += section.last_words("Exec")
        service.put_first(
            UnitOption(SERVICE, "ExecStartPre", join_words(each.create_anywhere)) for each in self._used.values()
        )
        # The podman of Debian 12 leaves the file when the container has ended by itself, and does not start over it.
        service.put_first([UnitOption(SERVICE, "ExecStartPre", "-/bin/rm -f %t/%N.cid")])
        service.add(SERVICE, "Environment", "PODMAN_SYSTEMD_UNIT=%n")
        service.set(SERVICE, "KillMode", service.last(SERVICE, "KillMode") or "mixed")
        remove = [PODMAN, "rm", "-v", "-f", "-i", _CIDFILE]
        service.add_command("ExecStop", remove)
        service.add_command("ExecStopPost", remove, may_fail=True)
        for each in self._used.values():
            if each.remove:
                service.add_command("ExecStopPost", each.remove, may_fail=True)
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
        for key in _WRITTEN_HERE:
            if service.last(SERVICE, key) is not None:
                raise InvalidQuadlet(f"[Service] {key}= is made of [Container]: remove it, and write Exec= there")

    def _image(self) -> str:
        image = self._section.last("Image")
        if not image:
            raise InvalidQuadlet("[Container] names no image: add Image=REGISTRY/NAME:TAG")
        check_image(image)
        return image

    def _run_options(self, *, is_oneshot: bool) -> list[str]:
        section = self._section
        words = ["--name", section.last("ContainerName") or self._default_name(), _CIDFILE]
        words += ["--replace", "--rm", "--cgroups=split"]
        for key, option in STRINGS.items():
            words += [option, value] if (value := section.last(key)) else []
        words += [word for value in section.all("Tmpfs") for word in ("--tmpfs", value)]
        for key, option in BOOLEANS.items():
            words += self._flag(key, option)
        words += [word for value in section.all("Network") for word in ("--network", self._network(value))]
        words += [] if is_oneshot else ["--sdnotify=conmon", "-d"]
        words += ["--security-opt=no-new-privileges"] if section.boolean("NoNewPrivileges") else []
        for key, option in (("DropCapability", "--cap-drop"), ("AddCapability", "--cap-add")):
            words += [word for value in section.plain_words(key) for word in (option, value.lower())]
        words += [*self._flag("ReadOnly", "--read-only"), *self._user()]
        words += [word for value in section.all("Volume") for word in ("-v", self._volume(value))]
        words += [word for value in section.all("PublishPort") for word in ("--publish", value)]
        for key, option in (("Environment", "--env"), ("Label", "--label")):
            words += [word for pair in section.pairs(key) for word in (option, pair)]
        for path in section.words("EnvironmentFile"):
            words += ["--env-file", absolute(path, "EnvironmentFile")]
        words += [word for value in section.words("Secret") for word in ("--secret", value)]
        words += [word for value in section.words("Mount") for word in ("--mount", self._mount(value))]
        for key, option in HEALTH.items():
            words += [option, value] if (value := section.last(key)) else []
        return [*words, *section.words("PodmanArgs")]

    def _default_name(self) -> str:
        return "systemd-%p_%i" if "@" in self._file else "systemd-%N"

    def _flag(self, key: str, option: str) -> list[str]:
        value = self._section.boolean(key)
        return [] if value is None else [option if value else f"{option}=false"]

    def _user(self) -> list[str]:
        user, group = self._section.last("User"), self._section.last("Group")
        if group and not user:
            raise InvalidQuadlet(f"[Container] Group={group} needs User=: add it")
        return ["--user", f"{user}:{group}" if group else user] if user else []

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
