"""Reasons as data: every kind survives the store, and is rendered as the sentence that users see."""

import msgspec
import pytest

from fleetd.model.placement import Decision
from fleetd.model.reason import (
    ADOPTED,
    BEST,
    COMPLETED,
    EVERYWHERE,
    INFEASIBLE,
    KEPT,
    MOVED,
    NO_MACHINES,
    ONLY,
    RESUMED,
    WITH_SOCKETS,
    Absence,
    BudgetWait,
    DrainEnded,
    Eviction,
    Hold,
    MayFinish,
    NotMoved,
    NowhereElse,
    Placed,
    Reason,
    Rejection,
    RejectionCount,
    RejectionKind,
    Rule,
    Stopping,
    Unavailability,
    UnavailableMember,
    WaitingForMachine,
    WaitingForPeer,
    WaitingForRemoval,
    WaitingForRoom,
    WaitingForStop,
    is_waiting,
    render,
    render_eviction,
    render_rejection,
    render_wait,
    without_eviction,
)

M1 = "1" * 32
TO_M2 = Eviction(M1, Rejection(RejectionKind.MACHINE_ID, "m2"))
PARKED = "which is parked: its fleetd was stopped"
ORPHANED = "where it is only kept running since the store was restored"

AT_REST: list[tuple[Reason, str]] = [
    (BEST, "fits"),
    (NotMoved(M1), "was not moved to 11111111: the store was restored meanwhile; ask for it again"),
    (
        NotMoved(M1, Rejection(RejectionKind.CONFLICT, "c"), "b"),
        "was not moved to 11111111: b, which goes with it: conflicts with c",
    ),
    (ONLY, "the only machine that fits"),
    (Placed(Rule.BEST, units=("a.service", "b.service")), "fits, with a.service, b.service"),
    (Placed(Rule.RETURNED, machine=M1), "machine 11111111 came back in time"),
    (Placed(Rule.BACK, machine=M1), "machine 11111111 is back"),
    (RESUMED, "wanted again while it was being stopped there"),
    (ADOPTED, "was still running there"),
    (EVERYWHERE, "on every machine that it fits on"),
    (WITH_SOCKETS, "where its sockets are"),
    (COMPLETED, "completed"),
    (INFEASIBLE, "no machine fits"),
    (NO_MACHINES, "there is no machine"),
    (MOVED, "moved there"),
    (KEPT, "stays where it was"),
    (NowhereElse(()), "stays on the drained machine: it fits nowhere else: there is no other machine"),
    (
        NowhereElse((RejectionCount(Rejection(RejectionKind.NO_PEER, "b"), 2),)),
        "stays on the drained machine: it fits nowhere else: b is not there (2)",
    ),
    (MayFinish(), "may finish on the drained machine, however long that takes"),
    (MayFinish(1_800_000_000.0), "may finish on the drained machine, until 2027-01-15 08:00:00 UTC"),
    (DrainEnded(1_800_000_000.0), "stays: the drain of its machine ended at 2027-01-15 08:00:00 UTC"),
    (Stopping((M1, "m2")), "being stopped on 11111111, m2"),
    (Stopping((M1,), Hold.ORPHANED), f"to be stopped on 11111111, {ORPHANED}"),
]
WAITS: list[tuple[Reason, str]] = [
    (WaitingForStop(M1), "waits until 11111111 has stopped it"),
    (WaitingForStop(M1, hold=Hold.PARKED), f"waits until it is stopped on 11111111, {PARKED}"),
    (WaitingForStop(M1, hold=Hold.ORPHANED), f"waits until it is stopped on 11111111, {ORPHANED}"),
    (WaitingForRemoval(M1), "waits until 11111111 has removed it"),
    (WaitingForRoom("b.service", M1), "waits for b.service to stop on 11111111"),
    (
        WaitingForMachine(M1, Absence.LOST, 1_800_000_000.0),
        "waits for machine 11111111 to come back, until 2027-01-15 08:00:00 UTC",
    ),
    (WaitingForMachine(M1, Absence.LOST), "waits for machine 11111111 to come back, however long that takes"),
    (WaitingForMachine(M1, Absence.PARKED), f"waits for machine 11111111, {PARKED}"),
    (WaitingForMachine(M1, Absence.RETURNING), "waits for 11111111, which is coming back with it"),
    (
        WaitingForPeer("b.service", WaitingForStop(M1)),
        "waits for b.service, which waits until 11111111 has stopped it",
    ),
    (
        BudgetWait(2, 3, (UnavailableMember("w@1.service", M1, Unavailability.UNPROVEN),)),
        "waits: w@1.service is not proven yet on 11111111, and 2 more (MaxUnavailable=2)",
    ),
    (
        BudgetWait(1, 1, (UnavailableMember("w@1.service", M1, Unavailability.UNHEALTHY),)),
        "waits: w@1.service is not healthy on 11111111 (MaxUnavailable=1)",
    ),
]
REJECTIONS = [
    (Rejection(RejectionKind.LEAVING), "machine is leaving", "machine 11111111 is leaving"),
    (
        Rejection(RejectionKind.PARKED),
        "machine is parked (its fleetd was stopped)",
        "machine is parked (its fleetd was stopped) on 11111111",
    ),
    (Rejection(RejectionKind.DRAINED), "machine is being drained", "machine 11111111 is being drained"),
    (Rejection(RejectionKind.CORDONED), "machine is cordoned", "machine is cordoned on 11111111"),
    (Rejection(RejectionKind.CORDONED, "{}"), "machine is cordoned: {}", "machine is cordoned: {} on 11111111"),
    (
        Rejection(RejectionKind.NO_SEAL_KEY),
        "it has no key for secrets yet",
        "it has no key for secrets yet on 11111111",
    ),
    (
        Rejection(RejectionKind.OUTDATED, "drop-ins"),
        "its fleetd is too old for drop-ins",
        "its fleetd is too old for drop-ins on 11111111",
    ),
    (Rejection(RejectionKind.MACHINE_ID, "m2"), "not machine m2", "not machine m2 on 11111111"),
    (
        Rejection(RejectionKind.MACHINE_ID, ""),
        "not machine (empty MachineID)",
        "not machine (empty MachineID) on 11111111",
    ),
    (Rejection(RejectionKind.METADATA, "a={b}|c"), "metadata a={b}|c missing", "metadata a={b}|c missing on 11111111"),
    (Rejection(RejectionKind.REFUSED, "has its own"), "machine has its own", "machine 11111111 has its own"),
    (Rejection(RejectionKind.NO_SOCKET), "no socket of it is there", "no socket of it is there on 11111111"),
    (Rejection(RejectionKind.NO_PEER, "b"), "b is not there", "b is not there on 11111111"),
    (
        Rejection(RejectionKind.NO_PEER, ""),
        "(empty MachineOf) is not there",
        "(empty MachineOf) is not there on 11111111",
    ),
    (
        Rejection(RejectionKind.PEER_STOPS, "b"),
        "b, which it must run with, stops here",
        "b, which it must run with, stops here on 11111111",
    ),
    (Rejection(RejectionKind.CONFLICT, "b"), "conflicts with b", "conflicts with b on 11111111"),
    (Rejection(RejectionKind.REPLACED, "b"), "replaced by b", "replaced by b on 11111111"),
    (Rejection(RejectionKind.REBOOTS), "machine is about to be rebooted", "machine 11111111 is about to be rebooted"),
    (Rejection(RejectionKind.ABSENT), "machine is absent", "machine is absent on 11111111"),
    (Rejection(RejectionKind.MOVED, "m2"), "moved to m2", "moves from 11111111 to m2"),
    (Rejection(RejectionKind.FAILED, "exit"), "failed there: exit", "failed on 11111111: exit"),
    (Rejection(RejectionKind.AT_WORK), "it is a oneshot at work", "it is a oneshot at work on 11111111"),
]


