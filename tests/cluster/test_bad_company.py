"""Units that cannot be loaded, started or stopped, and a thousand units at once: none affects another, nothing is left.

test_units.py holds what each of them reports when it is started alone.
"""

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
RESTARTS = 60  # each restart changes the unit's state at least twice
WRITES_PER_S = 3  # one write a second for the unit, and some for everything else
KINDS = ("units", "placements", "decisions", "states")


def keys(cluster: Cluster) -> list[str]:
    """The number of keys of units in the store."""
    listed = cluster.etcd.etcdctl("get", "--prefix", "--keys-only", "/fleet/").split()
    return [key for key in listed if key.split("/")[2] in KINDS]


def traces(machine: Machine, names: Collection[str]) -> list[str]:
    """What one machine has of units: files, links, ledger entries, cgroups, and units that its systemd has loaded."""
    asked = "/run/fleet/units /run/fleet/started /run/systemd/system /run/systemd/transient /sys/fs/cgroup"
    found = machine.run(["find", *asked.split(), "-mindepth", "1"], check=False).stdout.split()
    listed = machine.run(["systemctl", "list-units", "--all", "--plain", "--no-legend", "--full"]).stdout
    known = [line.split()[0] for line in listed.splitlines()]
    return [trace for trace in (*found, *known) if trace.rpartition("/")[2] in names]


def assert_restarts_write_little(cluster: Cluster, machine: Machine) -> None:
    """Frequent restarts of a unit cause few writes to the store."""

    def restarts() -> int:
        return int(machine.show("restless.service", "NRestarts"))

    revision_before, restarts_before, began_s = cluster.etcd.revision(), restarts(), time.monotonic()
    cluster.wait_until("it restarts", lambda: restarts() >= restarts_before + RESTARTS)
    assert cluster.etcd.revision() - revision_before < WRITES_PER_S * (time.monotonic() - began_s + 1)


@pytest.mark.covers("P.12", "R.4", "R.6", "S.12", "S.13")
def test_four_broken_units_affect_none_of_six_others(operator: Operator) -> None:
    machine, *others = operator.cluster.machines
    cluster = operator.cluster
    here = f"MachineID={machine.id}"
    units = {name: with_fleet(here, service=text) for name, text in (BAD | dict.fromkeys(GOOD, SLEEPER)).items()}
    operator.start(units, "--no-block")
    for name in ("unloadable.service", "unstartable.service"):
        started = cluster.fleetctl("start", name, check=False)
        assert started.returncode == 1
        assert name in started.stderr
        assert {"unloadable.service": "Restart=", "unstartable.service": "/no/such/program"}[name] in started.stderr
    operator.wait_until_placed(*GOOD, "slow.service")
    before = machine.main_pids(GOOD)
    assert all(before.values())
    reports = operator.reports(on=others[0])
    assert "bad unit file setting" in reports["unloadable.service"]["allocations"][0]["error"]
    assert "/no/such/program" in reports["unstartable.service"]["allocations"][0]["error"]
    assert_restarts_write_little(cluster, machine)

    cluster.fleetctl("stop", "--no-block", "slow.service", "restless.service")
    cluster.fleetctl("stop", GOOD[0])
    cluster.fleetctl("start", GOOD[0])
    assert machine.show("slow.service", "ActiveState") == "deactivating"
    assert {unit: machine.main_pid(unit) for unit in GOOD[1:]} == {unit: before[unit] for unit in GOOD[1:]}
    cluster.wait_until(
        "restless.service has stopped", lambda: machine.show("restless.service", "ActiveState") != "activating"
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
def test_a_thousand_destroyed_units_leave_nothing_behind(new_cluster: Callable[..., Cluster], tmp_path: Path) -> None:
    cluster = new_cluster(machines=3)
    operator = Operator(cluster, tmp_path)
    texts = (
        SLEEPER,
        SLEEPER + "[Install]\nWantedBy=multi-user.target\n",
        ONESHOT,
        "[Service]\nExecStart=/bin/false\n",
        SLEEPER + "ExecStop=/bin/sleep 1\n",
    )
    units = {f"many-{number}.service": texts[number % len(texts)] for number in range(MANY)}
    units["everywhere.service"] = with_fleet("Global=true")
    operator.start(units, "--no-block")
    sleepers = [name for name in units if "sleep infinity" in units[name] and name != "everywhere.service"]
    cluster.wait_until(
        "all units run", lambda: sorted(unit for _, unit in operator.processes(sleepers)) == sorted(sleepers), 120
    )
    cluster.fleetctl("destroy", *units, timeout_s=180)
    # The leader deletes its decisions after the machines have removed the units, together with its next write.
    cluster.wait_until("nothing is left in the store", lambda: keys(cluster) == [], 10)
    for machine in cluster.machines:
        assert traces(machine, units) == []
