"""fleetd join: a machine that becomes a worker, against a real server over https, and what leaves it as it was."""

import os
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from contrib.testbed.etcd import free_port
from fleetd.__main__ import main
from fleetd.api.http import Request, Response, render_error
from fleetd.api.routes import Api
from fleetd.api.schema import V2
from fleetd.api.server import Server
from fleetd.config.config import load_config
from fleetd.config.options import Address
from fleetd.model.actor import Actor
from fleetd.model.certificate import parse_peer_certificate, revoke
from fleetd.model.join_token import TokenText, make_secret, parse_token
from fleetd.model.machine import Machine
from fleetd.model.machine_identity import MachineIdentity
from fleetd.model.permission import EVERY_RIGHT
from fleetd.process.joining import ATTEMPTS, Host, JoinFailed, join
from fleetd.registry.records import MACHINE_IDENTITIES
from fleetd.registry.registry import Registry
from fleetd.store.embedded import EmbeddedStore, inline
from fleetd.trust import x509
from fleetd.trust.files import TrustFiles
from tests.api.issuing import Issuer
from tests.api.served import LOOPBACK
from tests.certificates import TestAuthority, TestTrust
from tests.fleetctl.background import BackgroundLoop

SERVER, M1, M2 = "0" * 32, "1" * 32, "2" * 32
HOST_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE"


class ServedCluster(Api):
    """A server of a cluster, in a thread. `intercept` may answer a request in place of the API."""

    def __init__(self, loop: BackgroundLoop, authority: TestAuthority, trust: TestTrust | None = None) -> None:
        self.intercept: Callable[[Request], Response | None] = lambda request: None
        self.requests: list[str] = []
        self.issuer = Issuer(time.time())
        self.issuer.authority = authority.authority
        self.issuer.trusted = [authority.authority]
        self.address = Address(host=LOOPBACK, port=free_port(), tls=True)
        self.url = f"https://{LOOPBACK}:{self.address.port}"
        self._loop = loop
        loop.do(self._open(trust or TestTrust(authority)))

    async def _open(self, trust: TestTrust) -> None:
        self._store = EmbeddedStore(":memory:", offload=inline)
        self.registry = Registry(self._store)
        super().__init__(self.registry, trust=self.issuer)
        await self._store.transact([], [self.registry.put(Machine(SERVER, https=f"{LOOPBACK}:7443"), SERVER)])
        self._server = Server(self, trust=trust)
        await self._server.start([self.address], insecure=False)

    def close(self) -> None:
        self._loop.do(self._server.stop())
        self._loop.do(self._store.close())

    async def handle(self, request: Request) -> Response:
        self.requests.append(f"{request.method} {request.path.removeprefix(V2)}")
        return self.intercept(request) or await super().handle(request)

    def token(self, machine: str = "") -> str:
        admin = Actor("ann", rights=EVERY_RIGHT)
        headers = (("Content-Type", "application/json"),)
        body = f'{{"machine":"{machine}"}}'.encode()
        asked = Request("POST", f"{V2}/machine-tokens", headers=headers, body=body, local=True, actor=admin)
        answer = self._loop.do(super().handle(asked))
        assert answer.status == 200, answer.body
        return answer.body.decode().partition('"token":"')[2].partition('"')[0]

    @property
    def identities(self) -> dict[tuple[str, ...], MachineIdentity]:
        return dict(self._loop.do(self.registry.read(MACHINE_IDENTITIES)).items())


class BareMachine:
    """A machine whose files are below a folder."""

    def __init__(self, folder: Path, id_: str = M1) -> None:
        self.folder = folder
        self.config_path = folder / "etc/fleet.conf"
        self.config_path.parent.mkdir(parents=True)
        self.files = TrustFiles(folder / "state/trust")
        self.said: list[str] = []
        self.restarts = 0
        self.paused_s = 0.0
        self.host = Host(
            config_path=self.config_path,
            state=folder / "state",
            environ={},
            machine=lambda: id_,
            address=lambda: "10.0.0.7",
            host_keys=lambda: (HOST_KEY,),
            make_request=x509.make_request,
            serves=lambda config: False,
            restart=self._restart,
            say=self.said.append,
            sleep=self._sleep,
        )

    def _restart(self) -> str:
        self.restarts += 1
        return ""

    def _sleep(self, pause_s: float) -> None:
        self.paused_s += pause_s

    def join(self, url: str, token: str) -> None:
        join(url, token, self.host)

    def refused(self, url: str, token: str) -> str:
        """Why it could not join, after which all files are as they were."""
        before = self.snapshot()
        with pytest.raises(JoinFailed) as refused:
            self.join(url, token)
        assert self.snapshot() == before
        assert self.restarts == 0
        return str(refused.value)

    def snapshot(self) -> dict[str, tuple[int, bytes]]:
        """All files and directories, with their modes and contents."""
        return {
            str(path.relative_to(self.folder)): (path.stat().st_mode, b"" if path.is_dir() else path.read_bytes())
            for path in self.folder.rglob("*")
        }

    def configure(self, text: str) -> None:
        self.config_path.write_text(text)

    @property
    def config(self) -> str:
        return self.config_path.read_text()

    @property
    def serial(self) -> str:
        """That of its certificate."""
        return parse_peer_certificate(x509.describe(self.files.read_certificate())).serial


