"""The types of version 2 that are about plans; schema.py has them too, under the same names."""

import msgspec

from fleetd.api.cause_schema import Cause

# POST /fleet/v2/plan


class PlannedDrain(msgspec.Struct, frozen=True, omit_defaults=True):
    """A machine (its full id) whose units are to move to others; `withGlobals` and `force` are as for Drain."""

    machine: str
    with_globals: bool = msgspec.field(name="withGlobals", default=False)
    force: bool = False


class PlannedRebalance(msgspec.Struct, frozen=True, omit_defaults=True):
    """The next moves that distribute units more evenly, at most `max`. `units` are names of units and templates: only
    these are moved; without any, all may be but those that are alone in their group. Machines that have been there for
    less than `minAge` seconds do not count."""

    max: int = 10
    units: tuple[str, ...] = ()
    min_age: float = msgspec.field(name="minAge", default=600.0)


class PlannedMachine(msgspec.Struct, frozen=True, omit_defaults=True):
    """A machine that joins, with this metadata. Its `id` is chosen where none is given, and comes after all others."""

    metadata: dict[str, str] = {}
    id: str = ""


class Preferred(msgspec.Struct, frozen=True, omit_defaults=True):
    """One level of the ranking of machines, and what the chosen one has there: `runs`, `replaced`, `instances`, `units`
    or `id`, as for explain."""

    rule: str
    value: int = 0


class PlannedMove(msgspec.Struct, frozen=True, omit_defaults=True):
    """A unit goes from the machine `origin` ('': it is on none) to `machine` ('': it is stopped on `origin`, being
    global or not wanted any more), with the addresses of both. `reason` says why. `with` is the unit that it goes along
    with, because MachineOf= joins them, '' for none. `preferences` are the levels of the ranking down to the one by
    which the machine is better than the next best that fits, the most important first; none if no other fits."""

    unit: str
    origin: str = ""
    machine: str = ""
    origin_address: str = msgspec.field(name="originAddress", default="")
    address: str = ""
    reason: str = ""
    along_with: str = msgspec.field(name="with", default="")
    preferences: tuple[Preferred, ...] = ()


class UnmovedUnit(msgspec.Struct, frozen=True, omit_defaults=True):
    """A unit that stays on a machine which it was to leave, or, without `machine`, one that has none any more. `state`
    is as for DrainedUnit, or `unplaced`. `reason` is a sentence whose subject is the unit, `cause` its data."""

    unit: str
    machine: str = ""
    address: str = ""
    state: str = ""
    reason: str = ""
    cause: Cause | None = None


class NewMachine(msgspec.Struct, frozen=True, omit_defaults=True):
    """A machine that does not count yet, and since when it is there (Unix time, s)."""

    machine: str
    address: str = ""
    since: float = 0.0


class PlannedChange(msgspec.Struct, frozen=True, omit_defaults=True):
    """A unit stays on its machine, and is changed there: `content`: it gets a new one; `target`: it gets this target
    state, '' if that stays; with neither, it is started again."""

    unit: str
    machine: str
    address: str = ""
    content: bool = False
    target: str = ""
