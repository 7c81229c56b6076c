"""Images of containers on real machines: nothing is stopped before what follows it is there."""

from collections.abc import Callable
from pathlib import Path

import pytest

from contrib.testbed import Cluster
from tests.cluster.container_registry import container
from tests.cluster.test_containers import Fleet, names, podman

HELLO = "hello.service"


@pytest.fixture
def fleet(new_cluster: Callable[..., Cluster], tmp_path: Path) -> Fleet:
    return Fleet(new_cluster(machines=2), tmp_path)


def test_a_unit_runs_on_until_its_new_machine_has_the_image(fleet: Fleet) -> None:
    """It stays while the registry is away, and leaves when it is back."""
    fleetctl, operator = fleet.cluster.fleetctl, fleet.operator
    image = fleet.registry.push("hello:1", "one")
    operator.start({"hello.container": container(image)})
    here = operator.machine_of(HELLO)
    there = operator.other_machine(here)
    pid = here.main_pid(HELLO)
    fleet.registry.stop()
    fleetctl("drain", "--no-block", here.id)
    fleet.expect("it says why it stays", lambda: "cannot get the image" in fleetctl("explain", HELLO).stdout)
    assert (here.main_pid(HELLO), podman(there, "images", "--quiet")) == (pid, [])
    fleet.registry.start()
    fleet.expect("it has moved", lambda: operator.placed().get(HELLO) == [there.id])
    fleet.expect("it runs there alone", lambda: (names(here), names(there)) == ([], ["systemd-hello"]))
    assert "fleet-pull-" in there.run(["journalctl", "--output=cat", "--no-pager"]).stdout

    fleetctl("uncordon", here.id)
    fleet.registry.stop()
    fleetctl("drain", there.id)  # what is there is asked for nowhere
    assert operator.placed()[HELLO] == [here.id]


def test_an_image_that_cannot_be_had_stops_nothing(fleet: Fleet) -> None:
    operator = fleet.operator
    image = fleet.registry.push("hello:1", "one")
    operator.start({"hello.container": container(image)})
    here = operator.machine_of(HELLO)
    pid = here.main_pid(HELLO)
    lost = f"{fleet.registry.location}/hello@sha256:{'0' * 64}"
    changed = operator.start({"hello.container": container(lost)}, "--replace", check=False)
    assert changed.returncode == 1
    assert "cannot get the image" in changed.stderr
    assert "manifest unknown" in changed.stderr
    assert here.main_pid(HELLO) == pid

    operator.start({"lost.container": container(lost)}, "--no-block")
    fleet.expect("each machine has tried it", lambda: "(2 machines)" in why_unplaced(fleet, "lost.service"))
    assert "no machine fits: machine cannot get the image" in why_unplaced(fleet, "lost.service")


def why_unplaced(fleet: Fleet, unit: str) -> str:
    """What status says of a unit that is on no machine."""
    answer = fleet.cluster.fleetctl("status", unit, check=False)
    return answer.stdout + answer.stderr
