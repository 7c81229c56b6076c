"""Units of several kinds that need each other: together on one machine, and again after it was switched off and on."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from contrib.testbed import Cluster, Machine
from tests.cluster.operator import SLEEPER, Operator, with_fleet

# Each pair by the unit that is started; its other half has MachineOf= it.
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
def test_pairs_of_every_kind_work_on_the_machine_they_share_before_and_after_a_reboot(
    new_cluster: Callable[..., Cluster], tmp_path: Path
) -> None:
    person = Operator(new_cluster(machines=3, config={"agent_ttl": "24s"}), tmp_path)  # none is taken for dead
    followers = {name: with_fleet(f"MachineOf={LEADS[name]}", service=text) for name, text in FOLLOWERS.items()}
    triggered = {name: with_fleet(f"MachineOf={LEADS[name]}", service=text) for name, text in TRIGGERED.items()}
    person.cluster.fleetctl("load", *person.write(STARTED | triggered))
    person.start(STARTED | followers)
    assert_work(person)
    before = person.placed()
    for machine in person.cluster.machines:
        machine.run(["sh", "-c", "rm -f /var/lib/*.service"])
    with ThreadPoolExecutor() as pool:
        list(pool.map(Machine.reboot, person.cluster.machines))
    person.cluster.wait_ready()
    person.wait_until_placed(*STARTED, *FOLLOWERS)
    assert {unit: person.placed()[unit] for unit in STARTED} == {unit: before[unit] for unit in STARTED}
    assert_work(person)
    assert_what_its_socket_started_is_stopped(person)


def assert_what_its_socket_started_is_stopped(person: Operator) -> None:
    """It runs although it is only loaded: `stop` stops it. Its socket, whose caller waits, would start it again; so
    the socket is stopped first."""
    machine = person.machine_of("talk.socket")
    before = machine.main_pid("talk.service")
    assert before > 1
    person.cluster.fleetctl("stop", "talk.service")
    assert machine.main_pid("talk.service") != before
    person.cluster.fleetctl("stop", "talk.socket")
    person.cluster.fleetctl("stop", "talk.service")
    assert machine.show("talk.service", "ActiveState") == "inactive"


def assert_work(person: Operator) -> None:
    """Each unit runs beside its other half, and what is to be triggered is, by what is to trigger it."""
    for follower in FOLLOWERS:
        assert person.machine_of(follower) is person.machine_of(LEADS[follower])
        assert person.machine_of(follower).main_pid(follower) > 1
    assert person.machine_of("boxed.service").run(["mountpoint", "/mnt/box"]).returncode == 0
    person.machine_of("drop.path").path("/run/dropped").touch()
    connect = ["curl", "--silent", "--max-time", "0.2", "--unix-socket", "/run/talk.sock", "http://anybody"]
    person.machine_of("talk.socket").run(connect, check=False)  # nobody answers: to be started by it is all that counts
    for unit in TRIGGERED:
        machine = person.machine_of(LEADS[unit])
        person.cluster.wait_until(f"{LEADS[unit]} triggers {unit}", (machine.root / f"var/lib/{unit}").exists)
