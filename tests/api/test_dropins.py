"""Drop-ins in version 2 of the API; in version 1, which does not know of them, none is lost."""

import json
from typing import Any

import pytest
from msgspec.structs import replace

from fleetd.model.content import MAX_DROPINS, Content, DropIn
from fleetd.model.machine import Capability, Machine
from fleetd.model.quota import Usage
from fleetd.model.unit import TargetState
from fleetd.model.unitfile import MAX_UNIT_FILE_BYTES, hash_unit_file
from tests.api.conftest import Fleet

OPTIONS = [{"section": "Service", "name": "ExecStart", "value": "/bin/true"}]
OTHER = [{"section": "Service", "name": "ExecStart", "value": "/bin/false"}]
TEXT = "[Service]\nExecStart=/bin/true\n"
LIMIT = DropIn("limit.conf", "[Service]\nMemoryMax=1G\n")
NOTE = DropIn("a.conf", "[Unit]\nDescription=x\n")
WEB = "web.service"


def asked(*dropins: DropIn) -> list[dict[str, str]]:
    return [{"name": dropin.name, "text": dropin.text} for dropin in dropins]


async def operate(fleet: Fleet, name: str, **operation: Any) -> tuple[int, str]:
    """Carry out one operation. Return status and message."""
    answer = await fleet.ask("POST /fleet/v2/units", {"operations": [{"name": name, **operation}]})
    [result] = json.loads(answer.body)["results"]
    return result["code"], result.get("message", "")


async def test_a_unit_is_created_with_drop_ins_rendered_and_by_name(fleet: Fleet) -> None:
    sent = [{"name": "limit.conf", "text": "# why\n[Service]\n  MemoryMax = 1G"}, *asked(NOTE)]
    assert await operate(fleet, WEB, options=OPTIONS, desiredState="launched", dropins=sent) == (201, "")
    unit = await fleet.unit(WEB)
    assert (unit.text, unit.dropins, unit.target) == (TEXT, (NOTE, LIMIT), TargetState.LAUNCHED)


async def test_the_whole_content_is_shown(fleet: Fleet) -> None:
    await operate(fleet, WEB, options=OPTIONS, dropins=asked(LIMIT), desiredState="loaded")
    unit = await fleet.unit(WEB)
    answer = await fleet.ask(f"GET /fleet/v2/units/{WEB}")
    assert json.loads(answer.body) == {
        "name": WEB,
        "generation": unit.generation,
        "desiredState": "loaded",
        "hash": unit.content.hash,
        "options": OPTIONS,
        "dropins": asked(LIMIT),
    }
    for name in ("absent.service", "no unit"):
        assert await fleet.refused(f"GET /fleet/v2/units/{name}") == (404, "unit does not exist")
    [report] = json.loads((await fleet.ask(f"GET /fleet/v2/units?name={WEB}")).body)["units"]
    assert (report["hash"], report["fileHash"]) == (unit.content.hash, hash_unit_file(TEXT))
    await operate(fleet, WEB, dropins=[])
    [report] = json.loads((await fleet.ask(f"GET /fleet/v2/units?name={WEB}")).body)["units"]
    assert (report["hash"], report.get("fileHash")) == (hash_unit_file(TEXT), None)


async def test_drop_ins_alone_keep_the_file_and_the_target_state(fleet: Fleet) -> None:
    before = await fleet.add_unit(WEB, target="launched")
    assert await operate(fleet, WEB, dropins=asked(LIMIT)) == (201, "")
    unit = await fleet.unit(WEB)
    assert (unit.text, unit.target, unit.dropins) == (before.text, before.target, (LIMIT,))
    assert unit.generation > before.generation
    assert await operate(fleet, WEB, dropins=asked(LIMIT)) == (204, "")
    assert (await fleet.unit(WEB)).generation == unit.generation, "nothing has changed"
    assert await operate(fleet, WEB, dropins=asked(LIMIT), desiredState="loaded") == (204, "")
    assert (await fleet.unit(WEB)).target is TargetState.LOADED


@pytest.mark.parametrize(
    ("operation", "dropins"),
    [
        ({"options": OTHER}, (LIMIT,)),
        ({"options": OTHER, "dropins": []}, ()),
        ({"options": OTHER, "dropins": asked(NOTE)}, (NOTE,)),
        ({"desiredState": "loaded"}, (LIMIT,)),
        ({"dropins": []}, ()),
    ],
)
async def test_drop_ins_that_are_not_mentioned_stay(
    fleet: Fleet, operation: dict[str, Any], dropins: tuple[DropIn, ...]
) -> None:
    await operate(fleet, WEB, options=OPTIONS, dropins=asked(LIMIT), desiredState="launched")
    code, message = await operate(fleet, WEB, **operation)
    assert (code < 300, message) == (True, "")
    assert (await fleet.unit(WEB)).dropins == dropins


