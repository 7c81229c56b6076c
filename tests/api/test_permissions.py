"""Which requests need which permission, who is told why they may not, and what the audit keeps."""

import json
from typing import Any

import pytest

from fleetd.model.permission import NO_RIGHTS, Grant, Permission, Rights, parse_rights
from fleetd.model.unit import Unit
from fleetd.registry.registry import Registry
from fleetd.registry.transactions import WriteSet
from fleetd.store.protocol import Conflict
from tests.api.conftest import JSON, Fleet

SERVICE = [{"section": "Service", "name": "ExecStart", "value": "/bin/true"}]
BY_ANN = (*JSON, ("Fleet-User", "ann"))
# Whoever may connect may ask who they are; machines that have no certificate yet may ask for one.
OPEN = {"/fleet/v2/whoami", "/fleet/v2/authorities", "/fleet/v2/join", "/fleet/v2/renew"}
OF_SERVERS = "/fleet/v2/authority-keys"


def holding(text: str) -> Rights:
    return parse_rights(text)


def replacing(pattern: str) -> list[dict[str, str]]:
    return [*SERVICE, {"section": "X-Fleet", "name": "Replaces", "value": pattern}]


def installed(option: str, unit: str) -> list[dict[str, str]]:
    return [*SERVICE, {"section": "Install", "name": option, "value": unit}]


# Routes


@pytest.mark.parametrize("held", [None, *Permission])
async def test_each_route_refuses_who_lacks_its_permission_before_it_looks_at_the_request(
    fleet: Fleet, held: Permission | None
) -> None:
    fleet.rights = Rights([Grant(held)]) if held else NO_RIGHTS
    for route in fleet.api.routes:
        if route.path == "/fleet/v2/leave" or route.for_servers:
            continue  # on the machine's own socket alone: test_routes; for servers alone: test_authorities
        response = await fleet.ask(f"{route.method} {route.path}", b"\xff not JSON")
        is_allowed = route.needs is None or fleet.rights.allow(route.needs)
        assert (response.status == 403) is not is_allowed, route
        if not is_allowed:
            message = json.loads(response.body)["error"]["message"]
            assert message.startswith(f"you may not do this: it needs the permission {route.needs}, which the group ")


def test_each_route_that_changes_something_needs_more_than_to_view(fleet: Fleet) -> None:
    # By POST: what is asked for is in the body. A login gives nobody more than they have.
    reads = {"/fleet/v2/reports", "/fleet/v2/plan", "/fleet/v2/login"}
    for route in fleet.api.routes:
        if route.method == "GET":
            assert route.needs is (None if route.path in {*OPEN, OF_SERVERS} else Permission.VIEW), route
            assert route.for_servers is (route.path == OF_SERVERS)
        else:
            assert (route.needs is Permission.VIEW) is (route.path in reads), route


async def test_machines_need_a_permission_for_everything(fleet: Fleet) -> None:
    fleet.rights = holding("operate:web-*")
    for request in ("PUT /fleet/v2/machines/m1/cordon", "PUT /fleet/v2/machines/m1/drain"):
        status, why = await fleet.refused(request, {})
        assert (status, why.split(",")[0]) == (403, "you may not do this: it needs the permission operate")


# Units by name


