"""drain: what is asked for, what is said while it is waited for, how it ends, and what is shown of it."""

import json
import os
import signal
import threading
import time
from collections.abc import Sequence

import msgspec
import pytest

from fleetctl.drains import is_over
from fleetd.api import schema
from fleetd.api.http import Response
from fleetd.model.machine import Cordon, DrainRequest, Machine, MachineMode, MachineSettings
from tests.fleetctl.conftest import Fleetctl, Result
from tests.fleetctl.scripted_cluster import M1, M2, ScriptedCluster

DRAIN = f"{schema.V2}/machines/{M1.id}/drain"
AT_1 = "11111111.../10.0.0.1"
NOW = 1_800_014_400.0


def unit(name: str, state: str, machine: Machine | None = None, reason: str = "") -> schema.DrainedUnit:
    where = (machine.id, machine.address) if machine else ("", "")
    return schema.DrainedUnit(f"{name}.service", state, *where, reason)


def report(*units: schema.DrainedUnit, drained: bool = False, **fields: object) -> schema.DrainReport:
    values = {"drain": schema.Drain("ann", NOW)} | fields
    return schema.DrainReport(M1.id, M1.address, drained=drained, units=units, **values)


class Script:
    """Answers requests for the drain of the first machine one after the other, the last one again and again."""

    def __init__(self, cluster: ScriptedCluster, *reports: schema.DrainReport) -> None:
        self.left: Sequence[schema.DrainReport] = list(reports)
        cluster.intercept = self._answer

    def _answer(self, method: str, path: str) -> Response | None:
        if path != DRAIN or method != "GET":
            return None
        found, self.left = self.left[0], self.left[1:] or self.left
        return Response(200, (("Content-Type", schema.JSON_TYPE),), msgspec.json.encode(found))


def told(result: Result) -> list[str]:
    return result.stdout.splitlines()


DRAINED = report(drained=True)


def test_an_empty_machine_is_cordoned_and_drained(fleetctl: Fleetctl, cluster: ScriptedCluster) -> None:
    result = fleetctl("drain", "1111", "--why", "kernel", "--deadline=15min", "--globals", "--force")
    assert (result.status, result.stderr) == (0, "")
    assert told(result) == [f"Draining machine {AT_1}", "11111111 is drained"]
    settings = cluster.settings[M1.id]
    assert settings.cordon is not None
    assert settings.cordon.why == "kernel"
    drain = settings.drain
    assert drain is not None
    assert (drain.with_globals, drain.force) == (True, True)
    assert drain.deadline == pytest.approx(drain.at + 900)
    fleetctl("uncordon", "1111")
    assert cluster.settings == {}


def test_each_unit_that_is_proven_elsewhere_is_an_event(fleetctl: Fleetctl, cluster: ScriptedCluster) -> None:
    Script(
        cluster,
        report(unit("web@1", "pending"), unit("web@2", "pending")),
        report(unit("web@1", "moving", M2, "waits"), unit("web@2", "waits", reason="waits: web@1.service moves")),
        report(unit("web@2", "waits", reason="waits: web@1.service moves")),
        report(unit("web@1", "starting", M2), unit("web@2", "waits", reason="waits: web@1.service moves")),
        report(unit("web@1", "proven", M2), unit("web@2", "moving", M2)),
        DRAINED,
        report(unit("web@2", "starting", M2), drained=True),
        report(unit("web@2", "proven", M2), drained=True),
    )
    result = fleetctl("drain", "1111")
    assert (result.status, result.stderr) == (0, "")
    assert told(result) == [
        f"Draining machine {AT_1}",
        "web@1.service → 22222222... proven",
        "web@2.service → 22222222... proven",
        "11111111 is drained",
    ]
    asked = [path for method, path in cluster.requests if path == DRAIN and method == "GET"]
    assert len(asked) == 8


def test_what_starts_elsewhere_first_is_an_event(fleetctl: Fleetctl, cluster: ScriptedCluster) -> None:
    Script(
        cluster,
        report(unit("web@1", "pending")),
        report(unit("web@1", "starting-first", M2)),
        report(unit("web@1", "stopping")),
        report(unit("web@1", "proven", M2), drained=True),
    )
    result = fleetctl("drain", "1111")
    assert (result.status, result.stderr) == (0, "")
    assert told(result)[1:] == [
        "web@1.service starts on 22222222... first",
        "web@1.service → 22222222... proven",
        "11111111 is drained",
    ]


def test_what_waits_for_long_says_for_whom_once(fleetctl: Fleetctl, cluster: ScriptedCluster) -> None:
    waits = report(unit("web@2", "waits", reason="waits: web@3.service is not proven yet on 2 (MaxUnavailable=1)"))
    Script(cluster, report(unit("web@2", "pending")), *[waits] * 20, DRAINED)
    result = fleetctl("drain", "1111")
    assert told(result)[1:-1] == [
        "web@2.service waits: web@3.service is not proven yet on 2 (MaxUnavailable=1)",
    ]


def test_what_stays_says_why_and_the_exit_status_is_one(fleetctl: Fleetctl, cluster: ScriptedCluster) -> None:
    stays = "stays on the drained machine: it fits nowhere else: metadata disk=ssd missing (4)"
    finishing = unit("backup", "finishing", reason="may finish on the drained machine, until 12:20")
    Script(
        cluster,
        report(unit("db", "stays", reason=stays), unit("log", "global"), finishing),
        report(unit("db", "stays", reason=stays), unit("log", "global"), unit("backup", "stopping")),
        report(unit("db", "stays", reason=stays), unit("log", "global")),
        report(unit("db", "stays", reason=stays), unit("log", "global"), unit("backup", "moved", reason="completed")),
    )
    result = fleetctl("drain", "1111")
    assert (result.status, result.stderr) == (1, "11111111 is drained but for db.service\n")
    assert told(result)[1:] == [
        f"db.service {stays}",
        f"log.service stays on {AT_1} (global)",
        "backup.service may finish on the drained machine, until 12:20",
        "backup.service completed",
    ]


