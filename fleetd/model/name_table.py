"""The name table: which names of the cluster's domain stand for what, as seen from one machine. Pure.

fleetd writes it to a file, and fleet-dns answers from that. Below the domain there are

    web                     the addresses at which units announce the service web
    _web._tcp               the same with ports, for SRV
    web@1.service.unit      the addresses of the machines where this unit announces something; also web@1.unit, and
                            web-1.unit, as many programs refuse a @ in the name of a host
    1f23a9c4.machine        the address of a machine, by its id or the first eight characters of it
"""

import ipaddress
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import msgspec

from fleetd.model.announcement import Announcement
from fleetd.model.decoding import FORMAT, UNREADABLE
from fleetd.model.machine import SHORT_ID_LENGTH, is_address

SAME_MACHINE, SAME_ZONE, ELSEWHERE = 1, 2, 3  # priorities: lower ones are asked first
MAX_NAME_BYTES = 255  # of a whole name, each label with its length, and the root
_MAX_LABEL_BYTES = 63

Labels = tuple[str, ...]  # in lower case, without the domain's


class NamedMachine(msgspec.Struct, frozen=True):
    """A machine, and the address at which others reach it: an IP address or a host name."""

    id: str
    address: str


class NameTable(msgspec.Struct, frozen=True, tag_field="format", tag=FORMAT):
    """All that names are made of. `domain` is in lower case and without a final dot; `listen` are the addresses where
    questions are answered, as HOST:PORT; `machine` and `zone` are those of the machine that asks ('': no zone)."""

    domain: str
    listen: tuple[str, ...]
    machine: str
    zone: str = ""
    machines: tuple[NamedMachine, ...] = ()
    announcements: tuple[Announcement, ...] = ()


def encode(table: NameTable) -> bytes:
    """The file. Equal tables have equal files."""
    ordered = msgspec.structs.replace(
        table,
        machines=tuple(sorted(table.machines, key=lambda each: each.id)),
        announcements=tuple(sorted(table.announcements)),
    )
    return msgspec.json.encode(ordered) + b"\n"


def decode(content: bytes) -> NameTable:
    """The table in a file. Raises ValueError if there is none that this version can read."""
    try:
        return msgspec.json.decode(content, type=NameTable)
    except UNREADABLE as error:
        raise ValueError(f"it holds no name table: {error}") from error


class ServiceTarget(NamedTuple):
    """Where a service is: the target of an SRV record, which is a name without a final dot."""

    priority: int
    port: int
    host: str


class NameData(msgspec.Struct, frozen=True):
    """What a name has. With nothing at all, it exists because longer names end with it.

    `addresses` are IP addresses by priority, the nearest first. `alias` is the host name that the name stands for
    instead, '' for none."""

    addresses: tuple[tuple[str, ...], ...] = ()
    services: tuple[ServiceTarget, ...] = ()
    alias: str = ""

    @property
    def turns(self) -> int:
        """In how many orders the addresses can be told so that each of the same priority is the first one once."""
        return max(map(len, self.addresses), default=1)

    def addresses_at(self, turn: int) -> list[str]:
        """The addresses, those of each priority rotated so often."""
        return [group[(at + turn) % len(group)] for group in self.addresses for at in range(len(group))]


