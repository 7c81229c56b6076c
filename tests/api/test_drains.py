"""The drain of a machine: what is asked for, what is refused, and how far it has got."""

from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from fleetd.api import schema
from fleetd.model.machine import Capability, Cordon, DrainRequest, Machine, MachineMode, MachineSettings
from fleetd.model.placement import Decision, Placement
from fleetd.model.reason import (
    COMPLETED,
    INFEASIBLE,
    MOVED,
    BudgetWait,
    DrainEnded,
    Eviction,
    MayFinish,
    NotMoved,
    NowhereElse,
    Placed,
    Reason,
    Rejection,
    RejectionCount,
    RejectionKind,
    Rule,
    Stopping,
    Unavailability,
    UnavailableMember,
    WaitingForRemoval,
    WaitingForStop,
)
from fleetd.model.reboot import Reboot, RebootPhase
from fleetd.model.unit import Proof, TargetState, UnitState
from fleetd.registry.records import PLACEMENTS, STATES, Synced
from fleetd.store.protocol import Delete
from tests.api.conftest import JSON, Fleet

DRAIN = "/fleet/v2/machines/m1/drain"
CORDON = "/fleet/v2/machines/m1/cordon"
AT = 1_800_014_400.0
ABLE = {Capability.CORDON: True}
TEXT = "[Service]\nExecStart=/bin/true\n"
EVICTED = WaitingForStop("m1", Eviction("m1", Rejection(RejectionKind.DRAINED)))
NO_SSD = RejectionCount(Rejection(RejectionKind.METADATA, "disk=ssd"), 4)


@pytest.fixture
async def machine(fleet: Fleet) -> Fleet:
    """A cluster of the machines m1 and m2."""
    fleet.reconfigure(unix_now=lambda: AT)
    await fleet.put(Machine("m1", address="10.0.0.1", capabilities=ABLE), "m1")
    await fleet.put(Machine("m2", address="10.0.0.2", capabilities=ABLE), "m2")
    return fleet


async def drain(fleet: Fleet, by: str = "ann", **body: Any) -> None:
    response = await fleet.ask(f"PUT {DRAIN}", body, (*JSON, ("Fleet-User", by)))
    assert (response.status, response.body) == (204, b"")


async def settings(fleet: Fleet) -> dict[str, MachineSettings]:
    return await fleet.registry.settings()


async def report(fleet: Fleet, *asked: str) -> schema.DrainReport:
    query = "&".join(f"unit={name}" for name in asked)
    return msgspec.json.decode((await fleet.ask(f"GET {DRAIN}?{query}")).body, type=schema.DrainReport)


async def place(
    fleet: Fleet,
    name: str,
    reason: Reason | None = None,
    text: str = TEXT,
    target: TargetState = TargetState.LAUNCHED,
    on: str = "m1",
    **decided: Any,
) -> Placement:
    """The leader has placed a unit, and its machine reports it as active."""
    placement = Placement(on, name, text, target, 1, prove_after_s=10.0 if reason is MOVED else None)
    await fleet.put(placement, on, name)
    await fleet.put(Decision(name, 1, **{"machine": on, "reason": reason, **decided}), name)
    active = "active" if target is not TargetState.INACTIVE else "deactivating"
    state = UnitState("loaded", active, "running", placement.content.hash, TargetState.LAUNCHED, 1)
    await fleet.put(state, on, name)
    return placement


async def test_a_drain_cordons_the_machine_and_says_who_asked_and_until_when(machine: Fleet) -> None:
    await drain(machine, why="kernel", deadline=900, withGlobals=True, force=True)
    request = DrainRequest("ann", AT, AT + 900, with_globals=True, force=True)
    assert await settings(machine) == {"m1": MachineSettings(cordon=Cordon("kernel", "ann", AT), drain=request)}
    listed = msgspec.json.decode((await machine.ask("GET /fleet/v1/machines")).body)["machines"][0]
    assert listed["drain"] == {"by": "ann", "at": AT, "deadline": AT + 900, "withGlobals": True, "force": True}


async def test_a_cordon_that_is_there_stays_as_it_is(machine: Fleet) -> None:
    await machine.ask(f"PUT {CORDON}", {"why": "disk"}, (*JSON, ("Fleet-User", "eve")))
    await drain(machine, why="kernel")
    assert (await settings(machine))["m1"].cordon == Cordon("disk", "eve", AT)


