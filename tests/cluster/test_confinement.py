"""A machine that confines its units, and a store in other hands: nothing that is written there becomes root on it."""

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from contrib.testbed import Cluster, Machine
from fleetd.model.content import DropIn
from fleetd.model.placement import Placement
from fleetd.model.unit import TargetState
from fleetd.registry.records import encode
from tests.cluster.operator import SLEEPER, Operator, with_fleet

COMMAND = "/bin/sh -c 'touch /root/became-root; exec sleep infinity'"
PLAIN = f"[Service]\nExecStart={COMMAND}\n"
# unit → its file; each would become root, or reach what is root's, if it was started as it is.
REFUSED = {
    "user.service": f"{PLAIN}User=root\n",
    "static.service": f"{PLAIN}DynamicUser=no\n",
    "group.service": f"{PLAIN}SupplementaryGroups=root\n",
    "plus.service": f"[Service]\nExecStart=+{COMMAND}\n",
    "bang.service": f"[Service]\nExecStart=!{COMMAND}\n",
    "quoted.service": '[Service]\nExecStart="+/usr/bin/touch" /root/became-root\n',
    "escaped.service": "[Service]\nExecStart=\\x2b/usr/bin/touch /root/became-root\n",
    "second.service": "[Service]\nType=oneshot\nExecStart=/bin/true ; +/usr/bin/touch /root/became-root\n",
    "before.service": f"[Service]\nPermissionsStartOnly=yes\nExecStartPre=/usr/bin/touch /root/became-root\n{PLAIN}",
    "capable.service": f"{PLAIN}AmbientCapabilities=CAP_DAC_OVERRIDE CAP_SETUID\n",
    "writes.service": f"{PLAIN}StandardOutput=truncate:/root/became-root\n",
    "reads.service": f"{PLAIN}EnvironmentFile=/etc/shadow\n",
    "takes.service": f"{PLAIN}StateDirectory=fleet\n",
    "shell.service": f"[Unit]\nWants=debug-shell.service\n{PLAIN}",
    "alias.service": f"{PLAIN}[Install]\nAlias=ssh.service\n",
    "hidden.service": f"[Service]\nEnvironment=A=\\\n[X-Fleet]\nUser=root\n[Service]\nExecStart={COMMAND}\n",
    "returns.service": f"[X-Fleet]\nA=b\r\n[Service]\r\nUser=root\nExecStart={COMMAND}\n",
    "others-.service": PLAIN,
    "timed.timer": "[Timer]\nOnActiveSec=1\nUnit=debug-shell.service\n",
    "mounted.mount": "[Mount]\nWhat=tmpfs\nWhere=/mounted\nType=tmpfs\n",
}
UNREADABLE = ("path.service", "last.service")  # no drop-in has such a name: fleetd does not read the placement
DROPINS = {
    "dropin.service": DropIn("10-root.conf", "[Service]\nUser=root\n"),
    "path.service": DropIn("../../../../../etc/cron.d/root", "* * * * * root touch /root/became-root\n"),
    "last.service": DropIn("~~root.conf", "[Service]\nUser=root\n"),
}
# These run, as a user of their own: systemd would take the name of the first for that of the user.
CONFINED = {
    "root.service": PLAIN,
    "state.service": f"{PLAIN}StateDirectory=confined/state\nEnvironmentFile=-/etc/environment\n",
    "started.service": f"{PLAIN}[Install]\nWantedBy=multi-user.target\n",
}


@pytest.fixture(scope="module")
def _cluster() -> Iterator[Cluster]:
    with Cluster([{}, {"confine": "yes", "accept": "*", "disable_engine": "true"}]) as cluster:
        yield cluster


@pytest.fixture
def operator(_cluster: Cluster, tmp_path: Path) -> Operator:
    """An operator of a machine that takes every unit, and one that confines them."""
    return Operator(_cluster, tmp_path)


def status_of(machine: Machine, unit: str) -> dict[str, str]:
    """Fields of /proc/PID/status of a unit's main process."""
    lines = machine.run(["cat", f"/proc/{machine.main_pid(unit)}/status"]).stdout.splitlines()
    return {name: " ".join(value.split()) for name, _, value in (line.partition(":") for line in lines)}


