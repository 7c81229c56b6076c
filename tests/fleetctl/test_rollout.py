"""rollout: what is shown of rollouts, what is said while one is waited for, and what is refused."""

import json
import os
import signal
import threading
from collections.abc import Sequence

import msgspec
import pytest
from msgspec.structs import replace

from fleetd.api import schema
from fleetd.api.http import Response
from tests.fleetctl.conftest import Fleetctl, Result
from tests.fleetctl.scripted_cluster import M1, M2, ScriptedCluster

GROUP = "w@.service"
ROLLOUTS = f"{schema.V2}/rollouts"
AT_1, AT_2 = "11111111.../10.0.0.1", "22222222..."


def rollout(phase: str = "running", first: str = "proven", second: str = "waiting", **fields: object) -> schema.Rollout:
    """A rollout of w@1 on m1 and w@2 on m2, with their progress (`reverted WORD`: of their revert; `failed`)."""
    members = tuple(
        schema.RolloutMember(
            unit=f"w@{number}.service",
            machine=machine.id,
            address=machine.address,
            progress=word.removeprefix("reverted "),
            why="exit-code 1\nport 80 is in use" if word == "failed" else "",
            reverted=word.startswith("reverted "),
        )
        for number, machine, word in ((1, M1, first), (2, M2, second))
    )
    values = {"status": phase, "updated": 1, "total": 2, "members": members} | fields
    return schema.Rollout(GROUP, "r1", phase, **values)


class Script:
    """Answers requests for rollouts one after the other, the last one again and again."""

    def __init__(self, cluster: ScriptedCluster, *rollouts: schema.Rollout | None) -> None:
        self.left = list(rollouts)
        cluster.intercept = self._answer

    def _answer(self, method: str, path: str) -> Response | None:
        if method == "POST" and path.startswith(ROLLOUTS):
            return Response(204)
        if path != ROLLOUTS:
            return None
        found = self.left.pop(0) if len(self.left) > 1 else self.left[0]
        body = msgspec.json.encode(schema.Rollouts((found,) if found else ()))
        return Response(200, (("Content-Type", schema.JSON_TYPE),), body)


def told(result: Result) -> list[str]:
    return result.stdout.splitlines()


def test_each_member_that_is_proven_is_an_event(fleetctl: Fleetctl, cluster: ScriptedCluster) -> None:
    Script(
        cluster,
        rollout("pending", "waiting", "waiting"),
        rollout("running", "changing", "waiting"),
        rollout("running", "proven", "waiting"),
        rollout("running", "proven", "changing"),
        rollout("done", "proven", "proven"),
    )
    result = fleetctl("rollout", "restart", "w@1")
    assert (result.status, result.stderr) == (0, "")
    assert told(result) == [
        f"w@1.service on {AT_1} proven after 0 s",
        f"w@2.service on {AT_2} proven after 0 s",
        "w@.service: done",
    ]
    assert ("POST", f"{ROLLOUTS}/{GROUP}") in cluster.requests


def test_a_failure_and_its_revert_are_events(fleetctl: Fleetctl, cluster: ScriptedCluster) -> None:
    Script(
        cluster,
        rollout("running", "changing", "waiting"),
        rollout("running", "failed", "waiting"),
        rollout("reverting", "reverted changing", "kept"),
        rollout("reverted", "reverted proven", "kept", status="reverted to the former content because …"),
    )
    result = fleetctl("rollout", "resume", GROUP)
    assert result.status == 1
    assert told(result) == [
        f"w@1.service on {AT_1} failed after 0 s: exit-code 1",
        "    port 80 is in use",
        "w@.service: reverting (1 of 2 was updated)",
        f"w@1.service on {AT_1} has its former content again after 0 s",
    ]
    assert result.stderr == "w@.service: reverted to the former content because …\n"


def test_a_failure_is_told_though_it_is_reverted_already(fleetctl: Fleetctl, cluster: ScriptedCluster) -> None:
    failure = schema.RolloutFailure("w@1.service", M1.id, "it crashed")
    Script(
        cluster,
        rollout("running", "changing", "waiting"),
        rollout("reverting", "reverted changing", "kept", failure=failure),
        rollout("reverted", "reverted proven", "kept", failure=failure),
    )
    assert told(fleetctl("rollout", "resume", GROUP)) == [
        f"w@1.service on {AT_1} failed after 0 s: it crashed",
        "w@.service: reverting (1 of 2 was updated)",
        f"w@1.service on {AT_1} has its former content again after 0 s",
    ]
    Script(cluster, rollout("reverted", "reverted proven", "kept", failure=failure))
    assert told(fleetctl("rollout", "status", "--wait", GROUP)) == []


