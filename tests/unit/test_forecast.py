"""Which units have to go when a machine's metadata changes."""

from fleetd.model.machine import Machine
from fleetd.model.placement import Placement
from fleetd.model.reason import render_rejection
from fleetd.model.unit import TargetState
from fleetd.scheduler.eviction_forecast import predict_evictions

MACHINE = Machine("m" * 32)


def order(name: str, *fleet: str, target: TargetState = TargetState.LAUNCHED, superseded: bool = False) -> Placement:
    text = "[Service]\nExecStart=/bin/true\n[X-Fleet]\n" + "".join(f"{line}\n" for line in fleet)
    return Placement(MACHINE.id, name, text, target, 1, superseded=superseded)


def foresee(metadata: dict[str, str], *orders: Placement) -> dict[str, str]:
    found = predict_evictions(MACHINE, metadata, {each.unit: each for each in orders})
    return {name: render_rejection(rejection) for name, rejection in found.items()}


def test_units_that_the_metadata_does_not_suit_are_told_with_their_reasons() -> None:
    assert foresee(
        {"disk": "hdd", "region": "eu"},
        order("a.service", "MachineMetadata=disk=ssd"),
        order("b.service", "MachineMetadata=region=eu", f"MachineID={MACHINE.id}"),
        order("c.service"),
        order("d.service", "MachineMetadata=disk=ssd", "Global=true"),
        order("e.service", "MachineMetadata=disk=ssd", "MachineMetadata=disk=hdd"),
    ) == {"a.service": "metadata disk=ssd missing", "d.service": "metadata disk=ssd missing"}


def test_units_bound_to_one_that_goes_go_too_however_far() -> None:
    assert foresee(
        {},
        order("z.service", "MachineMetadata=disk=ssd"),
        order("y.service", "MachineOf=z.service"),
        order("x.service", "MachineOf=y.service"),
        order("w.service", "MachineOf=v.service"),
    ) == {
        "x.service": "y.service, which it must run with, stops here",
        "y.service": "z.service, which it must run with, stops here",
        "z.service": "metadata disk=ssd missing",
    }


def test_what_goes_anyway_is_not_told() -> None:
    gone = order("a.service", "MachineMetadata=disk=ssd", target=TargetState.INACTIVE)
    superseded = order("b.service", "MachineMetadata=disk=ssd", superseded=True)
    assert foresee({}, gone, superseded) == {}
