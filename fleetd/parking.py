"""Parking a machine after its fleetd has ended: what is left to do where the store did not answer in time.

A fleetd that is stopped while the store is away ends all the same, and leaves this to a process of its own
(`fleetd park`, started by daemon.py), which lasts until the store is back. Else every unit here would be taken for lost
then, and started elsewhere a second time. How a registered machine parks itself is membership.py's matter.
"""

import asyncio
import logging

import msgspec

from fleetd.core.machine import Machine, MachineMode
from fleetd.core.timespan import LONGEST_S
from fleetd.registry import MalformedRecord, Registry, Step, cut_into_transactions, decode
from fleetd.store.protocol import Conflict, KeyValue, LeaseNotFound, Put, Unavailable, Unchanged

log = logging.getLogger(__name__)

RETRY_S = 1.0


class Parking(msgspec.Struct, frozen=True):
    """Which machine is to be parked, in which boot, and for how long (math.inf: without limit)."""

    machine: str
    boot_id: str
    ttl_s: float


async def park_when_possible(registry: Registry, parking: Parking) -> bool:
    """Park the machine as soon as the store answers; whether it is parked. It is not where its key has gone meanwhile
    or is another boot's: then it was taken for dead, as one that is cut off, or it is back."""
    store = registry.store
    key = registry.key("machines", parking.machine)
    lease = 0
    while True:
        try:
            item = await store.get(key)
            machine = _own_record(item, parking)
            if item is None or machine is None:
                if lease:
                    await store.revoke(lease)
                return False
            lease = lease or await store.grant(min(parking.ttl_s, LONGEST_S))
            await _move(registry, item, machine, lease)
            return True
        except (Conflict, LeaseNotFound) as error:
            log.debug("parks once more: %s", error)
            lease = lease if isinstance(error, Conflict) else 0
        except Unavailable as error:
            log.debug("cannot park this machine yet: %s", error)
            await asyncio.sleep(RETRY_S)


def _own_record(item: KeyValue | None, parking: Parking) -> Machine | None:
    """The machine's record as it stands, if it is of this boot."""
    try:
        machine: Machine | None = decode("machines", item) if item else None
    except MalformedRecord:
        return None
    return machine if machine is not None and machine.boot_id == parking.boot_id else None


async def _move(registry: Registry, item: KeyValue, machine: Machine, lease: int) -> None:
    """Bring the machine's key, marked as parked, and its states onto this lease: the key first, in one transaction with
    as many states as that holds. Raises Conflict where the key has changed."""
    store = registry.store
    parked = msgspec.structs.replace(machine, mode=MachineMode.PARKED)
    states = (await store.range(registry.key("states", machine.id) + "/")).items
    puts = [registry.put(parked, machine.id, lease=lease), *(Put(state.key, state.value, lease) for state in states)]
    seen = item.mod_revision
    for number, transaction in enumerate(cut_into_transactions(Step((), (put,)) for put in puts)):
        revision = await store.transact([Unchanged(item.key, seen)], transaction.operations)
        seen = revision if number == 0 else seen
