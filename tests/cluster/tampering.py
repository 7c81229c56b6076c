"""fleetds with a test's own code inside: a clock that is wrong, writes that are the last, another version.

Python runs a module `sitecustomize` that it finds on PYTHONPATH before any program, so the product has no entry point
for any of it.
"""

import shutil
from pathlib import Path

from contrib.testbed.machine import Machine

HERE = Path(__file__).parent
FOLDER = "/opt/tampered"
DROP_IN = "/etc/systemd/system/fleet.service.d/tampered.conf"


def tamper(machine: Machine, module: str, **environment: str) -> None:
    """From the next start of fleetd on, run this module of this folder in it before all else."""
    folder = machine.path(FOLDER)
    folder.mkdir(exist_ok=True)
    shutil.copy(HERE / f"{module}.py", folder / "sitecustomize.py")
    look_first_in(machine, FOLDER, **environment)


def look_first_in(machine: Machine, folder: str, **environment: str) -> None:
    """From the next start of fleetd on, let Python look for modules in this folder of the machine first."""
    settings = " ".join(f"{name}={value}" for name, value in {"PYTHONPATH": folder, **environment}.items())
    machine.path(DROP_IN).write_text(f"[Service]\nEnvironment={settings}\nRestartSec=100ms\n")
    machine.run(["systemctl", "daemon-reload"])


def undo(machine: Machine) -> None:
    """From the next start of fleetd on, let it be as it is."""
    machine.path(DROP_IN).unlink()
    machine.run(["systemctl", "daemon-reload"])
