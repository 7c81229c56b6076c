"""login, and the API over https: certificates that fleetctl gets, keeps and shows, against a real server."""

import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from contrib.testbed.etcd import free_port
from fleetctl.logins import AHEAD_S, Login, find_logins
from fleetd.api.routes import Api
from fleetd.api.server import Server
from fleetd.config.options import Address
from fleetd.model.certificate import Revocation, fingerprint
from fleetd.model.machine import Machine
from fleetd.registry.registry import Registry
from fleetd.store.embedded import EmbeddedStore, inline
from tests.api.issuing import Issuer
from tests.certificates import TestAuthority, TestTrust
from tests.fleetctl.background import BackgroundLoop
from tests.fleetctl.conftest import Fleetctl
from tests.fleetctl.scripted_cluster import ScriptedCluster

LOOPBACK = "127.0.0.1"
SERVER = Machine("1" * 32, "s", LOOPBACK)


class HttpsCluster:
    """A real API on a unix socket and over https, with an authority in `folder`."""

    def __init__(self, background: BackgroundLoop, folder: Path) -> None:
        self.authority = TestAuthority(folder)
        self.issuer = Issuer(time.time())
        self.issuer.authority = self.authority.authority
        self.issuer.trusted = [self.authority.authority]
        self.trust = TestTrust(self.authority)
        self.trust.revocations = self.issuer.known
        self.unix = f"unix://{folder}/s"
        self.port = free_port()
        self.https = f"https://{LOOPBACK}:{self.port}"
        self._background = background
        background.do(self._start(Address(path=f"{folder}/s"), Address(host=LOOPBACK, port=self.port, tls=True)))

    async def _start(self, *addresses: Address) -> None:
        registry = Registry(EmbeddedStore(":memory:", offload=inline))
        machine = Machine(SERVER.id, "s", LOOPBACK, https=f":{self.port}")
        await registry.store.transact([], [registry.put(machine, machine.id)])
        self._registry = registry
        self._server = Server(Api(registry, trust=self.issuer), trust=self.trust)
        await self._server.start(addresses, insecure=False)

    def close(self) -> None:
        async def close() -> None:
            await self._server.stop()
            await self._registry.store.close()

        self._background.do(close())


@pytest.fixture
def https(background: BackgroundLoop, tmp_path_factory: pytest.TempPathFactory) -> Iterator[HttpsCluster]:
    cluster = HttpsCluster(background, tmp_path_factory.mktemp("c"))
    yield cluster
    cluster.close()


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


@pytest.fixture
def fleetctl(bare_fleetctl: Fleetctl, home: Path) -> Fleetctl:
    """Runs a command line with a home of its own."""
    return bare_fleetctl


def login(fleetctl: Fleetctl, https: HttpsCluster, *options: str) -> str:
    result = fleetctl("--endpoint", https.unix, "login", *options)
    assert (result.status, result.stderr) == (0, "")
    return result.stdout


# A person


def test_after_a_login_https_works_and_says_who_one_is(fleetctl: Fleetctl, https: HttpsCluster) -> None:
    first, second = login(fleetctl, https).splitlines()
    assert first.startswith("Logged in as person/root until 20")
    assert first.endswith(": admin:*")
    assert second == f"From now on this needs no SSH: fleetctl --endpoint={https.https} list-units"
    result = fleetctl("--endpoint", https.https, "whoami")
    who, rights, until = result.stdout.splitlines()
    assert (who, rights, until[:8]) == ("root (person/root)", "may do everything", "until 20")
    assert "11111111..." in fleetctl("--endpoint", https.https, "list-machines", "--no-legend").stdout


def test_a_login_is_kept_for_its_owner_alone_and_replaces_the_last(
    fleetctl: Fleetctl, https: HttpsCluster, home: Path
) -> None:
    for _ in range(2):
        login(fleetctl, https)
    (kept,) = find_logins()
    folder = home / ".fleetctl" / "certificates" / fingerprint(https.authority.authority.certificate)
    assert kept.folder == str(folder)
    assert (kept.subject, kept.servers) == ("person/root", (https.https,))
    assert sorted(os.listdir(folder)) == ["authorities.pem", "certificate.pem", "login.json", "revoked.json"]
    for path in folder.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    old = folder.with_name("0" * 64)
    folder.rename(old)
    result = fleetctl("--endpoint", https.unix, "login")
    assert result.status == 0
    assert result.stderr.startswith("The authority of this cluster is another one than at the login as person/root")
    assert not old.exists()


