"""States, machines and reports: what is listed, and in which order."""

import asyncio
import json
from typing import Any

import pytest

from fleetd.membership.registration import Membership, Registration
from fleetd.model.machine import Machine, MachineMode, MachineSettings
from fleetd.model.placement import Decision, Placement
from fleetd.model.reason import (
    BEST,
    INFEASIBLE,
    Absence,
    Rejection,
    RejectionCount,
    RejectionKind,
    WaitingForMachine,
    render,
)
from fleetd.model.unit import TargetState, UnitState
from fleetd.model.unitfile import hash_unit_file
from fleetd.registry.records import Synced
from tests.api.conftest import JSON

STATE = "/fleet/v1/state"
MACHINES = "/fleet/v1/machines"
REPORTS = "/fleet/v2/units"
FORGET = "/fleet/v2/machines"
RUNNING = UnitState("loaded", "active", "running", "ab" * 20, TargetState.LAUNCHED, 7)


async def listed(fleet: Any, request: str) -> Any:
    response = await fleet.ask(request)
    assert response.status == 200
    return json.loads(response.body)


# States


@pytest.mark.covers("4.1.10", "4.1.11", "4.2.4", "4.2.5", "4.5.2")
async def test_a_state_is_shown_to_the_byte(fleet: Any) -> None:
    await fleet.put(RUNNING, "m1", "web.service")
    shown = (
        b'{"hash":"' + b"ab" * 20 + b'","machineID":"m1","name":"web.service","systemdActiveState":"active",'
        b'"systemdLoadState":"loaded","systemdSubState":"running"}'
    )
    assert (await fleet.ask(f"GET {STATE}/web.service")).body == shown
    assert (await fleet.ask(f"GET {STATE}")).body == b'{"states":[' + shown + b"]}"


@pytest.mark.covers("3.9.19", "4.5.1")
async def test_states_are_listed_by_unit_then_machine_and_filtered(fleet: Any) -> None:
    for machine, unit in (("m2", "a.service"), ("m1", "b.service"), ("m1", "a.service")):
        await fleet.put(RUNNING, machine, unit)

    async def pairs(query: str) -> list[tuple[str, str]]:
        states = (await listed(fleet, f"GET {STATE}{query}")).get("states", [])
        return [(state["name"], state["machineID"]) for state in states]

    every = [("a.service", "m1"), ("a.service", "m2"), ("b.service", "m1")]
    assert await pairs("") == every
    assert await pairs("?machineID=&unitName=") == every
    assert await pairs("?machineID=m1") == [("a.service", "m1"), ("b.service", "m1")]
    assert await pairs("?unitName=a.service&unitName=b.service") == [("a.service", "m1"), ("a.service", "m2")]
    assert await pairs("?unitName=a.service&machineID=m2") == [("a.service", "m2")]
    assert await pairs("?unitName=a") == []


@pytest.mark.covers("4.4.16", "4.5.4", "P.9")
async def test_a_removed_unit_has_no_state_and_a_running_one_has(fleet: Any) -> None:
    await fleet.put(UnitState("not-found", "inactive", "dead", generation=3), "m1", "gone.service")
    await fleet.put(UnitState("loaded", "deactivating", "stop-sigterm"), "m1", "going.service")
    states = (await listed(fleet, f"GET {STATE}"))["states"]
    assert [state["name"] for state in states] == ["going.service"]
    assert await fleet.refused(f"GET {STATE}/gone.service") == (404, "unit state does not exist")


@pytest.mark.covers("4.5.2")
async def test_a_unit_on_several_machines_has_the_state_of_its_assigned_machine(fleet: Any) -> None:
    await fleet.put(RUNNING, "m1", "web.service")
    await fleet.put(RUNNING, "m2", "web.service")
    assert (await listed(fleet, f"GET {STATE}/web.service"))["machineID"] == "m1"
    await fleet.put(Decision("web.service", 1, machine="m2"), "web.service")
    assert (await listed(fleet, f"GET {STATE}/web.service"))["machineID"] == "m2"