def test_what_fails_elsewhere_and_what_force_stops_are_told(fleetctl: Fleetctl, cluster: ScriptedCluster) -> None:
    Script(
        cluster,
        report(unit("web", "moving", M2), unit("db", "stopping"), unit("gone", "stopping")),
        DRAINED,
        report(unit("web", "failed", M2, "exit-code"), unit("db", "unplaced", reason="no machine fits"), drained=True),
    )
    result = fleetctl("drain", "1111", "--force")
    assert result.status == 0
    assert told(result)[1:] == [
        "web.service → 22222222... failed: exit-code",
        "db.service is stopped: no machine fits",
        "11111111 is drained",
    ]


def test_somebody_else_may_end_the_drain(fleetctl: Fleetctl, cluster: ScriptedCluster) -> None:
    Script(cluster, report(unit("web", "pending")), report(unit("web", "pending"), drain=None))
    result = fleetctl("drain", "1111")
    assert (result.status, result.stderr) == (1, "11111111 is not drained any more: somebody has ended that\n")


def test_a_machine_that_is_absent_is_waited_for_until_the_deadline(
    fleetctl: Fleetctl, cluster: ScriptedCluster
) -> None:
    hold = "the machine is absent: the drain goes on when it is back"
    late = schema.Drain("ann", NOW, deadline=1.0)
    Script(cluster, *[report(hold=hold)] * 20, report(hold=hold, drain=late))
    result = fleetctl("drain", "1111")
    assert (result.status, result.stderr) == (1, f"11111111 is not drained: {hold}\n")
    assert told(result)[1:] == [f"{AT_1}: {hold}"]


def test_a_drain_with_a_deadline_ahead_is_not_over_while_its_machine_is_absent() -> None:
    assert not is_over(report(hold="absent", drain=schema.Drain(deadline=time.time() + 60)))


def test_without_a_wait_the_machine_is_only_told_to_drain(fleetctl: Fleetctl, cluster: ScriptedCluster) -> None:
    Script(cluster, report(unit("web", "pending")))
    result = fleetctl("drain", "--no-block", "1111")
    assert (result.status, result.stdout) == (0, f"Draining machine {AT_1}\n")


def test_json_is_one_document_of_where_every_unit_is(fleetctl: Fleetctl, cluster: ScriptedCluster) -> None:
    Script(cluster, report(unit("web", "moving", M2)), report(unit("web", "proven", M2), drained=True))
    result = fleetctl("drain", "--output=json", "1111")
    assert (result.status, result.stderr) == (0, "")
    [shown] = json.loads(result.stdout)
    assert (shown["machine"], shown["drained"], shown["hold"]) == (M1.id, True, "")
    assert shown["drain"] == {"by": "ann", "at": NOW}
    assert shown["units"] == [{"unit": "web.service", "state": "proven", "machine": M2.id}]


def test_several_machines_are_followed_together_and_a_refused_one_does_not_stop_the_others(
    fleetctl: Fleetctl, cluster: ScriptedCluster
) -> None:
    parked = msgspec.structs.replace(M2, id="3" * 32, mode=MachineMode.PARKED)
    cluster.register(M1, M2, parked)
    result = fleetctl("drain", "1111", "3333", "2222")
    assert result.status == 1
    assert told(result)[2:] == ["11111111 is drained", "22222222 is drained"]
    assert result.stderr.startswith("Error draining machine 33333333...: Error 409: the machine is parked: start its ")


def test_a_time_span_has_to_be_one(fleetctl: Fleetctl, cluster: ScriptedCluster) -> None:
    result = fleetctl("drain", "--deadline=soon", "1111")
    assert result.status == 2
    assert "'soon' is no time span" in result.stderr
    assert cluster.settings == {}


def test_an_interrupted_command_says_that_the_drain_goes_on(fleetctl: Fleetctl, cluster: ScriptedCluster) -> None:
    Script(cluster, report(unit("web", "waits", reason="waits: …")))
    threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGINT)).start()
    result = fleetctl("drain", "1111")
    assert result.status == 130
    assert "The drain goes on: the same command follows it again, and `fleetctl uncordon 11111111` ends it\n" in (
        result.stderr
    )
    assert cluster.settings[M1.id].drain is not None


def test_lists_say_that_a_machine_is_drained_and_what_is_left(fleetctl: Fleetctl, cluster: ScriptedCluster) -> None:
    settings = MachineSettings(cordon=Cordon("kernel", "eve", NOW), drain=DrainRequest("ann", NOW))
    cluster.set_settings(M1, settings)
    until = "(by ann since 2027-01-15 12:00:00 UTC: kernel), until `fleetctl uncordon 11111111`\n"
    assert fleetctl("list-machines").stderr == f"machine {AT_1} is drained {until}"
    Script(cluster, report(unit("db", "stays"), unit("log", "global")))
    assert fleetctl("list-machines").stderr == f"machine {AT_1} is drained but for db.service {until}"
    Script(cluster, report(unit("db", "stays"), unit("web", "waits")))
    said = fleetctl("list-machines").stderr
    assert said == f"machine {AT_1} is being drained, with db.service, web.service left {until}"
    table = fleetctl("list-machines", "--fields=machine,drain", "--no-legend").stdout
    assert [line.split()[1] for line in table.splitlines()] == ["yes", "-"]
    shown = json.loads(fleetctl("list-machines", "--output=json").stdout)[0]["drain"]
    assert shown == {"by": "ann", "at": NOW, "deadline": 0.0, "withGlobals": False, "force": False}
