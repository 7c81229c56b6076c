"""The shapes that travel over the HTTP API, for fleetd and for fleetctl.

Version 1 is the original's (reference 4.2): its names and its omission of what is empty are a contract. Version 2 adds
what version 1 has no words for: why a unit is where it is, and how it stands on each machine. Only shapes live here.
"""

import msgspec

JSON_TYPE = "application/json"
V1 = "/fleet/v1"
V1_ALPHA = "/v1-alpha"
V2 = "/fleet/v2"


class UnitOption(msgspec.Struct, frozen=True, omit_defaults=True):
    """One line of a unit file."""

    section: str = ""
    name: str = ""
    value: str = ""


class Unit(msgspec.Struct, frozen=True, omit_defaults=True):
    """A unit, with its target state (`desiredState`) and the state it is known to be in (reference 2.1)."""

    name: str = ""
    options: tuple[UnitOption, ...] = ()
    desired_state: str = msgspec.field(name="desiredState", default="")
    current_state: str = msgspec.field(name="currentState", default="")
    machine_id: str = msgspec.field(name="machineID", default="")


class UnitPage(msgspec.Struct, frozen=True, omit_defaults=True):
    """One page of units."""

    units: tuple[Unit, ...] = ()
    next_page_token: str = msgspec.field(name="nextPageToken", default="")


class UnitState(msgspec.Struct, frozen=True, omit_defaults=True):
    """What one machine reports of one unit."""

    name: str = ""
    hash: str = ""
    machine_id: str = msgspec.field(name="machineID", default="")
    load: str = msgspec.field(name="systemdLoadState", default="")
    active: str = msgspec.field(name="systemdActiveState", default="")
    sub: str = msgspec.field(name="systemdSubState", default="")


class UnitStatePage(msgspec.Struct, frozen=True, omit_defaults=True):
    """One page of unit states."""

    states: tuple[UnitState, ...] = ()
    next_page_token: str = msgspec.field(name="nextPageToken", default="")


class Machine(msgspec.Struct, frozen=True, omit_defaults=True):
    """A machine. `mode` (ready, leaving, parked) is ours; version 1 clients do not look at it."""

    id: str = ""
    primary_ip: str = msgspec.field(name="primaryIP", default="")
    metadata: dict[str, str] = {}
    mode: str = ""


class MachinePage(msgspec.Struct, frozen=True, omit_defaults=True):
    """One page of machines."""

    machines: tuple[Machine, ...] = ()
    next_page_token: str = msgspec.field(name="nextPageToken", default="")


class ErrorDetail(msgspec.Struct, frozen=True):
    """What went wrong: the HTTP status once more, and a sentence."""

    code: int
    message: str


class ErrorEntity(msgspec.Struct, frozen=True):
    """The body of every response that is an error."""

    error: ErrorDetail


# Version 2: GET /fleet/v2/units?name=NAME&name=NAME… (all units where no name is given).


class AllocationReport(msgspec.Struct, frozen=True, omit_defaults=True):
    """How a unit stands on one machine.

    `target` and `generation` are those that the machine has carried out last; `error` is why its last step failed;
    `completed` says that a oneshot ran to its end with success; `orphaned` that the cluster knows of no such unit.
    `result` is systemd's word for how the job ended that was asked for last, where it left the unit at rest, or
    `refused` where systemd would not do it: `condition` is no failure, and `note` says which one is not met.
    `refusal` is why the machine takes no unit of this name.
    """

    machine: str
    address: str = ""
    load: str = ""
    active: str = ""
    sub: str = ""
    hash: str = ""
    target: str = ""
    generation: int = 0
    completed: bool = False
    superseded: bool = False
    orphaned: bool = False
    error: str = ""
    result: str = ""
    note: str = ""
    refusal: str = ""


class Rejection(msgspec.Struct, frozen=True, omit_defaults=True):
    """Why a machine does not take a unit: `leaving`, `parked`, `machine-id`, `metadata`, `refused`, `no-socket`,
    `no-peer`, `conflict`, `replaced`; `subject` is the unit, id or metadata that this is about."""

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