@pytest.mark.parametrize(
    ("rights", "request_", "body", "status"),
    [
        ("operate:web-*", "PUT /fleet/v1/units/web-1.service", {"desiredState": "launched"}, 204),
        ("operate:web-*", "PUT /fleet/v1/units/db.service", {"desiredState": "launched"}, 403),
        ("operate:web-*", "PUT /fleet/v1/units/web-1.service", {"desiredState": "launched", "options": SERVICE}, 403),
        ("submit:web-*", "PUT /fleet/v1/units/web-1.service", {"desiredState": "launched", "options": SERVICE}, 204),
        ("submit:web-*", "PUT /fleet/v1/units/web-new.service", {"options": SERVICE}, 201),
        ("submit:web-*", "PUT /fleet/v1/units/new.service", {"options": SERVICE}, 403),
        ("operate:web-*", "DELETE /fleet/v1/units/web-1.service", None, 403),
        ("submit:web-*", "DELETE /fleet/v1/units/web-1.service", None, 204),
        ("submit:web-*", "DELETE /fleet/v1/units/db.service", None, 403),
        ("submit:web-*,operate:db*", "PUT /fleet/v1/units/db.service", {"desiredState": "loaded"}, 204),
        ("operate:web-*", "PUT /fleet/v2/units/db.service/move", {"machine": "m1"}, 403),
        ("operate:web-*", "POST /fleet/v2/rollouts/db.service", {"action": "undo"}, 403),
        ("operate:web-*", "POST /fleet/v2/rollouts/web-1.service", {"action": "undo"}, 409),
        ("operate:web-*", "POST /fleet/v2/scale", {"template": "db@.service", "instances": 1}, 403),
        ("operate:web-*", "POST /fleet/v2/scale", {"template": "web-x@.service", "instances": 1}, 200),
        ("submit:web-*", "PUT /fleet/v1/units/web-2.service", {"options": replacing("web-1.service")}, 201),
        ("submit:web-*", "PUT /fleet/v1/units/web-2.service", {"options": replacing("web-[ab]*")}, 201),
        ("submit:web-?.service", "PUT /fleet/v1/units/web-2.service", {"options": replacing("web-*")}, 403),
        ("submit:web-*", "PUT /fleet/v1/units/web-2.service", {"options": replacing("w*")}, 403),
        ("submit:web-*", "PUT /fleet/v1/units/web-2.service", {"options": replacing("db.service")}, 403),
        ("submit:web-*", "PUT /fleet/v1/units/web-2.service", {"options": installed("Alias", "web-3.service")}, 201),
        ("submit:web-*", "PUT /fleet/v1/units/web-2.service", {"options": installed("Alias", "front.service")}, 403),
        ("submit:web-*", "PUT /fleet/v1/units/web-2.service", {"options": installed("WantedBy", "a.target")}, 201),
        ("submit:web-*", "PUT /fleet/v1/units/web-2.service", {"options": installed("RequiredBy", "db.service")}, 403),
    ],
)
async def test_a_role_that_is_narrowed_to_names_counts_for_these_alone(
    fleet: Fleet, rights: str, request_: str, body: Any, status: int
) -> None:
    for name in ("web-1.service", "db.service", "web-x@.service", "db@.service"):
        await fleet.add_unit(name)
    before = await fleet.registry.store.revision()
    fleet.rights = holding(rights)
    response = await fleet.ask(request_, body)
    assert response.status == status, response.body
    if status == 403:
        assert await fleet.registry.store.revision() == before


async def test_of_many_units_those_are_changed_that_one_may(fleet: Fleet) -> None:
    await fleet.add_unit("web-1.service")
    await fleet.add_unit("db.service")
    fleet.rights = holding("operate:web-*")
    operations = [{"name": name, "desiredState": "launched"} for name in ("web-1.service", "db.service")]
    answer = json.loads((await fleet.ask("POST /fleet/v2/units", {"operations": operations}, BY_ANN)).body)
    web, db = answer["results"]
    assert web["code"] == 204
    assert (db["code"], db["message"]) == (
        403,
        "ann may not do this: it needs the permission operate:db.service, which the group fleet-operate of the machine "
        "that is asked gives, or role.GROUP=operate:db.service in its fleet.conf",
    )


async def test_an_apply_changes_all_or_nothing(fleet: Fleet) -> None:
    fleet.rights = holding("submit:web-*")
    text = "[Service]\nExecStart=/bin/true\n"
    units = [{"name": "web-1.service", "text": text}, {"name": "db.service", "text": text}]
    status, why = await fleet.refused("POST /fleet/v2/apply", {"units": units})
    assert status == 403
    assert "submit:db.service" in why
    assert await fleet.registry.units() == {}
    planned = await fleet.ask("POST /fleet/v2/apply", {"units": units, "plan": True})
    assert planned.status == 200
    units[1] = {"name": "web-2.service", "text": f"{text}[X-Fleet]\nReplaces=db.service\n"}
    assert (await fleet.refused("POST /fleet/v2/apply", {"units": units}))[0] == 403
    units[1]["text"] = text
    assert (await fleet.ask("POST /fleet/v2/apply", {"units": units})).status == 200


# Who did it


async def test_whoami_tells_name_groups_and_rights(fleet: Fleet) -> None:
    fleet.rights = holding("operate:web-*,view")
    answer = json.loads((await fleet.ask("GET /fleet/v2/whoami", None, BY_ANN)).body)
    assert answer == {
        "name": "ann",
        "grants": [{"permission": "operate", "pattern": "web-*"}, {"permission": "view", "pattern": "*"}],
    }


