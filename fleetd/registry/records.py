"""The kinds of records in the store: under which key each stands, and how it becomes bytes and comes back."""

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Generic, TypeVar

import msgspec
from msgspec.structs import replace

from fleetd.model import machine_request
from fleetd.model.announcement import ServiceRecord
from fleetd.model.certificate import Revocation, TrustedAuthority
from fleetd.model.cluster_settings import ClusterSettings
from fleetd.model.content import DropIn, InvalidDropIn, check_dropin_name
from fleetd.model.decoding import FORMAT, UNREADABLE
from fleetd.model.event import EventRecord
from fleetd.model.join_token import JoinToken
from fleetd.model.machine import Machine, MachineSettings, is_address
from fleetd.model.machine_identity import MachineIdentity
from fleetd.model.move import Move
from fleetd.model.placement import Decision, Placement
from fleetd.model.quota import Usage
from fleetd.model.reboot import Reboot, RebootRequest
from fleetd.model.rollout import Apply, Command, Rollout
from fleetd.model.secret import SealedSecret, Secret
from fleetd.model.unit import Unit, UnitState
from fleetd.model.unit_set import UnitSet
from fleetd.model.version import Version
from fleetd.store.protocol import KeyValue, Put

DEFAULT_PREFIX = "/fleet/"
_TRUST = "trust"  # the kinds below it are `trust/authorities` and the like

Names = tuple[str, ...]  # what follows the kind in a key


class Leader(msgspec.Struct, frozen=True, tag_field="format", tag=FORMAT):
    """The leading machine. `term` is a unique id: revisions repeat after a restore, it does not."""

    machine: str
    term: str


class Synced(msgspec.Struct, frozen=True, tag_field="format", tag=FORMAT):
    """The session of a machine that the leader has planned for."""

    session: str


Record = (
    Unit
    | MachineSettings
    | ClusterSettings
    | Machine
    | Placement
    | Decision
    | Synced
    | UnitState
    | Leader
    | Usage
    | Rollout
    | Command
    | Apply
    | Move
    | RebootRequest
    | Reboot
    | UnitSet
    | Version
    | EventRecord
    | TrustedAuthority
    | Revocation
    | JoinToken
    | MachineIdentity
    | Secret
    | SealedSecret
    | ServiceRecord
)
T = TypeVar("T")
R_co = TypeVar("R_co", bound=Record, covariant=True)


class MalformedRecord(ValueError):
    """A value in the store that is no record of its key's kind. The message names the key and the cause."""


class NewerRecord(MalformedRecord):
    """A record of a format that a later version of fleetd wrote. It is left as it is."""


class _Formatted(msgspec.Struct):
    """What the records of every format have in common."""

    format: int = 1


def _is_newer(value: bytes) -> bool:
    try:
        return msgspec.json.decode(value, type=_Formatted).format > FORMAT
    except UNREADABLE:
        return False


class Kind(Generic[R_co]):
    """One kind of record. `name` is what its keys begin with, `name_count` the number of names that follow.

    `identify` returns the names that the record itself contains, or () if it contains none. `complete` returns the
    record with what the stored value leaves out, from its names and its revision. Strings that many records share are
    interned there: the leader keeps all records in memory. It raises ValueError if the record is invalid.
    """

    def __init__(
        self,
        name: str,
        record: type[R_co],
        *,
        name_count: int = 1,
        identify: Callable[..., Names] = lambda record: (),
        complete: Callable[..., R_co] = lambda record, names, revision: record,
    ) -> None:
        self.name = name
        self.record = record
        self.name_count = name_count
        self._identify = identify
        self._complete = complete
        self._decode = msgspec.json.Decoder(record).decode

    def __repr__(self) -> str:
        return f"<Kind {self.name}>"

    def decode(self, item: KeyValue, names: Names | None = None) -> R_co:
        """The record that the item holds. `names` are those of its key, if they are known. Raises MalformedRecord, and
        NewerRecord for a record that a later version of fleetd wrote."""
        try:
            record = self._decode(item.value)
        except UNREADABLE as error:
            if _is_newer(item.value):
                raise NewerRecord(
                    f"{item.key} was written by a later version of fleetd, and is left as it is: update fleetd here"
                ) from error
            raise MalformedRecord(f"{item.key} holds no {self.name} record: {error}") from error
        if names is None:
            names = tuple(item.key.rsplit("/", self.name_count)[1:])
        identity = self._identify(record)
        if identity and identity != names:
            raise MalformedRecord(f"{item.key} holds a {self.name} record of another name: {'/'.join(identity)}")
        try:
            return self._complete(record, names, item.mod_revision)
        except ValueError as error:
            raise MalformedRecord(f"{item.key} holds a {self.name} record {error}") from error


