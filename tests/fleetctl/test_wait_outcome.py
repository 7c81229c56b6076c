"""What a unit's report means for a command that waits: a table of reports and their outcomes."""

import msgspec
import pytest

from fleetctl.command_line import bound_s
from fleetctl.wait_outcome import (
    ACTIVE_S,
    ENDED_S,
    FAILED_BEFORE_S,
    FAILED_S,
    RESTARTING_S,
    Check,
    Failed,
    Pending,
    Reached,
    WaitOutcome,
    check_launched,
    check_loaded,
    check_stopped,
    check_unloaded,
    why_unplaced,
)
from fleetd.api.schema import AllocationReport, Cause, RejectionCount, UnitReport

M1, M2 = "1" * 32, "2" * 32
AT = "11111111.../10.0.0.1"


def report(
    *allocations: AllocationReport, decided: int = 5, machine: str = M1, reason: str = "", **fields: object
) -> UnitReport:
    return UnitReport(
        name="web.service",
        target="launched",
        generation=5,
        decided=decided,
        machine=machine,
        reason=reason,
        allocations=allocations,
        **fields,  # type: ignore[arg-type]
    )


def allocation(
    active: str, sub: str = "x", generation: int = 5, machine: str = M1, **fields: object
) -> AllocationReport:
    given = {"load": "loaded", "hash": "abc", **fields}
    return AllocationReport(
        machine=machine,
        address="10.0.0.1",
        active=active,
        sub=sub,
        generation=generation,
        **given,  # type: ignore[arg-type]
    )


UNDECIDED = Pending("the leader has not placed it yet")
NOT_YET = Pending("11111111... has not carried it out yet")
WAITS = "waits for machine 11111111 to come back, until 2027-01-15 12:05:00 UTC"
LOST = Cause("waiting-for-machine", waits=WAITS, machine=M1, absence="lost")
AGAIN = f"has been started on {AT} by something else than fleet: its socket or timer, another unit, an operator"
PARKED = "waits for machine 11111111, which is parked: its fleetd was stopped"
ON_M1 = Cause("waiting-for-machine", waits=PARKED, machine=M1)
STOPPING = Cause("waiting-for-stop", waits="waits until 22222222 has stopped it", machine=M2)
PARKED_WAIT = Pending(f"it {PARKED}", is_urgent=True)

