"""Global options: their defaults and position, and the ways to reach the API."""

import asyncio
import ssl
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fleetctl.settings import HostKeyChecking, resolve_settings
from tests.fleetctl.background import BackgroundLoop
from tests.fleetctl.conftest import HELLO, Fleetctl
from tests.fleetctl.scripted_cluster import ScriptedCluster

DEFAULTS = {
    "endpoint": "unix:///var/run/fleet.sock",
    "driver": "API",
    "etcd_key_prefix": "/_coreos.com/fleet/",
    "request_timeout_s": 3.0,
    "ca_file": "",
    "cert_file": "",
    "key_file": "",
    "tunnel": "",
    "ssh_timeout_s": 10.0,
    "known_hosts_file": "~/.fleetctl/known_hosts",
    "strict_host_key_checking": HostKeyChecking.ASK,
    "debug": False,
    "experimental_api": True,
    "etcd_keyfile": "",
    "etcd_certfile": "",
    "etcd_cafile": "",
}


@pytest.mark.covers(
    "3.3.2",
    "3.3.3",
    "3.3.4",
    "3.3.5",
    "3.3.6",
    "3.3.7",
    "3.3.9",
    "3.3.10",
    "3.3.11",
    "3.3.12",
    "3.3.15",
    "3.3.16",
    "9.11",
)
@pytest.mark.parametrize(("field", "default"), DEFAULTS.items())
def test_global_options_have_the_defaults_of_coreos_fleet(field: str, default: object) -> None:
    assert getattr(resolve_settings({}, {}), field) == default


@pytest.mark.parametrize(
    ("text", "checking"),
    [
        ("true", HostKeyChecking.ASK),
        ("yes", HostKeyChecking.ASK),
        ("1", HostKeyChecking.ASK),
        ("false", HostKeyChecking.OFF),
        ("no", HostKeyChecking.OFF),
        ("0", HostKeyChecking.OFF),
        ("accept-new", HostKeyChecking.ACCEPT_NEW),
    ],
)
def test_strict_host_key_checking_accepts_booleans_and_accept_new(text: str, checking: HostKeyChecking) -> None:
    settings = resolve_settings({}, {"FLEETCTL_STRICT_HOST_KEY_CHECKING": text})
    assert settings.strict_host_key_checking is checking


def test_an_invalid_strict_host_key_checking_is_refused(fleetctl: Fleetctl) -> None:
    result = fleetctl("--strict-host-key-checking=accept", "version")
    assert (result.status, "is neither true nor false nor accept-new" in result.stderr) == (2, True)
    assert fleetctl("--strict-host-key-checking", "version").status == 0


@pytest.mark.covers("3.1.1")
def test_an_option_of_a_command_before_it_is_refused(fleetctl: Fleetctl, cluster: ScriptedCluster) -> None:
    result = fleetctl("--no-legend", "list-units")
    assert (result.status, cluster.requests) == (2, [])
    assert "unknown flag: --no-legend" in result.stderr


@pytest.mark.covers("3.3.1")
def test_options_of_a_command_have_no_variables(fleetctl: Fleetctl, monkeypatch: pytest.MonkeyPatch) -> None:
    for option in ("NO_LEGEND", "FULL", "FIELDS"):
        monkeypatch.setenv(f"FLEETCTL_{option}", "true")
    assert fleetctl("list-machines", "--fields=machine").stdout.splitlines()[:2] == ["MACHINE", "11111111..."]


@pytest.mark.covers("3.1.1")
def test_two_dashes_end_the_options(fleetctl: Fleetctl, cluster: ScriptedCluster) -> None:
    cluster.add("--full.service", HELLO)
    assert fleetctl("cat", "--", "--full").stdout == HELLO


@pytest.mark.covers("3.4.1")
@pytest.mark.parametrize("scheme", ["unix", "file"])
def test_a_socket_may_be_named_by_unix_or_file(bare_fleetctl: Fleetctl, cluster: ScriptedCluster, scheme: str) -> None:
    endpoint = cluster.unix.replace("unix", scheme)
    assert bare_fleetctl("--endpoint", endpoint, "list-units", "--fields=unit").stdout == "UNIT\n"


