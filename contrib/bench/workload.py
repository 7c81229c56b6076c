"""A typical cluster on paper: machines with metadata, and units with the usual mix of requirements.

Made from a seed, so that two runs measure the same. Nothing is measured here.
"""

import random

from fleetd.model.machine import Capability, Machine
from fleetd.model.unit import TargetState, Unit

GLOBALS = 20
CHAIN = 3  # units that follow one another by MachineOf
_METADATA = {"region": ("north", "south", "east", "west"), "disk": ("hdd", "hdd", "hdd", "ssd")}
_JOB_OPTIONS = tuple(
    f"MachineMetadata={key}={value}" for key, values in _METADATA.items() for value in dict.fromkeys(values)
)
_SERVICE = """\
[Unit]
Description={name}, one of many
After=network-online.target
Wants=network-online.target

[Service]
ExecStartPre=-/usr/bin/podman rm --force {name}
ExecStart=/usr/bin/podman run --rm --name {name} registry.example.com/shop/{name}:2026-11
ExecStop=/usr/bin/podman stop {name}
Restart=always
RestartSec=2

[X-Fleet]
{operations}
"""


def draw_machines(chance: random.Random, count: int) -> list[Machine]:
    """So many machines, ready, each with a region and a kind of disk."""
    return [
        Machine(
            id=f"{chance.getrandbits(128):032x}",
            session=f"{chance.getrandbits(64):016x}",
            address=f"10.{index >> 16}.{index >> 8 & 255}.{index & 255}",
            metadata={key: chance.choice(values) for key, values in _METADATA.items()},
            capabilities=dict.fromkeys(Capability, True),
        )
        for index in range(count)
    ]


def draw_units(chance: random.Random, count: int) -> list[Unit]:
    """So many units, launched, in order: globals; a third bound to metadata; a third instances that conflict with those
    of their template; of the rest one in ten in a chain of MachineOf."""
    third = (count - GLOBALS) // 3
    units = [_unit(f"agent-{index}.service", "Global=true") for index in range(GLOBALS)]
    for index in range(third):
        units.append(_unit(f"job-{index}.service", chance.choice(_JOB_OPTIONS)))
    while len(units) < GLOBALS + 2 * third:
        prefix = f"web-{len(units)}"
        instances = min(chance.randint(2, 60), GLOBALS + 2 * third - len(units))
        units += [_unit(f"{prefix}@{n}.service", "Conflicts=%p@*.service", prefix) for n in range(instances)]
    while len(units) < count:
        name = f"app-{len(units)}"
        length = min(CHAIN if chance.random() < 0.04 else 1, count - len(units))
        units.append(_unit(f"{name}.service", ""))
        for link in range(1, length):
            before = f"{name}.service" if link == 1 else f"{name}-{link - 1}.service"
            units.append(_unit(f"{name}-{link}.service", f"MachineOf={before}"))
    return sorted(units, key=lambda unit: unit.name)


def _unit(name: str, operations: str, shared: str = "") -> Unit:
    """A unit; those of one template have one text."""
    text = _SERVICE.format(name=shared or name.removesuffix(".service"), operations=operations)
    return Unit(name, text, TargetState.LAUNCHED, 1)
