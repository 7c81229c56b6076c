"""Units with IsolationSec= are refused where their machines could not carry it out as it says."""

from typing import Any

import pytest

from fleetd.model.machine import Capability, Machine
from tests.api.conftest import Fleet

TOO_SHORT = (
    "single.service: IsolationSec=5s is shorter than agent_ttl=10s (fleet.conf), for which a machine may be silent: "
    "write IsolationSec=10s or more"
)


def options(span: str) -> list[dict[str, str]]:
    return [
        {"section": "Service", "name": "ExecStart", "value": "/bin/true"},
        {"section": "X-Fleet", "name": "IsolationSec", "value": span},
    ]


@pytest.fixture
async def able(fleet: Fleet) -> Fleet:
    """A machine that isolates units; its agent_ttl is 10 s."""
    fleet.reconfigure(agent_ttl_s=10.0)
    await fleet.put(Machine("m1", capabilities=dict.fromkeys(Capability, True)), "m1")
    return fleet


def put(span: str) -> tuple[str, Any]:
    return "PUT /fleet/v1/units/single.service", {"desiredState": "launched", "options": options(span)}


async def test_less_than_a_machine_may_be_silent_is_refused_by_both_versions(able: Fleet) -> None:
    assert await able.refused(*put("5s")) == (400, TOO_SHORT)
    text = "[Service]\nExecStart=/bin/true\n[X-Fleet]\nIsolationSec=5s\n"
    asked = {"units": [{"name": "single.service", "text": text}]}
    assert await able.refused("POST /fleet/v2/apply", asked) == (400, TOO_SHORT)
    operation = {"name": "single.service", "desiredState": "launched", "options": options("5s")}
    response = await able.ask("POST /fleet/v2/units", {"operations": [operation]})
    assert TOO_SHORT.encode() in response.body
    assert await able.registry.units() == {}


async def test_as_much_is_taken_also_of_a_template(able: Fleet) -> None:
    assert (await able.ask(*put("10s"))).status == 201
    body = {
        "desiredState": "inactive",
        "options": [*options("15s"), {"section": "X-Fleet", "name": "Lock", "value": "%i"}],
    }
    assert (await able.ask("PUT /fleet/v1/units/db@.service", body)).status == 201


async def test_an_older_fleetd_would_run_it_twice(able: Fleet) -> None:
    await able.put(Machine("m2", version="1.9"), "m2")
    status, said = await able.refused(*put("30s"))
    assert (status, said) == (
        409,
        "IsolationSec= and Lock= cannot be used yet: machine m2 runs fleetd 1.9, which does not know of them; update "
        "fleetd there first",
    )
