"""What systemd knows of a job that comes to nothing is in the unit's state at once, as data and in its words."""

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


def copy(person: Operator, unit: str) -> dict[str, Any]:
    allocations = person.reports()[unit].get("allocations", [])
    return allocations[0] if allocations else {}


def test_a_job_that_comes_to_nothing_is_explained_and_a_refused_one_tried_again(person: Operator) -> None:
    machine = person.cluster.machines[0]
    here = f"MachineID={machine.id}"
    units = {name: with_fleet(here, service=text) for name, text in PICKY.items()}
    person.start(units, "--no-block")
    person.wait_until_placed("talk.service", "stays.service")
    person.start({"talk.socket": with_fleet(here, service="[Socket]\nListenStream=/run/talk.sock\n")}, "--no-block")
    expected = {
        "cond.service": ("condition", "note", "(ConditionPathExists=/no/such/path)"),
        "exec-cond.service": ("condition", "note", "exec-condition"),
        "assert.service": ("assert", "error", "asserts failed"),
        "tick.timer": ("refused", "error", "Refusing to start, unit tick.service to trigger not loaded."),
        "talk.socket": ("refused", "error", "Socket service talk.service already active, refusing."),
    }
    for name, (result, field, words) in expected.items():
        person.cluster.wait_until(f"{name} is explained", lambda name=name: bool(copy(person, name).get("result")), 10)
        seen = copy(person, name)
        assert (seen["result"], seen["active"]) == (result, "inactive")
        assert words in seen[field]
        assert field == "error" or not seen.get("error")

    person.cluster.fleetctl("stop", "--no-block", "stays.service")
    person.cluster.wait_until(
        "the stop is refused", lambda: copy(person, "stays.service").get("result") == "refused", 10
    )
    assert "may be requested by dependency only" in copy(person, "stays.service")["error"]

    loaded = {"tick.service": with_fleet(here, service=SLEEPER)}
    person.cluster.fleetctl("load", *person.write(loaded))
    person.cluster.wait_until("the timer runs", lambda: machine.show("tick.timer", "ActiveState") == "active", 10)
    person.cluster.fleetctl("stop", "talk.service")
    person.cluster.wait_until("the socket listens", lambda: machine.show("talk.socket", "ActiveState") == "active", 70)
    may_stop = with_fleet(here, service=SLEEPER)
    person.start({"stays.service": may_stop}, "--replace", "--no-block")
