"""Containers on real machines, with podman and a registry."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from contrib.testbed import Cluster, Machine
from tests.cluster.container_registry import ContainerRegistry, container
from tests.cluster.operator import Operator

WITHIN_S = 120.0
EVENTS = "fleet-podman-events.service"
WATCHED = "\n[X-Fleet]\nAnnounce=web 8080\nCheck=container\n"


class Fleet:
    """A cluster with a registry, and its operator."""

    def __init__(self, cluster: Cluster, folder: Path) -> None:
        self.cluster = cluster
        self.operator = Operator(cluster, folder)
        self.registry = ContainerRegistry(cluster, cluster.machines[0])

    def expect(self, what: str, holds: Callable[[], bool]) -> None:
        """Wait until this holds."""
        self.cluster.wait_until(what, holds, WITHIN_S)


@pytest.fixture
def fleet(new_cluster: Callable[..., Cluster], tmp_path: Path) -> Fleet:
    return Fleet(new_cluster(machines=2), tmp_path)


def podman(machine: Machine, *arguments: str) -> list[str]:
    """The lines that podman prints."""
    return machine.run(["podman", *arguments]).stdout.split("\n")[:-1]


def names(machine: Machine) -> list[str]:
    """The containers that run on a machine."""
    return podman(machine, "ps", "--format", "{{.Names}}")


def test_a_container_lives_as_any_unit_does(fleet: Fleet) -> None:
    image = fleet.registry.push("hello:1", "one")
    fleetctl = fleet.cluster.fleetctl
    files = {"hello.container": container(image, "Volume=data.volume:/data"), "data.volume": "[Volume]\nLabel=a=b\n"}
    [path, _] = fleet.operator.write(files)
    fleetctl("start", path)
    here = fleet.operator.machine_of("hello.service")
    fleet.expect("the container runs", lambda: names(here) == ["systemd-hello"])
    assert podman(here, "volume", "ls", "--format", "{{.Name}} {{.Labels}}") == ["systemd-data map[a:b]"]
    assert here.show("hello.service", "Type") == "notify"
    fleet.expect("its output is in the journal", lambda: "one" in fleetctl("journal", "hello").stdout.split())
    assert fleetctl("cat", "hello.container").stdout.startswith("[Container]\nImage=")

    fleetctl("restart", "hello.container")
    fleet.expect("the container runs again", lambda: names(here) == ["systemd-hello"])

    fleetctl("drain", here.id)
    there = fleet.operator.other_machine(here)
    fleet.expect("it is on the other machine", lambda: fleet.operator.placed().get("hello.service") == [there.id])
    fleet.expect("it runs there alone", lambda: (names(here), names(there)) == ([], ["systemd-hello"]))

    fleetctl("destroy", "hello.container")
    fleet.expect("the container is gone", lambda: names(there) == [])


def test_a_tag_that_moves_is_rolled_out_by_update(fleet: Fleet) -> None:
    """What machines run does not depend on when they pull."""
    fleetctl = fleet.cluster.fleetctl
    image = fleet.registry.push("web:1", "one")
    files = {"web@.container": container(image, sections="\n[X-Fleet]\nInstances=2\nConflicts=web@*\n")}
    fleet.operator.write(files)
    fleetctl("apply", "--set=web", str(fleet.operator.folder))
    fleet.expect("both say one", lambda: said_by_all(fleet) == ["one", "one"])
    fleet.registry.push("web:1", "two")
    assert fleetctl("apply", "--set=web", str(fleet.operator.folder)).stderr == ""
    fleetctl("restart", "web@1", "web@2")
    fleet.expect("both say one", lambda: said_by_all(fleet) == ["one", "one"])
    updated = fleetctl("update", "web@.container")
    assert f"Unit web@.service: {image} was sha256:" in updated.stdout
    fleet.expect("both say two", lambda: said_by_all(fleet) == ["two", "two"])
    assert "as before" in fleetctl("update", "web@").stdout


def said_by_all(fleet: Fleet) -> list[str]:
    """The versions in the containers that run, on all machines; of one that ends meanwhile, ''."""
    found = [(machine, name) for machine in fleet.cluster.machines for name in names(machine)]
    return sorted(
        machine.run(["podman", "exec", name, "/bin/cat", "/version"], check=False).stdout.strip()
        for machine, name in found
    )


def test_a_container_starts_elsewhere_when_its_machine_is_lost(fleet: Fleet) -> None:
    """The registry is on the machine that stays."""
    image = fleet.registry.push("hello:1", "one")
    here, there = fleet.cluster.machines
    fleet.cluster.fleetctl("cordon", here.id)
    fleet.operator.start({"hello.container": container(image)})
    assert fleet.operator.machine_of("hello.service") is there
    fleet.cluster.fleetctl("uncordon", here.id)
    there.power_cut()
    fleet.expect("it runs on the other machine", lambda: names(here) == ["systemd-hello"])


def test_a_container_is_announced_while_podman_calls_it_healthy(fleet: Fleet) -> None:
    """podman, fleetd and the events of podman come and go meanwhile."""
    fleetctl = fleet.cluster.fleetctl
    image = fleet.registry.push("web:1", "one")
    check = ("HealthCmd=/bin/cat /ok", "HealthInterval=1s", "HealthRetries=2")
    fleet.operator.write({"web.container": container(image, *check, sections=WATCHED)})
    fleetctl("start", str(fleet.operator.folder / "web.container"))
    here = fleet.operator.machine_of("web.service")

    def say_ok() -> None:
        podman(here, "exec", "systemd-web", "/bin/sh", "-c", "echo >/ok")

    def take_ok() -> None:
        podman(here, "exec", "systemd-web", "/bin/busybox", "rm", "/ok")

    def is_announced() -> bool:
        listed = json.loads(fleetctl("services", "--output=json", "web", check=False).stdout or "[]")
        return [each["failing"] for each in listed] == [None]

    fleet.expect("it is unhealthy", lambda: "is unhealthy" in fleetctl("services").stdout)
    say_ok()
    fleet.expect("it is announced", is_announced)
    take_ok()
    fleet.expect("it is not", lambda: not is_announced())
    here.run(["systemctl", "kill", "--signal=KILL", EVENTS])
    say_ok()
    fleet.expect("it is announced again", is_announced)
    here.run(["systemctl", "restart", "fleet.service"])
    take_ok()
    fleet.expect("it is not again", lambda: not is_announced())
    say_ok()
    fleet.expect("it is announced at last", is_announced)
    assert here.show(EVENTS, "ActiveState") == "active"
    fleetctl("stop", "web")
    fleet.expect("nothing listens", lambda: here.show(EVENTS, "ActiveState") == "inactive")


def test_an_image_that_is_not_there_is_named_in_the_failure(fleet: Fleet) -> None:
    started = fleet.operator.start({"lost.container": container(f"{fleet.registry.location}/lost:1")}, check=False)
    assert started.returncode == 1
    assert "manifest unknown" in started.stderr
