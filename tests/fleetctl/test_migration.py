"""Carrying units across from an original cluster: two APIs with state, of which the old one speaks version 1 alone."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fleetd.model.admission import refuse_name
from tests.fleetctl.conftest import HELLO
from tests.fleetctl.fake_api import FakeApi, Fate, Served

ROOT = Path(__file__).parents[2]
OTHER = "[Service]\nExecStart=/bin/false\n"
Migrate = Callable[..., subprocess.CompletedProcess[str]]


class Original(FakeApi):
    """The original's API: version 1, and nothing else."""

    def __init__(self) -> None:
        super().__init__()
        self.before_request = lambda method, path: (
            (404, "text/plain", b"not found") if path.startswith("/fleet/v2") else None
        )


@pytest.fixture
def old(tmp_path: Path) -> Iterator[Original]:
    api = Original()
    api.add("web@.service", HELLO)
    api.add("web@1.service", HELLO, target="launched")
    api.add("job.service", HELLO, target="loaded")
    api.add("idle.service", HELLO)
    server = Served(api, str(tmp_path / "old.sock"))
    yield api
    server.close()


@pytest.fixture
def new(tmp_path: Path) -> Iterator[FakeApi]:
    api = FakeApi()
    server = Served(api, str(tmp_path / "new.sock"))
    yield api
    server.close()


def command(directory: Path, *arguments: str) -> list[str]:
    places = ["--from", f"unix://{directory}/old.sock", "--to", f"unix://{directory}/new.sock"]
    return [sys.executable, str(ROOT / "contrib/migrate.py"), *places, *arguments]


ENVIRONMENT = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)}


@pytest.fixture
def migrate(old: Original, new: FakeApi, tmp_path: Path) -> Migrate:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(command(tmp_path, *arguments), capture_output=True, text=True, env=ENVIRONMENT)

    return run


def targets(api: FakeApi) -> dict[str, str]:
    return {name: held.target for name, held in api.units.items()}


def results(done: subprocess.CompletedProcess[str]) -> dict[str, str]:
    rows = [line.split(maxsplit=2) for line in done.stdout.splitlines()[1:]]
    return {name: fate for name, _, fate in rows}


ALL = {"idle.service": "inactive", "job.service": "loaded", "web@.service": "inactive", "web@1.service": "launched"}


def test_every_unit_is_carried_across_with_its_content_and_target_state(
    migrate: Migrate, old: Original, new: FakeApi
) -> None:
    done = migrate()
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[0].split() == ["UNIT", "TARGET", "MIGRATION"]
    assert results(done) == dict.fromkeys(ALL, "carried")
    assert targets(new) == ALL
    assert {name: held.content for name, held in new.units.items()} == {
        name: held.content for name, held in old.units.items()
    }
    assert targets(old) == ALL


def test_a_dry_run_says_the_same_and_does_nothing(migrate: Migrate, old: Original, new: FakeApi) -> None:
    old.requests.clear()
    done = migrate("--dry-run", "--move")
    assert results(done) == dict.fromkeys(ALL, "carried")
    assert {method for method, _ in old.requests + new.requests} == {"GET"}
    assert migrate().stdout == done.stdout


def test_a_second_run_finds_everything_as_it_is(migrate: Migrate, new: FakeApi) -> None:
    migrate()
    new.requests.clear()
    done = migrate()
    assert done.returncode == 0
    assert set(results(done).values()) == {"as it is: the new cluster has it already"}
    assert {method for method, _ in new.requests} == {"GET"}


def test_what_cannot_be_carried_is_left_with_the_reason_and_keeps_nothing_back(
    migrate: Migrate, old: Original, new: FakeApi
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
    assert targets(new) == {**ALL, "job.service": "inactive"}
    assert new.units["idle.service"].content != old.units["idle.service"].content


def test_a_unit_that_the_new_cluster_refuses_is_named(migrate: Migrate, new: FakeApi) -> None:
    new.before_request = lambda method, path: (
        (400, "application/json", b'{"error":{"code":400,"message":"full"}}')
        if method == "PUT" and path.endswith("/job.service")
        else None
    )
    done = migrate()
    assert (done.returncode, done.stderr) == (1, "job.service: Error 400: full\n")
    assert set(targets(new)) == set(ALL) - {"job.service"}


def test_a_unit_that_moves_starts_when_the_old_cluster_runs_it_no_more(
    migrate: Migrate, old: Original, new: FakeApi
) -> None:
    began_too_early: list[str] = []
    starts: list[bool] = []

    def watch(method: str, path: str) -> None:
        is_start = method == "PUT" and path.endswith("web@1.service") and "web@1.service" in new.units
        starts.append(is_start)
        if is_start and old.units["web@1.service"].copy:
            began_too_early.append(path)

    new.before_request = watch  # type: ignore[assignment]
    old.fates["web@1.service"] = Fate(lingers=5)
    done = migrate("--move")
    assert (done.returncode, done.stderr) == (0, "")
    assert targets(new) == ALL
    assert set(targets(old).values()) == {"inactive"}
    operations = [(body["name"], body["desiredState"]) for body in new.bodies]
    assert operations.index(("web@1.service", "inactive")) < operations.index(("web@1.service", "launched"))
    assert (sum(starts), began_too_early) == (1, [])


def test_a_move_that_was_broken_off_before_a_unit_left_goes_on(migrate: Migrate, old: Original, new: FakeApi) -> None:
    new.add("web@1.service", HELLO)
    assert results(migrate("--move"))["web@1.service"] == "carried"
    assert targets(new) == ALL


def test_a_move_that_is_interrupted_says_what_is_still_to_be_started(
    old: Original, new: FakeApi, tmp_path: Path
) -> None:
    old.fates["web@1.service"] = Fate(lingers=10**6)
    with subprocess.Popen(
        command(tmp_path, "--move"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT
    ) as moving:
        deadline = time.monotonic() + 20
        asked = sys.maxsize
        while len(old.requests) <= asked:  # once more after the first unit has moved
            assert time.monotonic() < deadline
            time.sleep(0.02)
            if asked == sys.maxsize and targets(new).get("job.service") == "loaded":
                asked = len(old.requests)
        moving.send_signal(signal.SIGINT)
        _, stderr = moving.communicate(timeout=20)
    assert moving.returncode == 1
    assert stderr.splitlines() == [
        "interrupted",
        "web@1.service: not yet started. When the old cluster has stopped it: fleetctl start web@1.service",
    ]


def test_a_cluster_that_is_not_there_is_named(migrate: Migrate, tmp_path: Path) -> None:
    done = migrate("--from", "http://127.0.0.1:1")
    assert done.returncode == 1
    assert done.stderr.startswith("cannot reach fleetd at http://127.0.0.1:1: ")
