"""The etcdctl commands of docs/operations.md, run as they are written on an etcd of three members."""

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from contrib.testbed.etcd import EtcdServer, free_port

PAGE = Path(__file__).parents[2] / "docs/operations.md"
ADVERTISED = "--initial-advertise-peer-urls "
QUOTA = ("--quota-backend-bytes", "3000000")


class Members:
    """Three members of etcd, and a shell with the page's paths and addresses replaced by theirs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        ports = [free_port() for _ in range(3)]
        self.urls = {f"etcd{number}": f"http://127.0.0.1:{port}" for number, port in enumerate(ports, start=1)}
        self.servers = [
            EtcdServer(folder / name, name=name, peer_port=port, members=self.urls, extra_args=QUOTA)
            for name, port in zip(self.urls, ports, strict=True)
        ]
        self.commands = list(commands())

    def start(self) -> None:
        for server in self.servers:
            server.launch()
        for server in self.servers:
            server.wait_until_ready()

    def run(self, beginning: str, *, check: bool = True, **replaced: str) -> subprocess.CompletedProcess[str]:
        """Run the one command of the page that begins like this and was not run yet."""
        command = next(command for command in self.commands if command.startswith(beginning))
        self.commands.remove(command)
        for number, url in enumerate(self.urls.values(), start=1):
            command = command.replace(f"http://10.0.0.{number}:2380", url)
        command = re.sub(r"/var/(?:backups|lib)/", f"{self.folder}/", command)
        for old, new in replaced.items():
            command = command.replace(old, new)
        environment = {**os.environ, "ETCDCTL_ENDPOINTS": self.servers[0].client_url}
        return subprocess.run(["bash", "-c", command], env=environment, capture_output=True, text=True, check=check)


def commands() -> Iterator[str]:
    """The etcdctl commands of the page's shell examples, each on one line and without its comment."""
    for block in re.findall(r"^```sh\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            if line.startswith("etcdctl "):
                yield line.partition(" # ")[0].strip()


def fill(server: EtcdServer) -> None:
    """Write until etcd refuses it. Never returns: raises that refusal."""
    while True:
        server.etcdctl("put", "/large", "x" * 100_000)


@pytest.fixture
def members(tmp_path: Path) -> Iterator[Members]:
    made = Members(tmp_path)
    made.start()
    yield made
    for server in made.servers:
        server.kill()


def test_every_etcdctl_command_of_the_operations_page_works(members: Members, tmp_path: Path) -> None:
    first, second, lost = members.servers
    assert members.run("etcdctl endpoint status --cluster").stdout.count("http://") == 3

    with pytest.raises(RuntimeError, match="database space exceeded"):
        fill(first)
    assert "NOSPACE" in members.run("etcdctl alarm list").stdout
    assert "compacted revision" in members.run("etcdctl compact").stdout
    assert members.run("etcdctl defrag --cluster").stdout.count("Finished") == 3
    assert "NOSPACE" in members.run("etcdctl alarm disarm").stdout
    assert "NOSPACE" not in members.run("etcdctl endpoint status --cluster").stdout
    first.etcdctl("put", "/fleet/key", "value")

    lost.kill()
    assert "is unhealthy" in members.run("etcdctl endpoint health --cluster", check=False).stderr
    listed = members.run("etcdctl member list").stdout
    (lost_id,) = (line.split(",")[0] for line in listed.splitlines() if ", etcd3," in line)
    members.run("etcdctl member remove", **{"8e9e05c52164694d": lost_id})
    assert 'ETCD_INITIAL_CLUSTER_STATE="existing"' in members.run("etcdctl member add etcd3").stdout

    members.run("etcdctl snapshot save")
    assert "REVISION" in members.run("etcdctl snapshot status").stdout
    (snapshot,) = tmp_path.glob("etcd-*.db")
    snapshot.rename(tmp_path / "etcd-2026-01-31.db")
    for server in (first, second):
        server.stop()
        server.wipe()
    several = "etcdctl snapshot restore"
    members.commands.insert(0, members.commands[0])  # for each of two members
    members.run(several, **{"etcd-new": "etcd1"})
    members.run(
        several,
        **{
            "etcd-new": "etcd2",
            "--name etcd1": "--name etcd2",
            ADVERTISED + members.urls["etcd1"]: ADVERTISED + members.urls["etcd2"],
        },
    )
    members.run(several)
    assert (tmp_path / "fleet/etcd/member").is_dir()  # of a server that cluster init has made
    for server in (first, second):
        server.launch()
    for server in (first, second):
        server.wait_until_ready()
    assert first.etcdctl("get", "/fleet/key", "--print-value-only") == "value\n"
    assert members.commands == []
