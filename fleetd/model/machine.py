"""Machines: who they are, how to reach them, what they offer, and whether they take work."""

import ipaddress
import re
from collections.abc import Iterable, Mapping
from enum import StrEnum

import msgspec
from msgspec import structs

from fleetd.model.decoding import FORMAT
from fleetd.model.reboot import RebootRefusal

SHORT_ID_LENGTH = 8
_HOST_NAME = re.compile(r"[A-Za-z0-9._][A-Za-z0-9._-]{0,252}", re.ASCII)
_IPV6 = re.compile(r"([0-9A-Fa-f:.]+)(?:%[A-Za-z0-9._-]{1,15})?", re.ASCII)  # with the zone of a link-local one


def is_address(text: str) -> bool:
    """True for an IP literal or a host name. Nothing else is passed to ssh, whose configuration may give the address to
    a shell (`Match exec`)."""
    if _HOST_NAME.fullmatch(text):
        return True
    found = _IPV6.fullmatch(text)
    try:
        return found is not None and ipaddress.ip_address(found[1]).version == 6
    except ValueError:
        return False


class Capability(StrEnum):
    """What a fleetd can carry out that an older one would pass over. A machine publishes those that it has."""

    DROPINS = "DROPINS"
    CORDON = "CORDON"  # as a leader, it heeds MachineSettings.cordon and .drain; its API keeps them
    CLUSTER_SETTINGS = "CLUSTER_SETTINGS"  # as a leader and in its API, it goes by those
    MOVES = "MOVES"  # as a leader, it carries out a Move
    PROOFS = "PROOFS"  # it answers a placement that asks whether its unit is healthy (Placement.prove_after_s)
    UPDATE_ACTION = "UPDATE_ACTION"  # it heeds UpdateAction=, as a leader and on its machine (Placement.update)
    SECRETS = "SECRETS"  # as a leader it has secrets sealed, and it gives them to its units
    ANSWERS = "ANSWERS"  # it answers requests about what its units log, and what systemd says of them
    ANNOUNCEMENTS = "ANNOUNCEMENTS"  # it announces its units (Announce=), and withdraws them before it stops them
    ISOLATION = "ISOLATION"  # it stops units that are cut off (IsolationSec=, Lock=), and as a leader waits for that
    DOWNLOADS = "DOWNLOADS"  # it has what a unit needs before it is to come (Placement.prepares)
    REBOOTS = "REBOOTS"  # it works the queue of reboots as a leader, and reboots when it is told to


class MachineMode(StrEnum):
    """The mode that a machine publishes of itself."""

    READY = "ready"
    LEAVING = "leaving"  # shutting down, or told to leave: its units go elsewhere
    PARKED = "parked"  # its fleetd was stopped: its units stay where they are, and it takes no new ones


class Machine(msgspec.Struct, frozen=True, omit_defaults=True, tag_field="format", tag=FORMAT):
    """One machine. Stored, without its id, under `machines/<id>`, on the machine's lease.

    `session` names one run of its fleetd. `address` is one that passes is_address, or '' for none. `metadata` is the
    configured one; what operators set through the API is kept in `settings/<id>` and laid over it (effective_metadata).
    `shuts_down` says of a machine that leaves that it is only switched off, and may be back: units with a failover
    delay wait for it. `capabilities` are those of CoreOS fleet, and those of Capability that its fleetd has.
    `reboot_required` says why the machine wants to be rebooted, '' if it does not; `reboot_refused` is about the last
    reboot that was ordered in this boot, None if that was not refused. `etcd_member` is the id of the store's etcd
    member that runs on it, '' for none. `since` is the Unix time since when it takes part without a break (0: its
    fleetd is older, and does not say); a restart of fleetd is none. `configured` are the settings of the cluster that
    its fleet.conf has, by name: they count where the store has none, mostly while this machine leads. `host_keys` are
    the public keys of its SSH server, as `KIND BASE64`; () if none are known. `https` is where it serves the API over
    https, as `HOST:PORT`, or `:PORT` on all its addresses; '' where it does not. `certificate_expires_s` is the Unix
    time at which its certificate expires, 0 if it has none. `seal_key` is the public key that secrets are sealed to for
    it, in base64, '' while it has none. `accept` are the patterns of the names of units that it takes, () for all, and
    `confine` says that it takes only units that cannot become root there (model/confinement.py). `is_worker` is true
    where a server has written the record for a worker: a machine that writes its own reaches the store, and is a
    server.
    """

    id: str
    session: str = ""
    address: str = ""
    metadata: dict[str, str] = {}
    version: str = ""
    boot_id: str = ""
    mode: MachineMode = MachineMode.READY
    shuts_down: bool = False
    capabilities: dict[str, bool] = {}
    configured: dict[str, str] = {}
    reboot_required: str = ""
    reboot_refused: RebootRefusal | None = None
    etcd_member: str = ""
    since: float = 0.0
    host_keys: tuple[str, ...] = ()
    https: str = ""
    certificate_expires_s: float = 0.0
    seal_key: str = ""
    accept: tuple[str, ...] = ()
    confine: bool = False
    is_worker: bool = False

    @property
    def short_id(self) -> str:
        """The first eight characters of the id: lists show it, and `MachineID=` accepts it."""
        return self.id[:SHORT_ID_LENGTH]


