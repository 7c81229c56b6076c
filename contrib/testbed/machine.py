"""A machine: a systemd in a container, with power and network to switch.

Its files and processes are reached through its first process.
"""

import hashlib
import os
import select
import shlex
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from contrib.testbed import leftovers, root
from contrib.testbed.network import NO_LINK, Network

BOOT_TIMEOUT_S = 120.0
SHUTDOWN_TIMEOUT_S = 120.0
RUN_TIMEOUT_S = 60.0
POLL_S = 0.1
REBOOTS = 133  # nspawn's exit status when the machine has asked to be booted again


class Machine:
    """One machine of a testbed. A reboot keeps its files, except /run and /tmp. Its id is the same in every run.

    One that reboots by itself, as by `systemctl reboot`, is switched on again, unless `comes_back` is False.
    """

    def __init__(self, network: Network, index: int, *, machine_id: str | None = None) -> None:
        self.network = network
        self.name = f"m{index + 1}"
        self.address = network.address_of(index)
        self.id = machine_id or hashlib.md5(self.name.encode()).hexdigest()
        self._container = network.container_of(self.name)
        self._directory = network.directory / self.name
        self.root = root.build(
            self._directory, machine_id=self.id, hostname=self.name, address=self.address, gateway=network.address
        )
        self._running = self._directory / "running"  # a link to its files as it sees them
        self.comes_back = True
        self._nspawn: subprocess.Popen[bytes] | None = None
        self._pid1 = 0
        self._booted = ""  # the last boot whose systemd has started
        self._switching = threading.Lock()  # held while it is switched on or off

    @property
    def is_up(self) -> bool:
        return self._nspawn is not None and self._nspawn.poll() is None

    @property
    def pid1(self) -> int:
        """The process id of its first process, as the host sees it."""
        assert self.is_up, f"{self.name} is not up"
        return self._pid1

    @property
    def boot_id(self) -> str:
        """What identifies this boot; '' while it is off or begins to boot."""
        try:
            return self.path("/proc/sys/kernel/random/boot_id").read_text().strip() if self.is_up else ""
        except OSError:
            return ""

    @property
    def console_path(self) -> Path:
        """The log of its boot."""
        return self._directory / "console.log"

    @property
    def api_socket(self) -> Path:
        """The socket of its fleetd, for fleetctl on the host. The path is the same after a reboot."""
        return self._running / "run/fleet.sock"

    @property
    def bus_address(self) -> str:
        """The socket of its system bus, for a D-Bus client on the host."""
        return f"unix:path={self.path('/run/dbus/system_bus_socket')}"

    def boot(self, timeout_s: float = BOOT_TIMEOUT_S) -> None:
        """Switch it on and wait until its systemd has started. Raises TimeoutError."""
        assert not self.is_up, f"{self.name} is up"
        notify_path = self._directory / "notify"
        notify_path.unlink(missing_ok=True)
        notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        notify.bind(str(notify_path))
        try:
            self._nspawn = self._switch_on()
            self._wait_until_ready(self._nspawn, notify, timeout_s)
        except BaseException:
            notify.close()
            raise
        threading.Thread(target=self._keep, args=(self._nspawn, notify), daemon=True).start()

    def power_cut(self) -> None:
        """Kill everything in it at once, as a power cut does."""
        with self._switching:
            nspawn, self._nspawn = self._nspawn, None
        if nspawn is None:
            return
        leftovers.kill_processes([nspawn.pid, self._pid1])
        nspawn.wait()
        self._remove_link()

    def shutdown(self, timeout_s: float = SHUTDOWN_TIMEOUT_S) -> None:
        """Shut it down as `systemctl poweroff` does, and wait until it is off. Raises TimeoutError."""
        self.begin_shutdown()
        self.wait_until_off(timeout_s)

    def begin_shutdown(self) -> None:
        """Begin a shutdown, without waiting."""
        assert self._nspawn is not None, f"{self.name} is not up"
        self._nspawn.terminate()

    def wait_until_off(self, timeout_s: float = SHUTDOWN_TIMEOUT_S) -> None:
        assert self._nspawn is not None, f"{self.name} is not up"
        try:
            self._nspawn.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise TimeoutError(f"{self.name} was not off within {timeout_s} s{self._last_words()}") from None
        self._nspawn = None

    def reboot(self) -> None:
        """Cut the power and boot again: /run is empty, /etc and /var are kept."""
        self.power_cut()
        self.boot()

    def wait_until_rebooted(self, boot_id: str, timeout_s: float = BOOT_TIMEOUT_S) -> None:
        """Wait until its systemd has started in another boot than this one. Raises TimeoutError."""
        deadline = time.monotonic() + timeout_s
        while self._booted in ("", boot_id) or self._booted != self.boot_id:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{self.name} has not rebooted within {timeout_s} s{self._last_words()}")
            time.sleep(POLL_S)

    def cut_network(self) -> None:
        """Drop every packet from and to it, until heal_network(). Its link stays up."""
        self.network.cut(self.name)

    def heal_network(self) -> None:
        self.network.heal(self.name)

    def lose_answers(self) -> None:
        """Drop what etcd answers to it, until hear_answers(): its requests still arrive."""
        self.network.mute(self.address)

    def hear_answers(self) -> None:
        self.network.unmute(self.address)

    def cut_from_etcd(self) -> None:
        """Drop every packet between it and etcd, until reach_etcd(). The other machines stay reachable."""
        self.lose_answers()
        gateway = self.network.address
        self.run(["ip", "neigh", "replace", gateway, "lladdr", NO_LINK, "dev", "host0", "nud", "permanent"])

    def reach_etcd(self) -> None:
        self.run(["ip", "neigh", "del", self.network.address, "dev", "host0"])
        self.hear_answers()

    def run(
        self,
        argv: Sequence[str],
        *,
        stdin: str | None = None,
        timeout_s: float = RUN_TIMEOUT_S,
        check: bool = True,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in it as root and capture the output. Raises CalledProcessError if it fails and `check` is set,
        TimeoutExpired after timeout_s."""
        command = ["nsenter", f"--target={self.pid1}", "--all", "--", *argv]
        pipe = subprocess.PIPE
        with subprocess.Popen(
            command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, start_new_session=True
        ) as process:
            try:
                output, errors = process.communicate(stdin, timeout_s)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)  # nsenter's child holds the pipes too
                raise
        if check and process.returncode != 0:
            raise CommandFailed(self.name, argv, process.returncode, output, errors)
        return subprocess.CompletedProcess(argv, process.returncode, output, errors)

    def path(self, path: str | Path) -> Path:
        """The host's path of a file in the machine; while it is up, also below /run and /tmp. A symbolic link to an
        absolute path leads out of the machine."""
        seen_from = Path(f"/proc/{self._pid1}/root") if self.is_up else self.root
        return seen_from / Path(path).relative_to("/")

    def main_pid(self, unit: str) -> int:
        """The main process of a service, as the machine numbers it; 0 without one."""
        return int(self.show(unit, "MainPID"))

    def main_pids(self, units: Sequence[str]) -> dict[str, int]:
        """Service → main process, 0 without one."""
        lines = self.run(["systemctl", "show", "--value", "--property=MainPID", "--", *units]).stdout.split()
        return {unit: int(pid) for unit, pid in zip(units, lines, strict=True)}

    def show(self, unit: str, property_name: str) -> str:
        """A property of a unit, from its systemd."""
        return self.run(["systemctl", "show", "--value", f"--property={property_name}", "--", unit]).stdout.strip()

    def journal(self, unit: str) -> str:
        """A unit's log since the machine was booted."""
        return self.run(["journalctl", "--no-pager", "--output=short-precise", f"--unit={unit}"]).stdout

    def _nspawn_command(self) -> list[str]:
        command = [
            "systemd-nspawn",
            "--quiet",
            f"--directory={self.root}",
            f"--machine={self._container}",
            "--boot",
            "--notify-ready=yes",
            "--register=no",
            f"--network-bridge={self.network.bridge}",
            "--capability=all",
            "--kill-signal=SIGRTMIN+3",
            "--settings=no",
            "--resolv-conf=off",
            "--timezone=off",
            "--link-journal=no",
            *root.binds(),
        ]
        if Path("/run/systemd/system").exists():
            return command  # systemd runs on this host too, and gives the machine a scope
        # Machines that share a cgroup would take each other's processes for their own.
        groups = [path / self._container for path in leftovers.control_group_roots()]
        for group in groups:
            group.mkdir(exist_ok=True)
        enter = "".join(f"echo 0 > {shlex.quote(str(group))}/cgroup.procs && " for group in groups)
        return ["sh", "-c", f'{enter}exec "$@"', "sh", *command, "--keep-unit"]

    def _switch_on(self) -> subprocess.Popen[bytes]:
        with self.console_path.open("ab") as console:
            return subprocess.Popen(
                self._nspawn_command(),
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                env={**os.environ, "NOTIFY_SOCKET": str(self._directory / "notify")},
                start_new_session=True,
            )

    def _wait_until_ready(self, nspawn: subprocess.Popen[bytes], notify: socket.socket, timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        died = os.pidfd_open(nspawn.pid)
        try:
            while time.monotonic() < deadline:
                if (message := self._next_message(notify, died, deadline - time.monotonic())) is None:
                    break
                if "READY=1" in message:
                    return
        finally:
            os.close(died)
        self.power_cut()
        raise TimeoutError(f"{self.name} did not come up{self._last_words()}")

    def _next_message(self, notify: socket.socket, died: int, timeout_s: float | None) -> list[str] | None:
        """The next of nspawn's notifications: first the machine's first process, then that its systemd is ready. None
        at the timeout, and once nspawn has ended."""
        readable, _, _ = select.select([notify.fileno(), died], [], [], timeout_s)
        if notify.fileno() not in readable:
            return None
        message = notify.recv(4096).decode().splitlines()
        for line in message:
            if line.startswith("X_NSPAWN_LEADER_PID="):
                self._pid1 = int(line.partition("=")[2])
                self._running.unlink(missing_ok=True)
                self._running.symlink_to(f"/proc/{self._pid1}/root")
        if "READY=1" in message:
            self._booted = self.boot_id
        return message

    def _keep(self, nspawn: subprocess.Popen[bytes], notify: socket.socket) -> None:
        """Until it is switched off, switch the machine on whenever it reboots. Where systemd runs on this host, nspawn
        does that by itself, and only says what the first process is then."""
        with notify:
            while True:
                died = os.pidfd_open(nspawn.pid)
                try:
                    while self._next_message(notify, died, None) is not None:
                        if not self.comes_back:
                            self.power_cut()
                finally:
                    os.close(died)
                has_ended = nspawn.wait()
                with self._switching:
                    if has_ended != REBOOTS or not self.comes_back or self._nspawn is not nspawn:
                        return
                    self._remove_link()
                    nspawn = self._nspawn = self._switch_on()

    def _remove_link(self) -> None:
        """Remove its link to the bridge, which the kernel does a while after the machine has ended."""
        subprocess.run(["ip", "link", "delete", f"vb-{self._container}"], check=False, capture_output=True)

    def _last_words(self) -> str:
        lines = self.console_path.read_text(errors="replace").splitlines()
        return "; the end of its console:\n" + "\n".join(lines[-15:])


class CommandFailed(subprocess.CalledProcessError):
    """A command failed in a machine. The message has its standard error."""

    def __init__(self, machine: str, argv: Sequence[str], returncode: int, output: str, errors: str) -> None:
        super().__init__(returncode, list(argv), output, errors)
        self.machine = machine

    def __str__(self) -> str:
        return f"on {self.machine}: {shlex.join(self.cmd)} ended with {self.returncode}: {self.stderr.strip()}"
