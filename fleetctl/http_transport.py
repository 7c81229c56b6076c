"""HTTP on one connection that is kept open, over a unix socket, TCP or TLS.

It uses the standard library: importing another one would take longer than the rest of a list command.
"""

import select
import socket
import ssl
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from http.client import HTTPConnection, HTTPException, HTTPResponse

import msgspec

from fleetctl.endpoint import Endpoint, TlsContext
from fleetctl.tls_errors import REVOKED

_ALERT_S = 0.5
_CHUNK = 65536


class Answer(msgspec.Struct, frozen=True):
    """A response: status, content type ('' for none), content."""

    status: int
    kind: str
    content: bytes


class StreamedLines:
    """The lines of an answer that goes on, as they come."""

    def __init__(self, response: HTTPResponse, stream: socket.socket) -> None:
        self._response = response
        self._stream = stream
        self.is_over = False  # nothing more will come

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._response.readline, b"")

    def skip(self, within_s: float) -> bool:
        """Wait at most so long until more has come, and drop it. True if something has come, or nothing more will."""
        if not _has_something_to_read(self._stream, within_s):
            return False
        try:
            self.is_over = not self._response.read1(_CHUNK)
        except (OSError, HTTPException):
            self.is_over = True
        return True


class _Connection(HTTPConnection):
    """A connection over the socket that `dial` opens, with TLS if there are contexts: the first of them that trusts the
    server."""

    def __init__(
        self, endpoint: Endpoint, timeout_s: float, tls: Sequence[TlsContext], dial: Callable[[], socket.socket]
    ) -> None:
        super().__init__(endpoint.host, endpoint.port, timeout_s)
        self.default_port = 443 if tls else 80  # which the Host header leaves out
        self._tls = tls
        self._dial = dial

    def connect(self) -> None:
        if not self._tls:
            self.sock = self._open()
            return
        for make_context in self._tls:
            try:
                self.sock = make_context().wrap_socket(self._open(), server_hostname=self.host)
            except ssl.SSLCertVerificationError as error:
                if make_context is self._tls[-1] or error.verify_code == REVOKED:
                    raise
            else:
                self._tls = [make_context]  # for further connections
                return

    def _open(self) -> socket.socket:
        stream = self._dial()
        stream.settimeout(self.timeout)
        return stream


class HttpTransport:
    """Requests to the API over the socket that `dial` opens, by default directly to the endpoint.

    Each step of a request (connect, send, receive) may take `timeout_s`.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        timeout_s: float,
        tls: Sequence[TlsContext] = (),
        dial: Callable[[], socket.socket] | None = None,
    ) -> None:
        login = b64encode(endpoint.login.encode()).decode()
        self._headers = {"Authorization": f"Basic {login}"} if login else {}
        self._path = endpoint.path
        self._connection = _Connection(endpoint, timeout_s, tls, dial or partial(_dial, endpoint, timeout_s))

    def stream(
        self, path: str, headers: Mapping[str, str], silence_s: float, body: bytes | None = None
    ) -> tuple[Answer, StreamedLines]:
        """The answer to a GET (with a body: to a POST of JSON), and then the lines of its content as they come, if its
        status is 200; else it has its content. The peer may be silent for `silence_s`. Errors as for `request`, also of
        the lines."""
        kind = {} if body is None else {"Content-Type": "application/json"}
        method = "GET" if body is None else "POST"
        response, stream = self.open(method, path, body, {**headers, **kind})
        lines = StreamedLines(response, stream)
        if response.status != 200:
            return Answer(response.status, response.headers.get("Content-Type", ""), response.read()), lines
        stream.settimeout(silence_s)
        return Answer(response.status, response.headers.get("Content-Type", ""), b""), lines

    def open(
        self, method: str, path: str, body: bytes | None, headers: Mapping[str, str]
    ) -> tuple[HTTPResponse, socket.socket]:
        """The response to a request, whose content is still to be read, and the socket that it comes from. Errors as
        for `request`; if it is not read to its end, the connection has to be closed."""
        if self._connection.sock and _has_something_to_read(self._connection.sock):
            self._connection.close()  # closed by the server, which sends nothing unasked
        self._connection.request(method, self._path + path, body, {**self._headers, **headers})
        stream = self._connection.sock  # which getresponse gives away if the server closes it after the answer
        return self._connection.getresponse(), stream

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def request(self, method: str, path: str, body: bytes | None, headers: Mapping[str, str]) -> Answer:
        """The answer to a request; the path is relative to the endpoint's, and begins with a slash.

        Raises TimeoutError, OSError if the connection fails, HTTPException if the peer does not speak HTTP.
        """
        try:
            response, _ = self.open(method, path, body, headers)
            return Answer(response.status, response.headers.get("Content-Type", ""), response.read())
        except ConnectionError as error:
            alert = _read_alert(self._connection.sock)
            self._connection.close()
            raise alert or error from error
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


def _read_alert(stream: socket.socket | None) -> ssl.SSLError | None:
    """Why a server has ended TLS, if it has said so: in TLS 1.3 it may look at a client's certificate only after the
    client has begun to send its request."""
    if isinstance(stream, ssl.SSLSocket):
        try:
            stream.settimeout(_ALERT_S)
            stream.recv(1)
        except ssl.SSLError as error:
            return error
        except OSError:
            pass
    return None


def _has_something_to_read(stream: socket.socket, within_s: float = 0.0) -> bool:
    if isinstance(stream, ssl.SSLSocket) and stream.pending():
        return True
    poll = select.poll()
    poll.register(stream, select.POLLIN)
    return bool(poll.poll(within_s * 1000))
