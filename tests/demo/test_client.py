"""The client of the demo, which counts the requests that fail: the figure that the demo shows."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from contrib.demo.client import Client

NOBODY = "http://127.0.0.1:9/"
PATIENCE_S = 60.0


@contextmanager
def serve(status: int) -> Iterator[str]:
    """A server that answers every request with this status. Yields its URL."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()

        def log_request(self, code: object = "-", size: object = "-") -> None:
            """Requests are not logged."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


def test_requests_succeed_as_long_as_one_server_answers() -> None:
    with serve(200) as good, serve(404) as bad, Client([bad, good, NOBODY]) as client:
        wait_until(lambda: client.retried >= 4)
    assert client.failures == []
    assert client.requests > client.retried


def test_a_request_fails_if_no_server_answers_and_says_what_each_did() -> None:
    with serve(404) as bad, Client([bad, NOBODY]) as client:
        wait_until(lambda: client.requests >= 2)
    assert len(client.failures) == client.requests
    assert client.retried == 0
    assert f"{bad}: HTTP Error 404" in client.failures[0]
    assert f"{NOBODY}: " in client.failures[0]
    assert f"{client.requests} requests so far, {client.requests} failed" in client.count


def wait_until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)
