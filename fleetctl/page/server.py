"""HTTP towards the browser: what the gate lets pass goes to fleetd, and its answer comes back as it comes."""

import json
import select
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.client import HTTPResponse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar
from urllib.parse import parse_qs, urlsplit

from fleetctl.errors import ClientError
from fleetctl.page.gate import LOOPBACK, Asked, Gate
from fleetctl.page.upstream import Upstream

PAGE = "/ui/"
MOST_CONNECTIONS = 32  # a browser makes six
LARGEST_BODY = 1 << 20
IDLE_S = 60.0  # of a browser between two requests, or while it takes nothing
CHUNK = 65536
_PASSED = ("/ui", "/ui/", "/fleet/v1/", "/fleet/v2/")
# What fleetd learns of the browser's request, and the browser of fleetd's answer.
_REQUEST_HEADERS = ("Accept", "Content-Type", "Fleet-Token", "If-None-Match", "Last-Event-ID")
_OWN_HEADERS = ("connection", "content-length", "date", "keep-alive", "server", "set-cookie", "transfer-encoding")
_WELCOME = (
    f'<!doctype html><meta charset="utf-8"><title>fleet</title><meta http-equiv="refresh" content="0; url={PAGE}">'
)


class BrowserGone(Exception):
    """Nobody is there who would take the rest of an answer."""


