"""reboot: what is asked for, what is said while it is waited for, how it ends, how it is cancelled, and the queue."""

import json
import os
import signal
import threading
from collections.abc import Sequence

import msgspec
import pytest
from msgspec.structs import replace

from fleetctl.client import Client
from fleetctl.endpoint import parse_endpoint
from fleetctl.errors import CommandFailed
from fleetctl.reboots import follow_reboots
from fleetctl.unit_locations import Location
from fleetd.api import schema
from fleetd.api.http import Response, render_error
from fleetd.model.machine import Machine, MachineMode
from fleetd.model.reboot import Reboot, RebootFailure, RebootPhase, RebootRequest
from fleetd.registry.records import REBOOT_REQUESTS, REBOOTS
from tests.fleetctl.conftest import Fleetctl, Result
from tests.fleetctl.scripted_cluster import M1, M2, ScriptedCluster

REBOOT = f"{schema.V2}/machines/{M1.id}/reboot"
DRAIN = f"{schema.V2}/machines/{M1.id}/drain"
REBOOTS_PATH = f"{schema.V2}/reboots"
AT_1 = "11111111.../10.0.0.1"
NOW = 1_800_014_400.0
GIVEN_UP = RebootPhase.GAVE_UP


def report(phase: str, reason: str = "", **fields: object) -> schema.RebootReport:
    given = {"id": "q1", "ends": "b1", "boot": "b1", "since": NOW} | fields
    return schema.RebootReport(M1.id, phase, address=M1.address, reason=reason, **given)


QUEUED = report("queued", "waits for the leader", place=1)
DRAINING = report("draining", "is being drained")
ORDERED = report("ordered", "is told to reboot", kept=("log.service",))
AWAY = report("ordered", "is rebooting", kept=("log.service",), boot="")
UNTIL = "is back, and waits until log.service is active and proven"
BACK = report("returning", UNTIL, units=("log.service",), boot="b2")
DONE = report("idle", id="", ends="", boot="b2")


class Script:
    """Answers requests about reboots one after the other, the last one again and again, and those about the drain of
    the first machine with `drain`. None: the API does not answer."""

    def __init__(self, cluster: ScriptedCluster, *reports: schema.RebootReport | None) -> None:
        self.left: Sequence[schema.RebootReport | None] = list(reports)
        self.drain = schema.DrainReport(M1.id, M1.address, schema.Drain())
        cluster.intercept = self._answer

    def _answer(self, method: str, path: str) -> Response | None:
        if (method, path) == ("PUT", REBOOT):
            return self._render(QUEUED)
        if (method, path) == ("GET", DRAIN):
            return self._render(self.drain)
        if (method, path) != ("GET", REBOOTS_PATH):
            return None
        found, self.left = self.left[0], self.left[1:] or self.left
        return self._render(schema.RebootReports((found,))) if found else render_error(503, "no store")

    def _render(self, body: msgspec.Struct) -> Response:
        return Response(200, (("Content-Type", schema.JSON_TYPE),), msgspec.json.encode(body))


def told(result: Result) -> list[str]:
    return result.stdout.splitlines()


def requests(cluster: ScriptedCluster) -> dict[str, RebootRequest]:
    found = cluster.read(REBOOT_REQUESTS)
    return {key[0]: request for key, request in found.items()}


@pytest.fixture
def ready(cluster: ScriptedCluster) -> ScriptedCluster:
    """A cluster of two machines that say which boot is theirs."""
    cluster.register(replace(M1, boot_id="b1"), replace(M2, boot_id="b1"))
    return cluster


