"""What a worker may read and write in the store of its cluster: the records of its own machine. Pure.

A worker does not reach the store. It asks servers, which know by its certificate which machine it is, and decide here.
Root of that machine can send any request: whatever is not said here to be its own is refused, or left out of what is
answered.
"""

import re
from typing import Protocol

import msgspec
from msgspec import structs

from fleetd.model.machine import Capability, Machine
from fleetd.model.machine_identity import MachineIdentity
from fleetd.model.machine_request import answers_prefix, requests_prefix
from fleetd.model.names import InvalidName, validate_name

MAX_MACHINE_BYTES = 64 * 1024  # of the record of a machine
MAX_STATE_BYTES = 64 * 1024  # of the state of one unit; its log lines are the longest part
MAX_SERVICE_BYTES = 4 * 1024  # of what one unit announces under one name

# Keys below the prefix of the cluster, without it. registry/records.py has the kinds of record by the same names.
_SHARED = ("cluster", "history")
_OF_MACHINE = ("machines", "reboot-requests", "reboots", "settings", "synced")  # KIND/MACHINE
_BELOW_MACHINE = ("placements", "sealed-secrets", "states")  # KIND/MACHINE/NAME
_PUBLIC = ("services/", "trust/authorities/", "trust/revocations/")  # prefixes of what anybody may know

_MACHINE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", re.ASCII)


class Selection(msgspec.Struct, frozen=True):
    """A part of the store: these very keys, and whatever begins with these prefixes. No key is in two of them."""

    keys: tuple[str, ...] = ()
    prefixes: tuple[str, ...] = ()


class Access(Protocol):
    """What somebody may read and write in a store."""

    @property
    def machine(self) -> str:
        """The machine that the keys are of."""

    def may_read(self, key: str) -> bool:
        """True if the key may be read, watched and compared."""

    def select(self, prefix: str) -> Selection:
        """The part of what begins with this prefix that may be read."""

    def refuse_put(self, key: str, lease: int) -> str:
        """Why the key may not be written on this lease (0: on none), which is the machine's; '' if it may."""

    def refuse_delete(self, key: str) -> str:
        """Why the key may not be deleted; '' if it may."""

    def is_answer(self, key: str) -> bool:
        """True for the key of an answer to a request, which is written on the lease of that alone."""

    def request_of(self, key: str) -> str:
        """The key of the request that this key of an answer is for."""


class WorkerAccess(msgspec.Struct, frozen=True):
    """What a worker may do. Made by find_access alone. It may read what is of its machine, and what is public.
    `requests_prefix` is that of the requests to its machine, `answers_prefix` and `services_prefix` those of the
    answers of all, and of what all announce."""

    machine: str
    readable: Selection
    machine_key: str
    states_prefix: str
    requests_prefix: str
    answers_prefix: str
    services_prefix: str

    def may_read(self, key: str) -> bool:
        """True for keys of the machine, and those that are about the whole cluster."""
        return key in self.readable.keys or key.startswith(self.readable.prefixes)

    def select(self, prefix: str) -> Selection:
        """The part of what begins with this prefix that the worker may read."""
        keys = tuple(key for key in self.readable.keys if key.startswith(prefix))
        if prefix.startswith(self.readable.prefixes):
            return Selection(keys, (prefix,))
        return Selection(keys, tuple(own for own in self.readable.prefixes if own.startswith(prefix)))

    def refuse_put(self, key: str, lease: int) -> str:
        """Why the worker may not write the key on this lease; '' if it may. What it says ends with its lease, but for
        what its units announce."""
        if refusal := self.refuse_delete(key):
            return refusal
        if self._is_service(key):
            return f"{key!r} is written on no lease" if lease else ""
        if not lease:
            return f"a worker writes {key!r} on its lease only"
        try:
            if key != self.machine_key and not self.is_answer(key):
                validate_name(key.removeprefix(self.states_prefix))
        except InvalidName as error:
            return f"{key!r} is not the state of a unit: {error}"
        return ""

    def _is_service(self, key: str) -> bool:
        """True for the key of what a unit of the machine announces."""
        names = key.removeprefix(self.services_prefix).split("/")
        return key.startswith(self.services_prefix) and len(names) == 3 and names[1] == self.machine and all(names)

    def is_answer(self, key: str) -> bool:
        """True for the key of the machine's answer to a request. It may be written on the lease of the request alone,
        which the caller checks, who knows the leases."""
        id_, slash, machine = key.removeprefix(self.answers_prefix).partition("/")
        return key.startswith(self.answers_prefix) and id_ != "" and slash != "" and machine == self.machine

    def request_of(self, key: str) -> str:
        """The key of the request that this key of an answer is for."""
        return self.requests_prefix + key.removeprefix(self.answers_prefix).partition("/")[0]

    def refuse_delete(self, key: str) -> str:
        """Why the worker may not delete the key; '' if it may."""
        if key == self.machine_key or key.startswith(self.states_prefix):
            return ""
        if self.is_answer(key) or self._is_service(key):
            return ""
        return f"a worker may write only its own machine and the states of the units on it, not {key!r}"


def find_access(prefix: str, machine: str) -> WorkerAccess:
    """What the worker that is this machine may do, in the cluster whose keys begin with `prefix`. Raises ValueError for
    an id that no machine has."""
    if not _MACHINE.fullmatch(machine):
        raise ValueError(f"{machine!r} is not the id of a machine")
    keys = (*_SHARED, *(f"{kind}/{machine}" for kind in _OF_MACHINE))
    requests = f"{requests_prefix(prefix)}{machine}/"
    own = (f"{prefix}{kind}/{machine}/" for kind in _BELOW_MACHINE)
    below = (requests, *own, *(prefix + public for public in _PUBLIC))
    return WorkerAccess(
        machine,
        Selection(tuple(sorted(prefix + key for key in keys)), below),
        f"{prefix}machines/{machine}",
        f"{prefix}states/{machine}/",
        requests,
        answers_prefix(prefix),
        f"{prefix}services/",
    )


def owner_of_request(prefix: str, key: str) -> str:
    """The machine that a request below the prefix of requests is to; '-', which no machine is named, if to none."""
    return key.removeprefix(prefix).partition("/")[0] or "-"


def owner_of(prefix: str, key: str) -> str:
    """The machine that a key below the prefix may be of; '' if it is of no machine, and so may concern each."""
    below = key.removeprefix(prefix)
    return "" if below.startswith(_PUBLIC) else below.partition("/")[2].partition("/")[0]


# What every worker carries out: there were none before. Without this, one that says that it is older than that would
# have the API refuse what it concerns in the whole cluster. A later capability that agents carry out does not belong
# here.
_ABLE = dict.fromkeys(
    (
        Capability.DROPINS,
        Capability.CORDON,
        Capability.CLUSTER_SETTINGS,
        Capability.MOVES,
        Capability.PROOFS,
        Capability.UPDATE_ACTION,
        Capability.SECRETS,
        Capability.REBOOTS,
    ),
    True,
)


def record_of_worker(said: Machine, recorded: MachineIdentity) -> Machine:
    """The record of a machine that is a worker: what it says of itself, with what a server recorded when it joined
    instead of what others rely on. It hosts no member of the store, serves no other machine, and has no settings of the
    cluster, for it never leads."""
    return structs.replace(
        said,
        address=recorded.address,
        metadata=recorded.metadata,
        host_keys=recorded.host_keys,
        capabilities={**said.capabilities, **_ABLE},
        configured={},
        etcd_member="",
        https="",
        is_worker=True,
    )
