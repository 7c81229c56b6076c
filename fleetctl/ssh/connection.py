"""SSH connections: connect, check the host key, authenticate. Every failure is an SshFailed with cause and remedy.

It imports paramiko, which is slow: import it only to connect.
"""

import atexit
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from typing import Any

import paramiko

from fleetctl import output
from fleetctl.errors import SshFailed, cause_of
from fleetctl.settings import HostKeyChecking, Settings
from fleetctl.ssh.channels import CHANNEL_ERRORS
from fleetctl.ssh.config import Login, plan_login, split_host_port, split_user
from fleetctl.ssh.identities import gather_identities
from fleetctl.ssh.known_hosts import NO_RECORD, HostKey, KeyStatus, KnownHosts, Record, host_names, preferred_kinds
from fleetd.model.machine import is_address

KEEPALIVE_S = 15
BREAKING_S = 0.3
DEAD_AFTER_S = 45  # without an acknowledgement from the network
_RSA_SIGNATURES = ("rsa-sha2-512", "rsa-sha2-256")  # signatures to request of a host with an ssh-rsa key

# Its errors arrive as exceptions; what it logs, tracebacks among them, would garble our output.
logging.getLogger("paramiko").addHandler(logging.NullHandler())
logging.getLogger("paramiko").propagate = False

# Held while a question is on the screen: connections are made in parallel, questions asked one at a time.
asking = threading.Lock()


class Connection:
    """An authenticated connection. `where` names it in errors, `agent_socket` is its agent's socket.

    `jump` is the connection that it goes through, closed with it.
    """

    def __init__(
        self,
        transport: paramiko.Transport,
        where: str,
        timeout_s: float,
        jump: "Connection | None" = None,
        agent_socket: str = "",
    ) -> None:
        self._transport = transport
        self._jump = jump
        self._timeout_s = timeout_s
        self.where = where
        self.agent_socket = agent_socket

    @property
    def is_alive(self) -> bool:
        return bool(self._transport.is_active())

    def has_broken(self) -> bool:
        """True if a channel ended because the connection did; channels notice that a little earlier."""
        self._transport.join(BREAKING_S)
        return not self.is_alive

    def open_session(self) -> paramiko.Channel:
        """A channel for one command. Raises SshFailed."""
        try:
            return self._transport.open_session(timeout=self._timeout_s)
        except CHANNEL_ERRORS as error:
            raise self._refusal(f"refuses to open a session: {_describe(error)}") from error

    def open_tcp(self, host: str, port: int) -> paramiko.Channel:
        """A TCP connection from the other end, which also resolves the name. Raises SshFailed."""
        try:
            return self._transport.open_channel("direct-tcpip", (host, port), ("127.0.0.1", 0), timeout=self._timeout_s)
        except CHANNEL_ERRORS as error:
            raise self._refusal(f"cannot connect on to {host} port {port}: {_describe(error)}") from error

    def lost(self) -> SshFailed:
        """The error for a lost connection."""
        cause = self._transport.get_exception()
        why = f": {_describe(cause)}" if cause else ""
        return SshFailed(f"the connection to {self.where} was lost{why}; check the network, and run the command again")

    def _refusal(self, why: str) -> SshFailed:
        return SshFailed(f"{self.where} {why}") if self.is_alive else self.lost()

    def close(self) -> None:
        self._transport.close()
        if self._jump:
            self._jump.close()


def connect_to_bastion(settings: Settings) -> Connection:
    """A connection to the host of --tunnel. Raises SshFailed."""
    user, place = split_user(settings.tunnel)
    host, port = split_host_port(place)
    return connect(settings, plan_login(settings, host, port, user))


def connect_to_machine(
    settings: Settings, address: str, port: int, bastion: Connection | None, record: Record
) -> Connection:
    """A connection to a machine, over the bastion if there is one; `port` is used if the address has none. The host key
    has to be one of those in the machine's record, if that has any.

    The address comes from the cluster, and ssh's configuration may pass it to a shell: so it is validated first.
    Raises SshFailed.
    """
    host, own_port = split_host_port(address)
    if not is_address(host):
        raise SshFailed(f"{address!r} is not an address: set public_ip in that machine's fleet.conf")
    login = plan_login(settings, host, own_port or port, is_direct=bastion is None)
    return connect(settings, login, bastion, record)


