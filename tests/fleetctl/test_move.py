"""move: with real leaders and agents over simulated systemds, and what is said while it is waited for."""

from pathlib import Path

import msgspec
import pytest

from fleetctl.moves import OVER
from fleetd.api import schema
from fleetd.api.http import Response
from tests.fleetctl.conftest import Fleetctl
from tests.fleetctl.scripted_cluster import M1, M2, ScriptedCluster

AT_1, AT_2 = "11111111.../10.0.0.1", "22222222.../10.0.0.2"
WEB = "[Service]\nExecStart=/bin/sleep inf\n[X-Fleet]\nUpdateSettleSec=100ms\n"
FIRST = WEB + "Handover=start-first\n"
PINNED = WEB + "MachineMetadata=number=1\n"


@pytest.fixture
def small(small_fleetctl: Fleetctl, tmp_path: Path) -> Fleetctl:
    """Runs a command line against a cluster of real leaders and agents."""
    for name, text in {"web.service": WEB, "first.service": FIRST, "pinned.service": PINNED}.items():
        (tmp_path / name).write_text(text)
    return small_fleetctl


def test_a_unit_moves_there_and_back_and_one_that_does_not_fit_stays(small: Fleetctl) -> None:
    started = small("start", "web").stdout
    first, second, there = ("1111", "2222", AT_2) if AT_1 in started else ("2222", "1111", AT_1)
    result = small("move", "web", second)
    assert (result.status, result.stdout, result.stderr) == (0, f"Unit web.service moved to {there}\n", "")
    assert small("move", "--no-block", "web", first).stdout.startswith("Triggered unit web.service move to ")
    small("start", "pinned")
    result = small("move", "pinned", "2222")
    assert (result.status, result.stdout) == (1, "")
    assert result.stderr == (
        f"Error moving unit pinned.service to {AT_2}: Error 409: the unit was not moved to 22222222: "
        "metadata number=1 missing\n"
    )


def test_a_unit_that_starts_first_moves_and_stays_where_it_was_if_it_fails(small: Fleetctl) -> None:
    started = small("start", "first").stdout
    second, there = ("2222", AT_2) if AT_1 in started else ("1111", AT_1)
    result = small("move", "first", second)
    assert (result.status, result.stdout, result.stderr) == (0, f"Unit first.service moved to {there}\n", "")
    result = small("drain", second)
    other = AT_1 if there == AT_2 else AT_2
    assert result.status == 0
    assert f"first.service starts on {other} first" in result.stdout
    assert f"first.service → {other} proven" in result.stdout


def script(cluster: ScriptedCluster, *reports: tuple[str, str, str]) -> None:
    """Answers questions about the move of a.service one after the other: state, machine, reason."""
    left = list(reports)

    def answer(method: str, path: str) -> Response | None:
        if not path.endswith("/move"):
            return None
        if method == "PUT":
            return Response(204)
        state, machine, reason = left[0]
        if state not in OVER and len(left) > 1:
            left.pop(0)
        found = schema.MoveReport("a.service", state, M2.id, machine, "10.0.0.9" if machine else "", reason=reason)
        return Response(200, (("Content-Type", schema.JSON_TYPE),), msgspec.json.encode(found))

    cluster.intercept = answer


def test_what_a_unit_waits_for_is_said_once(fleetctl: Fleetctl, cluster: ScriptedCluster) -> None:
    wait = ("waits", M1.id, "waits: b.service is not active")
    script(cluster, *[wait] * 12, ("starting", M2.id, ""), ("placed", M2.id, "moved there"))
    result = fleetctl("move", "a", "2222")
    assert result.status == 0
    assert result.stderr.count("Unit a.service waits: b.service is not active.") == 1


@pytest.mark.parametrize(
    ("report", "error"),
    [
        (
            ("placed", M1.id, "was not moved to 22222222: failed there: it crashed"),
            "Unit a.service is on 11111111.../10.0.0.9: was not moved to 22222222: failed there: it crashed\n",
        ),
        (("placed", M1.id, ""), "Unit a.service is on 11111111.../10.0.0.9: placed there meanwhile\n"),
        (("unplaced", "", "no machine fits"), "Unit a.service is on no machine: no machine fits\n"),
    ],
)
def test_a_unit_that_is_not_there_in_the_end_is_an_error(
    fleetctl: Fleetctl, cluster: ScriptedCluster, report: tuple[str, str, str], error: str
) -> None:
    script(cluster, report)
    result = fleetctl("move", "a", "2222")
    assert (result.status, result.stderr) == (1, error)


def test_an_unknown_machine_is_an_error(fleetctl: Fleetctl) -> None:
    result = fleetctl("move", "a", "99")
    assert (result.status, result.stderr) == (1, "99 is not a machine of the cluster\n")
