"""journal and status without SSH: what machines answer through the cluster, as fleetctl shows it."""

import asyncio
import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
from msgspec.structs import replace

from fleetctl.logs import render_entry
from fleetctl.unit_status import exit_status, render_status
from fleetd.agent.answers import Answers
from fleetd.api.schema import UnitStatus
from fleetd.model.event import ClusterEvent, EventKind
from fleetd.model.machine import Capability
from fleetd.registry.events import EventLog
from tests.fleetctl.background import BackgroundLoop
from tests.fleetctl.conftest import Fleetctl, Result
from tests.fleetctl.scripted_cluster import M1, M2, ScriptedCluster, ScriptedOutcome
from tests.scripted_inspector import ScriptedInspector

WEB, DB = "web.service", "db.service"


def _entry(second: int, unit: str, text: str) -> bytes:
    fields = {"_HOSTNAME": "host", "SYSLOG_IDENTIFIER": "prog", "_PID": "7", "_SYSTEMD_UNIT": unit, "MESSAGE": text}
    return json.dumps({"__REALTIME_TIMESTAMP": str(second * 10**6), **fields}).encode()


@pytest.fixture
def inspectors(
    cluster: ScriptedCluster, background: BackgroundLoop, monkeypatch: pytest.MonkeyPatch
) -> Iterator[dict[str, ScriptedInspector]]:
    """M1 and M2 answer; web is on M1, db on M2."""
    monkeypatch.setenv("TZ", "UTC")
    able = [replace(each, capabilities={**each.capabilities, Capability.ANSWERS: True}) for each in (M1, M2)]
    cluster.register(*able)
    for name, machine in ((WEB, M1), (DB, M2)):
        cluster.outcomes[name] = ScriptedOutcome(machine=machine)
        cluster.add(name, target="launched")
    scripted = {
        M1.id: ScriptedInspector(_entry(1, WEB, "a"), _entry(3, WEB, "b\nc")),
        M2.id: ScriptedInspector(_entry(2, DB, "d")),
    }

    async def start() -> list[asyncio.Task[None]]:
        answers = [Answers(id_, cluster.registry, each, lambda name: "") for id_, each in scripted.items()]
        return [asyncio.create_task(each.run()) for each in answers]

    async def stop() -> None:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)

    tasks = background.do(start())
    yield scripted
    background.do(stop())


def test_the_log_of_a_unit_elsewhere_is_shown(fleetctl: Fleetctl, inspectors: dict[str, ScriptedInspector]) -> None:
    assert fleetctl("journal", "--output=cat", "web") == Result(0, "a\nb\nc\n", "")
    assert fleetctl("journal", "-n", "1", "--output=cat", "web").stdout == "b\nc\n"
    [entry] = fleetctl("journal", "--output=json", "db").stdout.splitlines()
    assert (json.loads(entry)["MESSAGE"], json.loads(entry)["machine"]) == ("d", M2.id)


def test_logs_of_several_machines_are_headed_and_in_order(
    fleetctl: Fleetctl, inspectors: dict[str, ScriptedInspector]
) -> None:
    one, two = "11111111.../10.0.0.1: ", "22222222...: "
    assert fleetctl("journal", "--output=cat", "*").stdout == f"{one}a\n{two}d\n{one}b\n{one}c\n"


def test_a_machine_is_picked(fleetctl: Fleetctl, inspectors: dict[str, ScriptedInspector]) -> None:
    assert fleetctl("journal", "--output=cat", "--machine=1", "web").stdout == "a\nb\nc\n"
    assert inspectors[M2.id].asked == []


def test_the_time_and_the_number_reach_the_machine(
    fleetctl: Fleetctl, inspectors: dict[str, ScriptedInspector]
) -> None:
    fleetctl("journal", "-n", "3", "--since=1h", "web")
    [query] = inspectors[M1.id].asked
    assert query.lines == 3
    assert query.since_s > 1e9
    refused = fleetctl("journal", "--since=yesterday", "web")
    assert (refused.status, "is no time span" in refused.stderr) == (1, True)