def test_a_machine_is_queued_with_its_options(fleetctl: Fleetctl, ready: ScriptedCluster) -> None:
    result = fleetctl("reboot", "1111", "--no-block", "--now", "--deadline=1h")
    assert (result.status, result.stdout, result.stderr) == (0, f"Machine {AT_1} is to be rebooted\n", "")
    [request] = requests(ready).values()
    assert (request.boot_id, request.drain_within_s, request.now) == ("b1", 3600.0, True)
    fleetctl("reboot", "11111111...", "--no-block")
    [request] = requests(ready).values()
    assert (request.drain_within_s, request.now) == (900.0, False)
    fleetctl("reboot", "1111", "--no-block", "--deadline=infinity")
    assert requests(ready)[M1.id].drain_within_s == 0


def test_each_step_of_a_reboot_is_an_event(fleetctl: Fleetctl, cluster: ScriptedCluster) -> None:
    Script(cluster, QUEUED, DRAINING, DRAINING, ORDERED, AWAY, BACK, DONE)
    result = fleetctl("reboot", "1111")
    assert (result.status, result.stderr) == (0, "")
    assert told(result) == [
        f"Machine {AT_1} is to be rebooted",
        f"{AT_1} is drained and reboots; log.service stays there and is down meanwhile",
        f"{AT_1} is back and serves",
    ]


def test_what_is_moved_away_before_and_what_is_waited_for_is_told(fleetctl: Fleetctl, cluster: ScriptedCluster) -> None:
    elsewhere = report("queued", "waits for the reboot of 22222222", place=1, waits_for=(M2.id,))
    script = Script(cluster, *[elsewhere] * 20, *[DRAINING] * 2, ORDERED, *[BACK] * 20, DONE)
    script.drain = schema.DrainReport(
        M1.id,
        units=(
            schema.DrainedUnit("db.service", "stays", reason="stays on the drained machine: it fits nowhere else"),
            schema.DrainedUnit("log.service", "global"),
            schema.DrainedUnit("web.service", "proven", M2.id),
        ),
    )
    assert told(fleetctl("reboot", "1111"))[1:] == [
        f"{AT_1} waits for the reboot of 22222222",
        "web.service → 22222222... proven",
        f"{AT_1} is drained and reboots; log.service stays there and is down meanwhile",
        f"{AT_1} {UNTIL}",
        f"{AT_1} is back and serves",
    ]


def test_what_left_is_told_of_after_the_order_and_what_stayed_is_not(
    fleetctl: Fleetctl, cluster: ScriptedCluster
) -> None:
    script = Script(cluster, DRAINING, *[ORDERED] * 20, DONE)
    units = (schema.DrainedUnit("log.service", "pending"), schema.DrainedUnit("web.service", "proven", M2.id))
    script.drain = schema.DrainReport(M1.id, units=units, hold="the machine is absent")
    assert told(fleetctl("reboot", "1111"))[1:] == [
        "web.service → 22222222... proven",
        f"{AT_1} is drained and reboots; log.service stays there and is down meanwhile",
        f"{AT_1} is told to reboot",
        f"{AT_1} is back and serves",
    ]


def test_units_that_leave_between_two_looks_are_told_of(fleetctl: Fleetctl, cluster: ScriptedCluster) -> None:
    script = Script(cluster, QUEUED, ORDERED, ORDERED, DONE)
    inner = cluster.intercept
    assert inner

    def leave(method: str, path: str) -> Response | None:
        state, where = ("proven", M2.id) if len(script.left) < 3 else ("pending", "")
        script.drain = schema.DrainReport(M1.id, units=(schema.DrainedUnit("web.service", state, where),))
        return inner(method, path)

    cluster.intercept = leave
    assert told(fleetctl("reboot", "1111"))[1] == "web.service → 22222222... proven"


def test_a_drain_that_waits_says_for_whom_and_is_not_told_of_twice(
    fleetctl: Fleetctl, cluster: ScriptedCluster
) -> None:
    script = Script(cluster, *[report("draining", "is being drained, and waits for web.service")] * 20, DONE)
    waits = schema.DrainedUnit("web.service", "waits", reason="waits: web@3.service is not proven yet")
    script.drain = schema.DrainReport(M1.id, drain=schema.Drain(), units=(waits,))
    assert told(fleetctl("reboot", "1111"))[1:] == [
        "web.service waits: web@3.service is not proven yet",
        f"{AT_1} is back and serves",
    ]


