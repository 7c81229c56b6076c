"""What a machine can do about one unit, one step at a time, and what its ledger keeps of what it has done.

Only the values. Which steps, and why, is plan.py's matter; doing them agent/executor.py's.
"""

import msgspec

from fleetd.model.decoding import Count
from fleetd.model.unit import TargetState


class Restarting(msgspec.Struct, frozen=True, omit_defaults=True):
    """A restart that is to be made, for this wish. `invocation` is the one that it is to end ('': none), as systemd had
    it after it had read the unit's file; None: systemd was not asked for it yet."""

    generation: Count
    target: TargetState
    invocation: str | None = None


class LedgerEntry(msgspec.Struct, frozen=True, omit_defaults=True):
    """The wish that this machine has carried out last for one unit, kept across restarts of fleetd (not reboots).

    `hash` is of the content it was carried out with. A start is written down before systemd is asked for it; `issued`
    says that systemd has accepted it. `completed`: it was a oneshot, and it ran to its end with success. `stopped`: for
    the sake of what is asked next, which is not carried out yet, a stop was begun.
    Target inactive says that we stopped the unit; generation 0, that any placement is news. `adopted`: the store was
    restored, and the unit was left as it was, so `target` and `hash` need not be what the wish of this generation says.
    """

    generation: Count
    target: TargetState
    hash: str
    issued: bool = True
    completed: bool = False
    adopted: bool = False
    stopped: bool = False
    restarting: Restarting | None = None
    reload: bool = False
    result: str = ""


class Stop(msgspec.Struct, frozen=True):
    """Ask systemd to stop the unit. `entry` goes into the ledger before: what was carried out holds no more."""

    unit: str
    reason: str
    entry: LedgerEntry | None


class Remove(msgspec.Struct, frozen=True):
    """Delete the unit's file and forget the unit; it does not run."""

    unit: str
    reason: str


class Write(msgspec.Struct, frozen=True):
    """Write the unit's file. `entry`, if any, goes into the ledger before: what must follow is not forgotten."""

    unit: str
    reason: str
    text: str
    entry: LedgerEntry | None = None


class Record(msgspec.Struct, frozen=True):
    """Write down in the ledger what is so already."""

    unit: str
    reason: str
    entry: LedgerEntry


class Start(msgspec.Struct, frozen=True):
    """Ask systemd to start the unit. `entry` goes into the ledger before, and as issued when systemd has accepted."""

    unit: str
    reason: str
    entry: LedgerEntry


class Reload(msgspec.Struct, frozen=True):
    """See to it that systemd has read the unit's file. `entry` goes into the ledger after."""

    unit: str
    reason: str
    entry: LedgerEntry


class Restart(msgspec.Struct, frozen=True):
    """Ask systemd to restart the unit, which takes along what needs it. `entry`, with the invocation that is to end,
    goes into the ledger before. That it is done is seen, and recorded, later."""

    unit: str
    reason: str
    entry: LedgerEntry


Action = Stop | Remove | Write | Record | Reload | Start | Restart
