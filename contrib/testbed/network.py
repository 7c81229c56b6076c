"""A bridge with a subnet for one testbed, and the name of everything that belongs to it.

A testbed is `ftb<slot>`: its bridge, its folder below /run/fleet-testbed and its machines' links have that name. A lock
holds the slot and ends with the process, which tells a running testbed from the leftovers of a killed run.
"""

import fcntl
import subprocess
from pathlib import Path
from typing import IO

from contrib.testbed import leftovers

BASE = Path("/run/fleet-testbed")
SLOTS = range(100)
FIRST_MACHINE_ADDRESS = 11  # .1 is the bridge
NO_LINK = "02:f1:ee:7b:ff:ff"  # a link address that no interface has: packets to it are lost silently
MOST_MACHINES = 240


class Network:
    """A claimed slot: its bridge is .1 of its /24, reachable from this host alone."""

    def __init__(self, slot: int, lock: IO[str]) -> None:
        self._lock = lock
        self.slot = slot
        self.name = _name(slot)
        self.directory = BASE / self.name
        self.bridge = self.name
        self.address = _address(slot, 1)

    @classmethod
    def claim(cls) -> "Network":
        """Claim a free slot whose subnet has no route here, clear it, and set its bridge up."""
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
        """Remove everything of this testbed, whatever its state, and release the slot."""
        leftovers.sweep(self.name, self.directory)
        self._lock.close()

    def address_of(self, index: int) -> str:
        """The address of the machine with this index (from 0), without the prefix length (24)."""
        assert 0 <= index < MOST_MACHINES, f"a testbed holds {MOST_MACHINES} machines"
        return _address(self.slot, FIRST_MACHINE_ADDRESS + index)

    def container_of(self, machine: str) -> str:
        """The host's name for this machine's container; its link is `vb-` and this name."""
        container = f"{self.name}-{machine}"
        assert len(f"vb-{container}") <= 15, f"{container} is too long for the name of an interface"
        return container

    def cut(self, machine: str) -> None:
        """Drop every packet from and to the machine. Its link stays up, as in a cut between switches."""
        _ip("link", "set", f"vb-{self.container_of(machine)}", "nomaster")

    def heal(self, machine: str) -> None:
        _ip("link", "set", f"vb-{self.container_of(machine)}", "master", self.bridge)

    def mute(self, address: str) -> None:
        """Drop what etcd and this host send to the machine at this address. Its packets arrive, and it reaches the
        other machines as before."""
        _ip("neigh", "replace", address, "lladdr", NO_LINK, "dev", self.bridge, "nud", "permanent")

    def unmute(self, address: str) -> None:
        _ip("neigh", "del", address, "dev", self.bridge)

    def _set_up(self) -> None:
        self.directory.mkdir(parents=True)
        subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=755", self.name, self.directory], check=True)
        # By default a bridge has the lowest address of its ports, and changes it when that machine goes: for seconds
        # the others would send to an address that is gone.
        _ip("link", "add", self.bridge, "address", f"02:f1:ee:7b:00:{self.slot:02x}", "type", "bridge")
        _ip("addr", "add", f"{self.address}/24", "dev", self.bridge)
        _ip("link", "set", self.bridge, "up")


def clean_leftovers() -> list[str]:
    """Remove the leftovers of killed runs. Return the names of those testbeds. Testbeds in use stay."""
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
    """The slot's lock, held until it is closed; None if another process holds it."""
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
