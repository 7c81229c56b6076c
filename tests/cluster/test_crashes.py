"""fleetd killed at any moment, and full disks: acknowledged operations are kept, running units continue.

Kills come at moments drawn from a seed, and at each write in turn, while traffic starts, stops and destroys units.
"""

import random
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from contrib.testbed import Cluster
from contrib.testbed.machine import Machine
from tests.cluster.operator import RECORDER, SLEEPER, Operator, with_fleet
from tests.cluster.tampering import tamper, undo
from tests.cluster.traffic import Traffic

UNITS = [f"u{number}.service" for number in range(6)]
KILLS = 6
SOME_LIVES, ALL_LIVES = 13, 60  # each life is killed one write later than the one before
DEATHS = "/var/lib/fleet/deaths"  # the folders that fleet.service may write
FILES = {"open", "os.rename", "os.remove"}
OFTEN = {
    "often.service": SLEEPER + "[Install]\nWantedBy=multi-user.target\n",
    "often-once.service": "[Service]\nType=oneshot\nExecStart=/bin/touch /var/lib/ran\n",
}
STORE = "/var/lib/fleet"
NOTES = "/run/fleet"


@pytest.fixture
def alone(new_cluster: Callable[..., Cluster], tmp_path: Path) -> Operator:
    """An operator of one machine with its own store on a small disk, its ledger on another, and six units."""
    operator = Operator(new_cluster([{"standalone": "true"}]), tmp_path)
    (machine,) = operator.cluster.machines
    machine.run(["systemctl", "stop", "fleet.socket", "fleet.service"])
    for folder, size in ((STORE, "2M"), (NOTES, "1M")):
        machine.run(["mkdir", "-p", folder])
        machine.run(["mount", "-t", "tmpfs", "-o", f"mode=700,size={size}", "small", folder])
    machine.run(["systemctl", "start", "fleet.socket", "fleet.service"])
    operator.cluster.wait_ready()
    operator.start(dict.fromkeys(UNITS, RECORDER))
    return operator


def kill_fleetd(machine: Machine) -> None:
    machine.run(["systemctl", "kill", "--signal=KILL", "--kill-whom=all", "fleet.service"])


def fill(machine: Machine, folder: str) -> Path:
    """Fill the file system of this folder on the machine. Return the file that fills it."""
    machine.run(["dd", "if=/dev/zero", f"of={folder}/ballast", "bs=4k"], check=False)
    return machine.path(f"{folder}/ballast")


def test_a_standalone_fleetd_killed_at_random_loses_no_acknowledged_operation(alone: Operator) -> None:
    (machine,) = alone.cluster.machines
    before = alone.lives(UNITS)
    moments = random.Random(1)
    with Traffic(alone) as traffic:
        traffic.wait_until_begun()
        for _ in range(KILLS):
            time.sleep(moments.uniform(1.0, 3.0))
            kill_fleetd(machine)
    alone.cluster.wait_ready()
    traffic.wait_until_done()
    assert alone.lives(UNITS) == before


@pytest.mark.covers("R.2", "S.1")
def test_fleetds_killed_on_all_machines_lose_no_acknowledged_operation(
    new_cluster: Callable[..., Cluster], tmp_path: Path
) -> None:
    operator = Operator(new_cluster(machines=3, config={"agent_ttl": "20s"}), tmp_path)
    operator.start({**dict.fromkeys(UNITS, RECORDER), "all.service": with_fleet("Global=true")})
    before = operator.lives(UNITS)
    moments = random.Random(3)
    with Traffic(operator) as traffic:
        traffic.wait_until_begun()
        for _ in range(2 * KILLS):
            time.sleep(moments.uniform(0.0, 2.0))
            kill_fleetd(moments.choice(operator.cluster.machines))
    operator.cluster.wait_ready()
    traffic.wait_until_done()
    assert operator.lives(UNITS) == before


