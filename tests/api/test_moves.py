"""The move of a unit: what is asked for, what is refused, and where it stands."""

from typing import Any

import msgspec
import pytest

from fleetd.api import schema
from fleetd.model.machine import Capability, Cordon, Machine, MachineMode, MachineSettings
from fleetd.model.move import Move
from fleetd.model.placement import Decision, Placement
from fleetd.model.reason import MOVED, BudgetWait, Placed, Reason, Rule, WaitingForStop
from fleetd.model.unit import TargetState, Unit, UnitState
from fleetd.registry.records import MOVES, STATES
from fleetd.store.protocol import Delete
from tests.api.conftest import JSON, Fleet

A = "a.service"
MOVE = f"PUT /fleet/v2/units/{A}/move"
AT = 1_800_014_400.0
ABLE = {Capability.MOVES: True}


@pytest.fixture
async def placed(fleet: Fleet) -> Fleet:
    """a.service on m1; m2 takes it."""
    fleet.reconfigure(unix_now=lambda: AT)
    for name in ("m1", "m2"):
        await fleet.put(Machine(name, address=f"10.0.0.{name[1]}", capabilities=ABLE), name)
    await place(fleet)
    return fleet


async def place(fleet: Fleet, text: str = "", name: str = A, on: str = "m1", **fields: Any) -> None:
    """The unit has this content, and runs on the machine."""
    await fleet.put(unit_of(text, fields.pop("target", TargetState.LAUNCHED), name), name)
    unit = await fleet.unit(name)
    placement = Placement(on, name, unit.text, unit.target, unit.generation)
    await fleet.put(placement, on, name)
    await fleet.put(Decision(name, unit.generation, on), name)
    state = UnitState("loaded", "active", "running", unit.content.hash, unit.target, unit.generation)
    await fleet.put(msgspec.structs.replace(state, **fields), on, name)


def unit_of(text: str, target: TargetState, name: str = A) -> Unit:
    return Unit(name, f"[Service]\nExecStart=/bin/true\n{text}\n", target)


async def moves(fleet: Fleet) -> dict[str, Move]:
    found = await fleet.registry.read(MOVES)
    return {names[0]: msgspec.structs.replace(move, revision=0) for names, move in found.items()}


async def ask(fleet: Fleet, machine: str = "m2", **body: Any) -> int:
    response = await fleet.ask(MOVE, {"machine": machine, **body}, (*JSON, ("Fleet-User", "ann")))
    return response.status


async def test_a_move_names_the_machine_who_asked_and_where_the_unit_was(placed: Fleet) -> None:
    assert await ask(placed, force=True) == 204
    assert await moves(placed) == {A: Move("m2", "ann", AT, force=True, origin="m1", was_available=True)}


async def test_a_unit_of_which_its_machine_has_reported_nothing_may_be_moved(placed: Fleet) -> None:
    await placed.registry.store.transact([], [Delete(placed.registry.key(STATES, "m1", A))])
    assert await ask(placed) == 204
    assert (await moves(placed))[A].was_available is False


async def test_another_move_replaces_it_and_the_machine_where_it_is_takes_it_back(placed: Fleet) -> None:
    await ask(placed, force=True)
    await ask(placed)
    assert (await moves(placed))[A].force is False
    assert await ask(placed, "m1") == 204
    assert await moves(placed) == {}


@pytest.mark.parametrize(
    ("text", "fields", "why"),
    [
        ("[X-Fleet]\nMachineID=m1", {}, "was not moved to m2: not machine m1"),
        ("[X-Fleet]\nGlobal=true", {}, "a global unit is on every machine"),
        ("", {"target": TargetState.INACTIVE}, "the unit is inactive"),
        ("Type=oneshot", {"active": "activating"}, "it is a oneshot at work"),
        ("Type=oneshot", {"active": "inactive", "completed": True}, "a oneshot that has completed"),
    ],
)
async def test_what_cannot_be_there_is_refused(placed: Fleet, text: str, fields: dict[str, Any], why: str) -> None:
    await place(placed, text, **fields)
    status, message = await placed.refused(MOVE, {"machine": "m2"})
    assert status == 409
    assert why in message
    assert await moves(placed) == {}


