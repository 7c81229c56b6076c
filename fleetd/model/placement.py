"""What the leader writes down of its decisions: where a unit is to run, and why there or nowhere.

Only the values. How they come about is planner.py's matter, what a machine makes of them plan.py's.
"""

import msgspec

from fleetd.model.decoding import FORMAT, Count
from fleetd.model.reason import Reason, RejectionCount
from fleetd.model.unit import TargetState


class Placement(msgspec.Struct, frozen=True, omit_defaults=True, gc=False, tag_field="format", tag=FORMAT):
    """An order to one machine about one unit. Stored under `placements/<machine>/<unit>`; all that an agent needs.

    `generation` is that of the unit whose wish this carries out. `target` inactive means withdrawn: stop the unit,
    remove its file, report it gone; only then does the leader delete the order, so that no unit is started elsewhere
    while it may still run here. `retiring` means: a copy that outlived a cut, leave it alone until told otherwise.
    `completed` means: the oneshot of this generation has run to its end, and is not run again, not after a reboot.
    `restart_of`: what runs and was started for this generation or an earlier one is to be started anew (0: nothing).
    `declined` goes with `target` inactive and means: the machine takes no unit of this name, and nothing of it is
    there. The order stays so that the machine goes on saying so until it takes one.
    """

    machine: str
    unit: str
    text: str
    target: TargetState
    generation: Count
    superseded: bool = False
    completed: bool = False
    restart_of: Count = 0
    declined: bool = False

    @property
    def is_withdrawn(self) -> bool:
        """Whether the unit is not to be on this machine."""
        return self.target is TargetState.INACTIVE

    @property
    def is_leaving(self) -> bool:
        """Whether the unit is on its way out of this machine, as far as is known."""
        return self.is_withdrawn and not self.declined

    @property
    def occupies(self) -> bool:
        """Whether other units have to reckon with this one on the machine."""
        return not self.superseded and not self.declined

    @property
    def is_active(self) -> bool:
        """Whether this machine is (one of) those that the unit is to be on."""
        return not self.superseded and self.target is not TargetState.INACTIVE


class Decision(msgspec.Struct, frozen=True, omit_defaults=True, gc=False, tag_field="format", tag=FORMAT):
    """Where a unit is and since when, or why it is nowhere. Stored under `decisions/<unit>`.

    `generation` is that of the unit when this was decided. `machine` is '' for a unit that is not placed, and for a
    global one, which is on `machines` machines. `since` is Unix time in seconds. `rejections` count the machines that
    do not take the unit, the most frequent reason first. `completed` is the generation whose oneshot ran to its end (it
    is not started again elsewhere). `lost`: since when (Unix time) the unit waits for its dead machine, else 0.
    `revision` is the store's revision of this record, which guards the next write; it is not part of the stored value.
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
    revision: Count = 0
