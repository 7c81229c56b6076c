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


def named(*options: str, port: int = 8081) -> str:
    return with_fleet(f"Announce=odd {port}", *options, "CheckInterval=1s", "CheckFailures=1")


def said_of(operator: Operator) -> dict[str, str | None]:
    """Unit → why it is not announced (None: it is), of those that announce the name `odd`."""
    shown = operator.cluster.fleetctl("services", "odd", "--output=json", check=False)
    return {each["unit"]: each["failing"] for each in json.loads(shown.stdout)} if shown.returncode == 0 else {}


def test_what_is_wrong_with_a_check_is_said_and_hinders_no_other_unit(operator: Operator) -> None:
    units = {
        "hangs.service": named("Check=exec:/bin/sleep 600"),
        "lacks.service": named("Check=exec:/bin/sh -c no-such-program"),
        "absent.service": named("Check=exec:/usr/bin/no-such-program"),
        "other.service": named("Check=exec:/bin/true", port=8082),
        "well.service": named("Check=exec:/bin/true"),
    }
    operator.start(units)
    expected = {
        "hangs.service": "its check fails: not done within 1 s",
        "lacks.service": "its check fails: exit status 127: a program that it runs was not found",
        "absent.service": "its check fails: /usr/bin/no-such-program cannot be started: No such file or directory",
        "other.service": None,
        "well.service": None,
    }
    operator.cluster.wait_until("each is listed with what is wrong", lambda: said_of(operator) == expected, PATIENCE_S)
    explained = operator.cluster.fleetctl("explain", "hangs.service").stdout
    assert "not done within 1 s" in explained
    shown = json.loads(operator.cluster.fleetctl("services", "odd", "--output=json").stdout)
    assert {each["unit"]: each["port"] for each in shown if each["failing"] is None} == {
        "other.service": 8082,
        "well.service": 8081,
    }
    refused = operator.start({"no.service": with_fleet("Announce=Not_a_label 80")}, check=False)
    assert refused.returncode == 1
    assert '"Not_a_label" is no label of a DNS name' in refused.stderr


def test_a_check_that_flaps_is_damped_and_said_to_be(operator: Operator) -> None:
    operator.start({"flaps.service": named("Check=exec:/usr/bin/test -e /run/fine")})
    operator.wait_until_placed("flaps.service")
    file = operator.machine_of("flaps.service").path("/run/fine")
    for _ in range(3):
        file.touch()
        operator.cluster.wait_until("it is announced", lambda: said_of(operator) == {"flaps.service": None}, PATIENCE_S)
        file.unlink()
        operator.cluster.wait_until("it fails", lambda: said_of(operator).get("flaps.service") is not None, PATIENCE_S)
    flaps = "(it has failed 3 times in 5 min, and has to pass 4 times in a row)"
    assert said_of(operator) == {"flaps.service": f"its check fails: exit status 1 {flaps}"}
