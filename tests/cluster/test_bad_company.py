"""Units that cannot be loaded, started or stopped, and a thousand at once: each has its own trouble, nothing is left.

What each of them says when it is started alone is held in test_units.py.
"""

import json
import time
from collections.abc import Callable, Collection
from pathlib import Path

import pytest

from contrib.testbed import Cluster
from contrib.testbed.machine import Machine
from tests.cluster.operator import ONESHOT, SLEEPER, Operator, with_fleet

SLOW_STOP_S = 20
BAD = {
    "unloadable.service": "[Service]\nType=oneshot\nRestart=always\nExecStart=/bin/true\n",
    "unstartable.service": "[Service]\nType=exec\nExecStart=/no/such/program\n",
    "restless.service": (
        "[Unit]\nStartLimitIntervalSec=0\n[Service]\nExecStart=/bin/false\nRestart=always\nRestartSec=50ms\n"
    ),
    "slow.service": (
        "[Service]\nExecStart=/bin/sleep infinity\nTimeoutStopSec=60s\n"
        f"ExecStop=/bin/sh -c 'sleep {SLOW_STOP_S}; touch /var/lib/stopped-slowly'\n"
        "ExecStopPost=/bin/sh -c 'test -e /run/fleet/units/slow.service && touch /var/lib/stopped-with-its-file'\n"
    ),
}
GOOD = [f"good-{number}.service" for number in range(6)]
MANY = 1000
RESTARTS = 60  # each of them changes the unit's state twice or more
WRITES_PER_S = 3  # of one unit a write a second, and what else there is
KINDS = ("units", "placements", "decisions", "states")


def keys(cluster: Cluster) -> list[str]:
    """What the store holds of units."""
    listed = cluster.etcd.etcdctl("get", "--prefix", "--keys-only", "/fleet/").split()
    return [key for key in listed if key.split("/")[2] in KINDS]


def revision(cluster: Cluster) -> int:
    """How often anything was ever written to the store."""
    answer = json.loads(cluster.etcd.etcdctl("get", "/fleet/leader", "--write-out=json"))
    return int(answer["header"]["revision"])


def traces(machine: Machine, names: Collection[str]) -> list[str]:
    """What there is on a machine of units: files, links, notes, processes' groups, and what its systemd knows."""
    asked = "/run/fleet/units /run/fleet/started /run/systemd/system /run/systemd/transient /sys/fs/cgroup"
    found = machine.run(["find", *asked.split(), "-mindepth", "1"], check=False).stdout.split()
    listed = machine.run(["systemctl", "list-units", "--all", "--plain", "--no-legend", "--full"]).stdout
    known = [line.split()[0] for line in listed.splitlines()]
    return [trace for trace in (*found, *known) if trace.rpartition("/")[2] in names]


def assert_restarts_are_systemds_affair(cluster: Cluster, machine: Machine) -> None:
    """However often it is restarted, the store is written to now and then only."""

    def restarts() -> int:
        return int(machine.show("restless.service", "NRestarts"))

    revision_before, restarts_before, began_s = revision(cluster), restarts(), time.monotonic()
    cluster.wait_until("it restarts", lambda: restarts() >= restarts_before + RESTARTS)
    assert revision(cluster) - revision_before < WRITES_PER_S * (time.monotonic() - began_s + 1)


@pytest.mark.covers("P.12", "R.4", "R.6", "S.12", "S.13")
def test_among_ten_units_four_bad_ones_hurt_no_other_at_start_stop_or_destroy(person: Operator) -> None:
    machine, *others = person.cluster.machines
    cluster = person.cluster
    here = f"MachineID={machine.id}"
    units = {name: with_fleet(here, service=text) for name, text in (BAD | dict.fromkeys(GOOD, SLEEPER)).items()}
    person.start(units, "--no-block")
    for name in ("unloadable.service", "unstartable.service"):
        started = cluster.fleetctl("start", name, check=False)
        assert started.returncode == 1
        assert name in started.stderr
        assert {"unloadable.service": "Restart=", "unstartable.service": "/no/such/program"}[name] in started.stderr
    person.wait_until_placed(*GOOD, "slow.service")
    before = machine.main_pids(GOOD)
    assert all(before.values())
    reports = person.reports(on=others[0])
    assert "bad unit file setting" in reports["unloadable.service"]["allocations"][0]["error"]
    assert "/no/such/program" in reports["unstartable.service"]["allocations"][0]["error"]
    assert_restarts_are_systemds_affair(cluster, machine)

    cluster.fleetctl("stop", "--no-block", "slow.service", "restless.service")
    cluster.fleetctl("stop", GOOD[0])
    cluster.fleetctl("start", GOOD[0])
    assert machine.show("slow.service", "ActiveState") == "deactivating"
    assert {unit: machine.main_pid(unit) for unit in GOOD[1:]} == {unit: before[unit] for unit in GOOD[1:]}
    cluster.wait_until(
        "the restless one rests", lambda: machine.show("restless.service", "ActiveState") != "activating"
    )

    cluster.fleetctl("destroy", *GOOD, "unloadable.service", "unstartable.service", "restless.service")
    assert machine.show("slow.service", "ActiveState") == "deactivating"
    assert traces(machine, [name for name in units if name != "slow.service"]) == []
    cluster.fleetctl("destroy", "slow.service")
    assert (machine.root / "var/lib/stopped-slowly").exists()
    assert (machine.root / "var/lib/stopped-with-its-file").exists()
    assert traces(machine, units) == []
    assert keys(cluster) == []


@pytest.mark.covers("P.9", "S.14")
def test_a_thousand_destroyed_at_once_leave_nothing_anywhere(
    new_cluster: Callable[..., Cluster], tmp_path: Path
) -> None:
    cluster = new_cluster(machines=3)
    person = Operator(cluster, tmp_path)
    texts = (
        SLEEPER,
        SLEEPER + "[Install]\nWantedBy=multi-user.target\n",
        ONESHOT,
        "[Service]\nExecStart=/bin/false\n",
        SLEEPER + "ExecStop=/bin/sleep 1\n",
    )
    units = {f"many-{number}.service": texts[number % len(texts)] for number in range(MANY)}
    units["everywhere.service"] = with_fleet("Global=true")
    person.start(units, "--no-block")
    sleepers = [name for name in units if "sleep infinity" in units[name] and name != "everywhere.service"]
    cluster.wait_until(
        "all that can run do", lambda: sorted(unit for _, unit in person.processes(sleepers)) == sorted(sleepers), 120
    )
    cluster.fleetctl("destroy", *units, timeout_s=180)
    # The leader deletes its decisions after the machines have let go, with what it does next.
    cluster.wait_until("nothing is left in the store", lambda: keys(cluster) == [], 10)
    for machine in cluster.machines:
        assert traces(machine, units) == []
