"""The types of version 2 that are about what machines are asked: logs, states of units, and images. schema.py has them
too, under the same names."""

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


# POST /fleet/v2/images


class ImageQuestion(msgspec.Struct, frozen=True):
    """An image, as REGISTRY/NAME:TAG."""

    image: str


class ResolvedImage(msgspec.Struct, frozen=True, omit_defaults=True):
    """The image by its digest at this moment, as REGISTRY/NAME@sha256:…; without it, `reason` says why no registry
    could be asked."""

    image: str
    resolved: str = ""
    reason: str = ""
