"""Random faults: a list of actions from a seed, by a table of their kinds and frequencies.

The same seed gives the same list. actions.py carries them out.
"""

from collections.abc import Callable
from random import Random

import tests.simulation.announcement_actions
import tests.simulation.certificate_actions
import tests.simulation.download_actions
import tests.simulation.limit_actions
import tests.simulation.reboot_actions
import tests.simulation.secret_actions
import tests.simulation.systemd_actions
import tests.simulation.worker_actions  # noqa: F401 (adds verbs)
from tests.simulation.actions import Action
from tests.simulation.units import EDITIONS, ROLLED_UNITS, SECRET, UNITS

MACHINES = {"m1": {"disk": "ssd"}, "m2": {"disk": "hdd"}, "m3": {"disk": "ssd"}, "m4": {}}
LENGTH_S = 900.0
WARM_UP_S = 20.0

Draw = Callable[[Random], tuple[tuple[str, ...], float | None]]  # its arguments and its duration


def _long(random: Random) -> float:
    """A duration in seconds: mostly shorter than a lease, sometimes much longer."""
    return round(random.choice((0.5, 3.0, 9.0, 15.0, 40.0, 150.0)) * (0.5 + random.random()), 1)


def _machine(random: Random) -> str:
    return random.choice(tuple(MACHINES))


def _unit(random: Random) -> str:
    return random.choice(tuple(UNITS))


def _on_machine(random: Random) -> tuple[tuple[str, ...], float | None]:
    return (_machine(random),), _long(random)


def _way(random: Random) -> tuple[tuple[str, ...], float | None]:
    return tuple(random.sample(tuple(MACHINES), 2)), _long(random)


def _clone(random: Random) -> tuple[tuple[str, ...], float | None]:
    machine = _machine(random)
    return (machine, f"c1{machine[1:]}"), _long(random)


def _on_machine_at_once(random: Random) -> tuple[tuple[str, ...], float | None]:
    return (_machine(random),), None


def _on_unit(random: Random) -> tuple[tuple[str, ...], float | None]:
    return (_unit(random),), _long(random)


def _of_unit(random: Random) -> tuple[tuple[str, ...], float | None]:
    return (_unit(random),), None


def _edition(random: Random) -> tuple[tuple[str, ...], float | None]:
    return (_unit(random), str(random.randint(1, EDITIONS))), None


def _applied(random: Random) -> tuple[tuple[str, ...], float | None]:
    return (str(random.randint(1, EDITIONS)), *random.sample(tuple(UNITS), random.randint(1, 4))), None


def _rolled_edition(random: Random) -> tuple[tuple[str, ...], float | None]:
    return (str(random.randint(1, EDITIONS)),), None


def _rollout_command(random: Random) -> tuple[tuple[str, ...], float | None]:
    return (random.choice(("pause", "resume", "resume", "restart", "restart", "undo")),), None


def _on_rolled(random: Random) -> tuple[tuple[str, ...], float | None]:
    return (random.choice(ROLLED_UNITS),), _long(random)


def _of_rolled(random: Random) -> tuple[tuple[str, ...], float | None]:
    return (random.choice(ROLLED_UNITS),), None


def _own(random: Random) -> tuple[tuple[str, ...], float | None]:
    return (_machine(random), _unit(random)), _long(random)


def _for_a_while(random: Random) -> tuple[tuple[str, ...], float | None]:
    return (), _long(random)


def _at_once(_: Random) -> tuple[tuple[str, ...], float | None]:
    return (), None


def _share(random: Random) -> tuple[tuple[str, ...], float | None]:
    return (_machine(random), random.choice(("0.1", "0.3", "0.6"))), _long(random)


def _latency(random: Random) -> tuple[tuple[str, ...], float | None]:
    return (_machine(random), random.choice(("0.2", "0.8", "3"))), _long(random)


def _several(random: Random) -> tuple[tuple[str, ...], float | None]:
    return (str(random.randint(1, 2 * len(MACHINES))),), None


