"""The JSON types of the HTTP API, for fleetd and for fleetctl.

Version 1 is CoreOS fleet's: its names, and that empty fields are omitted, are a contract. Version 2 adds why a unit is
where it is, its state on each machine, and operations on many units.
"""

import msgspec

from fleetd.api.cause_schema import Cause as Cause
from fleetd.api.cause_schema import Eviction as Eviction
from fleetd.api.cause_schema import Rejection as Rejection
from fleetd.api.cause_schema import RejectionCount as RejectionCount
from fleetd.api.cause_schema import UnavailableMember as UnavailableMember
from fleetd.api.cluster_schema import AuthorityReport as AuthorityReport
from fleetd.api.cluster_schema import ClusterMachine as ClusterMachine
from fleetd.api.cluster_schema import ClusterReport as ClusterReport
from fleetd.api.cluster_schema import CordonRequest as CordonRequest
from fleetd.api.cluster_schema import Drain as Drain
from fleetd.api.cluster_schema import DrainedUnit as DrainedUnit
from fleetd.api.cluster_schema import DrainReport as DrainReport
from fleetd.api.cluster_schema import DrainRequest as DrainRequest
from fleetd.api.cluster_schema import HostKeys as HostKeys
from fleetd.api.cluster_schema import Leaving as Leaving
from fleetd.api.cluster_schema import MachineHostKeys as MachineHostKeys
from fleetd.api.cluster_schema import MoveReport as MoveReport
from fleetd.api.cluster_schema import MoveRequest as MoveRequest
from fleetd.api.cluster_schema import RebootReport as RebootReport
from fleetd.api.cluster_schema import RebootReports as RebootReports
from fleetd.api.cluster_schema import RebootRequest as RebootRequest
from fleetd.api.cluster_schema import SecretChange as SecretChange
from fleetd.api.cluster_schema import SecretChanged as SecretChanged
from fleetd.api.cluster_schema import SecretReport as SecretReport
from fleetd.api.cluster_schema import SecretReports as SecretReports
from fleetd.api.cluster_schema import Setting as Setting
from fleetd.api.cluster_schema import SettingChanges as SettingChanges
from fleetd.api.cluster_schema import Settings as Settings
from fleetd.api.cluster_schema import StoreMember as StoreMember
from fleetd.api.cluster_schema import UnrestartedGroup as UnrestartedGroup
from fleetd.api.event_schema import Event as Event
from fleetd.api.explain_schema import Explanation as Explanation
from fleetd.api.explain_schema import Narrowing as Narrowing
from fleetd.api.explain_schema import Place as Place
from fleetd.api.explain_schema import Verdict as Verdict
from fleetd.api.insight_schema import ImageQuestion as ImageQuestion
from fleetd.api.insight_schema import ResolvedImage as ResolvedImage
from fleetd.api.insight_schema import SilentMachine as SilentMachine
from fleetd.api.insight_schema import UnitStatus as UnitStatus
from fleetd.api.insight_schema import UnitStatuses as UnitStatuses
from fleetd.api.join_schema import Authorities as Authorities
from fleetd.api.join_schema import AuthorityKey as AuthorityKey
from fleetd.api.join_schema import AuthorityKeys as AuthorityKeys
from fleetd.api.join_schema import JoinAnswer as JoinAnswer
from fleetd.api.join_schema import JoinRequest as JoinRequest
from fleetd.api.join_schema import MachineRemoval as MachineRemoval
from fleetd.api.join_schema import MachineRevocation as MachineRevocation
from fleetd.api.join_schema import MachineToken as MachineToken
from fleetd.api.join_schema import MachineTokenRequest as MachineTokenRequest
from fleetd.api.join_schema import NewAuthority as NewAuthority
from fleetd.api.join_schema import Renewal as Renewal
from fleetd.api.join_schema import RenewalRequest as RenewalRequest
from fleetd.api.lock_schema import Lock as Lock
from fleetd.api.lock_schema import LockAnswer as LockAnswer
from fleetd.api.lock_schema import LockEviction as LockEviction
from fleetd.api.lock_schema import LockRequest as LockRequest
from fleetd.api.lock_schema import Locks as Locks
from fleetd.api.lock_schema import LockSession as LockSession
from fleetd.api.login_schema import Login as Login
from fleetd.api.login_schema import LoginRequest as LoginRequest
from fleetd.api.login_schema import RevocationRequest as RevocationRequest
from fleetd.api.plan_schema import NewMachine as NewMachine
from fleetd.api.plan_schema import PlannedChange as PlannedChange
from fleetd.api.plan_schema import PlannedDrain as PlannedDrain
from fleetd.api.plan_schema import PlannedMachine as PlannedMachine
from fleetd.api.plan_schema import PlannedMove as PlannedMove
from fleetd.api.plan_schema import PlannedRebalance as PlannedRebalance
from fleetd.api.plan_schema import Preferred as Preferred
from fleetd.api.plan_schema import UnmovedUnit as UnmovedUnit
from fleetd.api.rollout_schema import PastRollout as PastRollout
from fleetd.api.rollout_schema import Rollout as Rollout
from fleetd.api.rollout_schema import RolloutCommand as RolloutCommand
from fleetd.api.rollout_schema import RolloutFailure as RolloutFailure
from fleetd.api.rollout_schema import RolloutMember as RolloutMember
from fleetd.api.rollout_schema import Rollouts as Rollouts
from fleetd.api.service_schema import Service as Service
from fleetd.api.service_schema import Services as Services
from fleetd.model.unit_option import UnitOption

