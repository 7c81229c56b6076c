"""What the scheduler goes by of a machine: what it says of itself, overlaid with what operators set on it."""

import msgspec
from msgspec.structs import replace

from fleetd.model.confinement import NO_LIMITS, Limits, limits_of
from fleetd.model.machine import Capability, DrainRequest, Machine, MachineMode, MachineSettings, effective_metadata
from fleetd.model.reason import Hold, Rejection, RejectionKind
from fleetd.model.reboot import Reboot, RebootPhase

LEAVING = Rejection(RejectionKind.LEAVING)
PARKED = Rejection(RejectionKind.PARKED)
CORDONED = Rejection(RejectionKind.CORDONED)
DRAINED = Rejection(RejectionKind.DRAINED)
REBOOTS = Rejection(RejectionKind.REBOOTS)


class EffectiveMachine(msgspec.Struct, frozen=True, gc=False):
    """A registered machine.

    `rejects` is why it takes no new unit, `evicts` why those that it has must leave it. `may_return`: it leaves because
    it is switched off, and may be back, so that units with a failover delay stay assigned to it. `hold` is why it
    carries out nothing at present. `cordon` is why it takes only global units. `has_dropins`: its fleetd knows of
    drop-ins; an older one would run a unit without them. `has_proofs`: its fleetd says whether a unit is healthy.
    `has_downloads`: its fleetd gets what a unit needs before that comes. `goes_down`: it was told to reboot, so what
    runs there counts as unavailable from now on. `has_seal_key`: secrets can be sealed for it. `isolates`: it stops
    units that are cut off (IsolationSec=, Lock=). `limits` are what it says of the units that it takes.
    """

    metadata: dict[str, str]
    rejects: Rejection | None = None
    evicts: Rejection | None = None
    may_return: bool = False
    hold: Hold | None = None
    cordon: Rejection | None = None
    has_dropins: bool = True
    has_proofs: bool = True
    has_downloads: bool = True
    goes_down: bool = False
    has_seal_key: bool = False
    isolates: bool = True
    limits: Limits = NO_LIMITS

    @property
    def accepts_work(self) -> bool:
        """True if it takes new units, be it only global ones."""
        return self.rejects is None


def effective_machine(
    machine: Machine, settings: MachineSettings | None, reboot: Reboot | None = None
) -> EffectiveMachine:
    """The machine as the scheduler sees it. `settings` are those that operators set, if any; a machine that is to
    reboot is cordoned."""
    cordon = settings.cordon if settings else None
    effective = EffectiveMachine(
        effective_metadata(machine, settings),
        has_dropins=bool(machine.capabilities.get(Capability.DROPINS)),
        has_proofs=bool(machine.capabilities.get(Capability.PROOFS)),
        has_downloads=bool(machine.capabilities.get(Capability.DOWNLOADS)),
        has_seal_key=machine.seal_key != "",
        isolates=bool(machine.capabilities.get(Capability.ISOLATION)),
        limits=limits_of(machine),
        goes_down=reboot is not None and reboot.phase is RebootPhase.ORDERED and reboot.boot_id == machine.boot_id,
    )
    if machine.mode is MachineMode.LEAVING:
        return replace(effective, rejects=LEAVING, evicts=LEAVING, may_return=machine.shuts_down)
    if machine.mode is MachineMode.PARKED:
        return replace(effective, rejects=PARKED, hold=Hold.PARKED)
    rejection = Rejection(RejectionKind.CORDONED, cordon.why) if cordon else None
    if rejection is None and reboot is not None and reboot.is_under_way:
        rejection = REBOOTS
    if settings and settings.drain and settings.drain.with_globals:
        return replace(effective, rejects=rejection or CORDONED)
    return replace(effective, cordon=rejection)


def drain_of(settings: MachineSettings | None, reboot: Reboot | None) -> DrainRequest | None:
    """How a machine is drained: as operators asked, or because it is to reboot; None: it is not."""
    asked = settings.drain if settings else None
    if reboot is None or not reboot.is_under_way:
        return asked
    if reboot.phase is not RebootPhase.DRAINING:
        return None  # what is there stays
    drain = DrainRequest(reboot.by, reboot.began, reboot.deadline)
    return replace(drain, with_globals=asked.with_globals, force=asked.force) if asked else drain
