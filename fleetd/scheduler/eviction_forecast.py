"""Which units have to leave a machine when its metadata changes, told before it changes."""

from collections.abc import Mapping

from fleetd.model.machine import Machine
from fleetd.model.placement import Placement
from fleetd.model.reason import Rejection, RejectionKind
from fleetd.model.requirements import requirements_of
from fleetd.scheduler.effective_machine import EffectiveMachine
from fleetd.scheduler.machine_index import MachineIndex


def predict_evictions(
    machine: Machine, metadata: Mapping[str, str], placements: Mapping[str, Placement]
) -> dict[str, Rejection]:
    """The units that may not stay on this machine with this metadata, and why, by name in order. `placements` are those
    on the machine, by unit. Units that follow an evicted one (MachineOf=) are evicted too."""
    machine_index = MachineIndex({machine.id: EffectiveMachine(dict(metadata))})
    wanted = {
        name: requirements_of(placement.content, name)
        for name, placement in sorted(placements.items())
        if placement.is_active
    }
    evicted: dict[str, Rejection] = {}
    for name, requirements in wanted.items():
        found = [rejection for rejection, machines in machine_index.rejections(requirements) if machines]
        if found:
            evicted[name] = found[0]
    pending = list(evicted)
    while pending:
        gone = pending.pop()
        followers = [name for name, each in wanted.items() if gone in each.machine_of and name not in evicted]
        evicted |= dict.fromkeys(followers, Rejection(RejectionKind.PEER_STOPS, gone))
        pending += followers
    return {name: evicted[name] for name in sorted(evicted)}
