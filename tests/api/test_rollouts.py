"""Rollouts by the API: how far each member has got, and what operators may say when."""

import json
from collections.abc import Sequence
from typing import Any

import pytest
from msgspec.structs import replace

from fleetd.model.machine import Capability, Machine
from fleetd.model.placement import Decision, Placement
from fleetd.model.rollout import (
    Action,
    Apply,
    Command,
    Failure,
    FormerMember,
    Member,
    Pause,
    PauseCause,
    Phase,
    Rollout,
    Step,
)
from fleetd.model.unit import Proof, TargetState, Unit, UnitState
from fleetd.registry.records import APPLIES, COMMANDS
from fleetd.registry.registry import Registry
from fleetd.store.embedded import EmbeddedStore, inline
from fleetd.store.protocol import Comparison, Conflict, Operation
from tests.api.conftest import JSON, Fleet

GROUP = "w@.service"
ROLLOUTS = "/fleet/v2/rollouts"
AT = 1_800_014_400.0
OLD, NEW = "[Service]\nExecStart=/bin/old\n", "[Service]\nExecStart=/bin/new\n"
LAUNCHED = TargetState.LAUNCHED
ALL = dict.fromkeys(Capability, True)


def member(number: int) -> Member:
    return Member(f"w@{number}.service")


class Rolling:
    """w@1 … w@3 on m1 … m3, which have the old content and are asked to have the new one."""

    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet
        self.record = Rollout("")

    async def begin(self, text: str = NEW, *, complete: bool = True, template: str = "") -> None:
        if template:
            await self.fleet.put(Unit(GROUP, template), GROUP)
        for number in (1, 2, 3):
            await self.fleet.put(Machine(f"m{number}", address=f"10.0.0.{number}", capabilities=ALL), f"m{number}")
            name = f"w@{number}.service"
            unit = Unit(name, text, LAUNCHED, rollout="r1", by="ann", note="faster")
            await self.fleet.put(unit, name)
            await self.fleet.put(Decision(name, 1, f"m{number}"), name)
            await self.place(number, OLD)
        if complete:
            await self.fleet.put(Apply(), "r1")
        generation = max([(await self.fleet.unit(f"w@{number}.service")).generation for number in (1, 2, 3)])
        former = tuple(FormerMember(member(number), 0, was_available=True) for number in (1, 2, 3))
        contents = ((await self.fleet.unit("w@1.service")).content.__class__(OLD),)
        self.record = Rollout("r1", generation, started=AT, by="ann", contents=contents, former=former)

    async def place(self, number: int, text: str, proof: str | None = None, active: str = "active") -> None:
        """The machine has the unit with this content, which is proven ('') or has failed."""
        name, machine = f"w@{number}.service", f"m{number}"
        generation = (await self.fleet.unit(name)).generation
        placement = Placement(machine, name, text, LAUNCHED, generation)
        digest = placement.content.hash
        found = None if proof is None else Proof(generation, digest, failed=proof)
        await self.fleet.put(placement, machine, name)
        state = UnitState("loaded", active, "", digest, LAUNCHED, generation, proof=found)
        await self.fleet.put(state, machine, name)

    async def store(self, *stepped: int, **fields: Any) -> None:
        """The leader writes the rollout; these members have the new content."""
        steps = tuple(Step(member(number), AT + number) for number in stepped)
        self.record = replace(self.record, steps=steps, **fields)
        await self.fleet.put(self.record, GROUP)

    async def shown(self, query: str = f"?group={GROUP}") -> Any:
        answer = await self.fleet.ask(f"GET {ROLLOUTS}{query}")
        assert answer.status == 200
        return json.loads(answer.body).get("rollouts", [])

    async def members(self) -> list[str]:
        [found] = await self.shown()
        return [each["progress"] for each in found["members"]]

    async def post(self, action: str, name: str = GROUP) -> int:
        headers = (*JSON, ("Fleet-User", "ann"))
        return (await self.fleet.ask(f"POST {ROLLOUTS}/{name}", {"action": action}, headers)).status

    async def refused(self, action: str, name: str = GROUP) -> tuple[int, str]:
        return await self.fleet.refused(f"POST {ROLLOUTS}/{name}", {"action": action})


