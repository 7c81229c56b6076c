"""What a person does with a cluster and sees of it, for tests: write unit files, hand them in, look where they run.

Process ids are read from the systemd of the machine itself, never from what fleet reports.
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
# Leaves on its machine's disk when it was started and when it ended, by the clock that all machines share.
RECORDER = (
    "[Service]\nExecStartPre=/bin/sh -c 'date +%%s.%%N >> /var/lib/began-%n'\nExecStart=/bin/sleep infinity\n"
    "ExecStopPost=/bin/sh -c 'date +%%s.%%N >> /var/lib/ended-%n'\n"
)


def with_fleet(*options: str, service: str = SLEEPER) -> str:
    """A unit file with these lines in its [X-Fleet] section."""
    return service + "\n[X-Fleet]\n" + "\n".join(options) + "\n"


def diary(machine: Machine, what: str, unit: str) -> list[float]:
    """The Unix times at which this RECORDER `began` or `ended` on this machine, which may be off."""
    path = machine.root / f"var/lib/{what}-{unit}"
    return [float(line) for line in path.read_text().splitlines()] if path.exists() else []


class Operator:
    """Somebody with a folder of unit files and fleetctl."""

    def __init__(self, cluster: Cluster, folder: Path) -> None:
        self.cluster = cluster
        self.folder = folder

    def write(self, units: Mapping[str, str]) -> list[str]:
        """Write unit files; their paths."""
        for name, text in units.items():
            (self.folder / name).write_text(text)
        return [str(self.folder / name) for name in units]

    def start(
        self, units: Mapping[str, str], *flags: str, on: Machine | None = None, check: bool = True
    ) -> CompletedProcess[str]:
        """Write unit files and start them, asking a certain machine."""
        return self.cluster.fleetctl("start", *flags, *self.write(units), on=on, check=check)

    def placed(self, on: Machine | None = None) -> dict[str, list[str]]:
        """Unit → the ids of the machines that report it active, in order; as a certain machine answers it."""
        fields = "--fields=unit,machine,active"
        rows = self.cluster.fleetctl("list-units", fields, "--full", "--no-legend", on=on).stdout
        found: dict[str, list[str]] = {}
        for row in rows.splitlines():
            unit, machine, active = row.split()
            if active == "active":
                found.setdefault(unit, []).append(machine.split("/")[0])
        return {unit: sorted(machines) for unit, machines in found.items()}

    def machine_of(self, unit: str) -> Machine:
        """The one machine that the unit is active on."""
        (machine,) = self.placed()[unit]
        return self.cluster.machine(machine)

    def leader(self) -> Machine:
        """The machine whose fleetd leads."""
        value = self.cluster.etcd.etcdctl("get", "--print-value-only", "/fleet/leader")
        return self.cluster.machine(json.loads(value)["machine"])

    def registrations(self) -> dict[str, int]:
        """Machine id → the revision of etcd at which its key was made. As long as a machine does not leave the list,
        not even for a moment, this stays the same."""
        prefix = "/fleet/machines/"
        answer = json.loads(self.cluster.etcd.etcdctl("get", "--prefix", prefix, "--write-out=json"))
        found = {base64.b64decode(item["key"]).decode(): item["create_revision"] for item in answer.get("kvs", [])}
        return {key.removeprefix(prefix): revision for key, revision in found.items()}

    def pids(self, *units: str) -> dict[str, int]:
        """The main process of each unit, on the machine that it runs on, as that machine's systemd says."""
        return {unit: self.machine_of(unit).main_pid(unit) for unit in units}

    def processes(self, units: Iterable[str]) -> dict[tuple[str, str], int]:
        """(machine, unit) → main process, of each of the units that runs, wherever it does."""
        names = list(units)
        found = {}
        for machine in self.cluster.machines:
            if machine.is_up:
                pids = machine.main_pids(names)
                found |= {(machine.name, unit): pid for unit, pid in pids.items() if pid}
        return found

    def lives(self, units: Iterable[str]) -> dict[tuple[str, str], tuple[int, int]]:
        """(machine, unit) → its main process and how often it was ever started, of DIARISTs. As long as none of them
        is stopped, started or moved, not even for a moment, this stays the same."""
        names = list(units)
        running = self.processes(names)
        began = {(m.name, unit): len(diary(m, "began", unit)) for m in self.cluster.machines for unit in names}
        return {place: (running.get(place, 0), times) for place, times in began.items() if times}

    def reports(self, on: Machine | None = None) -> dict[str, dict[str, Any]]:
        """What the API reports of each unit, as a certain machine answers it."""
        machine = on or self.cluster.machines[0]
        answer = machine.run(["curl", "-s", "-f", "--unix-socket", "/run/fleet.sock", "http://fleet/fleet/v2/units"])
        return {unit["name"]: unit for unit in json.loads(answer.stdout).get("units", [])}

    def wait_until_placed(self, *units: str, timeout_s: float = 60.0) -> None:
        """Until each of the units is active on one machine, and on one only."""

        def all_are() -> bool:
            placed = self.placed()
            return all(len(placed.get(unit, [])) == 1 for unit in units)

        self.cluster.wait_until(f"{', '.join(units)} active on one machine each", all_are, timeout_s)
