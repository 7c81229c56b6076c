"""What makes one of two machines that fit the better one for a unit."""

from enum import StrEnum

import msgspec


class Preference(StrEnum):
    """The levels of the ranking, the most important first. The value of each is least for the best machine."""

    RUNS = "runs"  # 0: the unit runs there already, without being placed there
    REPLACED = "replaced"  # 1: a unit there would replace it
    INSTANCES = "instances"  # of its template there
    UNITS = "units"  # there
    ID = "id"  # the lowest, when all else is equal


class Standing(msgspec.Struct, frozen=True):
    """Why a machine was chosen for a unit, and for those that go with it (MachineOf=): its value at each preference
    down to the one by which it is better than the next best machine that fits, in order."""

    unit: str
    machine: str
    values: tuple[tuple[Preference, int], ...]