def test_a_machine_that_was_not_rebooted_or_does_not_serve_says_why_and_what_to_do(
    fleetctl: Fleetctl, cluster: ScriptedCluster
) -> None:
    reason, remedy = "was not rebooted: web.service still ran there at the deadline", "stop what is left there"
    Script(cluster, report("gave-up", reason, failure="deadline", remedy=remedy))
    result = fleetctl("reboot", "1111")
    assert (result.status, result.stderr) == (1, f"{AT_1} {reason}; {remedy}\n")


def test_somebody_else_may_cancel_it(fleetctl: Fleetctl, cluster: ScriptedCluster) -> None:
    Script(cluster, QUEUED, report("idle", id="", ends=""))
    result = fleetctl("reboot", "1111")
    said = f"{AT_1} is not rebooted any more: somebody has cancelled that\n"
    assert (result.status, result.stderr) == (1, said)


def test_a_reboot_that_is_under_way_is_followed_to_its_end(fleetctl: Fleetctl, cluster: ScriptedCluster) -> None:
    script = Script(cluster, BACK, DONE)
    inner = cluster.intercept
    assert inner
    cluster.intercept = lambda method, path: script._render(BACK) if method == "PUT" else inner(method, path)
    assert told(fleetctl("reboot", "1111"))[-1] == f"{AT_1} is back and serves"


def test_the_api_may_be_away_while_its_machine_reboots(fleetctl: Fleetctl, cluster: ScriptedCluster) -> None:
    Script(cluster, ORDERED, *[None] * 100, DONE)
    result = fleetctl("reboot", "1111")
    assert (result.status, told(result)[-1]) == (0, f"{AT_1} is back and serves")


def test_an_api_that_stays_away_is_an_error(cluster: ScriptedCluster, jumping_clock: None) -> None:
    Script(cluster, ORDERED, None)
    client = Client(parse_endpoint(cluster.unix), 10.0)
    with pytest.raises(CommandFailed, match="Error following reboots: Error 503: no store"):
        follow_reboots(client, {Location(M1.id, ""): QUEUED}, silence_s=5.0)


def test_an_interrupted_command_says_that_the_queue_goes_on(fleetctl: Fleetctl, cluster: ScriptedCluster) -> None:
    Script(cluster, QUEUED)
    threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGINT)).start()
    result = fleetctl("reboot", "1111")
    assert result.status == 130
    assert result.stderr == (
        "The reboots go on: the same command follows them again, and `fleetctl reboot --cancel 11111111` takes "
        "machines out of the queue that do not reboot yet\n"
    )


def test_all_machines_are_asked_for_and_a_refused_one_does_not_stop_the_others(
    fleetctl: Fleetctl, ready: ScriptedCluster
) -> None:
    parked = replace(M2, id="3" * 32, mode=MachineMode.PARKED)
    ready.register(replace(M1, boot_id="b1"), replace(M2, boot_id="b1"), parked)
    result = fleetctl("reboot", "--all", "--no-block")
    assert result.status == 1
    assert told(result) == [f"Machine {AT_1} is to be rebooted", "Machine 22222222... is to be rebooted"]
    assert result.stderr.startswith("Error rebooting machine 33333333...: Error 409: the machine is parked: start its ")
    assert set(requests(ready)) == {M1.id, M2.id}


def test_the_machine_of_the_command_itself_goes_last(fleetctl: Fleetctl, ready: ScriptedCluster) -> None:
    with open("/etc/machine-id", encoding="ascii") as file:
        own = replace(M1, id=file.read().strip())
    ready.register(own, replace(M2, id="f" * 32))
    assert [line[8:16] for line in told(fleetctl("reboot", "--all", "--no-block"))] == ["f" * 8, own.id[:8]]