@pytest.fixture(scope="module")
def background() -> Iterator[BackgroundLoop]:
    loop = BackgroundLoop()
    yield loop
    loop.close()


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> TestAuthority:
    return TestAuthority(tmp_path_factory.mktemp("authority"))


@pytest.fixture
def cluster(background: BackgroundLoop, authority: TestAuthority) -> Iterator[ServedCluster]:
    served = ServedCluster(background, authority)
    yield served
    served.close()


@pytest.fixture
def machine(tmp_path: Path) -> BareMachine:
    return BareMachine(tmp_path)


def test_a_bare_machine_becomes_a_worker(machine: BareMachine, cluster: ServedCluster) -> None:
    machine.join(cluster.url, cluster.token())
    assert machine.said == [f"this machine is a worker of the cluster of {cluster.url} now"]
    assert machine.config == f"role=worker\nservers={cluster.url},https://{LOOPBACK}:7443\n"
    config, notices = load_config(str(machine.config_path), {}, {})
    assert (config.role, notices) == ("worker", [])
    certificate = machine.files.read_certificate()
    assert parse_peer_certificate(x509.describe(certificate)).subject == f"machine/{M1}"
    assert x509.has_key_of(x509.make_request(machine.files.read_key())[1], certificate)
    assert machine.files.read_authorities() == (cluster.issuer.authority.certificate,)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in machine.files.directory.iterdir()}
    assert modes == {"machine.key": 0o600, "machine.pem": 0o600, "authorities.pem": 0o600}
    assert stat.S_IMODE(machine.files.directory.stat().st_mode) == 0o700
    assert stat.S_IMODE(machine.config_path.stat().st_mode) == 0o644
    assert machine.restarts == 1
    found = cluster.identities[M1,]
    assert (found.address, found.host_keys, found.by) == ("10.0.0.7", (HOST_KEY,), "ann")


def test_what_its_fleet_conf_says_otherwise_stays_and_is_recorded(machine: BareMachine, cluster: ServedCluster) -> None:
    machine.configure("# ours\nmetadata=disk=ssd\npublic_ip=192.0.2.7\n\n[later]\na=b\n")
    machine.config_path.chmod(0o640)
    machine.join(cluster.url, cluster.token())
    servers = f"servers={cluster.url},https://{LOOPBACK}:7443"
    assert machine.config == (
        f"# ours\nmetadata=disk=ssd\npublic_ip=192.0.2.7\nrole=worker\n{servers}\n\n[later]\na=b\n"
    )
    assert stat.S_IMODE(machine.config_path.stat().st_mode) == 0o640
    assert (cluster.identities[M1,].metadata, cluster.identities[M1,].address) == ({"disk": "ssd"}, "192.0.2.7")


def test_to_join_again_renews_the_certificate_and_uses_no_token(machine: BareMachine, cluster: ServedCluster) -> None:
    token = cluster.token()
    machine.join(cluster.url, token)
    key, serial, config = machine.files.read_key(), machine.serial, machine.config
    machine.join(cluster.url, token)
    assert machine.said[1:] == [
        "this machine is a worker of that cluster already, and its certificate is renewed; the server at "
        f"{cluster.url} refused: machine {M1} has used this token, and a token can be used once; have another made: "
        "fleetctl machine token"
    ]
    assert (machine.files.read_key(), machine.config) == (key, config)
    assert machine.serial != serial


def test_with_a_token_for_it_a_worker_is_recorded_as_it_is_now(machine: BareMachine, cluster: ServedCluster) -> None:
    machine.join(cluster.url, cluster.token())
    key = machine.files.read_key()
    machine.configure(f"{machine.config}metadata=disk=ssd\n")
    machine.join(cluster.url, cluster.token(M1))
    assert cluster.identities[M1,].metadata == {"disk": "ssd"}
    assert machine.files.read_key() != key
    assert machine.said[1] == machine.said[0]


def test_a_worker_joins_with_a_token_of_an_authority_that_it_does_not_know_yet(
    machine: BareMachine, cluster: ServedCluster
) -> None:
    machine.join(cluster.url, cluster.token())
    former = x509.make_authority(9, time.time())
    machine.files.write_authorities([former.certificate])
    cluster.issuer.trusted.append(former)
    machine.join(cluster.url, cluster.token(M1))
    assert cluster.issuer.authority.certificate in machine.files.read_authorities()