SITUATIONS: list[tuple[Check, UnitReport, WaitOutcome]] = [
    (check_launched, report(allocation("active")), Reached(AT, ACTIVE_S)),
    (check_launched, report(allocation("active", error="held as it was")), Reached(AT, ACTIVE_S)),
    (check_launched, report(allocation("inactive", completed=True)), Reached(AT)),
    (check_launched, report(machine="", reason="completed", cause=Cause("completed")), Reached()),
    (check_launched, report(cause=LOST), Pending(f"it {WAITS}", is_urgent=True)),
    # Decision or state of an earlier generation.
    (check_launched, report(allocation("active"), decided=4), UNDECIDED),
    (check_launched, report(machine="", reason="no machine fits", decided=4), UNDECIDED),
    (check_launched, report(allocation("failed", generation=4)), Pending(f"{AT} has not carried it out yet")),
    (check_launched, report(allocation("active", generation=4)), Pending(f"{AT} has not carried it out yet")),
    (check_launched, report(), NOT_YET),
    (
        check_launched,
        report(allocation("inactive", generation=0, note="waits for the image i, which is being downloaded")),
        Pending(f"it waits for the image i, which is being downloaded, on {AT}", is_urgent=True),
    ),
    (
        check_launched,
        report(allocation("active", generation=4, note="not announced: its check fails")),
        Pending(f"{AT} has not carried it out yet"),
    ),
    # Superseded and orphaned allocations.
    (check_launched, report(allocation("active", machine=M2, superseded=True)), NOT_YET),
    (check_launched, report(allocation("active", orphaned=True)), NOT_YET),
    # In progress.
    (check_launched, report(allocation("activating", "start-pre")), Pending(f"it is activating (start-pre) on {AT}")),
    (
        check_launched,
        report(machine="", reason=f"no peer is there; {STOPPING.waits}", cause=STOPPING),
        Pending("it waits until 22222222 has stopped it", is_urgent=True),
    ),
    # Failures, each with how long it must last before it counts.
    (
        check_launched,
        report(allocation("activating", "auto-restart")),
        Failed(
            f"has ended on {AT}, and systemd restarts it as its Restart= says: fleetctl journal web.service says why",
            RESTARTING_S,
        ),
    ),
    (
        check_launched,
        report(allocation("active", note="[Install] Alias=db.service has no effect: pg.service has it")),
        Reached(AT, ACTIVE_S, f"is on {AT}: [Install] Alias=db.service has no effect: pg.service has it"),
    ),
    (
        check_launched,
        report(allocation("inactive", "dead")),
        Failed(f"was started on {AT}, but does not run (inactive, dead)", ENDED_S),
    ),
    (
        check_launched,
        report(allocation("inactive", load="masked")),
        Failed(f"could not be loaded on {AT}: systemd says masked", FAILED_S),
    ),
    (check_launched, report(allocation("failed", error="boom")), Failed(f"failed on {AT} (x): boom", FAILED_S)),
    (
        check_launched,
        report(allocation("inactive", generation=0, error="no such user")),
        Failed(f"failed on {AT}: no such user", FAILED_BEFORE_S),
    ),
    (
        check_launched,
        report(machine=""),
        Pending("it cannot be placed: no machine fits. It starts as soon as one fits", is_urgent=True),
    ),
    (check_loaded, report(allocation("inactive")), Reached(AT)),
    (check_loaded, report(allocation("failed")), Reached(AT)),
    (check_loaded, report(allocation("deactivating", "stop", 4)), Pending(f"it is still deactivating (stop) on {AT}")),
    (check_loaded, report(allocation("inactive", generation=4)), Pending(f"{AT} has not carried it out yet")),
    (
        check_loaded,
        report(allocation("inactive", load="not-found")),
        Failed(f"could not be loaded on {AT}: systemd says not-found", FAILED_S),
    ),
    (check_stopped, report(allocation("inactive")), Reached(AT)),
    (check_stopped, report(allocation("inactive", load="not-found")), Reached(AT)),
    (check_stopped, report(machine=""), Reached()),
    (check_stopped, report(machine="", decided=4), UNDECIDED),
    (
        check_stopped,
        report(allocation("inactive"), allocation("active", machine=M2, superseded=True)),
        Pending("it is still active (x) on 22222222.../10.0.0.1"),
    ),
    (
        check_stopped,
        report(allocation("active", generation=4, error="Job timed out")),
        Pending(f"it is still active (x) on {AT}; last error: Job timed out"),
    ),
    (check_stopped, report(allocation("active", target="loaded")), Reached(AT, note=AGAIN)),
    (check_loaded, report(allocation("active", target="loaded")), Reached(AT, note=AGAIN)),
    (check_stopped, report(allocation("active", target="launched")), Pending(f"it is still active (x) on {AT}")),
    # Results of the last systemd job.
    (
        check_launched,
        report(allocation("inactive", "dead", result="condition", note="ConditionPathExists=/x is not met.")),
        Reached(AT, note=f"was not started on {AT}: ConditionPathExists=/x is not met"),
    ),
    (
        check_launched,
        report(allocation("inactive", "dead", result="assert", error="AssertPathExists=/x is not met")),
        Failed(f"failed on {AT}: AssertPathExists=/x is not met", FAILED_S),
    ),
    (
        check_launched,
        report(allocation("inactive", "dead", result="done")),
        Reached(AT, note=f"has ended on {AT} already, with success"),
    ),
    (check_launched, report(allocation("active", result="condition")), Reached(AT, ACTIVE_S)),
    (
        check_launched,
        report(allocation("inactive", generation=4, result="refused", error="its service is not loaded")),
        Failed(f"failed on {AT}: its service is not loaded", FAILED_S),
    ),
    (
        check_launched,
        report(allocation("active", generation=4, result="refused", error="it has a bad setting")),
        Failed(f"failed on {AT}: it has a bad setting", FAILED_BEFORE_S),
    ),
    (
        check_stopped,
        report(allocation("active", generation=4, result="refused", error="it may not be stopped by hand")),
        Failed(f"is not stopped on {AT}: it may not be stopped by hand", FAILED_S),
    ),
    # A machine that refuses the unit, or is parked.
    (
        check_launched,
        report(allocation("inactive", generation=0, refusal="has its own /etc/x", error="choose another name")),
        Pending(f"it is refused by {AT}, which has its own /etc/x", is_urgent=True),
    ),
    (check_launched, report(allocation("active", generation=4), reason=PARKED, cause=ON_M1), PARKED_WAIT),
    (check_stopped, report(allocation("active", generation=4), reason=PARKED, cause=ON_M1), PARKED_WAIT),
    (check_unloaded, report(allocation("active"), machine="", reason=PARKED, cause=ON_M1), PARKED_WAIT),
    (
        check_unloaded,
        report(allocation("active"), machine="", cause=STOPPING),
        Pending(f"it is still active (x) on {AT}"),
    ),
    (check_launched, report(machine="", reason=f"no peer is there; {PARKED}", cause=ON_M1), PARKED_WAIT),
    (check_unloaded, report(machine="", decided=0), Reached()),
    (check_unloaded, report(machine=""), Reached()),
    (check_unloaded, report(allocation("inactive", hash="", error="said before"), machine=""), Reached()),
    (check_unloaded, report(allocation("active", orphaned=True), machine=""), Reached()),
    (check_unloaded, report(machine="", decided=4), Pending("the leader has not taken it off its machine yet")),
    (check_unloaded, report(decided=0), Pending("the leader has not taken it off its machine yet")),
    (check_unloaded, report(allocation("inactive"), machine=""), Pending(f"it is still inactive (x) on {AT}")),
    (check_unloaded, report(allocation("active", hash="")), Pending(f"it is still active (x) on {AT}")),
]


