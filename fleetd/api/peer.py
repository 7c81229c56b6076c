"""Who is at the other end of a unix socket, and which rights the groups of this machine give them.

The kernel tells user, groups and process as of the moment they connected (SO_PEERCRED, unix(7)). The socket may be open
to every user: one who has no rights is refused before anything is read of what they send.
"""

import grp
import os
import pwd
import socket
import struct
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any

import msgspec

from fleetd.model.permission import ADMIN_GROUP, EVERY_RIGHT, GROUP_RIGHTS, NO_RIGHTS, Rights

_SO_PEERGROUPS = 59  # socket(7); Python has no name for it
_MAX_OPTION_BYTES = 1024  # bytes that Python's getsockopt reads: 256 groups
_NO_LOGIN = 0xFFFFFFFF  # no user has logged in: a service


class Peer(msgspec.Struct, frozen=True):
    """A process that has connected. `groups` are its own group and the supplementary ones. `login` is the user who
    logged in, and became `user` by sudo or su since; None if nobody did. `is_foreign`: it runs in a container, whose
    users are not those of this machine."""

    user: int
    groups: frozenset[int] = frozenset()
    login: int | None = None
    is_foreign: bool = False


class PeerRights:
    """The rights of processes on this machine, by their groups."""

    def __init__(self, by_group: Mapping[int, tuple[str, Rights]] | None = None, *, is_user: bool = False) -> None:
        """`by_group` are the names and the rights of groups by their ids. `is_user`: this is the fleetd of a user,
        whose sockets belong to a group that others may be in, too."""
        self._by_group = by_group or {}
        self._is_user = is_user

    def find(self, peer: Peer, socket_group: int | None = None) -> tuple[Rights, tuple[str, ...]]:
        """The rights of a peer, and the groups that give them. Root, fleetd's own user and, unless that is an ordinary
        one, the group of the socket's file may do everything."""
        if peer.is_foreign:
            return NO_RIGHTS, ()
        if peer.user in (0, os.geteuid()) or (socket_group in peer.groups and not self._is_user):
            return EVERY_RIGHT, ()
        given = [self._by_group[group] for group in sorted(peer.groups & self._by_group.keys())]
        rights = NO_RIGHTS
        for _, each in given:
            rights |= each
        return rights, tuple(name for name, _ in given)

    def describe_refusal(self, peer: Peer) -> str:
        """What a process is told that may do nothing."""
        if peer.is_foreign:
            return (
                "the API does not serve processes in containers (another PID or user namespace), whose users are not "
                "those of this machine: run fleetctl on the machine itself, or use a TCP address"
            )
        if self._is_user:
            return (
                f"this is the fleetd of user {os.geteuid()}, and user {peer.user} is another: only that user and root "
                "may use it, and groups that role.GROUP names in its fleet.conf"
            )
        groups = ", ".join(GROUP_RIGHTS)
        return (
            f"user {peer.user} is neither root nor in one of the groups {groups}: usermod -aG {ADMIN_GROUP} USER lets "
            "a user do everything, the others let them see or operate (fleetd(8))"
        )


def resolve_groups(roles: Mapping[str, Rights], is_user: bool = False) -> tuple[PeerRights, list[str]]:
    """Look up the groups that have rights: those that always have, and `roles`, by name. Returns those of `roles` that
    this machine does not have, too. `is_user`: this is the fleetd of a user, which the groups of the system's fleetd
    have nothing to do with. It asks the name service, which may take seconds."""
    by_group: dict[int, tuple[str, Rights]] = {}
    missing = []
    for name, rights in {**({} if is_user else GROUP_RIGHTS), **roles}.items():
        try:
            by_group[grp.getgrnam(name).gr_gid] = (name, rights)
        except KeyError:
            missing += [name] if name in roles else []
    return PeerRights(by_group, is_user=is_user), missing


def identify_peer(connection: Any) -> Peer:
    """The process at the other end of a unix socket, as of the moment it connected."""
    pid, user, group = struct.unpack("iII", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    groups = frozenset({group, *_supplementary_groups(connection, pid)})
    return Peer(user, groups, _login(pid), _is_foreign(pid, user))


def socket_group(connection: Any) -> int | None:
    """The group of the socket's file; None for an abstract socket."""
    path = connection.getsockname()
    if isinstance(path, str) and path:
        with suppress(OSError):
            return os.stat(path).st_gid
    return None


def user_name(user: int) -> str:
    """The name of a user of this machine, or its number. It asks the name service, which may take seconds."""
    try:
        return pwd.getpwuid(user).pw_name
    except KeyError:
        return str(user)


def _supplementary_groups(connection: Any, pid: int) -> Iterable[int]:
    try:
        groups = connection.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, _MAX_OPTION_BYTES)
    except OSError:  # more groups than fit
        with suppress(OSError):
            return map(int, _status(pid, "Groups"))
        return ()
    return struct.unpack(f"{len(groups) // 4}I", groups)


def _login(pid: int) -> int | None:
    with suppress(OSError, ValueError), open(f"/proc/{pid}/loginuid", encoding="ascii") as file:
        login = int(file.read())
        return None if login == _NO_LOGIN else login
    return None


def _is_foreign(pid: int, user: int) -> bool:
    """True for a process in another PID or user namespace, and for one that has ended, of which nobody knows. Where
    fleetd itself runs in a container, root outside of it is no stranger: it could do everything there anyway.

    What says so is readable without CAP_SYS_PTRACE (proc_pid_status(5), user_namespaces(7)); the links in /proc/PID/ns
    are not.
    """
    if pid == 0:  # not visible from here: fleetd runs in a container, and the process does not
        return user != 0
    try:
        return len(_status(pid, "NSpid")) > 1 or _user_map(pid) != _user_map("self")
    except OSError:
        return True


def _user_map(pid: int | str) -> str:
    """How the users of a process's namespace are mapped to others. Raises OSError."""
    with open(f"/proc/{pid}/uid_map", encoding="ascii") as file:
        return file.read()


def _status(pid: int, field: str) -> list[str]:
    """The words of one field of /proc/PID/status. Raises OSError."""
    with open(f"/proc/{pid}/status", encoding="utf-8", errors="replace") as status:
        for line in status:
            if line.startswith(f"{field}:"):
                return line.split()[1:]
    return []