@pytest.fixture
async def rolling(fleet: Fleet) -> Rolling:
    words = (f"i{number}" for number in range(100))
    fleet.reconfigure(unix_now=lambda: AT, new_id=lambda: next(words))
    return Rolling(fleet)


async def test_a_rollout_that_the_leader_has_not_begun_is_pending(rolling: Rolling) -> None:
    await rolling.begin(complete=False)
    [found] = await rolling.shown()
    assert (found["phase"], found["id"], found["by"], found["note"]) == ("pending", "r1", "ann", "faster")
    assert found["status"] == "waits until the request is written completely"
    assert [each["progress"] for each in found["members"]] == ["waiting"] * 3
    await rolling.fleet.put(Apply(), "r1")
    assert (await rolling.shown())[0]["status"] == "waits for the leader"


async def test_each_member_says_how_far_it_has_got(rolling: Rolling) -> None:
    await rolling.begin()
    await rolling.store(1, 2)
    await rolling.place(1, NEW, "")
    await rolling.place(2, NEW)
    [found] = await rolling.shown("?group=w@1.service")
    assert (found["group"], found["phase"], found["status"]) == (GROUP, "running", "running")
    assert (found["updated"], found["total"]) == (2, 3)
    assert found["members"] == [
        {"unit": "w@1.service", "machine": "m1", "address": "10.0.0.1", "progress": "proven", "since": AT + 1},
        {"unit": "w@2.service", "machine": "m2", "address": "10.0.0.2", "progress": "changing", "since": AT + 2},
        {"unit": "w@3.service", "machine": "m3", "address": "10.0.0.3", "progress": "waiting", "since": 0},
    ]
    await rolling.place(2, NEW, "it crashed")
    assert (await rolling.shown())[0]["members"][1]["why"] == "it crashed"


async def test_a_rollout_says_whom_it_waits_for(rolling: Rolling) -> None:
    await rolling.begin()
    await rolling.store(1)
    await rolling.place(1, NEW, "")
    assert (await rolling.shown())[0]["status"] == "running"
    await rolling.place(3, OLD, active="failed")
    assert (await rolling.shown())[0]["status"] == "running", "the one that is down is changed next"


async def test_a_rollout_waits_for_one_that_is_down(rolling: Rolling) -> None:
    await rolling.begin()
    await rolling.store(1, accepted=(), phase=Phase.RUNNING)
    await rolling.place(1, NEW, "it crashed", active="failed")
    assert (await rolling.shown())[0]["status"] == "waits: w@1.service is not active on m1 (MaxUnavailable=1)"


async def test_a_rollout_waits_at_its_canaries(rolling: Rolling) -> None:
    await rolling.begin(template=f"{NEW}[X-Fleet]\nUpdateCanary=1\n")
    await rolling.store(1)
    await rolling.place(1, NEW, "")
    [found] = await rolling.shown()
    assert found["canaries"] == ["w@1.service"]
    assert found["status"].startswith("waits until an operator continues: ")
    await rolling.fleet.put(Unit(GROUP, f"{NEW}[X-Fleet]\nUpdateCanary=1\nUpdateCanarySec=60\n"), GROUP)
    assert (await rolling.shown())[0]["status"].startswith("waits until 1970-01-01 00:01:00 UTC: ")


async def test_a_revert_shows_what_was_given_back_and_what_has_still_to_be(rolling: Rolling) -> None:
    await rolling.begin()
    failure = Failure("w@2.service", "m2", "it crashed")
    await rolling.store(1, phase=Phase.REVERTING, failure=failure, reverted=(member(2),))
    await rolling.place(2, OLD)
    [found] = await rolling.shown()
    assert [(each["progress"], each.get("reverted", False)) for each in found["members"]] == [
        ("waiting", False),
        ("changing", True),
        ("kept", False),
    ]
    assert (found["status"], found["updated"]) == ("reverting because w@2.service failed on m2: it crashed", 2)
    assert found["failure"] == {"unit": "w@2.service", "machine": "m2", "why": "it crashed"}


async def test_a_member_that_has_what_it_is_to_have_is_kept(rolling: Rolling) -> None:
    await rolling.begin(OLD)
    await rolling.store()
    assert await rolling.members() == ["kept"] * 3