async def test_the_same_request_again_changes_nothing_and_another_one_counts(machine: Fleet) -> None:
    await drain(machine)
    await drain(machine, by="bob")
    assert (await settings(machine))["m1"].drain == DrainRequest("ann", AT)
    await drain(machine, by="bob", force=True)
    assert (await settings(machine))["m1"].drain == DrainRequest("bob", AT, force=True)


async def test_the_end_of_a_drain_leaves_the_cordon_and_the_end_of_the_cordon_ends_the_drain(machine: Fleet) -> None:
    await drain(machine)
    for _ in range(2):
        assert (await machine.ask(f"DELETE {DRAIN}")).status == 204
        assert await settings(machine) == {"m1": MachineSettings(cordon=Cordon("", "ann", AT))}
    await drain(machine)
    assert (await machine.ask(f"DELETE {CORDON}")).status == 204
    assert await settings(machine) == {}


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"why": "two\nlines"}, "why has to be one line of at most 200 printable characters"),
        ({"deadline": -1}, "deadline has to be a number of seconds from now, at most ten years; 0 for none"),
        ({"deadline": 1e300}, "deadline has to be a number of seconds from now, at most ten years; 0 for none"),
        ({"force": "yes"}, "unable to decode body: Expected `bool`, got `str` - at `$.force`"),
    ],
)
async def test_a_body_that_is_no_request_is_refused(machine: Fleet, body: Any, said: str) -> None:
    assert await machine.refused(f"PUT {DRAIN}", body) == (400, said)
    assert await settings(machine) == {}


async def test_an_unknown_machine_is_refused(machine: Fleet) -> None:
    for method, body in (("PUT", {}), ("GET", None), ("DELETE", None)):
        status, said = await machine.refused(f"{method} /fleet/v2/machines/m9/drain", body)
        assert (status, said) == (404, "unknown machine: give the full id of one that is or was in the cluster")


@pytest.mark.parametrize(
    ("mode", "word"), [(MachineMode.PARKED, "parked"), (MachineMode.LEAVING, "leaving"), (None, "absent")]
)
async def test_a_machine_that_does_not_take_part_is_not_drained_and_says_so(
    fleet: Fleet, mode: MachineMode | None, word: str
) -> None:
    await fleet.put(Machine("m1", mode=mode, capabilities=ABLE) if mode else Synced("s"), *["m1"])
    status, said = await fleet.refused(f"PUT {DRAIN}", {})
    assert (status, said[: 15 + len(word)]) == (409, f"the machine is {word}")
    await fleet.put(MachineSettings(cordon=Cordon(), drain=DrainRequest("ann", AT)), "m1")
    found = await report(fleet)
    assert (found.drained, found.hold[: 15 + len(word)]) == (bool(mode), f"the machine is {word}")


async def test_a_machine_that_is_not_drained_shows_what_is_on_it(machine: Fleet) -> None:
    await place(machine, "a.service", MOVED)
    found = await report(machine)
    assert (found.machine, found.address, found.drain, found.drained) == ("m1", "10.0.0.1", None, False)
    assert [(unit.unit, unit.state) for unit in found.units] == [("a.service", "pending")]


FAILED_THERE = NotMoved("m2", Rejection(RejectionKind.FAILED, "exit-code"), drained_at=AT)
WAIT = BudgetWait(1, 1, (UnavailableMember("b.service", "m2", Unavailability.UNPROVEN),))


@pytest.mark.parametrize(
    ("reason", "request_", "state", "words"),
    [
        (WAIT, {}, "waits", "waits: b.service is not proven yet on m2 (MaxUnavailable=1)"),
        (WAIT, {"force": True}, "pending", ""),
        (NowhereElse((NO_SSD,)), {}, "stays", "stays on the drained machine: it fits nowhere else: metadata disk=ssd"),
        (NowhereElse((NO_SSD,)), {"force": True}, "pending", ""),
        (MayFinish(AT + 60), {"deadline": 60}, "finishing", "may finish on the drained machine, until 2027-01-15"),
        (MayFinish(AT + 60), {"deadline": 90}, "pending", ""),
        (DrainEnded(AT + 60), {"deadline": 60}, "stays", "stays: the drain of its machine ended at 2027-01-15 12:01"),
        (DrainEnded(AT), {"deadline": 60}, "pending", ""),
        (FAILED_THERE, {}, "stays", "was not moved to m2: failed there: exit-code"),
        (FAILED_THERE, {"force": True}, "pending", ""),
        (NotMoved("m2", Rejection(RejectionKind.FAILED, "exit-code"), drained_at=AT - 60), {}, "pending", ""),
        (WaitingForStop("m2"), {}, "waits", "waits until m2 has stopped it"),
        (WaitingForRemoval("m2"), {"force": True}, "waits", "waits until m2 has removed it"),
        (None, {}, "pending", ""),
    ],
)
async def test_what_is_still_there_says_why(
    machine: Fleet, reason: Reason | None, request_: dict[str, Any], state: str, words: str
) -> None:
    await place(machine, "a.service", reason)
    await drain(machine, **request_)
    [unit] = (await report(machine)).units
    assert (unit.state, unit.reason[: len(words)], bool(unit.reason)) == (state, words, bool(words))


