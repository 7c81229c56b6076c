"""Properties of the plans for one unit, on a model of a machine where every action succeeds and every job ends."""

import msgspec
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from fleetd.model.placement import Placement
from fleetd.model.unit import TargetState
from fleetd.model.unitfile import hash_unit_file
from fleetd.reconciler.actions import (
    Action,
    LedgerEntry,
    Record,
    Reload,
    Remove,
    Restart,
    Restarting,
    Start,
    Stop,
    Write,
)
from fleetd.reconciler.after_restore import plan_adoption
from fleetd.reconciler.observed import LastRun, Observed, StopProgress, needs_last_run
from tests.unit.reconcile_builder import LAUNCHED, LOADED, NAME, NEW, NEW_HASH, OLD, OLD_HASH, entry, placed, plan


class Model:
    """One unit on one machine."""

    def __init__(self, seen: Observed) -> None:
        self.seen = seen
        self.invocation = 1

    def apply(self, step: Action) -> None:
        change = {
            Stop: lambda: {"active": "inactive", "job": False, "stop": StopProgress.ENDED},
            Remove: lambda: {"hash": "", "entry": None, "stop": StopProgress.NONE},
            Write: lambda: {"hash": step.content.hash},
            Record: lambda: {"entry": step.entry, "stop": StopProgress.NONE},
            Reload: lambda: {"entry": step.entry},
            Start: lambda: {"active": "active", "job": False, "stop": StopProgress.NONE},
            Restart: lambda: {"active": "active", "job": False, "stop": StopProgress.NONE},
        }[type(step)]()
        if isinstance(step, Stop | Write) and step.entry is not None:
            change["entry"] = step.entry
        if isinstance(step, Restart):
            self.invocation += 1
            due = msgspec.structs.replace(step.entry.restarting, invocation=str(self.invocation - 1))
            change["entry"] = msgspec.structs.replace(step.entry, restarting=due)
        if isinstance(step, Start):
            change["entry"] = msgspec.structs.replace(step.entry, issued=True)
        self.seen = msgspec.structs.replace(self.seen, **change)

    def settle(self, placement: Placement | None) -> None:
        """End all jobs, as systemd does."""
        if self.seen.active == "deactivating" or self.seen.stop is StopProgress.UNDER_WAY:
            stop = StopProgress.ENDED if self.seen.stop is StopProgress.UNDER_WAY else self.seen.stop
            self.seen = msgspec.structs.replace(self.seen, active="inactive", job=False, stop=stop)
        restarting = self.seen.entry.restarting if self.seen.entry is not None else None
        if restarting is not None and restarting.invocation is not None and self.seen.job:
            self.invocation += 1
            self.seen = msgspec.structs.replace(self.seen, active="active", job=False)
        last_run = LastRun(str(self.invocation) if restarting is not None else "")
        last_run = last_run if needs_last_run(placement, self.seen) else None
        self.seen = msgspec.structs.replace(self.seen, waiting=False, last_run=last_run)


generations = st.integers(1, 4)
hashes = st.sampled_from([OLD_HASH, NEW_HASH, ""])
restarted = st.none() | st.sampled_from(["", "1", "0"])
entries = st.builds(
    LedgerEntry,
    st.integers(0, 5),
    st.sampled_from(TargetState),
    st.sampled_from([OLD_HASH, NEW_HASH]),
    st.booleans(),
    stopped=st.booleans(),
    restarting=st.none() | st.builds(Restarting, st.integers(1, 4), st.just(TargetState.LAUNCHED), restarted),
    reload=st.booleans(),
)
machines = st.builds(
    Observed,
    hash=hashes,
    load=st.just("loaded"),
    active=st.sampled_from(["active", "activating", "deactivating", "inactive", "failed"]),
    job=st.booleans(),
    entry=st.none() | entries,
    stop=st.sampled_from(StopProgress),
    waiting=st.booleans(),
)
RESTARTING = Observed(  # systemd has the job
    hash=OLD_HASH,
    load="loaded",
    active="active",
    job=True,
    entry=LedgerEntry(0, TargetState.INACTIVE, OLD_HASH, restarting=Restarting(1, LAUNCHED, "1")),
)
operations = st.builds(placed, st.sampled_from(TargetState), generations, st.sampled_from([OLD, NEW]))


def reach(placement: Placement | None, seen: Observed) -> tuple[Observed, list[Action]]:
    """The machine after all plans, and the actions."""
    model, taken = Model(seen), []
    for _ in range(8):
        model.settle(placement)
        steps = plan(placement, model.seen)
        taken += steps
        for step in steps:
            model.apply(step)
        if not steps:
            return model.seen, taken
    raise AssertionError(f"the plans never end: {taken}")


def latest_wish(kept: LedgerEntry | None) -> int:
    """The generation that was carried out last, or whose restart has begun."""
    if kept is None:
        return 0
    return max(kept.generation, kept.restarting.generation if kept.restarting else 0)


@given(operations | st.none(), machines)
@example(placed(LAUNCHED, 2, NEW), RESTARTING)  # the action in progress ends, and is not enough
def test_repeated_plans_reach_the_placement(placement: Placement | None, seen: Observed) -> None:
    reached, _ = reach(placement, seen)
    if placement is None or placement.is_withdrawn:
        assert not reached.ours
        assert not (reached.busy and seen.ours)
    elif latest_wish(seen.entry) < placement.generation:
        assert reached.hash == hash_unit_file(placement.text)
        assert reached.entry == entry(placement.target, placement.generation, reached.hash)
        assert reached.busy or placement.target is LOADED


@pytest.mark.covers("6.1.11")
@given(operations | st.none(), machines)
def test_a_reached_placement_has_an_empty_plan(placement: Placement | None, seen: Observed) -> None:
    reached, _ = reach(placement, seen)
    model = Model(reached)
    model.settle(placement)
    assert plan(placement, model.seen) == []


@given(operations, machines, machines)
@example(placed(LAUNCHED, 1, OLD), RESTARTING, msgspec.structs.replace(RESTARTING, job=False))
def test_an_unchanged_placement_never_stops_its_unit(placement: Placement, before: Observed, later: Observed) -> None:
    reached, _ = reach(placement, before)
    if placement.is_withdrawn:
        return
    _, taken = reach(placement, msgspec.structs.replace(later, entry=reached.entry))
    assert not any(isinstance(step, Stop | Remove | Restart) for step in taken)


@pytest.mark.covers("10.7.11", "P.8", "R.6")
@given(st.none() | operations, machines)
def test_no_file_is_removed_while_its_unit_runs(placement: Placement | None, seen: Observed) -> None:
    model = Model(seen)
    for _ in range(8):
        for step in plan(placement, model.seen):
            assert not (isinstance(step, Remove) and model.seen.busy)
            model.apply(step)
        model.settle(placement)


@pytest.mark.covers("R.1")
@given(operations, machines)
def test_a_restore_stops_starts_and_writes_nothing(placement: Placement, seen: Observed) -> None:
    assume(seen.ours or seen.refusal or seen.load == "not-found")  # otherwise systemd refuses to have it written
    adoption = plan_adoption({NAME: placement}, {NAME: seen})
    adopted = msgspec.structs.replace(seen, entry=adoption.entries.get(NAME, seen.entry))
    if seen.busy and not (placement.is_withdrawn and not seen.ours):
        assert plan(placement, adopted, held=adoption.orphans) == []
    assert not any(isinstance(step, Stop | Start) for step in plan(placement, adopted, held=adoption.orphans))
