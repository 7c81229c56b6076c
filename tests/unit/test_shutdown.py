"""How fleetd ends on SIGTERM."""

import pytest

from fleetd.reconciler.shutdown import ShutdownMode, plan_shutdown


@pytest.mark.covers("2.10.3", "5.6.1")
@pytest.mark.parametrize(
    ("job", "machine_is_stopping", "supervised", "departure"),
    [
        ("restart", False, True, ShutdownMode.STAY),
        ("stop", False, True, ShutdownMode.PARK),
        ("stop", True, True, ShutdownMode.LEAVE),
        ("restart", True, True, ShutdownMode.LEAVE),
        ("", True, True, ShutdownMode.LEAVE),
        ("", False, True, ShutdownMode.STAY),  # killed by hand: systemd starts it again
        ("", False, False, ShutdownMode.PARK),  # Ctrl-C at a terminal: it is not started again
        ("", True, False, ShutdownMode.LEAVE),
    ],
)
def test_the_reason_of_the_end_decides_what_happens_to_the_units(
    job: str, machine_is_stopping: bool, supervised: bool, departure: ShutdownMode
) -> None:
    assert plan_shutdown(job=job, machine_is_stopping=machine_is_stopping, supervised=supervised) is departure
