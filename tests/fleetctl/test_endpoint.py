"""How an endpoint is parsed and chosen."""

import os
import socket
from pathlib import Path

import pytest

from fleetctl.endpoint import Endpoint, choose_endpoint, parse_endpoint
from fleetctl.errors import CommandFailed
from fleetctl.settings import Settings
from tests.fleetctl.conftest import Fleetctl


@pytest.mark.parametrize(
    ("text", "endpoint"),
    [
        ("unix:///run/fleet.sock", Endpoint(text="unix:///run/fleet.sock", socket="/run/fleet.sock")),
        ("http://m1", Endpoint(text="http://m1", host="m1", port=80)),
        ("http://[::1]", Endpoint(text="http://[::1]", host="::1", port=80)),
        ("https://m1", Endpoint(text="https://m1", host="m1", port=443, tls=True)),
        (
            "https://me:a%3Ab@[fe80::1]:8443/proxy/",
            Endpoint(
                text="https://me:a%3Ab@[fe80::1]:8443/proxy/",
                host="fe80::1",
                port=8443,
                tls=True,
                login="me:a:b",
                path="/proxy",
            ),
        ),
    ],
)
def test_an_endpoint_is_parsed_into_what_is_connected_to(text: str, endpoint: Endpoint) -> None:
    assert parse_endpoint(text) == endpoint


@pytest.mark.parametrize(
    ("settings", "socket"),
    [
        (Settings(), "/var/run/fleet.sock"),
        (Settings(user=True), "/run/ann/fleet.sock"),
        (Settings(user=True, endpoint="unix:///tmp/s"), "/tmp/s"),
        (Settings(user=True, endpoint="unix:///run/user/7/fleet.sock", tunnel="host"), "/run/user/7/fleet.sock"),
    ],
)
def test_ones_own_fleetd_is_asked_only_if_one_says_so(
    monkeypatch: pytest.MonkeyPatch, settings: Settings, socket: str
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/ann")
    assert choose_endpoint(settings).socket == socket


def test_ones_own_fleetd_on_another_machine_needs_its_socket() -> None:
    with pytest.raises(CommandFailed, match="--user with --tunnel needs --endpoint=unix"):
        choose_endpoint(Settings(user=True, tunnel="host"))


def test_a_fleetd_that_does_not_run_is_told_with_the_remedy(
    bare_fleetctl: Fleetctl, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    no_own = bare_fleetctl("--user", "list-units").stderr
    assert f"cannot reach fleetd at unix://{tmp_path}/fleet.sock: no such socket; is your own fleetd running?" in no_own
    if os.path.exists("/run/fleet.sock"):
        pytest.skip("fleetd runs on this machine")
    assert "is fleetd running here?" in bare_fleetctl("list-units").stderr
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "fleet.sock"))
        assert "no such socket; your own fleetd is asked with --user" in bare_fleetctl("list-units").stderr
        refused = bare_fleetctl("--user", "list-units").stderr
    assert "connection refused; is your own fleetd running?" in refused
