"""The first act: start units, list them, read their logs, and see them survive the loss of a machine."""

import time

from contrib.demo import stage
from contrib.demo.act import PATIENCE_S, Act, StepFailed, check
from contrib.demo.witness import is_active, is_in_target_state
from contrib.testbed import Machine

WEBS = ["web@1.service", "web@2.service"]
WORKERS = [f"worker@{number}.service" for number in range(1, 7)]
AGENT_TTL_S = 10  # fleetd's default, which the testbed keeps
POLL_S = 0.1


class Tour(Act):
    """A tour of a cluster. Each step shows one thing, and raises StepFailed if it does not happen."""

    def play(self) -> None:
        self.see_machines()
        self.start_one()
        self.spread()
        self.start_everywhere()
        self.keep_together()
        self.start_when_due()
        self.see_everything()
        self.read_logs()
        victim = self.cut_power()
        self.bring_back(victim)

    def see_machines(self) -> None:
        machines = self.cluster.machines
        stage.explain(
            f"{len(machines)} machines, each with a systemd of its own. fleetd on each makes them one cluster."
        )
        listed = self.run("fleetctl list-machines")
        check(all(machine.address in listed for machine in machines), "every machine is listed")

    def start_one(self) -> None:
        stage.explain("An ordinary unit file goes to the cluster, not to a machine. The cluster chooses a machine.")
        self.run("fleetctl start units/hello.service")
        machine = self.witness.machine_of("hello.service")
        pid = machine.main_pid("hello.service")
        check(pid > 0, f"systemd on {machine.name} runs it, as process {pid}")
        self.request(machine, 8000, f"Hello from {machine.name}")

    def spread(self) -> None:
        stage.explain(
            "Instances of a template are spread. Conflicts= keeps two web servers off one machine and its port."
        )
        self.run(" ".join(["fleetctl start", *(f"units/{name}" for name in [*WEBS, *WORKERS])]))
        self.run("fleetctl list-units")
        machines = [self.witness.machine_of(name) for name in WORKERS]
        even = all(
            machines.count(machine) == len(WORKERS) // len(self.cluster.machines) for machine in self.cluster.machines
        )
        check(even, "every machine has as many workers as the others")
        first, second = (self.witness.machine_of(name) for name in WEBS)
        check(first is not second, "the two web servers are on two machines")
        self.request(first, 8080, f"Instance 1, on {first.name}")
        self.request(second, 8080, f"Instance 2, on {second.name}")

    def start_everywhere(self) -> None:
        stage.explain("A unit with Global=yes runs on every machine, and on each that joins later.")
        self.run("fleetctl start units/heartbeat.service")
        machines = self.cluster.machines
        self.wait_for(
            "systemd runs it on every machine",
            lambda: all(is_active(machine, "heartbeat.service") for machine in machines),
        )

    def keep_together(self) -> None:
        stage.explain("MachineOf= puts a unit where another one is. There, Requires= and After= work as usual.")
        self.run("fleetctl start units/db.service units/db-backup.service")
        machine = self.witness.machine_of("db.service")
        check(self.witness.machine_of("db-backup.service") is machine, f"both are on {machine.name}")
        self.wait_for(
            "db-backup.service has read the files of db.service",
            lambda: "saved at" in machine.journal("db-backup.service"),
        )

    def start_when_due(self) -> None:
        stage.explain(
            "Not only services: a timer and a socket, each with a service that waits, loaded, until it is triggered."
        )
        self.run("fleetctl load units/report.service units/front.service")
        self.run("fleetctl start units/report.timer units/front.socket")
        machine = self.witness.machine_of("report.timer")
        self.wait_for(
            f"the timer ran its service on {machine.name}", lambda: "Finished" in machine.journal("report.service")
        )
        listener = self.witness.machine_of("front.socket")
        check(not is_active(listener, "front.service"), "behind the socket, nothing runs yet")
        self.request(listener, 80, f"Hello from {listener.name}")
        check(is_active(listener, "front.service"), "the first connection has started the service")

    def see_everything(self) -> None:
        stage.explain("What runs where, from each systemd; and the target states.")
        self.run("fleetctl list-units")
        self.run("fleetctl list-unit-files")

    def read_logs(self) -> None:
        stage.explain("What a unit logs, and what systemd says of it, is read on its machine by fleetd: without SSH.")
        machine = self.witness.machine_of("db-backup.service")
        logged = self.run("fleetctl journal --lines=3 db-backup.service")
        check("saved at" in logged, f"the lines are from the journal of {machine.name}")
        state = self.run("fleetctl status hello.service")
        pid = self.witness.machine_of("hello.service").main_pid("hello.service")
        check(f"Main PID: {pid}" in state, f"process {pid} is what systemd says")

    def cut_power(self) -> Machine:
        """Cut the power of the machine with the most units, and watch them return. Return that machine."""
        victim = max(self.cluster.machines, key=lambda machine: len(self.witness.units_of(machine)))
        lost = self.witness.units_of(victim)
        kept = self.witness.pids_elsewhere(victim)
        stage.explain(f"Cut the power of {victim.name}, which has the most units: {', '.join(lost)}.")
        stage.explain(
            f"Its lease lasts {AGENT_TTL_S} s. Once it is gone, the leader has those units started elsewhere."
        )
        began = time.monotonic()
        victim.power_cut()
        self._follow_return(victim, lost, began)
        stage.confirm(f"systemd: all {len(lost)} run elsewhere {time.monotonic() - began:.1f} s after the cut")
        now = self.witness.pids_elsewhere(victim)
        check(kept.items() <= now.items(), "the units of the other machines kept their processes")
        machine = self.witness.machine_of("hello.service")
        self.request(machine, 8000, f"Hello from {machine.name}")
        self.run("fleetctl list-machines")
        self.run("fleetctl list-units")
        return victim

    def bring_back(self, victim: Machine) -> None:
        stage.explain(
            f"{victim.name} is switched on again. It joins and gets the global units; no other unit moves back."
        )
        victim.boot()
        self.cluster.wait_ready()
        self.wait_for(f"heartbeat.service runs on {victim.name} again", lambda: is_active(victim, "heartbeat.service"))
        check(not self.witness.units_of(victim), "no other unit was moved there")
        self.run("fleetctl list-machines")

    def _follow_return(self, victim: Machine, lost: list[str], began: float) -> None:
        """Show when each unit runs again elsewhere. Raises StepFailed."""
        missing = lost
        while missing:
            placed = self.witness.placed()
            took_s = time.monotonic() - began
            elsewhere = [placed[name] for name in missing if name in placed and placed[name].machine is not victim]
            back = [unit for unit in elsewhere if is_in_target_state(unit)]
            for unit in back:
                stage.show(f"  after {took_s:4.1f} s  {unit.name} is {unit.target} on {unit.machine.name}")
            missing = [name for name in missing if name not in [unit.name for unit in back]]
            if took_s > PATIENCE_S:
                raise StepFailed(f"not back within {PATIENCE_S:.0f} s: {', '.join(missing)}\n{self.cluster.journals()}")
            time.sleep(POLL_S)
