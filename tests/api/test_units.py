"""Units in version 1, request by request: the answers, to the byte, and the records."""

import json
from typing import Any

import pytest

from fleetd.model.placement import Decision
from fleetd.model.unit import TargetState, UnitState
from fleetd.store.protocol import Conflict, KeyValue, Put, RangeResult

UNITS = "/fleet/v1/units"
WEB = f"{UNITS}/web.service"
OPTIONS = [{"section": "Service", "name": "ExecStart", "value": "/bin/true"}]
OTHER = [{"section": "Service", "name": "ExecStart", "value": "/bin/false"}]


def x_fleet(*pairs: tuple[str, str]) -> list[dict[str, str]]:
    return [{"section": "X-Fleet", "name": name, "value": value} for name, value in pairs]


@pytest.mark.covers("4.1.3", "4.1.8")
async def test_an_empty_cluster_lists_nothing(fleet: Any) -> None:
    response = await fleet.ask(f"GET {UNITS}")
    assert (response.status, response.headers, response.body) == (200, (("Content-Type", "application/json"),), b"{}")


@pytest.mark.covers("1.4.10", "4.1.3", "4.2.2", "4.2.8", "4.4.3")
async def test_a_unit_is_shown_compact_sorted_and_escaped(fleet: Any) -> None:
    await fleet.add_unit("web.service", "[Service]\nExecStart=\nExecStart=/bin/sh -c 'a <b >c &d'\n")
    shown = (
        b'{"currentState":"inactive","desiredState":"inactive","name":"web.service","options":'
        b'[{"name":"ExecStart","section":"Service"},'
        b'{"name":"ExecStart","section":"Service","value":"/bin/sh -c \'a \\u003cb \\u003ec \\u0026d\'"}]}'
    )
    assert (await fleet.ask(f"GET {WEB}")).body == shown
    assert (await fleet.ask(f"GET {UNITS}")).body == b'{"units":[' + shown + b"]}"


async def test_comments_in_values_from_coreos_fleets_client_are_dropped(fleet: Any) -> None:
    option = {"section": "Service", "name": "ExecStart", "value": "/bin/x \\\n# why \\\n  --flag"}
    assert (await fleet.ask(f"PUT {WEB}", {"options": [option]})).status == 201
    assert json.loads((await fleet.ask(f"GET {WEB}")).body)["options"][0]["value"] == "/bin/x \\\n  --flag"


@pytest.mark.covers("2.1.1", "2.1.2", "2.1.3", "2.1.4", "2.1.5", "2.1.6", "2.1.7", "2.1.8", "4.2.1", "4.2.8", "6.3.3")
@pytest.mark.parametrize(
    ("decision", "state", "current", "machine"),
    [
        (None, None, "inactive", ""),
        (Decision("web.service", 1), None, "inactive", ""),
        (Decision("web.service", 1, machine="m1"), None, "inactive", "m1"),
        (Decision("web.service", 1, machine="m1"), UnitState("loaded", "inactive", "dead"), "inactive", "m1"),
        (
            Decision("web.service", 1, machine="m1"),
            UnitState("loaded", "inactive", "dead", target=TargetState.LOADED),
            "loaded",
            "m1",
        ),
        (
            Decision("web.service", 1, machine="m1"),
            UnitState("loaded", "failed", "failed", target=TargetState.LAUNCHED),
            "launched",
            "m1",
        ),
        (
            Decision("web.service", 1, machine="m2"),
            UnitState("loaded", "active", "running", target=TargetState.LAUNCHED),
            "inactive",
            "m2",
        ),
        (
            Decision("web.service", 1),
            UnitState("loaded", "active", "running", target=TargetState.LAUNCHED),
            "inactive",
            "",
        ),
    ],
)
async def test_the_current_state_is_what_the_assigned_machine_carried_out(
    fleet: Any, decision: Decision | None, state: UnitState | None, current: str, machine: str
) -> None:
    await fleet.add_unit("web.service", target="launched")
    if decision:
        await fleet.put(decision, "web.service")
    if state:
        await fleet.put(state, "m1", "web.service")
    single = json.loads((await fleet.ask(f"GET {WEB}")).body)
    (listed,) = json.loads((await fleet.ask(f"GET {UNITS}")).body)["units"]
    assert (single["currentState"], single.get("machineID", "")) == (current, machine)
    assert single == listed


