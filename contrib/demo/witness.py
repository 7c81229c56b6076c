"""The state of a cluster at its sources: placements from fleet, units and processes from systemd, answers over the
network.

It only reads.
"""

import time
import urllib.request

import msgspec

from contrib.testbed import Cluster, Machine

ANSWER_TIMEOUT_S = 15.0
POLL_S = 0.1


class Placed(msgspec.Struct, frozen=True):
    """A unit on one machine, and its target state: loaded or launched."""

    name: str
    target: str
    machine: Machine


class Witness:
    """Reads the state of a cluster."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster

    def placed(self) -> dict[str, Placed]:
        """Unit name → every unit that is on one machine; global units are left out."""
        fields = "--fields=unit,dstate,target"
        listed = self._cluster.fleetctl("list-unit-files", fields, "--no-legend", "--full").stdout
        rows = [line.split() for line in listed.splitlines()]
        return {
            name: Placed(name, target, self._cluster.machine(machine.split("/")[0]))
            for name, target, machine in rows
            if machine not in ("-", "global")
        }

    def machine_of(self, name: str) -> Machine:
        """The machine that a unit is on. Raises KeyError."""
        return self.placed()[name].machine

    def units_of(self, machine: Machine) -> list[str]:
        """The units that are on this machine alone."""
        return sorted(name for name, placed in self.placed().items() if placed.machine is machine)

    def pids_elsewhere(self, machine: Machine) -> dict[str, int]:
        """Unit name → main process, of each service that runs on one of the other machines."""
        others = [placed for placed in self.placed().values() if placed.machine is not machine]
        services = [placed for placed in others if placed.name.endswith(".service")]
        pids = {placed.name: placed.machine.main_pid(placed.name) for placed in services}
        return {name: pid for name, pid in pids.items() if pid}


def is_in_target_state(placed: Placed) -> bool:
    """True if the machine's own systemd has the unit in its target state."""
    if placed.target == "loaded":
        return placed.machine.show(placed.name, "LoadState") == "loaded"
    return is_active(placed.machine, placed.name)


def is_active(machine: Machine, name: str) -> bool:
    """True if the machine's own systemd says that the unit is active and, for a service, has a process of it."""
    active = machine.show(name, "ActiveState") == "active"
    return active and (not name.endswith(".service") or machine.main_pid(name) > 0)


def fetch(url: str) -> str:
    """The answer of a web server. A server that just started is asked again until it listens. Raises OSError."""
    deadline = time.monotonic() + ANSWER_TIMEOUT_S
    while True:
        try:
            with urllib.request.urlopen(url, timeout=5) as response:
                answer: bytes = response.read()
            return answer.decode().strip()
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(POLL_S)