# TLS


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with ca, server (for 127.0.0.1) and client, each as .pem and .key."""
    directory = tmp_path_factory.mktemp("tls")

    def openssl(command: str) -> None:
        subprocess.run(["openssl", *command.split()], cwd=directory, check=True, capture_output=True)

    key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes"
    openssl(f"req -x509 {key} -keyout ca.key -out ca.pem -days 2 -subj /CN=ca")
    (directory / "server.ext").write_text("subjectAltName=IP:127.0.0.1\n")
    (directory / "client.ext").write_text("extendedKeyUsage=clientAuth\n")
    for name in ("server", "client"):
        openssl(f"req {key} -keyout {name}.key -out {name}.csr -subj /CN={name}")
        openssl(
            f"x509 -req -in {name}.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 "
            f"-extfile {name}.ext -out {name}.pem"
        )
    return directory


@pytest.fixture
def serve_over_tls(
    cluster: ScriptedCluster, background: BackgroundLoop, certificates: Path
) -> Iterator[Callable[[bool], str]]:
    """Starts a TLS proxy in front of the API, which requires client certificates or not; returns its endpoint."""
    servers: list[asyncio.Server] = []

    async def copy(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        while data := await source.read(65536):
            sink.write(data)
            await sink.drain()
        sink.close()

    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answers, requests = await asyncio.open_unix_connection(cluster.unix.removeprefix("unix://"))
        await asyncio.gather(copy(reader, requests), copy(answers, writer))

    def serve(asks_for_certificates: bool) -> str:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificates / "server.pem", certificates / "server.key")
        if asks_for_certificates:
            context.load_verify_locations(certificates / "ca.pem")
            context.verify_mode = ssl.CERT_REQUIRED
        servers.append(background.do(asyncio.start_server(forward, "127.0.0.1", 0, ssl=context)))
        return f"https://127.0.0.1:{servers[0].sockets[0].getsockname()[1]}"

    async def close() -> None:
        for server in servers:
            server.close()

    yield serve
    background.do(close())


@pytest.mark.covers("3.3.6", "3.3.16", "3.4.2", "3.4.6", "10.1.9")
def test_a_certificate_is_verified_with_the_given_ca_file(
    bare_fleetctl: Fleetctl, serve_over_tls: Callable[[bool], str], certificates: Path
) -> None:
    endpoint = serve_over_tls(False)
    for option in ("--ca-file", "--etcd-cafile"):
        result = bare_fleetctl("--endpoint", endpoint, option, f"{certificates}/ca.pem", "list-units", "--fields=unit")
        assert (result.status, result.stdout, result.stderr) == (0, "UNIT\n", "")


@pytest.mark.covers("3.4.6", "10.1.9")
def test_a_certificate_of_an_unknown_authority_is_refused(
    bare_fleetctl: Fleetctl, serve_over_tls: Callable[[bool], str]
) -> None:
    endpoint = serve_over_tls(False)
    result = bare_fleetctl("--endpoint", endpoint, "list-units")
    assert (result.status, result.stdout, result.stderr.count("\n")) == (1, "", 1)
    assert f"cannot reach fleetd at {endpoint}: " in result.stderr
    assert "; --ca-file names the authority that signed its certificate" in result.stderr


@pytest.mark.covers("3.3.6", "3.3.16", "3.4.6")
@pytest.mark.parametrize("options", [("--cert-file", "--key-file"), ("--etcd-certfile", "--etcd-keyfile")])
def test_the_client_certificate_is_presented_on_request(
    bare_fleetctl: Fleetctl, serve_over_tls: Callable[[bool], str], certificates: Path, options: tuple[str, str]
) -> None:
    base = ["--endpoint", serve_over_tls(True), "--ca-file", f"{certificates}/ca.pem"]
    own = [options[0], f"{certificates}/client.pem", options[1], f"{certificates}/client.key"]
    assert bare_fleetctl(*base, "list-units").status == 1
    assert bare_fleetctl(*base, *own, "list-units", "--fields=unit").stdout == "UNIT\n"
