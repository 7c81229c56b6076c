"""Proofs of health on a real machine: from what its systemd keeps, and over a restart of fleetd."""

import json
import time
from typing import Any

from contrib.testbed import Machine
from tests.cluster.operator import SLEEPER, Operator, with_fleet

CRASHES = (
    "[Unit]\nStartLimitIntervalSec=0\n[Service]\nRestart=always\nRestartSec=50ms\n"
    "ExecStart=/bin/sh -c 'sleep 0.5; echo the disk is full; exit 1'\n"
)
AFTER_S = 5


def read(operator: Operator, kind: str, machine: Machine, unit: str) -> dict[str, Any]:
    """A record of this unit on this machine, as it is stored."""
    stored = operator.cluster.etcd.etcdctl("get", "--print-value-only", f"/fleet/{kind}/{machine.id}/{unit}")
    return json.loads(stored) if stored.strip() else {}


def ask(operator: Operator, machine: Machine, unit: str) -> None:
    """Ask the machine for a proof, as the leader does."""
    order = read(operator, "placements", machine, unit) | {"prove_after_s": AFTER_S, "prove_within_s": 60}
    operator.cluster.etcd.etcdctl("put", f"/fleet/placements/{machine.id}/{unit}", json.dumps(order))


def proof(operator: Operator, machine: Machine, unit: str) -> dict[str, Any]:
    found: dict[str, Any] = read(operator, "states", machine, unit).get("proof") or {}
    return found


def test_a_run_that_lasts_is_proven_and_a_crash_loop_never_is(operator: Operator) -> None:
    machine = operator.cluster.machines[0]
    here = f"MachineID={machine.id}"
    units = {"lasts.service": SLEEPER, "crashes.service": CRASHES}
    operator.start({name: with_fleet(here, service=text) for name, text in units.items()}, "--no-block")
    operator.cluster.wait_until("both are active", lambda: len(operator.placed()) == 2)
    for unit in units:
        ask(operator, machine, unit)
    machine.run(["systemctl", "restart", "fleet.service"])

    operator.cluster.wait_until("one is proven", lambda: bool(proof(operator, machine, "lasts.service")))
    active_s = time.monotonic() - int(machine.show("lasts.service", "ActiveEnterTimestampMonotonic")) / 1e6
    assert AFTER_S <= active_s < AFTER_S + 3
    answer = proof(operator, machine, "lasts.service")
    assert answer.get("failed", "") == ""
    assert answer["invocation"] == machine.show("lasts.service", "InvocationID")

    told = "systemd restarted it before it had been active for 5 s; "
    operator.cluster.wait_until("the loop is told", lambda: bool(proof(operator, machine, "crashes.service")))
    began_s = time.monotonic()
    while time.monotonic() < began_s + 2 * AFTER_S:
        failed = proof(operator, machine, "crashes.service")["failed"]
        assert failed.startswith(told)
        assert "the disk is full" in failed.split("last lines:\n")[1]
        time.sleep(0.1)
    assert int(machine.show("crashes.service", "NRestarts")) > 10