@lru_cache(maxsize=4096)
def _intern(value: T) -> T:
    """The same object for equal values. Unlike sys.intern, it does not grow with what the store holds."""
    return value


def _complete_unit(unit: Unit, names: Names, revision: int) -> Unit:
    if "." not in names[0]:
        raise ValueError("whose name has no suffix")
    _check_dropins(unit.dropins)
    return replace(
        unit,
        name=names[0],
        generation=revision,
        by=_intern(unit.by),
        set=_intern(unit.set),
        rollout=_intern(unit.rollout),
    )


def _complete_placement(placement: Placement, names: Names, _revision: int) -> Placement:
    _check_dropins(placement.dropins)
    return replace(placement, machine=names[0], unit=names[1])


def _check_dropins(dropins: tuple[DropIn, ...]) -> None:
    """A name becomes the path of a file: raises ValueError for one that could lead out of the unit's folder."""
    try:
        for dropin in dropins:
            check_dropin_name(dropin.name)
    except InvalidDropIn as error:
        raise ValueError(f"in which {error}") from error


def _complete_machine(machine: Machine, names: Names, _revision: int) -> Machine:
    # A machine with an invalid address stays in the cluster, and nobody connects to it.
    return machine if not machine.address or is_address(machine.address) else replace(machine, address="")


def _complete_decision(decision: Decision, names: Names, revision: int) -> Decision:
    machine, reason = _intern(decision.machine), _intern(decision.reason)
    return replace(decision, unit=names[0], machine=machine, reason=reason, revision=revision)


def _complete_state(state: UnitState, _names: Names, _revision: int) -> UnitState:
    return replace(state, load=_intern(state.load), active=_intern(state.active), sub=_intern(state.sub))


def _complete_secret(secret: Secret, names: Names, revision: int) -> Secret:
    if not secret.versions:
        raise ValueError("without a version")
    return replace(secret, revision=revision)


def _complete_service(record: ServiceRecord, names: Names, _revision: int) -> ServiceRecord:
    service, machine, unit = names
    address = record.address if is_address(record.address) else ""
    return replace(record, service=service, machine=_intern(machine), unit=unit, address=_intern(address))


