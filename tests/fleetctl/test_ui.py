"""ui: the web page of the cluster on a port of this machine, for one browser."""

import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from http.client import IncompleteRead
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from fleetctl.commands.ui import is_foreign
from fleetctl.page.gate import Asked, Gate
from fleetctl.page.owners import find_owner
from fleetctl.page.server import LARGEST_BODY, MOST_CONNECTIONS, ending_with
from fleetctl.page.upstream import MOST_AT_ONCE
from tests.fleetctl.background import BackgroundLoop
from tests.fleetctl.conftest import Fleetctl
from tests.fleetctl.page_command import PATIENCE_S, PageCommand, page_command
from tests.fleetctl.small_cluster import SmallCluster
from tests.fleetctl.test_login import HttpsCluster

SERVICE = "[Service]\nExecStart=/bin/sleep inf\n"
UNIT = {"name": "a.service", "desiredState": "launched", "options": [{"section": "Service", "name": "X", "value": "y"}]}


@pytest.fixture
def page(small_cluster: SmallCluster) -> Iterator[PageCommand]:
    """Of a small cluster; the browser has entered."""
    with page_command("--no-browser", "--endpoint", small_cluster.unix) as command:
        command.enter()
        yield command


# The gate


def asked(method: str = "GET", host: str = "127.0.0.1:80", cookie: str = "fleet-ui-80=b", **others: str) -> Asked:
    given = {name: (value,) for name, value in others.items() if value}
    return Asked(method, (host,), cookies=(cookie,), **given)


def gate() -> Gate:
    return Gate(80, iter("ab").__next__)


@pytest.mark.parametrize(
    "let_in",
    [
        asked(),
        asked(host="localhost:80"),
        asked(origins="http://127.0.0.1:80", sites="same-origin"),
        asked(sites="none"),
        asked(cookie="a=1; fleet-ui-80=b; c=d"),
        asked("POST", origins="http://127.0.0.1:80", sites="same-origin"),
        asked("DELETE", host="localhost:80", origins="http://localhost:80"),
    ],
)
def test_the_browser_that_has_the_cookie_passes(let_in: Asked) -> None:
    assert gate().refuse(let_in) == ""


@pytest.mark.parametrize(
    ("stranger", "why"),
    [
        (asked(cookie=""), "the person who has run"),
        (asked(cookie="fleet-ui-80=a"), "the person who has run"),
        (asked(cookie="fleet-ui-80="), "the person who has run"),
        (asked(cookie="fleet-ui-81=b"), "the person who has run"),
        (asked(cookie="fleet-ui-80=\udcff"), "the person who has run"),
        (asked(host="evil.example:80"), "alone"),
        (asked(host="127.0.0.1"), "alone"),
        (asked(host="127.0.0.1:81"), "alone"),
        (Asked("GET", (), cookies=("fleet-ui-80=b",)), "alone"),
        (Asked("GET", ("127.0.0.1:80", "127.0.0.1:80"), cookies=("fleet-ui-80=b",)), "alone"),
        (asked(origins="http://127.0.0.1:81"), "other sites"),
        (asked(origins="http://localhost:80"), "other sites"),
        (asked(origins="https://127.0.0.1:80"), "other sites"),
        (asked(origins="null"), "other sites"),
        (asked(sites="same-site"), "other sites"),
        (asked(sites="cross-site"), "other sites"),
        (asked("POST"), "only the page"),
        (asked("POST", origins="http://evil.example"), "other sites"),
    ],
)
def test_others_do_not_pass(stranger: Asked, why: str) -> None:
    assert why in gate().refuse(stranger)


def test_a_token_lets_one_browser_in_once() -> None:
    made = gate()
    assert "has run" in made.refuse_token("")
    assert "has run" in made.refuse_token("b")
    assert made.refuse_token("a") == ""
    assert "has been used" in made.refuse_token("a")


# Whose a connection is


