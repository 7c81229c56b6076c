"""Logs and states of units by the API, from machines that answer through the store."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from fleetd.agent.answers import Answers
from fleetd.api import asking
from fleetd.model.event import ClusterEvent, EventKind, EventRecord, record_name
from fleetd.model.machine import Capability, Machine, MachineMode
from fleetd.model.machine_request import JournalQuery
from fleetd.model.permission import NO_RIGHTS
from fleetd.model.unit import UnitState
from fleetd.registry.records import EVENTS, encode
from fleetd.store.protocol import Put
from tests.api.conftest import Fleet
from tests.scripted_inspector import ScriptedInspector, entry

ABLE: dict[str, bool] = {Capability.ANSWERS: True}
ONE, TWO = "web@1.service", "web@2.service"


class Cluster:
    """m1 and m2 answer; m3 is older, m4 is parked. ONE is on m1, TWO on all but m1."""

    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet
        self.m1 = ScriptedInspector(entry(1, ONE, "a"), entry(4, ONE, "b"))
        self.m2 = ScriptedInspector(entry(2, TWO, "c"), entry(3, TWO, "d"))
        self.tasks: list[asyncio.Task[None]] = []

    async def fill(self) -> None:
        for name in (ONE, TWO, "web@.service", "idle.service"):
            await self.fleet.add_unit(name)
        await self.fleet.put(Machine("m1", capabilities=ABLE, address="10.0.0.1"), "m1")
        await self.fleet.put(Machine("m2", capabilities=ABLE), "m2")
        await self.fleet.put(Machine("m3", version="0.1"), "m3")
        await self.fleet.put(Machine("m4", capabilities=ABLE, mode=MachineMode.PARKED), "m4")
        for machine, unit in (("m1", ONE), ("m2", TWO), ("m3", TWO), ("m4", TWO)):
            await self.fleet.put(UnitState("loaded", "active", "running", "hash"), machine, unit)
        for id_, inspector in (("m1", self.m1), ("m2", self.m2)):
            answers = Answers(id_, self.fleet.registry, inspector, lambda name: "")
            self.tasks.append(asyncio.create_task(answers.run()))
        await asyncio.sleep(0)

    async def lines(self, query: str) -> list[dict[str, Any]]:
        response = await self.fleet.ask(f"GET /fleet/v2/journal?{query}")
        assert response.status == 200
        return [json.loads(line) for line in response.body.splitlines()]


@pytest.fixture
async def cluster(fleet: Fleet) -> AsyncIterator[Cluster]:
    one = Cluster(fleet)
    await one.fill()
    yield one
    for task in one.tasks:
        task.cancel()
    await asyncio.wait(one.tasks)


def _said(lines: list[dict[str, Any]]) -> list[tuple[str, str]]:
    return [(line["machine"], line["MESSAGE"]) for line in lines if "MESSAGE" in line]


async def test_the_log_of_a_unit_is_read_on_its_machine(cluster: Cluster) -> None:
    assert _said(await cluster.lines(f"unit={ONE}")) == [("m1", "a"), ("m1", "b")]
    assert cluster.m2.asked == []


async def test_logs_of_several_machines_are_merged_and_those_that_cannot_answer_named(cluster: Cluster) -> None:
    lines = await cluster.lines("unit=web@*")
    assert _said(lines) == [("m1", "a"), ("m2", "c"), ("m2", "d"), ("m1", "b")]
    assert lines[4:] == [
        {"machine": "m3", "failure": "it runs fleetd 0.1, which does not answer this: update fleetd there"},
        {"machine": "m4", "failure": "its fleetd is stopped"},
    ]


async def test_what_is_asked_for_reaches_the_machine(cluster: Cluster) -> None:
    lines = await cluster.lines(f"unit={ONE}&lines=1&since=5.5&grep=x&after=m1:s%3D1&after=m2:s%3D2")
    assert cluster.m1.asked == [JournalQuery((ONE,), 1, 5.5, "x", "s=1")]
    assert lines[1:] == [{"machine": "m1", "cut": True}]


async def test_a_machine_that_is_named_is_asked_though_the_unit_has_left(cluster: Cluster) -> None:
    assert _said(await cluster.lines(f"unit={ONE}&machine=m2")) == []
    assert cluster.m2.asked == [JournalQuery((ONE,))]


async def test_a_unit_that_is_nowhere_has_no_entries(cluster: Cluster) -> None:
    assert await cluster.lines("unit=idle.service") == []


async def test_states_are_those_of_systemd_with_the_last_lines(cluster: Cluster) -> None:
    response = await cluster.fleet.ask(f"GET /fleet/v2/status?unit={ONE}&unit={TWO}")
    answer = json.loads(response.body)
    assert [(each["unit"], each["machine"]) for each in answer["units"]] == [(ONE, "m1"), (TWO, "m2")]
    first = answer["units"][0]
    assert (first["address"], first["properties"]["ActiveState"]) == ("10.0.0.1", "active")
    assert [line["MESSAGE"] for line in first["log"]] == ["a", "b"]
    assert [each["machine"] for each in answer["silent"]] == ["m3", "m4"]


async def test_states_on_one_machine(cluster: Cluster) -> None:
    answer = json.loads((await cluster.fleet.ask("GET /fleet/v2/status?unit=web@*&machine=m2")).body)
    assert [(each["unit"], each["machine"]) for each in answer["units"]] == [(TWO, "m2")]
    assert "silent" not in answer


async def test_a_machine_tells_states_only_of_units_that_it_was_asked_about(cluster: Cluster) -> None:
    cluster.m1.others = (TWO, "other.service", ONE)  # as root of that machine can
    cluster.m1.entries = (entry(1, ONE, "a"), b'{"_SYSTEMD_UNIT":[1],"UNIT":"%s"}' % ONE.encode(), b'{"UNIT":{}}')
    answer = json.loads((await cluster.fleet.ask(f"GET /fleet/v2/status?unit={ONE}")).body)
    [told] = answer["units"]
    assert (told["unit"], len(told["log"])) == (ONE, 2)


async def test_nothing_is_left_in_the_store(cluster: Cluster) -> None:
    await cluster.lines("unit=web@*")
    registry = cluster.fleet.registry
    for prefix in (registry.requests_prefix, registry.answers_prefix):
        assert (await registry.store.range(prefix)).items == ()


@pytest.mark.parametrize(
    ("query", "status", "cause"),
    [
        ("", 400, "name units"),
        ("unit=none.service", 404, "there is no unit none.service"),
        ("unit=web@.service", 404, "that can run"),
        ("unit=none*", 404, "there is no unit none*"),
        ("&".join(f"unit=*{number}*" for number in range(33)), 400, "33 patterns of units: 32"),
        ("&".join(f"unit={number}.service" for number in range(700)), 404, "that can run"),
        (f"unit={ONE}&machine=x", 400, "is not the beginning"),
        (f"unit={ONE}&machine=m", 400, "more than one machine"),
        (f"unit={ONE}&lines=-1", 400, "lines=-1: write a whole number"),
        (f"unit={ONE}&lines=10001", 400, "from 0 to 10000"),
        (f"unit={ONE}&since=yesterday", 400, "since=yesterday: write a Unix time in seconds"),
        (f"unit={ONE}&after=s%3D1", 400, "write the id of a machine"),
        (f"unit={ONE}&after=m1:%20", 400, "is no cursor"),
    ],
)
async def test_what_cannot_be_asked_is_refused(cluster: Cluster, query: str, status: int, cause: str) -> None:
    refused, message = await cluster.fleet.refused(f"GET /fleet/v2/journal?{query}")
    assert (refused, cause in message) == (status, True), message
    assert cluster.m1.asked == []


async def test_only_those_who_may_view_are_answered(cluster: Cluster) -> None:
    cluster.fleet.rights = NO_RIGHTS
    for path in ("journal", "status"):
        assert (await cluster.fleet.refused(f"GET /fleet/v2/{path}?unit={ONE}"))[0] == 403


async def test_machines_are_not_asked_too_often(cluster: Cluster) -> None:
    cluster.fleet.reconfigure(now=lambda: 1.0)
    for _ in range(int(asking.QUESTIONS_AT_ONCE)):
        await cluster.lines(f"unit={ONE}")
    status, message = await cluster.fleet.refused(f"GET /fleet/v2/journal?unit={ONE}")
    assert (status, "try again in a second" in message) == (503, True)


async def test_where_a_unit_was_before_is_asked_too(cluster: Cluster) -> None:
    fleet = cluster.fleet
    now_s = 1_764_000_000.0
    fleet.reconfigure(unix_now=lambda: now_s)
    cluster.m2.entries = (entry(2, ONE, "before"), *cluster.m2.entries)
    asked = f"unit={ONE}&previous=true"
    assert _said(await cluster.lines(asked)) == [("m1", "a"), ("m1", "b")]
    for hours, former in ((50, "m3"), (20, "m2"), (2, "m1")):  # the last: where it is again
        moved = ClusterEvent(EventKind.MOVED, ONE, machine="m9", former=former)
        other = ClusterEvent(EventKind.MOVED, TWO, machine="m9", former="m3")
        name = record_name(now_s - hours * 3600, "x")
        record = EventRecord(now_s, (other, moved))
        await fleet.registry.store.transact([], [Put(fleet.registry.archive.key(EVENTS, name), encode(record))])
    assert _said(await cluster.lines(asked)) == [("m1", "a"), ("m2", "before"), ("m1", "b")]
    assert _said(await cluster.lines(f"unit={ONE}")) == [("m1", "a"), ("m1", "b")]


async def test_events_that_cannot_be_read_are_passed_over(cluster: Cluster) -> None:
    fleet = cluster.fleet
    key = fleet.registry.archive.key(EVENTS, record_name(time.time() - 10, "x"))
    await fleet.registry.store.transact([], [Put(key, b"{")])
    assert _said(await cluster.lines(f"unit={ONE}&previous=true")) == [("m1", "a"), ("m1", "b")]
