"""A cluster: a real etcd, machines that boot with fleet installed, and fleetctl to talk to them.

with Cluster(machines=3) as cluster:
    cluster.fleetctl("start", "web.service")
    cluster.machines[0].power_cut()
"""

import compileall
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from contrib.testbed import root
from contrib.testbed.etcd import EtcdServer, free_port
from contrib.testbed.machine import Machine
from contrib.testbed.network import Network, clean_leftovers

READY_TIMEOUT_S = 120.0  # on a busy machine everything takes longer
FLEETCTL_TIMEOUT_S = 60.0
POLL_S = 0.2
BOOTING = 5  # machines at a time: of twenty that boot at once, some would time out
CLIENT_PORT, PEER_PORT = 2379, 2380  # etcd's own, for members on machines
INOTIFY = Path("/proc/sys/fs/inotify/max_user_instances")
WATCHERS_A_MACHINE, WATCHERS_ELSEWHERE = 10, 512  # below 100 are other testbeds beside this one
PROGRAMS = ("systemd-nspawn", "etcd", "etcdctl", "ip", "nsenter", "mount")

Config = Mapping[str, str]


def missing_requirements() -> list[str]:
    """Why no machine can be booted here; empty if one can."""
    missing = [f"{program} is not installed" for program in PROGRAMS if shutil.which(program) is None]
    if os.geteuid() != 0:
        missing.insert(0, "it needs root")
    return missing