@pytest.mark.parametrize("options", [["--ssh-port=22"], ["--sudo"], ["-n", "10001"], ["--output=verbose"]])
def test_what_fleetd_does_not_show_is_read_over_ssh(
    fleetctl: Fleetctl, inspectors: dict[str, ScriptedInspector], options: list[str]
) -> None:
    result = fleetctl("journal", *options, "db")
    assert (result.status, "has no address" in result.stderr) == (255, True)
    assert inspectors[M2.id].asked == []


def test_logs_are_not_followed_through_a_fleetd_without_peer_listen(
    fleetctl: Fleetctl, inspectors: dict[str, ScriptedInspector]
) -> None:
    result = fleetctl("journal", "--follow", "db")
    assert "Using SSH for 22222222...: fleetd does not show logs: Error 409: logs cannot be followed" in result.stderr
    assert (result.status, "has no address" in result.stderr) == (255, True)


def test_the_pattern_reaches_the_machine(fleetctl: Fleetctl, inspectors: dict[str, ScriptedInspector]) -> None:
    assert fleetctl("journal", "-g", "a|b c", "web").status == 0
    [query] = inspectors[M1.id].asked
    assert query.grep == "a|b c"
    refused = fleetctl("journal", "-g", "x" * 2000, "web")
    assert "a pattern has at most 1024 characters" in refused.stderr


def test_where_a_unit_was_before_is_shown_too(
    fleetctl: Fleetctl,
    cluster: ScriptedCluster,
    background: BackgroundLoop,
    inspectors: dict[str, ScriptedInspector],
) -> None:
    inspectors[M2.id].entries = (_entry(2, WEB, "before"),)
    for former in (M2.id, "9" * 32):
        unit = WEB if former == M2.id else DB
        log = EventLog(cluster.registry, time.time, lambda former=former: former)  # type: ignore[misc]
        written = log.write_set((ClusterEvent(EventKind.MOVED, unit, machine=M1.id, former=former),))
        background.do(cluster.registry.store.transact([], list(written.operations)))
    one, two = "11111111.../10.0.0.1: ", "22222222...: "
    assert fleetctl("journal", "--previous", "--output=cat", "web").stdout == f"{one}a\n{two}before\n{one}b\n{one}c\n"
    gone = fleetctl("journal", "--previous", "--output=cat", "db")
    assert gone.stderr == f"Machine {'9' * 32}: it is not in the cluster now\n"
    for options in (["-f"], ["--machine=1"], ["--sudo"], ["--output=verbose"]):
        refused = fleetctl("journal", "--previous", *options, "web")
        assert (refused.status, "--previous takes --output=short" in refused.stderr) == (1, True)


def test_what_a_machine_cannot_tell_is_read_over_ssh(
    fleetctl: Fleetctl, inspectors: dict[str, ScriptedInspector]
) -> None:
    inspectors[M2.id].failure = "journalctl fails: no journal"
    result = fleetctl("journal", "db")
    assert result.stderr.startswith("Using SSH for machine 22222222...: journalctl fails: no journal\n")
    assert (result.status, "has no address" in result.stderr) == (255, True)


def test_a_wrong_pattern_is_an_error_and_is_not_tried_over_ssh(
    fleetctl: Fleetctl, inspectors: dict[str, ScriptedInspector]
) -> None:
    inspectors[M2.id].failure = 'journalctl fails: Bad pattern "(": missing closing parenthesis'
    result = fleetctl("journal", "--grep=(", "db")
    assert (result.status, result.stdout, result.stderr) == (1, "", f"{inspectors[M2.id].failure}\n")


def test_the_status_of_a_unit_elsewhere_is_shown(fleetctl: Fleetctl, inspectors: dict[str, ScriptedInspector]) -> None:
    shown = fleetctl("status", "web")
    assert (shown.status, shown.stderr) == (0, "")
    first, *others = shown.stdout.splitlines()
    assert first == "● web.service"
    assert "     Active: active" in others
    assert [line.split("prog[7]: ")[-1].strip() for line in others[-3:]] == ["a", "b", "c"]


