"""restart where the API knows only stop and start: what it asks, in which order, and what it leaves when cut off."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fleetctl.restart_units import everywhere
from fleetctl.wait_outcome import Arrived, Failed, Pending, judge_launched, judge_stopped
from fleetd.api import schema
from tests.fleetctl.conftest import Fleetctl
from tests.fleetctl.fake_api import FakeApi, Fate, Served

ON_M1 = "on 11111111.../10.0.0.1"
GLOBAL = "[Service]\nExecStart=/bin/sleep inf\n[X-Fleet]\nGlobal=true\n"


@pytest.fixture(autouse=True)
def _api_of_before(api: FakeApi) -> None:
    """An API that does not know how to restart a unit: it is asked to stop it and to start it again."""
    api.knows_restarts = False


def operations(api: FakeApi) -> list[tuple[str, str]]:
    return [(body["name"], body["desiredState"]) for body in api.bodies]


def test_a_launched_unit_is_stopped_and_then_started(fleetctl: Fleetctl, api: FakeApi) -> None:
    api.add("web.service", target="launched")
    result = fleetctl("restart", "web")
    assert (result.status, result.stdout) == (
        0,
        f"Unit web.service loaded {ON_M1}\nUnit web.service launched {ON_M1}\n",
    )
    assert result.stderr == ""
    assert operations(api) == [("web.service", "loaded"), ("web.service", "launched")]


def test_units_are_restarted_one_after_the_other(fleetctl: Fleetctl, api: FakeApi) -> None:
    for name in ("web@1.service", "web@2.service"):
        api.add(name, target="launched")
    assert fleetctl("restart", "web@1", "web@2").status == 0
    assert operations(api) == [(f"web@{n}.service", state) for n in (1, 2) for state in ("loaded", "launched")]


def test_a_unit_that_is_only_loaded_is_started(fleetctl: Fleetctl, api: FakeApi) -> None:
    api.add("web.service", target="loaded")
    result = fleetctl("restart", "web")
    assert (result.status, result.stdout) == (0, f"Unit web.service launched {ON_M1}\n")
    assert operations(api) == [("web.service", "launched")]


def test_an_inactive_unit_is_not_restarted_and_the_others_are(fleetctl: Fleetctl, api: FakeApi) -> None:
    api.add("idle.service")
    api.add("web.service", target="launched")
    result = fleetctl("restart", "idle", "web")
    assert result.status == 1
    assert result.stderr.splitlines()[0] == "Unable to restart unit idle.service in state inactive"
    assert operations(api) == [("web.service", "loaded"), ("web.service", "launched")]


def test_a_unit_that_has_failed_is_started_again(fleetctl: Fleetctl, api: FakeApi) -> None:
    api.fates["web.service"] = Fate(active="failed", sub="failed")
    api.add("web.service", target="launched")
    del api.fates["web.service"]
    assert fleetctl("restart", "web").stdout.endswith(f"Unit web.service launched {ON_M1}\n")


def test_a_unit_that_fails_then_is_status_1_with_the_reason(fleetctl: Fleetctl, api: FakeApi) -> None:
    api.add("web.service", target="launched")
    api.fates["web.service"] = Fate(active="failed", sub="failed", error="Result: exit-code")
    result = fleetctl("restart", "web")
    assert (result.status, result.stdout) == (1, f"Unit web.service loaded {ON_M1}\n")
    assert result.stderr == f"Error waiting for units: Unit web.service failed {ON_M1} (failed): Result: exit-code\n"


def test_an_unknown_unit_with_a_file_is_submitted_but_not_started(
    fleetctl: Fleetctl, api: FakeApi, hello: Path
) -> None:
    result = fleetctl("restart", "hello")
    assert (result.status, result.stdout) == (0, "Unit hello.service inactive\n")
    assert operations(api) == [("hello.service", "inactive")]


def test_an_unknown_unit_without_a_file_stops_all_before_anything_is_done(fleetctl: Fleetctl, api: FakeApi) -> None:
    api.add("web.service", target="launched")
    result = fleetctl("restart", "web", "none")
    assert (result.status, result.stdout, operations(api)) == (1, "", [])
    assert result.stderr == "Error creating units: unable to find Unit(none.service) in Registry or on filesystem\n"


def test_without_units_it_says_so(fleetctl: Fleetctl) -> None:
    result = fleetctl("restart")
    assert (result.status, result.stdout, result.stderr) == (0, "", "No units given\n")


def test_a_stop_that_takes_too_long_is_an_error_and_the_unit_is_to_start_again(
    fleetctl: Fleetctl, api: FakeApi
) -> None:
    api.add("web.service", target="launched")
    api.fates["web.service"] = Fate(lingers=10_000)
    result = fleetctl("restart", "--block-attempts=1", "web")
    assert (result.status, result.stdout) == (1, "")
    first, second = result.stderr.splitlines()
    assert first.startswith("Error waiting for units: timed out waiting for unit web.service to report state loaded: ")
    assert second.startswith("Error waiting for unit states, exit status: timed out waiting for unit web.service")
    assert api.units["web.service"].target == "launched"


def test_a_refused_wish_is_one_line_and_leaves_the_unit_as_it_was(fleetctl: Fleetctl, api: FakeApi) -> None:
    api.add("web.service", target="launched")
    refusal = (503, "application/json", b'{"error": {"code": 503, "message": "no leader"}}')
    api.before_request = lambda method, path: refusal if method == "PUT" else None
    result = fleetctl("restart", "web")
    assert (result.status, result.stdout) == (1, "")
    assert result.stderr == "Error setting target state for unit web.service: Error 503: no leader\n"
    assert api.units["web.service"].target == "launched"


def test_what_somebody_else_wishes_meanwhile_stays(fleetctl: Fleetctl, api: FakeApi) -> None:
    api.add("web.service", target="launched")
    api.fates["web.service"] = Fate(lingers=10_000)

    def unload(method: str, path: str) -> None:
        if method == "GET" and operations(api):
            api.units["web.service"].target = "inactive"

    api.before_request = unload
    result = fleetctl("restart", "web")
    assert result.status == 1
    assert "Unit web.service was set to inactive by somebody else while it was waited for" in result.stderr
    assert operations(api) == [("web.service", "loaded")]


def test_an_api_that_goes_away_in_between_is_told_with_how_to_start_the_unit(fleetctl: Fleetctl, api: FakeApi) -> None:
    api.add("web.service", target="launched")
    api.before_request = lambda method, path: (404, "text/plain", b"") if operations(api) else None
    result = fleetctl("restart", "web")
    assert result.status == 1
    assert "Unit web.service may be left stopped; fleetctl start web.service starts it: " in result.stderr


def test_ctrl_c_in_between_leaves_the_unit_wished_launched(api: FakeApi, served: Served) -> None:
    api.add("web.service", target="launched")
    api.fates["web.service"] = Fate(lingers=10_000)
    process = subprocess.Popen(
        [sys.executable, "-m", "fleetctl.cli", f"--endpoint={served.unix}", "restart", "web"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 20
    while api.units["web.service"].target != "loaded":
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=20)
    assert (process.returncode, stdout, stderr) == (130, "", "\n")
    assert operations(api) == [("web.service", "loaded"), ("web.service", "launched")]


def test_a_machine_that_a_unit_is_not_on_is_refused_with_those_it_is_on(fleetctl: Fleetctl, api: FakeApi) -> None:
    api.add("web.service", target="launched")
    assert fleetctl("restart", "--machine=111", "web").status == 0
    result = fleetctl("restart", "--machine=222", "web")
    assert (result.status, result.stderr) == (
        1,
        "Unit web.service is not on a machine 222, but on 11111111.../10.0.0.1\n",
    )


# Global units


def copy(**changes: object) -> schema.AllocationReport:
    return schema.AllocationReport(**{"machine": "1" * 32, "active": "active", "generation": 5, **changes})  # type: ignore[arg-type]


def report(*allocations: schema.AllocationReport, decided: int = 5, machines: int = 0) -> schema.UnitReport:
    return schema.UnitReport(
        "g.service",
        "launched",
        5,
        is_global=True,
        decided=decided,
        machines=machines or len(allocations),
        allocations=allocations,
    )


@pytest.mark.parametrize(
    ("seen", "stopped", "launched"),
    [
        (report(copy(), copy()), Pending, Arrived),
        (report(copy(active="inactive")), Arrived, Failed),
        (report(copy(active="inactive", completed=True)), Arrived, Arrived),
        (report(copy(active="failed")), Arrived, Failed),
        (report(copy(active="inactive", error="masked")), Arrived, Failed),
        (report(copy(active="activating"), copy(active="failed")), Pending, Failed),
        (report(copy(active="activating"), copy()), Pending, Pending),
        (report(copy(), copy(active="inactive", generation=4)), Pending, Pending),
        (report(copy(generation=4)), Pending, Pending),
        (report(copy(active="inactive", generation=4)), Pending, Pending),
        (report(copy(), decided=4), Pending, Pending),
        (report(copy(), machines=2), Pending, Pending),
        (report(), Arrived, Arrived),
        (report(copy(superseded=True, generation=1), machines=0), Pending, Pending),
    ],
)
def test_a_global_unit_has_arrived_when_it_has_on_every_machine(
    seen: schema.UnitReport, stopped: type, launched: type
) -> None:
    assert isinstance(everywhere(judge_stopped)(seen, 5), stopped)
    assert isinstance(everywhere(judge_launched)(seen, 5), launched)
