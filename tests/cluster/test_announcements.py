"""A unit announces itself on real machines: while its check passes, and until it is about to be stopped."""

import json
import time

from contrib.testbed.machine import Machine
from tests.cluster.operator import Operator, recorded_times, with_fleet

UNIT = "site.service"
PATIENCE_S = 120.0
SITE = (
    "[Service]\nExecStartPre=/bin/mkdir -p /run/site\nExecStartPre=/bin/touch /run/site/healthz\n"
    "ExecStart=/usr/bin/python3 -m http.server 8080 --directory /run/site\n"
    "ExecStopPost=/bin/sh -c 'date +%%s.%%N >> /var/lib/ended-%n'\n"
)
NAMED = with_fleet("Announce=site 8080", "Check=http:8080/healthz", "CheckInterval=1s", service=SITE)


def states_of(operator: Operator) -> list[tuple[str, str | None]]:
    """The machine of each unit that the name `site` is listed for, and why its check fails."""
    shown = operator.cluster.fleetctl("services", "--output=json", check=False)
    if shown.returncode:
        return [("", shown.stderr)]  # its fleetd is restarting
    return [(each["machine"], each["failing"]) for each in json.loads(shown.stdout) if each["service"] == "site"]


def wait_until_announced(operator: Operator, machine: Machine) -> None:
    operator.cluster.wait_until(
        "the unit is announced", lambda: states_of(operator) == [(machine.id, None)], PATIENCE_S
    )


def test_a_name_follows_the_check_and_goes_before_the_unit_stops(operator: Operator) -> None:
    operator.start({UNIT: NAMED})
    operator.wait_until_placed(UNIT)
    source = operator.machine_of(UNIT)
    wait_until_announced(operator, source)
    health = source.path("/run/site/healthz")
    health.unlink()
    failing = [(source.id, "its check fails: status 404")]
    operator.cluster.wait_until("its check fails", lambda: states_of(operator) == failing, PATIENCE_S)
    source.run(["systemctl", "restart", "fleet.service"])
    operator.cluster.wait_until("it still fails", lambda: states_of(operator) == failing, PATIENCE_S)
    health.touch()
    wait_until_announced(operator, source)
    asked = time.time()
    goal = operator.other_machine(source)
    operator.cluster.fleetctl("move", UNIT, goal.id, on=goal)
    (ended,) = recorded_times(source, "ended", UNIT)
    assert ended - asked >= 3.0
    wait_until_announced(operator, goal)
    operator.cluster.fleetctl("stop", UNIT, on=goal)
    operator.cluster.wait_until("nothing is announced", lambda: states_of(operator) == [], PATIENCE_S)
