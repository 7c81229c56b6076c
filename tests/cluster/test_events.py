"""`fleetctl events -f` on real machines: what serves it is killed, and so is the leader; also through an SSH tunnel."""

import json
import os
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from contrib.testbed import Cluster
from contrib.testbed.machine import Machine
from tests.cluster.operator import SLEEPER, Operator
from tests.cluster.remote_operator import FLEETCTL, RemoteOperator

AROUND_THE_STREAM = ("state", "gap")
Line = dict[str, Any]


class Follower:
    """A `fleetctl events -f` that runs."""

    def __init__(self, command: list[str], output: Path, environment: Mapping[str, str]) -> None:
        self._output = output
        with output.open("wb") as file, output.with_suffix(".err").open("wb") as errors:
            self.process = subprocess.Popen(command, stdout=file, stderr=errors, env=dict(environment))

    @property
    def lines(self) -> list[Line]:
        """What it has printed; the last line may not be whole yet."""
        return [json.loads(line) for line in self._output.read_bytes().split(b"\n")[:-1]]

    @property
    def events(self) -> list[Line]:
        """The events of the cluster that it has printed."""
        return [line for line in self.lines if line["kind"] not in AROUND_THE_STREAM]

    def told(self, unit: str) -> bool:
        """True if it has printed something about the unit."""
        return any(line.get("unit") == unit for line in self.lines)


@contextmanager
def followers(cluster: Cluster, folder: Path) -> Iterator[list[Follower]]:
    """One at the socket of the first machine, and one through the SSH tunnel to the last."""
    arguments = ["events", "-f", "--output=json"]
    remote = RemoteOperator(cluster, folder)
    remote.install_key()
    remote.write_known_hosts()
    remote.reach_by_tunnel()
    found = [
        Follower([*cluster.fleetctl_command(cluster.machines[0]), *arguments], folder / "near", os.environ),
        Follower([FLEETCTL, *arguments], folder / "far", remote.environment),
    ]
    try:
        yield found
    finally:
        for each in found:
            each.process.kill()
            each.process.wait()


def kept(cluster: Cluster) -> list[Line]:
    """All events that are kept."""
    return [json.loads(line) for line in cluster.fleetctl("events", "--output=json").stdout.splitlines()]


def kill_fleetd(machine: Machine) -> None:
    machine.run(["systemctl", "kill", "--signal=KILL", "--kill-whom=all", "fleet.service"])


@pytest.fixture(scope="module")
def watched() -> Iterator[Cluster]:
    with Cluster(machines=3, ssh=True) as cluster:
        yield cluster


@pytest.fixture
def operator(watched: Cluster, tmp_path: Path) -> Iterator[Operator]:
    (tmp_path / "units").mkdir()
    yield Operator(watched, tmp_path / "units")
    watched.destroy_all_units()


def wait_until_told(operator: Operator, following: list[Follower], unit: str) -> None:
    """Wait until all followers have told of this unit, which is started until then: they tell what happens after they
    have come."""

    def are_told() -> bool:
        operator.start({unit: SLEEPER})
        operator.cluster.fleetctl("stop", unit)
        return all(each.told(unit) for each in following)

    operator.cluster.wait_until(f"all followers tell of {unit}", are_told)


def test_followers_miss_nothing_and_repeat_nothing_while_every_fleetd_is_killed(
    operator: Operator, tmp_path: Path
) -> None:
    cluster = operator.cluster
    with followers(cluster, tmp_path) as following:
        wait_until_told(operator, following, "first.service")
        for number, machine in enumerate((*cluster.machines, operator.leader())):
            names = [f"{number}-{each}.service" for each in "abc"]
            operator.start(dict.fromkeys(names, SLEEPER), "--no-block")
            kill_fleetd(machine)
            cluster.wait_ready()
            operator.wait_until_placed(*names)
            cluster.fleetctl("destroy", names[0])
        wait_until_told(operator, following, "last.service")
        for each in following:
            first = each.events[0]

            def agrees(each: Follower = each, first: Line = first) -> bool:
                found = kept(cluster)
                return each.events == found[found.index(first) :]

            cluster.wait_until("the follower has told each event once, in order", agrees)
            assert [line for line in each.lines if line["kind"] == "gap"] == []
            assert {line["unit"] for line in each.events if line["kind"] == "placed"} >= {"3-a.service", "last.service"}


def test_a_fleetd_that_is_asked_to_stop_ends_the_streams_and_stops(operator: Operator, tmp_path: Path) -> None:
    cluster = operator.cluster
    served = cluster.machines[0]
    with followers(cluster, tmp_path) as following:
        wait_until_told(operator, following, "before.service")
        served.run(["systemctl", "stop", "fleet.service"])
        assert served.show("fleet.service", "Result") == "success"
        served.run(["systemctl", "start", "fleet.service"])
        cluster.wait_ready()
        wait_until_told(operator, following, "after.service")
        assert all(each.process.poll() is None for each in following)