def is_confined(machine: Machine, unit: str) -> bool:
    status = status_of(machine, unit)
    is_user = all(61184 <= int(number) <= 65519 for number in (status["Uid"] + " " + status["Groups"]).split())
    return is_user and status["NoNewPrivs"] == "1" and int(status["CapPrm"], 16) == 0


def test_a_unit_that_could_become_root_runs_elsewhere_or_says_why_it_runs_nowhere(operator: Operator) -> None:
    open_one, confining = operator.cluster.machines
    operator.start({"a.service": f"{SLEEPER}User=root\n", "b.service": with_fleet(f"MachineID={confining.id}")})
    assert operator.machine_of("a.service") is open_one
    assert is_confined(confining, "b.service")
    text = with_fleet(f"MachineID={confining.id}", service=f"{SLEEPER}User=root\n")
    answer = operator.start({"c.service": text}, "--block-attempts=1", check=False)
    assert answer.returncode == 1
    assert "machine confines its units: User= is not allowed" in answer.stderr
    operator.cluster.destroy_all_units()


def test_what_is_written_into_the_store_becomes_root_on_no_machine_that_confines(operator: Operator) -> None:
    cluster = operator.cluster
    leader, machine = cluster.machines
    leader.run(["systemctl", "stop", "fleet.socket", "fleet.service"])
    texts = {**REFUSED, **dict.fromkeys(DROPINS, PLAIN), **CONFINED}
    for unit, text in texts.items():
        dropins = (DROPINS[unit],) if unit in DROPINS else ()
        order = Placement(machine.id, unit, text, TargetState.LAUNCHED, 10**6, dropins=dropins)
        cluster.etcd.etcdctl("put", f"/fleet/placements/{machine.id}/{unit}", encode(order).decode())

    judged = texts.keys() - set(UNREADABLE)

    def states() -> dict[str, dict[str, Any]]:
        prefix = f"/fleet/states/{machine.id}/"
        found = json.loads(cluster.etcd.etcdctl("get", "--prefix", prefix, "--write-out=json")).get("kvs", ())
        decoded = {_text(each["key"]).removeprefix(prefix): json.loads(_text(each["value"])) for each in found}
        return {unit: state for unit, state in decoded.items() if unit in judged}

    cluster.wait_until("the machine has judged all of them", lambda: states().keys() == judged)
    cluster.wait_until(
        "what it takes is active", lambda: all(states()[unit].get("active") == "active" for unit in CONFINED)
    )
    refusals = {unit: state.get("refusal", "") for unit, state in states().items()}
    assert {unit for unit, refusal in refusals.items() if not refusal} == set(CONFINED)
    assert all(is_confined(machine, unit) for unit in CONFINED)
    listed = machine.run(["ls", "/run/fleet/units"]).stdout.split()
    assert sorted(name for name in listed if not name.endswith(".d")) == sorted(CONFINED)
    assert not machine.path("/root/became-root").exists()
    assert not machine.path("/etc/cron.d/root").exists()
    assert not machine.path("/var/lib/fleet").is_symlink()
    assert machine.path("/var/lib/private/confined/state").is_dir()
    assert not machine.path("/run/systemd/system/multi-user.target.wants/started.service").is_symlink()


def test_a_drop_in_of_the_machines_own_that_takes_the_confinement_away_keeps_a_unit_from_starting(
    operator: Operator,
) -> None:
    cluster = operator.cluster
    leader, machine = cluster.machines
    leader.run(["systemctl", "stop", "fleet.socket", "fleet.service"])  # it would take the placement back
    folder = machine.path("/etc/systemd/system/own.service.d")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "~~root.conf").write_text("[Service]\nUser=root\n")
    order = Placement(machine.id, "own.service", PLAIN, TargetState.LAUNCHED, 10**6)
    cluster.etcd.etcdctl("put", f"/fleet/placements/{machine.id}/own.service", encode(order).decode())
    key = f"/fleet/states/{machine.id}/own.service"
    cluster.wait_until(
        "it says why",
        lambda: "would not be confined (User=" in cluster.etcd.etcdctl("get", "--print-value-only", key),
    )
    assert machine.main_pid("own.service") == 0
    assert not machine.path("/root/became-root").exists()


def _text(encoded: str) -> str:
    return base64.b64decode(encoded).decode()