async def test_members_that_are_not_to_run_or_whose_machine_is_gone_are_absent(rolling: Rolling) -> None:
    await rolling.begin()
    await rolling.store()
    fleet = rolling.fleet
    unit = await fleet.unit("w@2.service")
    await fleet.registry.write_unit(replace(unit, target=TargetState.INACTIVE), unit)
    await fleet.put(replace(rolling.record, generation=10_000), GROUP)
    await fleet.put(Decision("w@3.service", 1, "m9"), "w@3.service")
    assert await rolling.members() == ["waiting", "absent", "absent"]


async def test_a_rollout_that_is_done_lists_its_members_only_where_it_is_named(rolling: Rolling) -> None:
    await rolling.begin()
    for number in (1, 2, 3):
        await rolling.place(number, NEW, "" if number < 3 else None)
    await rolling.store(phase=Phase.DONE, former=(), contents=())
    [found] = await rolling.shown()
    assert (found["status"], found["updated"], found["total"]) == ("done", 3, 3)
    assert await rolling.members() == ["proven"] * 3
    [found] = await rolling.shown("")
    assert (found["group"], found["phase"], "members" in found) == (GROUP, "done", False)


async def test_a_group_without_a_rollout_is_left_out(rolling: Rolling) -> None:
    await rolling.fleet.add_unit("plain.service")
    assert await rolling.shown("?group=plain.service&group=never.service") == []
    assert await rolling.shown("") == []


async def test_a_global_unit_has_a_member_on_each_machine(rolling: Rolling) -> None:
    fleet, name = rolling.fleet, "g.service"
    text = f"{NEW}[X-Fleet]\nGlobal=true\n"
    await fleet.put(Unit(name, text, LAUNCHED, rollout="r1"), name)
    await fleet.put(Apply(), "r1")
    await fleet.put(Decision(name, 1, machines=2), name)
    generation = (await fleet.unit(name)).generation
    for machine in ("m1", "m2"):
        await fleet.put(Machine(machine, capabilities=ALL), machine)
        await fleet.put(Placement(machine, name, text, LAUNCHED, generation), machine, name)
    await fleet.put(Rollout("r1", generation, steps=(Step(Member(name, "m1"), AT),)), name)
    [found] = await rolling.shown(f"?group={name}")
    assert [(each["machine"], each["progress"]) for each in found["members"]] == [
        ("m1", "changing"),
        ("m2", "changing"),
    ]


@pytest.mark.parametrize("action", list(Action))
async def test_a_command_is_written_for_the_rollout_that_it_is_about(rolling: Rolling, action: Action) -> None:
    await rolling.begin(template=f"{NEW}[X-Fleet]\nUpdateCanary=1\n")
    await rolling.store()
    assert await rolling.post(action, "w@2.service") == 204
    stored = await rolling.fleet.registry.read(COMMANDS)
    assert stored == {(GROUP,): Command("i0", action, "r1", "ann", AT)}
    assert (await rolling.shown())[0]["asked"] == action
    await rolling.store(command="i0")
    assert "asked" not in (await rolling.shown())[0]


async def test_a_paused_rollout_says_by_whom(rolling: Rolling) -> None:
    await rolling.begin()
    await rolling.store(pause=Pause(PauseCause.OPERATOR, "ann"))
    [found] = await rolling.shown()
    assert (found["paused"], found["status"]) == ("operator", "paused by ann")


async def test_commands_without_a_meaning_are_refused(rolling: Rolling) -> None:
    assert await rolling.refused("pause") == (
        404,
        f"unknown group {GROUP}: there is no unit of this name, and no instance of it",
    )
    await rolling.fleet.add_unit("plain.service")
    status, why = await rolling.refused("pause", "plain.service")
    assert (status, why) == (
        409,
        "plain.service has no rollout: nothing of it is being changed one after the other",
    )
    await rolling.begin()
    await rolling.store()
    status, why = await rolling.refused("continue")
    assert (status, why) == (409, f"the rollout of {GROUP} has no canaries (UpdateCanary=) to go on past")
    await rolling.store(phase=Phase.DONE)
    assert await rolling.refused("resume") == (409, f"the rollout of {GROUP} is over: done")
    status, why = await rolling.refused("stop")
    assert (status, why) == (400, 'invalid action "stop": expect pause, resume, continue, restart, undo')


