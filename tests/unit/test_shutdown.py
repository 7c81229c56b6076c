"""How fleetd goes when it is told to."""

import pytest

from fleetd.reconciler.shutdown import Departure, plan_departure


@pytest.mark.parametrize(
    ("job", "machine_is_stopping", "supervised", "departure"),
    [
        ("restart", False, True, Departure.STAY),
        ("stop", False, True, Departure.PARK),
        ("stop", True, True, Departure.LEAVE),
        ("restart", True, True, Departure.LEAVE),
        ("", True, True, Departure.LEAVE),
        ("", False, True, Departure.STAY),  # killed by hand: systemd starts it again
        ("", False, False, Departure.PARK),  # Ctrl-C at a terminal: nobody starts it again
        ("", True, False, Departure.LEAVE),
    ],
)
def test_why_fleetd_ends_says_what_becomes_of_the_units(
    job: str, machine_is_stopping: bool, supervised: bool, departure: Departure
) -> None:
    assert plan_departure(job=job, machine_is_stopping=machine_is_stopping, supervised=supervised) is departure