def test_a_machine_that_was_removed_joins_again_with_another_key(machine: BareMachine, cluster: ServedCluster) -> None:
    machine.join(cluster.url, cluster.token())
    key = machine.files.read_key()
    cluster.issuer.known.append(revoke(1, f"machine/{M1}", "ann", time.time()))
    machine.join(cluster.url, cluster.token(M1))
    assert machine.files.read_key() != key
    assert "now" in machine.said[-1]


def test_an_answer_that_was_lost_is_asked_for_again(machine: BareMachine, cluster: ServedCluster) -> None:
    failures = ["answered", ""]

    def lose(request: Request) -> Response | None:
        if request.path.endswith("/join") and failures:
            failures.pop()
            return render_error(503, "fleetd starts")
        return None

    cluster.intercept = lose
    machine.join(cluster.url, cluster.token())
    assert cluster.requests.count("POST /join") == 3
    assert machine.paused_s > 0


# What leaves the machine as it was


def test_a_server_that_cannot_now_is_asked_a_few_times(machine: BareMachine, cluster: ServedCluster) -> None:
    cluster.intercept = lambda request: render_error(503, "no store") if request.path.endswith("/join") else None
    assert machine.refused(cluster.url, cluster.token()) == f"the server at {cluster.url} refused: no store"
    assert cluster.requests.count("POST /join") == ATTEMPTS


def test_a_token_that_another_machine_has_used(machine: BareMachine, cluster: ServedCluster, tmp_path: Path) -> None:
    token = cluster.token()
    BareMachine(tmp_path / "other", M2).join(cluster.url, token)
    assert f"refused: machine {M2} has used this token" in machine.refused(cluster.url, token)


def test_a_server_of_another_cluster_gets_no_secret(
    machine: BareMachine, cluster: ServedCluster, background: BackgroundLoop, tmp_path: Path
) -> None:
    elsewhere = tmp_path / "authority"
    elsewhere.mkdir()
    other = ServedCluster(background, TestAuthority(elsewhere))
    try:
        why = machine.refused(other.url, cluster.token())
    finally:
        other.close()
    assert why.startswith(f"the server at {other.url} is not of the cluster that the token is for")
    assert other.requests == ["GET /authorities"]


def test_a_server_that_only_claims_to_be_of_the_cluster_gets_no_secret(
    machine: BareMachine, cluster: ServedCluster, authority: TestAuthority, background: BackgroundLoop, tmp_path: Path
) -> None:
    elsewhere = tmp_path / "authority"
    elsewhere.mkdir()
    impostor = ServedCluster(background, authority, TestTrust(TestAuthority(elsewhere)))
    try:
        why = machine.refused(impostor.url, cluster.token())
    finally:
        impostor.close()
    assert "the authority that the token is for has not signed it: another server answers there" in why
    assert impostor.requests == ["GET /authorities"]


def test_a_worker_does_not_play_a_server(
    machine: BareMachine, cluster: ServedCluster, authority: TestAuthority, background: BackgroundLoop
) -> None:
    trust = TestTrust(authority)
    assert trust.context is not None
    trust.context.load_cert_chain(authority.machine("w1", "worker"))
    worker = ServedCluster(background, authority, trust)
    try:
        why = machine.refused(worker.url, cluster.token())
    finally:
        worker.close()
    assert "does not count (unsuitable certificate purpose)" in why
    assert worker.requests == ["GET /authorities"]


@pytest.mark.parametrize(("age_s", "counts"), [(3600.0, True), (-3600.0, True), (-2 * 86400.0, False)])
def test_clocks_may_differ_by_an_hour_and_a_wrong_one_is_named(
    machine: BareMachine, background: BackgroundLoop, authority: TestAuthority, age_s: float, counts: bool
) -> None:
    trust = TestTrust(authority)
    assert trust.context is not None
    trust.context.load_cert_chain(authority.machine("m1", age_s=age_s, life_s=86400.0))
    served = ServedCluster(background, authority, trust)
    try:
        if counts:
            machine.join(served.url, served.token())
        else:
            why = machine.refused(served.url, served.token())
            assert "does not count (certificate is not yet valid): is the clock of this machine right (" in why
    finally:
        served.close()


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("10.0.0.1", "'10.0.0.1' is not the URL of a server: write https://HOST:7443"),
        ("http://10.0.0.1:7443", "'http://10.0.0.1:7443' is not the URL of a server: write https://HOST:7443"),
        ("https://a:b", "'https://a:b' is no URL: "),
        ("https://", "'https://' is not the URL of a server"),
        ("https://u@h:1", "'https://u@h:1' is not the URL of a server"),
    ],
)
def test_what_is_no_url(machine: BareMachine, cluster: ServedCluster, url: str, why: str) -> None:
    assert machine.refused(url, cluster.token()).startswith(why)