@pytest.mark.covers("2.1.9", "4.4.2", "10.6.11")
async def test_a_global_unit_has_neither_machine_nor_current_state(fleet: Any) -> None:
    await fleet.add_unit("log.service", "[X-Fleet]\nGlobal=true\n", "launched")
    await fleet.put(Decision("log.service", 1, machine="m1", machines=1), "log.service")
    await fleet.put(UnitState("loaded", "active", "running", target=TargetState.LAUNCHED), "m1", "log.service")
    shown = json.loads((await fleet.ask(f"GET {UNITS}/log.service")).body)
    assert (shown["currentState"], shown["desiredState"], "machineID" in shown) == ("inactive", "launched", False)
    assert json.loads((await fleet.ask(f"GET {UNITS}")).body)["units"] == [shown]


@pytest.mark.covers("3.9.6", "4.4.1")
async def test_units_are_listed_by_name_in_byte_order_templates_too(fleet: Any) -> None:
    for name in ("web@.service", "web@1.service", "a.timer", "Z.service"):
        await fleet.add_unit(name)
    listed = json.loads((await fleet.ask(f"GET {UNITS}")).body)["units"]
    assert [unit["name"] for unit in listed] == ["Z.service", "a.timer", "web@.service", "web@1.service"]


async def test_an_invalid_unit_file_hides_no_other_unit(fleet: Any) -> None:
    await fleet.registry.store.transact([], [Put("/fleet/units/bad.service", b'{"name":"bad.service","text":"[x"}')])
    await fleet.add_unit("web.service")
    listed = json.loads((await fleet.ask(f"GET {UNITS}")).body)["units"]
    assert [(unit["name"], len(unit.get("options", []))) for unit in listed] == [("bad.service", 0), ("web.service", 1)]


@pytest.mark.covers("4.4.3", "4.4.16")
@pytest.mark.parametrize("name", ["absent.service", "absent", "%40x.service", "a%00b.service", "%FF.service"])
@pytest.mark.parametrize("method", ["GET", "DELETE"])
async def test_an_unknown_unit_is_not_found(fleet: Any, method: str, name: str) -> None:
    assert await fleet.refused(f"{method} {UNITS}/{name}") == (404, "unit does not exist")


# PUT


@pytest.mark.covers("4.1.9", "4.4.10", "8.12")
async def test_a_unit_is_created_inactive_unless_told_otherwise(fleet: Any) -> None:
    response = await fleet.ask(f"PUT {WEB}", {"options": OPTIONS})
    assert (response.status, response.headers, response.body) == (201, (), b"")
    unit = await fleet.unit("web.service")
    assert (unit.text, unit.target) == ("[Service]\nExecStart=/bin/true\n", TargetState.INACTIVE)
    assert (await fleet.ask(f"PUT {UNITS}/b.service", {"options": OPTIONS, "desiredState": "launched"})).status == 201
    assert (await fleet.unit("b.service")).target is TargetState.LAUNCHED


@pytest.mark.covers("4.1.4", "4.1.5", "4.2.1", "4.2.2", "4.4.15")
async def test_keys_match_in_any_case_and_unknown_or_read_only_ones_are_ignored(fleet: Any) -> None:
    body = {
        "NAME": "web.service",
        "Options": [
            {"Section": "Service", "NAME": "Type", "vaLue": "simple", "line": 3},
            {"section": "Service", "name": "Environment"},
        ],
        "DESIREDSTATE": "loaded",
        "currentState": "launched",
        "machineID": "m1",
        "colour": {"any": ["thing"]},
    }
    assert (await fleet.ask(f"PUT {WEB}?alt=json", body)).status == 201
    unit = await fleet.unit("web.service")
    assert (unit.text, unit.target) == ("[Service]\nType=simple\nEnvironment=\n", TargetState.LOADED)


@pytest.mark.covers("4.4.11")
async def test_other_options_replace_and_unload_the_unit_by_default(fleet: Any) -> None:
    await fleet.add_unit("web.service", target="launched")
    assert (await fleet.ask(f"PUT {WEB}", {"options": OTHER, "desiredState": "launched"})).status == 201
    assert (await fleet.unit("web.service")).target is TargetState.LAUNCHED
    assert (await fleet.ask(f"PUT {WEB}", {"options": OPTIONS})).status == 201
    unit = await fleet.unit("web.service")
    assert (unit.text, unit.target) == ("[Service]\nExecStart=/bin/true\n", TargetState.INACTIVE)


@pytest.mark.covers("1.6.3", "4.4.14")
@pytest.mark.parametrize("options", [None, [], OPTIONS])
async def test_a_target_state_with_equal_or_no_options_is_an_update(fleet: Any, options: Any) -> None:
    before = await fleet.add_unit("web.service")
    response = await fleet.ask(f"PUT {WEB}", {"options": options, "desiredState": "loaded"})
    assert (response.status, response.headers, response.body) == (204, (), b"")
    after = await fleet.unit("web.service")
    assert (after.text, after.target) == (before.text, TargetState.LOADED)
    assert after.generation > before.generation


