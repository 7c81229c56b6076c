"""fleet-credentials: gives systemd the secrets of the units that it starts.

systemd connects to the socket for each `LoadCredential=NAME:/run/fleet/credentials.sock`, from an abstract address that
names the unit and the credential (systemd.exec(5)), and takes what it reads until the end. What a unit may have stands
below /run/fleet/credentials, sealed to this machine's key: fleetd puts it there before it starts the unit, so that this
process needs neither fleetd nor the store.

The end of a connection is the end of the value. So nothing is ever refused by ending it: an early end would be an empty
password. More than systemd takes for a credential is sent instead, and systemd then does not start the unit. If this
process is killed, systemd keeps the connections open (FileDescriptorStoreMax= in systemd.service(5)), and the next one
refuses them.
"""

import os
import select
import signal
import socket
import struct
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec

from fleetd.trust.credentials_wire import Delivered
from fleetd.trust.sealing import open_value, read_seal_key
from fleetd.trust.tpm import Tpm

DIRECTORY = Path("/run/fleet/credentials")
SEAL_KEY = Path("/var/lib/fleet/trust/seal.key")
IDLE_S = 30.0  # until the process ends; the socket stays, and starts it again
TIMEOUT_S = 60.0  # for systemd to read
TOO_MUCH = 8 * 1024 * 1024  # bytes; systemd refuses a credential of more than 1 MiB
_LISTEN_FD = 3  # sd_listen_fds(3)
_CREDENTIALS = struct.Struct("3i")  # of SO_PEERCRED: pid, uid, gid


class Refused(Exception):
    """Nothing is given. The message says to whom and why."""


def parse_address(address: bytes | str) -> tuple[str, str]:
    """The unit and the credential that systemd names in the address from which it connects. Raises Refused."""
    text = (address if isinstance(address, bytes) else address.encode()).decode(errors="replace")
    _, marker, rest = text.partition("/unit/")
    unit, slash, name = rest.partition("/")
    if not text.startswith("\0") or not marker or not slash or not (_is_file_name(unit) and _is_file_name(name)):
        raise Refused(f"a client connected from {text!r}: only systemd gets anything here, with LoadCredential=")
    return unit, name


def _is_file_name(name: str) -> bool:
    return name not in ("", ".", "..") and "/" not in name and "\0" not in name


def find_value(
    unit: str, name: str, directory: Path = DIRECTORY, seal_key: Path = SEAL_KEY, tpm: Tpm | None = None
) -> tuple[bytes, int]:
    """The value that this unit is given, and its version; without `tpm`, no TPM is used. Raises Refused."""
    path = directory / unit / name
    try:
        found = msgspec.json.decode(path.read_bytes(), type=Delivered)
        return open_value(read_seal_key(seal_key, tpm), name, found.version, found.key, found.box), found.version
    except FileNotFoundError as error:
        if error.filename == os.fspath(seal_key):
            raise Refused(f"{unit}: cannot open the secret {name}: there is no {seal_key}") from error
        raise Refused(
            f"{unit} asks for the secret {name}, which fleetd has not given it: its unit file has to say Secret={name} "
            "in [X-Fleet]"
        ) from error
    except (OSError, ValueError) as error:
        raise Refused(f"{unit}: cannot open the secret {name}: {error}") from error


class DescriptorStore:
    """systemd's store of this service's file descriptors (sd_pid_notify_with_fds(3)), reached at the address of
    $NOTIFY_SOCKET; with '', nothing is kept."""

    def __init__(self, address: str) -> None:
        self._address = address.replace("@", "\0", 1) if address.startswith("@") else address

    @contextmanager
    def keep(self, connection: socket.socket, label: str) -> Iterator[None]:
        """Have systemd keep a connection open until the end of the context."""
        self._notify(f"FDSTORE=1\nFDNAME={label}", [connection.fileno()])
        try:
            yield
        finally:
            self._notify(f"FDSTOREREMOVE=1\nFDNAME={label}", [])

    def _notify(self, message: str, descriptors: list[int]) -> None:
        if not self._address:
            return
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
            notify.connect(self._address)
            socket.send_fds(notify, [message.encode()], descriptors)