def test_a_login_may_be_for_less(fleetctl: Fleetctl, https: HttpsCluster) -> None:
    assert login(fleetctl, https, "--role=viewer").splitlines()[0].endswith(": view:*")
    result = fleetctl("--endpoint", https.https, "cordon", "11111111")
    assert result.status == 1
    assert "root may not do this: it needs the permission operate" in result.stderr


def test_a_certificate_gets_no_other(fleetctl: Fleetctl, https: HttpsCluster) -> None:
    login(fleetctl, https)
    result = fleetctl("--endpoint", https.https, "login")
    assert (result.status, result.stdout) == (1, "")
    assert "Error logging in: Error 403: a certificate is given to whom the kernel of a server knows" in result.stderr


def test_a_server_at_another_address_is_recognised_by_its_authority(
    fleetctl: Fleetctl, https: HttpsCluster, background: BackgroundLoop, tmp_path_factory: pytest.TempPathFactory
) -> None:
    other = HttpsCluster(background, tmp_path_factory.mktemp("other"))
    try:
        for cluster in (https, other):
            login(fleetctl, cluster)
        for login_ in find_logins():
            path = Path(login_.folder, "login.json")
            path.write_text(path.read_text().replace(LOOPBACK, "10.9.9.9"))
        for cluster in (https, other):
            assert fleetctl("--endpoint", cluster.https, "whoami").stdout.startswith("root (person/root)")
    finally:
        other.close()


def test_a_cluster_that_claims_the_address_of_another_does_not_take_its_login(
    fleetctl: Fleetctl, https: HttpsCluster, background: BackgroundLoop, tmp_path_factory: pytest.TempPathFactory
) -> None:
    other = HttpsCluster(background, tmp_path_factory.mktemp("other"))
    try:
        login(fleetctl, https)
        (kept,) = find_logins()
        path = Path(kept.folder, "login.json")
        path.write_text(path.read_text().replace(https.https, other.https))
        result = fleetctl("--endpoint", other.unix, "login")
        assert (result.status, result.stdout) == (1, "")
        assert f"the cluster says that {other.https} is one of its servers, which is one of another" in result.stderr
        assert f"remove {kept.folder} and log in again" in result.stderr
        assert [each.folder for each in find_logins()] == [kept.folder]
        path.write_text(msgspec.json.encode(msgspec.structs.replace(find_logins()[0], expires=1.0)).decode())
        result = fleetctl("--endpoint", other.unix, "login")
        assert result.status == 0
        assert "which is replaced" in result.stderr
        assert not Path(kept.folder).exists()
    finally:
        other.close()


# Servers that were revoked


def revoke_server(https: HttpsCluster, name: str = "m1") -> None:
    """Have the other servers say that this one was removed: m1 is who answers."""
    https.issuer.known.append(Revocation(len(https.issuer.known) + 1, f"machine/{name}", time.time() + 3600.0))


def make_old(path: Path) -> None:
    os.utime(path, (1.0, 1.0))


def test_a_server_that_was_revoked_is_refused_from_the_next_login_on(fleetctl: Fleetctl, https: HttpsCluster) -> None:
    login(fleetctl, https)
    revoke_server(https)
    assert fleetctl("--endpoint", https.https, "list-units").status == 0  # nobody has said so
    login(fleetctl, https)
    refused = f"cannot reach fleetd at {https.https}: machine/m1 was removed from the cluster; name another server"
    assert refused in fleetctl("--endpoint", https.https, "list-units").stderr
    https.issuer.known.clear()  # a store that was restored, or a server that lies
    login(fleetctl, https)
    assert refused in fleetctl("--endpoint", https.https, "list-units").stderr


def test_a_server_that_was_revoked_is_refused_at_an_address_that_is_not_known(
    fleetctl: Fleetctl, https: HttpsCluster
) -> None:
    revoke_server(https)
    login(fleetctl, https)
    (kept,) = find_logins()
    path = Path(kept.folder, "login.json")
    path.write_text(path.read_text().replace(LOOPBACK, "10.9.9.9"))
    assert "machine/m1 was removed from the cluster" in fleetctl("--endpoint", https.https, "list-units").stderr


