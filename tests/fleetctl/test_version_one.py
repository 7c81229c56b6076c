"""fleetctl at a server that knows version 1 of the API alone, as CoreOS fleet's own does."""

from pathlib import Path

import pytest

from fleetctl.version_one import describe_units
from fleetd.api import schema
from tests.fleetctl.conftest import Fleetctl
from tests.fleetctl.fake_api import M1, FakeApi, Fate

ON_M1 = f"on {M1.id[:8]}.../{M1.primary_ip}"
GLOBAL = "[Service]\nExecStart=/bin/true\n[X-Fleet]\nGlobal=true\n"


@pytest.fixture(autouse=True)
def original(api: FakeApi) -> None:
    """The server is one of version 1."""
    api.knows_version_two = False


def test_a_unit_goes_through_its_life(fleetctl: Fleetctl, api: FakeApi, hello: Path) -> None:
    for command, stdout in (
        ("submit", "Unit hello.service inactive\n"),
        ("load", f"Unit hello.service loaded {ON_M1}\n"),
        ("start", f"Unit hello.service launched {ON_M1}\n"),
        ("stop", f"Unit hello.service loaded {ON_M1}\n"),
        ("unload", "Unit hello.service inactive\n"),
        ("destroy", "Destroyed hello.service\n"),
    ):
        result = fleetctl(command, "hello")
        assert (result.status, result.stdout) == (0, stdout), (command, result)
    assert api.units == {}


@pytest.mark.parametrize("count", [2, 20])
def test_many_units_are_started_one_by_one_and_waited_for_together(
    fleetctl: Fleetctl, api: FakeApi, tmp_path: Path, count: int
) -> None:
    names = [f"{number:02}-{'x' * 200}.service" for number in range(count)]
    for name in names:
        (tmp_path / name).write_text("[Service]\nExecStart=/bin/true\n")
    result = fleetctl("start", *names)
    assert (result.status, result.stderr) == (0, "")
    assert result.stdout.count(f"launched {ON_M1}") == count
    assert len([request for request in api.requests if request[0] == "PUT"]) == count
    asked = [request for request in api.requests if request[1].startswith("/fleet/v2")]
    assert len(asked) == len(set(asked)), "what it does not know is asked of it but once"


def test_a_changed_file_is_warned_of(fleetctl: Fleetctl, api: FakeApi, hello: Path) -> None:
    api.add("hello.service", target="launched")
    result = fleetctl("start", "hello")
    assert (result.status, result.stdout) == (0, "")
    assert result.stderr.startswith("WARNING: Unit hello.service in registry differs from local unit file")


def test_a_unit_that_fails_is_an_error(fleetctl: Fleetctl, api: FakeApi) -> None:
    api.add("web.service")
    api.fates["web.service"] = Fate(active="failed", sub="failed")
    result = fleetctl("start", "web")
    assert (result.status, result.stdout) == (1, "")
    assert "Unit web.service failed" in result.stderr


def test_a_unit_that_fits_nowhere_is_waited_for(fleetctl: Fleetctl, api: FakeApi) -> None:
    api.add("web.service")
    api.fates["web.service"] = Fate(machine=None)
    result = fleetctl("start", "--block-attempts=1", "web")
    assert result.status == 1
    assert "timed out waiting for unit web.service to report state launched: it waits for a machine" in result.stderr


def test_a_global_unit_is_known_as_one(fleetctl: Fleetctl, api: FakeApi) -> None:
    api.add("all.service", GLOBAL)
    assert fleetctl("start", "all").stdout == "Triggered global unit all.service start\n"


@pytest.mark.parametrize(("kind", "completed"), [("oneshot", True), ("simple", False)])
def test_a_oneshot_that_was_launched_and_is_dead_has_completed(kind: str, completed: bool) -> None:
    unit = schema.Unit("job.service", (schema.UnitOption("Service", "Type", kind),), "launched", "launched", "m1")
    state = schema.UnitState("job.service", "", "m1", "loaded", "inactive", "dead")
    (allocation,) = describe_units([unit], [state], {"m1": "10.0.0.1"})["job.service"].allocations
    assert (allocation.completed, allocation.address) == (completed, "10.0.0.1")


@pytest.mark.parametrize(("current", "generation"), [("launched", 1), ("loaded", 0)])
def test_what_a_unit_has_come_to_says_whether_the_last_wish_was_carried_out(current: str, generation: int) -> None:
    unit = schema.Unit("web.service", (), "launched", current, "m1")
    state = schema.UnitState("web.service", "", "m1", "loaded", "active", "running")
    report = describe_units([unit], [state], {})["web.service"]
    assert (report.generation, report.allocations[0].generation) == (1, generation)
