"""fleetctl with real leaders and agents over simulated systemds: each command returns when they report the state."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from fleetd.testing.simulated_units import Behaviour
from tests.fleetctl.background import BackgroundLoop
from tests.fleetctl.conftest import Fleetctl
from tests.fleetctl.small_cluster import SmallCluster

SERVICE = "[Service]\nExecStart=/bin/sleep inf\n"
ONESHOT = "[Service]\nType=oneshot\nExecStart=/bin/true\n"
BEHAVIOURS = {
    "failing.service": Behaviour(fails="exit-code"),
    "refused.service": Behaviour(refusal="Unit refused.service is masked."),
    "slow.service": Behaviour(start_s=0.5, stop_s=0.5),
}
UNITS = {
    "web.service": SERVICE,
    "job.service": ONESHOT,
    "failing.service": SERVICE,
    "refused.service": SERVICE,
    "slow.service": SERVICE,
    "follower.service": SERVICE + "[X-Fleet]\nMachineOf=leader.service\n",
    "leader.service": SERVICE,
    "nowhere.service": SERVICE + "[X-Fleet]\nMachineMetadata=number=7\n",
    "everywhere.service": SERVICE + "[X-Fleet]\nGlobal=true\n",
}


@pytest.fixture(scope="module")
def small_cluster(background: BackgroundLoop, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SmallCluster]:
    cluster = SmallCluster(background, tmp_path_factory.mktemp("c"), BEHAVIOURS)
    yield cluster
    cluster.close()


@pytest.fixture
def fleetctl(
    bare_fleetctl: Fleetctl, small_cluster: SmallCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Fleetctl]:
    """Runs a command line against the cluster, in a directory with unit files; destroys all units in the end."""
    monkeypatch.setenv("FLEETCTL_ENDPOINT", small_cluster.unix)
    for name, text in UNITS.items():
        (tmp_path / name).write_text(text)
    yield bare_fleetctl
    assert bare_fleetctl("destroy", "--ignore-missing", *UNITS).status == 0
    assert bare_fleetctl("list-units", "--no-legend").stdout == ""


def active(fleetctl: Fleetctl) -> list[list[str]]:
    return [line.split() for line in fleetctl("list-units", "--no-legend", "--fields=unit,active").stdout.splitlines()]


@pytest.mark.covers("3.8.12", "3.8.13", "10.2.9")
def test_each_command_returns_when_the_unit_has_reached_the_state(fleetctl: Fleetctl) -> None:
    place = "11111111.../10.0.0.1"
    started = fleetctl("start", "slow")
    assert (started.status, started.stderr) == (0, "")
    assert started.stdout == f"Unit slow.service inactive\nUnit slow.service launched on {place}\n"
    assert active(fleetctl) == [["slow.service", "active"]]
    assert fleetctl("start", "slow").stdout == ""
    assert fleetctl("stop", "slow").stdout == f"Unit slow.service loaded on {place}\n"
    assert active(fleetctl) == [["slow.service", "inactive"]]
    assert fleetctl("start", "slow").stdout == f"Unit slow.service launched on {place}\n"
    assert fleetctl("unload", "slow").stdout == "Unit slow.service inactive\n"
    assert active(fleetctl) == []
    assert fleetctl("load", "slow").stdout == f"Unit slow.service loaded on {place}\n"
    assert fleetctl("destroy", "slow").stdout == "Destroyed slow.service\n"
    assert active(fleetctl) == []


def test_a_oneshot_completes_each_time_it_is_started(fleetctl: Fleetctl) -> None:
    for _ in range(2):
        result = fleetctl("start", "job")
        assert (result.status, result.stderr) == (0, "")
        assert "Unit job.service launched on 11111111.../10.0.0.1\n" in result.stdout


@pytest.mark.covers("3.8.20")
@pytest.mark.parametrize(
    ("unit", "why"),
    [
        ("failing", "Unit failing.service failed on 11111111.../10.0.0.1 (failed): exit-code"),
        ("refused", "Unit refused.service failed on 11111111.../10.0.0.1: "),
    ],
)
def test_a_failed_start_is_explained_by_systemds_message(fleetctl: Fleetctl, unit: str, why: str) -> None:
    result = fleetctl("start", unit)
    assert result.status == 1
    assert result.stderr.startswith(f"Error waiting for units: {why}")
    assert ("Unit refused.service is masked." in result.stderr) is (unit == "refused")
    assert fleetctl("unload", unit).stdout == f"Unit {unit}.service inactive\n"


def test_an_unplaced_unit_is_explained_and_waited_for(fleetctl: Fleetctl) -> None:
    result = fleetctl("start", "--block-attempts=1", "nowhere")
    why = "Unit nowhere.service cannot be placed: no machine fits: metadata number=7 missing (2 machines). "
    assert (result.status, result.stderr.startswith(why)) == (1, True)
    assert fleetctl("unload", "nowhere").stdout == "Unit nowhere.service inactive\n"


def test_units_that_depend_on_each_other_start_in_any_order(fleetctl: Fleetctl) -> None:
    result = fleetctl("start", "follower", "leader")
    assert (result.status, result.stderr) == (0, "")
    assert active(fleetctl) == [["follower.service", "active"], ["leader.service", "active"]]


@pytest.mark.covers("3.6.9", "P.4")
def test_replacing_a_unit_keeps_its_machine_and_runs_the_new_content(fleetctl: Fleetctl, tmp_path: Path) -> None:
    fleetctl("start", "leader", "web")
    (tmp_path / "web.service").write_text(SERVICE + "Nice=5\n")
    result = fleetctl("start", "--replace", "web")
    assert (result.status, result.stdout, result.stderr) == (
        0,
        "Unit web.service launched on 22222222.../10.0.0.2\n",
        "",
    )
    assert fleetctl("cat", "web").stdout == SERVICE + "Nice=5\n"


@pytest.mark.covers("3.8.40")
def test_destroy_returns_when_a_global_unit_runs_on_no_machine(fleetctl: Fleetctl) -> None:
    assert fleetctl("start", "everywhere").stdout.endswith("Triggered global unit everywhere.service start\n")
    assert fleetctl("list-unit-files", "--no-legend", "--fields=target,dstate").stdout.split() == ["global", "launched"]
    assert fleetctl("destroy", "everywhere").stdout == "Destroyed everywhere.service\n"
    assert active(fleetctl) == []


def test_a_rolling_restart_returns_when_each_unit_is_proven(fleetctl: Fleetctl) -> None:
    for number in "12":
        Path(f"roll@{number}.service").write_text(SERVICE + "[X-Fleet]\nUpdateSettleSec=0\n")
    names = ["roll@1.service", "roll@2.service"]
    assert fleetctl("start", *names).status == 0
    try:
        result = fleetctl("rollout", "restart", "roll@1")
        assert (result.status, result.stderr) == (0, "")
        lines = [line.split(" after ")[0] for line in result.stdout.splitlines()]
        assert lines == [
            "roll@1.service on 11111111.../10.0.0.1 proven",
            "roll@2.service on 22222222.../10.0.0.2 proven",
            "roll@.service: done",
        ]
        assert fleetctl("rollout").stdout.startswith("roll@.service: done")
    finally:
        fleetctl("destroy", *names)


def test_a_folder_is_applied_changed_one_by_one_and_pruned(fleetctl: Fleetctl, tmp_path: Path) -> None:
    folder = tmp_path / "deploy"
    (folder / "web@.service.d").mkdir(parents=True)
    template = "[Service]\nExecStart=/bin/sleep {}\n[X-Fleet]\nInstances=3\nUpdateSettleSec=0\n"
    (folder / "web@.service").write_text(template.format("inf"))
    (folder / "web@.service.d" / "limit.conf").write_text("[Service]\nMemoryMax=1G\n")
    (folder / "everywhere.service").write_text(UNITS["everywhere.service"])
    result = fleetctl("apply", "deploy")
    assert (result.status, result.stderr) == (0, "")
    assert fleetctl("apply", "deploy").stdout == "deploy: nothing to do (5 unchanged)\n"
    (folder / "web@.service").write_text(template.format("1d"))
    result = fleetctl("apply", "deploy")
    assert (result.status, result.stderr) == (0, "")
    assert "  web@.service  changed  3 instances: restart (ExecStart= changed), one at a time" in result.stdout
    assert active(fleetctl) == [["everywhere.service", "active"]] * 2 + [
        [f"web@{number}.service", "active"] for number in (1, 2, 3)
    ]
    assert fleetctl("cat", "web@3").stdout.startswith("[Service]\nExecStart=/bin/sleep 1d\n")
    (folder / "web@.service").unlink()
    (folder / "web@.service.d" / "limit.conf").unlink()
    assert fleetctl("apply", "deploy", "--prune", "--yes").status == 0
    assert active(fleetctl) == [["everywhere.service", "active"]] * 2


def test_what_fails_is_explained_reverted_and_remembered(fleetctl: Fleetctl, tmp_path: Path) -> None:
    folder = tmp_path / "deploy"
    folder.mkdir()
    group = "[X-Fleet]\nInstances=2\nUpdateSettleSec=1s\n"
    bad = "[Service]\nRestart=always\nExecStart=/bin/sh -c 'echo no disk; exit 3'\n"

    def apply(service: str) -> tuple[int, str]:
        (folder / "web@.service").write_text(service + group)
        result = fleetctl("apply", "deploy")
        return result.status, f"{result.stdout}{result.stderr}"

    assert apply(SERVICE)[0] == 0
    status, told = apply(bad)
    assert (status, "no disk" in told, "web@.service: reverted" in told) == (1, True, True)
    assert fleetctl("scale", "web@.service", "3").status == 0
    status, told = apply(SERVICE)
    assert (status, "2 instances: nothing restarts: this runs already" in told) == (0, True)
    assert apply(SERVICE.replace("sleep inf", "other"))[0] == 0
    history = [line.split() for line in fleetctl("rollout", "history", "web@").stdout.splitlines()]
    assert [row[-1] for row in history[:4]] == ["done", "done", "reverted", "done"]  # others left older ones
    (folder / "web@.service").unlink()
    (folder / "everywhere.service").write_text(UNITS["everywhere.service"])
    assert fleetctl("apply", "deploy", "--prune", "--yes").status == 0