@pytest.mark.covers("R.5", "S.18")
@pytest.mark.parametrize(
    ("config", "kinds"),
    [
        ({"standalone": "true"}, {*FILES, "commit"}),
        ({"agent_ttl": "4s"}, {*FILES, "ask etcd: txn", "hear etcd: txn"}),
    ],
    ids=["its-own-store", "etcd"],
)
@pytest.mark.parametrize("lives", [SOME_LIVES, pytest.param(ALL_LIVES, marks=pytest.mark.soak)])
def test_a_fleetd_killed_at_each_write_does_what_it_acknowledged(
    new_cluster: Callable[..., Cluster], tmp_path: Path, config: dict[str, str], lives: int, kinds: set[str]
) -> None:
    operator = Operator(new_cluster([config]), tmp_path)
    operator.start(dict.fromkeys(UNITS, RECORDER))
    before = operator.lives(UNITS)
    (machine,) = operator.cluster.machines
    tamper(machine, "last_writes", DEATHS=DEATHS)
    machine.run(["systemctl", "restart", "--no-block", "fleet.service"])
    ran = machine.path("/var/lib/ran")
    while len(deaths(machine)) < lives or not kinds <= {death.partition(" /")[0] for death in deaths(machine)}:
        repeat_until_done(operator, "start", *operator.write(OFTEN))
        assert machine.main_pid("often.service") > 1
        assert ran.exists()
        ran.unlink()
        repeat_until_done(operator, "stop", "often.service")
        assert machine.main_pid("often.service") == 0
        repeat_until_done(
            operator, "destroy", "--ignore-missing", *OFTEN
        )  # it may be done although its answer was lost
        assert machine.run(["find", "/run", "-name", "often*.service"], check=False).stdout == ""
    undo(machine)
    machine.run(["systemctl", "restart", "--no-block", "fleet.service"])
    operator.cluster.wait_until(
        "only the former units run", lambda: answers(operator) and sorted(operator.reports()) == UNITS
    )
    assert operator.lives(UNITS) == before


def answers(operator: Operator) -> bool:
    return operator.cluster.fleetctl("list-machines", check=False).returncode == 0


def deaths(machine: Machine) -> list[str]:
    """The writes at which a fleetd was killed."""
    path = machine.path(DEATHS)
    return path.read_text().splitlines() if path.exists() else []


def repeat_until_done(operator: Operator, *operation: str) -> None:
    """Repeat the command until it is acknowledged."""
    operator.cluster.wait_until(
        f"fleetctl {' '.join(operation)}",
        lambda: operator.cluster.fleetctl(*operation, check=False).returncode == 0,
        300,
    )


@pytest.mark.covers("R.6", "S.13")
def test_a_destroy_completes_although_fleetd_is_killed_repeatedly(
    new_cluster: Callable[..., Cluster], tmp_path: Path
) -> None:
    operator = Operator(new_cluster(machines=3), tmp_path)
    slow = (
        "[Service]\nExecStart=/bin/sleep infinity\nExecStop=/bin/sh -c 'sleep 4; touch /var/lib/last-words'\n"
        "ExecStopPost=/bin/sh -c 'test -e /run/fleet/units/slow.service && touch /var/lib/had-its-file'\n"
    )
    operator.start({"slow.service": slow})
    machine = operator.machine_of("slow.service")
    began_s = time.monotonic()
    operator.cluster.fleetctl("destroy", "--no-block", "slow.service")
    while time.monotonic() < began_s + 3:
        kill_fleetd(machine)
        time.sleep(1)
    file = machine.path("/run/fleet/units/slow.service")
    operator.cluster.wait_until("its file is gone", lambda: not file.exists())
    assert (machine.root / "var/lib/last-words").exists()
    assert (machine.root / "var/lib/had-its-file").exists()
    keys = ("get", "--prefix", "--keys-only", "/fleet/")
    operator.cluster.wait_until("no key is left", lambda: "slow" not in operator.cluster.etcd.etcdctl(*keys))


@pytest.mark.covers("S.17")
def test_a_full_disk_of_the_store_refuses_operations_and_loses_nothing(alone: Operator) -> None:
    (machine,) = alone.cluster.machines
    before = alone.lives(UNITS)
    ballast = fill(machine, STORE)
    big = alone.write({"big.service": SLEEPER + 1000 * f"# {100 * 'x'}\n"})
    refused = alone.cluster.fleetctl("start", *big, check=False)
    assert refused.returncode == 1
    assert "make room" in refused.stderr
    assert alone.lives(UNITS) == before
    kill_fleetd(machine)
    time.sleep(4)
    assert alone.lives(UNITS) == before
    ballast.unlink()
    alone.cluster.wait_ready()
    assert sorted(alone.reports()) == UNITS
    alone.cluster.fleetctl("start", *big)
    assert machine.main_pid("big.service") > 1
    assert alone.lives(UNITS) == before


@pytest.mark.covers("S.17")
def test_a_full_run_is_reported_and_operations_complete_when_there_is_space(alone: Operator) -> None:
    (machine,) = alone.cluster.machines
    before = alone.lives(UNITS)
    ballast = fill(machine, NOTES)
    alone.start({"late.service": SLEEPER}, "--no-block")
    alone.cluster.wait_until(
        "the machine says why it does not start it",
        lambda: any(
            "No space left" in allocation["error"]
            for allocation in alone.reports()["late.service"].get("allocations", [])
        ),
    )
    assert machine.main_pid("late.service") == 0
    assert alone.lives(UNITS) == before
    ballast.unlink()
    alone.cluster.wait_until("it is started after all", lambda: machine.main_pid("late.service") > 1, 70)
    kill_fleetd(machine)
    alone.cluster.wait_ready()
    assert alone.lives(UNITS) == before
    alone.wait_until_placed(*UNITS, "late.service")