async def test_a_restart_marks_the_launched_units_and_then_its_own_end(rolling: Rolling) -> None:
    await rolling.begin()
    for number in (1, 2, 3):
        await rolling.place(number, NEW, "")
    await rolling.store(phase=Phase.DONE)
    await rolling.fleet.add_unit("w@4.service", target="loaded")
    before = {number: await rolling.fleet.unit(f"w@{number}.service") for number in (1, 2, 3, 4)}
    assert await rolling.post("restart") == 204
    after = {number: await rolling.fleet.unit(f"w@{number}.service") for number in (1, 2, 3, 4)}
    assert after[4] == before[4]
    for number in (1, 2, 3):
        expected = replace(before[number], restart_of=before[number].generation, rollout="i0", note="", at=AT)
        assert replace(after[number], generation=before[number].generation) == expected
    assert (await rolling.fleet.registry.read(APPLIES))["i0",] == Apply("ann", AT)
    [found] = await rolling.shown()
    assert (found["phase"], found["id"], await rolling.members()) == ("pending", "i0", ["waiting"] * 3)


async def test_a_restart_that_has_no_meaning_is_refused_and_changes_nothing(rolling: Rolling) -> None:
    assert (await rolling.refused("restart"))[0] == 404
    await rolling.fleet.add_unit("plain.service")
    status, why = await rolling.refused("restart", "plain.service")
    assert (status, why) == (
        409,
        "no unit of plain.service is launched, so there is nothing to restart: start it instead",
    )
    await rolling.begin()
    status, why = await rolling.refused("restart")
    assert (status, why) == (409, f"a rollout of {GROUP} is not over (waits for the leader): wait for its end")
    await rolling.store(phase=Phase.REVERTED)
    status, why = await rolling.refused("restart")
    assert status == 409
    assert why.startswith(
        "w@1.service runs another content than was asked for last: its rollout is reverted to the former content. "
    )
    assert list(await rolling.fleet.registry.read(APPLIES)) == [("r1",)]


async def test_a_restart_that_was_not_written_completely_can_be_asked_for_again(rolling: Rolling) -> None:
    await rolling.begin(OLD, complete=False)
    assert await rolling.post("restart") == 204
    assert [(await rolling.fleet.unit(f"w@{number}.service")).rollout for number in (1, 2, 3)] == ["i0"] * 3


class ContestedStore(EmbeddedStore):
    """A store in which so many of the next guarded writes conflict with another client's."""

    conflicts = 0

    async def transact(self, comparisons: Sequence[Comparison], operations: Sequence[Operation]) -> int:
        if comparisons and self.conflicts:
            self.conflicts -= 1
            raise Conflict
        return await super().transact(comparisons, operations)


@pytest.mark.parametrize(("conflicts", "status"), [(2, 204), (100, 409)])
async def test_a_restart_is_tried_again_while_others_write_its_units(conflicts: int, status: int) -> None:
    store = ContestedStore(":memory:", offload=inline)
    fleet = Fleet(Registry(store))
    await fleet.add_unit("w@1.service", target="launched")
    store.conflicts = conflicts
    answer = await fleet.ask(f"POST {ROLLOUTS}/{GROUP}", {"action": "restart"})
    assert answer.status == status
    assert len(await fleet.registry.read(APPLIES)) == (status == 204)
    await store.close()


async def applied(fleet: Fleet, text: str, **units: str) -> None:
    """Apply a template of w with this text, and these instances with texts of their own."""
    named = [{"name": GROUP, "text": text}] + [{"name": f"w@{key}.service", "text": units[key]} for key in units]
    assert (await fleet.ask("POST /fleet/v2/apply", {"units": named})).status == 200


async def undo(fleet: Fleet, to: int = 0) -> int:
    return (await fleet.ask(f"POST {ROLLOUTS}/{GROUP}", {"action": "undo", "to": to})).status


async def texts(fleet: Fleet) -> dict[str, str]:
    return {name: unit.text for name, unit in (await fleet.registry.units()).items()}


