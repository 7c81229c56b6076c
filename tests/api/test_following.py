"""Logs that are followed, and long answers: machines stream them over TLS to the server that was asked."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from fleetd.agent.answers import FOLLOWED, FOLLOWED_FOR_USER, Answers
from fleetd.api.asking import TOO_MUCH, Item
from fleetd.api.http import StreamedResponse
from fleetd.api.peer_streams import LOST, MAX_OF_MACHINE, MAX_STREAMS, PeerListener, PeerStreams, pass_on
from fleetd.api.sockets import ListenError
from fleetd.config.options import Address
from fleetd.model.answer_stream import ALIVE
from fleetd.model.certificate import WORKER
from fleetd.model.machine import Capability, Machine
from fleetd.model.machine_request import (
    ANSWER_S,
    MAX_LINES,
    MAX_STREAMED_BYTES,
    MAX_TEXT_BYTES,
    JournalQuery,
    MachineAnswer,
)
from fleetd.model.unit import UnitState
from fleetd.store.protocol import Delete
from fleetd.systemd.inspector import Entries
from fleetd.trust.dialing import CannotDial, dial
from tests.api.conftest import Fleet
from tests.certificates import TestAuthority, TestTrust
from tests.scripted_inspector import ScriptedInspector, entry

WEB = "web.service"
FOLLOW = f"GET /fleet/v2/journal?unit={WEB}&follow=true"
PATIENCE_S = 60.0


class OwnTrust:
    """The certificates of a machine that dials."""

    def __init__(self, authority: TestAuthority, id_: str) -> None:
        self.authority = authority
        self.certificate = authority.machine(id_, WORKER)
        self.expires_at_s = 1.0

    def client_context(self) -> Any:
        return self.authority.client_context(self.certificate)


class Cluster:
    """m1 is asked, and listens for its peers; the unit is on m2 and m3."""

    def __init__(self, fleet: Fleet, folder: Path) -> None:
        self.fleet = fleet
        self.authority = TestAuthority(folder)
        self.trust = TestTrust(self.authority)
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.streams = PeerStreams(self.trust, lambda: f"127.0.0.1:{self.port}")
        self.listener = PeerListener(self.streams)
        self.inspectors = {id_: ScriptedInspector(entry(1, WEB, "first")) for id_ in ("m2", "m3")}
        self.own = {id_: OwnTrust(self.authority, id_) for id_ in self.inspectors}
        self.revoked: set[str] = set()  # by m2 and m3
        self.answers: dict[str, asyncio.Task[None]] = {}

    async def start(self) -> None:
        self.listener.start([Address(host="127.0.0.1", port=self.port)])
        self.fleet.reconfigure(machine=lambda: Machine("m1"), peers=self.streams)
        await self.fleet.add_unit(WEB)
        for id_ in self.inspectors:
            await self.fleet.put(Machine(id_, capabilities={Capability.ANSWERS: True}), id_)
            await self.fleet.put(UnitState("loaded", "active", "running", "hash"), id_, WEB)
            self.begin(id_)

    def begin(self, id_: str, *, can_dial: bool = True) -> None:
        """Have a machine answer."""
        if id_ in self.answers:
            self.answers[id_].cancel()

        async def connect(address: str, machine: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
            return await dial(self.own[id_], lambda identity: identity.name in self.revoked, address, machine)

        answers = Answers(
            id_, self.fleet.registry, self.inspectors[id_], lambda name: "", connect if can_dial else None
        )
        self.answers[id_] = asyncio.create_task(answers.run())

    async def close(self) -> None:
        await self.listener.stop()
        for task in self.answers.values():
            task.cancel()
        await asyncio.gather(*self.answers.values(), return_exceptions=True)

    async def follow(self, query: str = "", user: str = "uid:0(root)") -> "Followed":
        response = await self.fleet.api.handle(_request(FOLLOW + query, user))
        assert isinstance(response, StreamedResponse), response
        return Followed(response)

    async def wait_for(self, what: Callable[[], bool]) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while not what():  # noqa: ASYNC110 (nothing says so)
                await asyncio.sleep(0.01)

    async def keys(self) -> list[str]:
        """What is left of questions in the store."""
        store = self.fleet.registry.store
        return [
            item.key for prefix in ("/fleet-requests/", "/fleet-answers/") for item in (await store.range(prefix)).items
        ]


def _request(text: str, user: str) -> Any:
    from urllib.parse import parse_qsl

    from fleetd.api.http import Request
    from fleetd.model.actor import Actor
    from fleetd.model.permission import EVERY_RIGHT

    path, _, query = text.removeprefix("GET ").partition("?")
    return Request("GET", path, tuple(parse_qsl(query)), actor=Actor(identity=user, rights=EVERY_RIGHT))


class Unbounded(ScriptedInspector):
    """Of a machine whose root sends whatever it likes."""

    async def read_journal(self, query: JournalQuery, most_bytes: int = MAX_TEXT_BYTES) -> Entries:
        return Entries(self.entries)


class Followed:
    """A client that follows."""

    def __init__(self, response: StreamedResponse) -> None:
        self.chunks = response.chunks

    async def next(self) -> dict[str, Any]:
        """The next line that is not empty."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                if line := (await anext(self.chunks)).strip():
                    return dict(json.loads(line))

    async def said(self, count: int) -> list[tuple[str, str]]:
        """Machine and message of so many lines, in order."""
        lines = [await self.next() for _ in range(count)]
        return sorted((line["machine"], line.get("MESSAGE") or line["failure"]) for line in lines)

    async def rest(self) -> list[dict[str, Any]]:
        async with asyncio.timeout(PATIENCE_S), aclosing(self.chunks):
            return [json.loads(line) async for line in self.chunks if line.strip()]