def connect(
    settings: Settings, login: Login, through: Connection | None = None, record: Record = NO_RECORD
) -> Connection:
    """Connect (through the ProxyJump, which no record is about), check the host key, log in: each within --ssh-timeout.
    Raises SshFailed."""
    jump = connect(settings, login.jump) if login.jump and not through else None
    try:
        return _connect(settings, login, through or jump, jump, record)
    except BaseException:
        if jump:
            jump.close()
        raise


def _connect(
    settings: Settings, login: Login, through: Connection | None, jump: Connection | None, record: Record
) -> Connection:
    where = str(login) + (f" (through {through.where})" if through else "")
    output.debug(f"connecting to {where}")
    stream, peer = _open(login, settings.ssh_timeout_s, through)
    transport = paramiko.Transport(stream)
    try:
        names = [login.alias] if login.alias else host_names([login.asked, login.host, *peer], login.port)
        known_hosts = _read_known_hosts(settings)
        wanted = preferred_kinds(known_hosts.kinds(names), record) if known_hosts else []
        _negotiate(transport, where, settings.ssh_timeout_s, wanted)
        if known_hosts:
            _check_host_key(transport, known_hosts, names, where, settings.strict_host_key_checking, record)
        _log_in(transport, login, where)
    except BaseException:
        transport.close()
        raise
    transport.set_keepalive(KEEPALIVE_S)
    return Connection(transport, where, settings.ssh_timeout_s, jump, login.agent_socket)


def _open(
    login: Login, timeout_s: float, through: Connection | None
) -> tuple[socket.socket | paramiko.Channel, list[str]]:
    """The stream to the host, and the address it is connected to, if known."""
    if through:
        return through.open_tcp(login.host, login.port), []
    if login.proxy_command:
        return _run_proxy(login), []
    stream = _dial(login, timeout_s)
    return stream, [stream.getpeername()[0]]


def _run_proxy(login: Login) -> socket.socket:
    """A socket connected to a ProxyCommand, which ends when that is closed."""
    ours, its = socket.socketpair()
    shell = os.environ.get("SHELL") or "/bin/sh"
    try:
        process = subprocess.Popen(
            [shell, "-c", f"exec {login.proxy_command}"],
            stdin=its.fileno(),
            stdout=its.fileno(),
            start_new_session=True,
        )
    except OSError as error:
        ours.close()
        raise SshFailed(f"cannot run the ProxyCommand of {login}: {shell}: {error.strerror}") from error
    finally:
        its.close()
    atexit.register(_hang_up, process)
    threading.Thread(target=process.wait, daemon=True).start()
    return ours


def _hang_up(process: "subprocess.Popen[bytes]") -> None:
    """Send SIGHUP, as ssh does, to a ProxyCommand that has not ended."""
    if process.poll() is None:
        process.send_signal(signal.SIGHUP)


def _dial(login: Login, timeout_s: float) -> socket.socket:
    """A TCP connection, made within `timeout_s` including name resolution. Raises SshFailed."""
    deadline = time.monotonic() + timeout_s
    failure: OSError | None = None
    for family, kind, protocol, _, address in _resolve(login, timeout_s):
        stream = socket.socket(family, kind, protocol)
        try:
            stream.settimeout(max(deadline - time.monotonic(), 0.001))
            if login.source:
                stream.bind((login.source, 0))
            stream.connect(address)
        except OSError as error:
            stream.close()
            failure = error
            continue
        stream.settimeout(None)
        stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, DEAD_AFTER_S * 1000)
        return stream
    if isinstance(failure, TimeoutError):
        raise _timed_out(str(login), timeout_s) from failure
    raise SshFailed(
        f"cannot connect to {login}: {_describe(failure)}; "
        "check that an SSH server listens there, and that no firewall is in between"
    ) from failure