JSON_TYPE = "application/json"
USER_HEADER = "Fleet-User"  # the name of the user who asks
V1 = "/fleet/v1"
V1_ALPHA = "/v1-alpha"
V2 = "/fleet/v2"


class Unit(msgspec.Struct, frozen=True, omit_defaults=True):
    """A unit with its target state (`desiredState`) and the last state it reached (`currentState`)."""

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
    """The state of a unit on one machine."""

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


class Cordon(msgspec.Struct, frozen=True, omit_defaults=True):
    """A machine takes no new units but global ones: why, who cordoned it ('' if not told), and when (Unix time, s)."""

    why: str = ""
    by: str = ""
    at: float = 0.0


class Machine(msgspec.Struct, frozen=True, omit_defaults=True):
    """A machine. All but id, address and metadata are additions to CoreOS fleet's API: `mode` (leaving, parked),
    `cordon`, `drain`, `reboot` (the phase of its reboot, as in RebootReport), `rebootRequired` (why it wants to be
    rebooted) and `certificateExpires` (when its certificate expires, a Unix time; not there if it has none)."""

    id: str = ""
    primary_ip: str = msgspec.field(name="primaryIP", default="")
    metadata: dict[str, str] = {}
    mode: str = ""
    cordon: Cordon | None = None
    drain: Drain | None = None
    reboot: str = ""
    reboot_required: str = msgspec.field(name="rebootRequired", default="")
    certificate_expires: int = msgspec.field(name="certificateExpires", default=0)


class MachinePage(msgspec.Struct, frozen=True, omit_defaults=True):
    """One page of machines."""

    machines: tuple[Machine, ...] = ()
    next_page_token: str = msgspec.field(name="nextPageToken", default="")


class ErrorDetail(msgspec.Struct, frozen=True):
    """The HTTP status and a message."""

    code: int
    message: str


class ErrorEntity(msgspec.Struct, frozen=True):
    """The body of every error response."""

    error: ErrorDetail


# Version 2: GET /fleet/v2/units?name=NAME&name=NAME… (all units where no name is given).