class PageServer(ThreadingHTTPServer):
    """Serves the page on a port of this machine, 0 for any. `is_foreign(peer, own)` says whether a connection is of
    another user of this machine, which is closed. Raises OSError if the port cannot be used."""

    daemon_threads = True
    request_queue_size = MOST_CONNECTIONS

    def __init__(
        self,
        port: int,
        upstream: Upstream,
        new_secret: Callable[[], str],
        is_foreign: Callable[[tuple[str, int], tuple[str, int]], bool],
    ) -> None:
        super().__init__((LOOPBACK, port), _Handler)
        self.upstream = upstream
        self.gate = Gate(self.server_address[1], new_secret)
        self._is_foreign = is_foreign
        self._places = threading.BoundedSemaphore(MOST_CONNECTIONS)

    def verify_request(self, _: Any, client_address: Any) -> bool:
        return not self._is_foreign(client_address, (LOOPBACK, self.gate.port))

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._places.acquire(blocking=False):
            self.shutdown_request(request)
            return
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._places.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of a browser that has gone; anything else is a mistake of ours."""
        if not isinstance(sys.exception(), OSError | BrowserGone):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = IDLE_S
    server: PageServer
    wbufsize = CHUNK
    disable_nagle_algorithm = True
    error_message_format = "%(message)s\n"
    error_content_type = "text/plain; charset=utf-8"
    _texts: ClassVar[dict[str, str]] = {
        "Cache-Control": "no-store",
        "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
        "Referrer-Policy": "no-referrer",
        "X-Content-Type-Options": "nosniff",
    }

    def version_string(self) -> str:
        return "fleetctl"

    def log_message(self, *_: Any) -> None:
        """Nothing: a request may hold the token."""

    def do_GET(self) -> None:
        self._pass()

    do_POST = do_PUT = do_DELETE = do_GET  # noqa: N815

    def _pass(self) -> None:
        body = self._read_body()
        if body is None:
            return
        url = urlsplit(self.path)
        asked = self._asked()
        if url.path == "/" and self.command == "GET" and "token=" in url.query:
            self._let_in(asked, url.query)
        elif why := self.server.gate.refuse(asked):
            self._refuse(403, why)
        elif url.path == "/":
            self._say(303, "", Location=PAGE)
        elif not url.path.startswith(_PASSED[1:]) and url.path != _PASSED[0]:
            self._refuse(404, "there is nothing here")
        else:
            self._forward(body)

    def _asked(self) -> Asked:
        names = ("Host", "Origin", "Sec-Fetch-Site", "Cookie")
        return Asked(self.command, *(tuple(self.headers.get_all(name, ())) for name in names))

    def _read_body(self) -> bytes | None:
        """The content of the request; None if it is refused."""
        length = self.headers.get("Content-Length", "0")
        if "Transfer-Encoding" in self.headers or not length.isdecimal() or int(length) > LARGEST_BODY:
            self.close_connection = True
            self._refuse(413, f"a request may have {LARGEST_BODY} bytes, and has to say how many")
            return None
        return self.rfile.read(int(length))

    def _let_in(self, asked: Asked, query: str) -> None:
        """Give the browser its cookie for the token, and lead it to the page from here: a redirection would still be
        the request of whatever has led here, to which a browser adds no such cookie."""
        gate = self.server.gate
        token = parse_qs(query).get("token", [""])[0]
        if why := gate.refuse_host(asked):
            self._refuse(403, why)
        elif not gate.refuse(asked):
            self._say(303, "", Location=PAGE)  # the same browser once more
        elif why := gate.refuse_token(token):
            self._refuse(403, why)
        else:
            self._say(200, _WELCOME, **{"Content-Type": "text/html; charset=utf-8", "Set-Cookie": gate.new_cookie})

    def _refuse(self, status: int, why: str) -> None:
        """An error as fleetd has it, for the page; to a person as text."""
        if self.path.startswith("/fleet/"):
            error = json.dumps({"error": {"code": status, "message": why}})
            self._say(status, error, **{"Content-Type": "application/json"})
        else:
            self._say(status, f"fleet: {why}\n")

    def _say(self, status: int, text: str, **headers: str) -> None:
        content = text.encode()
        self.send_response(status)
        given = {"Content-Type": self.error_content_type, **self._texts, **headers}
        for name, value in {**given, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def _forward(self, body: bytes) -> None:
        given = {name: self.headers[name] for name in _REQUEST_HEADERS if name in self.headers}
        has_begun = False
        try:
            with self.server.upstream.ask(self.command, self.path, body or None, given) as (response, stream):
                has_begun = True
                self._answer(response, stream)
        except ClientError as error:
            if has_begun:
                raise BrowserGone from error  # or fleetd has: an answer that ends too early tells the browser
            self._refuse(502, str(error))

    def _answer(self, response: HTTPResponse, stream: socket.socket) -> None:
        """Pass an answer on in the pieces in which it comes."""
        self.send_response(response.status)
        for name, value in response.getheaders():
            if name.lower() not in _OWN_HEADERS:
                self.send_header(name, value)
        if response.status in (204, 304):
            response.read()
            self._write(end=True)
        elif response.length is not None:
            self.send_header("Content-Length", str(response.length))
            self._write(end=True)
            while piece := response.read(CHUNK):
                self._write(piece)
        else:
            self.send_header("Transfer-Encoding", "chunked")
            self._write(end=True)
            with ending_with(self.connection, stream):
                while piece := response.read1(CHUNK):
                    self._write(f"{len(piece):x}\r\n".encode(), piece, b"\r\n")
            self._write(b"0\r\n\r\n")

    def _write(self, *pieces: bytes, end: bool = False) -> None:
        try:
            if end:
                self.end_headers()
            for piece in pieces:
                self.wfile.write(piece)
            self.wfile.flush()
        except OSError as error:
            raise BrowserGone from error


@contextmanager
def ending_with(browser: socket.socket, stream: socket.socket) -> Iterator[None]:
    """While the block runs, end the stream as soon as the browser has gone: fleetd would go on for nobody."""
    ours, its = socket.socketpair()

    def watch() -> None:
        poll = select.poll()
        for each in (browser, its):
            poll.register(each, select.POLLIN)
        if browser.fileno() in dict(poll.poll()):
            with suppress(OSError):
                socket.socket.shutdown(stream, socket.SHUT_RDWR)  # of TLS, too, without its farewell

    watching = threading.Thread(target=watch, daemon=True)
    watching.start()
    try:
        yield
    finally:
        ours.close()
        watching.join()
        its.close()