@pytest.mark.covers("10.2.19")
@pytest.mark.parametrize(("check", "seen", "outcome"), SITUATIONS)
def test_the_outcome_of_a_report(check: Check, seen: UnitReport, outcome: WaitOutcome) -> None:
    assert check(seen, 5) == outcome


def test_rejections_are_printed_in_the_order_of_the_report() -> None:
    rejections = tuple(RejectionCount("metadata", *each) for each in (("c", 2), ("a", 1), ("b", 1)))
    seen = report(machine="", reason="no machine fits", rejections=rejections)
    outcome = check_launched(seen, 5)
    assert isinstance(outcome, Pending)
    assert ": c (2 machines), a (1 machine), b (1 machine). " in outcome.what


def test_a_socket_is_active_without_a_settling_time() -> None:
    seen = msgspec.structs.replace(report(allocation("active")), name="front.socket")
    assert check_launched(seen, 5) == Reached(AT)


def test_the_last_log_lines_are_indented_and_printed_once() -> None:
    error = "exit-code: status 7; last lines:\ndisk\x1b[31m full\n\ndisk\x1b[31m full\nends\n"
    outcome = check_launched(report(allocation("failed", error=error)), 5)
    assert isinstance(outcome, Failed)
    assert outcome.why == f"failed on {AT} (x): exit-code: status 7; last lines:\n    disk\\x1b[31m full\n    ends"


@pytest.mark.covers("3.7.2", "9.10", "P.6")
@pytest.mark.parametrize(("attempts", "expected_s"), [(0, 300.0), (-1, 300.0), (1, 2.0), (30, 60.0)])
def test_a_wait_is_bounded_for_any_block_attempts(attempts: int, expected_s: float) -> None:
    assert bound_s(attempts) == expected_s


def test_a_unit_on_a_lost_machine_is_unplaced_while_it_waits() -> None:
    reason = "waits for machine 11111111 to come back, until 2027-01-15 12:05:00 UTC"
    report = UnitReport("away.service", "launched", generation=1, decided=1, machine="1" * 32, reason=reason)
    cause = Cause("waiting-for-machine", waits=reason)
    assert why_unplaced(msgspec.structs.replace(report, cause=cause)) == reason
    assert why_unplaced(msgspec.structs.replace(report, reason="")) == ""  # being placed there
