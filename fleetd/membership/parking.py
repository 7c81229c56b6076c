"""Parks a machine whose fleetd is stopped: moves its key and its states to a long lease without heartbeats.

If the store is unavailable when fleetd is stopped, fleetd ends without waiting, and another process parks the machine
later (process/deferred_parking.py). Otherwise the leader would take the machine for dead and start its units elsewhere
as well.
"""

import asyncio
import logging

import msgspec

from fleetd.membership.registration import decode_machine
from fleetd.model.machine import Machine, MachineMode
from fleetd.model.timespan import LONGEST_S
from fleetd.model.unit import UnitState
from fleetd.registry.records import MACHINES, SYNCED, Synced, encode
from fleetd.registry.registry import Registry
from fleetd.registry.transactions import WriteSet, cut_into_transactions
from fleetd.store.protocol import Comparison, Conflict, HasValue, LeaseNotFound, Unavailable, Unchanged

log = logging.getLogger(__name__)

RETRY_S = 1.0


class Parking(msgspec.Struct):
    """The machine to park, the states of its units by name, for how long (math.inf: without limit), and the lease
    granted for it, 0 if none was yet."""

    machine: Machine
    states: dict[str, UnitState]
    ttl_s: float
    lease: int = 0


async def park_when_possible(registry: Registry, parking: Parking) -> bool:
    """Park the machine as soon as the store answers; return True if it is parked. It is not if it was taken for dead
    meanwhile, was rebooted, or if another machine uses its id. After a cancellation, call it again with the same
    Parking."""
    store = registry.store
    machine = msgspec.structs.replace(parking.machine, mode=MachineMode.PARKED)
    key = registry.key(MACHINES, machine.id)
    while True:
        try:
            guards = await _find_guards(registry, machine)
            if not guards:
                if parking.lease:
                    await store.revoke(parking.lease)
                log.warning(
                    "not parked: this machine was taken for dead or rebooted meanwhile, or another machine has its id"
                )
                return False
            lease = parking.lease = parking.lease or await store.grant(min(parking.ttl_s, LONGEST_S))
            puts = [registry.put(machine, machine.id, lease=lease)]
            puts += [registry.put(state, machine.id, name, lease=lease) for name, state in parking.states.items()]
            # The first transaction has the key: the leader would wait for ever for states that outlive it.
            for number, transaction in enumerate(cut_into_transactions(WriteSet((), (put,)) for put in puts)):
                revision = await store.transact(guards, transaction.operations)
                guards = guards if number else (Unchanged(key, revision),)
            log.info("this machine is parked; its units stay here until fleetd is started again")
            return True
        except (Conflict, LeaseNotFound) as error:
            log.debug("parking again: %s", error)
            if isinstance(error, LeaseNotFound):
                parking.lease = 0
        except Unavailable as error:
            log.debug("cannot park this machine yet, retrying: %s", error)
            await asyncio.sleep(RETRY_S)


async def _find_guards(registry: Registry, machine: Machine) -> tuple[Comparison, ...]:
    """Return what must hold for the machine to be parked, () if it must not be. If its key is gone, the leader must not
    have taken it for dead: it deletes `synced` before it places the units elsewhere."""
    key, synced = registry.key(MACHINES, machine.id), registry.key(SYNCED, machine.id)
    found = {item.key: item for item in (await registry.store.get_many([key, synced])).items}
    if key not in found:
        session = encode(Synced(machine.session))
        is_known = synced in found and found[synced].value == session
        return (Unchanged(key, 0), HasValue(synced, session)) if is_known else ()
    is_own = decode_machine(found[key]).boot_id == machine.boot_id
    return (Unchanged(key, found[key].mod_revision),) if is_own else ()
