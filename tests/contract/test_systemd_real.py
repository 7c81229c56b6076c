"""The suite of fleetd/systemd on real systemds: it runs inside a machine of the testbed, once over each library."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from contrib.testbed import Cluster, Machine
from fleetd.systemd.bus import LIBRARIES
from tests.contract.systemd_bench import LIBRARY_VARIABLE

CHECKOUT = Path(__file__).resolve().parents[2]
SUITES = ("tests/contract/test_systemd.py", "tests/contract/dbus_suite.py")
TIMEOUT_S = 180.0


@pytest.fixture(scope="module")
def machine() -> Iterator[Machine]:
    with Cluster(machines=1, fleetd=False) as cluster:
        yield cluster.machines[0]


@pytest.mark.machines
@pytest.mark.parametrize("library", LIBRARIES)
def test_a_real_systemd_keeps_the_contract(machine: Machine, library: str) -> None:
    environment = [f"--chdir={CHECKOUT}", "PYTHONDONTWRITEBYTECODE=1", f"{LIBRARY_VARIABLE}={library}"]
    pytest_inside = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-o", "faulthandler_timeout=60"]
    result = machine.run(["env", *environment, *pytest_inside, *SUITES], timeout_s=TIMEOUT_S, check=False)
    assert result.returncode == 0, f"over {library}:\n{result.stdout}{result.stderr}"
    last_line = result.stdout.splitlines()[-1]
    assert " passed" in last_line
    assert "skipped" not in last_line
