"""Members are added, get a vote and are removed: on real etcds over TLS, with the certificates and the configuration
that servers have."""

import ssl
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from contrib.testbed.etcd import free_port
from fleetctl.cluster import layout
from fleetctl.cluster.etcd_members import EtcdAdmin, EtcdFailed, Member, count_voters
from fleetd.trust import x509
from tests.requirements import require_etcd

DEADLINE_S = 30.0
AUTHORITY = x509.make_authority(1, time.time())


class Servers:
    """etcds of servers, each on an address and in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.running: list[subprocess.Popen[bytes]] = []
        self.ports = free_port(), free_port()
        self._write("ca.pem", AUTHORITY.certificate)

    def start(self, number: int, others: tuple[Member, ...] = ()) -> "subprocess.Popen[bytes]":
        """Start the etcd of this server, as its etcd.yaml says."""
        key, request = x509.make_request()
        address = f"127.0.0.{number}"
        names = [address, "127.0.0.1", "localhost"]
        signed = x509.sign(AUTHORITY, request, ["fleet://etcd"], names=names, server=True, now_s=time.time())
        self._write(f"{number}.pem", signed)
        self._write(f"{number}.key", key)
        text = layout.render_etcd_yaml(str(number), address, others)
        for old, new in {
            f"{layout.LOCAL_ENDPOINT},": "",
            f":{layout.CLIENT_PORT}": f":{self.ports[0]}",
            f"{address}:{layout.PEER_PORT}": f"{address}:{self.ports[1]}",
            layout.ETCD_DATA: f"{self.folder}/data{number}",
            layout.ETCD_CERTIFICATE: f"{self.folder}/{number}.pem",
            layout.ETCD_KEY: f"{self.folder}/{number}.key",
            layout.ETCD_CA: f"{self.folder}/ca.pem",
        }.items():
            text = text.replace(old, new)
        path = self._write(f"{number}.yaml", text)
        with (self.folder / f"{number}.log").open("wb") as log:
            process = subprocess.Popen(["etcd", f"--config-file={path}"], stdout=log, stderr=subprocess.STDOUT)
        self.running.append(process)
        return process

    def peer_url(self, number: int) -> str:
        return f"https://127.0.0.{number}:{self.ports[1]}"

    def admin(self, number: int = 1) -> EtcdAdmin:
        context = ssl.create_default_context(cafile=str(self.folder / "ca.pem"))
        context.load_cert_chain(self.folder / f"{number}.pem", self.folder / f"{number}.key")
        return EtcdAdmin((f"https://127.0.0.{number}:{self.ports[0]}",), context)

    def _write(self, name: str, text: str) -> Path:
        path = self.folder / name
        path.write_text(text)
        return path


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[Servers]:
    require_etcd()
    made = Servers(tmp_path)
    yield made
    for process in made.running:
        process.kill()
        process.wait()


def wait_until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_a_store_goes_from_one_server_to_three_and_a_learner_that_fails_takes_nothing_with_it(servers: Servers) -> None:
    servers.start(1)
    admin = servers.admin()
    wait_until(admin.serves)
    (first,) = admin.members()

    dead = admin.add_learner(servers.peer_url(9))
    assert not dead.has_started
    with pytest.raises(EtcdFailed, match="in sync with leader") as caught:
        admin.promote(dead, timeout_s=1.0)
    assert caught.value.may_pass
    with pytest.raises(EtcdFailed, match="too many learner"):
        admin.add_learner(servers.peer_url(2))
    assert admin.serves(), "a learner that never starts does not stop the store"
    admin.remove(dead)

    admin.add_learner(servers.peer_url(2))
    second = servers.start(2, (first,))
    wait_until(lambda: len([member for member in admin.members() if member.has_started]) == 2)
    learner = admin.members()[1]
    assert (learner.name, learner.host, learner.is_learner, count_voters(admin.members())) == (
        "2",
        "127.0.0.2",
        True,
        1,
    )
    wait_until(servers.admin(2).is_running)
    assert not servers.admin(2).serves(), "a learner reads nothing for clients"
    second.kill()
    second.wait()
    assert admin.serves(), "and may fail"

    servers.running.remove(second)
    servers.running.append(subprocess.Popen(second.args, stderr=subprocess.DEVNULL))
    admin.promote(learner)
    with pytest.raises(EtcdFailed, match="can only promote a learner"):
        admin.promote(learner)
    added = admin.add_learner(servers.peer_url(3))  # etcd refuses this for five seconds
    servers.start(3, admin.members())
    admin.promote(added)
    assert count_voters(admin.members()) == 3

    admin.remove(next(member for member in admin.members() if member.name == "2"))
    assert [member.name for member in admin.members()] == ["1", "3"]


def test_an_etcd_without_the_certificate_of_a_server_answers_nobody(servers: Servers) -> None:
    servers.start(1)
    wait_until(servers.admin().serves)
    context = ssl.create_default_context(cafile=str(servers.folder / "ca.pem"))
    with pytest.raises(EtcdFailed, match="etcd does not answer"):
        EtcdAdmin((f"https://127.0.0.1:{servers.ports[0]}",), context).members()
