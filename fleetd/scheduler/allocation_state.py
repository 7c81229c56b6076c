"""What one unit is on one machine, by its placement there, what the machine reports, and whether it is registered."""

from enum import Enum, auto
from typing import TypeGuard

from fleetd.model.placement import Placement
from fleetd.model.unit import TargetState, UnitState


class Presence(Enum):
    """Whether a machine takes part in the cluster."""

    REGISTERED = auto()
    AWAY = auto()  # absent, but it may be alive
    DEAD = auto()


class AllocationState(Enum):
    """The state of one allocation, or of what is left of one."""

    ABSENT = auto()  # nothing of the unit is there
    ASSIGNED = auto()  # placed, whether it runs already or not
    SUPERSEDED = auto()  # its machine was lost and returned; it runs on until its replacement does
    STOPPING = auto()  # withdrawn, and not reported as stopped and removed
    ORPHANED = auto()  # withdrawn, but to run, and the agent keeps it running since the store was restored
    STOPPED = auto()  # withdrawn, and reported as stopped and removed: the placement has served its purpose
    PREPARING = auto()  # nothing is there: the machine is to get what the unit needs, before that comes
    DECLINED = auto()  # nothing is there: the machine takes no unit of this name
    LOST = auto()  # placed on a dead machine
    STRAY = auto()  # it runs without a placement: its machine was taken for dead
    LEFT_RUNNING = auto()  # the same since the store was restored, and it is not to run: an operator has to stop it
    UNCONFIRMED = auto()  # stopped; the machine's last report, still there, could be taken for one of a new placement
    RETURNING = auto()  # it runs on a machine that was lost and is not registered yet: agents publish states first


def classify(
    placement: Placement | None, state: UnitState | None, presence: Presence, *, is_to_run: bool
) -> AllocationState:
    """The state of an allocation, by the first rule that holds.

    `state` is what the machine reports. `is_to_run`: the unit is to run, and is not a oneshot that has completed.
    """
    if placement is None:
        return _classify_unplaced(state, presence, is_to_run=is_to_run)
    if placement.declined:
        return AllocationState.DECLINED
    if placement.prepares:
        return AllocationState.LOST if presence is Presence.DEAD else AllocationState.PREPARING
    is_withdrawn = placement.is_withdrawn
    if is_withdrawn and _is_removed(state) and state.generation >= placement.generation:
        return AllocationState.STOPPED
    if presence is Presence.DEAD:
        return AllocationState.LOST
    if not is_withdrawn:
        return AllocationState.SUPERSEDED if placement.superseded else AllocationState.ASSIGNED
    is_orphan = is_to_run and state is not None and state.orphan
    return AllocationState.ORPHANED if is_orphan else AllocationState.STOPPING


def _classify_unplaced(state: UnitState | None, presence: Presence, *, is_to_run: bool) -> AllocationState:
    """The same where no placement is."""
    if presence is not Presence.REGISTERED:
        return AllocationState.RETURNING if state is not None and state.runs else AllocationState.ABSENT
    if state is not None and state.runs:
        return AllocationState.LEFT_RUNNING if state.orphan and not is_to_run else AllocationState.STRAY
    return AllocationState.UNCONFIRMED if _is_removed(state) else AllocationState.ABSENT


def _is_removed(state: UnitState | None) -> TypeGuard[UnitState]:
    """True once the agent has reported the unit stopped and its file removed."""
    return state is not None and state.target is TargetState.INACTIVE and not state.runs