def test_what_was_left_alone_or_was_over_before_is_no_event(fleetctl: Fleetctl, cluster: ScriptedCluster) -> None:
    Script(cluster, rollout("running", "proven", "kept"), rollout("done", "proven", "proven"))
    assert told(fleetctl("rollout", "resume", GROUP)) == [f"w@1.service on {AT_1} proven", "w@.service: done"]
    Script(cluster, rollout("done", "proven", "proven"))
    assert told(fleetctl("rollout", "status", "--wait", GROUP)) == ["w@.service: done"]


def test_a_pause_ends_the_wait_unless_an_operator_has_ended_it(fleetctl: Fleetctl, cluster: ScriptedCluster) -> None:
    paused = rollout(paused="operator", status="paused by ann")
    Script(cluster, replace(paused, asked="resume"), rollout("done"))
    assert fleetctl("rollout", "resume", GROUP).status == 0
    Script(cluster, paused)
    result = fleetctl("rollout", "status", "--wait", GROUP)
    assert result.status == 1
    assert result.stderr == "w@.service: paused by ann. `fleetctl rollout resume w@.service` goes on\n"


def test_a_wait_is_told_once_when_it_lasts(fleetctl: Fleetctl, cluster: ScriptedCluster) -> None:
    waiting = rollout(status="waits until an operator continues: …", canaries=("w@1.service",))
    Script(cluster, *[waiting] * 30, rollout("done"))
    result = fleetctl("rollout", "continue", GROUP)
    assert told(result)[1:] == [
        "w@.service: waits until an operator continues: …. `fleetctl rollout continue w@.service` goes on",
        "w@.service: done",
    ]


def test_failures_that_are_put_up_with_are_named(fleetctl: Fleetctl, cluster: ScriptedCluster) -> None:
    Script(cluster, rollout("running", "failed", "changing"), rollout("done", "failed", "proven"))
    result = fleetctl("rollout", "status", "--wait", GROUP)
    assert result.status == 0
    assert "failed, as UpdateTolerate= or UpdateFailure= allow: w@1.service" in result.stderr


@pytest.mark.covers("B.5")
@pytest.mark.parametrize(
    ("last", "expected"),
    [
        (None, "w@.service: it has no rollout any more: its units were destroyed, or changed at once\n"),
        (replace(rollout(), id="r2", by="bob"), "w@.service: another request of bob has replaced this rollout\n"),
    ],
)
def test_a_rollout_that_is_gone_fails(
    fleetctl: Fleetctl, cluster: ScriptedCluster, last: schema.Rollout | None, expected: str
) -> None:
    Script(cluster, rollout(), last)
    result = fleetctl("rollout", "resume", GROUP)
    assert (result.status, result.stderr) == (1, expected)


def test_a_pause_is_waited_for(fleetctl: Fleetctl, cluster: ScriptedCluster) -> None:
    Script(cluster, rollout(asked="pause"), rollout(paused="operator", status="paused by ann"))
    result = fleetctl("rollout", "pause", GROUP)
    assert (result.status, told(result)) == (0, ["w@.service: paused by ann"])
    Script(cluster, rollout(asked="pause"))
    result = fleetctl("rollout", "pause", GROUP)
    assert (result.status, "no leader has paused it within 10 s" in result.stderr) == (1, True)
    Script(cluster, rollout("done"))
    result = fleetctl("rollout", "pause", GROUP)
    assert (result.status, result.stderr) == (1, "w@.service: it was over before it could be paused\n")


def test_an_interrupted_command_says_that_the_rollout_goes_on(fleetctl: Fleetctl, cluster: ScriptedCluster) -> None:
    Script(cluster, rollout("running", "changing", "waiting"))
    threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGINT)).start()
    result = fleetctl("rollout", "status", "--wait", GROUP)
    assert result.status == 130
    assert "The rollouts go on: `fleetctl rollout status --wait w@.service` follows them again" in result.stderr


def test_nothing_is_waited_for_when_told_so(fleetctl: Fleetctl, cluster: ScriptedCluster) -> None:
    Script(cluster, rollout())
    result = fleetctl("rollout", "restart", "--no-block", GROUP)
    assert (result.status, result.stdout, result.stderr) == (0, "", "")


