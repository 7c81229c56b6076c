"""The leader's decisions as they are stored: where a unit is placed, and why there or nowhere."""

import msgspec

from fleetd.model.content import Content, DropIn
from fleetd.model.decoding import FORMAT, Count
from fleetd.model.group import UpdateAction
from fleetd.model.reason import Reason, RejectionCount
from fleetd.model.secret import SecretRef
from fleetd.model.unit import TargetState


class Placement(msgspec.Struct, frozen=True, omit_defaults=True, gc=False, tag_field="format", tag=FORMAT):
    """One unit on one machine: all that its agent reads. Stored under `placements/<machine>/<unit>`.

    `generation` is that of the unit. With `target` inactive the placement is withdrawn: the agent stops the unit,
    removes its file and reports that; only then does the leader delete the placement, so that the unit does not start
    elsewhere while it may still run here. `superseded`: the machine was lost and the unit is placed elsewhere; the
    agent leaves it as it is until the leader decides. `hands_over`, of a superseded one: no machine was lost, but the
    unit starts elsewhere before it stops here (Handover=start-first); its place here is kept until it is proven there,
    because it stays here if it fails there. `completed`: the oneshot of this generation has run to its end,
    and is not run again, not even after a reboot. `restart_of`: what was started for this or an earlier generation is
    restarted (0: nothing). `declined`, with `target` inactive: the machine takes no unit of this name, and nothing of
    it is there; the placement is kept so that the machine reports when it does. `prove_after_s` asks the machine for a
    proof that the unit is healthy (UnitState.proof): active for so long without a restart, and not later than
    `prove_within_s` after it was started or given its content (None: whenever). `update` is what the change to this
    content does to the unit if it runs. `secrets` are the versions of those that the unit names (Secret=).
    `isolation_hold_s`: the machine may still have former content, with which the unit runs for so long where it is cut
    off (IsolationSec=); 0: no longer than this content says.
    `prepares`, with `target` inactive: the unit is to come here, and is stopped where it runs only when the machine
    reports that all that it needs is here (UnitState.prepared).
    """

    machine: str
    unit: str
    text: str
    target: TargetState
    generation: Count
    superseded: bool = False
    hands_over: bool = False
    completed: bool = False
    restart_of: Count = 0
    declined: bool = False
    prove_after_s: float | None = None
    prove_within_s: float | None = None
    dropins: tuple[DropIn, ...] = ()
    update: UpdateAction = UpdateAction.AUTO
    secrets: tuple[SecretRef, ...] = ()
    isolation_hold_s: float = 0.0
    prepares: bool = False

    @property
    def content(self) -> Content:
        """The unit file with its drop-ins, as they are to be on this machine."""
        return Content(self.text, self.dropins)

    @property
    def is_withdrawn(self) -> bool:
        """True if the unit must not be on this machine."""
        return self.target is TargetState.INACTIVE

    @property
    def is_leaving(self) -> bool:
        """True while the unit may still have to be stopped and removed here."""
        return self.is_withdrawn and not self.declined and not self.prepares

    @property
    def occupies(self) -> bool:
        """True if the unit counts as an occupant of the machine: for conflicts, peers and load."""
        return (not self.superseded or self.hands_over) and not self.declined and not self.prepares

    @property
    def is_active(self) -> bool:
        """True if this is the machine, or one of the machines, that the unit is assigned to."""
        return not self.superseded and self.target is not TargetState.INACTIVE


class Decision(msgspec.Struct, frozen=True, omit_defaults=True, gc=False, tag_field="format", tag=FORMAT):
    """Where a unit is and since when, or why it is nowhere. Stored under `decisions/<unit>`.

    `generation` is that of the unit when this was decided. `machine` is '' for a unit that is not placed, and for a
    global one, which is on `machines` machines. `since` is Unix time in seconds. `rejections` count the machines that
    do not take the unit, the most frequent reason first. `completed` is the generation whose oneshot ran to its end (it
    is not started again elsewhere). `lost`: since when (Unix time) the unit waits for its dead machine, else 0.
    `target` is the machine that a unit moves to while it still has to stop elsewhere: its place there is kept, and
    `arrival` is the reason that it has there then (None: it was moved). `revision` is the store's revision of this
    record, which guards the next write; it is not part of the stored value.
    """

    unit: str
    generation: Count
    machine: str = ""
    machines: Count = 0
    since: float = 0.0
    reason: Reason | None = None
    rejections: tuple[RejectionCount, ...] = ()
    completed: Count = 0
    lost: float = 0.0
    target: str = ""
    arrival: Reason | None = None
    revision: Count = 0
