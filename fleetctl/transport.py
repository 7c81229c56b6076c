"""HTTP over a unix socket, TCP or TLS, on one connection that is kept open.

It uses the standard library: importing another one would take longer than the rest of a list command.
"""

import select
import socket
from base64 import b64encode
from collections.abc import Mapping
from http.client import HTTPConnection, HTTPSConnection
from typing import TYPE_CHECKING, Protocol
from urllib.parse import unquote, urlsplit

import msgspec

from fleetctl.endpoint import Endpoint

if TYPE_CHECKING:
    import ssl


class Answer(msgspec.Struct, frozen=True):
    """A response: status, content type ('' for none), content."""

    status: int
    kind: str
    content: bytes


class Transport(Protocol):
    """Sends requests to the API; paths are relative to the endpoint's and begin with a slash."""

    def request(self, method: str, path: str, body: bytes | None, headers: Mapping[str, str]) -> Answer:
        """Raises TimeoutError, OSError if the connection fails, HTTPException if the peer does not speak HTTP."""


class _UnixConnection(HTTPConnection):
    def __init__(self, host: str, timeout_s: float, path: str) -> None:
        super().__init__(host, timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class DirectTransport:
    """A direct connection. Each step of a request (connect, send, receive) may take `timeout_s`."""

    def __init__(self, endpoint: Endpoint, timeout_s: float, tls: "ssl.SSLContext | None") -> None:
        url = urlsplit(endpoint.base)
        host = url.hostname or ""
        self._path = url.path
        self._headers: dict[str, str] = {}
        if url.username is not None:
            user = f"{unquote(url.username)}:{unquote(url.password or '')}"
            self._headers["Authorization"] = f"Basic {b64encode(user.encode()).decode()}"
        self._connection: HTTPConnection
        if endpoint.socket:
            self._connection = _UnixConnection(host, timeout_s, endpoint.socket)
        elif tls:
            self._connection = HTTPSConnection(host, url.port, timeout=timeout_s, context=tls)
        else:
            self._connection = HTTPConnection(host, url.port, timeout=timeout_s)

    def request(self, method: str, path: str, body: bytes | None, headers: Mapping[str, str]) -> Answer:
        """See Transport."""
        if self._connection.sock and _has_something_to_read(self._connection.sock):
            self._connection.close()  # closed by the server, which sends nothing unasked
        try:
            self._connection.request(method, self._path + path, body, {**self._headers, **headers})
            response = self._connection.getresponse()
            return Answer(response.status, response.headers.get("Content-Type", ""), response.read())
        except BaseException:  # also Ctrl-C: the connection is in the middle of a response
            self._connection.close()
            raise


def _has_something_to_read(stream: socket.socket) -> bool:
    poll = select.poll()
    poll.register(stream, select.POLLIN)
    return bool(poll.poll(0))
