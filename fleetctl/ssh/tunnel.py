"""The API through an SSH bastion: over TCP from there, or its unix socket.

paramiko cannot forward to a unix socket, so HTTP goes over stdin and stdout of `fleetctl fd-forward PATH` there.
"""

import shlex
import socket
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from http.client import HTTPException, HTTPResponse

import paramiko

from fleetctl.endpoint import Endpoint, TlsContext
from fleetctl.errors import ClientError, SshFailed
from fleetctl.http_transport import Answer, HttpTransport, StreamedLines
from fleetctl.output import printable
from fleetctl.ssh.channels import CHANNEL_ERRORS, CHUNK, close_channel, splice
from fleetctl.ssh.connection import Connection

_COMMAND_NOT_FOUND = 127


class TunnelFailed(ClientError):
    """The tunnel to the API failed; it may pass unless the bastion itself is lost."""

    def __init__(self, text: str, may_pass: bool = False) -> None:
        super().__init__(text)
        self.may_pass = may_pass


class TunnelTransport:
    """Requests to the API over channels of the bastion's connection."""

    def __init__(
        self, bastion: Connection, endpoint: Endpoint, timeout_s: float, tls: Sequence[TlsContext] = ()
    ) -> None:
        self._bastion = bastion
        self._endpoint = endpoint
        self._http = HttpTransport(endpoint, timeout_s, tls, self._dial)
        self._channel: paramiko.Channel | None = None

    def request(self, method: str, path: str, body: bytes | None, headers: Mapping[str, str]) -> Answer:
        """As HttpTransport does; also raises TunnelFailed."""
        with self._explaining():
            return self._http.request(method, path, body, headers)

    def open(
        self, method: str, path: str, body: bytes | None, headers: Mapping[str, str]
    ) -> tuple[HTTPResponse, socket.socket]:
        """As HttpTransport does; also raises TunnelFailed."""
        with self._explaining():
            return self._http.open(method, path, body, headers)

    @contextmanager
    def _explaining(self) -> Iterator[None]:
        try:
            yield
        except TimeoutError:
            raise
        except (OSError, HTTPException) as error:
            if self._bastion.has_broken():
                raise TunnelFailed(str(self._bastion.lost())) from error
            if self._endpoint.socket and isinstance(error, ConnectionError):
                raise self._explain_end() from error
            raise

    def stream(
        self, path: str, headers: Mapping[str, str], silence_s: float, body: bytes | None = None
    ) -> tuple[Answer, StreamedLines]:
        """As HttpTransport does; also raises TunnelFailed."""
        return self._http.stream(path, headers, silence_s, body)

    def close(self) -> None:
        """Close the connection to the API, not that to the bastion."""
        self._http.close()
        if self._channel:
            close_channel(self._channel)

    def _dial(self) -> socket.socket:
        """A socket that is connected to the API through a new channel. Raises TunnelFailed."""
        if self._channel:
            close_channel(self._channel)
        try:
            self._channel = self._open_channel()
        except SshFailed as error:
            if not self._bastion.is_alive:
                raise TunnelFailed(str(error)) from error
            raise TunnelFailed(f"cannot reach fleetd at {self._endpoint.text}: {error}", may_pass=True) from error
        except CHANNEL_ERRORS as error:
            raise TunnelFailed(str(self._bastion.lost())) from error
        ours, its = socket.socketpair()
        threading.Thread(target=splice, args=(self._channel, its), daemon=True).start()
        return ours

    def _open_channel(self) -> paramiko.Channel:
        if not self._endpoint.socket:
            return self._bastion.open_tcp(self._endpoint.host, self._endpoint.port)
        channel = self._bastion.open_session()
        channel.exec_command(f"fleetctl fd-forward {shlex.quote(self._endpoint.socket)}")
        return channel

    def _explain_end(self) -> TunnelFailed:
        """Why fd-forward has ended, from its stderr and exit status."""
        assert self._channel is not None
        said = b""
        while part := self._channel.recv_stderr(CHUNK):
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
