"""Who makes a request."""

from collections.abc import Iterable, Iterator, Sequence

import msgspec

from fleetd.model.announce_options import ANNOUNCE, announced_names
from fleetd.model.constraints import parse_requirements
from fleetd.model.install import parse_install
from fleetd.model.isolation_options import LOCK, lock_names
from fleetd.model.names import parse_name
from fleetd.model.permission import EVERY_NAME, NO_RIGHTS, Permission, Rights
from fleetd.model.unit_option import UnitOption

MAX_NAME = 64  # characters


class Actor(msgspec.Struct, frozen=True):
    """The user or the service that makes a request. `name` is for people ('' if unknown): records keep it as `by`.
    `identity` is what the audit keeps, with what fleetd knows for certain (`uid:1000(ann)`). `rights` are what they may
    do. `groups` are the groups of this machine that give them their rights."""

    name: str = ""
    identity: str = ""
    rights: Rights = NO_RIGHTS
    groups: tuple[str, ...] = ()

    def refuse(self, permission: Permission, names: Iterable[str] = (EVERY_NAME,)) -> str:
        """Why they may not do this to these units; '' if they may."""
        for name in names:
            if not self.rights.allow_for(permission, name):
                return refusal(self.name, permission, name)
        return ""

    def refuse_content(self, name: str, options: Sequence[UnitOption]) -> str:
        """Why they may not submit a unit of this name with these options: it names other units, which it
        replaces, takes the names of, or has depend on it, or secrets or locks, or announces the name of others. '' if
        they may."""
        if self.rights.allow_for(Permission.SUBMIT, EVERY_NAME):
            return ""
        for option, pattern in _named_units(name, options):
            if not self.rights.cover(Permission.SUBMIT, pattern):
                return f"{option}={pattern}: {refusal(self.name, Permission.SUBMIT, pattern)}"
        for service in announced_names(options, parse_name(name)):
            if not any(self.rights.cover(Permission.SUBMIT, unit) for unit in _units_named(service)):
                return f"{ANNOUNCE}={service}: {refusal(self.name, Permission.SUBMIT, service)}"
        return ""


def _named_units(name: str, options: Sequence[UnitOption]) -> Iterator[tuple[str, str]]:
    """The options of a unit file that concern other units, secrets and locks, each with the name or pattern of one.
    Targets are those of the system."""
    parsed = parse_name(name)
    yield from (("Replaces", pattern) for pattern in parse_requirements(options, parsed).replaces)
    yield from (("Secret", name) for name in parse_requirements(options, parsed).secrets)
    yield from ((LOCK, lock) for lock in lock_names(options, parsed))
    install = parse_install(options, parsed)
    yield from (("Alias", alias) for alias in install.aliases)
    yield from ((option, unit) for option, unit in install.dependents if not unit.endswith(".target"))


def _units_named(service: str) -> tuple[str, ...]:
    """The names whose owner may have others find this name, too: who may submit one of these."""
    return service, f"{service}.service", f"{service}@.service"


def refusal(who: str, permission: Permission, name: str = EVERY_NAME) -> str:
    """The words for somebody who lacks a permission for the unit of this name."""
    what = "" if name == EVERY_NAME or permission is Permission.ADMIN else f":{name}"
    groups = {Permission.VIEW: "fleet-view", Permission.OPERATE: "fleet-operate"}
    group = groups.get(permission, "fleet")
    return (
        f"{who or 'you'} may not do this: it needs the permission {permission}{what}, which the group {group} of the "
        f"machine that is asked gives, or role.GROUP={permission}{what} in its fleet.conf"
    )


def claimed_name(values: Iterable[str]) -> str:
    """Who asks, as the first value of the header Fleet-User says; '' if it does not say. Nobody has checked it: it is
    for people to read."""
    given = next(iter(values), "")
    return "".join(filter(str.isprintable, given))[:MAX_NAME]