def test_machines_that_need_it_are_asked_for(fleetctl: Fleetctl, ready: ScriptedCluster) -> None:
    result = fleetctl("reboot", "--needed")
    assert (result.status, result.stdout, result.stderr) == (0, "", "No machine needs to be rebooted\n")
    ready.register(M1, replace(M2, boot_id="b1", reboot_required="linux-image-6.1"))
    assert told(fleetctl("reboot", "--needed", "--no-block")) == ["Machine 22222222... is to be rebooted"]
    assert set(requests(ready)) == {M2.id}


def test_a_reboot_is_cancelled(fleetctl: Fleetctl, ready: ScriptedCluster) -> None:
    fleetctl("reboot", "--all", "--no-block")
    result = fleetctl("reboot", "--cancel", "1111")
    assert (result.status, result.stdout) == (0, f"Machine {AT_1} is not to be rebooted\n")
    assert set(requests(ready)) == {M2.id}
    assert told(fleetctl("reboot", "--cancel", "--all")) == ["Machine 22222222... is not to be rebooted"]
    assert requests(ready) == {}
    result = fleetctl("reboot", "--cancel", "--all")
    assert (result.status, result.stdout, result.stderr) == (0, "", "No machine is to be rebooted\n")
    ready.put(RebootRequest("q1", "b1"), M1.id)
    ready.put(Reboot("q1", "b1", RebootPhase.ORDERED), M1.id)
    result = fleetctl("reboot", "--cancel", "1111")
    assert result.status == 1
    assert result.stderr == (
        f"Error cancelling the reboot of machine {AT_1}: Error 409: the machine is rebooting already, which cannot be "
        "taken back\n"
    )


def test_a_machine_that_has_not_come_back_is_cancelled_by_its_short_id(
    fleetctl: Fleetctl, ready: ScriptedCluster
) -> None:
    absent = "3" * 32
    ready.put(RebootRequest("q1", "b1"), absent)
    ready.put(Reboot("q1", "b1", GIVEN_UP, RebootFailure.NOT_BACK), absent)
    result = fleetctl("reboot", "--cancel", "3333", "4444")
    assert (result.status, result.stdout) == (1, "Machine 33333333... is not to be rebooted\n")
    assert result.stderr == "4444 is not a machine of the cluster\n"
    assert requests(ready) == {}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("1111", "--all"), "Give either machines, or --all, or --needed"),
        (("--needed", "--all"), "Give either machines, or --all, or --needed"),
        (("--needed", "--cancel"), "--cancel takes machines, or --all"),
        (("--cancel",), "No machines given: name some, or give --all or --needed"),
        (("--now",), "No machines given: name some, or give --all or --needed"),
        (("--no-block",), "No machines given: name some, or give --all or --needed"),
    ],
)
def test_a_command_line_without_a_meaning_is_refused(
    fleetctl: Fleetctl, cluster: ScriptedCluster, arguments: Sequence[str], said: str
) -> None:
    result = fleetctl("reboot", *arguments)
    assert (result.status, result.stderr) == (2, f"{said}\n")
    assert cluster.changes == []


def test_a_time_span_has_to_be_one_and_a_machine_has_to_exist(fleetctl: Fleetctl, cluster: ScriptedCluster) -> None:
    assert "'soon' is no time span" in fleetctl("reboot", "--deadline=soon", "1111").stderr
    result = fleetctl("reboot", "9999", "--no-block")
    assert (result.status, result.stderr) == (1, "9999 is not a machine of the cluster\n")
    result = fleetctl("reboot", "9" * 32, "--no-block")
    assert result.stderr.startswith("Error rebooting machine 99999999...: Error 404: unknown machine: give the full id")
    assert requests(cluster) == {}


