"""HTTP on one connection that is kept open, over a unix socket, TCP or TLS.

It uses the standard library: importing another one would take longer than the rest of a list command.
"""

import select
import socket
from base64 import b64encode
from collections.abc import Callable, Mapping
from functools import partial
from http.client import HTTPConnection
from typing import TYPE_CHECKING

import msgspec

from fleetctl.endpoint import Endpoint

if TYPE_CHECKING:
    import ssl


class Answer(msgspec.Struct, frozen=True):
    """A response: status, content type ('' for none), content."""

    status: int
    kind: str
    content: bytes


class _Connection(HTTPConnection):
    """A connection over the socket that `dial` opens, with TLS if there is a context."""

    def __init__(
        self, endpoint: Endpoint, timeout_s: float, tls: "ssl.SSLContext | None", dial: Callable[[], socket.socket]
    ) -> None:
        super().__init__(endpoint.host, endpoint.port, timeout_s)
        self.default_port = 443 if tls else 80  # which the Host header leaves out
        self._tls = tls
        self._dial = dial

    def connect(self) -> None:
        self.sock = self._dial()
        self.sock.settimeout(self.timeout)
        if self._tls:
            self.sock = self._tls.wrap_socket(self.sock, server_hostname=self.host)


class HttpTransport:
    """Requests to the API over the socket that `dial` opens, by default directly to the endpoint.

    Each step of a request (connect, send, receive) may take `timeout_s`.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        timeout_s: float,
        tls: "ssl.SSLContext | None",
        dial: Callable[[], socket.socket] | None = None,
    ) -> None:
        login = b64encode(endpoint.login.encode()).decode()
        self._headers = {"Authorization": f"Basic {login}"} if login else {}
        self._path = endpoint.path
        self._connection = _Connection(endpoint, timeout_s, tls, dial or partial(_dial, endpoint, timeout_s))

    def request(self, method: str, path: str, body: bytes | None, headers: Mapping[str, str]) -> Answer:
        """The answer to a request; the path is relative to the endpoint's, and begins with a slash.

        Raises TimeoutError, OSError if the connection fails, HTTPException if the peer does not speak HTTP.
        """
        if self._connection.sock and _has_something_to_read(self._connection.sock):
            self._connection.close()  # closed by the server, which sends nothing unasked
        try:
            self._connection.request(method, self._path + path, body, {**self._headers, **headers})
            response = self._connection.getresponse()
            return Answer(response.status, response.headers.get("Content-Type", ""), response.read())
        except BaseException:  # also Ctrl-C: the connection is in the middle of a response
            self._connection.close()
            raise


def _dial(endpoint: Endpoint, timeout_s: float) -> socket.socket:
    """A socket connected to the endpoint. Raises OSError."""
    if not endpoint.socket:
        stream = socket.create_connection((endpoint.host, endpoint.port), timeout_s)
        stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return stream
    stream = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        stream.settimeout(timeout_s)
        stream.connect(endpoint.socket)
    except OSError:
        stream.close()
        raise
    return stream


def _has_something_to_read(stream: socket.socket) -> bool:
    poll = select.poll()
    poll.register(stream, select.POLLIN)
    return bool(poll.poll(0))
