"""What a change of a machine's metadata means for the units there, told before it happens.

It tells what planner.py will decide once the change is known; it decides nothing.
"""

from collections.abc import Mapping

from fleetd.model.machine import Machine
from fleetd.model.placement import Placement
from fleetd.scheduler.machine_index import MachineIndex
from fleetd.scheduler.snapshot import requirements_of


def predict_evictions(
    machine: Machine, metadata: Mapping[str, str], placements: Mapping[str, Placement]
) -> dict[str, str]:
    """The units that may not stay on this machine, which has these orders (by unit), once this is its metadata; with
    the reason of each, in order of their names. Units bound to such a one by MachineOf follow it."""
    machine_index = MachineIndex({machine.id: machine}, {machine.id: metadata})
    wanted = {name: requirements_of(order.text, name) for name, order in sorted(placements.items()) if order.is_active}
    stops: dict[str, str] = {}
    for name, requirements in wanted.items():
        reasons = [reason for reason, machines in machine_index.rejections(requirements) if machines]
        if reasons:
            stops[name] = reasons[0]
    pending = list(stops)
    while pending:
        gone = pending.pop()
        followers = [name for name, each in wanted.items() if gone in each.machine_of and name not in stops]
        stops |= dict.fromkeys(followers, f"{gone}, which it is to be with, stops here")
        pending += followers
    return {name: stops[name] for name in sorted(stops)}
