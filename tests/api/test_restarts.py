"""Restarts: what a request does to the units, and what later operations change."""

import json
from typing import Any

import pytest

from fleetd.api.unit_operations import MAX_UNITS
from fleetd.model.placement import Decision
from fleetd.model.unit import TargetState, UnitState
from tests.api.conftest import Fleet

RESTART = "POST /fleet/v2/restart"


async def restart(fleet: Fleet, *names: str) -> list[tuple[str, int]]:
    response = await fleet.ask(RESTART, {"names": names})
    assert response.status == 200, response.body
    return [(each["name"], each["code"]) for each in json.loads(response.body)["results"]]


async def test_a_restart_applies_to_past_starts_and_keeps_the_target(fleet: Any) -> None:
    targets = {"web.service": "launched", "talk.service": "loaded", "idle.service": "inactive"}
    before = {name: await fleet.add_unit(name, target=target) for name, target in targets.items()}
    assert await restart(fleet, *targets, "none.service", "no unit") == [
        ("web.service", 204),
        ("talk.service", 204),
        ("idle.service", 409),
        ("none.service", 404),
        ("no unit", 404),
    ]
    for name in ("web.service", "talk.service"):
        unit = await fleet.unit(name)
        assert (unit.restart_of, unit.target, unit.text) == (before[name].generation, targets[name], before[name].text)
        assert unit.generation > before[name].generation
    assert await fleet.unit("idle.service") == before["idle.service"]


@pytest.mark.parametrize(
    ("operation", "is_active"),
    [
        ({"desiredState": "launched"}, True),
        ({"options": [{"section": "Service", "name": "ExecStart", "value": "/b"}], "desiredState": "launched"}, True),
        ({"desiredState": "loaded"}, False),
        ({"desiredState": "inactive"}, False),
    ],
)
async def test_a_restart_that_no_machine_has_seen_is_made_unless_the_unit_stops(
    fleet: Any, operation: dict[str, Any], is_active: bool
) -> None:
    before = await fleet.add_unit("web.service", target="launched")
    await restart(fleet, "web.service")
    assert (await fleet.ask("PUT /fleet/v1/units/web.service", operation)).status in (201, 204)
    assert (await fleet.unit("web.service")).restart_of == (before.generation if is_active else 0)


async def test_an_invalid_request_is_refused_as_a_whole(fleet: Any) -> None:
    await fleet.add_unit("web.service", target="launched")
    before = await fleet.unit("web.service")
    assert (await fleet.refused(RESTART, {"names": ["web.service", "web.service"]}))[0] == 400
    assert (await fleet.refused(RESTART, {"names": ["a.service"] * (MAX_UNITS + 1)}))[0] == 413
    assert (await fleet.refused(RESTART, {"names": "web.service"}))[0] == 400
    assert (await fleet.refused(RESTART, {"names": ["web.service"]}, headers=()))[0] == 415
    assert (await fleet.refused("GET /fleet/v2/restart"))[0] == 405
    assert await fleet.unit("web.service") == before


async def test_the_result_of_a_job_is_in_the_report(fleet: Any) -> None:
    await fleet.add_unit("web.service", target="launched")
    await fleet.put(Decision("web.service", 2, machine="m1"), "web.service")
    skipped = UnitState(
        "loaded", "inactive", "dead", target=TargetState.LAUNCHED, result="condition", note="it is not met"
    )
    await fleet.put(skipped, "m1", "web.service")
    response = await fleet.ask("GET /fleet/v2/units?name=web.service")
    [report] = json.loads(response.body)["units"]
    [allocation] = report["allocations"]
    assert (allocation["result"], allocation["note"]) == ("condition", "it is not met")
