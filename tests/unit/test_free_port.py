"""That a port is given to one caller alone, although nobody listens on it yet."""

import secrets
import subprocess
import sys
from collections.abc import Iterator

import pytest

from contrib.testbed.etcd import PORTS, free_port

TAKER = "from contrib.testbed.etcd import free_port; print(free_port(), flush=True); input()"


def choose_first(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have this port tried before all others."""
    choices: Iterator[int] = iter([port, *(other for other in PORTS if other != port)])
    monkeypatch.setattr(secrets, "choice", lambda _: next(choices))


@pytest.mark.parametrize("address", ["127.0.0.1", "127.0.0.2", "0.0.0.0"])
def test_a_port_is_given_once_whatever_the_address(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    first = free_port()
    choose_first(first, monkeypatch)
    assert free_port(address) != first


def test_a_port_that_another_process_was_given_is_free_again_at_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    command = [sys.executable, "-c", TAKER]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as taker:
        assert taker.stdout is not None
        taken = int(taker.stdout.readline())
        choose_first(taken, monkeypatch)
        assert free_port() != taken
        taker.communicate("\n")
    choose_first(taken, monkeypatch)
    assert free_port() == taken
