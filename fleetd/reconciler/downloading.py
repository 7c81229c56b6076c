"""Have what a unit needs on the machine before anything is stopped or started for it: which actions have to wait.

A unit that runs goes on as it is until the image of its new content is here, and one whose image cannot be had never
stops for it.
"""

from collections.abc import Callable, Mapping, Sequence

import msgspec

from fleetd.model.download import Download
from fleetd.model.placement import Placement
from fleetd.model.requirements import requirements_of
from fleetd.model.unit import TargetState
from fleetd.reconciler.actions import Action, Record, Restart, Start, Stop, Write
from fleetd.reconciler.observed import Observed


class HeldPlan(msgspec.Struct, frozen=True):
    """What of a plan can be done now; and by unit whose actions wait, what has to be downloaded first."""

    plan: tuple[Action, ...]
    waits: Mapping[str, tuple[Download, ...]]


def find_needed(
    plan: Sequence[Action], observed: Mapping[str, Observed], placements: Mapping[str, Placement]
) -> dict[str, tuple[Download, ...]]:
    """What has to be here before this plan for the observed units is carried out, and before another machine stops one
    that is to come here; by unit."""
    jobs = {action.unit for action in plan if isinstance(action, Stop | Start | Restart)}
    changed = jobs | {action.unit for action in plan if isinstance(action, Write | Record)}
    needed: dict[str, tuple[Download, ...]] = {}
    for name, seen in observed.items():
        placement = placements.get(name)
        is_wanted = placement is not None and (
            not seen.refusal if placement.prepares else name in changed and _is_to_be_here(placement, seen)
        )
        if placement is None or not is_wanted:
            continue
        downloads = requirements_of(placement.content, name).downloads
        if not placement.prepares and not (name in jobs and placement.target is TargetState.LAUNCHED):
            downloads = tuple(each for each in downloads if each.sha256)  # nobody else gets a file when it starts
        if downloads:
            needed[name] = downloads
    return needed


def _is_to_be_here(placement: Placement, seen: Observed) -> bool:
    """True if what is done to the unit is done for it to be here; any other stop has to wait for nothing."""
    return placement.is_active and not seen.forbidden


def hold_for_downloads(
    plan: Sequence[Action], needed: Mapping[str, Sequence[Download]], is_there: Callable[[Download], bool]
) -> HeldPlan:
    """Take out the actions of units that need what is not here. A service and its socket wait together: they are
    restarted together."""
    waits: dict[str, tuple[Download, ...]] = {}
    for name, downloads in needed.items():
        if missing := tuple(each for each in downloads if not is_there(each)):
            waits[name] = missing
    if not waits:
        return HeldPlan(tuple(plan), {})
    held = {_pair(name) for name in waits}
    return HeldPlan(tuple(action for action in plan if _pair(action.unit) not in held), waits)


def _pair(name: str) -> str:
    """The same for a service and its socket."""
    stem, _, suffix = name.rpartition(".")
    return stem if suffix in ("service", "socket") else name
