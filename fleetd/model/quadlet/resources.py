"""Volumes and networks: the service of a `.volume` or `.network` file, and what a container that names it needs of it.

On a machine there is no service of their own: each container that names one creates it before it starts.
"""

import re
from collections.abc import Iterable, Sequence

import msgspec

from fleetd.model.quadlet.errors import InvalidQuadlet
from fleetd.model.quadlet.keys import NETWORK, QUADLET, VOLUME, check_keys
from fleetd.model.quadlet.section import Section
from fleetd.model.quadlet.service import SERVICE, UNIT, begin_service, podman_of
from fleetd.model.unit_option import UnitOption

_PLAIN = re.compile(r"[A-Za-z0-9@%_=:,./-]+", re.ASCII)  # what a shell takes as it is
_NUMBER = re.compile(r"[0-9]{1,10}", re.ASCII)


class Resource(msgspec.Struct, frozen=True):
    """A volume or a network: which of the two, its name in podman, how podman is called (with global options), the
    options that make it, whether it is removed when what uses it has stopped, and the path that must be mounted before
    ('': none)."""

    kind: str
    name: str
    podman: tuple[str, ...]
    options: tuple[str, ...]
    is_removed: bool = False
    mounted: str = ""

    @property
    def create(self) -> tuple[str, ...]:
        """The command that makes it, unless it exists."""
        return (*self.podman, self.kind, "create", "--ignore", *self.options, self.name)

    @property
    def create_anywhere(self) -> tuple[str, ...]:
        """The same for each version of podman: --ignore came after 4.3."""
        exists = _for_shell((*self.podman, self.kind, "exists", self.name))
        create = _for_shell((*self.podman, self.kind, "create", *self.options, self.name))
        # Asked again, since another container may have made it meanwhile.
        return ("/bin/sh", "-c", f"{exists} || {create} || {exists}")

    @property
    def remove(self) -> tuple[str, ...]:
        """The command that removes it; empty if it stays."""
        return (*self.podman, self.kind, "rm", self.name) if self.is_removed else ()


def _for_shell(words: Iterable[str]) -> str:
    quoted = (word if _PLAIN.fullmatch(word) else "'" + word.replace("'", "'\\''") + "'" for word in words)
    return " ".join(quoted)


def make_resource(file: str, options: Sequence[UnitOption]) -> Resource:
    """The volume or network of this file, `data.volume` for example. Raises InvalidQuadlet."""
    kind = VOLUME if file.endswith(".volume") else NETWORK
    section = Section(kind, options)
    check_keys(file, (section, Section(QUADLET, options)))
    try:
        return _make_volume(file, section) if kind == VOLUME else _make_network(file, section)
    except InvalidQuadlet as error:
        raise InvalidQuadlet(f"{file}: {error}") from error


def make_resource_service(file: str, options: Sequence[UnitOption]) -> list[UnitOption]:
    """The options of the service that makes this volume or network and nothing else. Raises InvalidQuadlet."""
    resource = make_resource(file, options)
    service = begin_service(options)
    if resource.mounted:
        service.add(UNIT, "RequiresMountsFor", resource.mounted)
    if resource.remove:
        service.add_command("ExecStopPost", resource.remove)
    service.add_command("ExecStart", resource.create)
    for key, value in (("SyslogIdentifier", "%N"), ("Type", "oneshot"), ("RemainAfterExit", "yes")):
        if service.last(SERVICE, key) is None:
            service.add(SERVICE, key, value)
    return service.in_order()


def _default_name(file: str) -> str:
    """The name in podman; of a template that of its instance."""
    stem = file.rpartition(".")[0]
    return f"systemd-{stem.removesuffix('@')}{'-%i' * stem.endswith('@')}"


def _flag(section: Section, key: str, option: str) -> list[str]:
    value = section.boolean(key)
    return [] if value is None else [option if value else f"{option}=false"]


def _pairs(section: Section, key: str, option: str) -> list[str]:
    return [word for pair in section.pairs(key) for word in (option, pair)]