UNITS = Kind("units", Unit, identify=lambda unit: (unit.name,), complete=_complete_unit)
SETTINGS = Kind("settings", MachineSettings)
CLUSTER_SETTINGS = Kind("cluster-settings", ClusterSettings, name_count=0)
MACHINES = Kind("machines", Machine, identify=lambda machine: (machine.id,), complete=_complete_machine)
PLACEMENTS = Kind(
    "placements",
    Placement,
    name_count=2,
    identify=lambda placement: (placement.machine, placement.unit),
    complete=_complete_placement,
)
DECISIONS = Kind("decisions", Decision, identify=lambda decision: (decision.unit,), complete=_complete_decision)
SYNCED = Kind("synced", Synced)
STATES = Kind("states", UnitState, name_count=2, complete=_complete_state)
LEADER = Kind("leader", Leader, name_count=0)
USAGE = Kind("usage", Usage, name_count=0)
ROLLOUTS = Kind("rollouts", Rollout, complete=lambda rollout, names, revision: replace(rollout, revision=revision))
COMMANDS = Kind("commands", Command)
APPLIES = Kind("applies", Apply)
MOVES = Kind("moves", Move, complete=lambda move, names, revision: replace(move, revision=revision))
REBOOT_REQUESTS = Kind(
    "reboot-requests", RebootRequest, complete=lambda request, names, revision: replace(request, revision=revision)
)
REBOOTS = Kind("reboots", Reboot, complete=lambda reboot, names, revision: replace(reboot, revision=revision))
SETS = Kind("sets", UnitSet, complete=lambda found, names, revision: replace(found, revision=revision))
VERSIONS = Kind("versions", Version, name_count=2)  # below the archive's prefix
EVENTS = Kind("events", EventRecord)  # the same
AUTHORITIES = Kind("trust/authorities", TrustedAuthority, identify=lambda record: (str(record.number),))
REVOCATIONS = Kind("trust/revocations", Revocation, identify=lambda record: (str(record.number),))
JOIN_TOKENS = Kind("trust/tokens", JoinToken)
MACHINE_IDENTITIES = Kind("trust/machines", MachineIdentity)
SECRETS = Kind("secrets", Secret, complete=_complete_secret)
SEALED_SECRETS = Kind("sealed-secrets", SealedSecret, name_count=2)
SERVICES = Kind("services", ServiceRecord, name_count=3, complete=_complete_service)

KINDS: tuple[Kind[Record], ...] = (
    UNITS,
    SETTINGS,
    CLUSTER_SETTINGS,
    MACHINES,
    PLACEMENTS,
    DECISIONS,
    SYNCED,
    STATES,
    LEADER,
    USAGE,
    ROLLOUTS,
    COMMANDS,
    APPLIES,
    MOVES,
    REBOOT_REQUESTS,
    REBOOTS,
    SETS,
    VERSIONS,
    EVENTS,
    AUTHORITIES,
    REVOCATIONS,
    JOIN_TOKENS,
    MACHINE_IDENTITIES,
    SECRETS,
    SEALED_SECRETS,
    SERVICES,
)
_BY_NAME: Mapping[str, Kind[Record]] = {kind.name: kind for kind in KINDS}
_BY_RECORD: Mapping[type, Kind[Record]] = {kind.record: kind for kind in KINDS}
_ENCODER = msgspec.json.Encoder()


def encode(record: Record) -> bytes:
    """The stored value of a record. Revisions are the store's: they are not part of it."""
    if isinstance(record, Unit):
        record = replace(record, generation=0)
    elif isinstance(record, Decision | Rollout | Move | RebootRequest | Reboot | UnitSet | Secret):
        record = replace(record, revision=0)
    elif isinstance(record, ServiceRecord):
        record = replace(record, service="", machine="", unit="")
    return _ENCODER.encode(record)


class RecordKey(msgspec.Struct, frozen=True):
    """A key taken apart."""

    kind: Kind[Record]
    names: Names


class Change(msgspec.Struct, frozen=True):
    """One change of one record. `record` is None if the key was deleted."""

    key: RecordKey
    record: Record | None
    revision: int
    create_revision: int = 0
    lease: int = 0


