"""What the checkers of invariants have in common."""

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING

from fleetd.model.certificate import CertificateIdentity
from fleetd.model.placement import Placement
from fleetd.registry.records import RecordKey
from fleetd.store.protocol import Comparison, Event, Operation

if TYPE_CHECKING:
    from tests.simulation.world import World

Key = tuple[str, str]  # (machine, unit)


def now() -> float:
    return asyncio.get_running_loop().time()


class Checker:
    """One rule. `fail` ends the run."""

    def __init__(self, world: "World") -> None:
        self.world = world
        self.records = world.records

    def fail(self, what: str) -> None:
        """The rule is broken."""
        self.world.fail(type(self).__name__, what)

    def see_events(self, events: Sequence[tuple[RecordKey, Event]], before: dict[Key, Placement]) -> None:
        """After a write. `before`: the former values of the placements that it changed or deleted."""

    def see_request(self, writer: str, comparisons: Sequence[Comparison], operations: Sequence[Operation]) -> None:
        """Before the store looks at a transaction of that machine."""

    def see_answer(self, worker: str, call: str, body: bytes) -> None:
        """When an answer of a server, or a frame of its stream, reaches a worker."""

    def see_served(self, worker: str, server: str, certificate: CertificateIdentity) -> None:
        """When a server does something for a worker, which it knows by this certificate."""

    def see_refused(self, worker: str, server: str, why: str) -> None:
        """When a worker and a server do not take each other's certificates."""

    def see_call(self, machine: str, verb: str, names: Sequence[str]) -> None:
        """When the machine's systemd is called."""

    def see_restore(self, before: dict[Key, Placement]) -> None:
        """After the store was set back; `before`: the placements that it held."""

    def see_rest(self) -> None:
        """When nothing is left to do at this moment."""

    def see_end(self) -> None:
        """When everything should have converged."""