async def test_a_unit_does_not_go_without_those_that_machine_of_joins_to_it(placed: Fleet) -> None:
    await place(placed, f"[X-Fleet]\nMachineOf={A}\nConflicts=c.service", "b.service")
    await place(placed, "", "c.service", "m2")
    _, message = await placed.refused(MOVE, {"machine": "m2"})
    assert message == "the unit was not moved to m2: b.service, which goes with it: conflicts with c.service"


@pytest.mark.parametrize(
    ("machine", "record", "settings", "why"),
    [
        ("m2", Machine("m2", capabilities=ABLE), MachineSettings(cordon=Cordon("disk")), "machine is cordoned: disk"),
        ("m2", Machine("m2", mode=MachineMode.PARKED, capabilities=ABLE), None, "machine is parked"),
        ("m2", None, MachineSettings({"x": "y"}), "machine is absent"),
        ("m1", Machine("m1", mode=MachineMode.PARKED, capabilities=ABLE), None, "its fleetd has to stop it there"),
        ("m1", None, None, "is absent: it moves when that is given up"),
        ("m2", Machine("m2"), None, "moves of units cannot be used yet"),
    ],
)
async def test_a_machine_that_does_not_take_part_is_refused(
    placed: Fleet, machine: str, record: Machine | None, settings: MachineSettings | None, why: str
) -> None:
    if record is not None:
        await placed.put(record, machine)
    else:
        await placed.registry.store.transact([], [Delete(f"/fleet/machines/{machine}")])
    if settings is not None:
        await placed.put(settings, machine)
    status, message = await placed.refused(MOVE, {"machine": "m2"})
    assert status == 409
    assert why in message


async def test_the_machine_where_it_is_an_unknown_machine_and_an_unknown_unit_are_refused(placed: Fleet) -> None:
    assert await placed.refused(MOVE, {"machine": "m1"}) == (409, "the unit is on this machine already")
    assert (await placed.refused(MOVE, {"machine": "m9"}))[0] == 404
    for name in ("b.service", "nonsense"):
        assert (await placed.refused(f"PUT /fleet/v2/units/{name}/move", {"machine": "m2"}))[0] == 404
    await placed.put(unit_of("", TargetState.LAUNCHED, "b@.service"), "b@.service")
    assert (await placed.refused("PUT /fleet/v2/units/b@.service/move", {"machine": "m2"}))[0] == 409
    await placed.put(unit_of("", TargetState.LAUNCHED, "c.service"), "c.service")
    _, message = await placed.refused("PUT /fleet/v2/units/c.service/move", {"machine": "m2"})
    assert message == "the unit is on no machine that it could be moved from: it waits for the leader to place it"


@pytest.mark.parametrize(
    ("machine", "target", "reason", "is_pending", "state", "where"),
    [
        ("m1", "", None, True, "pending", "m1"),
        ("m1", "", BudgetWait(1, 1, ()), True, "waits", "m1"),
        ("", "m2", None, True, "moving", "m2"),
        ("", "", None, True, "moving", "m2"),
        ("m1", "", WaitingForStop("m2"), True, "waits", "m1"),
        ("m2", "", None, True, "starting", "m2"),
        ("m2", "", MOVED, True, "starting", "m2"),
        ("m2", "", Placed(Rule.MOVED, machine="m1"), True, "starting-first", "m2"),
        ("m2", "", None, False, "placed", "m2"),
        ("", "m1", None, False, "moving", "m1"),
        ("", "", None, False, "unplaced", ""),
    ],
)
async def test_a_report_says_where_the_move_stands(
    placed: Fleet, machine: str, target: str, reason: Reason | None, is_pending: bool, state: str, where: str
) -> None:
    await placed.put(Decision(A, 1, machine, reason=reason, target=target), A)
    if is_pending:
        await placed.put(Move("m2", "ann", AT), A)
    found = msgspec.json.decode((await placed.ask(f"GET /fleet/v2/units/{A}/move")).body, type=schema.MoveReport)
    assert (found.state, found.machine, found.goal) == (state, where, "m2" if is_pending else "")
    assert found.address == (f"10.0.0.{where[1]}" if where else "")
