"""restart: one request for each unit, and the wait for its new process."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from fleetctl.wait_outcome import Failed, Pending, Reached, check_launched, check_stopped, on_every_machine
from fleetd.api import schema
from fleetd.api.http import render_error
from fleetd.testing.simulated_units import Behaviour
from tests.fleetctl.background import BackgroundLoop
from tests.fleetctl.conftest import HELLO, Fleetctl
from tests.fleetctl.scripted_cluster import ScriptedCluster, ScriptedOutcome
from tests.fleetctl.small_cluster import SmallCluster

ON_M1 = "on 11111111.../10.0.0.1"
GLOBAL = "[Service]\nExecStart=/bin/sleep inf\n[X-Fleet]\nGlobal=true\n"
RESTART = ("POST", "/fleet/v2/restart")


@pytest.mark.covers("3.8.34", "10.2.1")
@pytest.mark.parametrize("text", ["[Service]\nExecStart=/bin/a\n", "[Service]\nExecStart=/a\n[X-Fleet]\nGlobal=true\n"])
def test_a_launched_unit_is_restarted_by_one_request(fleetctl: Fleetctl, cluster: ScriptedCluster, text: str) -> None:
    cluster.add("web.service", text, target="launched")
    result = fleetctl("restart", "web")
    assert (result.status, result.stderr, cluster.changes) == (0, "", [RESTART])
    assert result.stdout.startswith("Unit web.service launched on ")
    assert cluster.units["web.service"].restart_of > 0


@pytest.mark.covers("3.8.34", "3.8.35", "10.2.1")
def test_units_are_restarted_one_after_the_other(fleetctl: Fleetctl, cluster: ScriptedCluster) -> None:
    for name in ("web@1.service", "web@2.service"):
        cluster.add(name, target="launched")
    cluster.outcomes["web@1.service"] = ScriptedOutcome(active="failed", sub="failed", error="Result: exit-code")
    result = fleetctl("restart", "web@1", "web@2")
    assert (result.status, cluster.changes) == (1, [RESTART])
    assert result.stderr == f"Error waiting for units: Unit web@1.service failed {ON_M1} (failed): Result: exit-code\n"
    del cluster.outcomes["web@1.service"]
    assert fleetctl("restart", "web@1", "web@2").status == 0
    assert cluster.changes == [RESTART] * 3


def test_a_loaded_unit_that_runs_is_restarted_and_stays_loaded(fleetctl: Fleetctl, cluster: ScriptedCluster) -> None:
    cluster.add("web.service", target="loaded")
    cluster.report("web.service", active="active", sub="running")
    result = fleetctl("restart", "--block-attempts=1", "web")
    assert cluster.changes == [RESTART]
    assert cluster.units["web.service"].restart_of > 0
    assert cluster.targets == {"web.service": "loaded"}
    assert "launched" not in result.stdout


@pytest.mark.covers("3.8.33")
def test_restart_starts_a_loaded_unit_that_does_not_run(fleetctl: Fleetctl, cluster: ScriptedCluster) -> None:
    cluster.add("web.service", target="loaded")
    result = fleetctl("restart", "web")
    assert (result.status, result.stdout) == (0, f"Unit web.service launched {ON_M1}\n")
    assert RESTART not in cluster.changes


@pytest.mark.covers("3.8.35")
def test_a_refused_restart_is_one_line(fleetctl: Fleetctl, cluster: ScriptedCluster) -> None:
    cluster.add("web.service", target="launched")
    refusal = render_error(503, "no leader")
    cluster.intercept = lambda method, path: refusal if method == "POST" else None
    result = fleetctl("restart", "web")
    assert (result.status, result.stdout) == (1, "")
    assert result.stderr == "Error restarting unit web.service: Error 503: no leader\n"


@pytest.mark.covers("3.8.8", "3.8.35")
def test_a_restart_that_takes_too_long_is_a_timeout(fleetctl: Fleetctl, cluster: ScriptedCluster) -> None:
    cluster.add("web.service", target="launched")
    cluster.outcomes["web.service"] = ScriptedOutcome(active="activating", sub="start-pre")
    result = fleetctl("restart", "--block-attempts=1", "web")
    assert (result.status, result.stdout) == (1, "")
    first, second = result.stderr.splitlines()
    assert first.startswith("Error waiting for units: timed out waiting for unit web.service to report state launched")
    assert second.startswith("Error waiting for unit states, exit status: timed out waiting for unit web.service")


def test_a_unit_that_is_unloaded_meanwhile_is_an_error(fleetctl: Fleetctl, cluster: ScriptedCluster) -> None:
    cluster.add("web.service", target="launched")

    def stop(method: str, path: str) -> None:
        if method == "POST":
            cluster.set_target("web.service", "inactive")

    cluster.intercept = stop
    result = fleetctl("restart", "web")
    assert result.status == 1
    assert "is inactive, so there is nothing to restart: start it instead" in result.stderr


@pytest.mark.covers("3.8.32")
def test_an_inactive_unit_is_not_restarted_and_the_others_are(fleetctl: Fleetctl, cluster: ScriptedCluster) -> None:
    cluster.add("idle.service")
    cluster.add("web.service", target="launched")
    result = fleetctl("restart", "idle", "web")
    assert result.status == 1
    assert result.stderr.splitlines()[0] == "Unable to restart unit idle.service in state inactive"
    assert cluster.changes == [RESTART]


@pytest.mark.covers("3.8.31")
def test_an_unknown_unit_with_a_file_is_submitted_but_not_started(
    fleetctl: Fleetctl, cluster: ScriptedCluster, hello: Path
) -> None:
    result = fleetctl("restart", "hello")
    assert (result.status, result.stdout) == (0, "Unit hello.service inactive\n")
    assert cluster.targets_asked == [("hello.service", "inactive")]


@pytest.mark.covers("3.5.3", "3.8.31")
def test_an_unknown_unit_without_a_file_fails_before_any_restart(fleetctl: Fleetctl, cluster: ScriptedCluster) -> None:
    cluster.add("web.service", target="launched")
    result = fleetctl("restart", "web", "none")
    assert (result.status, result.stdout, cluster.targets_asked) == (1, "", [])
    assert result.stderr == "Error creating units: unable to find Unit(none.service) in Registry or on filesystem\n"


@pytest.mark.covers("3.8.1")
def test_restart_without_units_exits_with_0(fleetctl: Fleetctl) -> None:
    result = fleetctl("restart")
    assert (result.status, result.stdout, result.stderr) == (0, "", "No units given\n")


def test_restart_refuses_a_machine_that_the_unit_is_not_on(fleetctl: Fleetctl, cluster: ScriptedCluster) -> None:
    cluster.add("web.service", target="launched")
    assert fleetctl("restart", "--machine=111", "web").status == 0
    result = fleetctl("restart", "--machine=222", "web")
    assert (result.status, result.stderr) == (
        1,
        "Unit web.service is not on a machine 222, but on 11111111.../10.0.0.1\n",
    )


@pytest.fixture
def small_cluster(background: BackgroundLoop, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SmallCluster]:
    cluster = SmallCluster(
        background, tmp_path_factory.mktemp("c"), {"slow.service": Behaviour(start_s=0.3, stop_s=0.3)}
    )
    yield cluster
    cluster.close()


@pytest.mark.covers("3.8.34", "3.8.41", "10.2.1", "10.2.2")
def test_leader_and_agents_restart_units_of_every_kind(
    bare_fleetctl: Fleetctl, small_cluster: SmallCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLEETCTL_ENDPOINT", small_cluster.unix)
    for name, text in {"slow.service": HELLO, "all.service": GLOBAL, "web@.service": HELLO}.items():
        (tmp_path / name).write_text(text)
    assert bare_fleetctl("start", "slow", "web@1", "all").status == 0
    result = bare_fleetctl("restart", "--block-attempts=3", "slow", "web@1", "all")
    assert result.status == 0, result.stderr
    lines = [line.rpartition(" on ") for line in result.stdout.splitlines()]
    assert [head for head, _, _ in lines] == [f"Unit {name}.service launched" for name in ("slow", "web@1", "all")]
    assert {place for head, _, place in lines if "all" in head} == {"2 machines"}
    active = bare_fleetctl("list-units", "--no-legend", "--fields=unit,active").stdout.split()
    assert active[1::2] == ["active"] * 4


# Global units


def allocation(**changes: object) -> schema.AllocationReport:
    return schema.AllocationReport(**{"machine": "1" * 32, "active": "active", "generation": 5, **changes})  # type: ignore[arg-type]


def report(*allocations: schema.AllocationReport, decided: int = 5, machines: int = 0) -> schema.UnitReport:
    return schema.UnitReport(
        "g.service",
        "launched",
        5,
        is_global=True,
        decided=decided,
        machines=machines or len(allocations),
        allocations=allocations,
    )


@pytest.mark.covers("3.8.41", "10.2.2")
@pytest.mark.parametrize(
    ("seen", "stopped", "launched"),
    [
        (report(allocation(), allocation()), Pending, Reached),
        (report(allocation(active="inactive")), Reached, Failed),
        (report(allocation(active="inactive", completed=True)), Reached, Reached),
        (report(allocation(active="failed")), Reached, Failed),
        (report(allocation(active="inactive", error="masked")), Reached, Failed),
        (report(allocation(active="activating"), allocation(active="failed")), Pending, Failed),
        (report(allocation(active="activating"), allocation()), Pending, Pending),
        (report(allocation(), allocation(active="inactive", generation=4)), Pending, Pending),
        (report(allocation(generation=4)), Pending, Pending),
        (report(allocation(active="inactive", generation=4)), Pending, Pending),
        (report(allocation(), decided=4), Pending, Pending),
        (report(allocation(), machines=2), Pending, Pending),
        (report(), Reached, Reached),
        (report(allocation(superseded=True, generation=1), machines=0), Pending, Pending),
    ],
)
def test_a_global_unit_counts_once_it_has_restarted_everywhere(
    seen: schema.UnitReport, stopped: type, launched: type
) -> None:
    assert isinstance(on_every_machine(check_stopped)(seen, 5), stopped)
    assert isinstance(on_every_machine(check_launched)(seen, 5), launched)
