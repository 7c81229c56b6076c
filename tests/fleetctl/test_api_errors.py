"""An API that is missing, refuses, hangs, or is another program: one line on stderr, and status 1."""

import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from fleetd.api.http import Response, render_error
from tests.fleetctl.conftest import Fleetctl, Result
from tests.fleetctl.scripted_cluster import STUCK, ScriptedCluster, always

COMMANDS = [
    ("list-units", "Error retrieving list of units from repository: "),
    ("list-unit-files", "Error retrieving list of units from repository: "),
    ("list-machines", "Error retrieving list of active machines from fleet API ("),
    ("cat web", "Error retrieving Unit web.service: "),
    ("submit web", "Error creating units: error retrieving Unit(web.service) from Registry: "),
    ("start web", "Error creating units: error retrieving Unit(web.service) from Registry: "),
    ("stop web", "Error retrieving list of units from repository: "),
    ("destroy web", "Error retrieving list of units from repository: "),
]


def one_line(result: Result) -> str:
    assert (result.status, result.stdout, result.stderr.count("\n")) == (1, "", 1)
    return result.stderr.rstrip("\n")


@pytest.mark.covers("3.9.21")
@pytest.mark.parametrize(("command", "before"), COMMANDS)
def test_a_missing_socket_is_named_with_a_remedy(bare_fleetctl: Fleetctl, command: str, before: str) -> None:
    line = one_line(bare_fleetctl("--endpoint=unix:///nowhere/fleet.sock", *command.split()))
    assert line.startswith(f"{before}cannot reach fleetd at unix:///nowhere/fleet.sock: no such socket; ")
    assert "systemctl status fleet" in line
    assert "--endpoint" in line


def test_a_socket_without_a_listener_is_named_with_a_remedy(bare_fleetctl: Fleetctl, tmp_path: Path) -> None:
    path = tmp_path / "fleet.sock"
    with socket.socket(socket.AF_UNIX) as deaf:
        deaf.bind(str(path))
        line = one_line(bare_fleetctl(f"--endpoint=unix://{path}", "list-units"))
    assert f"cannot reach fleetd at unix://{path}: connection refused; is fleetd running here?" in line


def test_a_socket_without_permission_names_the_group(bare_fleetctl: Fleetctl, cluster: ScriptedCluster) -> None:
    path = cluster.unix.removeprefix("unix://")
    os.chmod(path, 0)
    nobody = 65534
    if os.geteuid() == 0:
        os.seteuid(nobody)
    try:
        line = one_line(bare_fleetctl("--endpoint", cluster.unix, "list-units"))
    finally:
        if os.getuid() == 0:
            os.seteuid(0)
    assert (
        f"cannot reach fleetd at {cluster.unix}: permission denied; run as root, or as a user in the group fleet"
        in line
    )


def test_a_closed_port_is_named_with_a_remedy(bare_fleetctl: Fleetctl) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{closed.getsockname()[1]}"
        line = one_line(bare_fleetctl("--endpoint", endpoint, "list-units"))
    assert f"cannot reach fleetd at {endpoint}: connection refused; is fleetd running there" in line


def test_a_host_that_does_not_resolve_is_named(bare_fleetctl: Fleetctl) -> None:
    line = one_line(bare_fleetctl("--endpoint=http://no-such-host.invalid:1", "list-units"))
    assert "cannot reach fleetd at http://no-such-host.invalid:1: " in line


def test_https_to_a_server_without_tls_is_an_error(bare_fleetctl: Fleetctl, cluster: ScriptedCluster) -> None:
    endpoint = cluster.tcp.replace("http", "https")
    line = one_line(bare_fleetctl("--endpoint", endpoint, "list-units"))
    assert f"cannot reach fleetd at {endpoint}: " in line


