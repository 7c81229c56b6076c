"""What a worker writes, before it is stored: checked, bounded, and overwritten where a server knows better."""

from collections.abc import Sequence
from typing import TypeVar

from msgspec import structs

from fleetd.api.worker.errors import Forbidden
from fleetd.model.announce_options import announce_options_of
from fleetd.model.announcement import ZONE, ServiceRecord
from fleetd.model.certificate import WORKER
from fleetd.model.machine_identity import MachineIdentity
from fleetd.model.machine_request import MAX_ANSWER_BYTES
from fleetd.model.worker_access import MAX_MACHINE_BYTES, MAX_SERVICE_BYTES, MAX_STATE_BYTES, record_of_worker
from fleetd.registry.records import (
    MACHINE_IDENTITIES,
    MACHINES,
    PLACEMENTS,
    SERVICES,
    SETTINGS,
    STATES,
    Kind,
    MalformedRecord,
    Names,
    NewerRecord,
    Record,
    RecordKey,
    encode,
)
from fleetd.registry.registry import Registry
from fleetd.registry.transactions import WriteSet
from fleetd.store.protocol import Comparison, Delete, KeyValue, Operation, Put, Unchanged

MAX_STATES_BYTES = 16 * 2**20  # of all states of one worker
MAX_STATES = 20_000

R = TypeVar("R", bound=Record)


