"""fleetctl as a user runs it, against a scripted cluster."""

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from fleetctl.cli import run
from fleetctl.wait import CLOCK, Clock
from tests.fleetctl.background import BackgroundLoop
from tests.fleetctl.scripted_cluster import ScriptedCluster
from tests.fleetctl.small_cluster import SmallCluster

HELLO = "[Unit]\nDescription=Says hello\n\n[Service]\nExecStart=/bin/sleep inf\n"


class Result(msgspec.Struct):
    """Exit status and output of a command."""

    status: int
    stdout: str
    stderr: str


Fleetctl = Callable[..., Result]


@pytest.fixture(scope="session")
def background() -> Iterator[BackgroundLoop]:
    loop = BackgroundLoop()
    yield loop
    loop.close()


@pytest.fixture
def cluster(background: BackgroundLoop, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ScriptedCluster]:
    cluster = ScriptedCluster(background, f"{tmp_path_factory.mktemp('s')}/fleet.sock")
    yield cluster
    cluster.close()


@pytest.fixture
def bare_fleetctl(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Fleetctl:
    """Runs a command line in an empty directory, without the variables FLEETCTL_*."""
    for variable in [name for name in os.environ if name.startswith("FLEETCTL_")]:
        monkeypatch.delenv(variable)
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str) -> Result:
        capsys.readouterr()
        status = run(list(arguments))
        return Result(status, *capsys.readouterr())

    return call


@pytest.fixture
def say(tmp_path: Path) -> Iterator[Callable[[bytes], None]]:
    """Sets what standard input holds."""
    usual = os.dup(0)

    def say(text: bytes) -> None:
        (tmp_path / "input").write_bytes(text)
        with (tmp_path / "input").open("rb") as file:
            os.dup2(file.fileno(), 0)

    yield say
    os.dup2(usual, 0)
    os.close(usual)


@pytest.fixture
def jumping_clock() -> Iterator[None]:
    """Waits of fleetctl return at once, and count as waited. Requests still take real time."""
    slept_s = 0.0

    def sleep(pause_s: float) -> None:
        nonlocal slept_s
        slept_s += pause_s

    token = CLOCK.set(Clock(lambda: time.monotonic() + slept_s, sleep))
    yield
    CLOCK.reset(token)


@pytest.fixture
def fleetctl(
    bare_fleetctl: Fleetctl, cluster: ScriptedCluster, monkeypatch: pytest.MonkeyPatch, jumping_clock: None
) -> Fleetctl:
    """Runs a command line against the scripted cluster, whose leader and agents act after each read of states."""
    monkeypatch.setenv("FLEETCTL_ENDPOINT", cluster.unix)
    return bare_fleetctl


@pytest.fixture
def small_cluster(background: BackgroundLoop, tmp_path: Path) -> Iterator[SmallCluster]:
    """Two machines, number=1 and number=2, with real leaders and agents over simulated systemds."""
    (tmp_path / "c").mkdir()
    cluster = SmallCluster(background, tmp_path / "c", {})
    yield cluster
    cluster.close()


@pytest.fixture
def small_fleetctl(bare_fleetctl: Fleetctl, small_cluster: SmallCluster, monkeypatch: pytest.MonkeyPatch) -> Fleetctl:
    """Runs a command line against the cluster of real leaders and agents."""
    monkeypatch.setenv("FLEETCTL_ENDPOINT", small_cluster.unix)
    return bare_fleetctl


@pytest.fixture
def hello(tmp_path: Path) -> Path:
    """A unit file in the current directory."""
    path = tmp_path / "hello.service"
    path.write_text(HELLO)
    return path
