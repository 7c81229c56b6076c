"""The steps of the demo, in order. Each shows one thing, and raises StepFailed if it does not happen.

Claims are checked at their source (witness.py): the machine's own systemd, processes, the network.
"""

import shlex
import time
from collections.abc import Callable
from pathlib import Path

from contrib.demo import stage
from contrib.demo.witness import Witness, fetch, is_active, is_in_target_state
from contrib.testbed import Cluster, Machine

CHECKOUT = Path(__file__).resolve().parents[2]
WEBS = ["web@1.service", "web@2.service"]
WORKERS = [f"worker@{number}.service" for number in range(1, 7)]
AGENT_TTL_S = 10  # fleetd's default, which the testbed keeps
PATIENCE_S = 60.0
POLL_S = 0.1


class StepFailed(Exception):
    """A step of the demo did not happen."""


def check(holds: bool, claim: str) -> None:
    """Show a claim that holds. Raises StepFailed if it does not."""
    if not holds:
        raise StepFailed(f"this does not hold: {claim}")
    stage.confirm(claim)


class Tour:
    """A tour of a cluster whose machines all run fleetd."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._witness = Witness(cluster)

    def walk(self) -> None:
        """Run all steps in order. Raises StepFailed."""
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
        stage.explain("An ordinary unit file goes to the cluster, not to a machine. The cluster chooses a machine.")
        self._fleetctl("start", "units/hello.service")
        machine = self._witness.machine_of("hello.service")
        pid = machine.main_pid("hello.service")
        check(pid > 0, f"systemd on {machine.name} runs it, as process {pid}")
        self._request(machine, 8000, f"Hello from {machine.name}")

    def spread(self) -> None:
        stage.explain(
            "Instances of a template are spread. Conflicts= keeps two web servers off one machine and its port."
        )
        self._fleetctl("start", *(f"units/{name}" for name in [*WEBS, *WORKERS]))
        self._fleetctl("list-units")
        machines = [self._witness.machine_of(name) for name in WORKERS]
        even = all(
            machines.count(machine) == len(WORKERS) // len(self._cluster.machines) for machine in self._cluster.machines
        )
        check(even, "every machine has as many workers as the others")
        first, second = (self._witness.machine_of(name) for name in WEBS)
        check(first is not second, "the two web servers are on two machines")
        self._request(first, 8080, f"Instance 1, on {first.name}")
        self._request(second, 8080, f"Instance 2, on {second.name}")

    def start_everywhere(self) -> None:
        stage.explain("A unit with Global=yes runs on every machine, and on each that joins later.")
        self._fleetctl("start", "units/heartbeat.service")
        machines = self._cluster.machines
        self._wait_for(
            "systemd runs it on every machine",
            lambda: all(is_active(machine, "heartbeat.service") for machine in machines),
        )

    def keep_together(self) -> None:
        stage.explain("MachineOf= puts a unit where another one is. There, Requires= and After= work as usual.")
        self._fleetctl("start", "units/db.service", "units/db-backup.service")
        machine = self._witness.machine_of("db.service")
        check(self._witness.machine_of("db-backup.service") is machine, f"both are on {machine.name}")
        self._wait_for(
            "db-backup.service has read the files of db.service",
            lambda: "saved at" in machine.journal("db-backup.service"),
        )

    def start_when_due(self) -> None:
        stage.explain(
            "Not only services: a timer and a socket, each with a service that waits, loaded, until it is triggered."
        )
        self._fleetctl("load", "units/report.service", "units/front.service")
        self._fleetctl("start", "units/report.timer", "units/front.socket")
        machine = self._witness.machine_of("report.timer")
        self._wait_for(
            f"the timer ran its service on {machine.name}", lambda: "Finished" in machine.journal("report.service")
        )
        listener = self._witness.machine_of("front.socket")
        check(not is_active(listener, "front.service"), "behind the socket, nothing runs yet")
        self._request(listener, 80, f"Hello from {listener.name}")
        check(is_active(listener, "front.service"), "the first connection has started the service")

    def see_everything(self) -> None:
        stage.explain("What runs where, from each systemd; and the target states.")
        self._fleetctl("list-units")
        self._fleetctl("list-unit-files")

    def cut_power(self) -> Machine:
        """Cut the power of the machine with the most units, and watch them return. Return that machine."""
        victim = max(self._cluster.machines, key=lambda machine: len(self._witness.units_of(machine)))
        lost = self._witness.units_of(victim)
        kept = self._witness.pids_elsewhere(victim)
        stage.explain(f"Cut the power of {victim.name}, which has the most units: {', '.join(lost)}.")
        stage.explain(
            f"Its lease lasts {AGENT_TTL_S} s. Once it is gone, the leader has those units started elsewhere."
        )
        began = time.monotonic()
        victim.power_cut()
        self._follow_return(victim, lost, began)
        stage.confirm(f"systemd: all {len(lost)} run elsewhere {time.monotonic() - began:.1f} s after the cut")
        now = self._witness.pids_elsewhere(victim)
        check(kept.items() <= now.items(), "the units of the other machines kept their processes")
        machine = self._witness.machine_of("hello.service")
        self._request(machine, 8000, f"Hello from {machine.name}")
        self._fleetctl("list-machines")
        self._fleetctl("list-units")
        return victim

    def bring_back(self, victim: Machine) -> None:
        stage.explain(
            f"{victim.name} is switched on again. It joins and gets the global units; no other unit moves back."
        )
        victim.boot()
        self._cluster.wait_ready()
        self._wait_for(f"heartbeat.service runs on {victim.name} again", lambda: is_active(victim, "heartbeat.service"))
        check(not self._witness.units_of(victim), "no other unit was moved there")
        self._fleetctl("list-machines")

    def _follow_return(self, victim: Machine, lost: list[str], began: float) -> None:
        """Show when each unit runs again elsewhere. Raises StepFailed."""
        missing = lost
        while missing:
            placed = self._witness.placed()
            took_s = time.monotonic() - began
            elsewhere = [placed[name] for name in missing if name in placed and placed[name].machine is not victim]
            back = [unit for unit in elsewhere if is_in_target_state(unit)]
            for unit in back:
                stage.show(f"  after {took_s:4.1f} s  {unit.name} is {unit.target} on {unit.machine.name}")
            missing = [name for name in missing if name not in [unit.name for unit in back]]
            if took_s > PATIENCE_S:
                raise StepFailed(
                    f"not back within {PATIENCE_S:.0f} s: {', '.join(missing)}\n{self._cluster.journals()}"
                )
            time.sleep(POLL_S)

    def _fleetctl(self, *arguments: str) -> str:
        """Show and run fleetctl. Return its standard output. Raises StepFailed."""
        stage.prompt(shlex.join(["fleetctl", *arguments]))
        files = [str(CHECKOUT / argument) if argument.startswith("units/") else argument for argument in arguments]
        result = self._cluster.fleetctl(*files, check=False)
        stage.show(result.stdout + result.stderr)
        if result.returncode:
            raise StepFailed(f"fleetctl {arguments[0]} ended with {result.returncode}")
        return result.stdout

    def _request(self, machine: Machine, port: int, expected: str) -> None:
        """Show a request to a web server and its answer. Raises StepFailed if the answer is another than `expected`."""
        url = f"http://{machine.address}:{port}/"
        stage.prompt(f"curl {url}")
        try:
            answer = fetch(url)
        except OSError as error:
            raise StepFailed(f"{url} does not answer: {error}") from error
        stage.show(answer)
        if answer != expected:
            raise StepFailed(f"{url} should have answered: {expected}")

    def _wait_for(self, claim: str, holds: Callable[[], bool]) -> None:
        """Wait until the claim holds, then show it. Raises StepFailed."""
        try:
            self._cluster.wait_until(claim, holds, PATIENCE_S)
        except TimeoutError as error:
            raise StepFailed(str(error)) from error
        stage.confirm(claim)
