"""The sockets that the API listens on: unix, TCP and inherited ones, and which users may reach them."""

import asyncio
import os
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from contrib.testbed.etcd import free_port
from fleetd.api.routes import LEAVE
from fleetd.api.schema import Leaving
from fleetd.api.server import METRICS_CONNECTIONS, Server
from fleetd.api.sockets import ListenError, check_exposure, inherited_sockets, open_socket
from fleetd.config.options import Address
from tests.api.served import LOOPBACK, Client, Echo, ask, serving

# Addresses and permissions


async def test_every_user_may_connect_to_a_unix_socket(tmp_path: Path) -> None:
    address = Address(path=str(tmp_path / "s"))
    before = os.umask(0o077)
    try:
        with open_socket(address, insecure=False):
            status = os.stat(address.path)
    finally:
        assert os.umask(before) == 0o077
    assert stat.S_IMODE(status.st_mode) == 0o666


async def test_a_leftover_socket_is_replaced(fleet: Any, path: Address) -> None:
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(path.path)
    async with serving(fleet.api, path):
        assert (await ask(Client(path), "GET", "/health"))[0].status == 200


async def test_a_socket_in_use_is_left_alone(path: Address) -> None:
    async with serving(Echo(), path):
        with pytest.raises(
            ListenError, match=rf"^cannot listen on {path.path}: another process listens on it; stop that"
        ):
            open_socket(path, insecure=False)
        assert (await ask(Client(path), "GET", "/"))[0].status == 200


async def test_a_file_at_the_sockets_path_is_not_removed(path: Address) -> None:
    Path(path.path).write_text("precious")
    with pytest.raises(ListenError, match="it exists and is not a socket"):
        open_socket(path, insecure=False)
    assert Path(path.path).read_text() == "precious"


async def test_a_missing_directory_is_reported(tmp_path: Path) -> None:
    with pytest.raises(ListenError, match=rf"^cannot listen on {tmp_path}/no/s: No such file or directory$"):
        open_socket(Address(path=f"{tmp_path}/no/s"), insecure=False)


async def test_a_port_in_use_is_reported_and_nothing_stays_open(path: Address) -> None:
    with socket.create_server((LOOPBACK, 0)) as taken:
        port = taken.getsockname()[1]
        server = Server(Echo())
        with pytest.raises(ListenError, match=f"^cannot listen on 127.0.0.1:{port}: another process listens on it"):
            await server.start([path, Address(host=LOOPBACK, port=port)], insecure=True)
    assert not os.path.exists(path.path)


async def test_an_address_of_another_machine_is_reported() -> None:
    with pytest.raises(ListenError, match=r"^cannot listen on 192\.0\.2\.1:1234: this machine has no such address"):
        open_socket(Address(host="192.0.2.1", port=1234), insecure=False, for_anybody=True)


@pytest.mark.covers("R.9")
@pytest.mark.parametrize("insecure", [False, True])
@pytest.mark.parametrize("host", ["", "0.0.0.0", "192.0.2.1", "::"])
async def test_an_address_without_tls_that_others_can_reach_is_refused(host: str, insecure: bool) -> None:
    with pytest.raises(ListenError, match=r"other machines could connect.* listen on https://.*, or on a unix socket$"):
        open_socket(Address(host=host, port=free_port()), insecure=insecure)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "::ffff:127.0.0.1", "::1%lo"])
def test_loopback_needs_insecure_too_as_every_local_user_reaches_it(host: str) -> None:
    with pytest.raises(ListenError, match=r"every user of this machine could connect.*insecure=true \(--insecure\)"):
        check_exposure("here", host, insecure=False)
    check_exposure("here", host, insecure=True)


async def test_what_is_for_anybody_is_served_on_every_address(fleet: Any) -> None:
    port = free_port()
    server = Server(fleet.api)
    await server.start([Address(port=port)], insecure=False, for_anybody=True)
    assert (await ask(Client(Address(host=LOOPBACK, port=port)), "GET", "/health"))[0].status == 200
    await server.stop()


# Inherited sockets