@pytest.mark.covers("4.5.3", "10.6.1")
async def test_an_unknown_units_state_is_not_found(fleet: Any) -> None:
    assert await fleet.refused(f"GET {STATE}/absent.service") == (404, "unit state does not exist")


# Machines


@pytest.mark.covers("2.4.3", "4.1.3", "4.1.12", "4.2.6", "4.2.7", "4.6.1", "4.6.9", "5.4.9")
async def test_machines_are_listed_by_id_with_effective_metadata(fleet: Any) -> None:
    await fleet.put(Machine("m2"), "m2")
    await fleet.put(Machine("m1", address="10.0.0.1", metadata={"b": "1", "a": "1", "c": "1"}), "m1")
    await fleet.put(Machine("m3", mode=MachineMode.PARKED), "m3")
    await fleet.put(MachineSettings({"b": "", "c": "2", "d": "<3"}), "m1")
    await fleet.put(MachineSettings({"x": "y"}), "gone")
    assert (await fleet.ask(f"GET {MACHINES}")).body == (
        b'{"machines":[{"id":"m1","metadata":{"a":"1","c":"2","d":"\\u003c3"},"primaryIP":"10.0.0.1"},'
        b'{"id":"m2"},{"id":"m3","mode":"parked"}]}'
    )


@pytest.mark.covers("4.1.12", "4.6.2", "4.6.5", "4.6.6", "4.6.8", "4.6.9", "4.6.10", "10.6.8", "10.6.13")
async def test_metadata_edits_apply_in_order_and_outlive_the_machine(fleet: Any) -> None:
    edits = [
        {"op": "add", "path": "/m1/metadata/a", "value": {"value": "1"}},
        {"op": "replace", "path": "/m1/metadata/b", "value": "2"},
        {"op": "add", "path": "/m2/metadata/a.b-c_D", "value": "x"},
        {"OP": "remove", "Path": "/m1/metadata/a", "value": "ignored"},
        {"op": "remove", "path": "/m1/metadata/c"},
    ]
    await fleet.put(Synced("s"), "m1")  # both are away, and their own metadata is unknown
    await fleet.put(Synced("s"), "m2")
    response = await fleet.ask(f"PATCH {MACHINES}", edits)
    assert (response.status, response.headers, response.body) == (204, JSON, b"")
    settings = await fleet.registry.settings()
    assert settings == {
        "m1": MachineSettings({"a": "", "b": "2", "c": ""}),
        "m2": MachineSettings({"a.b-c_D": "x"}),
    }


async def test_a_setting_that_hides_nothing_of_a_present_machine_is_dropped(fleet: Any) -> None:
    await fleet.put(Machine("m1", metadata={"role": "db"}), "m1")
    hide = [{"op": "remove", "path": f"/m1/metadata/{key}"} for key in ("role", "disk")]
    assert (await fleet.ask(f"PATCH {MACHINES}", hide)).status == 204
    assert await fleet.registry.settings() == {"m1": MachineSettings({"role": ""})}


async def test_settings_without_effect_are_deleted(fleet: Any) -> None:
    await fleet.put(Machine("m1"), "m1")
    for op, kept in (("add", {"m1": MachineSettings({"disk": "ssd"})}), ("remove", {}), ("remove", {})):
        edit = [{"op": op, "path": "/m1/metadata/disk", "value": "ssd"}]
        assert (await fleet.ask(f"PATCH {MACHINES}", edit)).status == 204
        assert await fleet.registry.settings() == kept


@pytest.mark.covers("4.6.8")
async def test_edits_of_an_unknown_machine_are_refused_as_a_whole(fleet: Any) -> None:
    await fleet.put(Machine("m1"), "m1")
    edits = [{"op": "add", "path": f"/{machine}/metadata/a", "value": "1"} for machine in ("m1", "m2")]
    status, said = await fleet.refused(f"PATCH {MACHINES}", edits)
    assert (status, said) == (404, 'unknown machine "m2": give the full id of a machine that is or was in the cluster')
    assert await fleet.registry.settings() == {}