@pytest.mark.parametrize("body", [{"options": OTHER, "desiredState": "launched"}, {"desiredState": "loaded"}])
async def test_version_1_neither_shows_nor_drops_drop_ins(fleet: Fleet, body: dict[str, Any]) -> None:
    await fleet.ask(f"PUT /fleet/v1/units/{WEB}", {"options": OPTIONS, "desiredState": "launched"})
    without = (await fleet.ask(f"GET /fleet/v1/units/{WEB}")).body
    await operate(fleet, WEB, dropins=asked(LIMIT))
    assert (await fleet.ask(f"GET /fleet/v1/units/{WEB}")).body == without
    assert (await fleet.ask(f"PUT /fleet/v1/units/{WEB}", body)).status in (201, 204)
    assert (await fleet.unit(WEB)).dropins == (LIMIT,)


@pytest.mark.parametrize("version", ["v1", "v2", "both in one request"])
async def test_a_new_instance_gets_the_drop_ins_of_its_template(fleet: Fleet, version: str) -> None:
    template = {"name": "web@.service", "options": OPTIONS, "dropins": asked(LIMIT)}
    instance = {"name": "web@1.service", "options": OPTIONS}
    if version == "both in one request":
        await fleet.ask("POST /fleet/v2/units", {"operations": [template, instance]})
    else:
        await fleet.ask("POST /fleet/v2/units", {"operations": [template]})
        path = "PUT /fleet/v1/units/web@1.service"
        await (fleet.ask(path, {"options": OPTIONS}) if version == "v1" else operate(fleet, **instance))
    assert (await fleet.unit("web@1.service")).dropins == (LIMIT,)
    assert await operate(fleet, "web@2.service", options=OPTIONS, dropins=asked(NOTE)) == (201, "")
    assert (await fleet.unit("web@2.service")).dropins == (NOTE,), "it was said which it has"
    await operate(fleet, "web@.service", dropins=asked(NOTE))
    await operate(fleet, "web@1.service", options=OTHER)
    assert (await fleet.unit("web@1.service")).dropins == (LIMIT,), "an instance that exists keeps its own"


async def test_an_instance_has_group_options_from_its_template_alone(fleet: Fleet) -> None:
    group = DropIn("group.conf", "[X-Fleet]\nMaxUnavailable=2\n")
    await operate(fleet, "web@.service", options=OPTIONS, dropins=asked(group))
    assert await operate(fleet, "web@1.service", options=OPTIONS, dropins=asked(LIMIT, group)) == (201, "")
    own = DropIn("group.conf", "[X-Fleet]\nMaxUnavailable=3\n")
    assert await operate(fleet, "web@1.service", dropins=asked(own)) == (
        400,
        'drop-in "group.conf": MaxUnavailable= is for all instances of web@.service: '
        "set it in a drop-in of web@.service, not of web@1.service",
    )
    assert (await operate(fleet, WEB, options=OPTIONS, dropins=asked(own)))[0] == 201


@pytest.mark.parametrize(
    ("dropins", "message"),
    [
        ([{"name": "../x.conf", "text": ""}], '"../x.conf" is no name of a drop-in: it has to end in ".conf"'),
        ([{"name": "x", "text": ""}], '"x" is no name of a drop-in'),
        (asked(LIMIT, LIMIT), 'drop-in "limit.conf" is given twice'),
        ([{"name": "x.conf", "text": "[Unit]\nno option\n"}], 'drop-in "x.conf", line 2: unexpected newline'),
        ([{"name": f"{n}.conf", "text": ""} for n in range(MAX_DROPINS + 1)], "65 drop-ins, and at most 64 are"),
        (
            asked(DropIn("x.conf", "[X-Fleet]\nGlobal=yes\nMachineOf=a.service\n")),
            "Global cannot be used with Peers",
        ),
        (asked(DropIn("x.conf", "[X-Fleet]\nFailoverDelay=soon\n")), "FailoverDelay: "),
        (asked(DropIn("x.conf", "[X-Fleet]\nMaxUnavailable=0\n")), "MaxUnavailable"),
        (asked(DropIn("x.conf", "[Install]\nAlias=ssh.service\n")), "[Install] Alias=ssh.service: "),
        (
            asked(DropIn("x.conf", f"[Unit]\nDescription={'x' * MAX_UNIT_FILE_BYTES}\n")),
            "and at most 262144 are allowed",
        ),
    ],
)
async def test_a_drop_in_that_no_unit_may_have_is_refused_and_changes_nothing(
    fleet: Fleet, dropins: list[dict[str, str]], message: str
) -> None:
    before = await fleet.add_unit(WEB)
    for operation in ({"dropins": dropins}, {"dropins": dropins, "options": OPTIONS}):
        code, words = await operate(fleet, WEB, **operation)
        assert (code, message in words) == (400, True), words
    assert await fleet.unit(WEB) == before


