"""The floor: systemd alone, given the same units on the same machines, without decisions and reports.

Its files are put where fleetd puts its own, and linked without a reload, as fleetd does, so that what remains of the
difference is the cluster.
"""

import time
from collections.abc import Sequence
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