def test_json_is_one_document_of_where_each_machine_stands(fleetctl: Fleetctl, cluster: ScriptedCluster) -> None:
    Script(cluster, QUEUED, ORDERED, DONE)
    result = fleetctl("reboot", "1111", "--output=json")
    assert (result.status, result.stderr) == (0, "")
    [shown] = json.loads(result.stdout)
    assert (shown["machine"], shown["phase"], shown["boot"]) == (M1.id, "idle", "b2")
    [shown] = json.loads(fleetctl("reboot", "1111", "--output=json", "--no-block").stdout)
    assert (shown["phase"], shown["place"], shown["waitsFor"]) == ("queued", 1, [])


def test_without_machines_the_queue_is_listed(fleetctl: Fleetctl, ready: ScriptedCluster) -> None:
    assert fleetctl("reboot").stdout == "MACHINE\tIP\tPHASE\tSINCE\tREASON\n"
    assert fleetctl("reboot", "--output=json").stdout == "[\n]\n"
    fill(ready)
    table = told(fleetctl("reboot", "--no-legend", "--fields=machine,phase,place,by,reason"))
    assert [[cell for cell in line.split("\t") if cell] for line in table] == [
        ["11111111...", "draining", "-", "ann", "is being drained, and waits for web.service"],
        ["22222222...", "queued", "1", "bob", "waits for the reboot of 11111111"],
    ]
    assert "2027-01-15 12:00:00 UTC" in fleetctl("reboot").stdout
    first, second = json.loads(fleetctl("reboot", "--output=json").stdout)
    assert (first["machine"], first["units"], first["waitsFor"]) == (M1.id, ["web.service"], [])
    assert (second["machine"], second["place"], second["waitsFor"]) == (M2.id, 1, [M1.id])


def fill(cluster: ScriptedCluster) -> None:
    """The first machine is being drained, the second one is queued."""
    cluster.put(RebootRequest("q1", "b1", "ann", NOW), M1.id)
    cluster.put(RebootRequest("q2", "b1", "bob", NOW + 1), M2.id)
    cluster.put(Reboot("q1", "b1", by="ann", began=NOW, changed=NOW, waits=("web.service",)), M1.id)


def test_the_list_of_machines_says_which_are_rebooted_and_which_want_to_be(
    fleetctl: Fleetctl, ready: ScriptedCluster
) -> None:
    plain = fleetctl("list-machines").stdout
    fill(ready)
    third = Machine("3" * 32, boot_id="b1", reboot_required="linux-image-6.1", capabilities=M1.capabilities)
    ready.register(replace(M1, boot_id="b1"), replace(M2, boot_id="b1"), third)
    result = fleetctl("list-machines")
    assert result.stdout.startswith(plain)
    assert result.stderr.splitlines() == [
        f"machine {AT_1} is being drained, and waits for web.service (its reboot was asked for by ann)",
        "machine 22222222... waits for the reboot of 11111111 (its reboot was asked for by bob)",
        "machine 33333333... wants to be rebooted (linux-image-6.1): fleetctl reboot 33333333",
    ]
    table = fleetctl("list-machines", "--no-legend", "--fields=reboot").stdout
    assert table.split() == ["draining", "queued", "required"]
    shown = json.loads(fleetctl("list-machines", "--output=json").stdout)
    assert [(machine["reboot"], machine["reboot_required"]) for machine in shown] == [
        ("draining", None),
        ("queued", None),
        (None, "linux-image-6.1"),
    ]
    ready.put(Reboot("q1", "b1", GIVEN_UP, RebootFailure.NOT_BACK), M1.id)
    assert fleetctl("list-machines", "1111").stderr == (
        f"machine {AT_1} has not come back within ten minutes; look at its console; the queue goes on once the machine "
        "serves, or after `fleetctl reboot --cancel 11111111`\n"
    )
    assert cluster_reboots(ready) == {M1.id}


def cluster_reboots(cluster: ScriptedCluster) -> set[str]:
    return {key[0] for key in cluster.read(REBOOTS)}
