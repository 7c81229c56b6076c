"""Announcements: under which names, and on which ports, the units of a machine answer. Pure.

A unit announces itself with Announce= (announce_options.py). The agent of its machine writes one record for each name,
and deletes it; the leader deletes those of a machine that it judges dead. No lease ends them: a store that was frozen
drops the leases of machines that are alive.
"""

import re

import msgspec

from fleetd.model.decoding import FORMAT

ZONE = "zone"  # the key of a machine's metadata that says where it is
TTL_S = 1.0  # for so long others may keep an answer to the question where a name is
SETTLED_S = TTL_S + 1.0  # announced for so long: others have asked again
NOT_SETTLED = f"announced for less than {SETTLED_S:g} s"
PROTOCOLS = ("tcp", "udp")
MAX_PORT = 65535

_LABEL = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?", re.ASCII)


def refuse_service_name(name: str) -> str:
    """Why no unit can announce this name, or ''."""
    if _LABEL.fullmatch(name):
        return ""
    shown = "".join(filter(str.isprintable, name))[:80]
    return (
        f'"{shown}" is no label of a DNS name: it has to hold lower-case letters, digits and "-" only, neither to '
        'begin nor to end with "-", and to have 1 to 63 characters'
    )


class ServicePort(msgspec.Struct, frozen=True, order=True, gc=False):
    """A port, 1 to MAX_PORT, of one of PROTOCOLS."""

    port: int
    protocol: str = "tcp"

    def __str__(self) -> str:
        return str(self.port) if self.protocol == "tcp" else f"{self.port}/{self.protocol}"


class Announcement(msgspec.Struct, frozen=True, order=True, gc=False):
    """One unit on one machine that is at work, and answers to the name `service` at this address and port. `zone` is
    that of its machine, '' if it has none."""

    service: str
    unit: str
    machine: str
    address: str
    port: int
    protocol: str
    zone: str = ""


class ServiceRecord(msgspec.Struct, frozen=True, omit_defaults=True, gc=False, tag_field="format", tag=FORMAT):
    """What one unit on one machine announces under one name. Stored under `services/<service>/<machine>/<unit>`, on no
    lease. `failing` is why its check fails, '' while it passes: one that fails is shown to people, and announces
    nothing. The names are those of the key, and not part of the stored value."""

    address: str = ""
    ports: tuple[ServicePort, ...] = ()
    zone: str = ""
    failing: str = ""
    service: str = ""
    machine: str = ""
    unit: str = ""

    def announcements(self) -> tuple[Announcement, ...]:
        """What is announced: one for each port, none while the check fails, or if the machine has no address."""
        if self.failing or not self.address:
            return ()
        return tuple(
            Announcement(self.service, self.unit, self.machine, self.address, each.port, each.protocol, self.zone)
            for each in self.ports
        )
