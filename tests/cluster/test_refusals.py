"""A machine refuses a unit if it has its own of that name or lacks what the unit needs: another machine takes it."""

import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from contrib.testbed import Cluster
from tests.cluster.operator import SLEEPER, Operator

TTL_S = 4
OWN = "[Service]\nExecStart=/bin/false\n"
ECHO = "[Service]\nExecStart=/bin/cat\nStandardInput=socket\n"
PORT = "/run/echo.sock"


@pytest.fixture
def operator(new_cluster: Callable[..., Cluster], tmp_path: Path) -> Operator:
    return Operator(new_cluster(machines=3, config={"agent_ttl": f"{TTL_S}s"}), tmp_path)


@pytest.mark.covers("R.5")
def test_a_unit_avoids_a_machine_that_has_its_own_of_that_name(operator: Operator) -> None:
    operator.start({"mv.service": SLEEPER})
    lost = operator.machine_of("mv.service")
    first, second = (machine for machine in operator.cluster.machines if machine is not lost)
    for machine in (first, second):
        machine.path("/etc/systemd/system/mv.service").write_text(OWN)
    lost.power_cut()
    operator.cluster.wait_until(
        "both refuse it",
        lambda: (
            [
                (each["message"], each["machines"])
                for each in operator.reports(on=first)["mv.service"].get("rejections", ())
            ]
            == [("machine has its own /etc/systemd/system/mv.service", 2)]
        ),
    )
    second.path("/etc/systemd/system/mv.service").unlink()
    operator.cluster.wait_until("it runs where it is not refused", lambda: second.main_pid("mv.service") > 1)
    assert first.path("/etc/systemd/system/mv.service").read_text() == OWN
    assert first.main_pid("mv.service") == 0


def test_a_socket_runs_where_the_template_of_its_connections_is(operator: Operator) -> None:
    units = {"echo.socket": f"[Socket]\nListenStream={PORT}\nAccept=yes\n"}
    answer = operator.start(units, "--block-attempts=1", check=False)
    assert answer.returncode == 1
    assert "machine lacks echo@.service (3 machines)" in answer.stderr
    operator.cluster.fleetctl("submit", *operator.write({"echo@.service": ECHO}))
    operator.wait_until_placed("echo.socket")
    machine = operator.machine_of("echo.socket")
    for _ in range(3):
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(10.0)
            connection.connect(str(machine.path(PORT)))
            connection.sendall(b"hello")
            assert connection.recv(5) == b"hello"
    time.sleep(1.0)
    assert machine.show("echo.socket", "ActiveState") == "active"
