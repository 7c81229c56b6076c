"""Another version of the package, installed machine by machine while units run, and removed again.

test_daemon.py covers a fleetd that is restarted or killed on all machines at once.
"""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from contrib.testbed import Cluster
from contrib.testbed.machine import Machine
from contrib.testbed.root import CHECKOUT
from fleetd import __version__
from tests.cluster.operator import RECORDER, SLEEPER, Operator, with_fleet
from tests.cluster.tampering import prepend_to_python_path, undo

NEXT = "99.0.0"
UNITS = [*(f"u{number}.service" for number in range(6)), "all.service"]


def install_next(machine: Machine) -> None:
    """Install a package of another version beside the present one, and run fleetd from it."""
    package = machine.root / "opt/next/fleetd"
    shutil.copytree(CHECKOUT / "fleetd", package, ignore=shutil.ignore_patterns("__pycache__"))
    init = package / "__init__.py"
    text = init.read_text()
    assert __version__ in text
    init.write_text(text.replace(__version__, NEXT))
    prepend_to_python_path(machine, "/opt/next")
    machine.run(["systemctl", "restart", "fleet.service"])


def remove_next(machine: Machine) -> None:
    undo(machine)
    machine.run(["systemctl", "restart", "fleet.service"])


@pytest.mark.covers("P.2", "S.1")
def test_an_upgrade_machine_by_machine_and_back_affects_no_unit(
    new_cluster: Callable[..., Cluster], tmp_path: Path
) -> None:
    operator = Operator(new_cluster(machines=3), tmp_path)
    operator.start({**dict.fromkeys(UNITS, RECORDER), "all.service": with_fleet("Global=true", service=RECORDER)})
    operator.cluster.wait_until("the global runs", lambda: len(operator.placed().get("all.service", [])) == 3)
    before, listed = operator.lives(UNITS), operator.registrations()
    first, *others = operator.cluster.machines
    for change, version, machines in ((install_next, NEXT, [first, *others]), (remove_next, __version__, [first])):
        for machine in machines:
            asked = next(other for other in operator.cluster.machines if other is not machine)
            change(machine)
            shown = operator.cluster.fleetctl("list-machines", "--full", "--no-legend", on=asked).stdout
            assert len(shown.splitlines()) == 3
            said = f"fleetd {version} started"
            operator.cluster.wait_until(
                said, lambda m=machine, s=said: s in m.journal("fleet.service").split("Stopped")[-1]
            )
            operator.cluster.wait_ready()
            assert operator.lives(UNITS) == before
            assert operator.registrations() == listed
        operator.start({f"on-{version}.service": SLEEPER})
    assert operator.lives(UNITS) == before
