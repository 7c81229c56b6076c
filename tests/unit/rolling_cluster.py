"""A cluster whose units have contents that can be good or bad, and whose agents prove or fail them in two steps."""

from collections.abc import Mapping

from msgspec.structs import replace

from fleetd.model.content import Content
from fleetd.model.placement import Placement
from fleetd.model.rollout import Action, Apply, Command, Rollout
from fleetd.model.unit import Proof, Unit, UnitState
from fleetd.registry.records import APPLIES, COMMANDS, STATES, UNITS
from fleetd.scheduler.failover_delays import Now
from tests.unit.cluster_builder import INACTIVE, LAUNCHED, NOON, Cluster

GROUP = "w@.service"
MEMBERS = ("w@1.service", "w@2.service", "w@3.service")
BAD = "bad"  # in the text of a content that does not become healthy


def text_of(word: str, fleet: str = "", unit: str = "") -> str:
    """A unit file whose content is told by this word. `unit` is its section [Unit], `fleet` its section [X-Fleet]."""
    return f"[Unit]\n{unit}\n[Service]\nExecStart=/bin/{word}\n[X-Fleet]\n{fleet}\n"


class RollingCluster(Cluster):
    """`running` is what runs, by (machine, unit). While it is `broken`, whatever is started crashes; `started` are the
    names of the units in the order in which they were started, `restarted_along` those that systemd restarted because
    another unit was."""

    def __init__(self, machines: int = 3) -> None:
        super().__init__()
        for number in range(1, machines + 1):
            self.machine(f"m{number}")
        self.running: dict[tuple[str, str], Placement] = {}
        self.requests = 0
        self.broken = False
        self.started: list[str] = []
        self.restarted_along: list[str] = []
        self.downloads: dict[str, str] = {}  # of machines that cannot have what a unit needs, why; '': not yet
        self.downloading: tuple[str, str] | None = None  # (machine, unit) that waits there to be started
        self.late = ""  # the unit whose downloads are there last
        self._crashed: set[tuple[str, str]] = set()
        self._restarting: set[tuple[str, str]] = set()

    def request(self, word: str, *names: str, fleet: str = "", unit: str = "", complete: bool = True) -> str:
        """An operator applies this content to these units. Returns the id of the request."""
        return self.request_texts(dict.fromkeys(names, text_of(word, fleet, unit)), complete=complete)

    def request_texts(self, texts: Mapping[str, str], *, complete: bool = True) -> str:
        """An operator applies these unit files. Returns the id of the request."""
        self.requests += 1
        request = f"r{self.requests}"
        for name, text in texts.items():
            self.write(UNITS, (name,), Unit(name, text, LAUNCHED, rollout=request))
        if complete:
            self.complete(request)
        return request

    def complete(self, request: str) -> None:
        """The last record of the request is written."""
        self.write(APPLIES, (request,), Apply())

    def command(self, action: Action, group: str = GROUP) -> None:
        """An operator says something about the rollout of the group that was asked for last."""
        self.requests += 1
        newest = max((self.snapshot.units[name] for name in self.snapshot.rolling[group]), key=lambda u: u.generation)
        self.write(COMMANDS, (group,), Command(f"c{self.requests}", action, newest.rollout, "ann"))

    def restart(self, *names: str) -> None:
        """An operator has these units restarted one after the other."""
        self.requests += 1
        for unit in [self.snapshot.units[name] for name in names]:
            after = replace(unit, restart_of=unit.generation, rollout=f"r{self.requests}")
            self.write(UNITS, (unit.name,), after)
        self.complete(f"r{self.requests}")

    def _now(self) -> Now:
        return Now(self.clock_s, NOON + self.clock_s)

    def rollout(self, group: str = GROUP) -> Rollout:
        """The rollout of the group as it is stored."""
        return self.snapshot.rollouts[group]

    def contents(self) -> dict[str, str]:
        """The word of the content that runs, by unit, or MACHINE/UNIT for those on many machines."""
        names = {}
        for (machine, name), placement in sorted(self.running.items()):
            key = f"{machine}/{name}" if name in self.snapshot.global_units else name
            names[key.removesuffix(".service")] = word_of(placement.content)
        return names

    def step(self, machine: str, name: str) -> bool:
        """The agent takes one step for one unit; returns whether there was anything to do."""
        placement = self.snapshot.placements.get(name, {}).get(machine)
        before = self.snapshot.states.get(name, {}).get(machine)
        if placement is None:
            self.running.pop((machine, name), None)
            state = None
        elif placement.prepares or placement.declined:
            refusal = self.downloads.get(machine, "")
            is_there = machine not in self.downloads and name != self.late
            prepared = placement.content.hash if placement.prepares and is_there else ""
            generation = placement.generation if placement.declined else 0
            state = UnitState("not-found", "inactive", "dead", "", INACTIVE, generation, error=refusal, refusal=refusal)
            state = replace(state, prepared=prepared)
        elif placement.is_withdrawn:
            self.running.pop((machine, name), None)
            state = UnitState("not-found", "inactive", "dead", generation=placement.generation)
        elif placement.superseded or (machine, name) == self.downloading:
            return False
        else:
            state = self._run(machine, placement)
        if state == before:
            return False
        self.write(STATES, (machine, name), state)
        return True

    def _run(self, machine: str, placement: Placement) -> UnitState:
        """First it is started, then it is healthy or not."""
        key, content = (machine, placement.unit), placement.content
        former = self.running.get(key)
        is_new = former is None or former.content != content or placement.restart_of >= former.generation
        self.running[key] = placement
        if is_new and placement.completed:  # a oneshot that is not to run again
            self._crashed.discard(key)
            return UnitState("loaded", "inactive", "", content.hash, LAUNCHED, placement.generation, completed=True)
        if is_new:
            self.started.append(placement.unit)
            self._crashed = self._crashed | {key} if self.broken else self._crashed - {key}
        if is_new and former is not None:
            self._restart_along(*key)
        elif key in self._restarting:
            self._restarting.discard(key)
            self.restarted_along.append(placement.unit)
            return UnitState("loaded", "activating", "", content.hash, placement.target, placement.generation)
        is_bad = BAD in content.text or key in self._crashed
        active = "activating" if is_new else "failed" if is_bad else "active"
        state = UnitState("loaded", active, "", content.hash, placement.target, placement.generation)
        if placement.prove_after_s is None or is_new:
            return state
        return replace(state, proof=Proof(placement.generation, content.hash, failed="it crashed" if is_bad else ""))

    def _restart_along(self, machine: str, name: str) -> None:
        """systemd restarts the units that require this one."""
        for (where, other), placement in self.running.items():
            words = placement.content.text.partition("Requires=")[2].partition("\n")[0].split()
            if where == machine and name in words and (where, other) not in self._restarting:
                self._restarting.add((where, other))
                self._restart_along(machine, other)

    def run_agents(self) -> bool:
        """Every agent takes one step for each of its units; returns whether there was anything to do."""
        names = {*self.snapshot.placements, *self.snapshot.states, *(name for _, name in self.running)}
        done = [self.step(machine, name) for machine in list(self.snapshot.machines) for name in sorted(names)]
        return any(done)

    def come_to_rest(self, rounds: int = 100) -> None:
        """Leader and agents by turns until nothing is left to do."""
        for _ in range(rounds):
            plan = self.run_leader()
            if self.run_agents() or plan.writes:
                continue
            if not self.wakeups:
                return
            self.wait(min(self.wakeups.values()) - self.clock_s)
        raise AssertionError(f"never at rest; the last plan was {plan}")


def all_run(word: str) -> dict[str, str]:
    """What `contents` returns when all members have the content of this word."""
    return dict.fromkeys(("w@1", "w@2", "w@3"), word)


def word_of(content: Content) -> str:
    """The word that tells this content."""
    return content.text.partition("/bin/")[2].partition("\n")[0]


def rolling_group(word: str = "old", instances: int = 3, fleet: str = "") -> RollingCluster:
    """So many instances on as many machines, which run this content."""
    cluster = RollingCluster(instances)
    cluster.request(word, *(f"w@{number}.service" for number in range(1, instances + 1)), fleet=fleet)
    cluster.come_to_rest()
    return cluster