def _resolve(login: Login, timeout_s: float) -> list[Any]:
    """The addresses of the host. The resolver cannot be interrupted, so it runs in a thread and may be left behind."""
    found: list[list[Any]] = []
    failed: list[OSError] = []

    def look_up() -> None:
        try:
            found.append(socket.getaddrinfo(login.host, login.port, login.family, socket.SOCK_STREAM))
        except (OSError, UnicodeError) as error:
            failed.append(error if isinstance(error, OSError) else OSError(0, f"not a host name: {error}"))

    resolving = threading.Thread(target=look_up, daemon=True)
    resolving.start()
    resolving.join(timeout_s)
    if found:
        return found[0]
    why = _describe(failed[0]) if failed else f"no answer within {timeout_s:g} s (--ssh-timeout=SECONDS waits longer)"
    raise SshFailed(f"cannot connect to {login}: the name {login.host} does not resolve: {why}")


def _timed_out(where: str, timeout_s: float) -> SshFailed:
    return SshFailed(
        f"timed out while initiating SSH connection to {where}: no answer within {timeout_s:g} s "
        "(--ssh-timeout=SECONDS waits longer)"
    )


def _negotiate(transport: paramiko.Transport, where: str, timeout_s: float, recorded: list[str]) -> None:
    """Negotiate, preferring the recorded kinds of host keys: a host has several and shows one."""
    transport.banner_timeout = transport.handshake_timeout = transport.auth_timeout = timeout_s
    options = transport.get_security_options()
    wanted = [kind for known in recorded for kind in (_RSA_SIGNATURES if known == "ssh-rsa" else (known,))]
    kinds = [kind for kind in wanted if kind in options.key_types]
    options.key_types = (*kinds, *(kind for kind in options.key_types if kind not in kinds))
    done = threading.Event()
    transport.start_client(event=done)
    if not done.wait(timeout_s):
        raise _timed_out(where, timeout_s)
    if not transport.is_active():
        error = transport.get_exception()
        if isinstance(error, TimeoutError):
            raise _timed_out(where, timeout_s)
        raise SshFailed(f"{where} does not complete the SSH handshake: {_describe(error)}; is this its SSH port?")


def _read_known_hosts(settings: Settings) -> KnownHosts | None:
    """The known hosts, None if host keys are not checked."""
    if settings.strict_host_key_checking is HostKeyChecking.OFF:
        return None
    try:
        return KnownHosts.read(settings.known_hosts_file)
    except OSError as error:
        raise SshFailed(f"open {settings.known_hosts_file}: {cause_of(error)}") from error


def _check_host_key(
    transport: paramiko.Transport,
    known_hosts: KnownHosts,
    names: list[str],
    where: str,
    checking: HostKeyChecking,
    record: Record,
) -> None:
    """Raises SshFailed unless the key is known to the machine's record or, where that has none, to known_hosts, or new
    and accepted: by `accept-new`, or at a terminal. One that contradicts either is refused."""
    shown = transport.get_remote_server_key()
    key = HostKey(shown.get_name(), shown.asbytes())
    finding = known_hosts.check(names, key)
    if record.keys and key not in record.keys:
        output.error(_render_changed(names[0], key, _render_record(record)))
        raise SshFailed(_explain_contradiction(record, key, where))
    if finding.status is KeyStatus.KNOWN:
        return
    if finding.status is KeyStatus.REVOKED:
        raise SshFailed(f"handshake failed: host key revoked: {where} shows a key that {finding.at} revokes")
    if finding.status is KeyStatus.CHANGED:
        output.error(_render_changed(names[0], key, f"The key that it had before is in {finding.at}."))
        also = f" (machine {record.machine} publishes the key that is shown)" if record.keys else ""
        raise SshFailed(
            f"handshake failed: host key mismatch: {where} shows another key than {finding.at} has{also}; "
            "if the key was changed on purpose, remove that line"
        )
    if record.keys:
        return
    with asking:
        if KnownHosts.read(known_hosts.path).check(names, key).status is KeyStatus.KNOWN:
            return  # accepted for another connection meanwhile
        if checking is not HostKeyChecking.ACCEPT_NEW:
            _ask_about(known_hosts.path, names[0], key, where)
        _record(known_hosts, names[0], key)


def _render_record(record: Record) -> str:
    listed = ", ".join(f"{key.label} {key.sha256}" for key in record.keys)
    return f"Machine {record.machine} publishes: {listed}."


