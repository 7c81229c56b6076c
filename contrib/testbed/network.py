"""A bridge with a subnet of its own for one testbed, and the name by which all that belongs to it is recognised.

A testbed is `ftb<slot>`: its bridge, its folder below /run/fleet-testbed and its machines' links carry that name. The
slot is held by a lock that dies with the process, so what a killed run left behind is told from what is in use.
"""

import fcntl
import subprocess
from pathlib import Path
from typing import IO

from contrib.testbed import leftovers

BASE = Path("/run/fleet-testbed")
SLOTS = range(100)
FIRST_MACHINE_ADDRESS = 11  # .1 is the bridge
NOBODY = "02:f1:ee:7b:ff:ff"  # a link address that no interface has: what is sent to it is lost without a word
MOST_MACHINES = 240


class Network:
    """A claimed slot: its bridge stands at .1 of its /24, reachable from this machine alone."""

    def __init__(self, slot: int, lock: IO[str]) -> None:
        self._lock = lock
        self.slot = slot
        self.name = _name(slot)
        self.directory = BASE / self.name
        self.bridge = self.name
        self.address = _address(slot, 1)

    @classmethod
    def claim(cls) -> "Network":
        """Take a slot that nobody holds and whose subnet has no route here, clear it, and set its bridge up."""
        for slot in SLOTS:
            lock = _lock(slot)
            if lock is None:
                continue
            leftovers.sweep(_name(slot), BASE / _name(slot))
            if _is_routed(slot):
                lock.close()
                continue
            network = cls(slot, lock)
            network._set_up()
            return network
        raise RuntimeError(f"no free testbed: all {len(SLOTS)} slots below {BASE} are taken, or their subnets routed")

    def release(self) -> None:
        """Take everything of this testbed away, whatever state it is in, and give the slot back."""
        leftovers.sweep(self.name, self.directory)
        self._lock.close()

    def address_of(self, index: int) -> str:
        """The address of the machine with this index, counted from 0, without the prefix length (24)."""
        assert 0 <= index < MOST_MACHINES, f"a testbed holds {MOST_MACHINES} machines"
        return _address(self.slot, FIRST_MACHINE_ADDRESS + index)

    def container_of(self, machine: str) -> str:
        """The name that this machine's container has outside; with `vb-` before it, that of its link."""
        container = f"{self.name}-{machine}"
        assert len(f"vb-{container}") <= 15, f"{container} is too long for the name of an interface"
        return container

    def cut(self, machine: str) -> None:
        """Drop every packet from and to the machine. Its link stays up: as in a cut between switches, it sees none."""
        _ip("link", "set", f"vb-{self.container_of(machine)}", "nomaster")

    def heal(self, machine: str) -> None:
        _ip("link", "set", f"vb-{self.container_of(machine)}", "master", self.bridge)

    def mute(self, address: str) -> None:
        """Lose all that etcd, and this host, send to the machine at this address. What it sends arrives, and the other
        machines and it hear each other as before."""
        _ip("neigh", "replace", address, "lladdr", NOBODY, "dev", self.bridge, "nud", "permanent")

    def unmute(self, address: str) -> None:
        _ip("neigh", "del", address, "dev", self.bridge)

    def _set_up(self) -> None:
        self.directory.mkdir(parents=True)
        subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=755", self.name, self.directory], check=True)
        # A bridge left to itself takes the lowest address of its ports, and another one when that machine goes: all the
        # others would then send to an address that is gone, for seconds.
        _ip("link", "add", self.bridge, "address", f"02:f1:ee:7b:00:{self.slot:02x}", "type", "bridge")
        _ip("addr", "add", f"{self.address}/24", "dev", self.bridge)
        _ip("link", "set", self.bridge, "up")


def clean_leftovers() -> list[str]:
    """Take away what killed runs left behind; the names of the testbeds that were cleared. Those in use stay."""
    cleared = []
    for slot in SLOTS:
        if (BASE / _name(slot)).exists() and (lock := _lock(slot)):
            leftovers.sweep(_name(slot), BASE / _name(slot))
            lock.close()
            cleared.append(_name(slot))
    return cleared


def _name(slot: int) -> str:
    return f"ftb{slot}"


def _address(slot: int, host: int) -> str:
    return f"10.213.{slot}.{host}"


def _lock(slot: int) -> IO[str] | None:
    """The slot's lock, held until it is closed, or None if somebody has it."""
    BASE.mkdir(parents=True, exist_ok=True)
    lock = (BASE / f"{_name(slot)}.lock").open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        return None
    return lock


def _is_routed(slot: int) -> bool:
    found = subprocess.run(
        ["ip", "-4", "route", "show", "root", f"{_address(slot, 0)}/24"], check=True, capture_output=True
    )
    return bool(found.stdout.strip())


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)
