"""The records of reboots."""

import pytest

from fleetd.model.reboot import Reboot, RebootFailure, RebootPhase, RebootRequest, in_order


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


@pytest.mark.parametrize(
    ("phase", "boot_id", "ends"),
    [(phase, boot, (phase, boot) == (RebootPhase.ORDERED, "b1")) for phase in RebootPhase for boot in ("b1", "b2")],
)
def test_only_an_order_of_this_boot_ends_it(phase, boot_id, ends):
    assert Reboot("q1", boot_id, phase).ends("b1") is ends


def test_machines_are_rebooted_in_the_order_of_the_requests_and_then_by_id():
    requests = {"m3": RebootRequest("a", "b", at=1.0), "m2": RebootRequest("b", "b", at=2.0)}
    assert in_order({**requests, "m1": RebootRequest("c", "b", at=2.0)}) == ["m3", "m1", "m2"]
