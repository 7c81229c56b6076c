"""What a person may do: permissions, each for all units or for those of certain names. Pure."""

import re
from collections.abc import Iterable, Mapping
from enum import StrEnum

import msgspec

from fleetd.model.globs import Globs, share_globs
from fleetd.model.names import glob_expression, literal_prefix

EVERY_NAME = "*"


class Permission(StrEnum):
    """What may be done. Everybody who has one of them may view."""

    VIEW = "view"  # read: units, states, machines, settings
    OPERATE = "operate"  # start, stop, restart, scale, move, drain, pause … what exists
    SUBMIT = "submit"  # write and destroy unit files, and what OPERATE allows: a unit file says what root runs
    ADMIN = "admin"  # everything, settings of the cluster and reboots included


_INCLUDED: Mapping[Permission, frozenset[Permission]] = {
    Permission.VIEW: frozenset({Permission.VIEW}),
    Permission.OPERATE: frozenset({Permission.VIEW, Permission.OPERATE}),
    Permission.SUBMIT: frozenset({Permission.VIEW, Permission.OPERATE, Permission.SUBMIT}),
    Permission.ADMIN: frozenset(Permission),
}


class Grant(msgspec.Struct, frozen=True, order=True):
    """One permission for the units whose names match a glob pattern."""

    permission: Permission
    pattern: str = EVERY_NAME

    def __str__(self) -> str:
        return f"{self.permission}:{self.pattern}"


class Rights:
    """What somebody may do: all grants of their roles together."""

    def __init__(self, grants: Iterable[Grant] = ()) -> None:
        self.grants = tuple(dict.fromkeys(grants))
        self._names: dict[Permission, Globs] = {
            permission: share_globs(
                tuple(grant.pattern for grant in self.grants if permission in _INCLUDED[grant.permission])
            )
            for permission in Permission
        }

    def allow(self, permission: Permission) -> bool:
        """True if they have this permission for some units at least."""
        return bool(self._names[permission])

    def allow_for(self, permission: Permission, name: str) -> bool:
        """True if they have this permission for the unit, or with EVERY_NAME for whatever there is."""
        if permission is Permission.VIEW:
            return self.allow(permission)
        names = self._names[permission]
        return EVERY_NAME in names or (name != EVERY_NAME and names.match(name))

    def cover(self, permission: Permission, pattern: str) -> bool:
        """True if they have this permission for every unit that the glob pattern may match."""
        prefix = literal_prefix(pattern)
        if prefix == pattern:
            return self.allow_for(permission, pattern)
        ends_open = (own[:-1] for own in self._names[permission] if own.endswith("*"))
        return any(literal_prefix(own) == own and prefix.startswith(own) for own in ends_open)

    def find_excess(self, wanted: "Rights") -> Grant | None:
        """The first of the wanted rights that goes beyond these; None if there is none."""
        return next((grant for grant in wanted.grants if not self._cover_grant(grant)), None)

    def _cover_grant(self, grant: Grant) -> bool:
        if grant.permission is Permission.VIEW:  # which is for everything, whatever else it comes from
            return self.allow(Permission.VIEW)
        return self.cover(grant.permission, grant.pattern)

    def __or__(self, other: "Rights") -> "Rights":
        return Rights((*self.grants, *other.grants))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Rights) and set(self.grants) == set(other.grants)

    def __hash__(self) -> int:
        return hash(frozenset(self.grants))

    def __bool__(self) -> bool:
        return bool(self.grants)

    def __repr__(self) -> str:
        return f"Rights({', '.join(map(str, self.grants))})"


NO_RIGHTS = Rights()
EVERY_RIGHT = Rights([Grant(Permission.ADMIN)])

# The groups of a machine whose members have these rights on the whole cluster.
ADMIN_GROUP = "fleet"
GROUP_RIGHTS: Mapping[str, Rights] = {
    "fleet-view": Rights([Grant(Permission.VIEW)]),
    "fleet-operate": Rights([Grant(Permission.OPERATE)]),
    ADMIN_GROUP: EVERY_RIGHT,
}

_GROUP_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,30}\$?", re.ASCII)


def refuse_group_name(name: str) -> str:
    """Why this is no name of a group that a role can be given; '' if it is one."""
    if not _GROUP_NAME.fullmatch(name):
        return f"{name!r} is not the name of a group"
    return f"the rights of the group {name} are fixed" if name in GROUP_RIGHTS else ""


def parse_rights(text: str) -> Rights:
    """Parse `PERMISSION[:PATTERN],…` (`operate:web-*,submit:web-*`). Raises ValueError."""
    items = [item.strip() for item in text.split(",")]
    return Rights(_parse_grant(item) for item in items if item)


def _parse_grant(item: str) -> Grant:
    word, colon, pattern = item.partition(":")
    try:
        permission = Permission(word)
    except ValueError as error:
        known = ", ".join(Permission)
        raise ValueError(f"{word!r} is no permission; write one of {known}, and a pattern: operate:web-*") from error
    if not colon:
        return Grant(permission)
    if permission in (Permission.VIEW, Permission.ADMIN) and pattern != EVERY_NAME:
        raise ValueError(f"{item!r}: {permission} is for everything; write {permission} alone")
    if not pattern or glob_expression(pattern) is None:
        raise ValueError(f"{item!r} has no valid pattern of unit names; write one like {permission}:web-*")
    return Grant(permission, pattern)