def test_proxy_variables_are_ignored(
    fleetctl: Fleetctl, cluster: ScriptedCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    assert fleetctl("--endpoint", cluster.tcp, "list-units").status == 0


@pytest.fixture
def silent() -> Iterator[str]:
    """The endpoint of a server that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@pytest.mark.covers("3.3.5", "10.1.6")
def test_a_server_that_hangs_times_out(bare_fleetctl: Fleetctl, silent: str) -> None:
    line = one_line(bare_fleetctl("--endpoint", silent, "--request-timeout=0.1", "list-units"))
    assert f"{silent} gave no answer within 0.1 s: " in line
    assert "--request-timeout=SECONDS" in line


@pytest.mark.covers("3.4.8", "3.6.1", "3.8.36", "3.9.21")
@pytest.mark.parametrize(("command", "before"), COMMANDS)
def test_every_command_prints_the_error_of_the_api(
    fleetctl: Fleetctl, cluster: ScriptedCluster, command: str, before: str
) -> None:
    refusal = render_error(503, "fleet server unable to communicate with etcd")
    cluster.intercept = lambda method, path: refusal
    line = one_line(fleetctl(*command.split()))
    assert line.startswith(f"{before}Error 503: fleet server unable to communicate with etcd")


@pytest.mark.covers("3.4.9")
@pytest.mark.parametrize(("command", "before"), [COMMANDS[0], COMMANDS[5]])
@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (500, b'{"error":{"code":500,"message":""}}', "Error 500: unix://"),
        (502, b"<html>Bad Gateway</html>", "Error 502: unix://"),
        (400, b'{"error":{"code":400,"message":"two\\nlines\\u001b[2J"}}', r"Error 400: two lines\x1b[2J"),
        (404, b"<html>Not Found</html>", "unix://"),
        (301, b"", "unix://"),
        (200, b"<html>Welcome!</html>", "unix://"),
        (200, b"", "unix://"),
        (200, b"\xff\xfe", "unix://"),
        (200, b"[]", "unix://"),
        (200, b'{"units":7,"states":7,"machines":7,"options":7}', "unix://"),
    ],
)
def test_an_invalid_response_is_a_one_line_error(
    fleetctl: Fleetctl, cluster: ScriptedCluster, command: str, before: str, status: int, body: bytes, expected: str
) -> None:
    cluster.intercept = always(status, body, "text/html")
    line = one_line(fleetctl(*command.split()))
    assert line.startswith(before + expected)
    if status < 500 and b"error" not in body:
        assert "as fleet's API does" in line
        assert "check --endpoint" in line


@pytest.mark.covers("3.4.8")
def test_an_error_without_a_message_points_to_the_log(fleetctl: Fleetctl, cluster: ScriptedCluster) -> None:
    cluster.intercept = lambda method, path: render_error(500, "")
    assert one_line(fleetctl("list-units")).endswith(" gives no reason; see its log: journalctl -u fleet")


def test_a_list_whose_pages_never_end_is_an_error(fleetctl: Fleetctl, cluster: ScriptedCluster) -> None:
    cluster.intercept = always(200, b'{"nextPageToken":"again"}')
    assert "returns the same page" in one_line(fleetctl("list-units"))


def test_a_wait_survives_a_restart_of_fleetd(fleetctl: Fleetctl, cluster: ScriptedCluster) -> None:
    cluster.add("web.service")
    answers = iter([Response(503)] * 3)
    cluster.intercept = lambda method, path: next(answers, None) if cluster.operations else None
    result = fleetctl("start", "web")
    assert (result.status, result.stderr) == (0, "")
    assert next(answers, None) is None


def test_a_wait_ends_if_fleetd_stays_away(fleetctl: Fleetctl, cluster: ScriptedCluster) -> None:
    cluster.add("web.service")
    cluster.intercept = lambda method, path: Response(503) if cluster.operations else None
    line = one_line(fleetctl("start", "--block-attempts=1", "web"))
    assert line.startswith("Error waiting for units: Error 503: ")


@pytest.mark.covers("3.8.17")
def test_an_operation_without_a_response_is_an_error(fleetctl: Fleetctl, cluster: ScriptedCluster) -> None:
    cluster.add("web.service")
    cluster.outcomes["web.service"] = STUCK
    released = threading.Event()

    def hang(method: str, path: str) -> None:
        if method == "PUT":
            released.wait(60)

    cluster.intercept = hang
    line = one_line(fleetctl("--request-timeout=2", "start", "web"))
    released.set()
    assert line.startswith("Error starting units: unix://")
    assert "gave no answer within 2 s" in line
