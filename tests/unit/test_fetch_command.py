"""The program that gets a file for a unit, against a real HTTP server."""

import hashlib
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from fleetd.process.fetch_command import fetch

CONTENT = b"x" * 100_000
HASH = hashlib.sha256(CONTENT).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        redirects = {
            "/moved": "/file",
            "/loop": "/loop",
            "/to-file": "file:///etc/passwd",
            "/to-ftp": "ftp://localhost/file",
        }
        if self.path in redirects:
            self.send_response(302)
            self.send_header("Location", redirects[self.path])
            self.end_headers()
        elif self.path in ("/file", "/endless", "/short"):
            self.send_response(200)
            if self.path != "/endless":
                self.send_header("Content-Length", str(len(CONTENT)))
            self.end_headers()
            self.wfile.write(CONTENT[: 10 if self.path == "/short" else None])
        else:
            self.send_error(404)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def server() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize("path", ["/file", "/moved", "/endless"])
def test_a_file_that_has_the_hash_gets_its_name(server: str, path: str, tmp_path: Path) -> None:
    assert fetch(server + path, HASH, tmp_path / "f") == ""
    assert (tmp_path / "f").read_bytes() == CONTENT
    assert (tmp_path / "f").stat().st_mode & 0o777 == 0o644
    assert [each.name for each in tmp_path.iterdir()] == ["f"]


@pytest.mark.parametrize(
    ("path", "options", "words"),
    [
        ("/none", {}, "404 Not Found"),
        ("/loop", {}, "302"),
        ("/to-file", {}, "is not allowed"),
        ("/to-ftp", {}, "redirected to ftp, which is not followed"),
        ("/short", {}, ""),
        ("/file", {"max_bytes": 1000}, "it has more than 1000 bytes"),
        ("/endless", {"max_bytes": 1000}, "it has more than 1000 bytes"),
        ("/file", {"room_bytes": 1 << 60}, "no space left on device"),
    ],
)
def test_nothing_else_does(server: str, path: str, options: dict[str, int], words: str, tmp_path: Path) -> None:
    why = fetch(server + path, HASH, tmp_path / "f", **options)
    assert why != ""
    assert words in why
    assert list(tmp_path.iterdir()) == []


def test_another_hash_is_said(server: str, tmp_path: Path) -> None:
    why = fetch(f"{server}/file", "0" * 64, tmp_path / "f")
    assert why == f"what is there has another hash: sha256:{HASH}"
    assert list(tmp_path.iterdir()) == []


def test_a_link_in_the_way_is_not_followed(server: str, tmp_path: Path) -> None:
    (tmp_path / "f").symlink_to(tmp_path / "elsewhere")
    assert fetch(f"{server}/file", HASH, tmp_path / "f") == ""
    assert not (tmp_path / "f").is_symlink()
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/file", "http://no-such-host.invalid/file"])
def test_a_server_that_is_away_is_an_error_in_words(url: str, tmp_path: Path) -> None:
    assert fetch(url, HASH, tmp_path / "f") not in ("", "None")


def test_it_is_a_program_of_its_own(server: str, tmp_path: Path) -> None:
    program = [sys.executable, "-P", "-m", "fleetd.process.fetch_command"]
    done = subprocess.run([*program, f"{server}/file", HASH, str(tmp_path / "f")], capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    failed = subprocess.run(
        [*program, f"{server}/x", HASH, str(tmp_path / "g")], capture_output=True, text=True, check=False
    )
    assert (failed.returncode, failed.stderr) == (1, "404 Not Found\n")
