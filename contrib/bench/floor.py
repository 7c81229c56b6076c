"""The floor: systemd alone, given the same units on the same machines, without decisions and reports.

What is started is not fleet's. Its files are put where fleetd puts its own, and linked without a reload, as fleetd
does, so that what remains of the difference is the cluster.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from contrib.testbed import Machine

DIRECTORY = "/run/fleet-bench"
LINKS = "/run/systemd/system"
START_TIMEOUT_S = 120.0


def start_alone(machines: Sequence[Machine], names: Sequence[str], text: str) -> float:
    """How long it takes, in seconds, until all units are active, split evenly over machines that work at once. They are
    gone again when this returns."""
    shares = [names[index :: len(machines)] for index in range(len(machines))]
    with ThreadPoolExecutor(len(machines)) as pool:
        began = time.monotonic()
        list(pool.map(partial(_start, text), machines, shares))
        took = time.monotonic() - began
        list(pool.map(_remove, machines, shares))
    return took


def restart_in_batches(batches: Sequence[Sequence[str]], where: Mapping[str, Machine]) -> float:
    """How long it takes, in seconds, to restart units of these machines batch after batch. The machines of a batch work
    at once, and the next one begins when all of them are done."""
    with ThreadPoolExecutor(max(map(len, batches))) as pool:
        began = time.monotonic()
        for batch in batches:
            shares = share_by_machine(batch, where)
            list(pool.map(_restart, *zip(*shares, strict=True)))
        return time.monotonic() - began


def cut_into_batches(names: Sequence[str], size: int) -> Iterator[Sequence[str]]:
    """So many at a time, in order."""
    for start in range(0, len(names), size):
        yield names[start : start + size]


def share_by_machine(names: Sequence[str], where: Mapping[str, Machine]) -> list[tuple[Machine, list[str]]]:
    """Each machine that has some of the units, with these."""
    shares: dict[str, tuple[Machine, list[str]]] = {}
    for name in names:
        machine = where[name]
        shares.setdefault(machine.name, (machine, []))[1].append(name)
    return list(shares.values())


def _restart(machine: Machine, names: Sequence[str]) -> None:
    machine.run(["systemctl", "restart", *names], timeout_s=START_TIMEOUT_S)


def _start(text: str, machine: Machine, names: Sequence[str]) -> None:
    directory, links = machine.path(DIRECTORY), machine.path(LINKS)
    directory.mkdir(exist_ok=True)
    links.mkdir(exist_ok=True)
    for name in names:
        (directory / name).write_text(text)
        (links / name).symlink_to(f"{DIRECTORY}/{name}")
    machine.run(["systemctl", "start", *names], timeout_s=START_TIMEOUT_S)


def _remove(machine: Machine, names: Sequence[str]) -> None:
    machine.run(["systemctl", "stop", *names], timeout_s=START_TIMEOUT_S)
    for name in names:
        machine.path(f"{LINKS}/{name}").unlink()
        machine.path(f"{DIRECTORY}/{name}").unlink()
    machine.run(["systemctl", "daemon-reload"])
