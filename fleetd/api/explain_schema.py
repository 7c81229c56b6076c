"""The types of version 2 that explain where a unit is; schema.py has them too, under the same names."""

import msgspec

from fleetd.api.cause_schema import Cause, Rejection
from fleetd.api.event_schema import Event

# GET /fleet/v2/explain/{unitName}


class Narrowing(msgspec.Struct, frozen=True, omit_defaults=True):
    """A rule that leaves fewer machines than those before it, and how many. `rule` is what a machine has to meet
    (`accepts`, `has`, `takes`, `sockets`, `peers`, `conflicts`) or what makes one the better one (`runs`, `replaced`,
    `instances`, `units`, `id`). `message` says it. `rejections` are why the others do not meet it; `value` is what
    those that are left have."""

    rule: str
    left: int
    message: str = ""
    rejections: tuple[Rejection, ...] = ()
    value: int = 0


class Verdict(msgspec.Struct, frozen=True, omit_defaults=True):
    """Why the unit is not on a machine: all `rejections`; if there are none, the `rule` by which its own machine is the
    better one, and the `value` here. `message` says it. `better`: this machine is the better one at present; the unit
    is not moved for that."""

    machine: str
    address: str = ""
    message: str = ""
    rejections: tuple[Rejection, ...] = ()
    rule: str = ""
    value: int = 0
    better: bool = False


class Place(msgspec.Struct, frozen=True, omit_defaults=True):
    """A machine where the unit is, and its address. `unannounced` is why others cannot rely on the names there that the
    unit announces, '' if they can, or if it has none. `note` is what it waits for there, or what else the machine says
    of it ('': nothing)."""

    machine: str
    address: str = ""
    unannounced: str = ""
    note: str = ""


class Explanation(msgspec.Struct, frozen=True, omit_defaults=True):
    """Why a unit is where it is, by the cluster at this `revision`. `places` is where it is, since `since` (Unix time,
    s; 0: unknown), for this `reason` (a sentence whose subject is the unit) and `cause`.

    `why_here` leads from all `machines` to the one that would be chosen if the unit were placed anew (`best`, '' for
    none), or, for one that is on many, to those that it fits on. `why_not` is about the machines where it is not.
    `history` is what has happened to the unit of late, the newest first. `isolation` says what becomes of a unit with
    IsolationSec= or Lock= where its machine is cut off, in the same form; '' for any other.
    """

    unit: str
    revision: int
    target: str = ""
    places: tuple[Place, ...] = ()
    since: float = 0.0
    reason: str = ""
    cause: Cause | None = None
    machines: int = 0
    best: str = ""
    why_here: tuple[Narrowing, ...] = msgspec.field(name="whyHere", default=())
    why_not: tuple[Verdict, ...] = msgspec.field(name="whyNot", default=())
    history: tuple[Event, ...] = ()
    isolation: str = ""
