"""Which actions of a machine wait for a download."""

import pytest

from fleetd.model.content import Content
from fleetd.model.download import Download
from fleetd.model.placement import Placement
from fleetd.reconciler.actions import Action, LedgerEntry, Record, Restart, Start, Stop, Write
from fleetd.reconciler.downloading import find_needed, hold_for_downloads
from fleetd.reconciler.observed import Observed
from tests.unit.reconcile_builder import INACTIVE, LAUNCHED, LOADED
from tests.unit.test_download import IMAGE, unit

WEB, OTHER = "web.service", "other.service"
ENTRY = LedgerEntry(5, LAUNCHED, "h")
START, STOP, RESTART = Start(WEB, "", ENTRY), Stop(WEB, "", None), Restart(WEB, "", ENTRY)
NEEDED = {WEB: (Download(IMAGE),)}


FILE = {WEB: (Download("https://host/app.raw", "b" * 64, "app.raw"),)}


def fetching(target: object = LAUNCHED) -> dict[str, Placement]:
    text = f"[Service]\nExecStart=/bin/x\n[X-Fleet]\nFetch=https://host/app.raw sha256:{'b' * 64}\n"
    return {WEB: Placement("m1", WEB, text, target, 5)}


def placed(target: object = LAUNCHED, **fields: bool) -> dict[str, Placement]:
    return {WEB: Placement("m1", WEB, unit(IMAGE), target, 5, **fields)}


@pytest.mark.parametrize(
    ("placements", "plan", "seen", "needed"),
    [
        (placed(), [START], Observed(), NEEDED),
        (placed(), [STOP], Observed(), NEEDED),  # to be started with other content
        (placed(), [RESTART], Observed(), NEEDED),
        (placed(), [Record(WEB, "", ENTRY)], Observed(), {}),
        (fetching(), [Record(WEB, "", ENTRY)], Observed(), FILE),
        (fetching(LOADED), [Write(WEB, "", Content("x"))], Observed(), FILE),  # something else starts it
        (fetching(INACTIVE), [STOP], Observed(), {}),
        (placed(), [], Observed(), {}),
        (placed(), [STOP], Observed(forbidden="takes only db-*"), {}),
        (placed(LOADED), [STOP], Observed(), {}),
        (placed(INACTIVE), [STOP], Observed(), {}),
        (placed(INACTIVE, prepares=True), [], Observed(), NEEDED),
        (placed(INACTIVE, prepares=True), [], Observed(refusal="this machine accepts only db-*"), {}),
        (placed(superseded=True), [STOP], Observed(), {}),
        ({}, [STOP], Observed(), {}),
        ({WEB: Placement("m1", WEB, "[Service]\nExecStart=/bin/x\n", LAUNCHED, 5)}, [START], Observed(), {}),
    ],
)
def test_what_is_done_for_a_unit_to_run_needs_what_it_needs(
    placements: dict[str, Placement], plan: list[Action], seen: Observed, needed: object
) -> None:
    assert find_needed(plan, {WEB: seen}, placements) == needed


def test_all_actions_of_a_unit_wait_and_those_of_others_do_not() -> None:
    other = Start(OTHER, "", ENTRY)
    plan = [Write(WEB, "", Content("x")), RESTART, other]
    held = hold_for_downloads(plan, NEEDED, lambda download: False)
    assert (held.plan, held.waits) == ((other,), NEEDED)
    assert hold_for_downloads(plan, NEEDED, lambda download: True).plan == tuple(plan)


def test_a_socket_waits_with_its_service() -> None:
    plan = [Stop("web.socket", "", None), STOP, Stop("web.timer", "", None)]
    held = hold_for_downloads(plan, NEEDED, lambda download: False)
    assert [action.unit for action in held.plan] == ["web.timer"]
