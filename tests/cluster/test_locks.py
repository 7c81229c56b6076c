"""Locks on real machines: by the socket of one and through an SSH tunnel to another, over a killed fleetd and a cut."""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

from contrib.testbed import Cluster
from tests.cluster.remote_operator import FLEETCTL, RemoteOperator

PATIENCE_S = 120.0
LOST = 124


def holding(log: Path, name: str) -> list[str]:
    """A command that notes when it begins, and when it is told to end."""
    begin, end = (f"echo {name} {what} >> {log}" for what in ("begins", "ends"))
    return [
        "lock",
        "--ttl=20s",
        "backup",
        "--",
        "sh",
        "-c",
        f"{begin}; trap '{end}; kill $!; exit 0' TERM; sleep 600 & wait",
    ]


def test_a_lock_outlives_a_fleetd_that_is_killed_and_goes_on_from_a_machine_that_is_cut_off(
    new_cluster: Callable[..., Cluster], tmp_path: Path
) -> None:
    cluster = new_cluster(machines=3, ssh=True)
    near, log = cluster.machines[0], tmp_path / "log"
    log.touch()
    remote = RemoteOperator(cluster, tmp_path)
    remote.install_key()
    remote.write_known_hosts()
    remote.reach_by_tunnel()
    first = subprocess.Popen([*cluster.fleetctl_command(near), *holding(log, "near")], env=dict(os.environ))
    second = None
    try:
        cluster.wait_until("the near one has the lock", lambda: log.read_text() == "near begins\n")
        second = subprocess.Popen([FLEETCTL, *holding(log, "far")], env=dict(remote.environment))
        cluster.wait_until(
            "the far one waits",
            lambda: (
                '"waiting":1'
                in cluster.fleetctl("locks", "--output=json", on=cluster.machines[2]).stdout.replace(" ", "")
            ),
        )
        near.run(["systemctl", "kill", "--signal=KILL", "--kill-whom=all", "fleet.service"])
        cluster.wait_ready()
        assert first.poll() is None
        assert log.read_text() == "near begins\n"
        near.cut_from_etcd()
        assert first.wait(PATIENCE_S) == LOST
        cluster.wait_until("the far one has the lock", lambda: log.read_text().endswith("far begins\n"), PATIENCE_S)
        assert log.read_text() == "near begins\nnear ends\nfar begins\n"
        near.reach_etcd()
        second.terminate()
        assert second.wait(PATIENCE_S) == 0
        cluster.wait_until(
            "the lock is free", lambda: cluster.fleetctl("locks", "--no-legend", on=cluster.machines[2]).stdout == ""
        )
    finally:
        for process in filter(None, (first, second)):
            process.kill()
            process.wait()