class Cluster:
    """Machines m1, m2, … on a network of their own, all running fleetd on one etcd.

    `machines`: their number, or one mapping for each with options of its fleet.conf in addition to `config`. Without
    `fleetd` they are plain machines. With `ssh`, root can log in with the key at `ssh_key`. `etcd` is the first of
    `etcd_members`; with `etcd_on_machines` there is none, and each machine runs a member as its etcd.service.
    """

    def __init__(
        self,
        machines: int | Sequence[Config] = 3,
        *,
        config: Config | None = None,
        fleetd: bool = True,
        ssh: bool = False,
        etcd_members: int = 1,
        etcd_arguments: Sequence[str] = (),
        etcd_on_machines: bool = False,
    ) -> None:
        self._wanted = [{}] * machines if isinstance(machines, int) else list(machines)
        self._config = dict(config or {})
        self._fleetd = fleetd
        self._ssh = ssh
        self._etcd_members = 0 if etcd_on_machines else etcd_members
        self._etcd_on_machines = etcd_on_machines
        self._etcd_arguments = etcd_arguments
        self.etcds: list[EtcdServer] = []
        self.machines: list[Machine] = []

    clean_leftovers = staticmethod(clean_leftovers)

    def __enter__(self) -> "Cluster":
        self.network = Network.claim()
        try:
            self._start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Kill everything at once, and remove all of it from this machine."""
        for machine in self.machines:
            machine.comes_back = False
        self.network.release()
        self.machines = []

    @property
    def ssh_key(self) -> Path:
        """The private key that logs in as root on every machine."""
        return self.network.directory / "ssh_key"

    def add_machine(self, config: Config | None = None, *, machine_id: str | None = None) -> Machine:
        """Add a machine, boot it and wait until it is ready. One with the `machine_id` of another is only booted: it is
        refused."""
        machine = self._build(config or {}, machine_id)
        machine.boot()
        if machine_id is None:
            self.wait_ready()
        return machine

    def add_bare_machine(self, config: Config | None = None) -> Machine:
        """Add a machine on which fleet is installed, with this fleet.conf alone, and not started; boot it."""
        machine = self._build({}, None)
        root.write_config(machine.root, dict(config or {}))
        root.disable_fleet(machine.root)
        machine.boot()
        return machine

    def machine(self, name_or_id: str) -> Machine:
        """A machine by its name, id, address, or the beginning of its id as lists show it."""
        for machine in self.machines:
            if name_or_id in (machine.name, machine.address) or machine.id.startswith(name_or_id.rstrip(".")):
                return machine
        raise KeyError(f"no machine {name_or_id} in {[machine.name for machine in self.machines]}")

    def endpoint(self, on: Machine | None = None) -> str:
        """The API of a machine (default: the first that is up), as fleetctl on this host takes it. Raises LookupError
        if no machine is up."""
        machine = on or next((machine for machine in self.machines if machine.is_up), None)
        if machine is None:
            raise LookupError("no machine is up that could be asked")
        return f"unix://{machine.api_socket}"

    def fleetctl_command(self, on: Machine | None = None) -> list[str]:
        """What runs fleetctl on this host against the socket of a machine (default: the first that is up)."""
        return [f"{sys.prefix}/bin/fleetctl", f"--endpoint={self.endpoint(on)}"]

    def fleetctl(
        self,
        *arguments: str,
        on: Machine | None = None,
        stdin: str | None = None,
        timeout_s: float = FLEETCTL_TIMEOUT_S,
        check: bool = True,
    ) -> subprocess.CompletedProcess[str]:
        """Run fleetctl on this host against the socket of a machine (default: the first that is up). Raises
        AssertionError with its output if it fails and `check` is set, LookupError if no machine is up."""
        command = [*self.fleetctl_command(on), *arguments]
        result = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=timeout_s, check=False)
        if check and result.returncode != 0:
            raise AssertionError(f"fleetctl {' '.join(arguments)} ended with {result.returncode}: {result.stderr}")
        return result

    def destroy_all_units(self) -> None:
        """Empty the cluster for the next test: destroy every unit, and wait until none is left."""
        listed = self.fleetctl("list-unit-files", "--fields=unit", "--no-legend", "--full").stdout.split()
        if listed:
            self.fleetctl("destroy", *listed)
        self.wait_until("all units are gone", self._has_no_units)

    def wait_ready(self, timeout_s: float = READY_TIMEOUT_S) -> None:
        """Wait until the fleetd of every machine that is up answers and lists all of these. Raises TimeoutError."""
        if self._fleetd:
            self.wait_until("every machine lists every machine", self._list_all_machines, timeout_s)

    def wait_until(self, what: str, holds: Callable[[], bool], timeout_s: float = READY_TIMEOUT_S) -> None:
        """Poll until the condition holds. Raises TimeoutError with `what` and the end of fleetd's journals."""
        deadline = time.monotonic() + timeout_s
        while not holds():
            if time.monotonic() > deadline:
                raise TimeoutError(f"not within {timeout_s} s: {what}\n{self.journals()}")
            time.sleep(POLL_S)

    def journals(self, lines: int = 15) -> str:
        """The last lines of fleetd's journal on each machine that is up."""
        parts = []
        for machine in self.machines:
            if machine.is_up:
                parts += [f"--- {machine.name}", *machine.journal("fleet.service").splitlines()[-lines:]]
        return "\n".join(parts)

    def _start(self) -> None:
        self._allow_watching()
        self.etcds = self._build_etcds()
        if self.etcds:
            self.etcd = self.etcds[0]
        if self._ssh:
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", self.ssh_key], check=True)
        if self._fleetd:
            # Machines see this checkout read-only: compile it here once, instead of in each machine at every start.
            for package in ("fleetd", "fleetctl"):
                compileall.compile_dir(root.CHECKOUT / package, quiet=1)
        with ThreadPoolExecutor(max_workers=min(len(self._wanted), BOOTING) + 1) as pool:
            starting = pool.submit(self._start_etcds)
            for config in self._wanted:
                self._build(config, None)
            booting = [pool.submit(machine.boot) for machine in self.machines]
            starting.result()
            for booted in booting:
                booted.result()
        self.wait_ready()

    def _allow_watching(self) -> None:
        """Each systemd needs about eight inotify instances; Linux gives root 128 of them by default."""
        least = WATCHERS_ELSEWHERE + WATCHERS_A_MACHINE * len(self._wanted)
        if int(INOTIFY.read_text()) < least:
            INOTIFY.write_text(str(least))

    def _build_etcds(self) -> list[EtcdServer]:
        address = self.network.address
        ports = [free_port(address) for _ in range(self._etcd_members)]
        members = {f"etcd{number}": f"http://{address}:{port}" for number, port in enumerate(ports, start=1)}
        return [
            EtcdServer(
                self.network.directory / name,
                name=name,
                address=address,
                peer_port=port,
                members=members,
                extra_args=self._etcd_arguments,
            )
            for name, port in zip(members, ports, strict=True)
        ]

    def _start_etcds(self) -> None:
        for member in self.etcds:
            member.launch()
        for member in self.etcds:
            member.wait_until_ready()

    def _etcd_urls(self, port: int) -> dict[str, str]:
        """Machine → URL, of the members that run on machines."""
        addresses = [self.network.address_of(index) for index in range(len(self._wanted))]
        return {f"m{number}": f"http://{address}:{port}" for number, address in enumerate(addresses, start=1)}

    def _build(self, config: Config, machine_id: str | None) -> Machine:
        machine = Machine(self.network, len(self.machines), machine_id=machine_id)
        if self._fleetd:
            urls = [etcd.client_url for etcd in self.etcds]
            if self._etcd_on_machines:
                urls = list(self._etcd_urls(CLIENT_PORT).values())
                root.install_etcd(machine.root, machine.name, urls[len(self.machines)], self._etcd_urls(PEER_PORT))
            servers = ",".join(urls)
            # The testbed's network is closed to all others.
            own = {"etcd_servers": servers, "insecure_etcd": "true", "public_ip": machine.address}
            root.install_fleet(machine.root, {**own, **self._config, **config})
        if self._ssh:
            root.install_ssh(machine.root, self.ssh_key.with_suffix(".pub").read_text())
        self.machines.append(machine)
        return machine

    def _list_all_machines(self) -> bool:
        """Ask every machine: a machine stays listed for a while after its fleetd has ended."""
        up = [machine for machine in self.machines if machine.is_up]
        ids = {machine.id for machine in up}
        return all(ids <= self._listed_by(machine) for machine in up)

    def _listed_by(self, machine: Machine) -> set[str]:
        """The ids of the machines that this machine lists; empty while its fleetd does not answer."""
        flags = ("--fields=machine", "--no-legend", "--full")
        result = self.fleetctl("list-machines", *flags, on=machine, check=False)
        return set(result.stdout.split()) if result.returncode == 0 else set()

    def _has_no_units(self) -> bool:
        return not self.fleetctl("list-units", "--fields=unit", "--no-legend", "--full").stdout.split()