@pytest.mark.parametrize("target", [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::ffff:127.0.0.1")])
def test_the_owner_of_a_connection_is_found(target: tuple[socket.AddressFamily, str]) -> None:
    family, address = target
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket(family) as client:
        own = server.getsockname()
        client.connect((address, own[1]))
        accepted, peer = server.accept()
        with accepted:
            assert find_owner(peer, own) == os.getuid()
            assert find_owner((peer[0], own[1]), own) is None


@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="this system does not tell whose a connection is")
def test_a_connection_that_was_closed_at_once_is_refused() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        with socket.create_connection(server.getsockname()) as client:
            peer = client.getsockname()
            assert not is_foreign(peer, server.getsockname())
            client.sendall(b"POST /fleet/v2/restart HTTP/1.1\r\n")  # which is read all the same, once it is accepted
        assert is_foreign(peer, server.getsockname())


# The command


def test_the_address_is_good_for_one_browser(page: PageCommand) -> None:
    status, text = page.ask("/ui/")
    assert (status, "<title>fleet</title>" in text) == (200, True)
    assert page.ask("/ui/", Cookie="")[0] == 403
    again = page.open(page.address.partition(page.netloc)[2], Cookie="")
    assert (again.status, again.headers["Set-Cookie"]) == (403, None)
    assert "run fleetctl ui again" in again.read().decode()
    assert page.enter().headers["Location"] == "/ui/", "the same browser once more"
    assert page.open("/").headers["Location"] == "/ui/"


def test_the_cookie_is_kept_from_scripts_and_other_sites(small_cluster: SmallCluster) -> None:
    with page_command("--no-browser", "--endpoint", small_cluster.unix) as command:
        first = command.enter()
        assert first.headers["Set-Cookie"].split("; ")[1:] == ["HttpOnly", "SameSite=Strict", "Path=/"]
        assert (first.headers["Cache-Control"], first.headers["Referrer-Policy"]) == ("no-store", "no-referrer")


def test_the_api_is_reached_with_its_headers(page: PageCommand) -> None:
    first = page.open("/ui/main.js")
    content = first.read()
    assert "require-trusted-types-for" in first.headers["Content-Security-Policy"]
    assert len(content) == int(first.headers["Content-Length"])
    assert page.open("/ui/main.js", If_None_Match=first.headers["ETag"]).status == 304
    assert page.ask("/fleet/v1/units/a.service", "PUT", json.dumps(UNIT))[0] == 201
    assert json.loads(page.ask("/fleet/v2/units")[1])["units"][0]["name"] == "a.service"
    assert page.ask("/fleet/v1/units/a.service", "DELETE") == (204, "")
    assert page.ask("/fleet/v2/units/a.service")[0] == 404


@pytest.mark.parametrize("path", ["/metrics", "/health", "/fleet/worker/watch", "/uisomething", "/fleet/", "/x"])
def test_nothing_else_is_there(page: PageCommand, path: str) -> None:
    status, text = page.ask(path)
    assert (status, "there is nothing here" in text) == (404, True)


@pytest.mark.parametrize("length", [str(LARGEST_BODY + 1), "many", "-1"])
def test_a_request_is_bounded(page: PageCommand, length: str) -> None:
    assert page.ask("/fleet/v2/units", "POST", None, Content_Length=length)[0] == 413


def test_events_come_as_they_happen(page: PageCommand) -> None:
    response = page.open("/fleet/v2/events", Accept="text/event-stream")
    assert response.headers["Content-Type"].startswith("text/event-stream")
    while b'"begin"' not in response.readline():
        pass
    assert page.ask("/fleet/v1/units/a.service", "PUT", json.dumps(UNIT))[0] == 201
    while b'"a.service"' not in response.readline():
        pass
    response.close()


def test_many_streams_that_nobody_reads_any_more_keep_nobody_out(page: PageCommand) -> None:
    for _ in range(2 * MOST_AT_ONCE):
        response = page.open("/fleet/v2/events")
        assert b"begin" in response.readline()
        response.close()
    assert page.ask("/fleet/v2/units")[0] == 200


def test_more_connections_than_a_browser_makes_are_closed(page: PageCommand) -> None:
    connections = [socket.create_connection(("127.0.0.1", page.port), PATIENCE_S) for _ in range(MOST_CONNECTIONS)]
    deadline = time.monotonic() + PATIENCE_S
    refused = False
    while not refused and time.monotonic() < deadline:
        try:
            page.ask("/ui/")
        except OSError:  # or the listener has not come to the last one yet
            refused = True
    assert refused
    for connection in connections:
        connection.close()
    while time.monotonic() < deadline:
        try:
            assert page.ask("/ui/")[0] == 200
            return
        except OSError:  # the places of the others are not free yet
            time.sleep(0.05)
    raise AssertionError("no place became free")


def test_a_stream_ends_when_the_browser_has_gone() -> None:
    browser, its_end = socket.socketpair()
    stream, fleetd = socket.socketpair()
    with its_end, stream, fleetd, ending_with(its_end, stream):
        browser.close()
        assert stream.recv(1) == b""
        assert fleetd.recv(1) == b""


def test_a_stream_goes_on_after_the_block() -> None:
    browser, its_end = socket.socketpair()
    stream, fleetd = socket.socketpair()
    with browser, its_end, stream, fleetd:
        with ending_with(its_end, stream):
            pass
        browser.sendall(b"the next request")
        fleetd.sendall(b"x")
        assert stream.recv(1) == b"x"


def test_a_fleetd_that_is_away_is_told_and_found_again(background: BackgroundLoop, tmp_path: Path) -> None:
    (tmp_path / "c").mkdir()
    cluster = SmallCluster(background, tmp_path / "c", {})
    with page_command("--no-browser", "--endpoint", cluster.unix) as command:
        command.enter()
        assert command.ask("/fleet/v2/units")[0] == 200
        cluster.close()
        status, text = command.ask("/fleet/v2/units")
        assert status == 502
        assert "cannot reach fleetd" in json.loads(text)["error"]["message"]
        (tmp_path / "d").mkdir()
        again = SmallCluster(background, tmp_path / "d", {})
        (tmp_path / "c/fleet.sock").symlink_to(tmp_path / "d/fleet.sock")
        assert command.ask("/fleet/v2/units")[0] == 200
        again.close()


def test_over_https_the_page_has_the_rights_of_the_certificate(background: BackgroundLoop, tmp_path: Path) -> None:
    cluster = HttpsCluster(background, tmp_path)
    person = str(cluster.authority.person("ann", "view:*"))
    files = ["--ca-file", str(cluster.authority.path), "--cert-file", person, "--key-file", person]
    with page_command("--no-browser", "--endpoint", cluster.https, *files) as command:
        command.enter()
        assert json.loads(command.ask("/fleet/v2/whoami")[1])["name"] == "ann"
        status, text = command.ask("/fleet/v1/units/a.service", "PUT", json.dumps(UNIT))
        assert (status, "ann may not" in text) == (403, True)
        response = command.open("/fleet/v2/events")
        assert b"begin" in response.readline()
        response.close()
        assert command.ask("/ui/")[0] == 200
    cluster.close()


def test_ctrl_c_ends_it(page: PageCommand) -> None:
    stream = page.open("/fleet/v2/events")
    assert page.end()[0] == 0
    with pytest.raises(IncompleteRead):  # no end of an answer that seems to be whole
        stream.read()
    with pytest.raises(OSError, match="refused"):
        page.ask("/ui/")


def test_the_browser_gets_the_address(small_cluster: SmallCluster, tmp_path: Path) -> None:
    browser, opened = tmp_path / "browser", tmp_path / "opened"
    browser.write_text(f'#!/bin/sh\necho "$1" >{opened}.new; mv {opened}.new {opened}\n')
    browser.chmod(0o755)
    with page_command("--endpoint", small_cluster.unix, BROWSER=str(browser)) as command:
        deadline = time.monotonic() + PATIENCE_S
        while not opened.exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        assert opened.read_text().strip() == command.address


def test_without_a_display_the_address_is_for_a_person(small_cluster: SmallCluster) -> None:
    with page_command("--endpoint", small_cluster.unix, DISPLAY="", WAYLAND_DISPLAY="") as command:
        assert command.process.stderr is not None
        said = [command.process.stderr.readline() for _ in range(2)]
        assert any("no display here" in line for line in said), said


def test_a_port_can_be_chosen_that_is_free(small_fleetctl: Fleetctl) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = small_fleetctl("ui", "--no-browser", f"--port={taken.getsockname()[1]}")
    assert (done.status, done.stdout) == (1, "")
    assert "cannot be used: address already in use; leave --port out" in done.stderr


def test_no_page_is_opened_where_fleetd_does_not_answer(bare_fleetctl: Fleetctl, tmp_path: Path) -> None:
    done = bare_fleetctl("ui", "--endpoint", f"unix://{tmp_path}/no.sock")
    assert (done.status, done.stdout) == (1, "")
    assert done.stderr.startswith("Error opening the web page: cannot reach fleetd at ")


class OldFleetd(BaseHTTPRequestHandler):
    """Has no page."""

    def do_GET(self) -> None:
        self.send_error(404)

    def log_message(self, *_: object) -> None:
        """Nothing."""


class Refusing(OldFleetd):
    """Refuses this person."""

    def do_GET(self) -> None:
        content = b'{"error":{"code":403,"message":"bob may not see this"}}'
        self.send_response(403)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


@pytest.mark.parametrize(
    ("answering", "why"), [(OldFleetd, "this fleetd has no web page: upgrade it"), (Refusing, "bob may not see this")]
)
def test_no_page_is_opened_that_is_not_there(
    bare_fleetctl: Fleetctl, answering: Callable[..., BaseHTTPRequestHandler], why: str
) -> None:
    with HTTPServer(("127.0.0.1", 0), answering) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        done = bare_fleetctl("ui", "--no-browser", "--endpoint", f"http://127.0.0.1:{server.server_port}")
        server.shutdown()
    assert (done.status, why in done.stderr) == (1, True), done.stderr