def test_servers_that_are_used_say_now_and_then_which_ones_were_revoked(
    fleetctl: Fleetctl, https: HttpsCluster
) -> None:
    login(fleetctl, https)
    (kept,) = find_logins()
    revoke_server(https, "m2")
    assert fleetctl("--endpoint", https.https, "list-units").status == 0
    assert kept.revoked() == {}
    make_old(Path(kept.folder, "revoked.json"))
    assert fleetctl("--endpoint", https.https, "list-units").status == 0
    assert list(kept.revoked()) == ["m2"]
    assert kept.is_fresh()
    Path(kept.folder, "revoked.json").unlink()  # of a login that an older fleetctl has made
    assert fleetctl("--endpoint", https.https, "list-units").status == 0
    assert list(kept.revoked()) == ["m2"]


def test_no_server_has_others_refused_for_good(tmp_path: Path) -> None:
    kept = Login("person/ann", 0.0, (), str(tmp_path))
    kept.learn({"m2": 1e300, "m3": 5.0})
    assert kept.revoked()["m2"] <= time.time() + AHEAD_S
    assert kept.revoked()["m3"] == 5.0


def test_what_is_known_of_revocations_outlives_a_new_authority(
    fleetctl: Fleetctl, https: HttpsCluster, background: BackgroundLoop
) -> None:
    revoke_server(https, "m2")
    login(fleetctl, https)
    https.issuer.known.clear()
    background.do(https.issuer.rotate("ann"))
    result = fleetctl("--endpoint", https.unix, "login")
    assert result.status == 0
    (kept,) = find_logins()
    assert list(kept.revoked()) == ["m2"]


# Refusals


def test_without_a_login_the_authority_is_unknown(fleetctl: Fleetctl, https: HttpsCluster) -> None:
    result = fleetctl("--endpoint", https.https, "list-units")
    assert (result.status, result.stdout) == (1, "")
    assert (
        f"cannot reach fleetd at {https.https}: the authority of its certificate is not known here; " in result.stderr
    )
    assert result.stderr.endswith("; fleetctl login --tunnel SERVER learns that of a cluster\n")


def test_an_expired_or_revoked_certificate_is_refused_in_words(fleetctl: Fleetctl, https: HttpsCluster) -> None:
    login(fleetctl, https)
    (kept,) = find_logins()
    certificate = Path(kept.folder, "certificate.pem")
    certificate.write_text(https.authority.person("root", age_s=86400.0).read_text())
    result = fleetctl("--endpoint", https.https, "list-units")
    assert "Error 401: the certificate of person/root expired at 20" in result.stderr
    assert "fleetctl login --tunnel SERVER gets one" in result.stderr
    certificate.unlink()
    result = fleetctl("--endpoint", https.https, "list-units")
    assert f"{kept.folder} cannot be used for TLS: " in result.stderr
    login(fleetctl, https)
    result = fleetctl("--endpoint", https.unix, "login", "--revoke=root")
    assert (result.status, result.stdout) == (
        0,
        "Certificates of person/root and service/root that were made until now do not count any more\n",
    )
    result = fleetctl("--endpoint", https.https, "list-units")
    assert "Error 403: the certificate of person/root was revoked; fleetctl login --tunnel" in result.stderr
    login(fleetctl, https)
    assert fleetctl("--endpoint", https.https, "list-units").status == 0


def test_a_certificate_of_another_cluster_is_refused_in_words(
    fleetctl: Fleetctl, https: HttpsCluster, tmp_path: Path
) -> None:
    login(fleetctl, https)
    (kept,) = find_logins()
    Path(kept.folder, "certificate.pem").write_text(TestAuthority(tmp_path, 2).person("ann").read_text())
    result = fleetctl("--endpoint", https.https, "list-units")
    assert "it does not know the authority of your certificate; that is one of another cluster, or" in result.stderr


def test_a_machine_that_is_no_server_is_not_taken_for_one(fleetctl: Fleetctl, https: HttpsCluster) -> None:
    login(fleetctl, https)
    assert https.trust.context is not None
    https.trust.context.load_cert_chain(https.authority.machine("w1", "worker"))
    result = fleetctl("--endpoint", https.https, "list-units")
    assert "unsuitable certificate purpose; it is no server: a worker, or somebody else" in result.stderr


def test_a_server_that_has_no_certificate_yet_is_told_apart(fleetctl: Fleetctl, https: HttpsCluster) -> None:
    https.trust.context = None
    result = fleetctl("--endpoint", https.https, "list-units")
    assert f"cannot reach fleetd at {https.https}: it has no certificate yet; its log says why: " in result.stderr


