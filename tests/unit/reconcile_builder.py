"""One unit on one machine, in a few words: what is placed, what its ledger says, what is here, and what follows."""

from typing import Any

import msgspec

from fleetd.core.placement import Placement
from fleetd.core.reconcile import Desired, Observed, plan_machine
from fleetd.core.steps import LedgerEntry, Step
from fleetd.core.unit import TargetState
from fleetd.core.unitfile import hash_unit_file

INACTIVE, LOADED, LAUNCHED = TargetState.INACTIVE, TargetState.LOADED, TargetState.LAUNCHED
NAME = "web.service"
OLD, NEW = "[Service]\nExecStart=/bin/old\n", "[Service]\nExecStart=/bin/new\n"
OLD_HASH, NEW_HASH = hash_unit_file(OLD), hash_unit_file(NEW)
STOPPED = LedgerEntry(0, INACTIVE, NEW_HASH)


def placed(
    target: TargetState = LAUNCHED, generation: int = 5, text: str = NEW, *, retiring: bool = False
) -> Placement:
    return Placement("m1", NAME, text, target, generation, retiring)


def entry(target: TargetState = LAUNCHED, generation: int = 5, hash_: str = NEW_HASH, **more: Any) -> LedgerEntry:
    return LedgerEntry(generation, target, hash_, **more)


def here(active: str = "inactive", *, hash_: str = NEW_HASH, **more: object) -> Observed:
    return msgspec.convert({"load": "loaded", "active": active, "hash": hash_, **more}, Observed)


def plan(placement: Placement | None, seen: Observed, *, order: bool = True, held: tuple[str, ...] = ()) -> list[Step]:
    desired = Desired({NAME: placement} if placement else {}, order, held)
    return list(plan_machine(desired, {NAME: seen}))


def kinds(steps: list[Step]) -> list[str]:
    return [type(step).__name__ for step in steps]