def _make_volume(file: str, volume: Section) -> Resource:
    name = volume.last("VolumeName") or _default_name(file)
    words = []
    driver, device, kind = (volume.last(key) for key in ("Driver", "Device", "Type"))
    if driver:
        words += ["--driver", driver]
    if driver == "image":
        image = volume.last("Image")
        if not image:
            raise InvalidQuadlet("[Volume] Driver=image needs an image: name it with Image=")
        check_image(image)
        words += ["--opt", f"image={image}"]
    else:
        words += _local_options(volume, device, kind)
    for key, option in (("UID", "--uid"), ("GID", "--gid")):
        words += [option, str(_number(volume, key))] if volume.last(key) else []
    words += [*_pairs(volume, "Label", "--label"), *volume.words("PodmanArgs")]
    mounted = device if kind == "bind" else ""
    return Resource("volume", name, podman_of(volume), tuple(words), mounted=mounted)


def _local_options(volume: Section, device: str, kind: str) -> list[str]:
    """The options of podman's own driver."""
    words = []
    copies = volume.boolean("Copy")
    if copies is not None:
        words += ["--opt", "copy" if copies else "nocopy"]
    if kind and not device:
        raise InvalidQuadlet("[Volume] Type= needs Device=: name what is mounted")
    words += ["--opt", f"device={device}"] if device else []
    words += ["--opt", f"type={kind}"] if kind else []
    owners = [
        f"{option}={_number(volume, key)}" for key, option in (("User", "uid"), ("Group", "gid")) if volume.last(key)
    ]
    given = ",".join(filter(None, [*owners, volume.last("Options")]))
    return [*words, "--opt", f"o={given}"] if given else words


def _number(volume: Section, key: str) -> int:
    value = volume.last(key)
    if value == "root":
        return 0  # on each machine
    if not _NUMBER.fullmatch(value) or int(value) >= 2**32:
        raise InvalidQuadlet(f"[Volume] {key}={value} is no number: write the id, since names differ among machines")
    return int(value)


def check_image(image: str) -> None:
    """Raises InvalidQuadlet for an image that another file of Quadlet's would build or pull, and for an option."""
    if image.endswith((".image", ".build")):
        raise InvalidQuadlet(f"Image={image} names another file: name the image itself, as REGISTRY/NAME:TAG")
    if image.startswith("-"):
        raise InvalidQuadlet(f'Image={image} begins with "-", and podman would take it for an option: name an image')


def _make_network(file: str, network: Section) -> Resource:
    name = network.last("NetworkName") or _default_name(file)
    words = []
    for key, option in (("DisableDNS", "--disable-dns"), ("Internal", "--internal"), ("IPv6", "--ipv6")):
        words += _flag(network, key, option)
    for key, option in (
        ("Driver", "--driver"),
        ("IPAMDriver", "--ipam-driver"),
        ("InterfaceName", "--interface-name"),
    ):
        words += [option, value] if (value := network.last(key)) else []
    words += [word for server in network.all("DNS") for word in ("--dns", server)]
    words += _subnets(network)
    words += [*_pairs(network, "Options", "--opt"), *_pairs(network, "Label", "--label")]
    words += network.words("PodmanArgs")
    is_removed = network.boolean("NetworkDeleteOnStop") is True
    return Resource("network", name, podman_of(network), tuple(words), is_removed=is_removed)


def _subnets(network: Section) -> list[str]:
    """Each subnet with the gateway and the range at its place in their lists."""
    subnets, gateways, ranges = (network.all(key) for key in ("Subnet", "Gateway", "IPRange"))
    for key, values in (("Gateway", gateways), ("IPRange", ranges)):
        if len(values) > len(subnets):
            raise InvalidQuadlet(f"[Network] there are more {key}= than Subnet=: write the subnet of each")
    words = []
    for index, subnet in enumerate(subnets):
        words += ["--subnet", subnet]
        words += ["--gateway", gateways[index]] if index < len(gateways) else []
        words += ["--ip-range", ranges[index]] if index < len(ranges) else []
    return words
