"""The types of version 2 that say why a unit is where it is; schema.py has them too, under the same names."""

import msgspec


class Rejection(msgspec.Struct, frozen=True, omit_defaults=True):
    """Why a machine does not take a unit: `leaving`, `parked`, `drained`, `cordoned`, `outdated`, `machine-id`,
    `metadata`, `no-seal-key`, `refused`, `no-socket`, `no-peer`, `peer-stops`, `conflict`, `replaced`; `subject` is the
    unit, id, metadata or text that this is about."""

    kind: str
    subject: str = ""


class RejectionCount(msgspec.Struct, frozen=True, omit_defaults=True):
    """How many machines reject a unit for one reason (see Rejection), which `message` says as a sentence."""

    kind: str
    message: str
    machines: int
    subject: str = ""


class Eviction(msgspec.Struct, frozen=True, omit_defaults=True):
    """Why a unit may not stay on a machine."""

    machine: str
    rejection: Rejection


class UnavailableMember(msgspec.Struct, frozen=True, omit_defaults=True):
    """A unit of a group that is not available, on a machine ('': on none). `why` is `unplaced`, `lost`, `leaving`,
    `unreported`, `inactive`, `unproven`, `unhealthy`, `unannounced`, `settling` or `disturbed`."""

    unit: str
    machine: str = ""
    why: str = ""


class Cause(msgspec.Struct, frozen=True, omit_defaults=True):
    """The data of a unit's reason: what programs decide by. Later versions may add kinds.

    `kind` is `placed` (by `rule`; `units` were placed together), `completed`, `infeasible`, `no-machines`, `stopping`
    (on `machines`), `waiting-for-stop` (on `machine`), `waiting-for-removal` (from `machine`), `waiting-for-room`
    (until `unit` has stopped on `machine`), `waiting-for-machine` (`absence`: `lost`, `parked` or `returning`; `until`:
    Unix time, 0 for ever), `waiting-for-peer` (`unit`, which waits for `peer_waits`) or `waiting-for-download` (until
    `machine` has what `units` need, before they are stopped to move there). On a machine that is drained:
    `budget` (it waits, because `unavailable` units of its group are, and at most `limit` may be; `members` are the
    first of them), `nowhere-else` (no other machine takes it: `rejections`), `may-finish` (a oneshot at work; `until`
    this Unix time, 0 for however long) or `drain-ended` (the deadline `until` has passed). `missing-secrets`: the
    cluster has no secrets of these `names`, which the unit names (Secret=). `waits` is what the unit
    waits for, a sentence that begins with "waits", '' where it does not wait. `hold` is why the machine does not stop
    the unit: `parked` or `orphaned`. `because` is why the unit had to stop.
    """

    kind: str
    waits: str = ""
    rule: str = ""
    machine: str = ""
    unit: str = ""
    machines: tuple[str, ...] = ()
    units: tuple[str, ...] = ()
    hold: str = ""
    absence: str = ""
    until: float = 0.0
    because: Eviction | None = None
    peer_waits: "Cause | None" = None
    limit: int = 0
    unavailable: int = 0
    members: tuple[UnavailableMember, ...] = ()
    rejections: tuple[RejectionCount, ...] = ()
    names: tuple[str, ...] = ()
