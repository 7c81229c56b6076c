"""The records of reboots."""

import pytest

from fleetd.model.reboot import Reboot, RebootFailure, RebootPhase


@pytest.mark.parametrize(
    ("failure", "holds"),
    [
        (None, True),
        (RebootFailure.NOT_BACK, True),
        (RebootFailure.NOT_SERVING, True),
        (RebootFailure.DEADLINE, False),
        (RebootFailure.REFUSED, False),
        (RebootFailure.RESTORED, False),
    ],
)
def test_a_machine_that_does_not_serve_holds_its_slot(failure, holds):
    phase = RebootPhase.GAVE_UP if failure else RebootPhase.DRAINING
    assert Reboot("q1", "b1", phase, failure).holds_slot is holds