@pytest.fixture
async def cluster(fleet: Fleet, tmp_path: Path) -> AsyncIterator[Cluster]:
    one = Cluster(fleet, tmp_path)
    await one.start()
    yield one
    await one.close()


async def test_what_machines_log_later_comes_until_the_client_goes(cluster: Cluster) -> None:
    followed = await cluster.follow()
    assert await followed.said(2) == [("m2", "first"), ("m3", "first")]
    await cluster.wait_for(lambda: all(each.following for each in cluster.inspectors.values()))
    for number in range(3):
        cluster.inspectors["m3"].later.put_nowait(entry(2 + number, WEB, f"later {number}"))
        assert await followed.said(1) == [("m3", f"later {number}")]
    await followed.chunks.aclose()
    await cluster.wait_for(lambda: not any(each.following for each in cluster.inspectors.values()))
    assert await cluster.keys() == []


async def test_a_log_that_ends_on_one_machine_goes_on_on_the_other(cluster: Cluster) -> None:
    followed = await cluster.follow()
    await followed.said(2)
    cluster.inspectors["m2"].later.put_nowait(None)
    assert await followed.said(1) == [("m2", "journalctl has ended there")]
    cluster.inspectors["m3"].later.put_nowait(entry(2, WEB, "later"))
    assert await followed.said(1) == [("m3", "later")]
    cluster.answers["m3"].cancel()  # as if its fleetd was killed
    assert [line["failure"] for line in await followed.rest()] == [
        "its stream has ended: the machine, its fleetd or the network between has failed"
    ]


async def test_machines_that_cannot_stream_say_why(cluster: Cluster) -> None:
    cluster.begin("m2", can_dial=False)
    cluster.inspectors["m3"].failure = "journalctl fails: no journal"
    followed = await cluster.follow()
    assert await followed.said(2) == [
        ("m2", "it has no certificate with which it could send a stream (listen=https://… gives it one)"),
        ("m3", "journalctl fails: no journal"),
    ]
    assert await followed.rest() == []


async def test_a_machine_that_does_not_answer_is_named_and_the_other_shown(cluster: Cluster) -> None:
    cluster.answers["m2"].cancel()
    followed = await cluster.follow()
    assert await followed.said(1) == [("m3", "first")]
    assert await followed.said(1) == [("m2", f"it gave no answer within {ANSWER_S:g} s")]
    cluster.inspectors["m3"].later.put_nowait(entry(2, WEB, "later"))
    assert await followed.said(1) == [("m3", "later")]
    await followed.chunks.aclose()


async def test_no_more_than_so_many_logs_are_followed_on_a_machine_and_half_of_them_for_one_user(
    cluster: Cluster,
) -> None:
    every: list[Followed] = []
    for user in ("ann", "bob"):
        for _ in range(FOLLOWED_FOR_USER):
            every.append(await cluster.follow("&machine=m2", user))
            assert await every[-1].said(1) == [("m2", "first")]
        every.append(await cluster.follow("&machine=m2", user))
        why = f"you follow {FOLLOWED_FOR_USER} logs there already, which is the limit for one user"
        assert await every[-1].said(1) == [
            ("m2", why if user == "ann" else f"{FOLLOWED} logs are followed there already")
        ]
    for each in every:
        await each.chunks.aclose()
    await cluster.wait_for(lambda: not cluster.inspectors["m2"].following)
    again = await cluster.follow("&machine=m2")
    assert await again.said(1) == [("m2", "first")]
    await again.chunks.aclose()


