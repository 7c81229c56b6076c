"""The sockets of the API, inherited from systemd or configured, and who may use them.

A unix socket is for root and the group `fleet`, whatever its mode says. TCP is open to everybody who can connect, so it
needs insecure=true.
"""

import errno
import grp
import ipaddress
import os
import pwd
import socket
import stat
import struct
from collections.abc import Iterable, MutableMapping
from contextlib import suppress
from typing import Any

from fleetd.config.options import Address

GROUP = "fleet"
FIRST_INHERITED_FD = 3
_SO_PEERGROUPS = 59  # socket(7); Python has no name for it
_MAX_OPTION_BYTES = 1024  # bytes that getsockopt reads: 256 groups
_WHO = f"root and the group {GROUP}"


class ListenError(Exception):
    """The API cannot be served on an address; the message names the address, the cause and the remedy."""


def inherited_sockets(environ: MutableMapping[str, str], pid: int) -> list[socket.socket]:
    """The listening stream sockets that systemd passed to this process (sd_listen_fds(3)); clears its variables."""
    count = environ.pop("LISTEN_FDS", "0")
    owner = environ.pop("LISTEN_PID", "")
    environ.pop("LISTEN_FDNAMES", None)
    if owner != str(pid) or not count.isdecimal():
        return []
    sockets = []
    for descriptor in range(FIRST_INHERITED_FD, FIRST_INHERITED_FD + int(count)):
        os.set_inheritable(descriptor, False)
        if not stat.S_ISSOCK(os.fstat(descriptor).st_mode):
            continue
        inherited = socket.socket(fileno=descriptor)
        if inherited.type == socket.SOCK_STREAM and inherited.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            sockets.append(inherited)
        else:
            inherited.detach()
    return sockets


def check_exposure(where: str, host: str, insecure: bool) -> None:
    """Raises ListenError for a TCP address unless `insecure`: others than root could connect to it."""
    if insecure:
        return
    ip = ipaddress.ip_address(host.partition("%")[0])
    mapped = getattr(ip, "ipv4_mapped", None) or ip
    others = "every user of this machine" if mapped.is_loopback else "other machines"
    raise ListenError(
        f"cannot listen on {where}: {others} could connect, and every client of the API has root on the whole cluster; "
        "listen on a unix socket, or set insecure=true (--insecure) if everybody who can connect is trusted"
    )


def check_openness(inherited: socket.socket) -> str:
    """A warning if every user can connect to an inherited unix socket, else ''."""
    path = inherited.getsockname()
    if not isinstance(path, str) or not path:
        return f"an abstract socket was inherited, which every user can connect to: only {_WHO} are served"
    with suppress(OSError):
        if os.stat(path).st_mode & stat.S_IWOTH:
            return f"{path} is open to every user: only {_WHO} are served; set SocketMode=0660 in fleet.socket"
    return ""


def refuse_peer(connection: Any) -> str:
    """Why the peer of a unix socket connection is refused, '' if it is not.

    It must be root, fleetd's own user, or have the group `fleet` or the socket's group as its own or a supplementary
    group, as of the moment it connected (SO_PEERCRED, unix(7)). The socket's mode is not enough: it may have been
    widened by mistake, and an abstract socket has none.
    """
    _, user, group = struct.unpack("iII", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    if user in (0, os.geteuid()):
        return ""
    if {group, *_supplementary_groups(connection, user, group)} & _trusted_groups(connection.getsockname()):
        return ""
    return (
        f"user {user} is neither root nor in the group {GROUP}: usermod -aG {GROUP} USER gives it root on the cluster"
    )


def _supplementary_groups(connection: Any, user: int, group: int) -> Iterable[int]:
    try:
        groups = connection.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, _MAX_OPTION_BYTES)
    except OSError:  # more groups than fit
        with suppress(KeyError):
            return os.getgrouplist(pwd.getpwuid(user).pw_name, group)
        return ()
    return struct.unpack(f"{len(groups) // 4}I", groups)


def _trusted_groups(path: str | bytes) -> set[int]:
    trusted = set()
    with suppress(KeyError):
        trusted.add(grp.getgrnam(GROUP).gr_gid)
    if isinstance(path, str) and path:
        with suppress(OSError):
            trusted.add(os.stat(path).st_gid)
    return trusted


def open_metrics_socket(address: Address) -> socket.socket:
    """Listen on this address for metrics, which everybody may read. Raises ListenError."""
    return open_socket(address, insecure=True, group="", mode=0o666)


def open_socket(address: Address, insecure: bool, *, group: str = GROUP, mode: int = 0o660) -> socket.socket:
    """Listen on this address; `group` and `mode` are those of a unix socket. Raises ListenError."""
    try:
        return _open_unix(address.path, group, mode) if address.path else _open_tcp(address, insecure)
    except OSError as error:
        raise ListenError(f"cannot listen on {address}: {_explain(error)}") from error


def _explain(error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return "another process listens on it; stop that, or choose another address"
    if error.errno == errno.EADDRNOTAVAIL or isinstance(error, socket.gaierror):
        return "this machine has no such address; choose one that `ip address` shows"
    return error.strerror or str(error)


def _open_tcp(address: Address, insecure: bool) -> socket.socket:
    if not address.host and socket.has_dualstack_ipv6():
        check_exposure(str(address), "::", insecure)
        return socket.create_server(("", address.port), family=socket.AF_INET6, dualstack_ipv6=True)
    found = socket.getaddrinfo(address.host or "0.0.0.0", address.port, type=socket.SOCK_STREAM)  # noqa: S104 (checked)
    family, _, _, _, place = found[0]
    check_exposure(str(address), str(place[0]), insecure)
    return socket.create_server((str(place[0]), address.port), family=family)


def _open_unix(path: str, group: str, mode: int) -> socket.socket:
    _remove_stale(path)
    opened = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    umask = os.umask(0o777 & ~mode)  # others must not be able to connect even for a moment
    try:
        opened.bind(path)
        if group:
            with suppress(KeyError):
                os.chown(path, -1, grp.getgrnam(group).gr_gid)
        opened.listen()
    except OSError:
        opened.close()
        raise
    finally:
        os.umask(umask)
    return opened


def _remove_stale(path: str) -> None:
    """Remove a socket that nobody listens on. Raises OSError if somebody does, or if it is not a socket."""
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise FileExistsError(errno.EEXIST, "it exists and is not a socket")
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
            return
        except TimeoutError:
            pass  # its backlog is full: somebody listens
    raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