def test_http_and_https_at_each_others_port_are_told_apart(
    fleetctl: Fleetctl, https: HttpsCluster, cluster: ScriptedCluster
) -> None:
    login(fleetctl, https)
    result = fleetctl("--endpoint", https.https.replace("https", "http"), "list-units")
    assert "Error 400: this port is served over https: write https:// instead of http:// (--endpoint)" in result.stderr
    endpoint = cluster.tcp.replace("http", "https")
    result = fleetctl("--endpoint", endpoint, "list-units")
    assert f"cannot reach fleetd at {endpoint}: it does not speak TLS; write http://" in result.stderr


# Services


def test_a_service_gets_one_file_that_is_enough(fleetctl: Fleetctl, https: HttpsCluster, tmp_path: Path) -> None:
    options = ("--for=ci", "--role=operate:web-*", "--days=7")
    result = fleetctl("--endpoint", https.unix, "login", *options, "--out=ci.pem")
    assert (result.status, result.stdout) == (0, "")
    assert result.stderr.startswith("service/ci until 20")
    assert result.stderr.endswith(f": operate:web-*; use it with --endpoint={https.https} --cert-file=ci.pem\n")
    bundle = tmp_path / "ci.pem"
    assert stat.S_IMODE(bundle.stat().st_mode) == 0o600
    assert find_logins() == []
    result = fleetctl("--endpoint", https.https, "--cert-file=ci.pem", "whoami")
    assert result.stdout.splitlines()[:-1] == [
        "ci (service/ci)",
        "may start, stop, restart, scale, move and drain what exists: web-*",
    ]
    all_three = ("--cert-file=ci.pem", "--key-file=ci.pem", "--ca-file=ci.pem")
    assert fleetctl("--endpoint", https.https, *all_three, "whoami").status == 0
    printed = fleetctl("--endpoint", https.unix, "login", *options).stdout
    assert [line for line in printed.splitlines() if "BEGIN" in line] == [
        "-----BEGIN PRIVATE KEY-----",
        "-----BEGIN CERTIFICATE-----",
        "-----BEGIN CERTIFICATE-----",
    ]


def test_a_file_that_is_no_bundle_is_refused_in_words(fleetctl: Fleetctl, https: HttpsCluster, tmp_path: Path) -> None:
    assert fleetctl("--endpoint", https.unix, "login", "--for=ci", "--role=view", "--out=no/ci.pem").status == 1
    (tmp_path / "half.pem").write_text("nothing")
    result = fleetctl("--endpoint", https.https, "--cert-file=half.pem", "whoami")
    assert "a client certificate needs both --cert-file and --key-file" in result.stderr
    fleetctl("--endpoint", https.unix, "login", "--for=ci", "--role=view", "--out=ci.pem")
    text = (tmp_path / "ci.pem").read_text()
    (tmp_path / "broken.pem").write_text(text.replace("PRIVATE KEY-----\n", "PRIVATE KEY-----\nAAAA", 1))
    result = fleetctl("--endpoint", https.https, "--cert-file=broken.pem", "whoami")
    assert "broken.pem cannot be used for TLS: " in result.stderr


@pytest.mark.parametrize(
    ("options", "status", "why"),
    [
        (["--for=ci"], 2, "--for needs --role=RIGHTS: view, operate, admin, or operate:web-*,submit:web-*"),
        (["--for=ci", "--role=view", "--days=91"], 2, "--days=91: a certificate counts for 1 to 90 days"),
        (["--for=ci", "--role=root"], 1, "Error logging in: Error 400: 'root' is no permission"),
        (["--for=a/b", "--role=view"], 1, "Error logging in: Error 400: 'a/b' is no name for a certificate"),
        (["--out=x"], 2, "--out has no meaning for a login of your own"),
        (["--days=3"], 2, "--days has no meaning for a login of your own"),
        (["--revoke=ann", "--for=ci", "--out=x"], 2, "--for, --out have no meaning for --revoke"),
        (
            ["--revoke=machine/x"],
            1,
            "Error revoking machine/x: Error 400: subject has to be person/NAME or s",
        ),
        (["ann"], 2, "unexpected extra argument"),
    ],
)
def test_what_makes_no_sense_is_refused(
    fleetctl: Fleetctl, https: HttpsCluster, options: list[str], status: int, why: str
) -> None:
    result = fleetctl("--endpoint", https.unix, "login", *options)
    assert result.status == status
    assert why in result.stderr
    assert find_logins() == []


def test_a_server_without_https_says_so(bare_fleetctl: Fleetctl, home: Path, cluster: ScriptedCluster) -> None:
    result = bare_fleetctl("--endpoint", cluster.unix, "login")
    assert result.status == 1
    assert "no machine of the cluster serves https: set listen=https://:7443 in the fleet.conf" in result.stderr