@pytest.mark.covers("4.6.2")
async def test_more_than_a_thousand_edits_are_refused(fleet: Any) -> None:
    await fleet.put(Machine("m1"), "m1")
    edits = [{"op": "add", "path": f"/m1/metadata/a{number}", "value": "1"} for number in range(1001)]
    status, said = await fleet.refused(f"PATCH {MACHINES}", edits)
    assert (status, said) == (413, "1001 operations in one request, and at most 1000 are allowed")
    assert (await fleet.ask(f"PATCH {MACHINES}", edits[1:])).status == 204


@pytest.mark.covers("4.6.7")
@pytest.mark.parametrize("body", [b"[]", b"null"])
async def test_an_empty_list_of_edits_is_accepted(fleet: Any, body: bytes) -> None:
    assert (await fleet.ask(f"PATCH {MACHINES}", body)).status == 204


@pytest.mark.covers("4.6.2", "4.6.3", "4.6.4", "4.6.5")
@pytest.mark.parametrize(
    ("edit", "message"),
    [
        ({}, "invalid op: expect add, remove, or replace"),
        ({"op": "copy", "path": "/m/metadata/a"}, "invalid op: expect add, remove, or replace"),
        ({"op": "add", "value": "x"}, "machine metadata path invalid"),
        ({"op": "add", "path": "/m/metadata/", "value": "x"}, "machine metadata path invalid"),
        ({"op": "add", "path": "/m/metadata/a b", "value": "x"}, "machine metadata path invalid"),
        ({"op": "add", "path": "/m/metadata/a\n", "value": "x"}, "machine metadata path invalid"),
        ({"op": "add", "path": "//metadata/a", "value": "x"}, "machine metadata path invalid"),
        ({"op": "add", "path": "/m/n/metadata/a", "value": "x"}, "machine metadata path invalid"),
        ({"op": "add", "path": "/m/metadata/a"}, "invalid value: add and replace require a value"),
        ({"op": "add", "path": "/m/metadata/a", "value": ""}, "invalid value: add and replace require a value"),
        ({"op": "add", "path": "/m/metadata/a", "value": 1}, "invalid value: add and replace require a value"),
        ({"op": "add", "path": "/m/metadata/a", "value": {}}, "invalid value: add and replace require a value"),
        (
            {"op": "add", "path": "/m/metadata/a", "value": {"value": []}},
            "invalid value: add and replace require a value",
        ),
        (None, "unable to decode body: "),
        ("add", "unable to decode body: "),
    ],
)
async def test_one_invalid_edit_refuses_all(fleet: Any, edit: Any, message: str) -> None:
    good = {"op": "add", "path": "/m1/metadata/a", "value": "1"}
    status, said = await fleet.refused(f"PATCH {MACHINES}", [good, edit])
    assert status == 400
    assert said.startswith(message)
    assert await fleet.registry.settings() == {}


@pytest.mark.covers("4.6.7")
@pytest.mark.parametrize("body", [b"", b"{}", b"[", b'"x"', b"[" * 100_000])
async def test_edits_must_be_a_list(fleet: Any, body: bytes) -> None:
    status, said = await fleet.refused(f"PATCH {MACHINES}", body)
    assert status == 400
    assert said.startswith("unable to decode body: ")


async def test_metadata_beyond_the_stores_limit_is_refused(fleet: Any) -> None:
    await fleet.put(Machine("m1"), "m1")
    edit = {"op": "add", "path": "/m1/metadata/a", "value": "x" * 1_100_000}
    status, said = await fleet.refused(f"PATCH {MACHINES}", [edit])
    assert status == 413
    assert said.startswith('metadata of machine "m1" cannot be stored: ')