async def test_undo_returns_to_the_last_version_and_undo_again_takes_that_back(fleet: Fleet) -> None:
    await fleet.add_unit("w@1.service", OLD, target="launched")
    await applied(fleet, OLD)
    await applied(fleet, NEW)
    old, new = dict.fromkeys([GROUP, "w@1.service"], OLD), dict.fromkeys([GROUP, "w@1.service"], NEW)
    assert await texts(fleet) == new
    for expected in (old, new):
        assert await undo(fleet) == 204
        assert await texts(fleet) == expected
    [found] = json.loads((await fleet.ask(f"GET {ROLLOUTS}?group={GROUP}")).body)["rollouts"]
    assert (found["phase"], found["note"]) == ("pending", "undo: version 3")


async def test_undo_to_a_version_creates_no_unit_that_is_gone(fleet: Fleet) -> None:
    await applied(fleet, f"{OLD}\n[X-Fleet]\nInstances=2\n")
    await applied(fleet, NEW)
    before = await fleet.unit("w@2.service")
    await fleet.registry.write(fleet.registry.unit_write_set("w@2.service", before, None))
    assert await undo(fleet, 1) == 204
    assert {name: "/bin/old" in text for name, text in (await texts(fleet)).items()} == {
        GROUP: True,
        "w@1.service": True,
    }


@pytest.mark.covers("B.10")
async def test_undo_without_a_version_to_return_to_is_refused(fleet: Fleet) -> None:
    async def refused(to: int) -> tuple[int, str]:
        return await fleet.refused(f"POST {ROLLOUTS}/{GROUP}", {"action": "undo", "to": to})

    assert (await refused(0))[0] == 404
    await fleet.add_unit("w@1.service", OLD)
    reason = f"{GROUP} has no version that differs from what it holds (there are none: only applies make versions)"
    assert await refused(0) == (409, reason)
    await applied(fleet, OLD)
    assert await refused(5) == (409, f"{GROUP} has no version 5 (there are 1, 2)")
    assert (await refused(0))[0] == 409
    assert await refused(1) == (409, f"{GROUP} holds version 1 already")


async def test_nothing_is_restarted_while_a_machine_could_not_say_whether_a_unit_is_healthy(rolling: Rolling) -> None:
    await rolling.begin()
    for number in (1, 2, 3):
        await rolling.place(number, NEW, "")
    await rolling.store(phase=Phase.DONE)
    await rolling.fleet.put(Machine("m9", version="1.9"), "m9")
    before = await rolling.fleet.unit("w@1.service")
    assert await rolling.refused("restart") == (
        409,
        "rollouts cannot be used yet: machine m9 runs fleetd 1.9, which does not know of them; "
        "update fleetd there first",
    )
    assert await rolling.fleet.unit("w@1.service") == before


async def test_a_rollout_says_which_units_of_its_request_come_first(rolling: Rolling) -> None:
    await rolling.begin(f"[Unit]\nAfter=base@%i.service nothing.service\n{NEW}")
    await rolling.store()
    members = [Member(f"base@{number}.service") for number in (1, 2, 3)]
    for number, base in enumerate(members, start=1):
        await rolling.fleet.put(Unit(base.unit, NEW, LAUNCHED, rollout="r1"), base.unit)
        await rolling.fleet.put(Decision(base.unit, 1, f"m{number}"), base.unit)
        await rolling.fleet.put(Placement(f"m{number}", base.unit, OLD, LAUNCHED, 1), f"m{number}", base.unit)
    generation = (await rolling.fleet.unit("base@3.service")).generation
    former = tuple(FormerMember(base, 0, was_available=True) for base in members)
    record = replace(rolling.record, generation=generation, former=former)
    await rolling.fleet.put(record, "base@.service")
    [found] = await rolling.shown()
    words = "waits until these are proven, which come first: base@1.service, base@2.service, base@3.service"
    assert (found["group"], found["status"]) == (GROUP, words)
    statuses = {each["group"]: each["status"] for each in await rolling.shown("")}
    assert statuses[GROUP] == words
    assert not statuses["base@.service"].startswith("waits until these")
    await rolling.fleet.put(replace(record, phase=Phase.DONE), "base@.service")
    assert (await rolling.shown())[0]["status"] == "running"