@pytest.mark.parametrize(("target", "raised"), [("inactive", False), ("loaded", True), ("launched", True)])
async def test_a_repeated_launch_or_load_is_a_new_operation(fleet: Any, target: str, raised: bool) -> None:
    before = await fleet.add_unit("web.service", target=target)
    assert (await fleet.ask(f"PUT {WEB}", {"desiredState": target})).status == 204
    assert ((await fleet.unit("web.service")).generation > before.generation) is raised


@pytest.mark.covers(
    "1.1.3",
    "1.1.9",
    "1.10.1",
    "1.10.2",
    "1.10.6",
    "1.10.13",
    "4.4.5",
    "4.4.6",
    "4.4.7",
    "4.4.8",
    "4.4.9",
    "4.4.10",
    "10.4.8",
    "10.6.3",
    "10.6.5",
    "10.6.6",
    "P.12",
)
@pytest.mark.parametrize(
    ("name", "body", "status", "message"),
    [
        ("web.service", b"", 400, "unable to decode body: "),
        ("web.service", b"nonsense", 400, "unable to decode body: "),
        ("web.service", b"null", 400, "unable to decode body: "),
        ("web.service", b"[]", 400, "unable to decode body: "),
        ("web.service", b'{"options":{}}', 400, "unable to decode body: "),
        ("web.service", b'{"options":[null]}', 400, "unable to decode body: "),
        ("web.service", b'{"options":["x"]}', 400, "unable to decode body: "),
        ("web.service", b'{"options":[{"name":1}]}', 400, "unable to decode body: "),
        ("web.service", b'{"name":"\xff"}', 400, "unable to decode body: "),
        ("web.service", b"[" * 100_000, 400, "unable to decode body: "),
        ("web.service", b'{"a":' * 100_000, 400, "unable to decode body: "),
        (
            "web.service",
            {"name": "b.service", "options": OPTIONS},
            400,
            'name in URL "web.service" differs from unit name in request body "b.service"',
        ),
        ("web", {"options": OPTIONS}, 400, 'unit name must contain "."'),
        ("a%20b.service", {"options": OPTIONS}, 400, "invalid character ' ' in unit name"),
        ("x" * 260 + ".service", {"options": OPTIONS}, 400, "unit name exceeds maximum length (256)"),
        ("web.service", {}, 409, "unit does not exist and options field empty"),
        ("web.service", {"options": []}, 409, "unit does not exist and options field empty"),
        (
            "web.service",
            {"options": OPTIONS, "desiredState": "running"},
            400,
            'invalid desiredState "running": expect inactive, loaded or launched',
        ),
        (
            "web.service",
            {"options": x_fleet(("MachineID", "m"), ("Global", "true"))},
            400,
            "MachineID cannot be used with Global",
        ),
        (
            "web.service",
            {"options": x_fleet(("MachineOf", "db.service"), ("Conflicts", "db*"))},
            400,
            'unresolvable requirements: peer "db.service" matches conflict "db*"',
        ),
        (
            "web.service",
            {"options": x_fleet(("FailoverDelay", "soon"))},
            400,
            "FailoverDelay: 'soon' is no time span; write one like 90s, 5min or 1h 30min, or infinity",
        ),
        (
            "web.service",
            {"options": x_fleet(("Global", "true"), ("RerunAfterFailover", "true"))},
            400,
            "Global cannot be used with RerunAfterFailover",
        ),
        (
            "web@.service",
            {"options": OPTIONS, "desiredState": "launched"},
            400,
            'cannot activate template "web@.service"',
        ),
        (
            "ssh.service",
            {"options": OPTIONS},
            400,
            'unit "ssh.service" would hide /lib/systemd/system/ssh.service, a unit of the system: choose another name',
        ),
        (
            "fleet.service",
            {"options": OPTIONS},
            400,
            'unit name "fleet.service" is reserved for what runs the machine itself: choose another one',
        ),
        (
            "web.service",
            {"options": [{"section": "Service", "name": "A", "value": "x\n[X-Fleet]\nGlobal=true"}]},
            400,
            "",
        ),
        ("-x.service", {"options": OPTIONS}, 400, 'begins with "-"'),
        ("session-1.scope", {"options": OPTIONS}, 400, "is reserved for what runs the machine itself"),
        (
            "web.service",
            {"options": [*OPTIONS, {"section": "Install", "name": "Alias", "value": "web2.service ssh.service"}]},
            400,
            '[Install] Alias=ssh.service: unit "ssh.service" would hide /lib/systemd/system/ssh.service',
        ),
        (
            "web.service",
            {"options": [*OPTIONS, {"section": "Install", "name": "Alias", "value": "web.socket"}]},
            400,
            "systemd cannot alias web.service as web.socket",
        ),
        (
            "web.service",
            {"options": [{"section": "S", "name": f"A{i}", "value": "x" * 2000} for i in range(140)]},
            400,
            "at most 262144 are allowed",
        ),
    ],
)
async def test_an_invalid_unit_is_refused_and_nothing_is_written(
    fleet: Any, name: str, body: Any, status: int, message: str
) -> None:
    refused, said = await fleet.refused(f"PUT {UNITS}/{name}", body)
    assert refused == status
    assert message in said
    assert said != ""
    assert await fleet.registry.units() == {}