@pytest.mark.parametrize(("reason", "sentence"), [*AT_REST, *WAITS])
def test_a_reason_survives_the_store_and_is_rendered(reason: Reason, sentence: str) -> None:
    stored = msgspec.json.encode(Decision("a.service", 1, reason=reason))
    assert msgspec.json.decode(stored, type=Decision).reason == reason
    assert render(reason) == sentence


@pytest.mark.parametrize(("reason", "sentence"), WAITS)
def test_a_wait_is_rendered_alone(reason: Reason, sentence: str) -> None:
    assert is_waiting(reason)
    assert render_wait(reason) == sentence


@pytest.mark.parametrize("reason", [None, *(row[0] for row in AT_REST)])
def test_a_reason_without_a_wait_renders_no_wait(reason: Reason | None) -> None:
    assert not is_waiting(reason)
    assert render_wait(reason) == ""


def test_a_decision_without_a_reason_renders_as_nothing() -> None:
    assert render(None) == ""


def test_an_eviction_is_rendered_before_the_wait_or_left_out() -> None:
    reason = WaitingForStop(M1, TO_M2, Hold.PARKED)
    assert render(reason) == f"not machine m2 on 11111111; waits until it is stopped on 11111111, {PARKED}"
    assert without_eviction(reason) == WaitingForStop(M1, hold=Hold.PARKED)
    assert without_eviction(WaitingForStop(M1)) == WaitingForStop(M1)


@pytest.mark.parametrize(("rejection", "sentence", "evicted"), REJECTIONS)
def test_a_rejection_is_rendered_for_any_machine_and_for_an_evicting_one(
    rejection: Rejection, sentence: str, evicted: str
) -> None:
    assert render_rejection(rejection) == sentence
    assert render_eviction(Eviction(M1, rejection)) == evicted


def test_every_kind_of_rejection_is_in_the_table() -> None:
    assert {rejection.kind for rejection, _, _ in REJECTIONS} == set(RejectionKind)
