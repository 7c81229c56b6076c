"""fleetctl ui as a process, and a plain client of its port."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPResponse
from urllib.parse import urlsplit

PATIENCE_S = 120.0


class PageCommand:
    """A running fleetctl ui. `cookie` is that of the browser that has entered."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        assert process.stdout is not None
        self.process = process
        self.address = process.stdout.readline().strip()
        assert self.address, self.end()
        self.netloc = urlsplit(self.address).netloc
        self.port = int(self.netloc.rpartition(":")[2])
        self.cookie = ""

    def open(self, path: str, method: str = "GET", body: str | None = None, **headers: str) -> HTTPResponse:
        """The answer to a request, whose content is not read; headers as `If_None_Match`. They replace those of the
        browser that has entered, '' leaves them out."""
        usual = {"Host": self.netloc, "Cookie": self.cookie}
        if method != "GET":
            usual |= {"Origin": f"http://{self.netloc}", "Content-Type": "application/json"}
        given = {**usual, **{name.replace("_", "-"): value for name, value in headers.items()}}
        connection = HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_S)
        connection.request(method, path, body, {name: value for name, value in given.items() if value})
        return connection.getresponse()

    def ask(self, path: str, method: str = "GET", body: str | None = None, **headers: str) -> tuple[int, str]:
        """Status and content of an answer."""
        response = self.open(path, method, body, **headers)
        return response.status, response.read().decode()

    def enter(self) -> HTTPResponse:
        """Bring the token; keeps the cookie."""
        response = self.open(self.address.partition(self.netloc)[2])
        response.read()
        self.cookie = response.headers.get("Set-Cookie", "").partition(";")[0] or self.cookie
        return response

    def end(self) -> tuple[int, str]:
        """Ctrl-C; the exit status, and what it has said."""
        self.process.send_signal(signal.SIGINT)
        _, said = self.process.communicate(timeout=PATIENCE_S)
        return self.process.returncode, said


@contextmanager
def page_command(*arguments: str, **environment: str) -> Iterator[PageCommand]:
    """fleetctl ui with these arguments and variables, until the block ends."""
    without = {name: value for name, value in os.environ.items() if not name.startswith(("FLEETCTL_", "BROWSER"))}
    command = [sys.executable, "-m", "fleetctl.cli", "ui", *arguments]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**without, **environment}
    )
    try:
        yield PageCommand(process)
    finally:
        process.kill()
        process.wait()