async def test_a_unit_says_who_wrote_it_last_and_when(fleet: Fleet) -> None:
    fleet.reconfigure(unix_now=lambda: 17.0)

    async def author(name: str) -> tuple[str, float]:
        unit: Unit = await fleet.unit(name)
        return unit.by, unit.at

    await fleet.ask("PUT /fleet/v1/units/a.service", {"options": SERVICE}, BY_ANN)
    assert await author("a.service") == ("ann", 17.0)
    fleet.reconfigure(unix_now=lambda: 18.0)
    bob = (*JSON, ("Fleet-User", "bob"))
    await fleet.ask("PUT /fleet/v1/units/a.service", {"desiredState": "launched"}, bob)
    assert await author("a.service") == ("bob", 18.0)
    await fleet.ask("POST /fleet/v2/restart", {"names": ["a.service"]}, BY_ANN)
    assert await author("a.service") == ("ann", 18.0)


async def test_each_change_is_an_entry_of_the_audit_and_no_other_request(fleet: Fleet) -> None:
    entries: list[dict[str, str]] = []
    fleet.reconfigure(audit=lambda fields: entries.append(dict(fields)))
    await fleet.ask("PUT /fleet/v1/units/a.service", {"options": SERVICE}, BY_ANN)
    unit = await fleet.unit("a.service")
    [entry] = entries
    assert (entry["MESSAGE"], entry["ACTION"], entry["UNIT"]) == ("ann: submit a.service", "submit", "a.service")
    assert (entry["OLD_HASH"], entry["NEW_HASH"], entry["GENERATION"]) == ("", unit.content.hash, str(unit.generation))
    assert entry["FLEET_ACTOR"].endswith("@")
    for request, body in (
        ("PUT /fleet/v1/units/a.service", {"desiredState": "launched"}),
        ("POST /fleet/v2/restart", {"names": ["a.service"]}),
        ("POST /fleet/v2/units", {"operations": [{"name": "a.service", "desiredState": "loaded"}]}),
        ("PUT /fleet/v1/units/a.service", {"desiredState": "inactive"}),
        ("PUT /fleet/v1/units/a.service", {"desiredState": "inactive"}),  # it is: nothing is written
        ("GET /fleet/v1/units", None),
        ("POST /fleet/v2/apply", {"units": [{"name": "a.service", "text": "[Service]\nExecStart=/bin/sh\n"}]}),
        ("DELETE /fleet/v1/units/a.service", None),
        ("DELETE /fleet/v1/units/a.service", None),
    ):
        await fleet.ask(request, body, BY_ANN)
    assert [each["ACTION"] for each in entries[1:]] == ["start", "restart", "load", "unload", "replace", "destroy"]
    entries.clear()
    await fleet.ask("PATCH /fleet/v2/settings", {"set": {"max_units": "5"}}, BY_ANN)
    assert [each["MESSAGE"] for each in entries] == ["ann: PATCH /fleet/v2/settings"]


class BusyRegistry(Registry):
    """Another client comes before the fourth transaction that is written: units were written in the third."""

    writes = 0

    async def write(self, write_set: WriteSet) -> int:
        self.writes += 1
        if self.writes == 4:
            raise Conflict
        return await super().write(write_set)


async def test_what_was_written_before_a_conflict_is_audited_once(fleet: Fleet) -> None:
    busy = Fleet(BusyRegistry(fleet.registry.store))
    entries: list[dict[str, str]] = []
    busy.reconfigure(audit=lambda fields: entries.append(dict(fields)))
    names = [f"u{number}.service" for number in range(300)]  # several transactions
    units = [{"name": name, "text": "[Service]\nExecStart=/bin/true\n"} for name in names]
    assert (await busy.ask("POST /fleet/v2/apply", {"units": units}, BY_ANN)).status == 200
    assert sorted(entry["UNIT"] for entry in entries) == sorted(names)
    entries.clear()
    for unit in units:
        unit["text"] = "[Service]\nExecStart=/bin/sh\n"
    assert (await busy.ask("POST /fleet/v2/apply", {"units": units}, BY_ANN)).status == 200
    assert len(entries) == 300
