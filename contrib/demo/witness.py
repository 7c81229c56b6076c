"""What is true in a cluster, seen where it is true: where fleet says units are, what systemd and the network say of it.

Nothing is shown and nothing is changed here.
"""

import time
import urllib.request

import msgspec

from contrib.testbed import Cluster, Machine

ANSWER_TIMEOUT_S = 15.0
POLL_S = 0.1


class Placed(msgspec.Struct, frozen=True):
    """A unit that is on one machine, and what was asked of it there: loaded or launched."""

    name: str
    wanted: str
    machine: Machine


class Witness:
    """Looks at a cluster."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster

    def placed(self) -> dict[str, Placed]:
        """Every unit that is on one machine, by name; global ones are not among them."""
        fields = "--fields=unit,dstate,target"
        listed = self._cluster.fleetctl("list-unit-files", fields, "--no-legend", "--full").stdout
        rows = [line.split() for line in listed.splitlines()]
        return {
            name: Placed(name, wanted, self._cluster.machine(target.split("/")[0]))
            for name, wanted, target in rows
            if target not in ("-", "global")
        }

    def home(self, name: str) -> Machine:
        """The machine that a unit is on. Raises KeyError."""
        return self.placed()[name].machine

    def units_of(self, machine: Machine) -> list[str]:
        """The units that are on the machine and on no other."""
        return sorted(name for name, placed in self.placed().items() if placed.machine is machine)

    def pids_besides(self, machine: Machine) -> dict[str, int]:
        """The main process of each service that runs on one of the other machines, by the unit's name."""
        others = [placed for placed in self.placed().values() if placed.machine is not machine]
        services = [placed for placed in others if placed.name.endswith(".service")]
        pids = {placed.name: placed.machine.main_pid(placed.name) for placed in services}
        return {name: pid for name, pid in pids.items() if pid}


def is_as_wanted(placed: Placed) -> bool:
    """Whether the machine's own systemd has the unit in the state that was asked for."""
    if placed.wanted == "loaded":
        return placed.machine.show(placed.name, "LoadState") == "loaded"
    return is_active(placed.machine, placed.name)


def is_active(machine: Machine, name: str) -> bool:
    """Whether the machine's own systemd calls the unit active and, for a service, has a process of it."""
    active = machine.show(name, "ActiveState") == "active"
    return active and (not name.endswith(".service") or machine.main_pid(name) > 0)


def fetch(url: str) -> str:
    """What a web server answers. It may just have been started: asked again until it listens. Raises OSError."""
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
