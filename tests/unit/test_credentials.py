"""fleet-credentials: systemd gets what fleetd has left for a unit; nobody else, and never a part of it."""

import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from fleetd.trust.credentials import TOO_MUCH, DescriptorStore, Refused, Service, find_value, main, parse_address
from fleetd.trust.credentials_wire import Delivered
from fleetd.trust.sealing import encrypt, make_seal_key

MIB = 1024 * 1024  # more than that, systemd takes for no credential


@pytest.fixture
def place(tmp_path: Path) -> Path:
    make_seal_key(tmp_path / "seal.key")
    return tmp_path


def deliver(place: Path, value: bytes, unit: str = "a.service", name: str = "db.pw") -> None:
    public = (place / "seal.pub").read_text()
    sealed = encrypt(name, 7, value, [public])
    (place / unit).mkdir(exist_ok=True)
    (place / unit / name).write_bytes(msgspec.json.encode(Delivered(7, sealed.keys[public], sealed.box)))


class Served:
    """The service, with a socket in a folder."""

    def __init__(self, place: Path, owner: int = os.getuid()) -> None:
        self.path = str(place / "socket")
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(self.path)
        self.listener.listen()
        self.ends, self.end = os.pipe()
        service = Service(place, place / "seal.key", owner)
        self.thread = threading.Thread(target=service.serve, args=(self.listener, 30.0, self.ends))
        self.thread.start()

    def ask(self, address: str = "\0{}/unit/a.service/db.pw") -> bytes:
        """What a client gets that connects from this abstract address, to the end."""
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(20.0)
            client.bind(address.format(os.urandom(8).hex()))
            client.connect(self.path)
            client.shutdown(socket.SHUT_WR)  # as systemd does
            found = b""
            while block := client.recv(65536):
                found += block
        return found

    def close(self) -> None:
        os.close(self.end)
        self.thread.join(20.0)
        self.listener.close()
        os.close(self.ends)


@pytest.fixture
def served(place: Path) -> Iterator[Served]:
    service = Served(place)
    yield service
    service.close()


@pytest.mark.parametrize("value", [b"x", b"\0\0\0", b"a\nb\n", bytes(range(256)) * 256], ids=len)
def test_a_unit_gets_its_value_to_the_byte(served: Served, place: Path, value: bytes) -> None:
    deliver(place, value)
    assert served.ask() == value


def test_many_units_that_start_at_once_get_theirs(served: Served, place: Path) -> None:
    deliver(place, b"value" * 10_000)
    found: list[bytes] = []
    clients = [threading.Thread(target=lambda: found.append(served.ask())) for _ in range(50)]
    for client in clients:
        client.start()
    for client in clients:
        client.join(30.0)
    assert found == [b"value" * 10_000] * 50


@pytest.mark.parametrize(
    "address",
    [
        "\0{}/unit/a.service/other",
        "\0{}/unit/b.service/db.pw",
        "\0{}/unit/../a.service",
        "\0{}/unit/./db.pw",
        "\0{}/unit/a.service/x/y",
        "\0{}/unit//",
        "\0{}",
    ],
)
def test_a_refusal_is_more_than_systemd_takes_and_never_an_early_end(
    served: Served, place: Path, address: str, capfd: pytest.CaptureFixture[str]
) -> None:
    deliver(place, b"value")
    assert len(served.ask(address)) == TOO_MUCH > MIB
    assert "value" not in capfd.readouterr().err


def test_another_user_is_refused(place: Path) -> None:
    deliver(place, b"value")
    service = Served(place, owner=os.getuid() + 1)
    try:
        assert len(service.ask()) == TOO_MUCH
    finally:
        service.close()


def test_what_cannot_be_opened_is_said_in_words(place: Path) -> None:
    deliver(place, b"value")
    own = place / "seal.key"
    assert find_value("a.service", "db.pw", place, own) == (b"value", 7)
    with pytest.raises(Refused, match=r"its unit file has to say Secret=other in \[X-Fleet\]"):
        find_value("a.service", "other", place, own)
    with pytest.raises(Refused, match=r"there is no .*/gone"):
        find_value("a.service", "db.pw", place, place / "gone")
    own.write_bytes(X25519PrivateKey.generate().private_bytes_raw())
    with pytest.raises(Refused, match=r"version 7 of the secret db\.pw is not sealed to this machine's key"):
        find_value("a.service", "db.pw", place, own)
    (place / "a.service" / "db.pw").write_bytes(b"junk")
    with pytest.raises(Refused, match=r"a\.service: cannot open the secret db\.pw"):
        find_value("a.service", "db.pw", place, own)


def test_only_systemds_addresses_name_a_unit() -> None:
    assert parse_address(b"\0a1b2/unit/web@1.service/db.pw") == ("web@1.service", "db.pw")
    for address in (b"", "/run/x/unit/a.service/db.pw", "\0x/unit/a.service", "\0x/unit/a.service/.."):
        with pytest.raises(Refused, match="only systemd gets anything here"):
            parse_address(address)


def test_a_client_that_goes_while_it_is_refused_is_no_trouble(served: Served, place: Path) -> None:
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(served.path)
    deliver(place, b"value")
    assert served.ask() == b"value"


def test_it_ends_when_nobody_asks(place: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(place / "socket"))
        listener.listen()
        Service(place, place / "seal.key").serve(listener, idle_s=0.01)


def test_it_is_started_by_systemd_alone(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 1
    assert "is started by systemd alone" in capfd.readouterr().err


def test_systemd_keeps_a_connection_as_long_as_it_is_answered(place: Path) -> None:
    deliver(place, b"value")
    said: list[bytes] = []
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(place / "notify"))
        ours, theirs = socket.socketpair()
        Service(place, place / "seal.key", os.getuid(), DescriptorStore(str(place / "notify"))).answer(
            theirs, "\0a/unit/a.service/db.pw", "1-1"
        )
        assert ours.recv(100) == b"value"
        message, descriptors, _, _ = socket.recv_fds(manager, 1000, 5)
        assert (message, len(descriptors)) == (b"FDSTORE=1\nFDNAME=1-1", 1)
        ours.setblocking(False)
        with pytest.raises(BlockingIOError):
            ours.recv(1)  # no end, as long as the manager has it
        os.close(descriptors[0])
        assert ours.recv(1) == b""
        said.append(manager.recv(1000))
        ours.close()
    assert said == [b"FDSTOREREMOVE=1\nFDNAME=1-1"]
