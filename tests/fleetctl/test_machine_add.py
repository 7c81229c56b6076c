"""`machine add` and `cluster init`: what they refuse, in which words. tests/cluster/test_package.py uses them on real
machines."""

import os
import time
from pathlib import Path
from typing import IO

import pytest

from fleetctl.cluster import layout
from fleetctl.cluster.add_server import Newcomer, refuse
from fleetctl.cluster.add_worker import refuse as refuse_worker
from fleetctl.cluster.etcd_members import Member
from fleetctl.cluster.host import Done, Host, this_machine
from fleetctl.cluster.initialise import serve_https
from fleetctl.cluster.package import find_package
from fleetctl.cluster.remote_host import Facts
from fleetctl.cluster.server_setup import quiet_other_etcd, read_conf
from fleetctl.errors import CommandFailed
from fleetctl.remote import local_machine_id
from fleetctl.settings import Settings
from fleetd.trust import x509
from tests.fleetctl.conftest import Fleetctl
from tests.fleetctl.scripted_cluster import ScriptedCluster

AUTHORITY = x509.make_authority(1, time.time())
MEMBERS = (
    Member("1", "a" * 32, ("https://10.0.0.1:2380",), ("https://10.0.0.1:2379",)),
    Member("2", "", ("https://10.0.0.9:2380",), is_learner=True),
)


class PaperHost(Host):
    """A machine of files, and of answers to commands that contain a text."""

    def __init__(self, files: dict[str, str], answers: dict[str, Done] | None = None) -> None:
        super().__init__("b", self._answer)
        self.files = files
        self.answers = answers or {}
        self.commands: list[str] = []

    def read(self, path: str) -> str | None:
        return self.files.get(path)

    def write(self, path: str, text: str, *, mode: int = 0o644) -> bool:
        was, self.files[path] = self.files.get(path), text
        return was != text

    def has(self, path: str) -> bool:
        return any(name.startswith(path) for name in self.files)

    def _answer(self, command: str, _: IO[bytes] | None) -> Done:
        self.commands.append(command)
        if command.startswith("ls "):
            return Done(0, "\n".join(path.rpartition("/")[2] for path in self.files), "")
        return next((done for text, done in self.answers.items() if text in command), Done(0, "", ""))


def newcomer(
    files: dict[str, str] | None = None, *, machine: str = "b" * 32, address: str = "10.0.0.2", ahead_s: float = 0.0
) -> Newcomer:
    return Newcomer(PaperHost(files or {}), Facts(machine, "b", address, time.time() + ahead_s), address)


@pytest.mark.parametrize(
    ("machine", "text"),
    [
        (newcomer(machine=local_machine_id()), "b has this machine's machine-id"),
        (newcomer(address=""), "b: nothing is not an IP address by which the servers can reach it: give --address="),
        (newcomer(address="x y"), "b: x y is not an IP address"),
        (newcomer(ahead_s=86400), "b: its clock is 24 hours ahead of this machine's"),
        (newcomer(ahead_s=-86400), "b: its clock is 24 hours behind this machine's"),
        (newcomer(machine="a" * 32), "that of the server 10.0.0.1: two machines must not share it"),
        (newcomer(address="10.0.0.1"), f"the server {'a' * 32} had its address 10.0.0.1: remove that one first"),
        (newcomer({layout.ETCD_CA: "another"}), "b is a server of another cluster (/etc/fleet/etcd/ca.pem)"),
        (newcomer({f"{layout.ETCD_DATA}/member/wal": ""}), "/var/lib/fleet/etcd holds the data of another cluster's"),
        (newcomer({layout.CONFIG: "standalone=true"}), "b: its /etc/fleet/fleet.conf has standalone=true"),
        (
            newcomer({layout.CONFIG: "etcd_servers=http://10.0.0.7:2379\ninsecure_etcd=true"}),
            "b belongs to another cluster: its /etc/fleet/fleet.conf has etcd_servers=http://10.0.0.7:2379",
        ),
        (newcomer({layout.CONFIG: "nonsense"}), "b: /etc/fleet/fleet.conf:1: 'nonsense' is neither"),
    ],
)
def test_a_machine_that_cannot_become_a_server_is_refused_before_anything_is_done(machine: Newcomer, text: str) -> None:
    with pytest.raises(CommandFailed) as caught:
        refuse(machine, MEMBERS, AUTHORITY)
    assert text in str(caught.value)
    assert isinstance(machine.host, PaperHost)
    assert machine.host.commands == []


