"""What a machine asks for so that it may start a unit with a lock (Lock=)."""

from fleetd.api.locking import Asked
from fleetd.model.isolation import IsolationOptions
from fleetd.model.machine import SHORT_ID_LENGTH


def owner_of(machine: str) -> str:
    """By whom the sessions of this machine's units are."""
    return f"machine {machine}"


def ask_for_unit(unit: str, options: IsolationOptions, machine: str) -> Asked:
    """What the machine with this id asks for. The options have a lock."""
    assert options.lock is not None
    holder = f"{unit} on {machine[:SHORT_ID_LENGTH]}"
    return Asked(options.lock.name, options.hold_s, options.lock.slots, owner_of(machine), holder)
