"""A unit that an operator has moved to another machine, as it is stored until that is done."""

import msgspec

from fleetd.model.decoding import FORMAT, Count


class Move(msgspec.Struct, frozen=True, omit_defaults=True, tag_field="format", tag=FORMAT):
    """One unit is to go to `machine`, with the units that MachineOf= joins to it. Stored under `moves/<unit>` by the
    API, until the leader has found it healthy there, or has found that it cannot be done.

    `by` is the user who asked for it, '' if unknown, `at` is Unix time. `force`: it moves whatever becomes unavailable.
    `origin` is the machine where it was when that was asked; if it `was_available` there, it returns when it fails.
    `revision` is the store's revision of this record, which guards its deletion; it is not part of the stored value.
    """

    machine: str
    by: str = ""
    at: float = 0.0
    force: bool = False
    origin: str = ""
    was_available: bool = False
    revision: Count = 0