def _offset(random: Random) -> tuple[tuple[str, ...], float | None]:
    return (_machine(random), str(random.choice((-86400, -60, 60, 86400)))), None


def _slowness(random: Random) -> tuple[tuple[str, ...], float | None]:
    return (_unit(random), random.choice(("2", "20", "45"))), _long(random)


def _disk(random: Random) -> tuple[tuple[str, ...], float | None]:
    return (_machine(random), "disk", random.choice(("ssd", "hdd"))), None


def _delay(random: Random) -> tuple[tuple[str, ...], float | None]:
    return ("failover_delay", *random.choice(((), ("0s",), ("20s",), ("1min",)))), None


def _drain(random: Random) -> tuple[tuple[str, ...], float | None]:
    words = random.choice(((), (), (), ("globals",), ("force",), ("60",)))
    return (_machine(random), *words), random.choice((None, _long(random)))


def _move(random: Random) -> tuple[tuple[str, ...], float | None]:
    return (_machine(random), random.choice((_unit(random), random.choice(ROLLED_UNITS)))), None


def _reboot(random: Random) -> tuple[tuple[str, ...], float | None]:
    who = random.choice((_machine(random), _machine(random), "all"))
    return (who, *random.choice(((), (), ("now",), ("60",)))), None


def _slots(random: Random) -> tuple[tuple[str, ...], float | None]:
    return ("reboot_slots", *random.choice(((), ("1",), ("2",)))), None


def _secret(random: Random) -> tuple[tuple[str, ...], float | None]:
    return (SECRET, random.choice(("one", "two", "three"))), None


def _removed_secret(_: Random) -> tuple[tuple[str, ...], float | None]:
    return (SECRET,), None


def _limits(random: Random) -> tuple[tuple[str, ...], float | None]:
    words = random.choice(((), (), ("confine",), ("web@*", "roll@*"), ("*e*.service",), ("confine", "web@*", "s*")))
    return (_machine(random), *words), None


def _checks(random: Random) -> tuple[tuple[str, ...], float | None]:
    return (_machine(random), *random.choice(((), (), ("hang",)))), _long(random)


def _flapping(random: Random) -> tuple[tuple[str, ...], float | None]:
    return (_machine(random), random.choice(("4", "13", "30"))), _long(random)


def _person(random: Random) -> tuple[tuple[str, ...], float | None]:
    return (random.choice(("person/ann", "person/bob")),), None


OPERATIONS: tuple[tuple[int, str, Draw], ...] = (
    (12, "start", _edition),
    (2, "load", _edition),
    (1, "submit", _edition),
    (3, "launch", _of_unit),
    (3, "restart-unit", _of_unit),
    (3, "edit", _edition),
    (4, "stop", _of_unit),
    (1, "unload", _of_unit),
    (4, "destroy", _of_unit),
    (3, "apply", _applied),
    (4, "roll", _rolled_edition),
    (4, "command-rollout", _rollout_command),
    (1, "restart-unit", _of_rolled),
    (1, "metadata", _disk),
    (2, "cordon", _on_machine),
    (3, "drain", _drain),
    (3, "move", _move),
    (2, "rebalance", _several),
    (2, "uncordon", _on_machine_at_once),
    (1, "setting", _delay),
    (4, "ask-reboot", _reboot),
    (1, "cancel-reboot", _on_machine_at_once),
    (1, "setting", _slots),
    (1, "limit", _limits),
    (3, "set-secret", _secret),
    (1, "remove-secret", _removed_secret),
)

