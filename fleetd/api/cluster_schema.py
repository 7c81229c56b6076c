"""The types of version 2 that are about machines and the cluster; schema.py has them too, under the same names."""

import msgspec

from fleetd.api.cause_schema import Cause
from fleetd.model.reboot import DRAIN_WITHIN_S

# PUT /fleet/v2/machines/{machine}/cordon


class CordonRequest(msgspec.Struct, frozen=True):
    """The body: why, on one line, for people. Without it, a cordon that is there stays as it is."""

    why: str = ""


# PUT and GET /fleet/v2/machines/{machine}/drain


class Drain(msgspec.Struct, frozen=True, omit_defaults=True):
    """The units of a machine are to move to others: who asked for it ('' if not told) and when. After `deadline` no
    more units are moved (0: there is none); both are Unix times (s). `withGlobals`: global units are stopped there,
    too. `force`: units move whatever becomes unavailable, and what fits nowhere else is stopped."""

    by: str = ""
    at: float = 0.0
    deadline: float = 0.0
    with_globals: bool = msgspec.field(name="withGlobals", default=False)
    force: bool = False


class DrainRequest(msgspec.Struct, frozen=True, omit_defaults=True):
    """The body: why the machine is cordoned, on one line, for people (a cordon that is there stays as it is), and after
    how many seconds no more units are moved (0: there is no such deadline). `withGlobals` and `force` are as for
    Drain."""

    why: str = ""
    deadline: float = 0.0
    with_globals: bool = msgspec.field(name="withGlobals", default=False)
    force: bool = False


class DrainedUnit(msgspec.Struct, frozen=True, omit_defaults=True):
    """What becomes of one unit of a machine that is drained.

    `state` of one that is there: `pending` (the leader has not planned it yet), `waits` (until it may be disturbed),
    `finishing` (a oneshot at work), `moving` (it is being stopped, and `machine` is where it goes), `starting-first`
    (on `machine`, and it runs on until it is proven there: Handover=start-first), `stopping` (it goes nowhere, or is
    proven elsewhere), `stays` (it does not leave) or `global` (global units and templates of sockets stay). Of one that
    has left and was asked for: `starting` (on `machine`, and not proven yet), `proven`, `failed`, `moved` (it is not to
    run, or has completed) or `unplaced`. `reason` is a sentence whose subject is the unit, `cause` its data.
    """

    unit: str
    state: str
    machine: str = ""
    address: str = ""
    reason: str = ""
    cause: Cause | None = None


class DrainReport(msgspec.Struct, frozen=True, omit_defaults=True):
    """How far a drain has got. Without `drain`, the units are not to leave. `drained`: the machine reports that all
    are gone, but those that are `global`. `hold` is why the drain does not go
    on: the machine is absent, leaving or parked. `units` are those on the machine, and others that were asked for, by
    name."""

    machine: str
    address: str = ""
    drain: Drain | None = None
    drained: bool = False
    hold: str = ""
    units: tuple[DrainedUnit, ...] = ()


# GET and PATCH /fleet/v2/settings


class Setting(msgspec.Struct, frozen=True, omit_defaults=True):
    """A setting of the cluster, with its value as fleet.conf has it.

    `source` is `default`, `fleet.conf` (of `machine`: the leader, or the one whose API answers, as the setting has it)
    or `cluster`: set for the cluster, by whom ('' if not told) and when (Unix time, s).
    """

    name: str
    value: str
    source: str
    machine: str = ""
    by: str = ""
    at: float = 0.0


class Settings(msgspec.Struct, frozen=True):
    """All settings of the cluster, by name."""

    settings: tuple[Setting, ...] = ()


class SettingChanges(msgspec.Struct, frozen=True):
    """The body: values by name, as fleet.conf has them, and the names of those for which fleet.conf is to count."""

    set: dict[str, str] = {}
    unset: tuple[str, ...] = ()


# POST /fleet/v2/leave, over the machine's own unix socket: leave the cluster. Clients repeat it until `left`.


class Leaving(msgspec.Struct, frozen=True, omit_defaults=True):
    """Progress of this machine leaving the cluster, and the units that it still waits for."""

    left: bool = False
    waiting_for: tuple[str, ...] = msgspec.field(name="waitingFor", default=())


# PUT and GET /fleet/v2/units/{unitName}/move


class MoveRequest(msgspec.Struct, frozen=True, omit_defaults=True):
    """The body: the full id of the machine that the unit is to go to, with the units that MachineOf= joins to it. With
    `force` it moves whatever becomes unavailable."""

    machine: str
    force: bool = False


class MoveReport(msgspec.Struct, frozen=True, omit_defaults=True):
    """Where the move of a unit stands. `goal` is the machine that it is to go to, '' where no move is pending.

    `state` is `pending` (the leader has not planned it yet), `waits` (until it may be disturbed), `moving` (it is being
    stopped, and `machine` is where it goes), `starting` (on `machine`, and not proven there yet), `starting-first` (the
    same, and it runs on where it was: Handover=start-first), or, where no move is pending, `placed` (on `machine`) or
    `unplaced`. `by` and `at` (Unix time, s) say who asked for it and when. `reason` is a sentence whose subject is the
    unit.
    """

    unit: str
    state: str
    goal: str = ""
    machine: str = ""
    address: str = ""
    by: str = ""
    at: float = 0.0
    reason: str = ""


# PUT and DELETE /fleet/v2/machines/{machine}/reboot, GET /fleet/v2/reboots