@pytest.mark.covers("R.9")
async def test_an_inherited_socket_that_others_can_reach_is_refused(fleet: Any) -> None:
    with socket.create_server(("0.0.0.0", 0)) as inherited:
        server = Server(fleet.api)
        with pytest.raises(ListenError, match="other machines could connect"):
            await server.start([], insecure=True, inherited=[inherited])


@pytest.mark.covers("4.9.1")
async def test_inherited_sockets_are_served_and_their_files_left_to_systemd(fleet: Any, path: Address) -> None:
    unix = socket.socket(socket.AF_UNIX)
    unix.bind(path.path)
    unix.listen()
    tcp = socket.create_server((LOOPBACK, 0))
    there = Address(host=LOOPBACK, port=tcp.getsockname()[1])
    async with serving(fleet.api, inherited=[unix, tcp]):
        for address in (path, there):
            assert (await ask(Client(address), "GET", "/health"))[0].status == 200
    assert os.path.exists(path.path)


# Users of a unix socket

UNPRIVILEGED, OTHER_GROUP = 65534, 65533
FLEET_GROUP = 60987  # a group that this machine does not have


def is_answered(path: str, user: int = UNPRIVILEGED, group: int = UNPRIVILEGED, groups: Sequence[int] = ()) -> bool:
    """Whether a process of this user and these groups gets 200, not 403."""
    child = os.fork()
    if child == 0:  # a program of its own would need a Python that every user may start
        os.setgroups(groups)
        os.setgid(group)
        os.setuid(user)
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(path)
            client.sendall(b"GET /health HTTP/1.1\r\nHost: fleet\r\n\r\n")
            os._exit((b"200", b"403").index(client.recv(1000).split()[1]))
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, 1)
    return status == 0


@pytest.fixture
def open_directory() -> Iterator[Path]:
    """A folder that every user may enter."""
    with tempfile.TemporaryDirectory(prefix="fleet-sockets-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")
async def test_a_socket_that_everybody_reaches_answers_root_and_its_own_group(fleet: Any, open_directory: Path) -> None:
    path = str(open_directory / "s")
    inherited = socket.socket(socket.AF_UNIX)
    inherited.bind(path)
    os.chown(path, 0, FLEET_GROUP)
    os.chmod(path, 0o666)
    inherited.listen()
    async with serving(fleet.api, inherited=[inherited]):
        assert not await asyncio.to_thread(is_answered, path)
        assert not await asyncio.to_thread(is_answered, path, UNPRIVILEGED, OTHER_GROUP, [UNPRIVILEGED])
        assert await asyncio.to_thread(is_answered, path, UNPRIVILEGED, FLEET_GROUP)
        assert await asyncio.to_thread(is_answered, path, UNPRIVILEGED, OTHER_GROUP, [UNPRIVILEGED, FLEET_GROUP])
        assert await asyncio.to_thread(is_answered, path, 0, OTHER_GROUP)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")
async def test_an_abstract_socket_answers_root_alone(fleet: Any) -> None:
    name = f"\0fleet-test-{os.getpid()}"
    inherited = socket.socket(socket.AF_UNIX)
    inherited.bind(name)
    inherited.listen()
    async with serving(fleet.api, inherited=[inherited]):
        assert not await asyncio.to_thread(is_answered, name)
        assert await asyncio.to_thread(is_answered, name, 0, 0)


# Sockets for metrics


async def test_metrics_sockets_serve_metrics_and_health_alone(fleet: Any, tmp_path: Path) -> None:
    fleet.reconfigure(metrics=lambda: b"figures")
    places = [Address(path=str(tmp_path / "m")), Address(host=LOOPBACK, port=free_port())]
    async with serving(fleet.api, metrics_addresses=places):
        assert stat.S_IMODE(os.stat(places[0].path).st_mode) == 0o666
        for place in places:
            client = Client(place)
            headers = {"Host": "m1.example.org"}  # as Prometheus names it
            response, body = await ask(client, "GET", "/metrics", headers=headers)
            assert (response.status, body) == (200, b"figures")
            assert (await ask(client, "GET", "/health", headers=headers))[0].status == 200
            for method, path in (("GET", "/fleet/v1/units"), ("PUT", "/fleet/v1/units/a.service"), ("POST", LEAVE)):
                response, body = await ask(client, method, path)
                assert response.status == 404
                assert b"this socket serves only /metrics and /health" in body
    assert not os.path.exists(places[0].path)


