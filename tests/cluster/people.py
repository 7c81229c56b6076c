"""What a person does with a cluster and sees of it, for tests: write unit files, hand them in, look where they run.

Process ids are read from the systemd of the machine itself, never from what fleet reports.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from subprocess import CompletedProcess

from contrib.testbed import Cluster
from contrib.testbed.machine import Machine

SLEEPER = "[Service]\nExecStart=/bin/sleep infinity\n"
ONESHOT = "[Service]\nType=oneshot\nExecStart=/bin/true\n"


def with_fleet(*options: str, service: str = SLEEPER) -> str:
    """A unit file with these lines in its [X-Fleet] section."""
    return service + "\n[X-Fleet]\n" + "\n".join(options) + "\n"


class Person:
    """Somebody with a folder of unit files and fleetctl."""

    def __init__(self, cluster: Cluster, folder: Path) -> None:
        self.cluster = cluster
        self.folder = folder

    def write(self, units: Mapping[str, str]) -> list[str]:
        """Write unit files; their paths."""
        for name, text in units.items():
            (self.folder / name).write_text(text)
        return [str(self.folder / name) for name in units]

    def start(self, units: Mapping[str, str], *flags: str, check: bool = True) -> CompletedProcess[str]:
        """Write unit files and start them."""
        return self.cluster.fleetctl("start", *flags, *self.write(units), check=check)

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

    def pids(self, *units: str) -> dict[str, int]:
        """The main process of each unit, on the machine that it runs on, as that machine's systemd says."""
        return {unit: self.machine_of(unit).main_pid(unit) for unit in units}

    def wait_until_placed(self, *units: str, timeout_s: float = 30.0) -> None:
        """Until each of the units is active on one machine, and on one only."""

        def all_are() -> bool:
            placed = self.placed()
            return all(len(placed.get(unit, [])) == 1 for unit in units)

        self.cluster.wait_until(f"{', '.join(units)} active on one machine each", all_are, timeout_s)
