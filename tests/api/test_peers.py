"""Who is at the other end of a unix socket: known by the kernel, bounded by their groups, refused before they are
read."""

import asyncio
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fleetd.api.connection_limits import ConnectionLimiter
from fleetd.api.peer import Peer, PeerRights, identify_peer, resolve_groups, user_name
from fleetd.config.options import Address
from fleetd.model.permission import EVERY_RIGHT, NO_RIGHTS, parse_rights
from tests.api.served import Client, ask, serving
from tests.api.test_sockets import OTHER_GROUP, UNPRIVILEGED, open_directory

__all__ = ["open_directory"]

PATIENCE_S = 60.0
VIEWERS, OPERATORS, WEB_TEAM = 60981, 60982, 60983  # groups that this machine does not have
RIGHTS = PeerRights(
    {
        VIEWERS: ("fleet-view", parse_rights("view")),
        OPERATORS: ("fleet-operate", parse_rights("operate")),
        WEB_TEAM: ("web-team", parse_rights("submit:web-*")),
    }
)
only_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")


def as_user(path: str, request: bytes, *groups: int, user: int = UNPRIVILEGED, wait_s: float = 0.0) -> bytes:
    """The answer to a process of this user in these groups, which sends its request after `wait_s`."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.setgroups(groups)
        os.setgid(OTHER_GROUP)
        os.setuid(user)
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(path)
            time.sleep(wait_s)
            client.sendall(request)
            while data := client.recv(65536):
                os.write(writer, data)
                if not wait_s and b"\r\n\r\n" in data:
                    break
        os._exit(0)
    os.close(writer)
    os.waitpid(child, 0)
    with os.fdopen(reader, "rb") as found:
        return found.read()


def get(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: fleet\r\nConnection: close\r\n\r\n".encode()


def put(name: str) -> bytes:
    body = b'{"desiredState":"launched"}'
    head = f"PUT /fleet/v1/units/{name} HTTP/1.1\r\nHost: fleet\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode() + body


def code(answer: bytes) -> int:
    return int(answer.split()[1])


@only_root
async def test_groups_bound_what_local_users_may_do(fleet: Any, open_directory: Path) -> None:
    await fleet.add_unit("web-1.service")
    await fleet.add_unit("db.service")
    path = str(open_directory / "s")
    async with serving(fleet.api, Address(path=path), peer_rights=RIGHTS):
        for groups, views, operates_web, operates_db in (
            ((), 403, 403, 403),
            ((VIEWERS,), 200, 403, 403),
            ((WEB_TEAM,), 200, 204, 403),
            ((WEB_TEAM, OPERATORS), 200, 204, 204),
        ):
            answers = [
                code(await asyncio.to_thread(as_user, path, request, *groups))
                for request in (get("/fleet/v1/units"), put("web-1.service"), put("db.service"))
            ]
            assert answers == [views, operates_web, operates_db], groups
    assert (await fleet.unit("web-1.service")).by == user_name(UNPRIVILEGED)


@only_root
async def test_who_has_no_rights_is_told_so_before_anything_is_sent(fleet: Any, open_directory: Path) -> None:
    path = str(open_directory / "s")
    async with serving(fleet.api, Address(path=path)) as server:
        answer = await asyncio.to_thread(as_user, path, b"", wait_s=0.2)
        assert code(answer) == 403
        assert (
            b"user 65534 is neither root nor in one of the groups fleet-view, fleet-operate, fleet: usermod" in answer
        )
        late = await asyncio.to_thread(as_user, path, get("/health"), wait_s=0.2)
        assert code(late) == 403
        root = Client(Address(path=path))
        assert (await ask(root, "GET", "/health"))[0].status == 200
        assert len(server.limiter._users) == 0


@only_root
async def test_a_process_in_a_container_is_refused_whoever_it_says_it_is(fleet: Any, path: Address) -> None:
    script = (
        "import socket,sys\n"
        "client = socket.socket(socket.AF_UNIX)\n"
        "client.connect(sys.argv[1])\n"
        "client.sendall(b'GET /health HTTP/1.1\\r\\nHost: fleet\\r\\n\\r\\n')\n"
        "print(client.recv(4096).decode())\n"
    )
    async with serving(fleet.api, path):
        argv = ["unshare", "--pid", "--fork", sys.executable, "-c", script, path.path]
        found = await asyncio.to_thread(subprocess.run, argv, capture_output=True, text=True, check=True)
    assert "403 Forbidden" in found.stdout
    assert "does not serve processes in containers" in found.stdout


async def test_a_peer_is_identified_as_of_the_moment_it_connected(path: Address) -> None:
    with socket.socket(socket.AF_UNIX) as listening, socket.socket(socket.AF_UNIX) as client:
        listening.bind(path.path)
        listening.listen()
        client.connect(path.path)
        accepted, _ = listening.accept()
        with accepted:
            peer = identify_peer(accepted)
    assert (peer.user, peer.is_foreign) == (os.getuid(), False)
    assert peer.groups >= {os.getgid(), *os.getgroups()}


@pytest.mark.parametrize(
    ("peer", "rights", "groups"),
    [
        (Peer(0), EVERY_RIGHT, ()),
        (Peer(0, is_foreign=True), NO_RIGHTS, ()),
        (Peer(1000), NO_RIGHTS, ()),
        (Peer(1000, frozenset({77})), EVERY_RIGHT, ()),  # the group of the socket
        (Peer(1000, frozenset({VIEWERS})), parse_rights("view"), ("fleet-view",)),
        (
            Peer(1000, frozenset({WEB_TEAM, OPERATORS, 5})),
            parse_rights("operate,submit:web-*"),
            ("fleet-operate", "web-team"),
        ),
    ],
)
def test_rights_are_those_of_all_groups_together(peer: Peer, rights: Any, groups: tuple[str, ...]) -> None:
    assert RIGHTS.find(peer, 77) == (rights, groups)


@only_root
async def test_a_users_own_fleetd_serves_that_user_and_root_alone(fleet: Any, open_directory: Path) -> None:
    rights = PeerRights({VIEWERS: ("friends", parse_rights("view"))}, is_user=True)
    path = str(open_directory / "s")
    async with serving(fleet.api, Address(path=path), peer_rights=rights):
        os.chown(path, 0, OTHER_GROUP)  # the user's own group, which others may be in
        refused = await asyncio.to_thread(as_user, path, get("/fleet/v1/units"))
        assert code(refused) == 403
        assert b"this is the fleetd of user 0, and user 65534 is another" in refused
        assert code(await asyncio.to_thread(as_user, path, get("/fleet/v1/units"), VIEWERS)) == 200
        root = Client(Address(path=path))
        assert (await ask(root, "GET", "/fleet/v1/units"))[0].status == 200


def test_the_groups_of_the_systems_fleetd_have_nothing_to_do_with_a_users() -> None:
    rights, missing = resolve_groups({"root": parse_rights("view")}, is_user=True)
    assert missing == []
    assert rights.find(Peer(UNPRIVILEGED, frozenset({0, 1, 2}))) == (parse_rights("view"), ("root",))
    assert rights.find(Peer(UNPRIVILEGED, frozenset(range(1, 1000)))) == (NO_RIGHTS, ())


def test_groups_are_looked_up_by_name_and_missing_ones_named() -> None:
    rights, missing = resolve_groups({"daemon": parse_rights("operate:web-*"), "nobody-has-this": parse_rights("view")})
    assert missing == ["nobody-has-this"]
    assert rights.find(Peer(1000, frozenset({1}))) == (parse_rights("operate:web-*"), ("daemon",))


# Names


async def test_a_name_service_that_is_late_delays_a_user_once_and_its_answer_counts(fleet: Any, path: Address) -> None:
    asked, answers = [], threading.Event()

    def find_name_late(user: int) -> str:
        asked.append(user)
        answers.wait(PATIENCE_S)
        return f"u{user}"

    async def identity() -> str:
        _, body = await ask(client, "GET", "/fleet/v2/whoami")
        return str(json.loads(body)["identity"])

    user = os.getuid()
    async with serving(fleet.api, path, name_of=find_name_late):
        client = Client(path)
        began = time.monotonic()
        assert {await identity() for _ in range(20)} == {f"uid:{user}({user})"}
        assert time.monotonic() - began < 15.0  # each would be delayed for a second
        answers.set()
        async with asyncio.timeout(PATIENCE_S):
            while await identity() != f"uid:{user}(u{user})":  # noqa: ASYNC110 (no event says it)
                await asyncio.sleep(0.05)
    assert asked == [user]


async def test_who_asks_while_the_name_service_is_asked_has_the_same_name(fleet: Any, path: Address) -> None:
    """What one request has taken as `0`, another of the same user could not release as `root`."""
    begun, answers = threading.Event(), threading.Event()

    def find_name(user: int) -> str:
        begun.set()
        answers.wait(PATIENCE_S)
        return "ann"

    async with serving(fleet.api, path, name_of=find_name):
        asking = [asyncio.create_task(ask(Client(path), "GET", "/fleet/v2/whoami")) for _ in range(2)]
        await asyncio.to_thread(begun.wait, PATIENCE_S)
        await asyncio.wait(asking, timeout=0.05, return_when=asyncio.FIRST_COMPLETED)  # who does not wait has no name
        answers.set()
        for _, body in await asyncio.gather(*asking):
            assert f'"identity":"uid:{os.getuid()}(ann)"'.encode() in body


async def test_a_name_service_that_failed_is_asked_again(fleet: Any, path: Address) -> None:
    answers: Iterator[str | OSError] = iter([OSError("no name service"), "ann"])

    def find_name(user: int) -> str:
        answer = next(answers)
        if isinstance(answer, OSError):
            raise answer
        return answer

    async with serving(fleet.api, path, name_of=find_name):
        for name in (os.getuid(), "ann"):
            _, body = await ask(Client(path), "GET", "/fleet/v2/whoami")
            assert f'"identity":"uid:{os.getuid()}({name})"'.encode() in body


async def test_root_may_say_on_whose_behalf_it_asks(fleet: Any, path: Address) -> None:
    async with serving(fleet.api, path, name_of=lambda user: f"u{user}"):
        _, body = await ask(Client(path), "GET", "/fleet/v2/whoami", headers={"Fleet-User": "ann"})
    assert (b'"name":"ann"' in body) is (os.getuid() == 0)
    assert f'"identity":"uid:{os.getuid()}(u{os.getuid()})'.encode() in body


# Limits


def test_one_user_takes_a_quarter_of_the_connections_at_most() -> None:
    limiter = ConnectionLimiter(max_connections=8)
    closed: list[str] = []
    for name, user in (("a1", 1), ("root", None), ("b1", 2), ("a2", 1), ("a3", 1), ("a4", 1)):
        limiter.add(name, lambda name=name: closed.append(name), user)  # type: ignore[misc]
    assert closed == ["a1", "a2"]
