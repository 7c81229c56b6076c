"""Another version of the package, installed machine by machine under running units, and taken back again.

That fleetd is restarted or killed everywhere at once is held in test_daemon.py.
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
from tests.cluster.tampering import look_first_in, undo

NEXT = "99.0.0"
UNITS = [*(f"u{number}.service" for number in range(6)), "all.service"]


def install_next(machine: Machine) -> None:
    """Put a package of another version beside the one that is there, and have fleetd run from it."""
    package = machine.root / "opt/next/fleetd"
    shutil.copytree(CHECKOUT / "fleetd", package, ignore=shutil.ignore_patterns("__pycache__"))
    init = package / "__init__.py"
    text = init.read_text()
    assert __version__ in text
    init.write_text(text.replace(__version__, NEXT))
    look_first_in(machine, "/opt/next")
    machine.run(["systemctl", "restart", "fleet.service"])


def remove_next(machine: Machine) -> None:
    undo(machine)
    machine.run(["systemctl", "restart", "fleet.service"])


@pytest.mark.covers("P.2", "S.1")
def test_an_upgrade_machine_by_machine_and_the_way_back_touch_no_unit_and_no_machine_leaves_the_list(
    new_cluster: Callable[..., Cluster], tmp_path: Path
) -> None:
    person = Operator(new_cluster(machines=3), tmp_path)
    person.start({**dict.fromkeys(UNITS, RECORDER), "all.service": with_fleet("Global=true", service=RECORDER)})
    person.cluster.wait_until("the global runs", lambda: len(person.placed().get("all.service", [])) == 3)
    before, listed = person.lives(UNITS), person.registrations()
    first, *others = person.cluster.machines
    for change, version, machines in ((install_next, NEXT, [first, *others]), (remove_next, __version__, [first])):
        for machine in machines:
            asked = next(other for other in person.cluster.machines if other is not machine)
            change(machine)
            shown = person.cluster.fleetctl("list-machines", "--full", "--no-legend", on=asked).stdout
            assert len(shown.splitlines()) == 3
            said = f"fleetd {version} started"
            person.cluster.wait_until(
                said, lambda m=machine, s=said: s in m.journal("fleet.service").split("Stopped")[-1]
            )
            person.cluster.wait_ready()
            assert person.lives(UNITS) == before
            assert person.registrations() == listed
        person.start({f"on-{version}.service": SLEEPER})
    assert person.lives(UNITS) == before