class WorkerRecords:
    """Prepares what workers write. A record that cannot be read is refused: the leader would stop for one of a later
    format, which is to mean that it is too old itself."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._sizes: dict[str, dict[str, int]] = {}  # of the states in the store, by machine and key

    async def prepare(self, machine: str, operations: Sequence[Operation]) -> WriteSet:
        """The operations to carry out for these, and what must hold for them. Raises Forbidden, Unavailable."""
        comparisons: list[Comparison] = []
        prepared: list[Operation] = []
        for operation in operations:
            if isinstance(operation, Delete):
                prepared.append(operation)
                continue
            key = self._registry.parse_key(operation.key)
            if operation.key.startswith(self._registry.answers_prefix):
                _check_answer(operation)
                prepared.append(operation)
            elif key is not None and key.kind in (MACHINES, SERVICES):
                prepare = self._prepare_machine if key.kind is MACHINES else self._prepare_service
                guard, put = await prepare(machine, operation)
                comparisons.append(guard)
                prepared.append(put)
            else:
                self._check_state(key, operation)
                prepared.append(operation)
        await self._check_quota(machine, prepared)
        return WriteSet(tuple(comparisons), tuple(prepared))

    async def _prepare_machine(self, machine: str, put: Put) -> tuple[Comparison, Put]:
        """The record with what was recorded when the machine joined, and the guard that this has not changed."""
        if len(put.value) > MAX_MACHINE_BYTES:
            raise Forbidden(f"the record of a machine has at most {MAX_MACHINE_BYTES} bytes")
        said = _decode(MACHINES, (machine,), put)
        guard, recorded = await self._read_identity(machine)
        return guard, Put(put.key, encode(record_of_worker(said, recorded)), put.lease)

    async def _read_identity(self, machine: str) -> tuple[Comparison, MachineIdentity]:
        """What was recorded when the machine joined, and the guard that this has not changed."""
        key = self._registry.key(MACHINE_IDENTITIES, machine)
        item = await self._registry.store.get(key)
        try:
            # Without a record, which a restore of the store may have lost, nothing is known but that it may take part.
            recorded = MACHINE_IDENTITIES.decode(item) if item else MachineIdentity(WORKER)
        except MalformedRecord as error:
            raise Forbidden(f"{error}; repair or delete this key in the store") from error
        return Unchanged(key, item.mod_revision if item else 0), recorded

    async def _prepare_service(self, machine: str, put: Put) -> tuple[Comparison, Put]:
        """The record with the address and the zone that were recorded when the machine joined, or the zone that
        operators have set since, and the guard that what was recorded has not changed. A worker announces what the
        units that are placed on it do: another name would draw the requests of others to it, and so would another
        zone."""
        if len(put.value) > MAX_SERVICE_BYTES:
            raise Forbidden(f"what a unit announces under one name has at most {MAX_SERVICE_BYTES} bytes")
        key = self._registry.parse_key(put.key)
        said = _decode(SERVICES, key.names if key else (), put)
        await self._check_announced(machine, said)
        guard, recorded = await self._read_identity(machine)
        zone = await self._find_set_zone(machine)
        zone = recorded.metadata.get(ZONE, "") if zone is None else zone
        own = structs.replace(said, address=recorded.address, zone=zone)
        return guard, Put(put.key, encode(own))

    async def _find_set_zone(self, machine: str) -> str | None:
        """The zone that operators have set for the machine ('': none); None if they have not, or it cannot be read."""
        item = await self._registry.store.get(self._registry.key(SETTINGS, machine))
        try:
            return SETTINGS.decode(item).metadata.get(ZONE) if item else None
        except MalformedRecord:
            return None

    async def _check_announced(self, machine: str, said: ServiceRecord) -> None:
        """Raises Forbidden unless the unit is placed there, and announces this."""
        item = await self._registry.store.get(self._registry.key(PLACEMENTS, machine, said.unit))
        try:
            placement = PLACEMENTS.decode(item) if item else None
        except MalformedRecord as error:
            raise Forbidden(str(error)) from error
        services = announce_options_of(placement.content, said.unit).services if placement else ()
        if (said.service, said.ports) not in services:
            raise Forbidden(f"{said.unit} of machine {machine} does not announce {said.service} on these ports")

    def _check_state(self, key: RecordKey | None, put: Put) -> None:
        if key is None or key.kind is not STATES:
            raise Forbidden(f"{put.key!r} is not the state of a unit")
        if len(put.value) > MAX_STATE_BYTES:
            raise Forbidden(f"the state of a unit has at most {MAX_STATE_BYTES} bytes")
        _decode(STATES, key.names, put)

    async def _check_quota(self, machine: str, operations: Sequence[Operation]) -> None:
        """Note the sizes of the states. Raises Forbidden if there are too many."""
        if not self._fits(machine, operations):
            found = await self._registry.store.range(self._registry.key(STATES, machine) + "/")
            self._sizes[machine] = {item.key: len(item.value) for item in found.items}
            if not self._fits(machine, operations):
                raise Forbidden(f"the states of machine {machine} take more room than all that it may write")
        self._sizes[machine] = self._after(machine, operations)

    def _fits(self, machine: str, operations: Sequence[Operation]) -> bool:
        sizes = self._after(machine, operations)
        return len(sizes) <= MAX_STATES and sum(sizes.values()) <= MAX_STATES_BYTES

    def _after(self, machine: str, operations: Sequence[Operation]) -> dict[str, int]:
        sizes = dict(self._sizes.get(machine, {}))
        for operation in operations:
            if operation.key.startswith(self._registry.answers_prefix):
                continue  # it ends with the request
            if operation.key.startswith(self._registry.key(SERVICES) + "/"):
                continue  # there are no more of them than its units announce
            if isinstance(operation, Put):
                sizes[operation.key] = len(operation.value)
            else:
                sizes.pop(operation.key, None)
        return sizes


def _check_answer(put: Put) -> None:
    """Raises Forbidden for an answer that is too large."""
    if len(put.value) > MAX_ANSWER_BYTES:
        raise Forbidden(f"the answer to a request has at most {MAX_ANSWER_BYTES} bytes")


def _decode(kind: Kind[R], names: Names, put: Put) -> R:
    try:
        return kind.decode(KeyValue(put.key, put.value, 0, 0, put.lease), names)
    except NewerRecord as error:
        raise Forbidden(
            f"{put.key} is in the format of a later fleetd than the one of this server: update fleetd on the servers"
        ) from error
    except MalformedRecord as error:
        raise Forbidden(str(error)) from error
