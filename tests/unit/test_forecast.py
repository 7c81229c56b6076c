"""Which units are evicted when the metadata of a machine changes."""

from fleetd.model.machine import Machine
from fleetd.model.placement import Placement
from fleetd.model.reason import render_rejection
from fleetd.model.unit import TargetState
from fleetd.scheduler.eviction_forecast import predict_evictions

MACHINE = Machine("m" * 32)


def placed(name: str, *fleet: str, target: TargetState = TargetState.LAUNCHED, superseded: bool = False) -> Placement:
    text = "[Service]\nExecStart=/bin/true\n[X-Fleet]\n" + "".join(f"{line}\n" for line in fleet)
    return Placement(MACHINE.id, name, text, target, 1, superseded=superseded)


def evictions(metadata: dict[str, str], *placements: Placement) -> dict[str, str]:
    found = predict_evictions(MACHINE, metadata, {each.unit: each for each in placements})
    return {name: render_rejection(rejection) for name, rejection in found.items()}


def test_units_whose_metadata_is_missing_are_evicted_for_that() -> None:
    assert evictions(
        {"disk": "hdd", "region": "eu"},
        placed("a.service", "MachineMetadata=disk=ssd"),
        placed("b.service", "MachineMetadata=region=eu", f"MachineID={MACHINE.id}"),
        placed("c.service"),
        placed("d.service", "MachineMetadata=disk=ssd", "Global=true"),
        placed("e.service", "MachineMetadata=disk=ssd", "MachineMetadata=disk=hdd"),
    ) == {"a.service": "metadata disk=ssd missing", "d.service": "metadata disk=ssd missing"}


def test_followers_of_an_evicted_unit_are_evicted_too() -> None:
    assert evictions(
        {},
        placed("z.service", "MachineMetadata=disk=ssd"),
        placed("y.service", "MachineOf=z.service"),
        placed("x.service", "MachineOf=y.service"),
        placed("w.service", "MachineOf=v.service"),
    ) == {
        "x.service": "y.service, which it must run with, stops here",
        "y.service": "z.service, which it must run with, stops here",
        "z.service": "metadata disk=ssd missing",
    }


def test_withdrawn_and_superseded_placements_are_left_out() -> None:
    withdrawn = placed("a.service", "MachineMetadata=disk=ssd", target=TargetState.INACTIVE)
    superseded = placed("b.service", "MachineMetadata=disk=ssd", superseded=True)
    assert evictions({}, withdrawn, superseded) == {}
