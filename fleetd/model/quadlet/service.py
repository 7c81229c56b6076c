"""Service: the options of a unit while a service is made of it."""

from collections.abc import Iterable, Iterator, Sequence

from fleetd.model.quadlet.errors import InvalidQuadlet
from fleetd.model.quadlet.keys import CONTAINER, NETWORK, QUADLET, VOLUME
from fleetd.model.quadlet.section import Section
from fleetd.model.quadlet.words import join_words, split_words
from fleetd.model.unit_option import UnitOption
from fleetd.model.unitfile import join_continued

PODMAN = "/usr/bin/podman"
UNIT = "Unit"
SERVICE = "Service"

_NETWORK_ONLINE = "network-online.target"
_DEPENDENCIES = frozenset(
    {
        *("After", "Before", "BindsTo", "Conflicts", "OnFailure", "OnSuccess", "PartOf", "PropagatesReloadTo"),
        *("PropagatesStopTo", "ReloadPropagatedFrom", "Requires", "Requisite", "StopPropagatedFrom", "Upholds"),
        *("Wants",),
    }
)
_NO_UNITS_OF_FLEET = (".pod", ".kube", ".image", ".build")


class Service:
    """The options of a unit, to be read and changed."""

    def __init__(self, options: Iterable[UnitOption]) -> None:
        self.options = list(options)

    def last(self, section: str, key: str) -> str | None:
        """The last value of an option; None if there is none."""
        found = (each.value for each in reversed(self.options) if (each.section, each.name) == (section, key))
        return next(found, None)

    def add(self, section: str, key: str, value: str) -> None:
        """Append an option."""
        self.options.append(UnitOption(section, key, value))

    def add_command(self, key: str, words: Sequence[str], *, may_fail: bool = False) -> None:
        """Append a command to [Service]."""
        self.add(SERVICE, key, "-" * may_fail + join_words(words))

    def set(self, section: str, key: str, value: str) -> None:
        """Replace the last value of an option, or append it."""
        for index in reversed(range(len(self.options))):
            if (self.options[index].section, self.options[index].name) == (section, key):
                self.options[index] = UnitOption(section, key, value)
                return
        self.add(section, key, value)

    def put_first(self, options: Iterable[UnitOption]) -> None:
        """Put options before all others."""
        self.options[:0] = options

    def in_order(self) -> list[UnitOption]:
        """The options, those of [Unit] first."""
        return sorted(self.options, key=lambda each: each.section != UNIT)


def begin_service(options: Sequence[UnitOption]) -> Service:
    """The service of a file with these options: what systemd reads of them, and what podman needs on each machine.
    Raises InvalidQuadlet."""
    read = [each for each in options if each.section not in (CONTAINER, VOLUME, NETWORK, QUADLET)]
    service = Service(_translate_dependencies(read))
    if Section(QUADLET, options).boolean("DefaultDependencies") is not False:
        service.put_first(UnitOption(UNIT, key, _NETWORK_ONLINE) for key in ("Wants", "After"))
    service.add(UNIT, "RequiresMountsFor", "%t/containers")
    return service


def _translate_dependencies(options: Iterable[UnitOption]) -> Iterator[UnitOption]:
    """The options, with services where those of [Unit] name containers. Volumes and networks come with the container
    that names them, and are left out."""
    for option in options:
        if option.section == UNIT and option.name in _DEPENDENCIES:
            words = split_words(join_continued(option.value), unescape=False)
            names = [name for word in words if (name := _dependency(option.name, word))]
            if names == words:
                yield option
            elif names:
                yield UnitOption(UNIT, option.name, " ".join(names))
        else:
            yield option


def _dependency(key: str, name: str) -> str:
    """The unit that a dependency names; '' for what is no unit of its own."""
    if name.endswith(_NO_UNITS_OF_FLEET):
        raise InvalidQuadlet(f"[Unit] {key}={name}: fleet has no such units: remove it")
    if name.endswith((".volume", ".network")):
        return ""
    stem, dot, suffix = name.rpartition(".")
    return f"{stem}.service" if dot and suffix == "container" else name


def podman_of(section: Section) -> tuple[str, ...]:
    """How podman is called for a file with this section: with the modules and options that it gives to each command."""
    modules = [f"--module={module}" for module in section.all("ContainersConfModule")]
    return (PODMAN, *modules, *section.words("GlobalArgs"))


def absolute(path: str, key: str) -> str:
    """A path on the machine. Raises InvalidQuadlet for a relative one: the cluster does not keep where a file was. One
    that begins with a specifier is systemd's to resolve."""
    if path.startswith("/") or (path.startswith("%") and not path.startswith("%%")):
        return path
    raise InvalidQuadlet(
        f"{key}={path} is a path that is not absolute, and a machine has no folder of the file: write the whole path"
    )
