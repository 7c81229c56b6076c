"""A worker among three servers, on real machines: it does not reach etcd, and has a certificate by a token."""

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from contrib.testbed import Cluster
from contrib.testbed.machine import Machine
from fleetd.model.machine import Machine as FleetMachine
from fleetd.registry.records import encode
from fleetd.store import worker_wire as wire
from fleetd.store.protocol import Delete, HasValue, Put
from fleetd.trust import x509
from tests.cluster.worker_root import WorkerRoot

SERVER = {"listen": "https://:7443", "agent_ttl": "3s"}
SLEEPER = "[Service]\nExecStart=/bin/sleep infinity\n"
UNIT = "own.service"


class Workers:
    """The cluster: m1, m2 and m3 are its servers, m4 is the worker."""

    def __init__(self, cluster: Cluster, folder: Path) -> None:
        self.cluster = cluster
        self.folder = folder
        *self.servers, self.worker = cluster.machines

    def give_authority(self) -> None:
        """Have the key of an authority on each server, as `fleetctl cluster init` does."""
        authority = x509.make_authority(1, time.time())
        for server in self.servers:
            folder = server.path("/var/lib/fleet/trust")
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            (folder / "authority-1.pem").write_text(authority.certificate)
            (folder / "authority-1.key").write_text(authority.key)
            server.run(["systemctl", "restart", "fleet.service"])
        self.cluster.wait_until("the servers serve https", self._have_certificates)

    def _have_certificates(self) -> bool:
        return all(server.path("/var/lib/fleet/trust/machine.pem").exists() for server in self.servers)

    def join(self) -> None:
        """Make m4 a worker, which cannot reach etcd any more."""
        self.worker.run(["fleetd", "leave"])
        self.worker.run(["systemctl", "stop", "fleet.socket", "fleet.service"])
        self.worker.path("/etc/fleet/fleet.conf").write_text(
            f"agent_ttl=3s\npublic_ip={self.worker.address}\nmetadata=role=worker\n"
        )
        self.worker.cut_from_etcd()
        made = self.cluster.fleetctl("machine", "token", f"--machine-id={self.worker.id}", on=self.servers[0])
        url = f"https://{self.servers[0].address}:7443"
        print(self.worker.run(["fleetd", "join", url, "-"], stdin=made.stdout).stdout)
        self.worker.run(["systemctl", "start", "fleet.socket"])
        self.wait_registered()

    def wait_registered(self) -> None:
        self.cluster.wait_until("the worker is registered", lambda: self.worker.id in self.listed())

    def listed(self, on: Machine | None = None) -> list[str]:
        flags = ("--fields=machine", "--no-legend", "--full")
        return self.fleetctl("list-machines", *flags, on=on, check=False).stdout.split()

    def fleetctl(
        self, *arguments: str, on: Machine | None = None, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Ask a server that is up, or this machine."""
        return self.cluster.fleetctl(*arguments, on=on or self.up()[-1], check=check)

    def up(self) -> list[Machine]:
        return [server for server in self.servers if server.is_up]

    def asked(self) -> Machine:
        """The server that the worker has connections to."""
        found = self.worker.run(["ss", "-tnH", "state", "established", "dport", "=", ":7443"]).stdout
        return next(server for server in self.servers if f"{server.address}:" in found)

    def start(self, name: str, constraint: str = "MachineMetadata=role=worker") -> None:
        path = self.folder / name
        path.write_text(f"{SLEEPER}[X-Fleet]\n{constraint}\n")
        self.fleetctl("start", "--replace", str(path))

    def place_of(self, name: str) -> str:
        flags = ("--fields=unit,machine,active", "--no-legend", "--full")
        lines = [line.split() for line in self.fleetctl("list-units", *flags, check=False).stdout.splitlines()]
        return next((words[1].partition("/")[0] for words in lines if words[0] == name and words[2] == "active"), "")


@pytest.fixture(scope="module")
def workers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workers]:
    with Cluster(machines=[SERVER, SERVER, SERVER, {}], config={"agent_ttl": "3s"}) as cluster:
        made = Workers(cluster, tmp_path_factory.mktemp("units"))
        made.give_authority()
        made.join()
        yield made


def test_a_worker_starts_and_stops_units_without_etcd(workers: Workers) -> None:
    workers.start(UNIT)
    assert workers.place_of(UNIT) == workers.worker.id
    pid = workers.worker.main_pid(UNIT)
    assert pid
    workers.fleetctl("stop", UNIT)
    assert workers.worker.main_pid(UNIT) == 0
    workers.fleetctl("start", UNIT)
    assert workers.worker.main_pid(UNIT) not in (0, pid)


def test_the_socket_of_a_worker_shows_what_is_there_and_refuses_the_rest(workers: Workers) -> None:
    workers.start(UNIT)
    assert workers.listed(on=workers.worker) == [workers.worker.id]
    shown = workers.fleetctl("list-units", "--no-legend", "--fields=unit,active,sub", on=workers.worker).stdout
    assert shown.split() == [UNIT, "active", "running"]
    for command in (("stop", UNIT), ("list-unit-files",), ("cat", UNIT), ("cordon", workers.worker.id[:8])):
        refused = workers.fleetctl(*command, on=workers.worker, check=False)
        assert refused.returncode != 0
        assert "this machine is a worker: it shows its own units and changes nothing; ask a server" in refused.stderr
    assert workers.worker.main_pid(UNIT)


def test_a_worker_takes_the_lock_of_a_unit_by_its_servers_and_stops_it_when_it_is_cut_off(workers: Workers) -> None:
    locked = "Lock=the-one\nIsolationSec=6s\nIsolationStopSec=2s"
    server, worker = workers.servers[0], workers.worker
    workers.start("ours.service", f"{locked}\nMachineMetadata=role=worker")
    assert worker.main_pid("ours.service")
    workers.start("theirs.service", f"{locked}\nMachineID={server.id}")
    assert server.main_pid("theirs.service") == 0
    workers.cluster.wait_until(
        "explain says who holds the lock",
        lambda: f"held by ours.service on {worker.id[:8]}" in workers.fleetctl("explain", "theirs.service").stdout,
    )
    workers.fleetctl("stop", "ours.service")
    workers.cluster.wait_until("the server has the lock", lambda: server.main_pid("theirs.service") != 0)
    workers.fleetctl("start", "ours.service")
    assert worker.main_pid("ours.service") == 0
    workers.fleetctl("stop", "theirs.service")
    workers.cluster.wait_until("the worker has the lock", lambda: worker.main_pid("ours.service") != 0)
    workers.fleetctl("start", "theirs.service")
    worker.cut_network()
    workers.cluster.wait_until("the server has it again", lambda: server.main_pid("theirs.service") != 0, 60.0)
    assert worker.main_pid("ours.service") == 0
    worker.heal_network()
    workers.wait_registered()
    workers.fleetctl("destroy", "theirs.service")
    workers.cluster.wait_until("the worker has it, too", lambda: worker.main_pid("ours.service") != 0, 60.0)
    workers.fleetctl("destroy", "ours.service")


def test_a_worker_is_given_the_secrets_of_its_units_and_no_others(workers: Workers) -> None:
    cluster, etcdctl = workers.cluster, workers.cluster.etcd.etcdctl
    cluster.wait_until(
        "the worker has a key", lambda: "seal_key" in etcdctl("get", f"/fleet/machines/{workers.worker.id}")
    )
    for name in ("db.pw", "other"):
        cluster.fleetctl("secret", "set", name, on=workers.servers[0], stdin=f"the value of {name}")
    unit = workers.folder / "reader.service"
    unit.write_text(
        "[Service]\nExecStartPre=/bin/cp ${CREDENTIALS_DIRECTORY}/db.pw /root/read\nExecStart=/bin/sleep infinity\n"
        "LoadCredential=db.pw:/run/fleet/credentials.sock\n[X-Fleet]\nSecret=db.pw\nMachineMetadata=role=worker\n"
    )
    workers.fleetctl("start", str(unit))
    assert workers.worker.path("/root/read").read_text() == "the value of db.pw"
    sealed = etcdctl("get", "--keys-only", "--prefix", "/fleet/sealed-secrets/").split()
    assert sealed == [f"/fleet/sealed-secrets/{workers.worker.id}/db.pw"]
    root = WorkerRoot(workers.worker, workers.up()[0])
    status, answer = root.ask("range", prefix="/fleet/secrets/")
    assert (status, list(answer.found.items)) == (200, [])
    public = workers.worker.path("/var/lib/fleet/trust/seal.pub").read_text()
    assert public not in etcdctl("get", "--prefix", "/fleet/secrets/"), "no worker can open what is not for its units"
    workers.fleetctl("destroy", "reader.service")
    for name in ("db.pw", "other"):
        workers.fleetctl("secret", "rm", name)


def test_a_worker_goes_on_at_another_server_when_its_own_is_cut_off_or_loses_power(workers: Workers) -> None:
    workers.start(UNIT)
    pid = workers.worker.main_pid(UNIT)
    first = workers.asked()
    first.power_cut()
    time.sleep(8)
    assert workers.place_of(UNIT) == workers.worker.id
    assert workers.worker.main_pid(UNIT) == pid
    assert workers.asked() is not first
    workers.fleetctl("stop", UNIT)
    assert workers.worker.main_pid(UNIT) == 0
    first.boot()
    workers.cluster.wait_until("the server is back", lambda: first.id in workers.listed())
    workers.fleetctl("start", UNIT)


def test_units_keep_running_while_no_fleetd_of_a_server_runs(workers: Workers) -> None:
    workers.start(UNIT)
    pid = workers.worker.main_pid(UNIT)
    for server in workers.servers:
        server.run(["systemctl", "stop", "fleet.socket", "fleet.service"])
    time.sleep(20)
    assert workers.worker.main_pid(UNIT) == pid
    refused = workers.cluster.fleetctl("list-machines", on=workers.worker, check=False)
    assert "cannot reach the servers of its cluster" in refused.stderr
    for server in workers.servers:
        server.run(["systemctl", "start", "fleet.socket", "fleet.service"])
    workers.wait_registered()
    workers.cluster.wait_until("the unit is seen", lambda: workers.place_of(UNIT) == workers.worker.id)
    assert workers.worker.main_pid(UNIT) == pid


def test_a_restart_of_a_workers_fleetd_keeps_its_units(workers: Workers) -> None:
    workers.start(UNIT)
    pid = workers.worker.main_pid(UNIT)
    workers.worker.run(["systemctl", "restart", "fleet.service"])
    workers.wait_registered()
    workers.worker.run(["systemctl", "stop", "fleet.socket", "fleet.service"])
    time.sleep(6)
    parked = workers.fleetctl("list-machines")
    assert workers.worker.id in workers.listed()
    assert "parked" in parked.stderr
    workers.worker.run(["systemctl", "start", "fleet.socket", "fleet.service"])
    workers.cluster.wait_until("it is not parked", lambda: "parked" not in workers.fleetctl("list-machines").stderr)
    assert workers.worker.main_pid(UNIT) == pid


def test_a_worker_that_is_stopped_while_no_server_answers_is_parked_later(workers: Workers) -> None:
    workers.start(UNIT)
    pid = workers.worker.main_pid(UNIT)
    for server in workers.servers:
        server.run(["systemctl", "stop", "fleet.socket", "fleet.service"])
    workers.worker.run(["systemctl", "stop", "fleet.socket", "fleet.service"])
    for server in workers.servers:
        server.run(["systemctl", "start", "fleet.socket", "fleet.service"])
    workers.cluster.wait_until(
        "it is parked", lambda: "parked" in workers.fleetctl("list-machines", check=False).stderr
    )
    workers.worker.run(["systemctl", "start", "fleet.socket", "fleet.service"])
    workers.cluster.wait_until("it is not parked", lambda: "parked" not in workers.fleetctl("list-machines").stderr)
    assert workers.worker.main_pid(UNIT) == pid


def test_a_worker_that_loses_power_is_replaced_and_comes_back(workers: Workers) -> None:
    name = "moves.service"
    workers.start(name, "Conflicts=nothing.service")
    workers.fleetctl("move", name, workers.worker.id[:8], check=False)
    workers.start(UNIT)
    workers.worker.power_cut()
    workers.cluster.wait_until("the worker is taken for dead", lambda: workers.worker.id not in workers.listed())
    workers.cluster.wait_until("its unit runs elsewhere", lambda: workers.place_of(name) not in ("", workers.worker.id))
    workers.worker.boot()
    workers.wait_registered()
    workers.cluster.wait_until("its own unit is back", lambda: workers.place_of(UNIT) == workers.worker.id)
    workers.fleetctl("destroy", name)


@pytest.mark.covers("S.4")
def test_a_restored_etcd_ends_nothing_on_a_worker(workers: Workers, tmp_path: Path) -> None:
    etcd, snapshot = workers.cluster.etcd, tmp_path / "snapshot"
    workers.start(UNIT)
    etcd.save(snapshot)
    workers.start("young.service")
    time.sleep(4)  # so that the worker has seen the revision in a heartbeat
    before = workers.worker.main_pids([UNIT, "young.service"])
    etcd.restore(snapshot)
    workers.wait_registered()
    workers.cluster.wait_until("its state is back", lambda: workers.place_of("young.service") == workers.worker.id)
    assert workers.fleetctl("list-unit-files", "--fields=unit", "--no-legend").stdout.split() == [UNIT]
    time.sleep(4)
    assert workers.worker.main_pids([UNIT, "young.service"]) == before
    workers.fleetctl("stop", UNIT)
    assert workers.worker.main_pids([UNIT, "young.service"]) == {UNIT: 0, "young.service": before["young.service"]}
    workers.worker.run(["systemctl", "stop", "young.service"])


@pytest.mark.covers("R.10")
def test_root_of_a_worker_gets_nothing_that_is_not_its_machines(workers: Workers) -> None:
    workers.start(UNIT)
    server = workers.servers[1]
    workers.start("theirs.service", f"MachineID={server.id}")
    root = WorkerRoot(workers.worker, workers.servers[0])
    status, everything = root.ask("range", prefix="/")
    keys = [item.key for item in everything.found.items]
    assert status == 200
    assert f"/fleet/states/{workers.worker.id}/{UNIT}" in keys
    others = [key for key in keys if key.count("/") > 2 and key.split("/")[3] != workers.worker.id]
    assert others == ["/fleet/trust/authorities/1"]  # which anybody may know
    assert root.ask("transact", operations=(Delete(others[0]),))[0] == wire.FORBIDDEN
    unit_key, placement = "/fleet/units/theirs.service", f"/fleet/placements/{server.id}/theirs.service"
    for key in (unit_key, placement, "/fleet/leader", f"/fleet/machines/{server.id}"):
        assert root.ask("get", key=key)[0] == wire.FORBIDDEN
        assert root.ask("transact", comparisons=(HasValue(key, b""),))[0] == wire.FORBIDDEN
        assert root.ask("transact", operations=(Delete(key),))[0] == wire.FORBIDDEN
    lease = root.ask("grant", ttl_s=5.0)[1].lease
    claims = encode(FleetMachine(workers.worker.id, session="x", address="192.0.2.1", metadata={"role": "db"}))
    assert root.ask("transact", operations=(Put(f"/fleet/machines/{server.id}", claims, lease),))[0] == wire.FORBIDDEN
    assert root.ask("transact", operations=(Put(f"/fleet/machines/{workers.worker.id}", claims, lease),))[0] == 200
    listed = workers.fleetctl("list-machines", "--fields=machine,ip,metadata", "--no-legend", "--full").stdout
    line = next(line for line in listed.splitlines() if line.startswith(workers.worker.id))
    assert line.split()[1:] == [workers.worker.address, "role=worker"]
    assert root.ask("revoke", lease=lease)[0] == 200
    for method, path in (("GET", "/fleet/v1/units"), ("POST", "/fleet/v2/machine-tokens"), ("GET", "/metrics")):
        assert root.send(method, path, b"{}", "application/json")[0] == 403
    workers.cluster.wait_until("it has registered again", lambda: workers.place_of(UNIT) == workers.worker.id)
    workers.fleetctl("destroy", "theirs.service")


def test_a_worker_that_was_removed_is_told_so_in_words(workers: Workers) -> None:
    workers.start(UNIT)
    pid = workers.worker.main_pid(UNIT)
    refused = workers.fleetctl("machine", "remove", workers.worker.id[:8], check=False)
    assert refused.returncode != 0
    workers.fleetctl("machine", "remove", "--force", workers.worker.id[:8])
    workers.cluster.wait_until("it is gone", lambda: workers.worker.id not in workers.listed())
    workers.cluster.wait_until(
        "it says why",
        lambda: "it refuses this machine: the certificate of machine" in workers.worker.journal("fleet.service"),
    )
    assert workers.worker.main_pid(UNIT) == pid
    shown = workers.cluster.fleetctl("list-machines", on=workers.worker, check=False)
    assert "was revoked; have it join again (fleetd join)" in shown.stderr
