"""Bytes between a channel of SSH and a socket, over a connection of paramiko to itself."""

import socket
import threading
from collections.abc import Iterator

import paramiko
import pytest

from fleetctl.ssh.channels import splice

BOUND_S = 60.0
LARGE = bytes(range(256)) * 10_000  # more than the buffers of sockets and channels hold


class AnyoneMayEnter(paramiko.ServerInterface):  # type: ignore[misc]  # the library has no types
    """A server that asks for no credentials and accepts sessions."""

    def check_auth_none(self, username: str) -> int:
        return int(paramiko.AUTH_SUCCESSFUL)

    def check_channel_request(self, kind: str, chanid: int) -> int:
        return int(paramiko.OPEN_SUCCEEDED)


@pytest.fixture
def channels() -> Iterator[tuple[paramiko.Channel, paramiko.Channel]]:
    """The two ends of a channel: the client's, the server's."""
    streams = socket.socketpair()
    client, server = map(paramiko.Transport, streams)
    server.add_server_key(paramiko.ECDSAKey.generate())
    server.start_server(server=AnyoneMayEnter(), event=threading.Event())
    client.start_client(timeout=BOUND_S)
    client.auth_none("me")
    ours = client.open_session(timeout=BOUND_S)
    theirs = server.accept(BOUND_S)
    theirs.settimeout(BOUND_S)
    yield ours, theirs
    client.close()
    server.close()


@pytest.fixture
def spliced(channels: tuple[paramiko.Channel, paramiko.Channel]) -> Iterator[tuple[socket.socket, paramiko.Channel]]:
    """A socket that is joined to a channel, and the channel's other end. Splicing ends when both have been closed."""
    ours, inner = socket.socketpair()
    ours.settimeout(BOUND_S)
    splicing = threading.Thread(target=splice, args=(channels[0], inner))
    splicing.start()
    yield ours, channels[1]
    ours.close()
    channels[1].close()
    splicing.join(BOUND_S)
    assert not splicing.is_alive()


def receive(end: socket.socket | paramiko.Channel, size: int) -> bytes:
    data = b""
    while len(data) < size and (part := end.recv(65536)):
        data += part
    return data


def test_bytes_pass_both_ways(spliced: tuple[socket.socket, paramiko.Channel]) -> None:
    ours, theirs = spliced
    sending = threading.Thread(target=ours.sendall, args=(LARGE,))
    sending.start()
    assert receive(theirs, len(LARGE)) == LARGE
    sending.join(BOUND_S)
    sending = threading.Thread(target=theirs.sendall, args=(LARGE,))
    sending.start()
    assert receive(ours, len(LARGE)) == LARGE
    sending.join(BOUND_S)


def test_the_end_of_the_channel_ends_the_socket(spliced: tuple[socket.socket, paramiko.Channel]) -> None:
    ours, theirs = spliced
    theirs.sendall(b"bye")
    theirs.close()
    assert receive(ours, 4) == b"bye"


def test_the_end_of_the_socket_ends_the_channel(spliced: tuple[socket.socket, paramiko.Channel]) -> None:
    ours, theirs = spliced
    ours.sendall(b"bye")
    ours.close()
    assert receive(theirs, 4) == b"bye"


def test_a_lost_connection_ends_the_socket(spliced: tuple[socket.socket, paramiko.Channel]) -> None:
    ours, theirs = spliced
    theirs.get_transport().close()
    assert ours.recv(1) == b""
