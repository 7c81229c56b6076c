"""What a scenario can expect of its cluster at a moment: `expect UNIT runs on m2`.

Each expectation is a pattern and a check of the world; a false one fails the run.
"""

import re
from collections.abc import Callable, Sequence

from fleetd.model.reason import Absence, WaitingForMachine, render, render_rejection
from tests.simulation.actions import VERBS, Action
from tests.simulation.world import World

Holds = Callable[[World, Sequence[str]], bool]


def _machines_of(world: World, unit: str) -> list[str]:
    return sorted(machine for machine, name in world.processes if name == unit)


def _pids(world: World, unit: str) -> list[int]:
    return [pid for (_, name), pid in world.processes.items() if name == unit]


def _error(world: World, unit: str) -> str:
    return " ".join(state.error for (_, name), state in world.records.states.items() if name == unit)


def _is_orphan(world: World, unit: str) -> bool:
    return any(state.orphan for (_, name), state in world.records.states.items() if name == unit)


def _refusal(world: World, machine: str) -> str:
    node = world.machines[machine].node
    return node.membership.refusal if node else ""


def _mode(world: World, machine: str) -> str:
    record = world.records.machines.get(world.machines[machine].id)
    return record.mode if record else "gone"


def _waits(world: World, unit: str, machine: str) -> bool:
    """True if the unit's reason is that it waits for this machine, and its only placement is there."""
    decision = world.records.decisions.get(unit)
    reason = decision.reason if decision else None
    says = isinstance(reason, WaitingForMachine) and (reason.machine, reason.absence) == (machine, Absence.LOST)
    return says and world.records.assigned_machines(unit) == [machine]


def _has_edition(world: World, unit: str, edition: str) -> bool:
    orders = [order for (_, name), order in world.records.placements.items() if name == unit and order.is_active]
    return bool(orders) and all(f"Description=edition {edition}\n" in order.text for order in orders)


def _reasons(world: World, unit: str) -> str:
    """The reason of the unit's decision and its rejections, rendered."""
    decision = world.records.decisions.get(unit)
    if decision is None:
        return ""
    rejections = [f"{render_rejection(each.rejection)} ({each.machines})" for each in decision.rejections]
    return "; ".join([render(decision.reason), *rejections])


def _is_as_planned(world: World) -> bool:
    """True if each unit of the last plan is where that had it, of which there must be some."""
    planned = world.operators.planned
    return bool(planned) and all(world.records.assigned_machines(unit) == [planned[unit]] for unit in planned)


EXPECTATIONS: tuple[tuple[str, Holds], ...] = (
    (r"(\S+) runs on (\S+)", lambda w, a: _machines_of(w, a[0]) == [a[1]]),
    (r"(\S+) runs on (\S+) and (\S+)", lambda w, a: _machines_of(w, a[0]) == [a[1], a[2]]),
    (r"(\S+) runs everywhere", lambda w, a: _machines_of(w, a[0]) == sorted(w.machines)),
    (r"(\S+) runs once", lambda w, a: len(_machines_of(w, a[0])) == 1),
    (r"(\S+) runs nowhere", lambda w, a: not _machines_of(w, a[0])),
    (r"(\S+) has kept its process", lambda w, a: _pids(w, a[0]) == [w.first_pids[a[0]]]),
    (r"(\S+) has another process", lambda w, a: _pids(w, a[0]) not in ([], [w.first_pids[a[0]]])),
    (r"(\S+) is an orphan", lambda w, a: _is_orphan(w, a[0])),
    (r"(\S+) says (.+)", lambda w, a: a[1] in _error(w, a[0])),
    (r"(\S+) is (ready|leaving|parked|gone)", lambda w, a: _mode(w, a[0]) == a[1]),
    (r"(\S+) has no fleetd", lambda w, a: w.machines[a[0]].node is None),
    (r"(\S+) is refused for (\S+)", lambda w, a: w.machines[a[1]].address in _refusal(w, a[0])),
    (r"(\S+) has booted (\d+) times", lambda w, a: w.machines[a[0]].boots == int(a[1])),
    (r"(\S+) has led", lambda w, a: w.machines[a[0]].id in w.records.leaders),
    (r"(\S+) leads", lambda w, a: w.records.leaders[-1:] == [w.machines[a[0]].id]),
    (r"(\S+) is nowhere because (.+)", lambda w, a: a[1] in _reasons(w, a[0])),
    (r"(\S+) is placed on (\S+)", lambda w, a: w.records.assigned_machines(a[0]) == [w.machines[a[1]].id]),
    (r"(\S+) has the file of (\S+)", lambda w, a: a[1] in w.machines[a[0]].systemd.read_files()),
    (r"(\S+) has no file of (\S+)", lambda w, a: a[1] not in w.machines[a[0]].systemd.read_files()),
    (r"(\S+) is placed nowhere", lambda w, a: not w.records.assigned_machines(a[0])),
    (r"(\S+) waits for (\S+)", lambda w, a: _waits(w, a[0], w.machines[a[1]].id)),
    (r"nothing was written for (\d+) s", lambda w, a: w.now_s - w.last_write_s >= int(a[0])),
    (r"(\S+) has edition (\d)", lambda w, a: _has_edition(w, a[0], a[1])),
    (r"the rollout of (\S+) is (done|reverted)", lambda w, a: w.records.rollouts[a[0]].phase == a[1]),
    (r"all is as planned", lambda w, _: _is_as_planned(w)),
    (r"(\S+) is unknown", lambda w, a: a[0] not in w.records.units),
)


def _expect(world: World, action: Action) -> None:
    sentence = " ".join(action.args)
    for pattern, holds in EXPECTATIONS:
        found = re.fullmatch(pattern, sentence)
        if found:
            if not holds(world, found.groups()):
                world.fail("Expectation", f"{sentence}: it does not hold ({sorted(world.processes)})")
            return
    raise ValueError(f"unknown expectation {sentence!r}; add it to EXPECTATIONS")


VERBS["expect"] = _expect