async def test_an_option_that_fits_alone_is_refused_beside_what_a_drop_in_sets(fleet: Fleet) -> None:
    await operate(fleet, WEB, options=OPTIONS, dropins=asked(DropIn("x.conf", "[X-Fleet]\nGlobal=yes\n")))
    peer = [{"section": "X-Fleet", "name": "MachineOf", "value": "a.service"}]
    for body in ({"options": [*OPTIONS, *peer]},):
        status, message = await fleet.refused(f"PUT /fleet/v1/units/{WEB}", body)
        assert (status, "Global cannot be used with Peers" in message) == (400, True)
    assert await operate(fleet, WEB, options=[*OPTIONS, *peer], dropins=[]) == (201, "")


async def test_a_unit_that_does_not_exist_is_not_made_of_drop_ins_alone(fleet: Fleet) -> None:
    assert await operate(fleet, WEB, dropins=asked(LIMIT)) == (409, "unit does not exist and options field empty")


async def test_a_unit_file_that_cannot_be_read_gets_no_drop_in(fleet: Fleet) -> None:
    before = await fleet.add_unit(WEB)
    await fleet.registry.write_unit(type(before)(WEB, "[broken\n"), before)
    code, message = await operate(fleet, WEB, dropins=asked(LIMIT))
    assert (code, message.startswith("its unit file cannot be read, so that no drop-in")) == (400, True)


async def test_an_operation_on_a_unit_that_changed_meanwhile_is_refused(fleet: Fleet) -> None:
    before = await fleet.add_unit(WEB)
    assert await operate(fleet, WEB, dropins=asked(LIMIT), generation=before.generation) == (201, "")
    for name in (WEB, "absent.service"):
        assert await operate(fleet, name, dropins=[], options=OPTIONS, generation=before.generation) == (
            412,
            f'unit "{name}" was changed meanwhile: look at it and repeat what you want of it',
        )
    assert (await fleet.unit(WEB)).dropins == (LIMIT,)


async def test_drop_ins_are_refused_while_a_machine_would_pass_over_them(fleet: Fleet) -> None:
    old = Machine("0123456789abcdef", address="10.0.0.9", version="2.0.0")
    await fleet.put(old, old.id)
    asked_for = [{"name": WEB, "options": OPTIONS, "dropins": asked(LIMIT)}, {"name": "b.service", "options": OPTIONS}]
    answer = await fleet.ask("POST /fleet/v2/units", {"operations": asked_for})
    first, second = json.loads(answer.body)["results"]
    words = (
        "drop-ins cannot be used yet: machine 01234567 (10.0.0.9) runs fleetd 2.0.0, which does not know of them; "
        "update fleetd there first"
    )
    assert first == {"name": WEB, "code": 409, "message": words}
    assert second["code"] == 201
    unit = {"name": WEB, "text": TEXT, "dropins": asked(LIMIT)}
    rollouts = words.replace("drop-ins", "rollouts")
    assert await fleet.refused("POST /fleet/v2/apply", {"units": [unit]}) == (409, rollouts)
    await fleet.put(replace(old, capabilities={Capability.PROOFS: True}), old.id)
    assert await fleet.refused("POST /fleet/v2/apply", {"units": [unit]}) == (409, words)
    await fleet.put(Machine(old.id, version="2.0.0"), old.id)
    code, message = await operate(fleet, WEB, options=OPTIONS, dropins=asked(LIMIT))
    assert (code, "machine 01234567 runs fleetd 2.0.0" in message) == (409, True)
    await fleet.put(Machine(old.id), old.id)
    assert "runs an older fleetd" in (await operate(fleet, WEB, options=OPTIONS, dropins=asked(LIMIT)))[1]
    await fleet.put(Machine(old.id, capabilities={Capability.DROPINS: True}), old.id)
    assert await operate(fleet, WEB, options=OPTIONS, dropins=asked(LIMIT)) == (201, "")


async def test_the_quota_counts_drop_ins(fleet: Fleet) -> None:
    content = Content(TEXT, (LIMIT,))
    fleet.reconfigure(allowed_usage=Usage(10, content.size))
    await operate(fleet, WEB, options=OPTIONS)
    assert await operate(fleet, WEB, dropins=asked(LIMIT)) == (201, "")
    code, message = await operate(fleet, WEB, dropins=asked(LIMIT, NOTE))
    assert (code, "max_units_bytes" in message) == (507, True)