@pytest.mark.covers("1.10.9", "4.4.12", "10.6.2", "10.6.4")
@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        ({"options": OPTIONS}, 409, "must provide DesiredState to update existing unit"),
        ({}, 409, "must provide DesiredState to update existing unit"),
        ({"desiredState": ""}, 409, "must provide DesiredState to update existing unit"),
        ({"desiredState": "gone"}, 400, 'invalid desiredState "gone": expect inactive, loaded or launched'),
        (
            {"options": x_fleet(("Global", "true"), ("Replaces", "a"))},
            400,
            "Global cannot be used with Replaces",
        ),
    ],
)
async def test_a_unit_stays_as_it_was_when_its_change_is_refused(
    fleet: Any, body: Any, status: int, message: str
) -> None:
    before = await fleet.add_unit("web.service", target="launched")
    assert await fleet.refused(f"PUT {WEB}", body) == (status, message)
    assert await fleet.unit("web.service") == before


@pytest.mark.covers("1.3.1", "1.3.2", "4.4.13")
async def test_a_template_cannot_be_activated(fleet: Any) -> None:
    await fleet.add_unit("web@.service")
    for state in ("loaded", "launched"):
        assert await fleet.refused(f"PUT {UNITS}/web%40.service", {"desiredState": state}) == (
            400,
            'cannot activate template "web@.service"',
        )
    assert (await fleet.ask(f"PUT {UNITS}/web%40.service", {"desiredState": "inactive"})).status == 204


@pytest.mark.covers("1.3.3")
async def test_a_template_can_change_without_its_instances(fleet: Any) -> None:
    await fleet.add_unit("web@.service")
    before = await fleet.add_unit("web@1.service", target="launched")
    template = f"{UNITS}/web%40.service"
    assert (await fleet.ask(f"PUT {template}", {"options": OTHER})).status == 201
    assert await fleet.unit("web@1.service") == before
    assert (await fleet.ask(f"DELETE {template}")).status == 204
    assert await fleet.unit("web@1.service") == before


@pytest.mark.covers("1.7.9", "4.4.15")
async def test_unknown_requirements_are_no_error(fleet: Any) -> None:
    options = x_fleet(("MachineIDs", "m1"), ("X-Global", "true"), ("MachineMetadata", "region"))
    assert (await fleet.ask(f"PUT {WEB}", {"options": options})).status == 201
    shown = json.loads((await fleet.ask(f"GET {WEB}")).body)
    assert [option["name"] for option in shown["options"]] == ["MachineIDs", "X-Global", "MachineMetadata"]


@pytest.mark.covers("1.9.6")
async def test_stored_options_keep_their_specifiers(fleet: Any) -> None:
    options = x_fleet(("Conflicts", "%p@*.service"), ("MachineOf", "%i.timer"))
    assert (await fleet.ask(f"PUT {UNITS}/web%401.service", {"options": options})).status == 201
    assert (await fleet.unit("web@1.service")).text == "[X-Fleet]\nConflicts=%p@*.service\nMachineOf=%i.timer\n"


async def test_a_unit_that_the_system_has_now_can_be_stopped_and_destroyed(fleet: Any) -> None:
    await fleet.add_unit("ssh.service", target="launched")
    assert (await fleet.ask(f"PUT {UNITS}/ssh.service", {"desiredState": "inactive"})).status == 204
    assert (await fleet.ask(f"DELETE {UNITS}/ssh.service")).status == 204


