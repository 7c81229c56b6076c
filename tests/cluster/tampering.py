"""Run a test's own code inside fleetd: a wrong clock, a kill at a write, another version.

Python imports the module `sitecustomize` from PYTHONPATH before any program, so fleetd needs no hook for this.
"""

import shutil
from pathlib import Path

from contrib.testbed.machine import Machine

HERE = Path(__file__).parent
FOLDER = "/opt/tampered"
DROP_IN = "/etc/systemd/system/fleet.service.d/tampered.conf"


def tamper(machine: Machine, module: str, **environment: str) -> None:
    """At each start of fleetd from now on, run this module of this folder in it first."""
    folder = machine.path(FOLDER)
    folder.mkdir(exist_ok=True)
    shutil.copy(HERE / f"{module}.py", folder / "sitecustomize.py")
    prepend_to_python_path(machine, FOLDER, **environment)


def prepend_to_python_path(machine: Machine, folder: str, **environment: str) -> None:
    """At each start of fleetd from now on, search this folder of the machine first for Python modules."""
    settings = " ".join(f"{name}={value}" for name, value in {"PYTHONPATH": folder, **environment}.items())
    machine.path(DROP_IN).write_text(f"[Service]\nEnvironment={settings}\nRestartSec=100ms\n")
    machine.run(["systemctl", "daemon-reload"])


def undo(machine: Machine) -> None:
    """Start fleetd unchanged from now on."""
    machine.path(DROP_IN).unlink()
    machine.run(["systemctl", "daemon-reload"])
