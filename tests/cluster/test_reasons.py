"""What systemd reports of a failed job is in the unit's state at once, as data and as text."""

from typing import Any

from tests.cluster.operator import SLEEPER, Operator, with_fleet

PICKY = {
    "cond.service": "[Unit]\nConditionPathExists=/no/such/path\n" + SLEEPER,
    "exec-cond.service": SLEEPER + "ExecCondition=/bin/false\n",
    "assert.service": "[Unit]\nAssertPathExists=/no/such/path\n" + SLEEPER,
    "tick.timer": "[Timer]\nOnActiveSec=1h\n",
    "talk.service": SLEEPER,
    "stays.service": "[Unit]\nRefuseManualStop=yes\n" + SLEEPER,
}


def allocation(operator: Operator, unit: str) -> dict[str, Any]:
    allocations = operator.reports()[unit].get("allocations", [])
    return allocations[0] if allocations else {}


def test_a_failed_job_is_explained_and_a_refused_one_is_retried(operator: Operator) -> None:
    machine = operator.cluster.machines[0]
    here = f"MachineID={machine.id}"
    units = {name: with_fleet(here, service=text) for name, text in PICKY.items()}
    operator.start(units, "--no-block")
    operator.wait_until_placed("talk.service", "stays.service")
    operator.start({"talk.socket": with_fleet(here, service="[Socket]\nListenStream=/run/talk.sock\n")}, "--no-block")
    expected = {
        "cond.service": ("condition", "note", "(ConditionPathExists=/no/such/path)"),
        "exec-cond.service": ("condition", "note", "exec-condition"),
        "assert.service": ("assert", "error", "asserts failed"),
        "tick.timer": ("refused", "error", "Refusing to start, unit tick.service to trigger not loaded."),
        "talk.socket": ("refused", "error", "Socket service talk.service already active, refusing."),
    }
    for name, (result, field, words) in expected.items():
        operator.cluster.wait_until(
            f"{name} is explained", lambda name=name: bool(allocation(operator, name).get("result")), 10
        )
        seen = allocation(operator, name)
        assert (seen["result"], seen["active"]) == (result, "inactive")
        assert words in seen[field]
        assert field == "error" or not seen.get("error")

    operator.cluster.fleetctl("stop", "--no-block", "stays.service")
    operator.cluster.wait_until(
        "the stop is refused", lambda: allocation(operator, "stays.service").get("result") == "refused", 10
    )
    assert "may be requested by dependency only" in allocation(operator, "stays.service")["error"]

    loaded = {"tick.service": with_fleet(here, service=SLEEPER)}
    operator.cluster.fleetctl("load", *operator.write(loaded))
    operator.cluster.wait_until("the timer runs", lambda: machine.show("tick.timer", "ActiveState") == "active", 10)
    operator.cluster.fleetctl("stop", "talk.service")
    operator.cluster.wait_until(
        "the socket listens", lambda: machine.show("talk.socket", "ActiveState") == "active", 70
    )
    may_stop = with_fleet(here, service=SLEEPER)
    operator.start({"stays.service": may_stop}, "--replace", "--no-block")
