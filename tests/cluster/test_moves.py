"""A unit is moved on real machines: to where it was asked for, over a change of leader, and back if it fails there."""

import pytest

from tests.cluster.operator import SLEEPER, Operator, with_fleet

UNIT = "mover.service"
SETTLING = ("UpdateSettleSec=2s", "UpdateDeadlineSec=30s")


@pytest.mark.parametrize("kills", [False, True])
def test_a_unit_goes_where_it_is_asked_to_and_stays(operator: Operator, kills: bool) -> None:
    operator.start({UNIT: with_fleet(*SETTLING)})
    operator.wait_until_placed(UNIT)
    source = operator.machine_of(UNIT)
    goal = operator.other_machine(source)
    if kills:
        asked = operator.cluster.fleetctl("move", "--no-block", UNIT, goal.id, on=goal)
        assert asked.stdout == f"Triggered unit {UNIT} move to {goal.id[:8]}.../{goal.address}\n"
        operator.leader().run(["systemctl", "kill", "--signal=KILL", "--kill-whom=all", "fleet.service"])
        operator.cluster.wait_until("the unit has moved", lambda: operator.machine_of(UNIT) is goal, 60)
    else:
        moved = operator.cluster.fleetctl("move", UNIT, goal.id[:8], on=goal)
        assert moved.stdout == f"Unit {UNIT} moved to {goal.id[:8]}.../{goal.address}\n"
    operator.wait_until_placed(UNIT)
    assert {machine for machine, _ in operator.processes([UNIT])} == {goal.name}


def test_a_unit_that_fails_there_returns_and_one_that_does_not_fit_stays(operator: Operator) -> None:
    machines = operator.cluster.machines
    source, goal = machines[0], machines[1]
    service = SLEEPER.replace("[Service]\n", "[Service]\nExecStartPre=/usr/bin/test -e /run/only-here\n", 1)
    source.run(["touch", "/run/only-here"])
    operator.start({UNIT: with_fleet(f"MachineID={source.id}", *SETTLING, service=service)})
    operator.wait_until_placed(UNIT)
    refused = operator.cluster.fleetctl("move", UNIT, goal.id, on=source, check=False)
    assert refused.returncode == 1
    assert f"was not moved to {goal.id[:8]}: not machine {source.id}" in refused.stderr
    operator.start({UNIT: with_fleet(*SETTLING, service=service)}, "--replace")
    operator.wait_until_placed(UNIT)
    assert operator.machine_of(UNIT) is source
    failed = operator.cluster.fleetctl("move", UNIT, goal.id, on=source, check=False)
    assert failed.returncode == 1
    assert f"was not moved to {goal.id[:8]}: failed there: " in failed.stderr
    operator.wait_until_placed(UNIT)
    assert operator.machine_of(UNIT) is source