def test_the_status_that_a_machine_cannot_tell_is_read_over_ssh(
    fleetctl: Fleetctl, inspectors: dict[str, ScriptedInspector]
) -> None:
    inspectors[M2.id].failure = "systemctl fails: no bus"
    result = fleetctl("status", "db")
    assert result.stderr.startswith("Using SSH for machine 22222222...: systemctl fails: no bus\n")
    assert (result.status, "has no address" in result.stderr) == (255, True)


@pytest.mark.parametrize(
    ("properties", "status", "shown"),
    [
        (
            {
                "ActiveState": "active",
                "SubState": "running",
                "LoadState": "loaded",
                "FragmentPath": "/run/fleet/units/a.service",
                "Description": "An A",
                "ActiveEnterTimestamp": "Fri 2026-11-27 17:40:05 UTC",
                "MainPID": "77",
                "NRestarts": "2",
                "TasksCurrent": "3",
                "MemoryCurrent": "1572864",
                "MemoryPeak": "18446744073709551615",
                "CPUUsageNSec": "1500000000",
                "StatusText": "ready",
            },
            0,
            [
                "● a.service - An A",
                "     Loaded: loaded (/run/fleet/units/a.service)",
                "     Active: active (running) since Fri 2026-11-27 17:40:05 UTC",
                "   Main PID: 77",
                '     Status: "ready"',
                "   Restarts: 2",
                "      Tasks: 3",
                "     Memory: 1.5M",
                "        CPU: 1.500s",
            ],
        ),
        (
            {"ActiveState": "failed", "LoadState": "loaded", "Result": "exit-code", "ExecMainStatus": "7"},
            3,
            [
                "\N{MULTIPLICATION SIGN} a.service",
                "     Loaded: loaded",
                "     Active: failed (Result: exit-code; exit status 7)",
            ],
        ),
        (
            {"LoadState": "not-found", "ActiveState": "inactive", "SubState": "dead", "MainPID": "0"},
            4,
            ["○ a.service", "     Loaded: not-found", "     Active: inactive (dead)"],
        ),
    ],
)
def test_a_status_looks_like_that_of_systemctl(properties: dict[str, str], status: int, shown: list[str]) -> None:
    assert exit_status(properties) == status
    assert list(render_status(UnitStatus("a.service", "m1", properties=properties))) == shown


def test_a_status_has_no_lines_that_a_machine_made_up() -> None:
    properties = {"Description": "a\n● b.service", "StatusText": "c\nm2/10.0.0.2:", "ControlGroup": "/a\x1b[8m"}
    assert list(render_status(UnitStatus("a.service", "m1", properties=properties))) == [
        r"● a.service - a\n● b.service",
        "     Loaded: unknown",
        "     Active: unknown",
        r'''     Status: "c\nm2/10.0.0.2:"''',
        r"     CGroup: /a\x1b[8m",
    ]


@pytest.mark.parametrize(
    ("entry", "form", "lines"),
    [
        ({"MESSAGE": "m", "_HOSTNAME": "h", "_COMM": "c"}, "short", ["- h c: m"]),
        ({"MESSAGE": "m\nn", "_HOSTNAME": "h", "SYSLOG_IDENTIFIER": "i", "SYSLOG_PID": "5"}, "short", None),
        ({"MESSAGE": [104, 105]}, "cat", ["hi"]),
        ({"MESSAGE": None}, "cat", [""]),
        ({}, "short", ["- - unknown: "]),
        ({"SYSLOG_IDENTIFIER": "i\nm2: j", "_HOSTNAME": "h\n", "SYSLOG_PID": "\n"}, "short", [r"- h\n i\nm2: j[\n]: "]),
        ({"__REALTIME_TIMESTAMP": "9" * 40}, "short-iso", ["- - unknown: "]),
    ],
)
def test_an_entry_is_shown(entry: dict[str, Any], form: str, lines: list[str] | None) -> None:
    assert list(render_entry(entry, form)) == (lines or ["- h i[5]: m", "          n"])
