"""The sockets of the API, inherited from systemd or configured.

Every user may connect to a unix socket: peer.py says who is served. TCP is open to everybody who can connect. With TLS
clients are known by certificates (tls_listener.py); without, nobody is known, so that is for loopback alone, and needs
insecure=true.
"""

import errno
import ipaddress
import os
import socket
import stat
from collections.abc import MutableMapping

from fleetd.config.options import Address

_UNIX_MODE = 0o666
FIRST_INHERITED_FD = 3


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
    """Raises ListenError for a TCP address without TLS, but on loopback if `insecure`: not only root could connect."""
    ip = ipaddress.ip_address(host.partition("%")[0])
    is_loopback = (getattr(ip, "ipv4_mapped", None) or ip).is_loopback
    if is_loopback and insecure:
        return
    others = "every user of this machine" if is_loopback else "other machines"
    alone = "; or set insecure=true (--insecure) if every user of this machine is trusted" if is_loopback else ""
    raise ListenError(
        f"cannot listen on {where}: {others} could connect, and every client of the API has root on the whole cluster; "
        f"listen on https://{where}, where certificates say who the client is, or on a unix socket{alone}"
    )


def check_inherited(sock: socket.socket, insecure: bool) -> None:
    """Raises ListenError for an inherited TCP socket that others than root could connect to."""
    if sock.family == socket.AF_UNIX:
        return
    host, port = sock.getsockname()[:2]
    check_exposure(str(Address(host=host, port=port)), host, insecure)


def open_socket(address: Address, insecure: bool, *, for_anybody: bool = False) -> socket.socket:
    """Listen on this address. Without TLS a TCP address has to be on loopback, and `insecure`, unless what is served
    there is `for_anybody`. Every user may connect to a unix socket. Raises ListenError."""
    try:
        return _open_unix(address.path) if address.path else _open_tcp(address, insecure, for_anybody or address.tls)
    except OSError as error:
        raise ListenError(f"cannot listen on {address}: {_explain(error)}") from error


def _explain(error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return "another process listens on it; stop that, or choose another address"
    if error.errno == errno.EADDRNOTAVAIL or isinstance(error, socket.gaierror):
        return "this machine has no such address; choose one that `ip address` shows"
    return error.strerror or str(error)


def _open_tcp(address: Address, insecure: bool, for_anybody: bool) -> socket.socket:
    if not address.host and socket.has_dualstack_ipv6():
        if not for_anybody:
            check_exposure(str(address), "::", insecure)
        return socket.create_server(("", address.port), family=socket.AF_INET6, dualstack_ipv6=True)
    found = socket.getaddrinfo(address.host or "0.0.0.0", address.port, type=socket.SOCK_STREAM)  # noqa: S104 (checked)
    family, _, _, _, place = found[0]
    if not for_anybody:
        check_exposure(str(address), str(place[0]), insecure)
    return socket.create_server((str(place[0]), address.port), family=family)


def _open_unix(path: str) -> socket.socket:
    _remove_stale(path)
    opened = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    umask = os.umask(0o777 & ~_UNIX_MODE)
    try:
        opened.bind(path)
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