class Cause(msgspec.Struct, frozen=True, omit_defaults=True):
    """The data of a unit's reason: what programs decide by. Later versions may add kinds.

    `kind` is `placed` (by `rule`; `units` were placed together), `completed`, `infeasible`, `no-machines`, `stopping`
    (on `machines`), `waiting-for-stop` (on `machine`), `waiting-for-removal` (from `machine`), `waiting-for-room`
    (until `unit` has stopped on `machine`), `waiting-for-machine` (`absence`: `lost`, `parked` or `returning`; `until`:
    Unix time, 0 for ever) or `waiting-for-peer` (`unit`, which waits for `peer_waits`). `waits` is what the unit waits
    for, a sentence that begins with "waits", '' where it does not wait. `hold` is why the machine does not stop the
    unit: `parked` or `orphaned`. `because` is why the unit had to stop.
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


class UnitReport(msgspec.Struct, frozen=True, omit_defaults=True):
    """A unit, what was decided for it and why, and how it stands wherever it is.

    `generation` grows with every operation on the unit. `decided` is the generation that the leader has decided for;
    where that is lower, `machine`, `machines`, `since` (Unix time, s), `reason`, `cause` and `rejections` belong to the
    earlier generation. `reason` is a sentence, `cause` its data; `rejections` are the most frequent first.
    """

    name: str
    target: str
    generation: int
    hash: str = ""
    is_global: bool = msgspec.field(name="global", default=False)
    decided: int = 0
    machine: str = ""
    machines: int = 0
    since: float = 0.0
    reason: str = ""
    cause: Cause | None = None
    rejections: tuple[RejectionCount, ...] = ()
    allocations: tuple[AllocationReport, ...] = ()


class UnitReports(msgspec.Struct, frozen=True, omit_defaults=True):
    """The answer to GET /fleet/v2/units. Names that no unit bears are left out."""

    units: tuple[UnitReport, ...] = ()


class ReportRequest(msgspec.Struct, frozen=True):
    """The body of POST /fleet/v2/reports, which answers as GET /fleet/v2/units does, on more names than a URL holds."""

    names: tuple[str, ...] = ()


# POST /fleet/v2/units: what is wished of many units, at most 1000 in one request. The trouble of one is its own.


class UnitOperation(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is wished of one unit, as PUT and DELETE of version 1 take it. With `only_new` a unit that is there already
    is left as it is (412)."""

    name: str
    options: tuple[UnitOption, ...] = ()
    desired_state: str = msgspec.field(name="desiredState", default="")
    only_new: bool = msgspec.field(name="onlyNew", default=False)
    destroy: bool = False


class UnitOperations(msgspec.Struct, frozen=True):
    """The body: each unit is named once."""

    operations: tuple[UnitOperation, ...] = ()


class Result(msgspec.Struct, frozen=True, omit_defaults=True):
    """What came of a wish: the status and the message that version 1 would have answered with."""

    name: str
    code: int
    message: str = ""


class Results(msgspec.Struct, frozen=True):
    """The answer, in the order of the wishes."""

    results: tuple[Result, ...] = ()


# POST /fleet/v2/restart: start units anew, as `systemctl restart` does, wherever they run; answered with Outcomes, in
# the order of the names. What is wanted of them stays what it is; a unit that is wanted on no machine is refused (409).


class Restarts(msgspec.Struct, frozen=True):
    """The body: at most 1000 units, each named once."""

    names: tuple[str, ...] = ()


# POST /fleet/v2/leave, on the machine's own unix socket: leave the cluster; repeated until `left`.


class Leaving(msgspec.Struct, frozen=True, omit_defaults=True):
    """How far this machine is with leaving the cluster, and the units that it still waits for."""

    left: bool = False
    waiting_for: tuple[str, ...] = msgspec.field(name="waitingFor", default=())
