"""rebalance, and drain --plan: with real leaders and agents over simulated systemds, and what is said of plans."""

import json
import os
import signal
import threading
import time
from pathlib import Path

import msgspec
import pytest

from fleetd.api import schema
from fleetd.api.http import Response
from tests.fleetctl.conftest import Fleetctl
from tests.fleetctl.scripted_cluster import M1, M2, ScriptedCluster

AT_1, AT_2 = "11111111.../10.0.0.1", "22222222.../10.0.0.2"
WEB = "[Service]\nExecStart=/bin/sleep inf\n[X-Fleet]\nUpdateSettleSec=100ms\n"
PINNED = WEB + "MachineMetadata=number=1\n"
LOG = WEB + "Global=true\n"


@pytest.fixture
def small(small_fleetctl: Fleetctl, tmp_path: Path) -> Fleetctl:
    """Runs a command line against a cluster of real leaders and agents, where all units are on the first machine."""
    for name, text in {"web@.service": WEB, "pinned.service": PINNED, "log.service": LOG}.items():
        (tmp_path / name).write_text(text)
    small_fleetctl("cordon", "2222")
    small_fleetctl("start", "web@1", "web@2", "web@3", "pinned", "log")
    small_fleetctl("uncordon", "2222")
    return small_fleetctl


def places(fleetctl: Fleetctl) -> dict[str, str]:
    """The machine of each unit."""
    found = json.loads(fleetctl("list-units", "--output=json").stdout)
    return {unit["unit"]: unit["machine"][0] for unit in found if unit["unit"] != "log.service"}


def test_a_plan_changes_nothing_and_a_rebalance_does_what_it_says(small: Fleetctl) -> None:
    before = places(small)
    result = small("rebalance", "--plan", "--min-age=0")
    lines = result.stdout.splitlines()
    assert (result.status, result.stderr) == (0, "")
    assert lines[0].startswith("at revision ")
    assert lines[0].endswith(", 2 machines, 5 units")
    assert lines[1:] == [
        f"  move  web@1.service  {AT_1} → {AT_2}  3 of web@.service on the one machine, 0 on the other",
        f"  move  web@2.service  {AT_1} → {AT_2}  4 units on the one machine, 2 on the other",
        "2 would move",
    ]
    assert places(small) == before
    result = small("rebalance", "--min-age=0")
    assert (result.status, result.stderr) == (0, "")
    assert result.stdout.splitlines() == [
        f"web@1.service → {AT_2} proven",
        f"web@2.service → {AT_2} proven",
        "Nothing is left to move after 2 moves",
    ]
    assert places(small) == before | {"web@1.service": "2", "web@2.service": "2"}
    assert small("rebalance", "--min-age=0").stdout == "There is nothing to move\n"
    assert small("rebalance", "--plan", "--min-age=0").stdout.splitlines()[1:] == ["nothing would move"]


def test_no_more_than_max_are_moved_and_named_ones_alone(small: Fleetctl) -> None:
    result = small("rebalance", "--min-age=0", "--max=1", "web@3", "pinned")
    assert result.status == 0
    assert result.stdout.splitlines() == [f"web@3.service → {AT_2} proven", "1 move done, as many as --max allows"]
    result = small("rebalance", "--min-age=0", "web@3", "log")
    assert result.stdout == "There is nothing to move\n"
    assert result.stderr == "Unit log.service stays: it is on every machine that it fits on\n"


def test_machines_that_came_just_now_do_not_count(small: Fleetctl) -> None:
    result = small("rebalance")
    assert (result.status, result.stdout) == (0, "There is nothing to move\n")
    assert result.stderr == f"Machines that came less than 10 min ago do not count (--min-age): {AT_1}, {AT_2}\n"


def test_what_a_drain_would_do(small: Fleetctl) -> None:
    before = places(small)
    result = small("drain", "--plan", "1111")
    assert result.status == 1
    assert result.stdout.splitlines()[1:] == [
        *(f"  move   web@{number}.service   {AT_1} → {AT_2}  the only machine that fits" for number in (1, 2, 3)),
        f"  stays  log.service     {AT_1}                         global",
        f"  stays  pinned.service  {AT_1}                         stays on the drained machine: it fits nowhere "
        "else: metadata number=1 missing (1)",
        "3 would move, 2 would stay",
    ]
    assert places(small) == before
    assert small("drain", "--plan", "2222").status == 0
    result = small("drain", "--plan", "--force", "--globals", "1111")
    assert result.status == 1
    assert result.stdout.splitlines()[-1] == "3 would move, 1 would stop, 1 would run nowhere"
    result = small("drain", "--plan", "--output=json", "1111")
    found = json.loads(result.stdout)
    assert [(step["action"], step["unit"]) for step in found] == [
        *(("move", f"web@{number}.service") for number in (1, 2, 3)),
        ("stays", "log.service"),
        ("stays", "pinned.service"),
    ]
    assert found[0] == {
        "action": "move",
        "unit": "web@1.service",
        "origin": M1.id,
        "machine": M2.id,
        "with": None,
        "state": None,
        "reason": "the only machine that fits",
        "cause": None,
    }
    assert found[4]["cause"]["kind"] == "nowhere-else"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("drain", "--plan"), "No machines given"),
        (("drain", "--plan", "9"), "9 is not a machine of the cluster"),
        (("rebalance", "--output=json"), "--output=json is for --plan"),
        (("rebalance", "nothere"), "Error planning moves: Error 400: unit nothere.service does not exist"),
    ],
)
def test_what_is_typed_wrong_is_refused(small: Fleetctl, arguments: tuple[str, ...], message: str) -> None:
    result = small(*arguments)
    assert (result.status, result.stdout) == (1, "")
    assert result.stderr.strip() == message