def https_url(machine: Machine) -> str:
    """Where others reach the API of the machine over https; '' if it does not serve it, or has no address."""
    host, _, port = machine.https.rpartition(":")
    host = host or machine.address
    if not host or not port:
        return ""
    return f"https://[{host}]:{port}" if ":" in host.strip("[]") and host[0] != "[" else f"https://{host}:{port}"


def dialled_address(machine: Machine, host: str, port: int) -> str:
    """HOST:PORT at which others reach what this machine listens on there; '' if it has no address."""
    if host in ("", "0.0.0.0", "::"):  # noqa: S104 (every address)
        host = machine.address
    if not host:
        return ""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


class Cordon(msgspec.Struct, frozen=True, omit_defaults=True):
    """A machine takes no new units, but global ones, and keeps those that it has. `why` and `by` (a user's name) are
    for people, '' where not given; `at` is a Unix time."""

    why: str = ""
    by: str = ""
    at: float = 0.0


def outdated_machine(machines: Iterable[Machine], capability: Capability) -> Machine | None:
    """The first of these machines whose fleetd does not have this capability."""
    return next((machine for machine in machines if not machine.capabilities.get(capability)), None)


class DrainRequest(msgspec.Struct, frozen=True, omit_defaults=True):
    """The units of a machine are to move to others. `by` is the user who asked for it, '' if unknown; `at` and
    `deadline` are Unix times: after the deadline no more units are moved (0: there is none). `with_globals`: global
    units are stopped there, too. `force`: units move whatever becomes unavailable, and what fits nowhere is stopped."""

    by: str = ""
    at: float = 0.0
    deadline: float = 0.0
    with_globals: bool = False
    force: bool = False


class MachineSettings(msgspec.Struct, frozen=True, omit_defaults=True, tag_field="format", tag=FORMAT):
    """What operators set on a machine through the API. Stored under `settings/<machine>` until they delete it.

    `metadata` maps a key to its value; an empty value hides a configured key, as in CoreOS fleet. `cordon` is None for
    a machine that takes new units, `drain` for one whose units stay. A drained machine is cordoned.
    """

    metadata: dict[str, str] = {}
    cordon: Cordon | None = None
    drain: DrainRequest | None = None


def overlay_metadata(
    settings: MachineSettings, edits: Iterable[tuple[str, str]], configured: Mapping[str, str] | None
) -> MachineSettings:
    """The settings with these keys set, in order ('' hides a key). A key that hides nothing is dropped if the machine's
    `configured` metadata is known (not None)."""
    metadata = {**settings.metadata, **dict(edits)}
    kept = {key: value for key, value in metadata.items() if value != "" or configured is None or key in configured}
    return structs.replace(settings, metadata=kept)


def effective_metadata(machine: Machine, settings: MachineSettings | None) -> dict[str, str]:
    """The machine's configured metadata, overlaid with the operators' settings; keys in order."""
    merged = {**machine.metadata, **(settings.metadata if settings else {})}
    return {key: merged[key] for key in sorted(merged) if merged[key] != ""}