@pytest.mark.covers("4.4.4")
@pytest.mark.parametrize(
    ("types", "message"),
    [
        ([], "expected 1 Content-Type, got 0"),
        (["application/json", "application/json"], "expected 1 Content-Type, got 2"),
        (["text/plain"], "only acceptable Content-Type is application/json"),
        (["application/jsonx"], "only acceptable Content-Type is application/json"),
        ([""], "only acceptable Content-Type is application/json"),
    ],
)
async def test_a_put_must_be_declared_as_json_once(fleet: Any, types: list[str], message: str) -> None:
    headers = tuple(("Content-Type", type_) for type_ in types)
    assert await fleet.refused(f"PUT {WEB}", b'{"options":[]}', headers) == (415, message)


@pytest.mark.covers("4.4.4", "10.6.12")
@pytest.mark.parametrize("type_", ["application/json; charset=utf-8", "Application/JSON", " application/json ;x"])
async def test_the_media_type_may_be_in_any_case_and_have_parameters(fleet: Any, type_: str) -> None:
    body = json.dumps({"options": OPTIONS}).encode()
    assert (await fleet.ask(f"PUT {WEB}", body, (("content-type", type_),))).status == 201


@pytest.mark.covers("4.1.9", "4.4.16", "8.12", "10.7.12")
async def test_a_unit_is_destroyed_without_a_content_type(fleet: Any) -> None:
    await fleet.add_unit("web.service")
    response = await fleet.ask(f"DELETE {WEB}")
    assert (response.status, response.headers, response.body) == (204, (), b"")
    assert await fleet.registry.units() == {}


# Concurrent writes


class Overtaken:
    """A store on which another client writes first, this many times."""

    def __init__(self, store: Any, times: int) -> None:
        self._store = store
        self.times = times

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def transact(self, comparisons: Any, operations: Any) -> int:
        if self.times:
            self.times -= 1
            key = operations[0].key
            item: KeyValue | None = await self._store.get(key)
            value = item.value if item else b'{"name":"web.service","text":"[A]\\nB=c\\n"}'
            await self._store.transact([], [Put(key, value)])
            raise Conflict("another client wrote first")
        return await self._store.transact(comparisons, operations)

    async def get_many(self, keys: Any, *, revision: int = 0) -> RangeResult:
        return await self._store.get_many(keys, revision=revision)


async def test_a_write_that_conflicts_is_planned_again(fleet: Any) -> None:
    fleet.registry.store = Overtaken(fleet.registry.store, 1)
    assert (await fleet.ask(f"PUT {WEB}", {"options": OPTIONS, "desiredState": "loaded"})).status == 201
    assert (await fleet.unit("web.service")).text == "[Service]\nExecStart=/bin/true\n"
    fleet.registry.store.times = 2
    assert (await fleet.ask(f"PUT {WEB}", {"desiredState": "launched"})).status == 204
    fleet.registry.store.times = 2
    assert (await fleet.ask(f"DELETE {WEB}")).status == 204


async def test_a_write_that_conflicts_for_ever_fails_with_advice(fleet: Any) -> None:
    await fleet.add_unit("web.service")
    fleet.registry.store = Overtaken(fleet.registry.store, 1000)
    message = 'unit "web.service" is being changed by other clients at the same time: try again'
    assert await fleet.refused(f"PUT {WEB}", {"desiredState": "launched"}) == (409, message)
    assert await fleet.refused(f"DELETE {WEB}") == (409, message)


# Create only

ONLY_NEW = (("Content-Type", "application/json"), ("If-None-Match", "*"))


async def test_a_create_only_unit_is_created_once(fleet: Any) -> None:
    assert (await fleet.ask(f"PUT {WEB}", {"options": OPTIONS}, ONLY_NEW)).status == 201
    before = await fleet.unit("web.service")
    for body in ({"options": OTHER}, {"options": OPTIONS, "desiredState": "launched"}, {"desiredState": "launched"}):
        assert await fleet.refused(f"PUT {WEB}", body, ONLY_NEW) == (412, 'unit "web.service" exists already')
    assert await fleet.unit("web.service") == before


async def test_the_second_of_two_concurrent_creates_is_refused(fleet: Any) -> None:
    fleet.registry.store = Overtaken(fleet.registry.store, 1)
    assert (await fleet.refused(f"PUT {WEB}", {"options": OPTIONS}, ONLY_NEW))[0] == 412
    assert (await fleet.unit("web.service")).text == "[A]\nB=c\n"


async def test_an_entity_tag_prevents_no_write(fleet: Any) -> None:
    await fleet.add_unit("web.service")
    tagged = (("Content-Type", "application/json"), ("If-None-Match", '"abc"'))
    assert (await fleet.ask(f"PUT {WEB}", {"options": OTHER}, tagged)).status == 201