async def test_an_answer_without_room_in_the_store_comes_whole_as_a_stream(cluster: Cluster) -> None:
    text = "".join(chr(33 + number * 7919 % 90) for number in range(2000))
    many = [entry(number, WEB, f"{number} {text[number % 900 :]}") for number in range(300)]
    for inspector in cluster.inspectors.values():
        inspector.entries = tuple(many)
    assert sum(map(len, many)) > MAX_TEXT_BYTES
    response = await cluster.fleet.ask(f"GET /fleet/v2/journal?unit={WEB}&lines=300")
    lines = [json.loads(line) for line in response.body.splitlines()]
    assert len(lines) == 600
    assert not [line for line in lines if "MESSAGE" not in line]
    assert await cluster.keys() == []
    cluster.begin("m2", can_dial=False)
    response = await cluster.fleet.ask(f"GET /fleet/v2/journal?unit={WEB}&lines=300&machine=m2")
    assert json.loads(response.body.splitlines()[-1]) == {"machine": "m2", "cut": True}


async def test_a_machine_that_streams_without_end_takes_no_room_from_others(cluster: Cluster) -> None:
    entries = (entry(number, WEB, "x" * 2000) for number in range(MAX_STREAMED_BYTES // 1000))
    cluster.inspectors["m2"] = Unbounded(*entries)
    cluster.begin("m2")
    response = await cluster.fleet.ask(f"GET /fleet/v2/journal?unit={WEB}&lines={MAX_LINES}")
    assert [json.loads(line) for line in response.body.splitlines() if b"failure" in line] == [
        {"machine": "m2", "failure": TOO_MUCH}
    ]
    assert [json.loads(line)["machine"] for line in response.body.splitlines() if b"MESSAGE" in line] == ["m3"]


async def test_a_stream_is_refused_with_a_certificate_that_does_not_count(cluster: Cluster, tmp_path: Path) -> None:
    cluster.trust.revoke("machine/m2")
    (tmp_path / "other").mkdir()
    cluster.own["m3"] = OwnTrust(cluster.authority, "m2")
    followed = await cluster.follow()
    (_, one), (_, two) = await followed.said(2)
    for why in (one, two):
        assert "accepts no stream: the certificate of machine/m2 was revoked" in why


async def test_a_stream_of_a_machine_that_was_not_asked_is_refused(cluster: Cluster) -> None:
    cluster.own["m3"] = OwnTrust(cluster.authority, "m9")
    followed = await cluster.follow("&machine=m3")
    [(_, why)] = await followed.said(1)
    assert why.endswith("accepts no stream: nobody waits here for an answer of machine m9")


async def test_a_stream_of_a_person_and_of_a_stranger_is_refused(cluster: Cluster) -> None:
    for certificate in (cluster.authority.person("ann"), None):
        context = cluster.authority.client_context(certificate)
        reader, writer = await asyncio.open_connection("127.0.0.1", cluster.port, ssl=context)
        async with asyncio.timeout(PATIENCE_S):
            said = await reader.read()
        assert said in (
            b"only machines of the cluster stream here\n",
            b"this needs a client certificate: fleetctl login --tunnel SERVER gets one, if you can log in to that "
            b"server over SSH\n",
        )
        writer.transport.abort()


async def test_connections_are_bounded(cluster: Cluster) -> None:
    opened = []
    for number in range(MAX_STREAMS // 8 + 1):
        context = cluster.authority.client_context(cluster.authority.machine(f"m{number}", WORKER))
        opened += await asyncio.gather(
            *(asyncio.open_connection("127.0.0.1", cluster.port, ssl=context) for _ in range(8))
        )
    async with asyncio.timeout(PATIENCE_S):
        closed = await asyncio.gather(*(reader.read(1) for reader, _ in opened[MAX_STREAMS:]), return_exceptions=True)
    assert all(each == b"" or isinstance(each, OSError) for each in closed)
    for _, writer in opened:
        writer.transport.abort()


class Dialled(asyncio.Transport):
    """A connection of a machine that says nothing. `said` is what it is told."""

    def __init__(self, machine: str) -> None:
        names = (("URI", f"fleet://machine/{machine}"), ("URI", f"fleet://role/{WORKER}"))
        times = {"notBefore": "Jan  1 00:00:00 2020 GMT", "notAfter": "Jan  1 00:00:00 2120 GMT"}
        super().__init__({"peercert": {"subjectAltName": names, **times}})
        self.said = b""
        self._is_closed = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.said += data

    def is_closing(self) -> bool:
        return self._is_closed

    def abort(self) -> None:
        self._is_closed = True

    def come(self, streams: PeerStreams) -> asyncio.Task[None]:
        """Have it taken."""
        reader = asyncio.StreamReader()
        protocol = asyncio.StreamReaderProtocol(reader)
        writer = asyncio.StreamWriter(self, protocol, reader, asyncio.get_running_loop())
        return asyncio.create_task(streams.take(reader, writer))


async def test_one_machine_has_only_a_part_of_the_connections(cluster: Cluster) -> None:
    tasks = [Dialled("m2").come(cluster.streams) for _ in range(MAX_OF_MACHINE)]
    one_more, other = Dialled("m2"), Dialled("m3")
    tasks += [one_more.come(cluster.streams), other.come(cluster.streams)]
    await cluster.wait_for(lambda: one_more.said != b"")
    assert one_more.said == f"machine m2 has {MAX_OF_MACHINE} streams here already\n".encode()
    assert other.said == b""
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    again = Dialled("m2")
    tasks = [again.come(cluster.streams)]
    await asyncio.sleep(0)
    assert again.said == b""
    tasks[0].cancel()
    await asyncio.wait(tasks)


async def test_a_machine_that_sends_nothing_but_signs_of_life_leaves_time_for_others() -> None:
    reader, items = asyncio.StreamReader(), asyncio.Queue[Item]()
    reader.feed_data(ALIVE * 20)
    reader.feed_eof()
    passing = asyncio.create_task(pass_on(reader, "m2", items))
    for _ in range(3):  # turns of the loop, in which others run
        await asyncio.sleep(0)
    assert not reader.at_eof()
    async with asyncio.timeout(PATIENCE_S):
        await passing
    assert items.get_nowait() == ("m2", MachineAnswer(failure=LOST))


async def test_a_machine_sends_nothing_to_another_than_the_one_that_asked(cluster: Cluster) -> None:
    cluster.fleet.reconfigure(machine=lambda: Machine("m7"), peers=cluster.streams)
    followed = await cluster.follow("&machine=m2")
    [(_, why)] = await followed.said(1)
    assert why.endswith("has the certificate of machine/m1, not that of machine m7")
    cluster.fleet.reconfigure(machine=lambda: Machine("m1"), peers=cluster.streams)
    cluster.revoked.add("m1")
    [(_, why)] = await (await cluster.follow("&machine=m2")).said(1)
    assert "was revoked" in why


async def test_a_stream_of_a_machine_that_is_revoked_meanwhile_ends(cluster: Cluster) -> None:
    followed = await cluster.follow("&machine=m2")
    await followed.said(1)
    cluster.trust.revoke("machine/m2")
    cluster.streams.close_revoked()
    assert await followed.rest() == [{"machine": "m2", "failure": "its certificate was revoked"}]


async def test_a_question_that_the_store_loses_ends(cluster: Cluster) -> None:
    followed = await cluster.follow("&machine=m2")
    await followed.said(1)
    [key] = await cluster.keys()
    await cluster.fleet.registry.store.transact([], [Delete(key)])  # as when the lease has expired
    assert [line["machine"] for line in await followed.rest()] == ["m2"]
    await cluster.wait_for(lambda: not cluster.inspectors["m2"].following)


async def test_every_address_may_be_listened_on_and_one_that_is_taken_is_named(cluster: Cluster) -> None:
    listener = PeerListener(cluster.streams)
    with socket.create_server(("", 0)) as free:
        port = free.getsockname()[1]
    listener.start([Address(port=port)])
    await asyncio.open_connection("127.0.0.1", port)
    with pytest.raises(ListenError, match=f"cannot listen on :{port}: another process listens on it"):
        PeerListener(cluster.streams).start([Address(port=port)])
    await listener.stop()


async def test_without_peer_listen_the_remedy_is_named(fleet: Fleet) -> None:
    await fleet.add_unit(WEB)
    status, why = await fleet.refused(FOLLOW)
    assert status == 409
    assert "peer_listen=" in why
    assert await fleet.refused(f"GET /fleet/v2/journal?unit={WEB}&follow=maybe") == (
        400,
        "follow=maybe: write true or false",
    )


@pytest.mark.parametrize("address", ["", "nowhere", "127.0.0.1:0", "127.0.0.1:70000", "/run/x"])
async def test_an_address_that_is_none_is_not_dialled(cluster: Cluster, address: str) -> None:
    with pytest.raises(CannotDial, match="is no address of a server"):
        await dial(cluster.own["m2"], lambda identity: False, address, "m1")


async def test_who_cannot_be_reached_is_named(cluster: Cluster) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(CannotDial, match=f"cannot connect to 127.0.0.1:{port}: "):
        await dial(cluster.own["m2"], lambda identity: False, f"127.0.0.1:{port}", "m1")
    cluster.own["m2"].expires_at_s = 0.0
    with pytest.raises(CannotDial, match="no certificate yet"):
        await dial(cluster.own["m2"], lambda identity: False, f"127.0.0.1:{cluster.port}", "m1")