class AllocationReport(msgspec.Struct, frozen=True, omit_defaults=True):
    """The state of a unit on one machine.

    `target` and `generation` are the last that the machine has carried out; `error` is why its last action failed.
    `completed`: a oneshot has ended with success. `superseded`: it is replaced on another machine and stops there soon.
    `orphaned`: the cluster has no such unit. `result` is systemd's result of the last job if the unit is at rest after
    it, or `refused` if systemd rejected the job; `condition` is not a failure, and `note` says which condition is not
    met. `refusal` is why the machine accepts no unit of this name.
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


class UnitReport(msgspec.Struct, frozen=True, omit_defaults=True):
    """A unit, the leader's decision for it and its reason, and its allocations.

    `generation` grows with every operation on the unit. `hash` is of unit file and drop-ins together, `fileHash` of the
    unit file alone where there are drop-ins. `decided` is the generation that the leader has decided for;
    where that is lower, `machine`, `machines`, `since` (Unix time, s), `reason`, `cause` and `rejections` belong to the
    earlier generation. `reason` is a sentence, `cause` its data; `rejections` are the most frequent first. `by` is who
    wrote the unit last ('' if unknown), `at` this Unix time (0 if unknown).
    """

    name: str
    target: str
    generation: int
    hash: str = ""
    file_hash: str = msgspec.field(name="fileHash", default="")
    is_global: bool = msgspec.field(name="global", default=False)
    decided: int = 0
    machine: str = ""
    machines: int = 0
    since: float = 0.0
    reason: str = ""
    cause: Cause | None = None
    rejections: tuple[RejectionCount, ...] = ()
    allocations: tuple[AllocationReport, ...] = ()
    by: str = ""
    at: int = 0

    @property
    def hash_of_file(self) -> str:
        """The hash of the unit file alone."""
        return self.file_hash or self.hash


class UnitReports(msgspec.Struct, frozen=True, omit_defaults=True):
    """The answer to GET /fleet/v2/units. Names of units that do not exist are left out."""

    units: tuple[UnitReport, ...] = ()


class ReportRequest(msgspec.Struct, frozen=True):
    """The body of POST /fleet/v2/reports, for more names than a URL holds; answered as GET /fleet/v2/units."""

    names: tuple[str, ...] = ()


# POST /fleet/v2/units: operations on many units, at most 1000 in one request. One that fails does not stop the others.


class DropIn(msgspec.Struct, frozen=True, omit_defaults=True):
    """A drop-in: the name of the file (`10-limits.conf`), and its text. The cluster keeps the text without comments."""

    name: str
    text: str = ""


class UnitContent(msgspec.Struct, frozen=True, omit_defaults=True):
    """A unit with its whole content: the options of the unit file, and the drop-ins in order of their names. `hash` is
    of both. The drop-ins of an instance include those of its template."""

    name: str
    generation: int
    desired_state: str = msgspec.field(name="desiredState", default="")
    hash: str = ""
    options: tuple[UnitOption, ...] = ()
    dropins: tuple[DropIn, ...] = ()


class UnitOperation(msgspec.Struct, frozen=True, omit_defaults=True):
    """One operation on one unit, as PUT and DELETE of version 1.

    `dropins` replace those of the unit; without the field it keeps them, and a new instance gets its template's. With
    `dropins` alone, the unit file and the target state stay. `onlyNew` refuses (412) to change an existing unit,
    `generation` one that has changed since it had this one.
    """

    name: str
    options: tuple[UnitOption, ...] = ()
    desired_state: str = msgspec.field(name="desiredState", default="")
    only_new: bool = msgspec.field(name="onlyNew", default=False)
    destroy: bool = False
    dropins: tuple[DropIn, ...] | None = None
    generation: int = 0


class UnitOperations(msgspec.Struct, frozen=True):
    """The body; each unit is named once."""

    operations: tuple[UnitOperation, ...] = ()


class Result(msgspec.Struct, frozen=True, omit_defaults=True):
    """Result of one operation: the status and the message that version 1 would answer with."""

    name: str
    code: int
    message: str = ""


class Results(msgspec.Struct, frozen=True):
    """The answer, in the order of the operations."""

    results: tuple[Result, ...] = ()


# POST /fleet/v2/restart: restart units in place wherever they run, as `systemctl restart` does; answered with Results
# in the order of the names. Target states do not change; an inactive unit is refused (409).


class Restarts(msgspec.Struct, frozen=True):
    """The body; at most 1000 units, each named once."""

    names: tuple[str, ...] = ()


# POST /fleet/v2/apply: units that belong together, as those of a folder. All of them are changed, or none is.


class AppliedUnit(msgspec.Struct, frozen=True, omit_defaults=True):
    """A unit: its unit file, and drop-ins of its own. An instance without a text has the file of its template; it gets
    the drop-ins of its template as well. Instances that the Instances= of a template names need not be listed."""

    name: str
    text: str = ""
    dropins: tuple[DropIn, ...] = ()


class Apply(msgspec.Struct, frozen=True, omit_defaults=True):
    """The body. `set` is the set that the units belong to from now on, '' for none. `prune` destroys the members of the
    set that are not listed; to destroy more than half of a set, it has to be `confirmed`. `takeOver` takes units out of
    other sets. `retry` rolls out again what was reverted. With `plan`, nothing is changed, and with `contents` the
    answer holds what the cluster has of the units that would change. `note` is a remark to keep with the units.

    `edit` changes one unit that exists, with all of its drop-ins, and, if it is a template, its instances, which keep
    what they have of their own; nothing is created. It is refused if the unit has changed since it had `generation`.

    With a `revision` of the store, as a plan has it, nothing is written (412) if one of the units that are applied, or
    of the members of the set, was written after that."""

    units: tuple[AppliedUnit, ...] = ()
    set: str = ""
    prune: bool = False
    confirmed: bool = False
    take_over: bool = msgspec.field(name="takeOver", default=False)
    retry: bool = False
    plan: bool = False
    contents: bool = False
    note: str = ""
    edit: bool = False
    generation: int = 0
    revision: int = 0


class Scale(msgspec.Struct, frozen=True, omit_defaults=True):
    """The body of POST /fleet/v2/scale: how many numbered instances (NAME@1 to NAME@N) of a template there are to be.
    `plan` and `note` are as for POST /fleet/v2/apply, and so is the answer."""

    template: str
    instances: int
    plan: bool = False
    note: str = ""


class PlannedUnit(msgspec.Struct, frozen=True, omit_defaults=True):
    """What becomes of one unit. `change` is `new`, `changed`, `unchanged` (it only joins the set), `gone` (it is of the
    set, but not listed, and stays) or `destroyed`. `impact` of a change is `none`, `reload` (systemd's daemon-reload)
    or `restart`. `because` is why that is so, in words. `target` is the target state. `owner` is the set that the unit
    is taken out of. `before` is what the cluster has of a unit that is not new, if that was asked for."""

    name: str
    change: str
    target: str = ""
    impact: str = ""
    because: str = ""
    owner: str = ""
    is_global: bool = msgspec.field(name="global", default=False)
    before: AppliedUnit | None = None


class PlannedGroup(msgspec.Struct, frozen=True, omit_defaults=True):
    """A group with changed units: how many of them run, and how many of these may be changed at a time, as its
    `maxUnavailable` says."""

    name: str
    running: int = 0
    at_a_time: int = msgspec.field(name="atATime", default=1)
    max_unavailable: str = msgspec.field(name="maxUnavailable", default="")


class Applied(msgspec.Struct, frozen=True, omit_defaults=True):
    """The answer: the units for which something changes, by name, and how many others there are. `id` identifies the
    apply, '' if nothing was written. `refusals` are why nothing may be written; only a plan has any. `reverted` are
    groups whose units had what is applied, which was reverted: they keep their former content. `notes` are remarks."""

    id: str = ""
    units: tuple[PlannedUnit, ...] = ()
    groups: tuple[PlannedGroup, ...] = ()
    unchanged: int = 0
    refusals: tuple[str, ...] = ()
    reverted: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


# POST /fleet/v2/plan; the rest of its types is in plan_schema.py


class PlanRequest(msgspec.Struct, frozen=True, omit_defaults=True):
    """The body: what is to be planned, one of these. `drain`: machines that are drained together; `rebalance`: how;
    `operations`: units that are created, changed or destroyed, as for POST /fleet/v2/units; `apply`: units that are
    applied; `lose`: machines (full ids) that are lost together; `join`: machines that join together."""

    drain: tuple[PlannedDrain, ...] = ()
    rebalance: PlannedRebalance | None = None
    operations: tuple[UnitOperation, ...] = ()
    apply: Apply | None = None
    lose: tuple[str, ...] = ()
    join: tuple[PlannedMachine, ...] = ()


class Plan(msgspec.Struct, frozen=True, omit_defaults=True):
    """What would happen if every start succeeded, computed from the store at this `revision`, with so many `machines`
    and `units`. Nothing is changed.

    `moves` are in order; what has been asked for otherwise and is under way is among them. `changes` are of units that
    stay where they are. `nowhere` are units that would run on no machine any more. `stays` are the units that stay on
    drained machines, or that were named and may not be moved. `new` are machines that do not count yet. `applied` is
    what POST /fleet/v2/apply would answer. `endless`: the cluster would never come to rest.
    """

    revision: int
    machines: int
    units: int
    moves: tuple[PlannedMove, ...] = ()
    nowhere: tuple[UnmovedUnit, ...] = ()
    stays: tuple[UnmovedUnit, ...] = ()
    new: tuple[NewMachine, ...] = ()
    endless: bool = False
    changes: tuple[PlannedChange, ...] = ()
    applied: Applied | None = None


class UnitSet(msgspec.Struct, frozen=True, omit_defaults=True):
    """A set and its members, in order."""

    name: str
    members: tuple[str, ...] = ()


class UnitSets(msgspec.Struct, frozen=True, omit_defaults=True):
    """The answer to GET /fleet/v2/sets."""

    sets: tuple[UnitSet, ...] = ()


class Version(msgspec.Struct, frozen=True, omit_defaults=True):
    """One version of a group, which is a template with its instances, or one unit alone: what it held since `at` (Unix
    time, s; 0: unknown), by whom and why; `apply` is the id of the apply that made it, and of its rollout. `text` and
    `dropins` are those of the template or the unit, `instances` what instances had of their own."""

    number: int
    at: float = 0.0
    by: str = ""
    note: str = ""
    apply: str = ""
    text: str = ""
    dropins: tuple[DropIn, ...] = ()
    instances: tuple[AppliedUnit, ...] = ()


class Versions(msgspec.Struct, frozen=True, omit_defaults=True):
    """The answer to GET /fleet/v2/versions/{group}: the last versions, oldest first."""

    versions: tuple[Version, ...] = ()


# GET /fleet/v2/whoami


class Grant(msgspec.Struct, frozen=True):
    """A permission (view, operate, submit, admin) for the units whose names match a pattern."""

    permission: str
    pattern: str


class WhoAmI(msgspec.Struct, frozen=True, omit_defaults=True):
    """Who asks: their name, what the audit keeps of them, the groups that give them rights, and these rights.
    `expires` is until when their certificate counts (a Unix time; not there without one)."""

    name: str = ""
    identity: str = ""
    groups: tuple[str, ...] = ()
    grants: tuple[Grant, ...] = ()
    expires: int = 0
