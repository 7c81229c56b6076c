"""The actions that a machine takes for one unit, and the ledger entry that records what was carried out."""

import msgspec

from fleetd.model.content import Content
from fleetd.model.decoding import Count
from fleetd.model.unit import TargetState


class Restarting(msgspec.Struct, frozen=True, omit_defaults=True):
    """A restart to be made for this generation and target. `invocation` is the one that it is to end ('': none), taken
    after systemd had read the unit's file; None: systemd was not asked for the restart yet."""

    generation: Count
    target: TargetState
    invocation: str | None = None


class Applied(msgspec.Struct, frozen=True, omit_defaults=True):
    """When systemd was asked to start or restart a unit, or had read its changed file, on the machine's monotonic
    clock; and how often systemd had restarted the unit by itself by then."""

    at_s: float
    restarts: Count = 0


class LedgerEntry(msgspec.Struct, frozen=True, omit_defaults=True):
    """What this machine last carried out for one unit; it survives restarts of fleetd, but not reboots.

    `generation` and `target` are the placement's (0: any placement is newer; inactive: fleetd stopped the unit), `hash`
    is of the content used. A start is recorded before systemd is asked for it; `issued` says that systemd accepted it.
    `completed`: it was a oneshot, and succeeded. `stopped`: a stop was begun as the first step to the next placement.
    `restarting`: a restart is to be made, or under way. `reload`: systemd has to read the unit file again, and
    `reloads_unit`: the unit itself is to be reloaded then, if it can be.
    `result`: the result of the start job, if systemd forgets it. `adopted`: the store was restored and the unit kept
    as it was, so `target` and `hash` may differ from those of this generation. `applied`: when the unit that runs was
    started, or its content came into effect.
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
    reloads_unit: bool = False
    result: str = ""
    applied: Applied | None = None


class Stop(msgspec.Struct, frozen=True):
    """Ask systemd to stop the unit. `entry` is recorded first: the unit no longer is as the ledger says."""

    unit: str
    reason: str
    entry: LedgerEntry | None


class Remove(msgspec.Struct, frozen=True):
    """Delete the file and the ledger entry of a unit that does not run."""

    unit: str
    reason: str


class Write(msgspec.Struct, frozen=True):
    """Write the unit's file and drop-ins. `entry`, if any, is recorded first, so that a crash does not lose what must
    follow."""

    unit: str
    reason: str
    content: Content
    entry: LedgerEntry | None = None


class Record(msgspec.Struct, frozen=True):
    """Record in the ledger what is already so."""

    unit: str
    reason: str
    entry: LedgerEntry


class Start(msgspec.Struct, frozen=True):
    """Ask systemd to start the unit. `entry` is recorded first, and again as issued once systemd has accepted."""

    unit: str
    reason: str
    entry: LedgerEntry


class Reload(msgspec.Struct, frozen=True):
    """Run daemon-reload if systemd has not read the unit's file, and, if it `reloads_unit`, ask systemd to reload the
    unit, if that can be. `entry` is recorded afterwards."""

    unit: str
    reason: str
    entry: LedgerEntry
    reloads_unit: bool = False


class Restart(msgspec.Struct, frozen=True):
    """Ask systemd to restart the unit, and with it the units that require it. `entry`, with the invocation that is to
    end, is recorded first. A later plan sees and records that it is done."""

    unit: str
    reason: str
    entry: LedgerEntry


Action = Stop | Remove | Write | Record | Reload | Start | Restart
