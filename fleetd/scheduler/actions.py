"""What can be done about one allocation. Decisions (allocations.py) return actions; `apply` alone carries them out."""

import msgspec

from fleetd.model.placement import Placement
from fleetd.model.reason import Eviction, PeerWait, Reason, Rejection, WaitingForPeer, WaitingForStop, without_eviction
from fleetd.model.unit import TargetState
from fleetd.scheduler.proposal import Proposal
from fleetd.scheduler.snapshot import requirements_of
from fleetd.scheduler.unit_plan import UnitPlanBuilder


class Keep(msgspec.Struct, frozen=True, gc=False):
    """Count the allocation on this machine with the unit's present requirements, before it is reviewed."""

    machine: str


class Place(msgspec.Struct, frozen=True, gc=False):
    """Place the unit on this machine, or keep it there, with its present text and target. `reason` None: as before."""

    machine: str
    reason: Reason | None = None


class Withdraw(msgspec.Struct, frozen=True, gc=False):
    """Have the machine stop and remove the unit. `because`: why it may not stay, if that is the cause. `reruns`: a
    oneshot that completed runs again elsewhere."""

    machine: str
    because: Rejection | None = None
    reruns: bool = False


class Supersede(msgspec.Struct, frozen=True, gc=False):
    """Let the allocation on this machine run on until its replacement runs."""

    machine: str


class Forget(msgspec.Struct, frozen=True, gc=False):
    """Delete the placement: it is carried out, or its machine is dead. `reruns` as above."""

    machine: str
    reruns: bool = False


class Decline(msgspec.Struct, frozen=True, gc=False):
    """The machine refuses the unit, and nothing of it is there. The placement is kept, so that the machine reports when
    it does not refuse it any more."""

    machine: str


class WaitForMachine(msgspec.Struct, frozen=True, gc=False):
    """Leave the unit assigned to its dead machine, lost at `lost_at` (Unix time), until `until_s` (leader's clock)."""

    reason: Reason
    lost_at: float
    until_s: float


class Wait(msgspec.Struct, frozen=True, gc=False):
    """Do not place the unit before this has happened."""

    reason: PeerWait


class WaitForPeer(msgspec.Struct, frozen=True, gc=False):
    """Do not place the unit before its peer (MachineOf=) can be placed."""

    reason: WaitingForPeer


class Conclude(msgspec.Struct, frozen=True, gc=False):
    """Leave the unit on no machine, for this reason."""

    reason: Reason


class FindMachine(msgspec.Struct, frozen=True, gc=False):
    """The unit needs a machine."""


Action = (
    Keep
    | Place
    | Withdraw
    | Supersede
    | Forget
    | Decline
    | WaitForMachine
    | Wait
    | WaitForPeer
    | Conclude
    | FindMachine
)


def apply(proposal: Proposal, plan: UnitPlanBuilder, action: Action | None) -> None:
    """Carry out an action in the plan of one unit and in the proposal. None does nothing."""
    match action:
        case None:
            pass
        case Place(machine, reason):
            _place(proposal, plan, machine, reason)
        case Keep(machine):
            proposal.occupy(plan.name, machine, plan.requirements)
        case Withdraw(machine, because, reruns):
            plan.eviction = Eviction(machine, because) if because else plan.eviction
            _leave(plan, machine, reruns=reruns)
            _withdraw(proposal, plan, machine)
        case Supersede(machine):
            assert plan.unit is not None
            unit = plan.unit
            plan.write(Placement(machine, plan.name, unit.text, unit.target, unit.generation, superseded=True))
            _leave(plan, machine)
            proposal.vacate(plan.name, machine)
        case Forget(machine, reruns):
            plan.delete(machine)
            _leave(plan, machine, reruns=reruns)
            proposal.vacate(plan.name, machine)
        case Decline(machine):
            plan.write(msgspec.structs.replace(plan.placements[machine], declined=True))
            proposal.vacate(plan.name, machine)
        case WaitForMachine(reason, lost_at, until_s):
            plan.reason, plan.lost_at = reason, lost_at
            proposal.wake(plan.name, until_s)
        case Wait(reason):
            plan.waits = without_eviction(reason) if isinstance(reason, WaitingForStop) else reason
            plan.reason = reason
        case WaitForPeer(reason) | Conclude(reason):
            plan.reason = reason
            plan.unplaced = False
        case _:  # FindMachine
            plan.unplaced = True


def _place(proposal: Proposal, plan: UnitPlanBuilder, machine: str, reason: Reason | None) -> None:
    assert plan.unit is not None
    unit = plan.unit
    placement = Placement(
        machine,
        plan.name,
        unit.text,
        plan.target,
        unit.generation,
        completed=plan.completed == plan.generation,
        restart_of=unit.restart_of,
    )
    plan.reason = reason or plan.reason
    plan.unplaced = False
    plan.assigned = machine
    if plan.placements.get(machine) != placement:
        plan.write(placement)
        proposal.occupy(plan.name, machine, plan.requirements)


def _withdraw(proposal: Proposal, plan: UnitPlanBuilder, machine: str) -> None:
    former = plan.placements[machine]
    generation = max(plan.generation, former.generation)
    plan.write(Placement(machine, plan.name, former.text, TargetState.INACTIVE, generation))
    proposal.withdraw(plan.name, machine, requirements_of(former.text, plan.name))


def _leave(plan: UnitPlanBuilder, machine: str, *, reruns: bool = False) -> None:
    """The unit is assigned to this machine no longer."""
    if plan.assigned == machine:
        plan.assigned = ""
    if reruns:
        plan.completed = 0
