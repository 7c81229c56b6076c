"""Runs with units that must not run twice (IsolationSec=), or under a lock (Lock=), and clocks that differ: their
faults are drawn from a seed of their own, so that other seeds stay as they are."""

from random import Random

import tests.simulation.certificate_actions
import tests.simulation.expectations  # noqa: F401 (adds a verb)
from tests.simulation.actions import Action
from tests.simulation.faults import FAULTS, OPERATIONS, draw_machines
from tests.simulation.run import RunResult, run_actions
from tests.simulation.units import EDITIONS, ISOLATED, LOCKED

LENGTH_S = 700.0
WARM_UP_S = 30.0
DRIFTS = ("0.98", "1", "1.02")  # of the machine's clock by one percent, and of the leader's by one the other way
# A clone is a machine with the id of another one, which nothing can tell from that one coming back; `own` and the rest
# are about units that are not in these runs.
_WITHOUT = frozenset(("clone", "own", "clock"))
_OF_UNITS = frozenset(("slow-start", "slow-stop", "hang", "refuse", "fail", "crash"))
_OPERATIONS = frozenset(
    ("start", "launch", "restart-unit", "edit", "stop", "unload", "destroy", "cordon", "drain", "move", "uncordon")
) | {"ask-reboot", "cancel-reboot"}


def draw_isolation_actions(seed: int) -> tuple[Action, ...]:
    """The actions of this seed's run, in order."""
    random = Random(f"isolation faults {seed}")
    names = units_of(seed)
    faults = [each for each in FAULTS if each[1] not in _WITHOUT and random.random() < random.choice((0.4, 0.9))]
    faults += [each for each in FAULTS if each[1] in ("cut", "snapshot", "restore")]
    operations = [each for each in OPERATIONS if each[1] in _OPERATIONS]
    pause_s, share = random.choice((5.0, 12.0, 25.0)), random.choice((0.15, 0.4))
    actions = [Action(0.5, "drift", (machine, random.choice(DRIFTS))) for machine in draw_machines(seed)]
    actions += [Action(1.0, "start", (name,)) for name in names if random.random() < 0.8]
    at_s = WARM_UP_S
    while at_s < LENGTH_S:
        table = operations if random.random() < share else faults
        _, verb_, draw = random.choices(table, weights=[weight for weight, _, _ in table])[0]
        args, for_s = draw(random)
        if verb_ in _OF_UNITS or verb_ in _OPERATIONS:
            args = _about_isolated(random, names, verb_, args)
        actions.append(Action(round(at_s, 2), verb_, args, for_s))
        at_s += random.expovariate(1 / pause_s)
    return tuple(actions)


def units_of(seed: int) -> tuple[str, ...]:
    """The units of this seed's run: those with IsolationSec=, or those with a lock."""
    return tuple(LOCKED if seed % 2 else ISOLATED)


def _about_isolated(random: Random, names: tuple[str, ...], verb_: str, args: tuple[str, ...]) -> tuple[str, ...]:
    """The same about a unit of these runs, where it is about a unit."""
    name = random.choice(names)
    if verb_ in ("start", "edit"):
        return (name, str(random.randint(1, EDITIONS)))
    if verb_ == "move":
        return (args[0], name)
    return (name, *args[1:]) if args and args[0].endswith(".service") else args


def run_isolation_seed(seed: int) -> RunResult:
    """Run this seed. With locks it is judged by what must never happen alone."""
    actions, machines = draw_isolation_actions(seed), draw_machines(seed)
    return run_actions(actions, seed=seed, machines=machines, converges=seed % 2 == 0)
