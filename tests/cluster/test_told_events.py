"""The durable events of a cluster of real machines: all that was done is told, once and in order, through changes of
leader."""

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from contrib.testbed import Cluster
from contrib.testbed.machine import Machine
from tests.cluster.operator import SLEEPER, Operator, with_fleet

PREFIX = "/fleet.archive/events/"
UNIT = "told.service"
GROUP = "group@.service"
MEMBERS = ("group@1.service", "group@2.service")
ROLLING = with_fleet("MaxUnavailable=1", "UpdateSettleSec=1s", "UpdateDeadlineSec=60s")
TTL_S = 10  # long enough for a leader on a busy machine to keep its lease
TOLD_S = 90.0

Told = dict[str, Any]


class Reader:
    """Reads the events of a cluster in the order in which they happened."""

    def __init__(self, operator: Operator) -> None:
        self._operator = operator

    def all(self) -> list[Told]:
        """Each event, with the revision of its transaction."""
        answer = self._operator.cluster.etcd.etcdctl("get", "--prefix", PREFIX, "--write-out=json")
        records = sorted(json.loads(answer).get("kvs", []), key=lambda each: each["mod_revision"])
        assert all(each["mod_revision"] == each["create_revision"] for each in records), "no record is written again"
        return [
            {**event, "revision": record["mod_revision"]}
            for record in records
            for event in msgspec.json.decode(base64.b64decode(record["value"]))["events"]
        ]

    def after(self, revision: int) -> list[Told]:
        """Those of later transactions."""
        return [event for event in self.all() if event["revision"] > revision]

    def wait_for(self, after: int, *wanted: Told) -> int:
        """Wait until events with these fields are there, in this order, after this revision. Return the revision of
        the last one."""
        found: list[Told] = []

        def are_there() -> bool:
            found[:] = _in_order(self.after(after), wanted)
            return len(found) == len(wanted)

        try:
            self._operator.cluster.wait_until("the events are there", are_there, TOLD_S)
        except TimeoutError as error:
            told = "\n".join(map(str, self.after(after)))
            raise AssertionError(f"{wanted[len(found)]} is not among\n{told}") from error
        return int(found[-1]["revision"])


def _in_order(events: list[Told], wanted: tuple[Told, ...]) -> list[Told]:
    """The first events that have the wanted fields, each after the one before."""
    found: list[Told] = []
    remaining = iter(events)
    for fields in wanted:
        event = next((each for each in remaining if fields.items() <= each.items()), None)
        if event is None:
            break
        found.append(event)
    return found


def _places(events: list[Told]) -> dict[str, list[str]]:
    """Where units are after these events."""
    places: dict[str, set[str]] = {}
    for event in events:
        where = places.setdefault(event.get("unit", ""), set())
        if event["kind"] in ("moved", "unplaced"):
            if event["kind"] == "unplaced" and "former" in event:
                assert event["former"] in where, f"told twice: {event}"
            where.discard(event.get("former", ""))
        if event["kind"] in ("placed", "moved"):
            assert event["machine"] not in where, f"told twice: {event}"
            where.add(event["machine"])
    return {unit: sorted(where) for unit, where in places.items() if where}


@pytest.fixture
def operator(new_cluster: Callable[..., Cluster], tmp_path: Path) -> Operator:
    """An operator of a new cluster of three machines."""
    return Operator(new_cluster(machines=3, config={"agent_ttl": f"{TTL_S}s"}), tmp_path)


def kill_leader(operator: Operator) -> Machine:
    leader = operator.leader()
    leader.run(["systemctl", "kill", "--signal=KILL", "--kill-whom=all", "fleet.service"])
    return leader


def test_all_that_is_done_is_told_once_and_in_order_through_changes_of_leader(operator: Operator) -> None:
    cluster, reader = operator.cluster, Reader(operator)
    operator.start({UNIT: SLEEPER})
    operator.wait_until_placed(UNIT)
    source = operator.machine_of(UNIT)
    at = reader.wait_for(
        0,
        {"kind": "asked", "unit": UNIT, "action": "submit", "by": "root"},
        {"kind": "placed", "unit": UNIT, "machine": source.id},
    )

    goal = operator.other_machine(source)
    cluster.fleetctl("move", "--no-block", UNIT, goal.id, on=goal)
    kill_leader(operator)
    at = reader.wait_for(
        at,
        {"kind": "asked", "unit": UNIT, "action": "move", "machine": goal.id},
        {"kind": "moved", "unit": UNIT, "machine": goal.id, "former": source.id},
    )

    cluster.wait_ready()
    cluster.fleetctl("drain", "--no-block", goal.id, on=source)
    kill_leader(operator)
    at = reader.wait_for(
        at,
        {"kind": "asked", "machine": goal.id, "action": "drain"},
        {"kind": "unplaced", "unit": UNIT, "former": goal.id},
        {"kind": "drain", "machine": goal.id, "step": "drained"},
        {"kind": "moved", "unit": UNIT, "former": goal.id},
    )

    cluster.wait_ready()
    cluster.fleetctl("uncordon", goal.id, on=source)
    operator.start(dict.fromkeys(MEMBERS, ROLLING))
    operator.wait_until_placed(*MEMBERS)
    cluster.fleetctl("rollout", "restart", "--no-block", GROUP, on=source)
    kill_leader(operator)
    at = reader.wait_for(
        at,
        *({"kind": "asked", "unit": unit, "action": "restart", "by": "root"} for unit in MEMBERS),
        {"kind": "rollout", "subject": GROUP, "step": "began"},
        {"kind": "rollout", "subject": GROUP, "step": "changed"},
        {"kind": "rollout", "subject": GROUP, "step": "changed"},
        {"kind": "rollout", "subject": GROUP, "step": "done"},
    )

    cluster.wait_ready()
    operator.wait_until_placed(UNIT, *MEMBERS)
    leader = operator.leader()
    stays = operator.other_machine(leader)
    mine = {unit for unit in (UNIT, *MEMBERS) if operator.machine_of(unit) is leader}
    leader.power_cut()
    at = reader.wait_for(at, {"kind": "lost", "machine": leader.id})
    for unit in mine:
        reader.wait_for(at - 1, {"kind": "moved", "unit": unit, "former": leader.id})
    leader.boot()
    cluster.wait_ready()
    reader.wait_for(at, {"kind": "joined", "machine": leader.id})

    operator.wait_until_placed(UNIT, *MEMBERS)
    cluster.wait_until("units are where the events say", lambda: _places(reader.all()) == operator.placed(on=stays))
