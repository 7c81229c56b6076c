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


class PlanRequest(msgspec.Struct, frozen=True, omit_defaults=True):
    """The body: what is to be planned, either machines that are drained together, or how to rebalance."""

    drain: tuple[PlannedDrain, ...] = ()
    rebalance: PlannedRebalance | None = None


class PlannedMove(msgspec.Struct, frozen=True, omit_defaults=True):
    """A unit goes from the machine `origin` ('': it is on none) to `machine` ('': a global unit that is stopped on
    `origin`), with the addresses of both. `reason` says why. `with` is the unit that it goes along with, because
    MachineOf= joins them, '' for none; told for a rebalance alone."""

    unit: str
    origin: str = ""
    machine: str = ""
    origin_address: str = msgspec.field(name="originAddress", default="")
    address: str = ""
    reason: str = ""
    along_with: str = msgspec.field(name="with", default="")


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


class Plan(msgspec.Struct, frozen=True, omit_defaults=True):
    """What would happen if every start succeeded, computed from the store at this `revision`, with so many `machines`
    and `units`. Nothing is changed.

    `moves` are in order; what has been asked for otherwise and is under way is among them. `nowhere` are units that
    would run on no machine any more. `stays` are the units that stay on drained machines, or that were named and may
    not be moved. `new` are machines that do not count yet. `endless`: the cluster would never come to rest.
    """

    revision: int
    machines: int
    units: int
    moves: tuple[PlannedMove, ...] = ()
    nowhere: tuple[UnmovedUnit, ...] = ()
    stays: tuple[UnmovedUnit, ...] = ()
    new: tuple[NewMachine, ...] = ()
    endless: bool = False
