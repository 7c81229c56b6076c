"""An independent and slow implementation of feasibility and ranking, which checks each machine for each unit.

scheduler/machine_index.py and scheduler/ranking.py, which use sets and indexes, must give the same results.
"""

from collections import Counter

from fleetd.model.machine import MachineMode
from fleetd.model.names import matches_glob, parse_name
from fleetd.scheduler.proposal import Proposal


def choose(proposal: Proposal, group: list[str]) -> tuple[str, int] | None:
    """The best machine for a group, and how many machines accept all of it; None if no machine does."""
    fits = [m for m in proposal.snapshot.machines if not any(rejection(proposal, name, m, group) for name in group)]
    return (min(fits, key=lambda machine: rank(proposal, group[0], machine)), len(fits)) if fits else None


def is_placeable(proposal: Proposal, name: str, group: list[str]) -> bool:
    """True if some machine accepts the unit together with this group."""
    return any(not rejection(proposal, name, machine, group) for machine in proposal.snapshot.machines)


def count_rejections(proposal: Proposal, name: str, here: list[str]) -> list[tuple[str, int]]:
    """The number of machines that reject the unit for each reason, the most frequent reason first."""
    reasons = [rejection(proposal, name, machine, []) for machine in proposal.snapshot.machines if machine not in here]
    return sorted(Counter(filter(None, reasons)).items(), key=lambda item: (-item[1], item[0]))


def rejection(proposal: Proposal, name: str, machine: str, group: list[str]) -> str:
    """The first reason why the machine rejects the unit, or ''."""
    snapshot, occupancy, required = proposal.snapshot, proposal.occupancy(machine), proposal.snapshot.requirements(name)
    record = snapshot.machines[machine]
    if record.mode is not MachineMode.READY:
        return "machine is parked (its fleetd was stopped)" if record.mode == "parked" else f"machine is {record.mode}"
    settings = snapshot.settings.get(machine)
    if settings and settings.cordon and not required.is_global:
        return f"machine is cordoned: {settings.cordon.why}"
    if required.machine_id not in (None, record.id, record.short_id):
        return f"not machine {required.machine_id or '(empty MachineID)'}"
    for key, values in required.metadata:
        if snapshot.effective[machine].metadata.get(key) not in values:
            return f"metadata {key}={'|'.join(values)} missing"
    for peer in required.machine_of:
        if peer not in occupancy.staying and peer not in group and peer != name:
            return f"{peer or '(empty MachineOf)'} is not there"
    for other in sorted(occupancy.units):
        patterns = occupancy.units[other].conflicts
        mine = any(matches_glob(pattern, other) for pattern in required.conflicts)
        if other != name and (mine or any(matches_glob(pattern, name) for pattern in patterns)):
            return f"conflicts with {other}"
    return ""


def rank(proposal: Proposal, name: str, machine: str) -> tuple[bool, bool, int, int, str]:
    """The rank of a machine for a unit; the lowest is the best."""
    occupancy, template = proposal.occupancy(machine), parse_name(name).template
    return (
        not proposal.snapshot.is_running_on(name, machine),
        is_replaced(proposal, name, machine),
        sum(parse_name(other).template == template for other in occupancy.staying) if template else 0,
        len(occupancy.staying),
        machine,
    )


def is_replaced(proposal: Proposal, name: str, machine: str) -> bool:
    """True if a unit that stays on the machine replaces this one, and this one does not replace it."""
    occupancy, required = proposal.occupancy(machine), proposal.snapshot.requirements(name)
    return any(
        other != name
        and any(matches_glob(pattern, name) for pattern in occupancy.units[other].replaces)
        and not any(matches_glob(pattern, other) for pattern in required.replaces)
        for other in occupancy.staying
    )
