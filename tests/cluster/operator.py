"""An operator of a cluster, for tests: writes unit files, submits them, and looks where they run.

Process ids are read from each machine's systemd, never from what fleet reports.
"""

import base64
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

from contrib.testbed import Cluster
from contrib.testbed.machine import Machine

SLEEPER = "[Service]\nExecStart=/bin/sleep infinity\n"
ONESHOT = "[Service]\nType=oneshot\nExecStart=/bin/true\n"
# Records on its machine's disk when it started and when it ended, by the clock that all machines share.
RECORDER = (
    "[Service]\nExecStartPre=/bin/sh -c 'date +%%s.%%N >> /var/lib/began-%n'\nExecStart=/bin/sleep infinity\n"
    "ExecStopPost=/bin/sh -c 'date +%%s.%%N >> /var/lib/ended-%n'\n"
)


def with_fleet(*options: str, service: str = SLEEPER) -> str:
    """A unit file with these lines in its [X-Fleet] section."""
    return service + "\n[X-Fleet]\n" + "\n".join(options) + "\n"


def recorded_times(machine: Machine, what: str, unit: str) -> list[float]:
    """Unix times at which this RECORDER `began` or `ended` on this machine; the machine may be powered off."""
    path = machine.root / f"var/lib/{what}-{unit}"
    return [float(line) for line in path.read_text().splitlines()] if path.exists() else []


class Operator:
    """An operator with a folder of unit files and fleetctl."""

    def __init__(self, cluster: Cluster, folder: Path) -> None:
        self.cluster = cluster
        self.folder = folder

    def write(self, units: Mapping[str, str]) -> list[str]:
        """Write unit files. Return their paths."""
        for name, text in units.items():
            (self.folder / name).write_text(text)
        return [str(self.folder / name) for name in units]

    def start(
        self, units: Mapping[str, str], *flags: str, on: Machine | None = None, check: bool = True
    ) -> CompletedProcess[str]:
        """Write unit files and start them through one machine's API."""
        return self.cluster.fleetctl("start", *flags, *self.write(units), on=on, check=check)

    def placed(self, on: Machine | None = None) -> dict[str, list[str]]:
        """Unit → sorted ids of the machines that report it active, as one machine's API answers."""
        fields = "--fields=unit,machine,active"
        rows = self.cluster.fleetctl("list-units", fields, "--full", "--no-legend", on=on).stdout
        found: dict[str, list[str]] = {}
        for row in rows.splitlines():
            unit, machine, active = row.split()
            if active == "active":
                found.setdefault(unit, []).append(machine.split("/")[0])
        return {unit: sorted(machines) for unit, machines in found.items()}

    def machine_of(self, unit: str) -> Machine:
        """The one machine on which the unit is active."""
        (machine,) = self.placed()[unit]
        return self.cluster.machine(machine)

    def other_machine(self, machine: Machine) -> Machine:
        """The first machine that is not this one."""
        return next(other for other in self.cluster.machines if other is not machine)

    def leader(self) -> Machine:
        """The machine whose fleetd leads."""
        value = self.cluster.etcd.etcdctl("get", "--print-value-only", "/fleet/leader")
        return self.cluster.machine(json.loads(value)["machine"])

    def registrations(self) -> dict[str, int]:
        """Machine id → etcd revision at which its key was created. It stays the same while the machine never leaves the
        list, not even for a moment."""
        prefix = "/fleet/machines/"
        answer = json.loads(self.cluster.etcd.etcdctl("get", "--prefix", prefix, "--write-out=json"))
        found = {base64.b64decode(item["key"]).decode(): item["create_revision"] for item in answer.get("kvs", [])}
        return {key.removeprefix(prefix): revision for key, revision in found.items()}

    def pids(self, *units: str) -> dict[str, int]:
        """Unit → main process on the machine where it runs, from that machine's systemd."""
        return {unit: self.machine_of(unit).main_pid(unit) for unit in units}

    def processes(self, units: Iterable[str]) -> dict[tuple[str, str], int]:
        """(machine, unit) → main process, for each running unit on each machine."""
        names = list(units)
        found = {}
        for machine in self.cluster.machines:
            if machine.is_up:
                pids = machine.main_pids(names)
                found |= {(machine.name, unit): pid for unit, pid in pids.items() if pid}
        return found

    def machines_of(self, units: Iterable[str]) -> dict[str, list[str]]:
        """Unit → the machines that are up and run it, from their systemd."""
        found: dict[str, list[str]] = {unit: [] for unit in units}
        for machine, unit in self.processes(found):
            found[unit].append(machine)
        return found

    def lives(self, units: Iterable[str]) -> dict[tuple[str, str], tuple[int, int]]:
        """(machine, unit) → main process and number of starts ever, of RECORDER units. It stays the same while none of
        them is stopped, started or moved, not even for a moment."""
        names = list(units)
        running = self.processes(names)
        began = {(m.name, unit): len(recorded_times(m, "began", unit)) for m in self.cluster.machines for unit in names}
        return {place: (running.get(place, 0), times) for place, times in began.items() if times}

    def reports(self, on: Machine | None = None) -> dict[str, dict[str, Any]]:
        """What the API of one machine reports of each unit."""
        machine = on or self.cluster.machines[0]
        answer = machine.run(["curl", "-s", "-f", "--unix-socket", "/run/fleet.sock", "http://fleet/fleet/v2/units"])
        return {unit["name"]: unit for unit in json.loads(answer.stdout).get("units", [])}

    def wait_until_placed(self, *units: str, timeout_s: float = 60.0) -> None:
        """Wait until each unit is active on exactly one machine."""

        def all_are() -> bool:
            placed = self.placed()
            return all(len(placed.get(unit, [])) == 1 for unit in units)

        self.cluster.wait_until(f"{', '.join(units)} active on one machine each", all_are, timeout_s)
