"""One unit on one machine: its placement, its ledger entry, what systemd reports, and the plan that follows."""

from typing import Any

import msgspec

from fleetd.model.placement import Placement
from fleetd.model.unit import TargetState
from fleetd.model.unitfile import hash_unit_file
from fleetd.reconciler.actions import Action, LedgerEntry
from fleetd.reconciler.machine_plan import plan_machine
from fleetd.reconciler.observed import Desired, Observed

INACTIVE, LOADED, LAUNCHED = TargetState.INACTIVE, TargetState.LOADED, TargetState.LAUNCHED
NAME = "web.service"
OLD, NEW = "[Service]\nExecStart=/bin/old\n", "[Service]\nExecStart=/bin/new\n"
OLD_HASH, NEW_HASH = hash_unit_file(OLD), hash_unit_file(NEW)
STOPPED = LedgerEntry(0, INACTIVE, NEW_HASH)


def placed(
    target: TargetState = LAUNCHED, generation: int = 5, text: str = NEW, *, superseded: bool = False
) -> Placement:
    return Placement("m1", NAME, text, target, generation, superseded)


WITHDRAWN = placed(INACTIVE)


def entry(target: TargetState = LAUNCHED, generation: int = 5, hash_: str = NEW_HASH, **more: Any) -> LedgerEntry:
    return LedgerEntry(generation, target, hash_, **more)


def here(active: str = "inactive", *, hash_: str = NEW_HASH, **more: object) -> Observed:
    return msgspec.convert({"load": "loaded", "active": active, "hash": hash_, **more}, Observed)


def plan(
    placement: Placement | None, seen: Observed, *, removes_unplaced: bool = True, held: tuple[str, ...] = ()
) -> list[Action]:
    desired = Desired({NAME: placement} if placement else {}, removes_unplaced, held)
    return list(plan_machine(desired, {NAME: seen}))


def kinds(steps: list[Action]) -> list[str]:
    return [type(step).__name__ for step in steps]