@pytest.mark.parametrize(
    "machine",
    [
        newcomer(),
        newcomer({layout.CONFIG: "metadata=a=b\nlisten=/run/x"}),
        newcomer(address="10.0.0.9"),  # an interrupted attempt has left a member there
        newcomer(ahead_s=3600),
        newcomer(machine="a" * 32, address="10.0.0.1"),  # again
        newcomer({layout.ETCD_CA: AUTHORITY.certificate, f"{layout.ETCD_DATA}/member/wal": ""}),  # again, or removed
        newcomer(
            {
                layout.CONFIG: "etcd_servers=https://127.0.0.1:2379,https://10.0.0.1:2379\netcd_certfile=a\netcd_keyfile=b"
            }
        ),
    ],
)
def test_one_that_can_is_taken_again_and_again(machine: Newcomer) -> None:
    refuse(machine, MEMBERS, AUTHORITY)


def test_a_machine_with_the_id_of_one_of_the_cluster_does_not_become_that_one() -> None:
    """A copy of its disk, or one whose root says so: a token that is bound to the id would let it in."""
    machine = newcomer(machine="c" * 32)
    present = {"a" * 32, "c" * 32}
    with pytest.raises(CommandFailed, match=f"^b: its machine-id {'c' * 32} is that of a machine of the cluster"):
        refuse_worker(machine.host, machine.facts, present)
    refuse_worker(machine.host, machine.facts, {"a" * 32})
    worker = newcomer({layout.CONFIG: "role=worker\nservers=https://10.0.0.1:7443"}, machine="c" * 32)
    refuse_worker(worker.host, worker.facts, present)  # it is that one


def test_an_etcd_of_debian_that_holds_something_is_left_alone() -> None:
    in_use = PaperHost({}, {"python3": Done(0, "17\n", "")})
    with pytest.raises(CommandFailed, match=r"b: an etcd holds 17 keys here \(etcd.service\)"):
        quiet_other_etcd(in_use)
    silent = PaperHost({}, {"python3": Done(1, "", "refused")})
    with pytest.raises(CommandFailed, match="b: an etcd is in use here"):
        quiet_other_etcd(silent)
    empty = PaperHost({}, {"python3": Done(0, "0\n", "")})
    assert quiet_other_etcd(empty) == "Stopped and disabled etcd.service, Debian's own, which held nothing"
    assert empty.commands[-1] == "systemctl disable --now --quiet etcd.service"
    absent = PaperHost({}, {"is-active": Done(3, "", ""), "is-enabled": Done(1, "", "")})
    assert quiet_other_etcd(absent) == ""


OWN_ETCD = "etcd_servers=https://10.0.0.7:2379\netcd_username=fleet\n"


def test_init_beside_an_etcd_of_ones_own_makes_the_authority_and_serves_https(
    fleetctl: Fleetctl, cluster: ScriptedCluster, capsys: pytest.CaptureFixture[str]
) -> None:
    host = PaperHost({layout.CONFIG: OWN_ETCD}, {"list-machines": Done(0, "m1\n", "")})
    settings = Settings(endpoint=cluster.unix)
    for _ in range(2):
        assert serve_https(settings, host, "m1", read_conf(host)) == 0
    assert capsys.readouterr().out.splitlines() == [
        "Made the authority of the cluster (/var/lib/fleet/trust)",
        "Set listen=, peer_listen= in /etc/fleet/fleet.conf",
        "This machine serves https on port 7443; the etcd of your own (https://10.0.0.7:2379) stays as it is",
        "This machine serves https on port 7443; the etcd of your own (https://10.0.0.7:2379) stays as it is",
    ]
    assert host.files[layout.CONFIG] == OWN_ETCD + "listen=https://:7443\npeer_listen=:7444\n"
    assert set(host.files) == {layout.CONFIG, *layout.authority_files(1)}


