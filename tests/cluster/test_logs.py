"""Logs and states of units on other machines, which their fleetd reads: these machines have no SSH server."""

import json
from collections.abc import Callable
from pathlib import Path

import msgspec

from contrib.testbed import Cluster
from contrib.testbed.machine import Machine
from fleetd.model.machine_request import JournalQuery
from fleetd.systemd.inspector import Entries, Inspector
from tests.cluster.operator import Operator
from tests.scripted_inspector import ScriptedInspector

TALKER = "[Service]\nExecStart=/bin/sh -c 'for n in 1 2 3; do echo line $n of %n; done; exec sleep infinity'\n"
EVERYWHERE = TALKER + "[X-Fleet]\nGlobal=true\n"


def said(unit: str, *numbers: int) -> list[str]:
    return [f"line {number} of {unit}" for number in numbers]


def test_logs_and_states_are_read_on_the_machine_of_the_unit(operator: Operator) -> None:
    cluster = operator.cluster
    operator.start({"talker.service": TALKER})
    machine = operator.machine_of("talker.service")
    other = operator.other_machine(machine)
    cluster.wait_until("all is in the journal", lambda: "line 3 of" in machine.journal("talker.service"))
    for asked in (machine, other):
        shown = cluster.fleetctl("journal", "--output=cat", "talker", on=asked)
        assert shown.stderr == ""
        assert [line for line in shown.stdout.splitlines() if line.startswith("line ")] == said(
            "talker.service", 1, 2, 3
        )
    last = cluster.fleetctl("journal", "--output=cat", "-n", "2", "talker", on=other)
    assert len(last.stdout.splitlines()) == 2  # one may be that systemd has started it
    assert "line 3 of talker.service" in last.stdout
    found = cluster.fleetctl("journal", "--output=json", "talker", on=other).stdout.splitlines()
    said_by = {entry["MESSAGE"]: entry["machine"] for entry in map(json.loads, found)}
    assert said_by["line 3 of talker.service"] == machine.id
    status = cluster.fleetctl("status", "talker", on=other)
    assert status.stderr == ""
    assert "Active: active (running) since " in status.stdout
    assert f"Main PID: {machine.main_pid('talker.service')}\n" in status.stdout
    assert "line 3 of talker.service" in status.stdout
    cluster.fleetctl("stop", "talker", on=other)
    assert cluster.fleetctl("status", "talker", on=other, check=False).returncode == 3
    assert not cluster.etcd.etcdctl("get", "--keys-only", "--prefix", "/fleet-requests/").strip()
    assert not cluster.etcd.etcdctl("get", "--keys-only", "--prefix", "/fleet-answers/").strip()


def test_a_machine_that_is_cut_off_is_named_and_the_others_are_shown(
    new_cluster: Callable[..., Cluster], tmp_path: Path
) -> None:
    cluster = new_cluster(machines=3, config={"agent_ttl": "5min"})  # so that the one that is cut off is still listed
    operator = Operator(cluster, tmp_path)
    operator.start({"every.service": EVERYWHERE})
    cluster.wait_until("it runs on all", lambda: len(operator.placed().get("every.service", ())) == 3)
    asked, _, cut = cluster.machines
    cluster.wait_until(
        "all is in the journals",
        lambda: all("line 3 of" in machine.journal("every.service") for machine in cluster.machines),
    )
    cut.cut_network()
    shown = cluster.fleetctl("journal", "--output=cat", "-n", "10", "every", on=asked, check=False)
    heads = {line.partition("...")[0] for line in shown.stdout.splitlines() if "line 3" in line}
    assert heads == {machine.id[:8] for machine in cluster.machines if machine is not cut}
    assert f"Using SSH for machine {cut.id[:8]}" in shown.stderr
    assert "it gave no answer within 5 s" in shown.stderr
    assert shown.returncode == 255


async def test_the_inspector_of_tests_answers_as_the_real_one(operator: Operator, tmp_path: Path) -> None:
    operator.start({"talker.service": TALKER})
    machine = operator.machine_of("talker.service")
    operator.cluster.wait_until("all is in the journal", lambda: "line 3 of" in machine.journal("talker.service"))
    real = Inspector(
        user=False,
        journalctl=entering(machine, "journalctl", tmp_path),
        systemctl=entering(machine, "systemctl", tmp_path),
    )
    units = ("talker.service", "none.service")
    everything = await real.read_journal(JournalQuery(units, 100))
    scripted = ScriptedInspector(*everything.lines)
    cursor = json.loads(everything.lines[0])["__CURSOR"]
    for query in (
        JournalQuery(units, 0),
        JournalQuery(units, 2),
        JournalQuery(units, 100),
        JournalQuery(units, 100, after=cursor),
        JournalQuery(units, 1, after=cursor),
        JournalQuery(("none.service",)),
    ):
        assert messages(await scripted.read_journal(query)) == messages(await real.read_journal(query)), query
    for found in (await real.show_units(units), await scripted.show_units(units)):
        assert [each.unit for each in found] == list(units)
        assert found[0].properties["Id"] == "talker.service"
        assert found[0].properties["ActiveState"] == "active"


def messages(entries: Entries) -> tuple[list[str], bool]:
    return [msgspec.json.decode(line)["MESSAGE"] for line in entries.lines], entries.is_cut


def entering(machine: Machine, program: str, folder: Path) -> str:
    """A program that runs this one on the machine."""
    path = folder / program
    path.write_text(f'#!/bin/sh\nexec nsenter --target={machine.pid1} --all {program} "$@"\n')
    path.chmod(0o755)
    return str(path)
