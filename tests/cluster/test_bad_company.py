"""Units that cannot be loaded, started or stopped, and hundreds at once: a unit's trouble is its own, nothing is left.

What each of them says when it is started alone is held in test_units.py.
"""

import json
import time

from contrib.testbed import Cluster
from contrib.testbed.machine import Machine
from tests.cluster.people import ONESHOT, SLEEPER, Person, with_fleet

SLOW_STOP_S = 20
BAD = {
    "unloadable.service": "[Service]\nType=oneshot\nRestart=always\nExecStart=/bin/true\n",
    "unstartable.service": "[Service]\nExecStart=/no/such/program\n",
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
CROWD = 300
KINDS = ("units", "placements", "decisions", "states")


def keys(cluster: Cluster) -> list[str]:
    """What the store holds of units."""
    listed = cluster.etcd.etcdctl("get", "--prefix", "--keys-only", "/fleet/").split()
    return [key for key in listed if key.split("/")[2] in KINDS]


def revision(cluster: Cluster) -> int:
    """How often anything was ever written to the store."""
    answer = json.loads(cluster.etcd.etcdctl("get", "/fleet/leader", "--write-out=json"))
    return int(answer["header"]["revision"])


def traces(machine: Machine, names: list[str]) -> list[str]:
    """What there is on a machine of units: files, links, notes, and what its systemd knows."""
    asked = "/run/fleet/units /run/fleet/started /run/systemd/system /run/systemd/transient"
    found = machine.run(["find", *asked.split(), "-mindepth", "1"], check=False).stdout.split()
    listed = machine.run(["systemctl", "list-units", "--all", "--plain", "--no-legend", "--full"]).stdout
    known = [line.split()[0] for line in listed.splitlines()]
    return [trace for trace in (*found, *known) if any(trace.endswith(name) for name in names)]


def test_among_ten_units_four_bad_ones_hurt_no_other_at_start_stop_or_destroy(person: Person) -> None:
    machine, *others = person.cluster.machines
    cluster = person.cluster
    here = f"MachineID={machine.id}"
    units = {name: with_fleet(here, service=text) for name, text in (BAD | dict.fromkeys(GOOD, SLEEPER)).items()}
    person.start({"restless.service": units["restless.service"]}, "--no-block")
    started = person.start({name: units[name] for name in units if name != "restless.service"}, check=False)
    assert started.returncode == 1
    assert "unloadable.service" in started.stderr
    assert "unstartable.service" in started.stderr
    person.wait_until_placed(*GOOD, "slow.service")
    before = machine.main_pids(GOOD)
    assert all(before.values())
    reports = person.reports(on=others[0])
    assert "bad unit file setting" in reports["unloadable.service"]["copies"][0]["error"]
    assert "/no/such/program" in reports["unstartable.service"]["copies"][0]["error"]
    former = revision(cluster)
    time.sleep(3)
    assert int(machine.show("restless.service", "NRestarts")) > 6
    assert revision(cluster) - former < 30

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
    assert traces(machine, list(units)) == []
    assert keys(cluster) == []


def test_hundreds_destroyed_at_once_leave_nothing_anywhere(person: Person) -> None:
    cluster = person.cluster
    texts = (
        SLEEPER,
        SLEEPER + "[Install]\nWantedBy=multi-user.target\n",
        ONESHOT,
        "[Service]\nExecStart=/bin/false\n",
        SLEEPER + "ExecStop=/bin/sleep 1\n",
    )
    units = {f"crowd-{number}.service": texts[number % len(texts)] for number in range(CROWD)}
    units["everywhere.service"] = with_fleet("Global=true")
    person.start(units, "--no-block")
    sleepers = [name for name in units if "sleep infinity" in units[name] and name != "everywhere.service"]
    cluster.wait_until(
        "all that can run do", lambda: sorted(unit for _, unit in person.processes(sleepers)) == sorted(sleepers), 60
    )
    cluster.fleetctl("destroy", *units)
    assert keys(cluster) == []
    for machine in cluster.machines:
        assert traces(machine, list(units)) == []
        assert machine.run(["pgrep", "-x", "sleep"], check=False).stdout == ""
