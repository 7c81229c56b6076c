"""A port is given to one caller, although no process listens on it yet."""

import subprocess
import sys
from collections.abc import Callable

import pytest

from contrib.testbed.etcd import PORTS, free_port

TAKER = "from contrib.testbed.etcd import free_port; print(free_port(), flush=True); input()"


def first(port: int) -> Callable[[], int]:
    """Choose this port first, then all others."""
    choices = iter([port, *(other for other in PORTS if other != port)])
    return lambda: next(choices)


@pytest.mark.parametrize("address", ["127.0.0.1", "127.0.0.2", "0.0.0.0"])
def test_a_port_is_given_once_for_all_addresses(address: str) -> None:
    taken = free_port()
    assert free_port(address, first(taken)) != taken


def test_the_port_of_another_process_is_free_after_its_end() -> None:
    command = [sys.executable, "-c", TAKER]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as taker:
        assert taker.stdout is not None
        taken = int(taker.stdout.readline())
        assert free_port(choose=first(taken)) != taken
        taker.communicate("\n")
    assert free_port(choose=first(taken)) == taken
