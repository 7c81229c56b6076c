"""Handover=start-first on real machines: a group of one is moved while it is asked for its page all the time."""

import pytest

from contrib.demo.client import Client
from tests.cluster.operator import Operator, with_fleet

UNIT = "alone.service"
PORT = 8091
SERVICE = f"""[Service]
ExecStartPre=/usr/bin/test ! -e /run/not-here
ExecStartPre=/bin/sh -c 'echo "on %H" >%t/alone/index.html'
ExecStart=/usr/bin/python3 -m http.server --directory %t/alone {PORT}
ExecStartPost=/usr/bin/curl -sf -o /dev/null --retry 60 --retry-connrefused --retry-delay 1 http://localhost:{PORT}/
RuntimeDirectory=alone
"""
TEXT = with_fleet("Handover=start-first", "UpdateSettleSec=2s", "UpdateDeadlineSec=60s", service=SERVICE)


@pytest.mark.parametrize("kills", [False, True])
def test_a_drain_of_a_group_of_one_fails_no_request(operator: Operator, kills: bool) -> None:
    cluster = operator.cluster
    operator.start({UNIT: TEXT})
    operator.wait_until_placed(UNIT)
    source = operator.machine_of(UNIT)
    leader = operator.leader()
    asked = operator.other_machine(leader)  # the leader's fleetd may be killed
    try:
        with Client([f"http://{machine.address}:{PORT}/" for machine in cluster.machines]) as client:
            if kills:
                cluster.fleetctl("drain", "--no-block", source.id, on=asked)
                cluster.wait_until("it runs twice", lambda: len(operator.processes([UNIT])) == 2, 30)
                listed = cluster.fleetctl("list-units", "--no-legend", on=asked).stdout
                assert len([line for line in listed.splitlines() if line.startswith(UNIT)]) == 2
                leader.run(["systemctl", "kill", "--signal=KILL", "--kill-whom=all", "fleet.service"])
            told = cluster.fleetctl("drain", source.id, on=asked).stdout
            [(name, _)] = operator.processes([UNIT])
            goal = next(machine for machine in cluster.machines if machine.name == name)
            place = f"{goal.id[:8]}.../{goal.address}"
            assert f"{UNIT} → {place} proven" in told
            assert kills or f"{UNIT} starts on {place} first" in told
            assert told.endswith(f"{source.id[:8]} is drained\n")
    finally:
        cluster.fleetctl("uncordon", source.id, on=asked)
    assert client.failures == []
    assert client.requests > 20
    assert goal is not source


def test_what_fails_elsewhere_has_never_stopped(operator: Operator) -> None:
    cluster = operator.cluster
    operator.start({UNIT: TEXT})
    operator.wait_until_placed(UNIT)
    source = operator.machine_of(UNIT)
    before = operator.processes([UNIT])
    others = [machine for machine in cluster.machines if machine is not source]
    for machine in others:
        machine.run(["touch", "/run/not-here"])
    try:
        drained = cluster.fleetctl("drain", source.id, on=source, check=False)
        assert drained.returncode == 1
        assert f"{UNIT} was not moved to " in drained.stdout
        assert f"is drained but for {UNIT}" in drained.stderr
        moved = cluster.fleetctl("move", UNIT, others[0].id, on=source, check=False)
        assert moved.returncode == 1
        assert f"was not moved to {others[0].id[:8]}: failed there: " in moved.stderr
        assert operator.processes([UNIT]) == before
    finally:
        for machine in others:
            machine.run(["rm", "/run/not-here"])
        cluster.fleetctl("uncordon", source.id)
