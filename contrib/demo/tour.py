"""The steps of the demo, in order. Each shows one thing, and raises StepFailed if it did not happen.

What is claimed is checked where it is true (witness.py): with the machine's own systemd, with processes, over the
network.
"""

import shlex
import time
from collections.abc import Callable
from pathlib import Path

from contrib.demo import stage
from contrib.demo.witness import Witness, fetch, is_active, is_as_wanted
from contrib.testbed import Cluster, Machine

CHECKOUT = Path(__file__).resolve().parents[2]
WEBS = ["web@1.service", "web@2.service"]
WORKERS = [f"worker@{number}.service" for number in range(1, 7)]
AGENT_TTL_S = 10  # fleetd's default, which the testbed keeps
PATIENCE_S = 60.0
POLL_S = 0.1


class StepFailed(Exception):
    """What the demo promised did not happen."""


def check(holds: bool, claim: str) -> None:
    """Tell what was found to be so. Raises StepFailed if it is not."""
    if not holds:
        raise StepFailed(f"this does not hold: {claim}")
    stage.confirm(claim)


class Tour:
    """A walk through a cluster whose machines all run fleetd."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._witness = Witness(cluster)

    def walk(self) -> None:
        """All steps, in order. Raises StepFailed."""
        self.see_machines()
        self.start_one()
        self.spread()
        self.start_everywhere()
        self.keep_together()
        self.start_when_due()
        self.see_everything()
        victim = self.cut_power()
        self.bring_back(victim)

    def see_machines(self) -> None:
        machines = self._cluster.machines
        stage.explain(
            f"{len(machines)} machines, each with a systemd of its own. fleetd on each makes them one cluster."
        )
        listed = self._fleetctl("list-machines")
        check(all(machine.address in listed for machine in machines), "every machine is listed")

    def start_one(self) -> None:
        stage.explain("An ordinary unit file goes to the cluster, not to a machine. The cluster finds a place for it.")
        self._fleetctl("start", "units/hello.service")
        home = self._witness.home("hello.service")
        pid = home.main_pid("hello.service")
        check(pid > 0, f"systemd on {home.name} runs it, as process {pid}")
        self._ask(home, 8000, f"Hello from {home.name}")

    def spread(self) -> None:
        stage.explain(
            "Instances of a template are spread. Conflicts= lets no machine have two web servers on one port."
        )
        self._fleetctl("start", *(f"units/{name}" for name in [*WEBS, *WORKERS]))
        self._fleetctl("list-units")
        homes = [self._witness.home(name) for name in WORKERS]
        even = all(
            homes.count(machine) == len(WORKERS) // len(self._cluster.machines) for machine in self._cluster.machines
        )
        check(even, "every machine has as many workers as the others")
        first, second = (self._witness.home(name) for name in WEBS)
        check(first is not second, "the two web servers are on two machines")
        self._ask(first, 8080, f"Instance 1, on {first.name}")
        self._ask(second, 8080, f"Instance 2, on {second.name}")

    def start_everywhere(self) -> None:
        stage.explain("A unit with Global=yes runs on every machine, and on each that joins later.")
        self._fleetctl("start", "units/heartbeat.service")
        machines = self._cluster.machines
        self._await(
            "systemd runs it on every machine",
            lambda: all(is_active(machine, "heartbeat.service") for machine in machines),
        )

    def keep_together(self) -> None:
        stage.explain(
            "MachineOf= puts a unit where another one is. There, Requires= and After= work as they always do."
        )
        self._fleetctl("start", "units/db.service", "units/db-backup.service")
        home = self._witness.home("db.service")
        check(self._witness.home("db-backup.service") is home, f"both are on {home.name}")
        self._await("the one has read the other's files", lambda: "saved at" in home.journal("db-backup.service"))

    def start_when_due(self) -> None:
        stage.explain(
            "Not only services: a timer and a socket, each with a service that waits, loaded, until it is due."
        )
        self._fleetctl("load", "units/report.service", "units/front.service")
        self._fleetctl("start", "units/report.timer", "units/front.socket")
        home = self._witness.home("report.timer")
        self._await(f"the timer ran its service on {home.name}", lambda: "Finished" in home.journal("report.service"))
        door = self._witness.home("front.socket")
        check(not is_active(door, "front.service"), "behind the socket, nothing runs yet")
        self._ask(door, 80, f"Hello from {door.name}")
        check(is_active(door, "front.service"), "the first call has started the service")

    def see_everything(self) -> None:
        stage.explain("What runs where, as each machine's systemd reports it; and what was asked for.")
        self._fleetctl("list-units")
        self._fleetctl("list-unit-files")

    def cut_power(self) -> Machine:
        """Cut the power of the machine that runs most, and see its units return; which it was."""
        victim = max(self._cluster.machines, key=lambda machine: len(self._witness.units_of(machine)))
        lost = self._witness.units_of(victim)
        kept = self._witness.pids_besides(victim)
        stage.explain(f"Now the power of {victim.name} is cut, which runs most: {', '.join(lost)}.")
        stage.explain(
            f"Its lease lasts {AGENT_TTL_S} s. Once it is gone, the leader has those units started elsewhere."
        )
        began = time.monotonic()
        victim.power_cut()
        self._follow_return(victim, lost, began)
        stage.confirm(
            f"all {len(lost)} run elsewhere, {time.monotonic() - began:.1f} s after the cut, say their systemds"
        )
        now = self._witness.pids_besides(victim)
        check(kept.items() <= now.items(), "the units of the other machines have kept their processes")
        home = self._witness.home("hello.service")
        self._ask(home, 8000, f"Hello from {home.name}")
        self._fleetctl("list-machines")
        self._fleetctl("list-units")
        return victim

    def bring_back(self, victim: Machine) -> None:
        stage.explain(
            f"{victim.name} is switched on again. It joins and gets what is global; nothing moves back by itself."
        )
        victim.boot()
        self._cluster.wait_ready()
        self._await(f"heartbeat.service runs on {victim.name} again", lambda: is_active(victim, "heartbeat.service"))
        check(not self._witness.units_of(victim), "no other unit was moved there")
        self._fleetctl("list-machines")

    def _follow_return(self, victim: Machine, lost: list[str], began: float) -> None:
        """Tell when each of the units is back. Raises StepFailed."""
        missing = lost
        while missing:
            placed = self._witness.placed()
            took_s = time.monotonic() - began
            elsewhere = [placed[name] for name in missing if name in placed and placed[name].machine is not victim]
            back = [unit for unit in elsewhere if is_as_wanted(unit)]
            for unit in back:
                stage.show(f"  after {took_s:4.1f} s  {unit.name} is {unit.wanted} on {unit.machine.name}")
            missing = [name for name in missing if name not in [unit.name for unit in back]]
            if took_s > PATIENCE_S:
                raise StepFailed(
                    f"not back within {PATIENCE_S:.0f} s: {', '.join(missing)}\n{self._cluster.journals()}"
                )
            time.sleep(POLL_S)

    def _fleetctl(self, *arguments: str) -> str:
        """Run it in view of all; what it printed. Raises StepFailed."""
        stage.prompt(shlex.join(["fleetctl", *arguments]))
        files = [str(CHECKOUT / argument) if argument.startswith("units/") else argument for argument in arguments]
        result = self._cluster.fleetctl(*files, check=False)
        stage.show(result.stdout + result.stderr)
        if result.returncode:
            raise StepFailed(f"fleetctl {arguments[0]} ended with {result.returncode}")
        return result.stdout

    def _ask(self, machine: Machine, port: int, expected: str) -> None:
        """Call a web server over the network, in view of all. Raises StepFailed if it says anything else."""
        url = f"http://{machine.address}:{port}/"
        stage.prompt(f"curl {url}")
        try:
            answer = fetch(url)
        except OSError as error:
            raise StepFailed(f"{url} does not answer: {error}") from error
        stage.show(answer)
        if answer != expected:
            raise StepFailed(f"{url} should have said: {expected}")

    def _await(self, claim: str, holds: Callable[[], bool]) -> None:
        """Tell once it holds. Raises StepFailed."""
        try:
            self._cluster.wait_until(claim, holds, PATIENCE_S)
        except TimeoutError as error:
            raise StepFailed(str(error)) from error
        stage.confirm(claim)