def test_a_server_that_does_not_answer(machine: BareMachine, cluster: ServedCluster) -> None:
    nowhere = f"https://{LOOPBACK}:{free_port()}"
    why = machine.refused(nowhere, cluster.token())
    assert why.startswith(f"cannot reach a server of fleet at {nowhere}: connection refused; does it listen there")


def test_a_server_without_tls_and_one_that_is_not_fleets(
    machine: BareMachine, cluster: ServedCluster, background: BackgroundLoop
) -> None:
    address = Address(host=LOOPBACK, port=free_port())

    async def serve_plainly() -> Server:
        server = Server(cluster)
        await server.start([address], insecure=True)
        return server

    plain = background.do(serve_plainly())
    try:
        assert "cannot reach a server of fleet" in machine.refused(
            f"https://{LOOPBACK}:{address.port}", cluster.token()
        )
    finally:
        background.do(plain.stop())
    cluster.intercept = lambda request: Response(200, (), b"<html>")
    assert "is not fleet's (status 200): check the address" in machine.refused(cluster.url, cluster.token())


def test_a_token_that_is_cut_short_or_made_up(machine: BareMachine, cluster: ServedCluster) -> None:
    token = cluster.token()
    assert machine.refused(cluster.url, token[:-1]) == "the token is cut short: it has 103 of 104 characters"
    assert cluster.requests == []
    made_up = TokenText(parse_token(token).authority, make_secret(bytes(20)))
    assert "refused: there is no such token" in machine.refused(cluster.url, str(made_up))


@pytest.mark.parametrize(
    ("config", "why"),
    [
        ("standalone=true\n", "standalone=true: this machine is a cluster of its own; "),
        ("etcd_servers=http://127.0.0.1:2379\n", "etcd_servers= in "),
        ("insecure=true\nlisten=10.0.0.1:4000\n", "this machine is configured to be something else than a worker: "),
        ("nonsense\n", ""),
    ],
)
def test_a_machine_that_is_configured_already(
    machine: BareMachine, cluster: ServedCluster, config: str, why: str
) -> None:
    machine.configure(config)
    assert machine.refused(cluster.url, cluster.token()).startswith(why)
    assert cluster.requests[1:] == []


def test_a_machine_that_is_a_member_already(machine: BareMachine, cluster: ServedCluster) -> None:
    machine.host = replace(machine.host, serves=lambda config: True)
    assert machine.refused(cluster.url, cluster.token()) == (
        "fleetd runs here, and is a member of a cluster; to have it join another one, run `fleetd leave`"
    )


def test_a_server_that_has_the_key_of_an_authority(machine: BareMachine, cluster: ServedCluster) -> None:
    machine.files.write_key(cluster.issuer.authority)
    assert "this machine is a server of a cluster" in machine.refused(cluster.url, cluster.token())


def test_a_worker_of_another_cluster(machine: BareMachine, cluster: ServedCluster) -> None:
    machine.join(cluster.url, cluster.token())
    machine.files.write_authorities([x509.make_authority(1, time.time()).certificate])
    machine.restarts = 0
    assert machine.refused(cluster.url, cluster.token()).startswith("this machine is a worker of another cluster")


def test_an_answer_with_a_certificate_of_another_key(machine: BareMachine, cluster: ServedCluster) -> None:
    other = x509.make_request()[1]
    key = x509.make_request()[0]
    machine.host = replace(machine.host, make_request=lambda _: (key, other))
    assert machine.refused(cluster.url, cluster.token()).startswith(
        "the server has sent no certificate for the key of this machine"
    )


@pytest.mark.skipif(os.geteuid() == 0 and not Path("/dev/full").exists(), reason="needs a place that cannot be written")
def test_a_configuration_that_cannot_be_written_uses_no_token(machine: BareMachine, cluster: ServedCluster) -> None:
    blocked = machine.folder / "etc/.fleet.conf.join"
    blocked.mkdir()
    assert "cannot write " in machine.refused(cluster.url, cluster.token())
    assert "POST /join" not in cluster.requests


def test_a_fleetd_that_does_not_start_is_said(machine: BareMachine, cluster: ServedCluster) -> None:
    machine.host = replace(machine.host, restart=lambda: "Unit fleet.service not found.")
    with pytest.raises(JoinFailed, match=r"^the machine has its certificate, but fleet.service does not run: Unit "):
        machine.join(cluster.url, cluster.token())


def test_the_command_says_how_it_is_used(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["join", "https://10.0.0.1:7443"], {}) == 1
    assert capsys.readouterr().err == (
        "fleetd: join takes the URL of a server and a token, or - to read the token from standard input: fleetd join "
        "https://SERVER:7443 TOKEN\n"
    )
