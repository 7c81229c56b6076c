"""What is asked through the API is recorded in the transaction that does it: who, and what."""

import pytest

from fleetd.model.event import EventKind
from fleetd.model.machine import Capability, Machine
from fleetd.registry.records import EVENTS
from tests.api.conftest import JSON, Fleet


async def told(fleet: Fleet) -> list[tuple[str, str, str, int]]:
    """(unit, action, by, revision) of all that was asked, in the order of revisions."""
    found = await fleet.registry.archive.store.range("/fleet.archive/events/")
    records = sorted((item.mod_revision, EVENTS.decode(item)) for item in found.items)
    events = [(event, revision) for revision, record in records for event in record.events]
    assert all(event.kind is EventKind.ASKED for event, _ in events)
    return [
        (event.unit or event.machine or event.subject, event.action, event.by, revision) for event, revision in events
    ]


BY_ANN = (*JSON, ("Fleet-User", "ann"))
UNIT = {"options": [{"section": "Service", "name": "ExecStart", "value": "/bin/true"}]}
OTHER = {"options": [{"section": "Service", "name": "ExecStart", "value": "/bin/false"}]}


async def test_what_is_asked_of_a_unit_is_recorded_where_it_is_written(fleet: Fleet) -> None:
    for body in ({**UNIT, "desiredState": "launched"}, {**OTHER}, {"desiredState": "loaded"}):
        assert (await fleet.ask("PUT /fleet/v1/units/a.service", body, BY_ANN)).status in (201, 204)
        generation = (await fleet.unit("a.service")).generation
        assert (await told(fleet))[-1][3] == generation
    await fleet.ask("DELETE /fleet/v1/units/a.service", headers=BY_ANN)
    assert [each[:3] for each in await told(fleet)] == [
        ("a.service", action, "ann") for action in ("submit", "replace", "load", "destroy")
    ]


async def test_what_changes_nothing_is_not_recorded(fleet: Fleet) -> None:
    await fleet.ask("PUT /fleet/v1/units/a.service", {**UNIT, "desiredState": "inactive"}, BY_ANN)
    before = await told(fleet)
    await fleet.ask("PUT /fleet/v1/units/a.service", {**UNIT, "desiredState": "inactive"}, BY_ANN)
    await fleet.refused("PUT /fleet/v1/units/ssh.service", {**UNIT, "desiredState": "inactive"}, BY_ANN)
    assert await told(fleet) == before


async def test_many_units_in_one_request_have_one_record_for_each_transaction(fleet: Fleet) -> None:
    names = [f"u{number:03}.service" for number in range(300)]
    operations = [{"name": name, **UNIT, "desiredState": "launched"} for name in names]
    response = await fleet.ask("POST /fleet/v2/units", {"operations": operations}, BY_ANN)
    assert response.status == 200, response.body
    found = await told(fleet)
    assert [each[0] for each in found] == names
    assert len({each[3] for each in found}) == 3
    for name, _, _, revision in found:
        assert (await fleet.unit(name)).generation == revision


async def test_an_apply_is_recorded_by_unit_with_its_id(fleet: Fleet) -> None:
    text = "[Service]\nExecStart=/bin/true\n"
    units = [{"name": name, "text": text, "dropins": []} for name in ("a.service", "b.service")]
    response = await fleet.ask("POST /fleet/v2/apply", {"set": "deploy", "units": units}, BY_ANN)
    assert response.status == 200, response.body
    assert [each[:3] for each in await told(fleet)] == [
        ("a.service", "submit", "ann"),
        ("b.service", "submit", "ann"),
    ]


@pytest.mark.parametrize(("method", "action"), [("PUT", "cordon"), ("DELETE", "uncordon")], ids=lambda each: each)
async def test_what_is_asked_of_a_machine_is_recorded(fleet: Fleet, method: str, action: str) -> None:
    await fleet.put(Machine("m1", capabilities=dict.fromkeys(Capability, True)), "m1")
    await fleet.ask("PUT /fleet/v2/machines/m1/cordon", {"why": "disk"}, BY_ANN)
    await fleet.ask(f"{method} /fleet/v2/machines/m1/cordon", {} if method == "PUT" else None, BY_ANN)
    assert (await told(fleet))[-1][:3] == ("m1", action, "ann")


async def test_what_is_asked_of_settings_and_secrets_is_recorded_without_their_values(fleet: Fleet) -> None:
    await fleet.ask("PATCH /fleet/v2/settings", {"set": {"failover_delay": "3min"}}, BY_ANN)
    await fleet.ask("PATCH /fleet/v2/settings", {"unset": ["failover_delay"]}, BY_ANN)
    assert [each[:3] for each in await told(fleet)] == [
        ("failover_delay", "set", "ann"),
        ("failover_delay", "unset", "ann"),
    ]


async def test_a_reboot_and_its_end_are_recorded(fleet: Fleet) -> None:
    machine = Machine("m1", capabilities=dict.fromkeys(Capability, True), boot_id="b1")
    await fleet.put(machine, "m1")
    await fleet.ask("PUT /fleet/v2/machines/m1/reboot", {}, BY_ANN)
    await fleet.ask("DELETE /fleet/v2/machines/m1/reboot", headers=BY_ANN)
    assert [each[:3] for each in await told(fleet)] == [("m1", "reboot", "ann"), ("m1", "cancel-reboot", "ann")]
