"""The types of version 2 that are about logs and states; schema.py has them too, under the same names."""

from typing import Any

import msgspec

# GET /fleet/v2/status


class UnitStatus(msgspec.Struct, frozen=True, omit_defaults=True):
    """A unit on one machine, as its systemd describes it: `properties` are systemd's own, as `systemctl show` has them.
    `log` are the last entries of its journal there, oldest first, as systemd's JSON."""

    unit: str
    machine: str
    address: str = ""
    properties: dict[str, str] = {}
    log: tuple[dict[str, Any], ...] = ()


class SilentMachine(msgspec.Struct, frozen=True, omit_defaults=True):
    """A machine that was asked, and why it did not answer."""

    machine: str
    failure: str
    address: str = ""


class UnitStatuses(msgspec.Struct, frozen=True, omit_defaults=True):
    """The answer to GET /fleet/v2/status: units by name and machine, and the machines that did not answer."""

    units: tuple[UnitStatus, ...] = ()
    silent: tuple[SilentMachine, ...] = ()