class Service:
    """Serves one listening socket. `owner` is the user id whose processes are answered, `store` keeps connections open
    if this process is killed, `tpm` opens the seal key if that is bound to one."""

    def __init__(
        self,
        directory: Path = DIRECTORY,
        seal_key: Path = SEAL_KEY,
        owner: int = 0,
        store: "DescriptorStore | None" = None,
        tpm: Tpm | None = None,
    ) -> None:
        self._directory = directory
        self._seal_key = seal_key
        self._owner = owner
        self._store = store or DescriptorStore("")
        self._tpm = tpm

    def serve(self, listener: socket.socket, idle_s: float = IDLE_S, ends: int = -1) -> None:
        """Answer connections until none has come for so long, or the file descriptor `ends` can be read. Those that
        have begun are answered to their end."""
        waits_for: list[socket.socket | int] = [listener, *([ends] if ends >= 0 else [])]
        threads: list[threading.Thread] = []
        number = 0
        while True:
            ready, _, _ = select.select(waits_for, [], [], idle_s)
            if listener not in ready or ends in ready:
                break
            connection, address = listener.accept()
            number += 1
            thread = threading.Thread(target=self.answer, args=(connection, address, f"{os.getpid()}-{number}"))
            thread.start()
            threads = [thread, *(each for each in threads if each.is_alive())]
        for thread in threads:
            thread.join()

    def answer(self, connection: socket.socket, address: bytes | str, label: str = "connection") -> None:
        """Answer one connection, which this process knows by a label."""
        with connection, self._store.keep(connection, label):
            connection.settimeout(TIMEOUT_S)
            try:
                _, user, _ = _CREDENTIALS.unpack(
                    connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
                )
                if user != self._owner:
                    raise Refused(f"a client of user {user} asked for a secret")
                unit, name = parse_address(address)
                value, version = find_value(unit, name, self._directory, self._seal_key, self._tpm)
            except Refused as refusal:
                _say(f"<4>{refusal}")
                _refuse(connection)
                return
            except BaseException:
                _refuse(connection)
                raise
            try:
                connection.sendall(value)
            except OSError as error:
                _say(f"<4>{unit}: the secret {name} was not taken: {error}")
            else:
                _say(f"<6>{unit}: gave version {version} of the secret {name}")


def _refuse(connection: socket.socket) -> None:
    """Send more than any credential may have. A client that goes meanwhile has got no end."""
    block = bytes(65536)
    try:
        for _ in range(TOO_MUCH // len(block)):
            connection.sendall(block)
    except OSError:
        pass


def _say(text: str) -> None:
    """Write a line for the journal, with its priority (sd-daemon(3))."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve the socket that systemd passes. Returns the exit status."""
    given = sys.argv[1:] if arguments is None else arguments
    count = int(os.environ.get("LISTEN_FDS", "0")) if os.environ.get("LISTEN_PID") == str(os.getpid()) else 0
    if given or count < 1:
        _say("fleet-credentials takes no arguments, and is started by systemd alone: systemctl start "
             "fleet-credentials.socket")  # fmt: skip
        return 1
    ends, wakes = os.pipe()
    os.set_blocking(wakes, False)
    signal.set_wakeup_fd(wakes)
    signal.signal(signal.SIGTERM, lambda *_: None)
    store = DescriptorStore(os.environ.get("NOTIFY_SOCKET", ""))
    labels = os.environ.get("LISTEN_FDNAMES", "").split(":")
    listeners = []
    for inherited, label in zip(range(_LISTEN_FD, _LISTEN_FD + count), labels, strict=False):
        found = socket.socket(fileno=inherited)
        if found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            listeners.append(found)
        else:
            threading.Thread(target=_refuse_left_behind, args=(found, store, label)).start()
    Service(store=store, tpm=Tpm()).serve(listeners[0], ends=ends)
    return 0


def _refuse_left_behind(connection: socket.socket, store: DescriptorStore, label: str) -> None:
    """Refuse a connection of a process before this one, which has given a part of a value, or nothing."""
    _say("<4>the process before was killed: a unit that it was giving a secret does not start")
    with connection, store.keep(connection, label):
        connection.settimeout(TIMEOUT_S)
        _refuse(connection)


if __name__ == "__main__":
    sys.exit(main())
