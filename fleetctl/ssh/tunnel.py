"""The API through an SSH bastion: over TCP from there, or its unix socket.

paramiko cannot forward to a unix socket, so HTTP goes over stdin and stdout of `fleetctl fd-forward PATH` there.
"""

import shlex
import ssl
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

import httpcore
import paramiko

from fleetctl.endpoint import Endpoint
from fleetctl.errors import ClientError, SshFailed
from fleetctl.output import printable
from fleetctl.ssh.connection import Connection, close_channel
from fleetctl.transport import Answer

T = TypeVar("T")
_CHUNK = 65536
_COMMAND_NOT_FOUND = 127


class TunnelFailed(ClientError):
    """The tunnel to the API failed; it may pass unless the bastion itself is lost."""

    def __init__(self, text: str, may_pass: bool = False) -> None:
        super().__init__(text)
        self.may_pass = may_pass


class TunnelTransport:
    """A Transport over a bastion; also raises TunnelFailed."""

    def __init__(self, bastion: Connection, endpoint: Endpoint, timeout_s: float, tls: ssl.SSLContext | None) -> None:
        self._pool = httpcore.ConnectionPool(ssl_context=tls, network_backend=_Backend(bastion, endpoint))
        self._base = endpoint.base
        self._extensions = {"timeout": dict.fromkeys(("connect", "read", "write", "pool"), timeout_s)}

    def request(self, method: str, path: str, body: bytes | None, headers: Mapping[str, str]) -> Answer:
        """See Transport."""
        try:
            answer = self._pool.request(
                method, self._base + path, headers=list(headers.items()), content=body, extensions=self._extensions
            )
        except httpcore.TimeoutException as error:
            raise TimeoutError(str(error)) from error
        except (httpcore.NetworkError, httpcore.ProtocolError) as error:
            cause = error.__cause__ or error.__context__  # httpcore may drop the former
            if isinstance(cause, OSError):
                raise cause  # noqa: B904 - it says more than its wrapper
            raise ConnectionError(str(error)) from error
        kind = next((value for name, value in answer.headers if name.lower() == b"content-type"), b"")
        return Answer(answer.status, kind.decode("latin-1"), answer.content)


class _Backend(httpcore.NetworkBackend):
    """httpcore's network backend: channels of the bastion's connection."""

    def __init__(self, bastion: Connection, endpoint: Endpoint) -> None:
        self._bastion = bastion
        self._endpoint = endpoint

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        try:
            if not self._endpoint.socket:
                return _Stream(self._bastion, self._bastion.open_tcp(host, port))
            channel = self._bastion.open_session()
            channel.exec_command(f"fleetctl fd-forward {shlex.quote(self._endpoint.socket)}")
        except SshFailed as error:
            if not self._bastion.is_alive:
                raise TunnelFailed(str(error)) from error
            raise TunnelFailed(f"cannot reach fleetd at {self._endpoint.text}: {error}", may_pass=True) from error
        except (paramiko.SSHException, EOFError, OSError) as error:
            raise TunnelFailed(str(self._bastion.lost())) from error
        return _ForwardedSocket(self._bastion, channel, self._endpoint)


class _Stream(httpcore.NetworkStream):
    """A channel as httpcore's network stream."""

    def __init__(self, bastion: Connection, channel: paramiko.Channel) -> None:
        self._bastion = bastion
        self._channel = channel

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        self._channel.settimeout(timeout)
        try:
            data = bytes(self._channel.recv(max_bytes))
        except TimeoutError as error:
            raise httpcore.ReadTimeout(str(error)) from error
        if not data and self._bastion.has_broken():
            raise TunnelFailed(str(self._bastion.lost()))
        return data

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._channel.settimeout(timeout)
        try:
            self._channel.sendall(buffer)
        except TimeoutError as error:
            raise httpcore.WriteTimeout(str(error)) from error
        except (OSError, EOFError, paramiko.SSHException) as error:
            if self._bastion.has_broken():
                raise TunnelFailed(str(self._bastion.lost())) from error
            raise httpcore.WriteError(str(error)) from error

    def close(self) -> None:
        close_channel(self._channel)

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        return _TlsStream(self, ssl_context, server_hostname, timeout)

    def get_extra_info(self, info: str) -> Any:
        """True if an idle connection is readable, which means that it was closed."""
        if info == "is_readable":
            return self._channel.recv_ready() or self._channel.eof_received or self._channel.closed
        return None


class _ForwardedSocket(_Stream):
    """A unix socket of the bastion, through `fleetctl fd-forward` there, which reports errors on stderr."""

    def __init__(self, bastion: Connection, channel: paramiko.Channel, endpoint: Endpoint) -> None:
        super().__init__(bastion, channel)
        self._endpoint = endpoint
        self._has_answered = False

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        data = super().read(max_bytes, timeout)
        if not data and not self._has_answered:
            raise self._explain_end()
        self._has_answered = True
        return data

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        try:
            super().write(buffer, timeout)
        except httpcore.WriteError as error:
            raise self._explain_end() from error

    def _explain_end(self) -> TunnelFailed:
        said = b""
        while part := self._channel.recv_stderr(_CHUNK):
            said += part
        status = self._channel.recv_exit_status()
        why = printable(said.decode(errors="replace")) or f"it ended with status {status}"
        remedy = "check there that fleetd runs: systemctl status fleet"
        if status == _COMMAND_NOT_FOUND:
            remedy = (
                "fleetctl must be installed there, on the PATH of SSH commands; or name --endpoint=http://HOST:PORT"
            )
        return TunnelFailed(
            f"cannot reach fleetd at {self._endpoint.text} through {self._bastion.where}: "
            f"fleetctl fd-forward there says: {why}; {remedy}",
            may_pass=status != _COMMAND_NOT_FOUND,
        )


class _TlsStream(httpcore.NetworkStream):
    """TLS over a channel, which is not a socket: by ssl.MemoryBIO."""

    def __init__(
        self, inner: _Stream, context: ssl.SSLContext, server_hostname: str | None, timeout: float | None
    ) -> None:
        self._inner = inner
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=server_hostname)
        self._carry(self._tls.do_handshake, timeout)

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._carry(lambda: self._tls.read(max_bytes), timeout)

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._carry(lambda: self._tls.write(buffer), timeout)

    def close(self) -> None:
        self._inner.close()

    def get_extra_info(self, info: str) -> Any:
        return self._tls if info == "ssl_object" else self._inner.get_extra_info(info)

    def _carry(self, step: Callable[[], T], timeout: float | None) -> T:
        """Run one TLS operation, moving bytes between it and the channel until it is done."""
        while True:
            try:
                done = step()
            except ssl.SSLWantReadError:
                self._pass_on(timeout)
                data = self._inner.read(_CHUNK, timeout)
                if data:
                    self._incoming.write(data)
                else:
                    self._incoming.write_eof()
            except ssl.SSLError as error:
                raise httpcore.ReadError(str(error)) from error
            else:
                self._pass_on(timeout)
                return done

    def _pass_on(self, timeout: float | None) -> None:
        if self._outgoing.pending:
            self._inner.write(self._outgoing.read(), timeout)
