"""Clusters for tests: a shared one that each test leaves empty, and new ones for tests that break machines."""

import fcntl
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from contrib.testbed import Cluster
from contrib.testbed.root import CHECKOUT
from tests.cluster.operator import Operator
from tests.cluster.remote_operator import RemoteOperator

HERE = Path(__file__).parent
BUILD_TIMEOUT_S = 900.0  # it fetches the libraries


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests of one shared cluster run on one worker; tests with clusters of their own run on any worker (xdist)."""
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.machines)
            fixtures = getattr(item, "fixturenames", ())
            if "new_cluster" not in fixtures or "_shared_cluster" in fixtures:
                item.add_marker(pytest.mark.xdist_group("shared" if "_shared_cluster" in fixtures else item.path.stem))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    """When a test fails, show the log of fleetd on each machine."""
    report = yield
    cluster = getattr(item, "funcargs", {}).get("cluster")
    if report.failed and isinstance(cluster, Cluster):
        report.sections.append(("the end of fleetd's journals", cluster.journals(lines=40)))
    return report


@pytest.fixture(scope="session")
def _shared_cluster() -> Iterator[Cluster]:
    with Cluster(machines=3) as cluster:
        yield cluster


@pytest.fixture
def cluster(_shared_cluster: Cluster) -> Iterator[Cluster]:
    """Three machines that run fleetd, without units. For tests that leave every machine as they found it."""
    yield _shared_cluster
    _shared_cluster.destroy_all_units()


@pytest.fixture
def new_cluster() -> Iterator[Callable[..., Cluster]]:
    """Start clusters for one test, with the arguments of Cluster(...). They end with the test."""
    with ExitStack() as clusters:
        yield lambda *args, **kwargs: clusters.enter_context(Cluster(*args, **kwargs))


@pytest.fixture(scope="session")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Debian package of this checkout, built once for all workers, and compressed less than the one for users."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "deb"
    folder.mkdir(exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not list(folder.glob("*.deb")):
            environment = {**os.environ, "DPKG_DEB_COMPRESSOR_TYPE": "gzip", "DPKG_DEB_COMPRESSOR_LEVEL": "1"}
            command = [CHECKOUT / "contrib/deb/build", folder]
            built = subprocess.run(
                command, env=environment, capture_output=True, text=True, timeout=BUILD_TIMEOUT_S, check=False
            )
            assert built.returncode == 0, built.stderr
    (built_package,) = folder.glob("*.deb")
    return built_package


@pytest.fixture
def operator(cluster: Cluster, tmp_path: Path) -> Operator:
    """An operator of the shared cluster."""
    return Operator(cluster, tmp_path)


@pytest.fixture(scope="module")
def ssh_cluster() -> Iterator[Cluster]:
    """Three machines that root can log in to."""
    with Cluster(machines=3, ssh=True) as cluster:
        yield cluster


@pytest.fixture
def ssh_operator(ssh_cluster: Cluster, tmp_path: Path) -> Iterator[RemoteOperator]:
    """An operator who has the key and knows every machine. The units are destroyed afterwards."""
    operator = RemoteOperator(ssh_cluster, tmp_path)
    operator.install_key()
    operator.write_known_hosts()
    yield operator
    ssh_cluster.destroy_all_units()
