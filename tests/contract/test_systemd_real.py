"""The suite of fleetd/systemd on real systemds: in machines of the testbed, one for each D-Bus library, in parallel."""

import subprocess
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from contrib.testbed import Cluster, Machine
from fleetd.systemd.dbus_connection import LIBRARIES
from tests.contract.systemd_harness import LIBRARY_VARIABLE

CHECKOUT = Path(__file__).resolve().parents[2]
SUITES = tuple(
    f"tests/contract/{name}.py"
    for name in (
        "test_systemd",
        "test_systemd_dropins",
        "test_systemd_jobs",
        "test_systemd_signs",
        "test_systemd_privileges",
        "test_systemd_lease",
        "dbus_suite",
    )
)
TIMEOUT_S = 600.0

Outcome = subprocess.CompletedProcess[str]


@pytest.fixture(scope="module")
def outcomes() -> Iterator[Mapping[str, Outcome]]:
    """Library → how the suite ended with it."""
    with Cluster(machines=len(LIBRARIES), fleetd=False) as cluster, ThreadPoolExecutor() as pool:
        yield dict(zip(LIBRARIES, pool.map(run_suite, cluster.machines, LIBRARIES), strict=True))


def run_suite(machine: Machine, library: str) -> Outcome:
    environment = [f"--chdir={CHECKOUT}", "PYTHONDONTWRITEBYTECODE=1", f"{LIBRARY_VARIABLE}={library}"]
    pytest_inside = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-o", "faulthandler_timeout=60"]
    return machine.run(["env", *environment, *pytest_inside, *SUITES], timeout_s=TIMEOUT_S, check=False)


@pytest.mark.machines
@pytest.mark.xdist_group("real systemds")
@pytest.mark.parametrize("library", LIBRARIES)
def test_a_real_systemd_keeps_the_contract(outcomes: Mapping[str, Outcome], library: str) -> None:
    outcome = outcomes[library]
    assert outcome.returncode == 0, f"over {library}:\n{outcome.stdout}{outcome.stderr}"
    summary = outcome.stdout.splitlines()[-1]
    assert " passed" in summary
    assert "skipped" not in summary
