"""What can be done about one allocation. Decisions (allocations.py) return actions; Proposal.apply carries them out."""

import msgspec

from fleetd.model.reason import PeerWait, Reason, Rejection, WaitingForPeer


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
    """Let the allocation on this machine run on until its replacement runs. `hands_over`: until it is proven where it
    moves to; its place here is kept."""

    machine: str
    hands_over: bool = False


class Forget(msgspec.Struct, frozen=True, gc=False):
    """Delete the placement: it is carried out, or its machine is dead. `reruns` as above."""

    machine: str
    reruns: bool = False


class Decline(msgspec.Struct, frozen=True, gc=False):
    """The machine refuses the unit, and nothing of it is there. The placement is kept, so that the machine reports when
    it does not refuse it any more."""

    machine: str


class Prepare(msgspec.Struct, frozen=True, gc=False):
    """Have the machine get what the unit needs, which is to come there, and runs elsewhere until that is done."""

    machine: str


class WaitForMachine(msgspec.Struct, frozen=True, gc=False):
    """Leave the unit assigned to its dead machine, lost at `lost_at` (Unix time), until `until_s` (leader's clock)."""

    reason: Reason
    lost_at: float
    until_s: float


class AwaitIsolation(msgspec.Struct, frozen=True, gc=False):
    """Leave a placement on a dead machine, which may not have stopped the unit yet, until `until_s` (leader's
    clock)."""

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
    | Prepare
    | WaitForMachine
    | AwaitIsolation
    | Wait
    | WaitForPeer
    | Conclude
    | FindMachine
)
