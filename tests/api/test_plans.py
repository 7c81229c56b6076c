"""Plans: what would become of the cluster, and that nothing is changed."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from fleetd.api import schema
from fleetd.api.v2.plans import MOST_S, PlanAbandoned
from fleetd.model.machine import Capability, Cordon, DrainRequest, Machine, MachineMode, MachineSettings
from fleetd.model.placement import Decision, Placement
from fleetd.model.unit import TargetState, Unit, UnitState
from fleetd.model.unit_set import UnitSet
from fleetd.registry.records import STATES, Leader, Synced
from fleetd.store.embedded import inline
from fleetd.store.protocol import Delete, Put
from tests.api.conftest import JSON, Fleet

PLAN = "POST /fleet/v2/plan"
AT = 1_800_014_400.0
OPTIONS = [{"section": "Service", "name": "ExecStart", "value": "/bin/true"}]
WEB = ("web@1.service", "web@2.service", "web@3.service")


@pytest.fixture
async def running(fleet: Fleet) -> Fleet:
    """Three instances of a template on m1, which has db.service of its own and a global unit, and m2 beside it."""
    fleet.reconfigure(unix_now=lambda: AT, offload=inline)
    for name in ("m1", "m2"):
        await fleet.put(Machine(name, address=f"10.0.0.{name[1]}"), name)
    for name in WEB:
        await place(fleet, name)
    await place(fleet, "db.service", "MachineID=m1")
    for machine in ("m1", "m2"):
        await place(fleet, "log.service", "Global=true", machine)
    await fleet.put(Decision("log.service", (await fleet.unit("log.service")).generation, machines=2), "log.service")
    return fleet


async def place(fleet: Fleet, name: str, text: str = "", on: str = "m1", **fields: Any) -> None:
    """The unit runs on the machine."""
    found, _ = await fleet.registry.unit_and_decision(name)
    if found is None:
        text = f"[Service]\nExecStart=/bin/true\n[X-Fleet]\n{text}\n"
        await fleet.put(Unit(name, text, TargetState.LAUNCHED), name)
    unit = await fleet.unit(name)
    await fleet.put(Placement(on, name, unit.text, unit.target, unit.generation), on, name)
    await fleet.put(Decision(name, unit.generation, on), name)
    state = UnitState("loaded", "active", "running", unit.content.hash, unit.target, unit.generation)
    await fleet.put(msgspec.structs.replace(state, **fields), on, name)


async def plan(fleet: Fleet, **body: Any) -> schema.Plan:
    """The plan; checks that the store is as it was."""
    before = await fleet.registry.everything()
    response = await fleet.ask(PLAN, body)
    assert response.status == 200, response.body
    assert await fleet.registry.everything() == before
    return msgspec.json.decode(response.body, type=schema.Plan)


def moves_of(found: schema.Plan) -> list[tuple[str, str, str]]:
    return [(move.unit, move.origin, move.machine) for move in found.moves]


@pytest.mark.covers("C.10")
async def test_a_drain_says_what_moves_what_stays_and_why(running: Fleet) -> None:
    found = await plan(running, drain=[{"machine": "m1"}])
    assert moves_of(found) == [(name, "m1", "m2") for name in WEB]
    assert found.moves[0] == schema.PlannedMove(
        WEB[0], "m1", "m2", "10.0.0.1", "10.0.0.2", "the only machine that fits"
    )
    assert [(unit.unit, unit.machine, unit.state) for unit in found.stays] == [
        ("db.service", "m1", "stays"),
        ("log.service", "m1", "global"),
    ]
    assert "fits nowhere else: not machine m1 (1)" in found.stays[0].reason
    assert found.stays[0].cause is not None
    assert found.nowhere == ()
    assert (found.machines, found.units, found.endless) == (2, 5, False)
    assert found.revision == await running.registry.store.revision()


async def test_force_and_globals_say_what_is_stopped(running: Fleet) -> None:
    found = await plan(running, drain=[{"machine": "m1", "force": True, "withGlobals": True}])
    assert sorted(moves_of(found)) == [("log.service", "m1", ""), *((name, "m1", "m2") for name in WEB)]
    assert [(unit.unit, unit.state) for unit in found.nowhere] == [("db.service", "unplaced")]
    assert found.nowhere[0].reason.startswith("no machine fits: ")
    assert found.stays == ()


async def test_machines_are_drained_together(running: Fleet) -> None:
    found = await plan(running, drain=[{"machine": "m1"}, {"machine": "m2"}])
    assert found.moves == ()
    assert {unit.machine for unit in found.stays} == {"m1", "m2"}


async def test_a_drain_that_is_there_is_replaced_and_what_waits_says_so(running: Fleet) -> None:
    await running.put(MachineSettings({"a": "b"}, Cordon("disk"), DrainRequest(force=True)), "m1")
    await running.put(UnitState("loaded", "failed", "failed"), "m1", WEB[2])
    await place(running, "job.service", "", active="activating")
    found = await plan(running, drain=[{"machine": "m1"}])
    assert WEB[2] in [move.unit for move in found.moves]
    assert ("db.service", "stays") in [(unit.unit, unit.state) for unit in found.stays]


@pytest.mark.parametrize(
    ("machine", "record", "status", "why"),
    [
        ("m9", None, 400, "unknown machine m9"),
        ("m2", None, 409, "the machine is absent"),
        ("m2", Machine("m2", mode=MachineMode.PARKED), 409, "the machine is parked"),
    ],
)
async def test_a_machine_that_cannot_be_drained_is_refused(
    running: Fleet, machine: str, record: Machine | None, status: int, why: str
) -> None:
    await running.put(MachineSettings({"a": "b"}), "m2")
    gone = Delete("/fleet/machines/m2")
    await running.registry.store.transact([], [running.registry.put(record, "m2") if record else gone])
    found = await running.refused(PLAN, {"drain": [{"machine": machine}]})
    assert found[0] == status
    assert why in found[1]


async def test_units_on_absent_machines_stay_where_they_are(running: Fleet) -> None:
    await place(running, "far.service", on="m3")
    await running.registry.store.transact([], [Delete("/fleet/machines/m3")])
    await running.put(Synced("s"), "m3")
    found = await plan(running, drain=[{"machine": "m1"}])
    assert "far.service" not in [move.unit for move in found.moves]
    assert found.nowhere == ()


async def test_units_on_machines_that_the_leader_has_judged_dead_are_placed_anew_after_their_delay(
    running: Fleet,
) -> None:
    """The leader deletes the session of a dead machine, and the decisions of units that wait say since when."""
    await place(running, "far.service", on="m3")
    await place(running, "late.service", "FailoverDelay=60s", on="m3")
    await running.registry.store.transact([], [Delete("/fleet/machines/m3")])
    for name in ("far.service", "late.service"):
        gone = Delete(running.registry.key(STATES, "m3", name))
        await running.registry.store.transact([], [gone])
    late = await running.unit("late.service")
    await running.put(Decision("late.service", late.generation, "m3", lost=AT - 30), "late.service")
    found = await plan(running, drain=[{"machine": "m2"}])
    assert moves_of(found) == [("far.service", "m3", "m1")]
    await running.put(Decision("late.service", late.generation, "m3", lost=AT - 61), "late.service")
    found = await plan(running, drain=[{"machine": "m2"}])
    assert moves_of(found) == [("far.service", "m3", "m1"), ("late.service", "m3", "m1")]


async def test_losses_and_machines_that_join(running: Fleet) -> None:
    found = await plan(running, lose=["m1"])
    assert sorted(moves_of(found)) == [("log.service", "m1", ""), *((name, "m1", "m2") for name in WEB)]
    assert [unit.unit for unit in found.nowhere] == ["db.service"]
    found = await plan(running, join=[{"metadata": {"zone": "b"}}, {"id": "m4"}])
    assert moves_of(found) == [("log.service", "", "m4"), ("log.service", "", "new-1")]
    assert await running.refused(PLAN, {"join": [{"id": "m2"}]}) == (400, "machine m2 is in the cluster already")
    assert (await running.refused(PLAN, {"lose": ["m9"]}))[0] == 400
    assert (await running.refused(PLAN, {"join": [{}] * 1001}))[0] == 413


async def test_a_loss_says_how_long_a_unit_that_must_not_run_twice_waits(running: Fleet) -> None:
    able = dict.fromkeys(Capability, True)
    await running.put(Machine("m2", address="10.0.0.2", capabilities=able), "m2")
    await place(running, "single.service", "IsolationSec=30s")
    found = await plan(running, lose=["m1"])
    assert found.moves[-1].unit == "single.service"
    words = "after 45s: IsolationSec=30s, IsolationStopSec=10s and 5s"
    assert [move.unit for move in found.moves if words in move.reason] == ["single.service"]


async def test_units_that_are_changed(running: Fleet) -> None:
    operations = [
        {"name": "new.service", "desiredState": "launched", "options": OPTIONS},
        {"name": WEB[0], "destroy": True},
        {"name": WEB[1], "desiredState": "loaded"},
    ]
    found = await plan(running, operations=operations)
    assert moves_of(found) == [(WEB[0], "m1", ""), ("new.service", "", "m2")]
    assert found.changes == (schema.PlannedChange(WEB[1], "m1", "10.0.0.1", target="loaded"),)
    refused = await running.refused(PLAN, {"operations": [{"name": "x.service", "destroy": True}]})
    assert refused == (404, 'unit "x.service": unit does not exist')


async def test_units_that_are_applied_and_nothing_if_that_is_refused(running: Fleet) -> None:
    text = "[Service]\nExecStart=/bin/false\n"
    units = [{"name": "db.service", "text": text}, {"name": "new.service", "text": text}]
    found = await plan(running, apply={"set": "a", "units": units})
    assert moves_of(found) == [("new.service", "", "m2")]
    assert found.changes == (schema.PlannedChange("db.service", "m1", "10.0.0.1", content=True),)
    assert found.applied is not None
    assert [(unit.name, unit.change) for unit in found.applied.units] == [
        ("db.service", "changed"),
        ("new.service", "new"),
    ]
    await running.put(UnitSet(("db.service",)), "b")
    found = await plan(running, apply={"set": "a", "units": units})
    assert (found.moves, found.changes) == ((), ())
    assert found.applied is not None
    assert "b" in found.applied.refusals[0]


async def test_units_that_cannot_be_joined_are_refused_as_when_they_are_written(running: Fleet) -> None:
    first = [*OPTIONS, {"section": "X-Fleet", "name": "Handover", "value": "start-first"}]
    beside = [*OPTIONS, {"section": "X-Fleet", "name": "MachineOf", "value": "db.service"}]
    why = "MachineOf=db.service cannot be used: db.service has Handover=start-first; write stop-first there"
    operations = [
        {"name": "a.service", "desiredState": "launched", "options": beside},
        {"name": "db.service", "destroy": True},
        {"name": "b.service", "desiredState": "launched", "options": beside},
    ]
    found = await plan(running, operations=operations)
    assert [unit.unit for unit in found.nowhere] == ["a.service", "b.service"]
    operations[1] = {"name": "db.service", "desiredState": "launched", "options": first}
    status, refusal = await running.refused(PLAN, {"operations": operations[1:]})
    assert (status, refusal) == (400, f'unit "b.service": {why}')
    text = "[Service]\nExecStart=/bin/true\n[X-Fleet]\n"
    units = [
        {"name": "db.service", "text": f"{text}Handover=start-first\n"},
        {"name": "b.service", "text": f"{text}MachineOf=db.service\n"},
    ]
    assert await running.refused(PLAN, {"apply": {"set": "a", "units": units}}) == (400, why)


async def test_what_is_under_way_is_in_the_plan(running: Fleet) -> None:
    await running.add_unit("new.service", target="launched")
    found = await plan(running, drain=[{"machine": "m1"}])
    [move] = [move for move in found.moves if move.unit == "new.service"]
    assert (move.origin, move.machine, move.reason) == ("", "m2", "the only machine that fits")


@pytest.mark.parametrize("leader", [True, False])
async def test_the_settings_of_the_leader_count(running: Fleet, leader: bool) -> None:
    await running.put(Machine("m2", address="10.0.0.2", configured={"failover_delay": "10min"}), "m2")
    if leader:
        await running.put(Leader("m2", "t"))
    else:
        await running.registry.store.transact([], [Put("/fleet/leader", b"nonsense")])
    assert len((await plan(running, drain=[{"machine": "m1"}])).moves) == 3


async def test_a_rebalance_says_who_moves_and_how_uneven_it_is(running: Fleet) -> None:
    found = await plan(running, rebalance={})
    assert moves_of(found) == [(WEB[0], "m1", "m2"), (WEB[1], "m1", "m2")]
    assert [move.reason for move in found.moves] == [
        "3 of web@.service on the one machine, 0 on the other",
        "4 units on the one machine, 2 on the other",
    ]
    assert (found.stays, found.new) == ((), ())


async def test_units_that_go_along_are_named_with_whom(running: Fleet) -> None:
    for number in (1, 2, 3):
        await place(running, f"side@{number}.service", f"MachineOf=web@{number}.service")
    found = await plan(running, rebalance={"max": 1})
    assert [(move.unit, move.along_with) for move in found.moves] == [
        (found.moves[0].unit, ""),
        (WEB[0], found.moves[0].unit),
    ]
    assert b'"with":' in (await running.ask(PLAN, {"rebalance": {}})).body


async def test_named_units_that_may_not_be_moved_say_why(running: Fleet) -> None:
    found = await plan(running, rebalance={"units": ["db.service", "log.service", "web@.service"]})
    assert len(found.moves) == 2
    assert [(unit.unit, unit.machine, unit.reason) for unit in found.stays] == [
        ("log.service", "m1", "is on every machine that it fits on")
    ]


async def test_new_machines_do_not_count_and_are_named(running: Fleet) -> None:
    await running.put(Machine("m2", since=AT - 60), "m2")
    found = await plan(running, rebalance={})
    assert found.moves == ()
    assert found.new == (schema.NewMachine("m2", since=AT - 60),)
    assert len((await plan(running, rebalance={"minAge": 30})).moves) == 2


@pytest.mark.parametrize(
    ("body", "status", "why"),
    [
        ({}, 400, "name what is to be planned, one of: drain, rebalance, operations, apply, lose, join"),
        ({"drain": [{"machine": "m1"}], "rebalance": {}}, 400, "name what is to be planned"),
        ({"rebalance": {"max": 0}}, 400, "max has to be from 1 to 1000"),
        ({"rebalance": {"minAge": -1}}, 400, "minAge has to be"),
        ({"rebalance": {"units": ["nonsense"]}}, 400, "nonsense"),
        ({"rebalance": {"units": ["x.service"]}}, 400, "unit x.service does not exist"),
        ({"drain": 1}, 400, "unable to decode body"),
    ],
)
async def test_what_cannot_be_planned_is_refused(running: Fleet, body: dict[str, Any], status: int, why: str) -> None:
    found = await running.refused(PLAN, body)
    assert found[0] == status
    assert why in found[1]


async def test_a_fleetd_makes_one_plan_at_a_time(running: Fleet) -> None:
    entered, may_go_on = asyncio.Event(), asyncio.Event()

    async def slow(work: Callable[[], Any], /) -> Any:
        entered.set()
        await may_go_on.wait()
        return work()

    running.reconfigure(offload=slow)
    first = asyncio.create_task(running.ask(PLAN, {"rebalance": {}}, JSON))
    await entered.wait()
    status, message = await running.refused(PLAN, {"rebalance": {}})
    assert status == 503
    assert "is making another plan" in message
    may_go_on.set()
    assert (await first).status == 200
    assert (await running.ask(PLAN, {"rebalance": {}})).status == 200


async def test_a_plan_that_takes_too_long_ends_and_leaves_room_for_others(running: Fleet) -> None:
    moments = [0.0]
    running.reconfigure(offload=inline, now=lambda: moments.pop() if len(moments) > 1 else moments[0])
    moments[:] = [MOST_S + 1.0, 0.0]  # from the second question on, it is late
    status, message = await running.refused(PLAN, {"drain": [{"machine": "m1"}]})
    assert (status, message) == (503, "the plan was not done within 120 s: ask for less at a time")
    running.reconfigure(offload=inline, now=lambda: 0.0)
    assert (await running.ask(PLAN, {"drain": [{"machine": "m1"}]})).status == 200


async def test_a_plan_that_nobody_waits_for_ends(running: Fleet) -> None:
    works: list[Callable[[], Any]] = []
    entered = asyncio.Event()

    async def never(work: Callable[[], Any], /) -> Any:
        works.append(work)
        entered.set()
        await asyncio.Event().wait()

    running.reconfigure(offload=never)
    for _ in range(2):  # the second finds nobody at work
        task = asyncio.create_task(running.ask(PLAN, {"drain": [{"machine": "m1"}]}, JSON))
        await entered.wait()
        entered.clear()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        with pytest.raises(PlanAbandoned):
            works.pop()()


async def test_a_plan_is_made_in_a_thread(running: Fleet) -> None:
    running.reconfigure()
    response = await running.ask(PLAN, {"drain": [{"machine": "m1"}]})
    assert len(json.loads(response.body)["moves"]) == 3
