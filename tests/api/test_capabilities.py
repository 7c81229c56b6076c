"""Content that an older fleetd would carry out in another way than it says is refused while one is registered."""

import json

import pytest

from fleetd.model.machine import Capability, Machine
from tests.api.conftest import Fleet

WEB = "web.service"
SERVICE = "[Service]\nExecStart=/bin/true\n"
OLD = Machine("0123456789abcdef", address="10.0.0.9", version="2.0.0", capabilities={Capability.PROOFS: True})
WORDS = (
    "other values of UpdateAction= than auto cannot be used yet: machine 01234567 (10.0.0.9) runs fleetd 2.0.0, which "
    "does not know of them; update fleetd there first"
)


def options(action: str) -> list[dict[str, str]]:
    exec_start = {"section": "Service", "name": "ExecStart", "value": "/bin/true"}
    return [exec_start, {"section": "X-Fleet", "name": "UpdateAction", "value": action}]


async def test_an_update_action_is_refused_by_name_in_each_request_that_brings_it(fleet: Fleet) -> None:
    await fleet.put(OLD, OLD.id)
    asked = {"options": options("reload"), "desiredState": "launched"}
    assert await fleet.refused(f"PUT /fleet/v1/units/{WEB}", asked) == (409, WORDS)
    operations = [{"name": name, **asked} for name in (WEB, "b.service")] + [{"name": "c.service", **asked}]
    operations[2] = {"name": "c.service", "options": options("auto"), "desiredState": "launched"}
    answer = await fleet.ask("POST /fleet/v2/units", {"operations": operations})
    results = json.loads(answer.body)["results"]
    assert [result["code"] for result in results] == [409, 409, 201]
    assert results[0]["message"] == WORDS
    unit = {"name": WEB, "text": f"{SERVICE}[X-Fleet]\nUpdateAction=none\n"}
    assert await fleet.refused("POST /fleet/v2/apply", {"units": [unit]}) == (409, WORDS)


@pytest.mark.parametrize("is_in_dropin", [False, True])
async def test_an_update_action_is_taken_when_every_machine_knows_it(fleet: Fleet, is_in_dropin: bool) -> None:
    able = Machine("m1", capabilities=dict.fromkeys(Capability, True))
    await fleet.put(able, able.id)
    dropin = {"name": "a.conf", "text": "[X-Fleet]\nUpdateAction=none\n"}
    more = {"dropins": [dropin]} if is_in_dropin else {}
    asked = {"name": WEB, "options": options("auto" if is_in_dropin else "none"), **more}
    answer = await fleet.ask("POST /fleet/v2/units", {"operations": [asked]})
    assert json.loads(answer.body)["results"][0]["code"] == 201
    if not is_in_dropin:
        body = {"options": options("none"), "desiredState": "launched"}
        assert (await fleet.ask("PUT /fleet/v1/units/other.service", body)).status == 201


async def test_a_start_of_a_unit_that_has_an_update_action_already_is_no_new_content(fleet: Fleet) -> None:
    body = {"options": options("none"), "desiredState": "inactive"}
    assert (await fleet.ask(f"PUT /fleet/v1/units/{WEB}", body)).status == 201
    await fleet.put(OLD, OLD.id)
    assert (await fleet.ask(f"PUT /fleet/v1/units/{WEB}", {"desiredState": "launched"})).status == 204


@pytest.mark.parametrize("option", ["UpdateAction=none", "Announce=web 80"])
async def test_what_is_newest_of_it_has_to_be_known_everywhere(fleet: Fleet, option: str) -> None:
    known = dict.fromkeys(Capability, True) | {Capability.DOWNLOADS: False}
    await fleet.put(Machine("m1", version="2.0", capabilities=known), "m1")
    text = f"{SERVICE}[X-Fleet]\n{option}\nFetch=https://files/x sha256:{'0' * 64}\n"
    status, said = await fleet.refused("POST /fleet/v2/apply", {"units": [{"name": WEB, "text": text}]})
    assert status == 409
    assert said.startswith("Fetch= cannot be used yet: machine m1 ")
