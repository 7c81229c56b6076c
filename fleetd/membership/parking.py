"""Parking a machine after its fleetd has ended: what is left to do where the store did not answer in time.

A fleetd that is stopped while the store is away ends all the same, and leaves this to a process of its own
(deferred_parking.py), which lasts until the store is back. Else every unit here would be taken for lost then, and
started elsewhere a second time. How a registered machine parks itself is registration.py's matter.
"""

import asyncio
import logging

import msgspec

from fleetd.model.machine import Machine, MachineMode
from fleetd.model.timespan import LONGEST_S
from fleetd.model.unit import UnitState
from fleetd.registry.registry import MalformedRecord, Registry, Synced, WriteSet, cut_into_transactions, decode, encode
from fleetd.store.protocol import Comparison, Conflict, HasValue, LeaseNotFound, Unavailable, Unchanged

log = logging.getLogger(__name__)

RETRY_S = 1.0


class Parking(msgspec.Struct, frozen=True):
    """Which machine is to be parked, the states of its units by name, and for how long (math.inf: without limit); and
    the lease that was granted for it already, 0 for none."""

    machine: Machine
    states: dict[str, UnitState]
    ttl_s: float
    lease: int = 0


async def park_when_possible(registry: Registry, parking: Parking) -> bool:
    """Park the machine as soon as the store answers; whether it is parked. It is not where it was taken for dead, as
    one that is cut off, or has been rebooted, or is another machine's id too."""
    store = registry.store
    machine = msgspec.structs.replace(parking.machine, mode=MachineMode.PARKED)
    key = registry.key("machines", machine.id)
    lease = parking.lease
    while True:
        try:
            guards = await _find_guards(registry, machine)
            if not guards:
                if lease:
                    await store.revoke(lease)
                return False
            lease = lease or await store.grant(min(parking.ttl_s, LONGEST_S))
            puts = [registry.put(machine, machine.id, lease=lease)]
            puts += [registry.put(state, machine.id, name, lease=lease) for name, state in parking.states.items()]
            # The key stands in the first, with as many states as one transaction holds.
            for number, transaction in enumerate(cut_into_transactions(WriteSet((), (put,)) for put in puts)):
                revision = await store.transact(guards, transaction.operations)
                guards = guards if number else (Unchanged(key, revision),)
            return True
        except (Conflict, LeaseNotFound) as error:
            log.debug("parks once more: %s", error)
            lease = lease if isinstance(error, Conflict) else 0
        except Unavailable as error:
            log.debug("cannot park this machine yet: %s", error)
            await asyncio.sleep(RETRY_S)


async def _find_guards(registry: Registry, machine: Machine) -> tuple[Comparison, ...]:
    """What must hold for the machine to be parked, () where it must not be. Where its key is gone, the leader must not
    have taken it for dead: it forgets the session before it gives its orders to others."""
    key, synced = registry.key("machines", machine.id), registry.key("synced", machine.id)
    found = {item.key: item for item in (await registry.store.get_many([key, synced])).items}
    if key not in found:
        session = encode(Synced(machine.session))
        is_known = synced in found and found[synced].value == session
        return (Unchanged(key, 0), HasValue(synced, session)) if is_known else ()
    try:
        is_own = decode("machines", found[key]).boot_id == machine.boot_id
    except MalformedRecord:
        is_own = False
    return (Unchanged(key, found[key].mod_revision),) if is_own else ()