@pytest.mark.parametrize("argument", ["--max=0", "--max=x", "--min-age=infinity", "--min-age=soon"])
def test_wrong_values_are_refused(fleetctl: Fleetctl, argument: str) -> None:
    result = fleetctl("rebalance", argument)
    assert result.status == 2
    assert argument.partition("=")[0] in result.stderr


def script(cluster: ScriptedCluster, plan: schema.Plan, *moves: schema.MoveReport, refuses: str = "") -> None:
    """Answers each request for a plan with this one, and questions about moves one after the other."""
    left = list(moves)

    def answer(method: str, path: str) -> Response | None:
        json_type = (("Content-Type", schema.JSON_TYPE),)
        if path.endswith("/plan"):
            return Response(200, json_type, msgspec.json.encode(plan))
        if not path.endswith("/move"):
            return None
        if method == "PUT" and refuses:
            error = schema.ErrorEntity(schema.ErrorDetail(409, refuses))
            return Response(409, json_type, msgspec.json.encode(error))
        if method == "PUT":
            return Response(204)
        return Response(200, json_type, msgspec.json.encode(left[0] if len(left) == 1 else left.pop(0)))

    cluster.intercept = answer


PLANNED = schema.Plan(
    7,
    2,
    2,
    moves=(
        schema.PlannedMove("a.service", M1.id, M2.id, reason="uneven"),
        schema.PlannedMove("b.service", M1.id, M2.id, reason="with a.service", along_with="a.service"),
    ),
)


def test_units_that_go_along_are_named(fleetctl: Fleetctl, cluster: ScriptedCluster) -> None:
    script(cluster, PLANNED, schema.MoveReport("a.service", "placed", machine=M2.id))
    result = fleetctl("rebalance", "--max=1")
    assert result.stdout.splitlines()[0] == "a.service → 22222222... proven, with b.service"
    assert sum(path.endswith("/move") and method == "PUT" for method, path in cluster.requests) == 1
    assert json.loads(fleetctl("rebalance", "--plan", "--output=json").stdout)[1]["with"] == "a.service"


@pytest.mark.parametrize(
    ("machine", "reason", "message"),
    [
        (
            M1.id,
            "was not moved to 22222222: failed there: exit-code",
            "Unit a.service is on 11111111...: was not moved",
        ),
        ("", "", "Unit a.service is on no machine: placed there meanwhile"),
    ],
)
def test_nothing_more_is_moved_after_a_failure(
    fleetctl: Fleetctl, cluster: ScriptedCluster, machine: str, reason: str, message: str
) -> None:
    script(cluster, PLANNED, schema.MoveReport("a.service", "placed", machine=machine, reason=reason))
    result = fleetctl("rebalance")
    assert (result.status, result.stdout) == (1, "")
    assert result.stderr.startswith(message)
    assert sum(path.endswith("/plan") for _, path in cluster.requests) == 1


def test_a_move_that_is_refused_ends_it(fleetctl: Fleetctl, cluster: ScriptedCluster) -> None:
    script(cluster, PLANNED, refuses="the unit is inactive")
    result = fleetctl("rebalance")
    assert (result.status, result.stdout) == (1, "")
    assert result.stderr == "Error moving unit a.service to 22222222...: Error 409: the unit is inactive\n"


def test_a_cluster_that_never_comes_to_rest_is_told(fleetctl: Fleetctl, cluster: ScriptedCluster) -> None:
    script(cluster, schema.Plan(7, 1, 1, endless=True))
    result = fleetctl("rebalance", "--plan")
    assert result.stdout.splitlines()[1:] == ["the cluster would never come to rest"]


def test_an_interruption_leaves_the_move_under_way(fleetctl: Fleetctl, cluster: ScriptedCluster) -> None:
    script(cluster, PLANNED, schema.MoveReport("a.service", "moving", M2.id, M2.id))

    def interrupt() -> None:
        while not any(path.endswith("/move") and method == "GET" for method, path in cluster.requests):
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt).start()
    result = fleetctl("rebalance")
    assert result.status == 130
    assert result.stderr == "The move of a.service to 22222222... goes on; nothing else is moved\n"
