"""Placement on real machines: every constraint, and the reason where no machine fits."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from contrib.testbed import Cluster
from tests.cluster.operator import SLEEPER, Operator, with_fleet


@pytest.fixture(scope="module")
def _zones() -> Iterator[Cluster]:
    with Cluster([{"metadata": "zone=a,disk=ssd"}, {"metadata": "zone=b"}, {"metadata": "zone=b"}]) as cluster:
        yield cluster


@pytest.fixture
def zones(_zones: Cluster, tmp_path: Path) -> Iterator[Operator]:
    """An operator of a cluster whose first machine is in zone a and the others in zone b."""
    yield Operator(_zones, tmp_path)
    _zones.destroy_all_units()


@pytest.mark.covers("2.3.1")
def test_machine_id_accepts_the_full_and_the_short_id(zones: Operator) -> None:
    third = zones.cluster.machines[2]
    zones.start({"full.service": with_fleet(f"MachineID={third.id}")})
    zones.start({"short.service": with_fleet(f"MachineID={third.id[:8]}")})
    assert zones.machine_of("full.service") is third
    assert zones.machine_of("short.service") is third


@pytest.mark.covers("2.3.2", "2.4.1", "5.3.9")
def test_metadata_is_required_and_repeated_values_are_alternatives(zones: Operator) -> None:
    zones.start({"fast.service": with_fleet("MachineMetadata=disk=ssd", "MachineMetadata=zone=a")})
    zones.start({f"any-{n}.service": with_fleet('MachineMetadata="zone=a" "zone=b"') for n in range(2)})
    assert zones.machine_of("fast.service") is zones.cluster.machines[0]


@pytest.mark.covers("2.3.6", "P.5", "R.5")
def test_a_unit_without_a_machine_counts_machines_for_each_reason(zones: Operator) -> None:
    zones.start({"first.service": with_fleet("MachineMetadata=zone=a")})
    rival = {"rival.service": with_fleet("MachineMetadata=zone=a", "Conflicts=first.service")}
    result = zones.start(rival, "--block-attempts=1", check=False)
    assert result.returncode == 1
    assert "rival.service" in result.stderr
    assert "2 " in result.stderr
    assert "metadata zone=a missing" in result.stderr
    assert "1 " in result.stderr
    assert "conflicts with first.service" in result.stderr


def test_a_unit_without_a_machine_starts_when_one_fits(zones: Operator) -> None:
    zones.start({"first.service": with_fleet("MachineMetadata=zone=a")})
    rival = {"rival.service": with_fleet("MachineMetadata=zone=a", "Conflicts=first.service")}
    zones.start(rival, "--block-attempts=1", check=False)
    zones.cluster.fleetctl("destroy", "first.service")
    zones.wait_until_placed("rival.service")


@pytest.mark.covers("2.3.4", "2.6.1")
@pytest.mark.parametrize("bearer", ["new", "old"])
def test_a_conflict_counts_in_whichever_of_the_two_units_it_stands(zones: Operator, bearer: str) -> None:
    texts = {
        "new": {"a.service": SLEEPER, "b.service": with_fleet("Conflicts=a.service")},
        "old": {"a.service": with_fleet("Conflicts=b.*"), "b.service": SLEEPER},
    }[bearer]
    fillers = {f"filler-{n}.service": SLEEPER for n in range(2)}
    for unit, text in {**fillers, **texts}.items():
        zones.start({unit: text})
    assert zones.machine_of("a.service") is not zones.machine_of("b.service")


def test_conflicting_instances_run_one_on_each_machine_and_the_fourth_waits(zones: Operator) -> None:
    zones.write({"solo@.service": with_fleet("Conflicts=solo@*.service")})
    path = str(zones.folder / "solo@")
    zones.cluster.fleetctl("start", *(f"{path}{n}.service" for n in (1, 2, 3)))
    fourth = zones.cluster.fleetctl("start", "--block-attempts=1", f"{path}4.service", check=False)
    assert fourth.returncode == 1
    assert "conflicts with solo@" in fourth.stderr


@pytest.mark.covers("2.5.3")
def test_machine_of_places_a_unit_beside_its_peer(zones: Operator) -> None:
    zones.start({"peer.service": with_fleet("MachineMetadata=zone=a")})
    zones.start({"follower.service": with_fleet("MachineOf=peer.service")})
    assert zones.machine_of("follower.service") is zones.cluster.machines[0]
    zones.start({"peer.service": with_fleet("MachineMetadata=zone=b")}, "--replace")
    zones.wait_until_placed("peer.service", "follower.service")
    zones.cluster.wait_until(
        "they share a machine in zone b",
        lambda: zones.placed()["peer.service"] == zones.placed()["follower.service"] != [zones.cluster.machines[0].id],
    )


@pytest.mark.covers("2.5.2")
def test_machine_of_waits_for_its_peer(zones: Operator) -> None:
    follower = {"follower.service": with_fleet("MachineOf=later.service")}
    result = zones.start(follower, "--block-attempts=1", check=False)
    assert result.returncode == 1
    assert "later.service is not there" in result.stderr
    zones.start({"later.service": SLEEPER})
    zones.wait_until_placed("follower.service")
    assert zones.machine_of("follower.service") is zones.machine_of("later.service")


@pytest.mark.covers("2.7.1", "3.8.39")
def test_a_global_unit_runs_on_every_machine_with_its_metadata(zones: Operator) -> None:
    everywhere = {machine.id for machine in zones.cluster.machines}
    result = zones.start(
        {
            "all.service": with_fleet("Global=true"),
            "some.service": with_fleet("Global=true", "MachineMetadata=zone=b"),
        }
    )
    assert "Triggered global unit all.service start" in result.stdout
    zones.cluster.wait_until(
        "the global units run on all their machines",
        lambda: (
            set(zones.placed().get("all.service", [])) == everywhere
            and set(zones.placed().get("some.service", [])) == {m.id for m in zones.cluster.machines[1:]}
        ),
    )


@pytest.mark.covers("2.7.2", "P.14")
def test_a_global_unit_skips_the_machine_of_a_conflicting_unit(zones: Operator) -> None:
    zones.start({"there.service": SLEEPER})
    holder = zones.machine_of("there.service")
    zones.start({"shy.service": with_fleet("Global=true", "Conflicts=there.service")})
    others = sorted(machine.id for machine in zones.cluster.machines if machine is not holder)
    zones.cluster.wait_until("the global runs elsewhere", lambda: zones.placed().get("shy.service") == others)


@pytest.mark.covers("2.8.1")
def test_replaces_moves_the_other_unit_to_another_machine(zones: Operator) -> None:
    zones.start({"old.service": with_fleet('MachineMetadata="zone=a" "zone=b"')})
    former = zones.machine_of("old.service")
    zones.start({"new.service": with_fleet("Replaces=old.service", f"MachineMetadata=zone={_zone(zones, former.id)}")})
    if zones.machine_of("new.service") is former:
        zones.cluster.wait_until(
            "the old one has moved", lambda: zones.placed().get("old.service", [former.id]) != [former.id]
        )
    zones.wait_until_placed("old.service", "new.service")
    assert zones.machine_of("old.service") is not zones.machine_of("new.service")


@pytest.mark.covers("2.4.3", "2.10.4")
def test_metadata_set_by_an_operator_moves_units_that_no_longer_fit(zones: Operator) -> None:
    first = zones.cluster.machines[0]
    zones.start({"fast.service": with_fleet("MachineMetadata=disk=ssd")})
    _set_metadata(zones, first.id, "disk", "rust")
    zones.cluster.wait_until("the unit has left", lambda: "fast.service" not in zones.placed())
    assert first.main_pid("fast.service") == 0
    _set_metadata(zones, first.id, "disk", "ssd")
    zones.wait_until_placed("fast.service")


@pytest.mark.covers("2.7.6", "2.9.2")
def test_a_new_machine_gets_global_units_and_no_running_unit(
    new_cluster: Callable[..., Cluster], tmp_path: Path
) -> None:
    operator = Operator(new_cluster(machines=1), tmp_path)
    operator.start({"stay-1.service": SLEEPER, "stay-2.service": SLEEPER, "all.service": with_fleet("Global=true")})
    before = operator.pids("stay-1.service", "stay-2.service")
    joined = operator.cluster.add_machine()
    operator.cluster.wait_until("the global is on both", lambda: joined.id in operator.placed().get("all.service", []))
    assert operator.pids("stay-1.service", "stay-2.service") == before
    operator.start({"new.service": SLEEPER})
    assert operator.machine_of("new.service") is joined


def _zone(operator: Operator, machine_id: str) -> str:
    return "a" if machine_id == operator.cluster.machines[0].id else "b"


def _set_metadata(operator: Operator, machine_id: str, key: str, value: str) -> None:
    """No command does this: operators use curl."""
    machine = operator.cluster.machines[1]
    body = f'[{{"op":"replace","path":"/{machine_id}/metadata/{key}","value":"{value}"}}]'
    machine.run(
        ["curl", "-fsS", "--unix-socket", "/run/fleet.sock", "-X", "PATCH", "-d", body, "http://x/fleet/v1/machines"]
    )