async def test_what_starts_elsewhere_first_says_where_until_it_stops(machine: Fleet) -> None:
    placement = await place(machine, "a.service", Placed(Rule.MOVED, machine="m1"))
    await machine.put(replace(placement, superseded=True, hands_over=True), "m1", "a.service")
    await machine.put(Decision("a.service", 1, "m2", reason=Placed(Rule.MOVED, machine="m1")), "a.service")
    await drain(machine)
    [unit] = (await report(machine, "a.service")).units
    assert (unit.state, unit.machine, unit.address) == ("starting-first", "m2", "10.0.0.2")
    assert unit.reason == "starts there first, and runs on m1 until it is proven"
    await machine.put(replace(placement, target=TargetState.INACTIVE), "m1", "a.service")
    [unit] = (await report(machine, "a.service")).units
    assert (unit.state, unit.machine) == ("stopping", "")


async def test_the_data_of_the_reasons_is_told(machine: Fleet) -> None:
    await place(machine, "a.service", WAIT)
    await place(machine, "b.service", NowhereElse((NO_SSD,)))
    await place(machine, "c.service", DrainEnded(AT))
    await drain(machine)
    waits, nowhere, _ = (unit.cause for unit in (await report(machine)).units)
    assert waits is not None
    assert (waits.kind, waits.limit, waits.unavailable) == ("budget", 1, 1)
    assert waits.members == (schema.UnavailableMember("b.service", "m2", "unproven"),)
    assert nowhere is not None
    assert nowhere.rejections == (schema.RejectionCount("metadata", "metadata disk=ssd missing", 4, "disk=ssd"),)
    reports = msgspec.json.decode((await machine.ask("GET /fleet/v2/units?name=c.service")).body)
    assert reports["units"][0]["cause"] == {"kind": "drain-ended", "until": AT}


async def test_what_leaves_says_where_it_goes_and_the_machine_is_drained_when_nothing_is_left(machine: Fleet) -> None:
    await place(machine, "a.service", EVICTED, target=TargetState.INACTIVE, machine="")
    await machine.put(Decision("a.service", 1, reason=EVICTED, target="m2"), "a.service")
    await place(machine, "b.service", EVICTED, target=TargetState.INACTIVE, machine="")
    await drain(machine)
    found = await report(machine)
    assert [(unit.unit, unit.state, unit.machine, unit.address) for unit in found.units] == [
        ("a.service", "moving", "m2", "10.0.0.2"),
        ("b.service", "stopping", "", ""),
    ]
    assert found.units[0].reason == "machine m1 is being drained; waits until m1 has stopped it"
    assert not found.drained
    for name in ("a.service", "b.service"):
        await remove(machine, name)
    found = await report(machine)
    assert (found.drained, found.units) == (True, ())


async def remove(fleet: Fleet, name: str) -> None:
    """The machine has reported the unit as gone, and the leader has deleted its placement."""
    registry = fleet.registry
    keys = (registry.key(PLACEMENTS, "m1", name), registry.key(STATES, "m1", name))
    await registry.store.transact([], [Delete(key) for key in keys])


@pytest.mark.parametrize(
    ("request_", "state", "drained"),
    [({}, "global", True), ({"withGlobals": True}, "waits", False)],
)
async def test_global_units_stay_unless_asked(
    machine: Fleet, request_: dict[str, Any], state: str, drained: bool
) -> None:
    await place(machine, "log.service", text=f"{TEXT}[X-Fleet]\nGlobal=true\n", machine="", machines=2)
    await drain(machine, **request_)
    found = await report(machine, "log.service")
    assert ([unit.state for unit in found.units], found.drained) == ([state], drained)