async def test_metadata_set_by_an_operator_survives_leave_and_rejoin(fleet: Any) -> None:
    async def publish(lease: int) -> None:
        """A systemd on which nothing runs."""

    async def join(session: str) -> tuple[Membership, asyncio.Task[None]]:
        membership = Membership(
            Machine("m1", session=session, metadata={"role": "db", "rack": "1"}),
            fleet.registry,
            Registration(session, asyncio.get_running_loop().time),
            ttl_s=10.0,
            now=asyncio.get_running_loop().time,
            publish=publish,
            heard=lambda revision: None,
        )
        running = asyncio.create_task(membership.run())
        await membership.registered.wait()
        return membership, running

    async def leave(membership: Membership, running: asyncio.Task[None]) -> None:
        running.cancel()
        await membership.deregister()

    async def shown() -> Any:
        return (await listed(fleet, f"GET {MACHINES}")).get("machines", [])

    first = await join("s1")
    edits = [
        {"op": "add", "path": "/m1/metadata/disk", "value": "ssd"},
        {"op": "replace", "path": "/m1/metadata/role", "value": "web"},
        {"op": "remove", "path": "/m1/metadata/rack"},
    ]
    assert (await fleet.ask(f"PATCH {MACHINES}", edits)).status == 204
    as_set = [{"id": "m1", "metadata": {"disk": "ssd", "role": "web"}}]
    assert await shown() == as_set
    await leave(*first)
    assert await shown() == []
    edit = [{"op": "add", "path": "/m1/metadata/while", "value": "away"}]
    assert (await fleet.ask(f"PATCH {MACHINES}", edit)).status == 204
    second = await join("s2")
    assert await shown() == [{"id": "m1", "metadata": {"disk": "ssd", "role": "web", "while": "away"}}]
    await leave(*second)


async def test_only_a_parked_machine_can_be_forgotten(fleet: Any) -> None:
    lease = await fleet.registry.store.grant(600)
    for id_, mode in (("m1", MachineMode.READY), ("m2", MachineMode.PARKED), ("m3", MachineMode.LEAVING)):
        await fleet.registry.store.transact([], [fleet.registry.put(Machine(id_, mode=mode), id_, lease=lease)])
    lease = await fleet.registry.store.grant(600)
    parked = fleet.registry.put(Machine("m2", mode=MachineMode.PARKED), "m2", lease=lease)
    state = fleet.registry.put(RUNNING, "m2", "web.service", lease=lease)
    await fleet.registry.store.transact([], [parked, state])
    for id_ in ("m1", "m3"):
        status, said = await fleet.refused(f"DELETE {FORGET}/{id_}")
        assert (status, said) == (409, "machine is not parked: its fleetd is running; run `fleetd leave` there")
    assert (await fleet.refused(f"DELETE {FORGET}/m9"))[0] == 404
    assert (await fleet.refused(f"GET {FORGET}/m2"))[0] == 405
    assert (await fleet.ask(f"DELETE {FORGET}/m2")).status == 204
    assert sorted(await fleet.registry.machines()) == ["m1", "m3"]
    assert await fleet.registry.states("m2") == {}


# Reports


@pytest.mark.covers("P.18")
async def test_a_report_has_target_decision_and_every_allocation(fleet: Any) -> None:
    unit = await fleet.add_unit("web.service", target="launched")
    await fleet.put(Machine("m1", address="10.0.0.1"), "m1")
    await fleet.put(Decision("web.service", unit.generation, machine="m1", since=12.5, reason=BEST), "web.service")
    await fleet.put(RUNNING, "m1", "web.service")
    await fleet.put(UnitState("loaded", "active", "running", target=TargetState.LAUNCHED), "m2", "web.service")
    superseded = Placement("m2", "web.service", unit.text, TargetState.LAUNCHED, 1, superseded=True)
    await fleet.put(superseded, "m2", "web.service")
    (report,) = (await listed(fleet, f"GET {REPORTS}"))["units"]
    assert report == {
        "name": "web.service",
        "target": "launched",
        "generation": unit.generation,
        "hash": hash_unit_file(unit.text),
        "decided": unit.generation,
        "machine": "m1",
        "since": 12.5,
        "reason": "fits",
        "cause": {"kind": "placed", "rule": "best"},
        "allocations": [
            {
                "machine": "m1",
                "address": "10.0.0.1",
                "load": "loaded",
                "active": "active",
                "sub": "running",
                "hash": "ab" * 20,
                "target": "launched",
                "generation": 7,
            },
            {
                "machine": "m2",
                "load": "loaded",
                "active": "active",
                "sub": "running",
                "target": "launched",
                "superseded": True,
            },
        ],
    }


