"""Units of several kinds that need each other run together on one machine, also after a reboot."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from contrib.testbed import Cluster, Machine
from tests.cluster.operator import SLEEPER, Operator, with_fleet

# Each pair by the unit that is started; the other one has MachineOf= with it.
TOUCHING = "[Service]\nType=oneshot\nExecStart=/bin/touch /var/lib/%n\n"
STARTED = {
    "server.service": SLEEPER,
    "tick.timer": "[Timer]\nOnActiveSec=1s\nAccuracySec=100ms\n",
    "talk.socket": "[Socket]\nListenStream=/run/talk.sock\n",
    "drop.path": "[Path]\nPathExists=/run/dropped\n",
    "mnt-box.mount": "[Mount]\nWhat=tmpfs\nWhere=/mnt/box\nType=tmpfs\n",
}
FOLLOWERS = {
    "client.service": "[Unit]\nRequires=server.service\nAfter=server.service\n" + SLEEPER,
    "boxed.service": (
        "[Unit]\nRequires=mnt-box.mount\nAfter=mnt-box.mount\n"
        "[Service]\nExecStart=/bin/sh -c 'mountpoint /mnt/box && exec sleep infinity'\n"
    ),
}
TRIGGERED = {
    "tick.service": TOUCHING,
    "talk.service": "[Service]\nExecStart=/bin/sh -c 'touch /var/lib/%n; exec sleep infinity'\n",
    "drop.service": TOUCHING + "ExecStartPost=/bin/rm /run/dropped\n",
}
LEADS = {
    "client.service": "server.service",
    "boxed.service": "mnt-box.mount",
    "tick.service": "tick.timer",
    "talk.service": "talk.socket",
    "drop.service": "drop.path",
}


@pytest.mark.covers("P.7", "S.15")
def test_pairs_of_every_kind_work_on_one_machine_before_and_after_a_reboot(
    new_cluster: Callable[..., Cluster], tmp_path: Path
) -> None:
    # so long that no machine counts as dead
    operator = Operator(new_cluster(machines=3, config={"agent_ttl": "24s"}), tmp_path)
    followers = {name: with_fleet(f"MachineOf={LEADS[name]}", service=text) for name, text in FOLLOWERS.items()}
    triggered = {name: with_fleet(f"MachineOf={LEADS[name]}", service=text) for name, text in TRIGGERED.items()}
    operator.cluster.fleetctl("load", *operator.write(STARTED | triggered))
    operator.start(STARTED | followers)
    assert_pair_works(operator)
    before = operator.placed()
    for machine in operator.cluster.machines:
        machine.run(["sh", "-c", "rm -f /var/lib/*.service"])
    with ThreadPoolExecutor() as pool:
        list(pool.map(Machine.reboot, operator.cluster.machines))
    operator.cluster.wait_ready()
    operator.wait_until_placed(*STARTED, *FOLLOWERS)
    assert {unit: operator.placed()[unit] for unit in STARTED} == {unit: before[unit] for unit in STARTED}
    assert_pair_works(operator)
    assert_a_triggered_service_stops(operator)


def assert_a_triggered_service_stops(operator: Operator) -> None:
    """A unit that is only loaded runs, and `stop` stops it. Its socket would start it again for a waiting client, so
    the socket is stopped first."""
    machine = operator.machine_of("talk.socket")
    before = machine.main_pid("talk.service")
    assert before > 1
    operator.cluster.fleetctl("stop", "talk.service")
    assert machine.main_pid("talk.service") != before
    operator.cluster.fleetctl("stop", "talk.socket")
    operator.cluster.fleetctl("stop", "talk.service")
    assert machine.show("talk.service", "ActiveState") == "inactive"


def assert_pair_works(operator: Operator) -> None:
    """Each unit runs beside its other half, and each trigger starts its unit."""
    for follower in FOLLOWERS:
        assert operator.machine_of(follower) is operator.machine_of(LEADS[follower])
        assert operator.machine_of(follower).main_pid(follower) > 1
    assert operator.machine_of("boxed.service").run(["mountpoint", "/mnt/box"]).returncode == 0
    operator.machine_of("drop.path").path("/run/dropped").touch()
    connect = ["curl", "--silent", "--max-time", "0.2", "--unix-socket", "/run/talk.sock", "http://anybody"]
    # the connection gets no answer: it only has to start the service
    operator.machine_of("talk.socket").run(connect, check=False)
    for unit in TRIGGERED:
        machine = operator.machine_of(LEADS[unit])
        operator.cluster.wait_until(f"{LEADS[unit]} triggers {unit}", (machine.root / f"var/lib/{unit}").exists)


def test_a_socket_that_is_changed_while_its_service_runs_listens_as_changed_and_the_service_runs(
    operator: Operator,
) -> None:
    """systemd refuses to start a socket whose service runs."""
    paths = [f"/run/talk-{number}.sock" for number in (1, 2)]
    sockets = [f"[Socket]\nListenStream={path}\nService=talk.service\n" for path in paths]
    service = with_fleet("MachineOf=talk.socket", service=SLEEPER)
    operator.cluster.fleetctl("load", *operator.write({"talk.socket": sockets[0], "talk.service": service}))
    operator.cluster.fleetctl("start", "talk.socket")
    operator.cluster.fleetctl("start", "talk.service")
    operator.wait_until_placed("talk.service", "talk.socket")
    before = operator.pids("talk.service")
    machine = operator.machine_of("talk.socket")
    operator.start({"talk.socket": sockets[1]}, "--replace")
    operator.wait_until_placed("talk.service", "talk.socket")
    assert "talk-2.sock" in machine.run(["systemctl", "show", "-P", "Listen", "talk.socket"]).stdout
    assert machine.run(["systemctl", "is-active", "talk.socket"]).stdout.strip() == "active"
    assert operator.pids("talk.service") != before
