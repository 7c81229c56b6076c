"""contrib/migrate.py between two clusters, of which the old one knows only version 1 of the API."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from fleetd.api.http import Response, render_error
from fleetd.model.admission import refuse_name
from tests.fleetctl.background import BackgroundLoop
from tests.fleetctl.conftest import HELLO
from tests.fleetctl.scripted_cluster import ScriptedCluster, ScriptedOutcome

ROOT = Path(__file__).parents[2]
OTHER = "[Service]\nExecStart=/bin/false\n"
Migrate = Callable[..., subprocess.CompletedProcess[str]]


def answer_only_version_1(method: str, path: str) -> Response | None:
    """An `intercept`: as CoreOS fleet does."""
    return Response(404) if path.startswith("/fleet/v2") else None


@pytest.fixture
def old(background: BackgroundLoop, tmp_path: Path) -> Iterator[ScriptedCluster]:
    with closing(ScriptedCluster(background, f"{tmp_path}/old.sock")) as cluster:
        cluster.intercept = answer_only_version_1
        cluster.add("web@.service", HELLO)
        cluster.add("web@1.service", HELLO, target="launched")
        cluster.add("job.service", HELLO, target="loaded")
        cluster.add("idle.service", HELLO)
        yield cluster


@pytest.fixture
def new(background: BackgroundLoop, tmp_path: Path) -> Iterator[ScriptedCluster]:
    with closing(ScriptedCluster(background, f"{tmp_path}/new.sock")) as cluster:
        yield cluster


def command(directory: Path, *arguments: str) -> list[str]:
    places = ["--from", f"unix://{directory}/old.sock", "--to", f"unix://{directory}/new.sock"]
    return [sys.executable, str(ROOT / "contrib/migrate.py"), *places, *arguments]


ENVIRONMENT = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)}


@pytest.fixture
def migrate(old: ScriptedCluster, new: ScriptedCluster, tmp_path: Path) -> Migrate:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(command(tmp_path, *arguments), capture_output=True, text=True, env=ENVIRONMENT)

    return run


def results(done: subprocess.CompletedProcess[str]) -> dict[str, str]:
    rows = [line.split(maxsplit=2) for line in done.stdout.splitlines()[1:]]
    return {name: result for name, _, result in rows}


ALL = {"idle.service": "inactive", "job.service": "loaded", "web@.service": "inactive", "web@1.service": "launched"}


def test_every_unit_is_copied_with_its_content_and_target_state(
    migrate: Migrate, old: ScriptedCluster, new: ScriptedCluster
) -> None:
    done = migrate()
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[0].split() == ["UNIT", "TARGET", "MIGRATION"]
    assert results(done) == dict.fromkeys(ALL, "carried")
    assert new.targets == ALL
    assert {name: unit.text for name, unit in new.units.items()} == {
        name: unit.text for name, unit in old.units.items()
    }
    assert old.targets == ALL


def test_a_dry_run_prints_the_same_and_changes_nothing(
    migrate: Migrate, old: ScriptedCluster, new: ScriptedCluster
) -> None:
    old.requests.clear()
    done = migrate("--dry-run", "--move")
    assert results(done) == dict.fromkeys(ALL, "carried")
    assert {method for method, _ in old.requests + new.requests} == {"GET"}
    assert migrate().stdout == done.stdout


def test_a_second_run_changes_nothing(migrate: Migrate, new: ScriptedCluster) -> None:
    migrate()
    new.requests.clear()
    done = migrate()
    assert done.returncode == 0
    assert set(results(done).values()) == {"as it is: the new cluster has it already"}
    assert {method for method, _ in new.requests} == {"GET"}


def test_a_unit_that_cannot_be_copied_is_listed_with_the_reason(
    migrate: Migrate, old: ScriptedCluster, new: ScriptedCluster
) -> None:
    new.add("idle.service", OTHER)
    new.add("job.service", HELLO, target="inactive")
    old.add("dbus.service", HELLO)
    old.add("odd.service", "[X-Fleet]\nMachineID=a\nGlobal=true\n")
    done = migrate()
    assert done.returncode == 1
    assert results(done) == {
        "dbus.service": f"left: {refuse_name('dbus.service')}",
        "idle.service": "left: the new cluster has another unit of this name",
        "job.service": "left: the new cluster has it with target state inactive",
        "odd.service": "left: MachineID cannot be used with Global",
        "web@.service": "carried",
        "web@1.service": "carried",
    }
    assert new.targets == {**ALL, "job.service": "inactive"}
    assert new.units["idle.service"].text != old.units["idle.service"].text


def test_a_unit_that_the_new_cluster_refuses_is_named(migrate: Migrate, new: ScriptedCluster) -> None:
    refusal = render_error(400, "full")
    new.intercept = lambda method, path: refusal if (method, path) == ("PUT", "/fleet/v1/units/job.service") else None
    done = migrate()
    assert (done.returncode, done.stderr) == (1, "job.service: Error 400: full\n")
    assert set(new.targets) == set(ALL) - {"job.service"}


def test_a_moved_unit_starts_after_the_old_cluster_has_stopped_it(
    migrate: Migrate, old: ScriptedCluster, new: ScriptedCluster
) -> None:
    began_too_early: list[str] = []
    starts: list[bool] = []

    def watch(method: str, path: str) -> None:
        is_start = method == "PUT" and path.endswith("web@1.service") and "web@1.service" in new.units
        starts.append(is_start)
        if is_start and "web@1.service" in old.states:
            began_too_early.append(path)

    new.intercept = watch
    old.outcomes["web@1.service"] = ScriptedOutcome(lingers=5)
    done = migrate("--move")
    assert (done.returncode, done.stderr) == (0, "")
    assert new.targets == ALL
    assert set(old.targets.values()) == {"inactive"}
    operations = new.targets_asked
    assert operations.index(("web@1.service", "inactive")) < operations.index(("web@1.service", "launched"))
    assert (sum(starts), began_too_early) == (1, [])


def test_an_interrupted_move_is_continued(migrate: Migrate, old: ScriptedCluster, new: ScriptedCluster) -> None:
    new.add("web@1.service", HELLO)
    assert results(migrate("--move"))["web@1.service"] == "carried"
    assert new.targets == ALL


def test_an_interrupted_move_names_the_units_still_to_be_started(
    old: ScriptedCluster, new: ScriptedCluster, tmp_path: Path
) -> None:
    old.outcomes["web@1.service"] = ScriptedOutcome(lingers=10**6)
    with subprocess.Popen(
        command(tmp_path, "--move"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT
    ) as moving:
        deadline = time.monotonic() + 20
        asked = sys.maxsize
        while len(old.requests) <= asked:  # once more after the first unit has moved
            assert time.monotonic() < deadline
            time.sleep(0.02)
            if asked == sys.maxsize and new.targets.get("job.service") == "loaded":
                asked = len(old.requests)
        moving.send_signal(signal.SIGINT)
        _, stderr = moving.communicate(timeout=60)
    assert moving.returncode == 1
    assert stderr.splitlines() == [
        "interrupted",
        "web@1.service: not yet started. When the old cluster has stopped it: fleetctl start web@1.service",
    ]


def test_an_unreachable_cluster_is_named(migrate: Migrate, tmp_path: Path) -> None:
    done = migrate("--from", "http://127.0.0.1:1")
    assert done.returncode == 1
    assert done.stderr.startswith("cannot reach fleetd at http://127.0.0.1:1: ")
