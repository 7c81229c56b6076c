"""A cluster whose machines reboot when they are told to, with agents that prove or fail what they run."""

from msgspec.structs import replace

from fleetd.model.reboot import Reboot, RebootPhase, RebootRequest
from fleetd.model.unit import Unit
from fleetd.registry.records import REBOOT_REQUESTS, UNITS
from fleetd.scheduler.planner import Plan
from fleetd.scheduler.reboot_policy import StoreHealth
from tests.unit.cluster_builder import LAUNCHED, NOON
from tests.unit.rolling_cluster import RollingCluster, text_of

TEN_MINUTES_S = 600.0  # from the order until a machine counts as not back


class RebootingCluster(RollingCluster):
    """`down` are the machines that are switched off, `boots` how often each has booted. Those that are `stuck` do not
    come back, those that are `deaf` do not do what they are told. `unhealthy` are members of the store."""

    def __init__(self, machines: int = 3) -> None:
        super().__init__(machines)
        self.boots = dict.fromkeys(self.snapshot.machines, 0)
        self.down: dict[str, dict[str, str]] = {}  # with their metadata
        self.stuck: set[str] = set()
        self.deaf: set[str] = set()
        self.unhealthy: set[str] = set()
        self.asked = 0  # how often the store was asked for the health of its members
        self.due_s: float | None = None
        for machine in list(self.snapshot.machines):
            self.boot(machine)

    def boot(self, machine: str) -> None:
        """The machine comes up, with a new boot id."""
        self.boots[machine] += 1
        self.machine(machine, boot_id=f"{machine}-boot{self.boots[machine]}", **self.down.pop(machine, {}))

    def reconnect(self, machine: str) -> None:
        """The machine was cut off, and is back with the boot that it had."""
        boot_id = f"{machine}-boot{self.boots[machine]}"
        self.machine(machine, boot_id=boot_id, **self.down.pop(machine, {}))

    def power_off(self, machine: str) -> None:
        """The machine goes down, and is judged dead."""
        self.down[machine] = self.snapshot.machines[machine].metadata
        for key in [key for key in self.running if key[0] == machine]:
            del self.running[key]
        self.die(machine)

    def submit_unit(self, name: str, fleet: str = "", service: str = "") -> None:
        """An operator starts a unit, and it is started."""
        text = text_of("old", fleet).replace("[X-Fleet]", f"{service}\n[X-Fleet]")
        self.write(UNITS, (name,), Unit(name, text, LAUNCHED))
        self.come_to_rest()

    def ask_to_reboot(self, *machines: str, **fields: object) -> None:
        """An operator has the machines rebooted."""
        for machine in machines:
            self.requests += 1
            boot_id = f"{machine}-boot{self.boots[machine]}"
            request = RebootRequest(f"q{self.requests}", boot_id, "ann", NOON + self.clock_s)
            self.write(REBOOT_REQUESTS, (machine,), replace(request, **fields))

    def cancel(self, machine: str) -> None:
        """An operator cancels the reboot of the machine."""
        self.write(REBOOT_REQUESTS, (machine,), None)

    def plan(self, overdue: frozenset[tuple[str, str]] = frozenset()) -> Plan:
        """Plan once. If that asks for the health of the store, it is known to the next plan."""
        if self.snapshot.store_health is None or self.asked == 0:
            self.snapshot.store_health = None
        plan = super().plan(overdue)
        if plan.asks_store_health:
            self.asked += 1
            self.snapshot.store_health = StoreHealth(self.clock_s, tuple(sorted(self.unhealthy)))
        self.due_s = plan.wake_at_s
        return plan

    def obey(self) -> bool:
        """Machines that were told to reboot go down, and those that are down come back. Returns whether any did."""
        back = [machine for machine in self.down if machine not in self.stuck]
        told = [
            machine
            for machine, reboot in self.snapshot.reboots.items()
            if machine in self.snapshot.machines
            and machine not in self.deaf
            and reboot.phase is RebootPhase.ORDERED
            and reboot.boot_id == self.snapshot.machines[machine].boot_id
        ]
        for machine in back:
            self.boot(machine)
        for machine in told:
            self.power_off(machine)
        return bool(back or told)

    def turn(self) -> bool:
        """Leader, agents and machines take one step each. Returns whether there was anything to do."""
        plan = self.run_leader()
        return any([bool(plan.writes), plan.asks_store_health, self.run_agents(), self.obey()])

    def end(self, rounds: int = 300) -> None:
        """Turns, with as much time between them as it takes, until nothing is left to do and nothing is waited for."""
        for _ in range(rounds):
            if self.turn():
                continue
            due = [*self.wakeups.values(), *([] if self.due_s is None else [self.due_s])]
            if not due:
                return
            self.wait(max(0.0, min(due) - self.clock_s))
        raise AssertionError("never at rest")

    def run(self, rounds: int = 200) -> None:
        """Turns, without waiting for anything, until nothing is left to do."""
        for _ in range(rounds):
            if not self.turn():
                return
        raise AssertionError("never at rest")

    def reboot_of(self, machine: str) -> Reboot:
        """The record of the machine's reboot."""
        return self.snapshot.reboots[machine]

    def phases(self) -> dict[str, str]:
        """The phase of each reboot, or why it was given up, by machine."""
        return {machine: reboot.failure or reboot.phase for machine, reboot in sorted(self.snapshot.reboots.items())}

    def on(self, machine: str) -> list[str]:
        """The units that run on the machine."""
        return sorted(name for where, name in self.running if where == machine)


def rebooting_group(instances: int = 3, machines: int = 3, fleet: str = "") -> RebootingCluster:
    """So many instances of one template on so many machines."""
    cluster = RebootingCluster(machines)
    cluster.request("old", *(f"w@{number}.service" for number in range(1, instances + 1)), fleet=fleet)
    cluster.come_to_rest()
    return cluster
