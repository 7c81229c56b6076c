"""What must hold of workers, which ask servers instead of the store."""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from fleetd.model.worker_access import find_access
from fleetd.store import worker_wire
from fleetd.store.protocol import Comparison, Operation, Put
from tests.simulation.checker import Checker

if TYPE_CHECKING:
    from tests.simulation.machine import SimulatedMachine
    from tests.simulation.world import World

_SHARED = ("cluster", "history")  # keys that are of no machine, and of interest to each
_TRUST = ("authorities", "revocations")
_PUBLIC = "services"

LOCK_KEYS = "/fleet-lock"  # begins the keys of locks, beside the prefix of the cluster


def served_for_s(world: "World", machine: "SimulatedMachine") -> float:
    """For how long the machine has been well, and if it is a worker, its certificate has not been refused, and one
    server has been well and in reach. Of a server with a clone, one of the two serves nobody, and the other may have an
    address that is not known."""
    if not machine.is_worker:
        return machine.well_for_s
    ids = Counter(each.id for each in world.machines.values())
    ways = (_way(world, machine, each) for each in world.machines.values() if not each.is_worker and ids[each.id] == 1)
    return min(machine.well_for_s, world.counts_for_s(machine.name), max(ways, default=0.0))


def hears_for_s(world: "World", machine: "SimulatedMachine") -> float:
    """For how long it has been well, and all the servers that it may hear the news from."""
    return min([machine.well_for_s, *(_ways(world, machine) if machine.is_worker else ())])


def _ways(world: "World", machine: "SimulatedMachine") -> list[float]:
    return [_way(world, machine, server) for server in world.machines.values() if not server.is_worker]


def _way(world: "World", machine: "SimulatedMachine", server: "SimulatedMachine") -> float:
    return min(server.well_for_s, world.way_is_open_for_s(machine.name, server.name))


class WorkersHaveTheirOwnOnly(Checker):
    """What a server writes for a worker is that worker's own, on a lease of its own; and so is what it lets it read."""

    def see_request(self, writer: str, comparisons: Sequence[Comparison], operations: Sequence[Operation]) -> None:
        machine = self.world.machines[writer]
        if not machine.is_worker:
            return
        access = find_access(self.world.registry.prefix, machine.id)
        for operation in operations:
            if operation.key.startswith(LOCK_KEYS):
                continue  # the server takes the lock of a unit, by its placement, with a session of its own
            lease = operation.lease if isinstance(operation, Put) else 0
            if lease and operation.key == self.world.registry.lease_key(lease):
                if operation.value != machine.id.encode():  # type: ignore[union-attr]
                    self.fail(f"lease {lease} of {writer} is written as another's")
                self.world.lease_owners[lease] = machine.id
                continue
            is_put = isinstance(operation, Put)
            refusal = access.refuse_put(operation.key, lease) if is_put else access.refuse_delete(operation.key)
            if refusal:
                self.fail(f"a server writes {operation.key} for {writer}: {refusal}")
            if is_put and operation.key.startswith(f"{self.world.registry.prefix}{_PUBLIC}/"):
                continue  # on no lease, whoever announces it
            if is_put and self.world.lease_owners.get(lease) != machine.id:
                self.fail(f"a server writes {operation.key} for {writer} on lease {lease}, which is not its own")

    def see_answer(self, worker: str, call: str, body: bytes) -> None:
        machine, prefix = self.world.machines[worker], self.world.registry.prefix
        for key in _keys(worker_wire.decode_body(body, worker_wire.CALLS[call].answer)):
            kind, *names = key.removeprefix(prefix).split("/")
            is_shared = kind in (*_SHARED, _PUBLIC) or (kind == "trust" and names[0] in _TRUST)
            if not key.startswith(prefix) or not (is_shared or names[:1] == [machine.id]):
                self.fail(f"{worker} is told of {key}")


def _keys(answer: Any) -> Iterator[str]:
    """The keys that an answer, or a frame of a stream, speaks of."""
    match answer:
        case worker_wire.KeyAnswer(item=item) if item is not None:
            yield item.key
        case worker_wire.RangeAnswer(found=found):
            yield from (item.key for item in found.items)
        case worker_wire.WatchFrame(events=events):
            yield from (event.key for event in events)