def _explain_contradiction(record: Record, key: HostKey, where: str) -> str:
    listed = " or ".join(f"{known.label} {known.sha256}" for known in record.keys)
    return (
        f"handshake failed: host key mismatch: {where} shows the {key.label} key {key.sha256}, and machine "
        f"{record.machine} publishes {listed}. Check that its address is right and that no other SSH server answers "
        "there; if its keys were changed on purpose, restart ssh.service there, and try again when its fleetd has "
        "published them, which takes some seconds"
    )


def _render_changed(name: str, key: HostKey, expected: str) -> str:
    """The warning, which ends with the line that says what was `expected`."""
    frame = "@" * 59
    return "\n".join(
        [
            frame,
            f"@{'WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED!':^57}@",
            frame,
            "IT IS POSSIBLE THAT SOMEONE IS DOING SOMETHING NASTY!",
            "Someone could be eavesdropping on you right now (man-in-the-middle attack)!",
            "It is also possible that a host key has just been changed.",
            f"The fingerprint for the {key.label} key sent by the remote host {name} is",
            f"{key.md5} ({key.sha256}).",
            "Please contact your system administrator.",
            expected,
        ]
    )


def _ask_about(path: str, name: str, key: HostKey, where: str) -> None:
    """Ask the user whether to accept a new host key. Raises SshFailed if not."""
    if not sys.stdin.isatty():
        raise SshFailed(
            f"handshake failed: unauthorized host: the {key.label} key of {where} ({key.sha256}) is not in "
            f"{path}, and there is no terminal to ask at: connect once at one, have it recorded with "
            "--strict-host-key-checking=accept-new, or add the line "
            f'"{name} {key.kind} KEY" that ssh-keyscan prints for it'
        )
    print(
        f"The authenticity of host '{name}' can't be established.\n"
        f"{key.label} key fingerprint is {key.md5} ({key.sha256}).\n"
        "Are you sure you want to continue connecting (yes/no)? ",
        end="",
        file=sys.stderr,
        flush=True,
    )
    if sys.stdin.readline().strip().lower() not in ("yes", "y"):
        output.error("Host key verification failed.")
        raise SshFailed(f"handshake failed: unauthorized host: the key of {where} was refused")


def _record(known_hosts: KnownHosts, name: str, key: HostKey) -> None:
    try:
        known_hosts.append(name, key)
    except OSError as error:
        why = cause_of(error)
        output.error(
            f"Failed to add the host to the list of known hosts ({known_hosts.path}). It cannot be written: {why}"
        )
    else:
        output.warning(f"Warning: Permanently added '{name}' ({key.label}) to the list of known hosts.")


def _log_in(transport: paramiko.Transport, login: Login, where: str) -> None:
    """Try one key after another. Raises SshFailed, naming those that were tried."""
    identities = gather_identities(login)
    tried: list[str] = []
    ended = ""
    for identity in identities.usable:
        output.debug(f"trying {identity}")
        tried.append(str(identity))
        try:
            further = transport.auth_publickey(login.user, identity.key)
        except paramiko.BadAuthenticationType as error:
            ended = f"it accepts no keys for this user (only {', '.join(error.allowed_types)})"
            break
        except paramiko.AuthenticationException:
            if transport.is_active():
                continue
            ended = "it closed the connection after these"
            break
        except CHANNEL_ERRORS as error:
            ended = f"it closed the connection after these ({_describe(error)})"
            break
        if not further:
            return
        ended = f"besides a key it wants {', '.join(further)}, which fleetctl does not support"
        break
    raise SshFailed(_explain_refusal(login, where, tried, [ended] * bool(ended) + list(identities.problems)))


def _explain_refusal(login: Login, where: str, tried: list[str], reasons: list[str]) -> str:
    keys = (
        f"refuses every key that was tried: {', '.join(tried)}" if tried else "was offered no key, since there is none"
    )
    return (
        f"unable to authenticate: {where} {keys}. {'; '.join(reasons)}{'. ' * bool(reasons)}"
        f"Add one of your keys to the authorized_keys of {login.user} there, or give another user with --ssh-username"
    )


def _describe(error: BaseException | None) -> str:
    """An error of the library as part of a sentence."""
    if isinstance(error, paramiko.ChannelException):
        return error.text.lower() or "refused"
    if error is None or isinstance(error, EOFError):
        return "the other end closed the connection"
    if isinstance(error, OSError):
        return cause_of(error)
    return output.printable(str(error)).rstrip(".") or type(error).__name__