FAULTS: tuple[tuple[int, str, Draw], ...] = (
    (4, "power-cut", _on_machine),
    (3, "reboot", _on_machine_at_once),
    (3, "shutdown", _on_machine),
    (1, "inhibit", _on_machine),
    (5, "pause", _on_machine),
    (2, "clock", _offset),
    (5, "kill", _on_machine_at_once),
    (5, "restart", _on_machine_at_once),
    (3, "park", _on_machine),
    (2, "forget", _on_machine_at_once),
    (2, "leave", _on_machine),
    (6, "cut", _on_machine),
    (4, "unheard", _on_machine),
    (4, "unanswered", _on_machine),
    (5, "lossy", _share),
    (4, "slow", _latency),
    (4, "deaf", _on_machine),
    (4, "part", _way),
    (4, "store-crash", _for_a_while),
    (4, "store-freeze", _for_a_while),
    (2, "store-compact", _at_once),
    (4, "expire", _several),
    (1, "snapshot", _at_once),
    (1, "restore", _at_once),
    (3, "slow-start", _slowness),
    (3, "slow-stop", _slowness),
    (2, "hang", _on_unit),
    (2, "refuse", _on_unit),
    (3, "fail", _on_unit),
    (4, "crash", _of_unit),
    (2, "fail", _on_rolled),
    (1, "hang", _on_rolled),
    (2, "crash", _of_rolled),
    (3, "lose-bus", _on_machine),
    (2, "clone", _clone),
    (2, "own", _own),
    (3, "fail-downloads", _on_machine),
    (2, "slow-downloads", _on_machine),
    (2, "lose-downloads", _on_machine_at_once),
    (5, "fail-checks", _checks),
    (3, "flap-checks", _flapping),
)


# In runs with certificates; those have no wrong clocks, which are off by more than a certificate lives.
WITH_CERTIFICATES: tuple[tuple[int, str, Draw], ...] = (
    (6, "rotate-ca", _at_once),
    (4, "revoke-subject", _on_machine),
    (1, "revoke-subject", _person),
    (2, "snapshot", _at_once),
    (2, "restore", _at_once),
)


def draw_config(seed: int) -> tuple[str, ...]:
    """The lines of fleet.conf in this seed's run: mostly none."""
    random = Random(f"config {seed}")
    return random.choice(((), (), ("failover_delay=45s",), ("rerun_after_failover=true",), ("parked_ttl=30s",)))


def draw_machines(seed: int) -> dict[str, dict[str, str]]:
    """The machines of this seed's run: in half of the seeds, some of them are workers."""
    random = Random(f"machines {seed}")
    workers = random.choice(((), (), ("m4",), ("m3", "m4")))
    return {name: {**offer, "role": "worker"} if name in workers else offer for name, offer in MACHINES.items()}


def draw_life(seed: int) -> float:
    """How long certificates live in this seed's run; 0: there are none. Some runs with workers have some."""
    if all("role" not in offer for offer in draw_machines(seed).values()):
        return 0.0
    return Random(f"certificates {seed}").choice((0.0, 120.0, 120.0, 600.0))


def draw_actions(seed: int) -> tuple[Action, ...]:
    """The actions of this seed's run, in order. Seeds differ in how many faults there are, and of which kinds."""
    random = Random(f"faults {seed}")
    pause_s = random.choice((4.0, 10.0, 25.0))
    kinds = [kind for kind in FAULTS if random.random() < random.choice((0.3, 0.9))] or list(FAULTS)
    if draw_life(seed):
        kinds = [kind for kind in kinds if kind[1] != "clock"] + list(WITH_CERTIFICATES)
    share = random.choice((0.3, 0.6))
    actions = [Action(1.0, "start", (name,)) for name in UNITS if random.random() < 0.7]
    if random.random() < 0.7:
        actions.insert(0, Action(1.0, "set-secret", (SECRET, "one")))
    at_s = WARM_UP_S
    while at_s < LENGTH_S:
        table = OPERATIONS if random.random() < share else kinds
        _, verb, draw = random.choices(table, weights=[weight for weight, _, _ in table])[0]
        args, for_s = draw(random)
        actions.append(Action(round(at_s, 2), verb, args, for_s))
        at_s += random.expovariate(1 / pause_s)
    return tuple(actions)