class KeySpace:
    """The keys and records below one prefix."""

    def __init__(self, prefix: str = DEFAULT_PREFIX) -> None:
        self.prefix = "/" + prefix.strip("/") + "/" if prefix.strip("/") else "/"

    @property
    def identity_key(self) -> str:
        """The key in which a store without an id of its own keeps one."""
        return self.prefix + "cluster"

    @property
    def history_key(self) -> str:
        """The key that names the restores of the store (membership/store_epoch.py)."""
        return self.prefix + "history"

    @property
    def authority_prefix(self) -> str:
        """What the keys begin with that hold the private keys of the cluster's authorities."""
        return KeySpace(self.prefix.rstrip("/") + "-authority").prefix

    @property
    def leases_prefix(self) -> str:
        """What the keys begin with that name the worker to which a server has granted a lease (api/worker/leases.py).
        The number of the lease follows."""
        return self.prefix + "leases/"

    def lease_key(self, lease: int) -> str:
        """The key of one lease of a worker."""
        return f"{self.leases_prefix}{lease}"

    @property
    def requests_prefix(self) -> str:
        """What the keys of requests to single machines begin with (model/machine_request.py): no leader reads them.
        Machine and id follow."""
        return machine_request.requests_prefix(self.prefix)

    @property
    def answers_prefix(self) -> str:
        """What the keys of the answers begin with. Id and machine follow, so that a server that asks many machines
        watches one prefix."""
        return machine_request.answers_prefix(self.prefix)

    def request_key(self, machine: str, id_: str) -> str:
        """The key of a request to a machine."""
        return f"{self.requests_prefix}{machine}/{id_}"

    def answer_key(self, id_: str, machine: str) -> str:
        """The key of the answer of a machine to the request with this id."""
        return f"{self.answers_prefix}{id_}/{machine}"

    @property
    def locks_prefix(self) -> str:
        """What the keys of locks begin with (model/lock.py), in the layout of etcd's concurrency package: no leader
        reads them. The name of the lock and the lease of a session in hexadecimal follow."""
        return KeySpace(self.prefix.rstrip("/") + "-locks").prefix

    @property
    def lock_records_prefix(self) -> str:
        """What the keys begin with that say who holds a lock. Its name follows."""
        return KeySpace(self.prefix.rstrip("/") + "-lock-state").prefix + "names/"

    @property
    def lock_epoch_key(self) -> str:
        """The key of the epoch in which locks are taken."""
        return KeySpace(self.prefix.rstrip("/") + "-lock-state").prefix + "epoch"

    @property
    def archive_prefix(self) -> str:
        """What the keys begin with of what is kept for people: no leader and no agent reads them."""
        return KeySpace(self.prefix.rstrip("/") + ".archive").prefix

    def key(self, kind: Kind[Record], *names: str) -> str:
        """The key of one record. With fewer names: what the keys of the kind begin with, without the final slash."""
        return self.prefix + "/".join((kind.name, *names))

    def parse_key(self, key: str) -> RecordKey | None:
        """The key taken apart, or None if it is no key of a record."""
        if not key.startswith(self.prefix):
            return None
        name, *names = key[len(self.prefix) :].split("/")
        kind = _BY_NAME.get(name)
        if kind is not None and kind.name_count == 2 == len(names):  # most keys are of these kinds
            machine, unit = names
            return RecordKey(kind, (_intern(machine), unit)) if machine and unit else None
        if name == _TRUST and names:
            name += f"/{names.pop(0)}"
        kind = _BY_NAME.get(name)
        if kind is None or len(names) != kind.name_count or "" in names:
            return None
        return RecordKey(kind, (_intern(names[0]), names[1]) if len(names) == 2 else tuple(names))

    def names_in(self, kind: Kind[Record]) -> Callable[[str], Names | None]:
        """A function that returns the names in a key of this kind, None for another key: for many keys, in half the
        time that parse_key takes."""
        prefix, count = self.key(kind) + "/" * bool(kind.name_count), kind.name_count
        start = len(prefix)
        shared: dict[str, str] = {}  # first names, as one object for all keys

        def names_of(key: str) -> Names | None:
            if not key.startswith(prefix):
                return None
            if not count:
                return () if len(key) == start else None
            first, *others = key[start:].split("/")
            if len(others) + 1 != count or not first or "" in others:
                return None
            return (shared.setdefault(first, first), *others)

        return names_of

    def put(self, record: Record, *names: str, lease: int = 0) -> Put:
        """The operation that writes this record."""
        return Put(self.key(_BY_RECORD[type(record)], *names), encode(record), lease)

    def change(self, key: str, item: KeyValue | None, revision: int) -> Change | None:
        """The change that a watch event or a read key means, or None for a key of no record. Raises MalformedRecord."""
        parsed = self.parse_key(key)
        if parsed is None:
            return None
        if item is None:
            return Change(parsed, None, revision)
        record = parsed.kind.decode(item, parsed.names)
        return Change(parsed, record, item.mod_revision, item.create_revision, item.lease)
