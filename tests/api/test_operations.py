"""Operations on many units in one request: each has its own result, in few store requests."""

import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleetd.api.unit_operations import MAX_UNITS
from fleetd.model.rollout import Phase, Rollout
from fleetd.model.unit import TargetState, Unit
from fleetd.registry.registry import Registry
from fleetd.store.embedded import EmbeddedStore, inline
from fleetd.store.protocol import Put, Unavailable
from tests.api.conftest import Fleet
from tests.examples import examples

BATCH = "POST /fleet/v2/units"
OPTIONS = [{"section": "Service", "name": "ExecStart", "value": "/bin/true"}]
OTHER = [{"section": "Service", "name": "ExecStart", "value": "/bin/false"}]
LARGE = [{"section": "Service", "name": f"Environment{number}", "value": "x" * 2000} for number in range(100)]


class Unsteady:
    """A store that counts its transactions. `before_transaction` runs before each, and may fail it."""

    def __init__(self, store: Any) -> None:
        self._store = store
        self.transactions = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def before_transaction(self, number: int) -> None:
        """Do nothing."""

    async def transact(self, comparisons: Any, operations: Any) -> int:
        self.transactions += 1
        await self.before_transaction(self.transactions)
        revision: int = await self._store.transact(comparisons, operations)
        return revision


class Overtaken(Unsteady):
    """Another client writes this key just before the first transaction."""

    key = "/fleet/units/u1.service"

    async def before_transaction(self, number: int) -> None:
        if number == 1:
            await self._store.transact([], [Put(self.key, b'{"name":"u1.service","text":"[A]\\nB=c\\n"}')])


class Lost(Unsteady):
    """Answer one transaction and fail the others."""

    async def before_transaction(self, number: int) -> None:
        if number > 1:
            raise Unavailable("no answer")


async def operation(fleet: Fleet, operations: Sequence[dict[str, Any]]) -> list[tuple[str, int, str]]:
    response = await fleet.ask(BATCH, {"operations": operations})
    assert response.status == 200, response.body
    return [(each["name"], each["code"], each.get("message", "")) for each in json.loads(response.body)["results"]]


async def test_each_operation_has_its_own_result(fleet: Any) -> None:
    for name in ("old.service", "same.service", "gone.service"):
        await fleet.add_unit(name)
    assert await operation(
        fleet,
        [
            {"name": "new.service", "options": OPTIONS, "desiredState": "launched"},
            {"name": "no unit", "options": OPTIONS},
            {"name": "old.service", "desiredState": "launched"},
            {"name": "absent.service", "desiredState": "launched"},
            {"name": "same.service", "desiredState": "inactive"},
            {"name": "ssh.service", "options": OPTIONS},
            {"name": "gone.service", "destroy": True},
            {"name": "never.service", "destroy": True},
            {"name": "wrong.service", "options": OPTIONS, "desiredState": "up"},
        ],
    ) == [
        ("new.service", 201, ""),
        ("no unit", 400, 'unit name must contain "."'),
        ("old.service", 204, ""),
        ("absent.service", 409, "unit does not exist and options field empty"),
        ("same.service", 204, ""),
        (
            "ssh.service",
            400,
            'unit "ssh.service" would hide /lib/systemd/system/ssh.service, a unit of the system: choose another name',
        ),
        ("gone.service", 204, ""),
        ("never.service", 404, "unit does not exist"),
        ("wrong.service", 400, 'invalid desiredState "up": expect inactive, loaded or launched'),
    ]
    assert {name: unit.target for name, unit in (await fleet.registry.units()).items()} == {
        "new.service": TargetState.LAUNCHED,
        "old.service": TargetState.LAUNCHED,
        "same.service": TargetState.INACTIVE,
    }


async def test_create_only_operations_change_no_existing_unit(fleet: Any) -> None:
    before = await fleet.add_unit("old.service")
    results = await operation(
        fleet,
        [
            {"name": "old.service", "options": OTHER, "onlyNew": True},
            {"name": "new.service", "options": OTHER, "onlyNew": True},
        ],
    )
    assert results == [("old.service", 412, 'unit "old.service" exists already'), ("new.service", 201, "")]
    assert await fleet.unit("old.service") == before


