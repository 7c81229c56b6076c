"""Requests that a machine answers, on a virtual clock."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from fleetd.agent.answers import AT_ONCE, WAITING, Answers
from fleetd.model.machine_request import (
    LEASE_S,
    JournalQuery,
    MachineAnswer,
    MachineRequest,
    decode_answer,
    encode_request,
)
from fleetd.registry.registry import Registry
from fleetd.store.embedded import EmbeddedStore, inline
from fleetd.store.protocol import Put
from fleetd.systemd.protocol import ManagerUnavailable
from tests.scripted_inspector import ScriptedInspector, entry

WEB = "web.service"
JOURNAL = MachineRequest("m9", JournalQuery((WEB,)))


class Asked:
    """A machine that answers, and who asks it."""

    def __init__(self) -> None:
        self.store = EmbeddedStore(":memory:", offload=inline)
        self.registry = Registry(self.store)
        self.inspector = ScriptedInspector(entry(1, WEB, "a"), entry(2, "other.service"), entry(3, WEB, "b"))
        shadows = {"ssh.service": "/lib/systemd/system/ssh.service"}
        self.answers = Answers("m1", self.registry, self.inspector, lambda name: shadows.get(name, ""))
        self.task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self.task = asyncio.create_task(self.answers.run())

    async def write(self, request: MachineRequest | bytes, id_: str = "r1", *, lease: int | None = None) -> int:
        value = request if isinstance(request, bytes) else encode_request(request)
        lease = await self.store.grant(LEASE_S) if lease is None else lease
        await self.store.transact([], [Put(self.registry.request_key("m1", id_), value, lease)])
        return lease

    async def read(self, id_: str = "r1") -> MachineAnswer | None:
        await asyncio.sleep(0.5)
        item = await self.store.get(self.registry.answer_key(id_, "m1"))
        return decode_answer(item.value) if item else None


@pytest.fixture
async def asked() -> AsyncIterator[Asked]:
    one = Asked()
    one.start()
    await asyncio.sleep(0.1)
    yield one
    assert one.task is not None
    one.task.cancel()
    await asyncio.wait([one.task])
    await one.store.close()


async def test_a_request_for_a_journal_is_answered(asked: Asked) -> None:
    await asked.write(JOURNAL)
    answer = await asked.read()
    assert answer is not None
    assert [bytes(line) for line in answer.entries] == [entry(1, WEB, "a"), entry(3, WEB, "b")]


async def test_a_request_for_states_is_answered(asked: Asked) -> None:
    await asked.write(MachineRequest("m9", status=(WEB,)))
    answer = await asked.read()
    assert answer is not None
    assert [(each.unit, each.properties["ActiveState"]) for each in answer.units] == [(WEB, "active")]
    assert asked.inspector.asked == []


async def test_a_request_that_was_there_before_is_answered(asked: Asked) -> None:
    assert asked.task is not None
    asked.task.cancel()
    await asyncio.wait([asked.task])
    await asked.write(JOURNAL)
    asked.start()
    assert await asked.read() is not None


async def test_the_answer_goes_with_the_lease_of_the_request(asked: Asked) -> None:
    lease = await asked.write(JOURNAL)
    assert await asked.read() is not None
    await asked.store.revoke(lease)
    assert await asked.read() is None


@pytest.mark.parametrize(
    ("request_", "cause"),
    [
        (b"{}", "does not understand"),
        (MachineRequest("m9", JournalQuery(("*.service",))), "invalid character"),
        (MachineRequest("m9", JournalQuery(("ssh.service",))), "is not fleet's there"),
        (MachineRequest("m9", status=("ssh.service",)), "is not fleet's there"),
        (MachineRequest("m9", JournalQuery(("system.slice",))), "is not fleet's there"),
        (MachineRequest("m9", status=("session-1.scope",)), "is not fleet's there"),
    ],
)
async def test_what_must_not_be_told_is_refused(asked: Asked, request_: MachineRequest | bytes, cause: str) -> None:
    await asked.write(request_)
    answer = await asked.read()
    assert answer is not None
    assert cause in answer.failure
    assert asked.inspector.asked == []


async def test_while_systemd_is_not_connected_nothing_is_told_and_that_is_no_bug(
    asked: Asked, caplog: pytest.LogCaptureFixture
) -> None:
    def shadows(name: str) -> str:
        raise ManagerUnavailable(f"look for {name}: not connected to systemd yet")

    assert asked.task is not None
    asked.task.cancel()
    await asyncio.wait([asked.task])
    asked.answers = Answers("m1", asked.registry, asked.inspector, shadows)
    asked.start()
    await asked.write(JOURNAL)
    answer = await asked.read()
    assert answer is not None
    assert answer.failure == "its fleetd is not connected to systemd yet: try again"
    assert not caplog.records


async def test_why_the_journal_cannot_be_read_is_answered(asked: Asked) -> None:
    asked.inspector.failure = "journalctl fails: no journal files were found"
    await asked.write(JOURNAL)
    answer = await asked.read()
    assert answer is not None
    assert answer.failure == asked.inspector.failure


async def test_a_journal_that_does_not_answer_is_left_in_time(asked: Asked) -> None:
    asked.inspector.hangs = True
    await asked.write(JOURNAL)
    await asyncio.sleep(4)
    answer = await asked.read()
    assert answer is not None
    assert "gave no answer within 4 s" in answer.failure
    assert asked.inspector.waiting == 0


async def test_reading_ends_with_whoever_asked(asked: Asked) -> None:
    asked.inspector.hangs = True
    lease = await asked.write(JOURNAL)
    await asyncio.sleep(0.5)
    assert asked.inspector.waiting == 1
    await asked.store.revoke(lease)
    await asyncio.sleep(0.5)
    assert asked.inspector.waiting == 0


async def test_few_requests_are_answered_at_once(asked: Asked) -> None:
    asked.inspector.hangs = True
    for number in range(AT_ONCE + WAITING + 5):
        await asked.write(JOURNAL, f"r{number}")
    await asyncio.sleep(0.5)
    assert asked.inspector.waiting == AT_ONCE
    refused = await asked.read(f"r{AT_ONCE + WAITING + 4}")
    assert refused is not None
    assert "try again" in refused.failure


async def test_a_request_without_a_lease_is_not_answered(asked: Asked) -> None:
    await asked.write(JOURNAL, lease=0)
    assert await asked.read() is None