def test_the_rollouts_of_groups_are_shown_with_their_members(fleetctl: Fleetctl, cluster: ScriptedCluster) -> None:
    Script(cluster, rollout(by="ann", note="faster", started=1_800_014_400.0))
    for names in ([GROUP], ["w@2"], ["w@*"], ["status", "w@2"]):
        shown = told(fleetctl("rollout", *names))
        assert shown[0] == ("w@.service: running (1 of 2 updated), by ann, begun 2027-01-15 12:00:00 UTC: faster")
        assert [line.split("\t") for line in shown[1:]] == [
            ["  w@1.service", AT_1, "proven"],
            ["  w@2.service", AT_2, "", "waiting"],
        ]
    Script(cluster, rollout("reverting", "reverted proven", "failed"))
    assert [line.split("\t")[-1] for line in told(fleetctl("rollout", GROUP))[1:]] == [
        "reverted, proven",
        "failed: exit-code 1 port 80 is in use",
    ]
    failure = schema.RolloutFailure("w@1.service", M1.id, "exit-code 1; last lines:\nno disk\nbye")
    Script(cluster, rollout("reverted", "reverted proven", "kept", status="reverted", failure=failure))
    assert told(fleetctl("rollout", GROUP))[1:3] == ["    no disk", "    bye"]


def test_rollouts_are_shown_as_json(fleetctl: Fleetctl, cluster: ScriptedCluster) -> None:
    Script(cluster, rollout())
    [shown] = json.loads(fleetctl("rollout", "--output=json").stdout)
    assert (shown["group"], shown["phase"], shown["failure"]) == (GROUP, "running", None)
    assert shown["members"][0] == {"unit": "w@1.service", "machine": M1.id, "address": "10.0.0.1", "progress": "proven"}


def test_a_group_without_a_rollout_is_named(fleetctl: Fleetctl, cluster: ScriptedCluster) -> None:
    cluster.add("plain.service")
    result = fleetctl("rollout", "plain", "no*")
    assert result.status == 1
    assert result.stderr.splitlines() == [
        "no* has no rollout: nothing of it was changed one unit after the other",
        "plain.service has no rollout: nothing of it was changed one unit after the other",
    ]
    assert fleetctl("rollout").stdout == ""


@pytest.mark.parametrize(
    ("arguments", "status", "expected"),
    [
        (["pause"], 2, "No group given: fleetctl rollout pause GROUP"),
        (["pause", "plain", "--wait"], 2, "--wait and --output are for rollout status, not for pause"),
        (["restart", "--output=json", "plain"], 2, "--wait and --output are for rollout status, not for restart"),
        (
            ["pause", "never@1"],
            1,
            "Error: cannot pause the rollout of never@.service: Error 404: unknown group never@.service: there is no "
            "unit of this name, and no instance of it",
        ),
        (
            ["resume", "plain"],
            1,
            "Error: cannot resume the rollout of plain.service: Error 409: plain.service has no rollout: nothing of it "
            "is being changed one after the other",
        ),
        (
            ["restart", "plain"],
            1,
            "Error: cannot restart the rollout of plain.service: Error 409: no unit of plain.service is launched, so "
            "there is nothing to restart: start it instead",
        ),
    ],
)
def test_what_has_no_meaning_is_refused(
    fleetctl: Fleetctl, cluster: ScriptedCluster, arguments: Sequence[str], status: int, expected: str
) -> None:
    cluster.add("plain.service")
    result = fleetctl("rollout", *arguments)
    assert (result.status, result.stderr) == (status, expected + "\n")


def test_many_groups_are_asked_for_in_few_requests(fleetctl: Fleetctl, cluster: ScriptedCluster) -> None:
    names = [f"unit-{number:04}.service" for number in range(500)]
    fleetctl("rollout", "status", *names)
    asked = [request for request in cluster.requests if request[1] == ROLLOUTS]
    assert len(asked) == 4


def test_versions_are_listed_and_returned_to(fleetctl: Fleetctl, cluster: ScriptedCluster) -> None:
    for text in ("/bin/one", "/bin/two"):
        cluster.apply("plain.service", f"[Service]\nExecStart={text}\n", note=text)
    shown = [line.split("\t") for line in told(fleetctl("rollout", "history", "plain"))]
    assert [[cell for cell in row if cell][:1] for row in shown] == [["plain.service@2"], ["plain.service@1"]]
    assert [row[-1] for row in shown] == ["waits for the leader", "-"]
    listed = json.loads(fleetctl("rollout", "history", "--output=json", "plain").stdout)
    assert [(each["version"], each["note"], each["outcome"]) for each in listed] == [
        (2, "/bin/two", "done"),
        (1, "/bin/one", ""),
    ]
    assert fleetctl("rollout", "undo", "--no-block", "--to=1", "plain").status == 0
    assert "/bin/one" in cluster.units["plain.service"].text
    result = fleetctl("rollout", "history", "never")
    assert (result.status, result.stderr) == (1, "never.service has no versions: only applies make them\n")
    result = fleetctl("rollout", "pause", "--to=1", "plain")
    assert (result.status, result.stderr) == (2, "--to is for rollout undo, not for pause\n")