@pytest.mark.covers("P.3")
async def test_many_units_need_few_transactions(fleet: Any) -> None:
    fleet.registry.store = Unsteady(fleet.registry.store)
    names = [f"u{number}.service" for number in range(500)]
    results = await operation(fleet, [{"name": name, "options": OPTIONS} for name in names])
    assert results == [(name, 201, "") for name in names]
    assert fleet.registry.store.transactions == 4
    assert sorted(await fleet.registry.units()) == sorted(names)


async def test_large_units_are_split_over_transactions(fleet: Any) -> None:
    names = [f"u{number}.service" for number in range(8)]
    assert [code for _, code, _ in await operation(fleet, [{"name": name, "options": LARGE} for name in names])] == [
        201
    ] * 8


async def test_a_unit_changed_meanwhile_is_planned_on_its_new_state(fleet: Any) -> None:
    fleet.registry.store = Overtaken(fleet.registry.store)
    operations = [{"name": f"u{number}.service", "options": OPTIONS, "onlyNew": True} for number in range(3)]
    assert await operation(fleet, operations) == [
        ("u0.service", 201, ""),
        ("u1.service", 412, 'unit "u1.service" exists already'),
        ("u2.service", 201, ""),
    ]
    assert (await fleet.unit("u1.service")).text == "[A]\nB=c\n"


async def test_operations_after_the_loss_of_the_store_fail_and_results_are_kept(fleet: Any) -> None:
    fleet.registry.store = Lost(fleet.registry.store)
    results = await operation(fleet, [{"name": f"u{number}.service", "options": OPTIONS} for number in range(400)])
    assert [code for _, code, _ in results] == [201] * 127 + [503] * 273  # with the record of their events
    assert results[-1][2] == "fleet server unable to communicate with etcd: no answer"
    assert fleet.registry.store.transactions == 2
    assert len(await fleet.registry.units()) == 127


async def test_an_unreadable_record_fails_only_its_own_operation(fleet: Any) -> None:
    await fleet.registry.store.transact([], [Put("/fleet/units/bad.service", b"junk")])
    results = await operation(fleet, [{"name": f"{name}.service", "options": OPTIONS} for name in ("bad", "good")])
    assert [code for _, code, _ in results] == [500, 201]
    assert "repair or delete this key in the store" in results[0][2]


async def test_a_request_of_too_many_units_is_refused_as_a_whole(fleet: Any) -> None:
    operations = [{"name": f"u{number}.service", "options": OPTIONS} for number in range(MAX_UNITS + 1)]
    message = f"{MAX_UNITS + 1} units in one request, and at most {MAX_UNITS} are allowed"
    assert await fleet.refused(BATCH, {"operations": operations}) == (413, message)
    assert await fleet.registry.units() == {}


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        ({"operations": [{"name": "a.service"}, {"name": "a.service"}]}, 400, 'unit "a.service" is named twice'),
        ({"operations": {}}, 400, "unable to decode body"),
        ({"operations": [{"name": "a.service", "destroy": "yes"}]}, 400, "unable to decode body"),
        ([], 400, "unable to decode body"),
    ],
)
async def test_a_malformed_request_is_refused_as_a_whole(fleet: Any, body: Any, status: int, message: str) -> None:
    refused, said = await fleet.refused(BATCH, body)
    assert (refused, said[: len(message)]) == (status, message)


async def test_a_request_must_be_declared_as_json(fleet: Any) -> None:
    assert await fleet.refused(BATCH, b'{"operations":[]}', ()) == (415, "expected 1 Content-Type, got 0")


async def test_no_operations_have_no_results(fleet: Any) -> None:
    assert await operation(fleet, []) == []


async def test_reports_on_more_units_than_fit_a_url_are_requested_in_a_body(fleet: Any) -> None:
    for name in ("a.service", "b.service", "c.service"):
        await fleet.add_unit(name)
    response = await fleet.ask("POST /fleet/v2/reports", {"names": ["c.service", "a.service", "a.service", "x/y", ""]})
    assert [unit["name"] for unit in json.loads(response.body)["units"]] == ["a.service", "c.service"]
    same = await fleet.ask("GET /fleet/v2/units?name=c.service&name=a.service")
    assert same.body == response.body


