"""Drains on real machines: a group never has more members down than it allows, also when its leader is killed."""

import itertools
import json
from collections.abc import Iterator

import pytest

from tests.cluster.operator import RECORDER, Operator, recorded_times, with_fleet

UNITS = tuple(f"out@{number}.service" for number in (1, 2, 3))
SETTLE_S = 6.0
TEXT = with_fleet("MaxUnavailable=1", f"UpdateSettleSec={SETTLE_S:g}s", "UpdateDeadlineSec=60s", service=RECORDER)


@pytest.fixture
def group(operator: Operator) -> Iterator[Operator]:
    """Three instances, one on each machine."""
    for unit, machine, what in itertools.product(UNITS, operator.cluster.machines, ("began", "ended")):
        (machine.root / f"var/lib/{what}-{unit}").unlink(missing_ok=True)
    operator.start(dict.fromkeys(UNITS, TEXT))
    operator.wait_until_placed(*UNITS)
    assert len({operator.machine_of(unit).name for unit in UNITS}) == 3
    yield operator
    operator.cluster.fleetctl("uncordon", *(machine.id for machine in operator.cluster.machines))


def moves(operator: Operator) -> list[tuple[float, float]]:
    """From when to when instances did not run, in order, wherever they were. Each has to run now."""
    found = []
    for unit in UNITS:
        began, ended = (
            sorted(moment for machine in operator.cluster.machines for moment in recorded_times(machine, what, unit))
            for what in ("began", "ended")
        )
        found += list(zip(ended, began[1:], strict=True))
    return sorted(found)


@pytest.mark.covers("C.8")
@pytest.mark.parametrize("kills", [False, True])
def test_two_drains_at_once_take_one_member_of_a_group_after_the_other(group: Operator, kills: bool) -> None:
    first, second, third = group.cluster.machines
    on_first, on_second = (next(unit for unit in UNITS if group.machine_of(unit) is each) for each in (first, second))
    started = group.cluster.fleetctl("drain", "--no-block", "--why=kernel", first.id, on=third)
    assert started.stdout == f"Draining machine {first.id[:8]}.../{first.address}\n"
    group.cluster.wait_until("the first one has stopped", lambda: bool(recorded_times(first, "ended", on_first)), 30)
    asked = third
    if kills:
        leader = group.leader()
        asked = group.other_machine(leader)
        leader.run(["systemctl", "kill", "--signal=KILL", "--kill-whom=all", "fleet.service"])
    told = group.cluster.fleetctl("drain", second.id, on=asked).stdout.splitlines()
    assert told[-1] == f"{second.id[:8]} is drained"
    place = f"{third.id[:8]}.../{third.address}"
    assert f"{on_second} → {place} proven" in told
    waits = f"{on_second} waits: {on_first} is "
    assert kills or [line for line in told if line.startswith(waits) and line.endswith("(MaxUnavailable=1)")]

    assert {group.machine_of(unit).name for unit in UNITS} == {third.name}
    found = moves(group)
    assert len(found) == 2, "each of them once"
    (_, began), (ended, _) = found
    assert ended >= began + SETTLE_S - 1, "the second one left before the first one was proven"
    listed = group.cluster.fleetctl("list-machines", on=third).stderr.splitlines()
    assert [" is drained (by root since " in line for line in listed] == [True, True]
    assert "UTC: kernel), until `fleetctl uncordon " in listed[0 if first.id < second.id else 1]
    group.cluster.fleetctl("uncordon", first.id, second.id, on=third)
    assert group.cluster.fleetctl("list-machines", on=third).stderr == ""
    assert moves(group) == found, "no unit moves back"


@pytest.mark.covers("C.7")
def test_what_fits_nowhere_else_runs_on_and_the_command_says_so(group: Operator) -> None:
    machine = group.cluster.machines[0]
    other = group.other_machine(machine)
    group.start({"db.service": with_fleet(f"MachineID={machine.id}"), "log.service": with_fleet("Global=true")})
    pid = machine.main_pid("db.service")
    result = group.cluster.fleetctl("drain", machine.id, on=other, check=False)
    assert (result.returncode, result.stderr) == (1, f"{machine.id[:8]} is drained but for db.service\n")
    nowhere = f"db.service stays on the drained machine: it fits nowhere else: not machine {machine.id} (2)"
    assert nowhere in result.stdout.splitlines()
    assert machine.main_pid("db.service") == pid
    forced = group.cluster.fleetctl("drain", "--force", "--globals", "--output=json", machine.id, on=other)
    assert json.loads(forced.stdout)[0]["drained"]
    assert (
        group.processes((*UNITS, "db.service", "log.service")).keys()
        & {(machine.name, unit) for unit in (*UNITS, "db.service", "log.service")}
        == set()
    )


@pytest.mark.covers("C.10", "C.11")
def test_a_drain_goes_as_planned_and_a_rebalance_spreads_the_units_again(group: Operator) -> None:
    first, second, third = group.cluster.machines
    before = {unit: group.machine_of(unit).id for unit in UNITS}
    planned = group.cluster.fleetctl("drain", "--plan", "--output=json", first.id, second.id, on=third)
    steps = {step["unit"]: step for step in json.loads(planned.stdout)}
    assert {unit: group.machine_of(unit).id for unit in UNITS} == before
    assert moves(group) == []
    group.cluster.fleetctl("drain", first.id, second.id, on=third)
    assert {unit: group.machine_of(unit).id for unit in UNITS} == before | {
        unit: step["machine"] for unit, step in steps.items() if step["action"] == "move"
    }
    assert {step["machine"] for step in steps.values() if step["action"] == "move"} == {third.id}
    drained = moves(group)
    group.cluster.fleetctl("uncordon", first.id, second.id, on=third)

    told = group.cluster.fleetctl("rebalance", "--min-age=0", on=third).stdout.splitlines()
    assert [line.endswith(" proven") for line in told] == [True, True, False]
    assert told[-1] == "Nothing is left to move after 2 moves"
    assert len({group.machine_of(unit).name for unit in UNITS}) == 3
    (_, began), (ended, _) = moves(group)[len(drained) :]
    assert ended >= began + SETTLE_S - 1, "the second one left before the first one was proven"
    assert group.cluster.fleetctl("rebalance", "--min-age=0", on=first).stdout == "There is nothing to move\n"