async def test_a_global_unit_that_has_not_left_at_the_deadline_stays(machine: Fleet) -> None:
    await place(machine, "log.service", text=f"{TEXT}[X-Fleet]\nGlobal=true\n", machine="", machines=2)
    await drain(machine, withGlobals=True, deadline=60)
    machine.reconfigure(unix_now=lambda: AT + 60)
    [unit] = (await report(machine)).units
    assert (unit.state, unit.cause and unit.cause.kind) == ("stays", "drain-ended")
    await remove(machine, "log.service")
    assert (await report(machine, "log.service")).units == ()


async def test_what_an_agent_keeps_running_since_a_restore_stays(machine: Fleet) -> None:
    await machine.put(UnitState("loaded", "active", "running", orphan=True), "m1", "a.service")
    await machine.put(UnitState("loaded", "active", "running"), "m1", "b.service")
    await machine.put(UnitState("loaded", "inactive", "dead"), "m1", "c.service")
    await drain(machine)
    found = await report(machine)
    assert [(unit.unit, unit.state) for unit in found.units] == [("a.service", "stays"), ("b.service", "stopping")]
    assert not found.drained


@pytest.mark.parametrize(
    ("changes", "state", "words"),
    [
        ({}, "starting", "moved there"),
        ({"proof": "good"}, "proven", "moved there"),
        ({"proof": "exit-code 1"}, "failed", "exit-code 1"),
        ({"active": "failed", "result": "exit-code"}, "failed", "exit-code"),
    ],
)
async def test_what_has_left_is_followed_until_it_is_proven(
    machine: Fleet, changes: dict[str, Any], state: str, words: str
) -> None:
    placement = await place(machine, "a.service", MOVED, on="m2")
    proof = changes.pop("proof", "")
    if proof:
        failed = "" if proof == "good" else proof
        changes["proof"] = Proof(1, placement.content.hash, "id", failed)
    reported = UnitState("loaded", "active", "running", placement.content.hash, TargetState.LAUNCHED, 1)
    await machine.put(msgspec.structs.replace(reported, **changes), "m2", "a.service")
    await drain(machine)
    [unit] = (await report(machine, "a.service", "gone.service", "", "no/name")).units
    assert unit == schema.DrainedUnit("a.service", state, "m2", "10.0.0.2", words, unit.cause)


@pytest.mark.parametrize(
    ("decision", "state"),
    [
        (Decision("a.service", 1, reason=EVICTED, target="m2"), "moving"),
        (Decision("a.service", 1, reason=EVICTED), "moving"),
        (Decision("a.service", 1, reason=COMPLETED, completed=1), "moved"),
        (Decision("a.service", 1, reason=INFEASIBLE), "unplaced"),
        (Decision("a.service", 1, reason=Stopping(("m1",))), "stopping"),
        (Decision("a.service", 1, "m2", reason=MOVED), "starting"),
    ],
)
async def test_what_has_left_and_is_not_reported_yet(machine: Fleet, decision: Decision, state: str) -> None:
    await machine.put(decision, "a.service")
    await drain(machine)
    [unit] = (await report(machine, "a.service")).units
    assert unit.state == state


async def test_a_loaded_unit_has_moved_when_its_machine_has_it(machine: Fleet) -> None:
    await place(machine, "a.service", MOVED, target=TargetState.LOADED, on="m2")
    await drain(machine)
    assert [unit.state for unit in (await report(machine, "a.service")).units] == ["starting"]
    await machine.put(UnitState("loaded", target=TargetState.LOADED, generation=1), "m2", "a.service")
    assert [unit.state for unit in (await report(machine, "a.service")).units] == ["moved"]


async def test_the_drain_of_a_machine_that_is_to_reboot_is_reported_too(machine: Fleet) -> None:
    await place(machine, "web.service", WAIT)
    await machine.put(Reboot("q1", "b1", by="bob", began=AT, deadline=AT + 900), "m1")
    found = await report(machine)
    assert (found.drain, found.drained) == (schema.Drain("bob", AT, AT + 900), False)
    assert [(unit.unit, unit.state) for unit in found.units] == [("web.service", "waits")]
    await machine.put(Reboot("q1", "b1", RebootPhase.ORDERED), "m1")
    assert (await report(machine)).drain is None
    await machine.registry.store.transact([], [Delete("/fleet/machines/m1")])
    assert (await report(machine)).hold == "the machine is absent: the drain goes on when it is back"