async def test_connections_for_metrics_take_none_of_the_apis(fleet: Any, tmp_path: Path) -> None:
    for_all, own = Address(path=str(tmp_path / "m")), Address(path=str(tmp_path / "s"))
    async with serving(fleet.api, own, metrics_addresses=[for_all]) as server:
        client = Client(own)
        assert (await ask(client, "GET", "/health"))[0].status == 200
        limiter = [Client(for_all) for _ in range(METRICS_CONNECTIONS + server.limiter.max_connections // 8)]
        for one in limiter:
            await asyncio.to_thread(one.connect)
        assert (await ask(client, "GET", "/health"))[0].status == 200
        for one in limiter:
            one.close()


TAKE = """
import os, sys
from fleetd.api.sockets import inherited_sockets
os.environ["LISTEN_PID"] = str(os.getpid() + int(sys.argv[1]))
taken = inherited_sockets(os.environ, os.getpid())
print([(sock.family.name, sock.fileno(), os.get_inheritable(sock.fileno())) for sock in taken])
print(sorted(name for name in os.environ if name.startswith("LISTEN_")))
"""


def take(offset: int, count: str, *sockets: socket.socket) -> list[str]:
    """The sockets that a process takes which is started as by systemd, with these from descriptor 3 on."""
    descriptors = [sock.fileno() for sock in sockets]
    moves = "".join(f" {3 + index}<&{descriptor}" for index, descriptor in enumerate(descriptors))
    script = f'exec "$0" -c "$1" {offset}{moves}'
    done = subprocess.run(
        ["bash", "-c", script, sys.executable, TAKE],
        pass_fds=descriptors,
        env={"LISTEN_FDS": count, "LISTEN_FDNAMES": "a:b", "PATH": os.environ["PATH"], "PYTHONPATH": os.getcwd()},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.splitlines()


@pytest.fixture
def handed_over(tmp_path: Path) -> Any:
    """A listening unix and TCP socket, a datagram socket, and one that does not listen; far from descriptor 3."""
    unix = socket.socket(socket.AF_UNIX)
    unix.bind(str(tmp_path / "s"))
    unix.listen()
    sockets = [
        unix,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM),
        socket.create_server((LOOPBACK, 0)),
        socket.socket(),
    ]
    high = [socket.socket(fileno=os.dup2(sock.detach(), 50 + index)) for index, sock in enumerate(sockets)]
    yield high
    for sock in high:
        sock.close()


@pytest.mark.covers("4.9.1")
def test_every_listening_stream_socket_is_taken_and_closed_for_children(handed_over: list[socket.socket]) -> None:
    taken, left = take(0, "4", *handed_over)
    assert taken == "[('AF_UNIX', 3, False), ('AF_INET', 5, False)]"
    assert left == "[]"


def test_sockets_for_another_process_are_not_taken(handed_over: list[socket.socket]) -> None:
    assert take(1, "4", *handed_over) == ["[]", "[]"]
    assert take(0, "many", *handed_over) == ["[]", "[]"]


@pytest.mark.covers("4.9.1")
def test_without_socket_activation_there_are_no_sockets() -> None:
    assert inherited_sockets({}, os.getpid()) == []


async def test_leave_is_answered_on_a_unix_socket_and_refused_over_tcp(fleet: Any, path: Address) -> None:
    async def leave() -> Leaving:
        return Leaving(left=True)

    fleet.reconfigure(leave=leave)
    tcp = Address(host=LOOPBACK, port=free_port())
    async with serving(fleet.api, path, tcp):
        response, body = await ask(Client(path), "POST", "/fleet/v2/leave")
        assert (response.status, body) == (200, b'{"left":true}')
        response, _ = await ask(Client(tcp), "POST", "/fleet/v2/leave")
        assert response.status == 403