def test_init_beside_an_etcd_of_ones_own_needs_a_fleetd_that_answers() -> None:
    host = PaperHost({layout.CONFIG: OWN_ETCD})
    with pytest.raises(CommandFailed, match="an etcd of your own, and fleetd does not answer here: start it first"):
        serve_https(Settings(endpoint="unix:///nowhere/fleet.sock"), host, "m1", read_conf(host))
    assert set(host.files) == {layout.CONFIG}


def test_a_file_is_replaced_at_once_and_keeps_its_mode(tmp_path: Path) -> None:
    path = tmp_path / "new folder" / "file"
    host = this_machine()
    assert host.read(str(path)) is None
    assert host.write(str(path), "one ä\n", mode=0o600)
    assert not host.write(str(path), "one ä\n")
    assert host.write(str(path), "two\n", mode=0o644)
    assert (path.read_text(), oct(path.stat().st_mode & 0o777), oct(path.parent.stat().st_mode & 0o777)) == (
        "two\n",
        "0o600",
        "0o700",
    )
    assert [entry.name for entry in path.parent.iterdir()] == ["file"]
    (tmp_path / "file").write_text("")
    with pytest.raises(CommandFailed, match=r"this machine: cannot write .*/file/x: mkdir: cannot create directory"):
        host.write(str(tmp_path / "file/x"), "")


def test_what_a_command_says_last_cannot_garble_the_terminal() -> None:
    assert Done(1, "", "one\nE: \x1b[2Jtwo\n\n").last_words == "E: \\x1b[2Jtwo"
    assert Done(7, "", "").last_words == "exit status 7"


@pytest.mark.skipif(os.geteuid() != 0, reason="gives a file to another user")
def test_the_newest_package_of_this_version_is_found(tmp_path: Path) -> None:
    for name in ("fleet_1.0-1_amd64.deb", "fleet_2.0-1_amd64.deb", "fleetwood_2.0-1_all.deb"):
        (tmp_path / name).touch()
    places = (str(tmp_path / "none"), str(tmp_path))
    assert find_package("2.0-1", places) == tmp_path / "fleet_2.0-1_amd64.deb"
    assert find_package("3.0-1", places) is None
    os.chown(tmp_path / "fleet_2.0-1_amd64.deb", 12345, 12345)
    assert find_package("2.0-1", places) is None, "another user's"
    assert find_package("", places) is not None
    link = tmp_path / "fleet_3.0-1_amd64.deb"
    link.symlink_to(tmp_path / "fleet_1.0-1_amd64.deb")
    assert find_package("3.0-1", places) == link
    os.chown(link, 12345, 12345, follow_symlinks=False)
    assert find_package("3.0-1", places) is None, "who made the link can have it lead elsewhere later"


@pytest.mark.parametrize(
    ("arguments", "status", "text"),
    [
        (["machine"], 2, "fleetctl machine needs one of: add, token, remove"),
        (["machine", "ad", "b"], 2, "ad is none of: add, token, remove"),
        (["machine", "add"], 2, "machine add takes one machine: fleetctl machine add [USER@]HOST"),
        (["machine", "add", "--server", "b", "c"], 2, "machine add takes one machine"),
        (["cluster"], 2, "fleetctl cluster needs one of: init"),
        (["cluster", "init", "now"], 2, "cluster init takes no arguments"),
    ],
)
def test_a_command_line_that_cannot_be_meant_is_refused(
    bare_fleetctl: Fleetctl, arguments: list[str], status: int, text: str
) -> None:
    result = bare_fleetctl(*arguments)
    assert (result.status, result.stdout) == (status, "")
    assert text in result.stderr


def test_fleet_conf_that_is_missing_is_empty() -> None:
    assert read_conf(PaperHost({})).text == ""