class Names:
    """All names of a table, ready to be looked up."""

    def __init__(self, table: NameTable) -> None:
        self._table = table
        self._domain_bytes = sum(len(label) + 1 for label in table.domain.split(".")) + 1
        self._addresses: dict[Labels, dict[str, int]] = {}  # name → IP address → its lowest priority
        self._services: dict[Labels, set[ServiceTarget]] = {}
        self._aliases: dict[Labels, str] = {}
        self._add_machines()
        self._add_announcements()
        self._parents = {name[at:] for name in self._every() for at in range(1, len(name) + 1)}

    def find(self, name: Labels) -> NameData | None:
        """What this name below the domain has, in lower case; () is the domain itself. None: there is no such name."""
        addresses, services = self._addresses.get(name), self._services.get(name)
        alias = "" if addresses else self._aliases.get(name, "")
        if not (addresses or services or alias):
            return NameData() if name in self._parents or not name else None
        groups = (
            tuple(sorted(address for address, found in (addresses or {}).items() if found == priority))
            for priority in (SAME_MACHINE, SAME_ZONE, ELSEWHERE)
        )
        return NameData(tuple(filter(None, groups)), tuple(sorted(services or ())), alias)

    def _every(self) -> Iterator[Labels]:
        yield from self._addresses
        yield from self._services
        yield from self._aliases

    def _add_machines(self) -> None:
        """Name the machines: what they announce says where they are, for what announces nothing its record does."""
        table = self._table
        found: dict[str, set[str]] = {}
        for announcement in table.announcements:
            found.setdefault(announcement.machine, set()).add(announcement.address)
        for machine in table.machines:
            found.setdefault(machine.id, {machine.address})
        short: dict[str, int] = {}
        for id_ in found:
            short[id_[:SHORT_ID_LENGTH]] = short.get(id_[:SHORT_ID_LENGTH], 0) + 1
        self._unambiguous = {prefix for prefix, count in short.items() if count == 1}
        for id_, addresses in found.items():
            for text in {id_, self._name_of(id_)}:
                for address in sorted(addresses):
                    self._add_address(_labels(f"{text}.machine"), address, SAME_MACHINE)

    def _add_announcements(self) -> None:
        units: dict[str, list[Announcement]] = {}
        for announcement in self._table.announcements:
            units.setdefault(announcement.unit, []).append(announcement)
            priority, address = self._priority(announcement), announcement.address
            self._add_ip((announcement.service.lower(),), address, priority)
            name = (f"_{announcement.service.lower()}", f"_{announcement.protocol}")
            if (host := self._host_of(announcement)) and self._fits(name):
                self._services.setdefault(name, set()).add(ServiceTarget(priority, announcement.port, host))
        for unit, announcements in units.items():
            for text in {unit, unit.rpartition(".")[0]}:
                self._add_unit(text, announcements)
        for unit, announcements in units.items():
            plain = unit.rpartition(".")[0].replace("@", "-")
            if _labels(f"{plain}.unit") not in self._addresses:
                self._add_unit(plain, announcements)

    def _add_unit(self, name: str, announcements: Iterable[Announcement]) -> None:
        for announcement in announcements:
            self._add_ip(_labels(f"{name}.unit"), announcement.address, self._priority(announcement))

    def _priority(self, announcement: Announcement) -> int:
        if announcement.machine == self._table.machine:
            return SAME_MACHINE
        return SAME_ZONE if self._table.zone and announcement.zone == self._table.zone else ELSEWHERE

    def _host_of(self, announcement: Announcement) -> str:
        """The name at which an SRV record finds the address of an announcement; '' if no name has it."""
        if not _ip(announcement.address):
            return _host_name(announcement.address)
        name = _labels(f"{self._name_of(announcement.machine)}.machine")
        return ".".join((*name, self._table.domain)) if name in self._addresses else ""

    def _name_of(self, machine: str) -> str:
        """The short id of a machine, or the whole one where another begins the same."""
        short = machine[:SHORT_ID_LENGTH]
        return short if short in self._unambiguous else machine

    def _add_address(self, name: Labels, address: str, priority: int) -> None:
        if _ip(address):
            self._add_ip(name, address, priority)
        elif (host := _host_name(address)) and self._fits(name):
            self._aliases[name] = host

    def _add_ip(self, name: Labels, address: str, priority: int) -> None:
        """Only addresses that any program can connect to: a link-local one of IPv6 needs an interface."""
        if (found := _ip(address)) and self._fits(name):
            known = self._addresses.setdefault(name, {})
            known[found] = min(priority, known.get(found, priority))

    def _fits(self, name: Labels) -> bool:
        return (
            sum(len(label) + 1 for label in name) + self._domain_bytes <= MAX_NAME_BYTES
            and all(map(_is_label, name))
        )  # fmt: skip


def _is_label(label: str) -> bool:
    return 0 < len(label) <= _MAX_LABEL_BYTES and label.isascii()


def _host_name(address: str) -> str:
    """The host name in lower case without a final dot; '' if it is none that a DNS name can stand for."""
    name = address.lower().removesuffix(".")
    return name if is_address(name) and ":" not in name and all(map(_is_label, name.split("."))) else ""


def _labels(name: str) -> Labels:
    return tuple(name.lower().split("."))


def _ip(address: str) -> str:
    """The IP address in its shortest form, '' if it is none."""
    try:
        return str(ipaddress.ip_address(address)) if "%" not in address else ""
    except ValueError:
        return ""