class RebootRequest(msgspec.Struct, frozen=True, omit_defaults=True):
    """The body: how many seconds the units of the machine may take to leave it, from when it has its slot (0: as long
    as it takes): after that it is not rebooted, and others get its slot. `now`: it does not wait for the reboot
    window."""

    deadline: float = DRAIN_WITHIN_S
    now: bool = False


class RebootReport(msgspec.Struct, frozen=True, omit_defaults=True):
    """Where the reboot of a machine stands.

    `phase` is `queued` (it waits for a slot, at this `place` of the queue, the first being 1), `draining` (it has a
    slot, and its units move to others), `ordered` (it is to reboot, or does), `returning` (it is back, and not all of
    its units are active), `gave-up` (it was not rebooted, or does not serve again) or `idle` (it is not to be
    rebooted). `since` is the Unix time (s) of that. `reason` is a sentence whose subject is the machine; `waitsFor` are
    the machines and `units` the units that it waits for, `kept` the units that stay there and are down while it
    reboots. `failure` is why it was given up: `deadline`, `not-back`, `not-serving`, `refused`, `restored` or
    `cancelled`, and `remedy` what to do then.

    `id` is that of the request, `by` and `at` (Unix time) who asked for it and when; `deadline` and `now` are as in the
    request. `client` is the id of the FleetLock client that reboots the machine; '': its fleetd does. `boot` is the
    boot id of the machine, '' while it is absent, and `ends` that of the boot that is to be ended; `required` is why it
    wants to be rebooted, '' if it does not.
    """

    machine: str
    phase: str
    address: str = ""
    place: int = 0
    since: float = 0.0
    reason: str = ""
    waits_for: tuple[str, ...] = msgspec.field(name="waitsFor", default=())
    units: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()
    failure: str = ""
    remedy: str = ""
    id: str = ""
    by: str = ""
    at: float = 0.0
    deadline: float = 0.0
    now: bool = False
    client: str = ""
    boot: str = ""
    ends: str = ""
    required: str = ""


class RebootReports(msgspec.Struct, frozen=True):
    """The machines that have a slot, those that wait for one, in their order, and those that were given up."""

    reboots: tuple[RebootReport, ...] = ()


# GET /fleet/v2/host-keys?machine=ID&machine=ID… (all machines where none is named).


class HostKeys(msgspec.Struct, frozen=True):
    """The public keys of a machine's SSH server, each as `KIND BASE64`."""

    machine: str
    keys: tuple[str, ...]


class MachineHostKeys(msgspec.Struct, frozen=True):
    """The machines that publish keys, by id."""

    host_keys: tuple[HostKeys, ...] = msgspec.field(name="hostKeys")


# GET /fleet/v2/secrets, PUT /fleet/v2/secrets/{secret}


class SecretReport(msgspec.Struct, frozen=True, omit_defaults=True):
    """A secret, without its value: the present version, the one before it (0: there is none), the size of the value in
    bytes, who set it ('' if not told) and when (Unix time), and the units that name it."""

    name: str
    version: int
    previous: int = 0
    size: int = 0
    by: str = ""
    at: float = 0.0
    units: tuple[str, ...] = ()


class SecretReports(msgspec.Struct, frozen=True):
    """All secrets, in order of names."""

    secrets: tuple[SecretReport, ...]


class SecretChange(msgspec.Struct, frozen=True, omit_defaults=True):
    """The body: the new value in base64, or `previous`: the version before the present one."""

    value: bytes = b""
    previous: bool = False


class UnrestartedGroup(msgspec.Struct, frozen=True):
    """A group whose units go on with the version that they have, and why."""

    group: str
    why: str


class SecretChanged(msgspec.Struct, frozen=True, omit_defaults=True):
    """The version that units are given from now on, the groups whose units are restarted for it, one after the other,
    and those whose units are not."""

    name: str
    version: int
    restarting: tuple[str, ...] = ()
    unrestarted: tuple[UnrestartedGroup, ...] = ()


# GET /fleet/v2/cluster


class AuthorityReport(msgspec.Struct, frozen=True, omit_defaults=True):
    """An authority that the cluster trusts: its number, its certificate as PEM, who had it made and when (a Unix time).
    `keyFile` is where its private key is on the machine that was asked, not there if it is elsewhere."""

    number: int
    certificate: str
    by: str = ""
    at: float = 0.0
    key_file: str = msgspec.field(name="keyFile", default="")


class StoreMember(msgspec.Struct, frozen=True):
    """A member of etcd, and whether it answers. One without a vote has a copy of the store, and does not answer to
    clients."""

    id: str
    name: str
    client_urls: tuple[str, ...] = msgspec.field(name="clientURLs")
    healthy: bool
    vote: bool


class ClusterMachine(msgspec.Struct, frozen=True, omit_defaults=True):
    """A machine. Its `role` is server (it reaches etcd by itself) or worker. `etcdMember` is the id of the member of
    etcd that runs on it, `https` the URL of its API, and its certificate expires at `certificateExpires` (a Unix
    time); each is not there if there is none."""

    id: str
    address: str
    role: str
    version: str = ""
    etcd_member: str = msgspec.field(name="etcdMember", default="")
    https: str = ""
    certificate_expires: int = msgspec.field(name="certificateExpires", default=0)


class ClusterReport(msgspec.Struct, frozen=True):
    """What the cluster consists of. The last authority is the one that signs."""

    authorities: tuple[AuthorityReport, ...]
    members: tuple[StoreMember, ...]
    machines: tuple[ClusterMachine, ...]