BODY = st.fixed_dictionaries(
    {},
    optional={
        "options": st.sampled_from([OPTIONS, OTHER, [], [{"section": "S", "name": "=", "value": "x"}]]),
        "desiredState": st.sampled_from(["inactive", "loaded", "launched", "up"]),
    },
)
NAMES = ["a.service", "b.service", "c@.service", "ssh.service", "no unit"]


@settings(max_examples=examples(150))
@given(
    before=st.dictionaries(st.sampled_from(NAMES), BODY),
    operations=st.dictionaries(st.sampled_from(NAMES), BODY | st.none()),
)
async def test_a_batch_has_the_results_of_its_operations_one_by_one(
    before: dict[str, Any], operations: dict[str, Any]
) -> None:
    ends = []
    for together in (True, False):
        store = EmbeddedStore(":memory:", offload=inline)
        fleet = Fleet(Registry(store))
        for name, body in before.items():
            await fleet.ask(f"PUT /fleet/v1/units/{name}", body)
        if together:
            told = await operation(
                fleet,
                [{"name": name, **({"destroy": True} if body is None else body)} for name, body in operations.items()],
            )
            results = [(name, code) for name, code, _ in told]
        else:
            results = []
            for name, body in operations.items():
                request = f"{'DELETE' if body is None else 'PUT'} /fleet/v1/units/{name}"
                results.append((name, (await fleet.ask(request, body)).status))
        ends.append(
            (results, {name: (unit.text, unit.target) for name, unit in (await fleet.registry.units()).items()})
        )
        await store.close()
    assert ends[0] == ends[1]


@pytest.mark.parametrize("last", ["r1", "r2", ""])
async def test_a_new_instance_runs_what_the_last_rollout_of_its_template_has_come_to(fleet: Fleet, last: str) -> None:
    template = Unit("w@.service", "[Service]\nExecStart=/bin/true\n", rollout="r1")
    await fleet.put(template, template.name)
    if last:
        await fleet.put(Rollout(last, 2, phase=Phase.REVERTED), template.name)
    options = [{"section": "Service", "name": "ExecStart", "value": "/bin/true"}]
    other = [{"section": "Service", "name": "ExecStart", "value": "/bin/false"}]
    asked = [("w@1.service", options), ("w@2.service", other)]
    operations = [{"name": name, "options": given, "desiredState": "launched"} for name, given in asked]
    await fleet.ask("POST /fleet/v2/units", {"operations": operations})
    await fleet.ask("PUT /fleet/v1/units/w@3.service", {"options": options, "desiredState": "launched"})
    units = await fleet.registry.units()
    inherited = "r1" if last == "r1" else ""
    assert [units[f"w@{number}.service"].rollout for number in (1, 2, 3)] == [inherited, "", inherited]


def fleet_options(text: str) -> list[dict[str, str]]:
    name, _, value = text.partition("=")
    return [*OPTIONS, {"section": "X-Fleet", "name": name, "value": value}]


@pytest.mark.parametrize("starts_first", [["a.service"], ["b.service"], ["a.service", "b.service"]])
async def test_what_machine_of_joins_may_not_start_first(fleet: Any, starts_first: list[str]) -> None:
    """One after the other, and both in one request, in any order."""
    first = {"name": "a.service", "options": fleet_options("Handover=start-first")}
    follower = {"name": "b.service", "options": fleet_options("MachineOf=a.service")}
    beside = "MachineOf=a.service cannot be used: a.service has Handover=start-first; write stop-first there"
    if len(starts_first) == 2:
        assert [code for _, code, _ in await operation(fleet, [follower, first])] == [201, 400]
    elif starts_first == ["a.service"]:
        await operation(fleet, [first])
        assert await operation(fleet, [follower]) == [("b.service", 400, beside)]
        body = {"name": "b.service", "desiredState": "inactive", "options": follower["options"]}
        assert await fleet.refused("PUT /fleet/v1/units/b.service", body) == (400, beside)
        text = "[Service]\nExecStart=/bin/true\n[X-Fleet]\nMachineOf=a.service\n"
        assert await fleet.refused("POST /fleet/v2/apply", {"units": [{"name": "b.service", "text": text}]}) == (
            400,
            beside,
        )
    else:
        assert [code for _, code, _ in await operation(fleet, [first, follower])] == [201, 400]