@pytest.mark.covers("P.5")
async def test_an_unplaced_unit_has_a_reason_and_a_global_one_its_machines(fleet: Any) -> None:
    await fleet.add_unit("web.service", target="launched")
    rejections = (RejectionCount(Rejection(RejectionKind.METADATA, "disk=ssd"), 3),)
    await fleet.put(Decision("web.service", 1, reason=INFEASIBLE, rejections=rejections), "web.service")
    await fleet.add_unit("log.service", "[X-Fleet]\nGlobal=yes\n", "launched")
    await fleet.put(Decision("log.service", 2, machines=4), "log.service")
    await fleet.add_unit("new.service")
    log, new, web = (await listed(fleet, f"GET {REPORTS}"))["units"]
    assert (log["global"], log["machines"], log["decided"]) == (True, 4, 2)
    assert (web["reason"], web["cause"], "machine" in web) == ("no machine fits", {"kind": "infeasible"}, False)
    assert web["rejections"] == [
        {"kind": "metadata", "subject": "disk=ssd", "message": "metadata disk=ssd missing", "machines": 3}
    ]
    assert "decided" not in new
    assert "allocations" not in new


async def test_reports_are_of_the_requested_names_without_unknown_ones(fleet: Any) -> None:
    for name in ("a.service", "b.service", "c.service"):
        await fleet.add_unit(name)
    found = await listed(fleet, f"GET {REPORTS}?name=c.service&name=a.service&name=absent.service")
    assert [report["name"] for report in found["units"]] == ["a.service", "c.service"]
    assert await listed(fleet, f"GET {REPORTS}?name=absent.service") == {}


async def test_running_allocations_of_unknown_units_are_orphans(fleet: Any) -> None:
    await fleet.put(RUNNING, "m1", "lost.service")
    await fleet.put(UnitState("not-found", "inactive", "dead", generation=3, error="refused"), "m1", "gone.service")
    (report,) = (await listed(fleet, f"GET {REPORTS}"))["units"]
    (allocation,) = report.pop("allocations")
    assert report == {"name": "lost.service", "target": "", "generation": 0}
    assert (allocation["machine"], allocation["orphaned"], allocation["generation"]) == ("m1", True, 7)


async def test_a_destroyed_unit_reports_what_its_allocations_wait_for(fleet: Any) -> None:
    await fleet.put(RUNNING, "m1", "lost.service")
    parked = WaitingForMachine("m1", Absence.PARKED)
    await fleet.put(Decision("lost.service", 9, reason=parked), "lost.service")
    (report,) = (await listed(fleet, f"GET {REPORTS}?name=lost.service"))["units"]
    assert (report["target"], report["reason"]) == ("", render(parked))
    assert report["cause"] == {
        "kind": "waiting-for-machine",
        "machine": "m1",
        "absence": "parked",
        "waits": "waits for machine m1, which is parked: its fleetd was stopped",
    }


async def test_an_allocation_that_failed_is_reported_with_its_error(fleet: Any) -> None:
    await fleet.add_unit("web.service", target="launched")
    await fleet.put(UnitState("not-found", "inactive", "dead", error="would hide ours"), "m1", "web.service")
    (report,) = (await listed(fleet, f"GET {REPORTS}"))["units"]
    assert [(allocation["machine"], allocation["error"]) for allocation in report["allocations"]] == [
        ("m1", "would hide ours")
    ]


async def test_a_superseded_allocation_is_marked_even_if_it_is_the_only_one(fleet: Any) -> None:
    unit = await fleet.add_unit("web.service", target="launched")
    await fleet.put(Decision("web.service", unit.generation, reason=INFEASIBLE), "web.service")
    await fleet.put(RUNNING, "m2", "web.service")
    superseded = Placement("m2", "web.service", unit.text, TargetState.LAUNCHED, 1, superseded=True)
    await fleet.put(superseded, "m2", "web.service")
    (report,) = (await listed(fleet, f"GET {REPORTS}?name=web.service"))["units"]
    assert [(allocation["machine"], allocation["superseded"]) for allocation in report["allocations"]] == [("m2", True)]
