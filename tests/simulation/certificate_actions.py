"""The actions of scenarios about certificates. Without effect in a run without them."""

import asyncio

from tests.simulation.actions import Action, verb
from tests.simulation.machine import SimulatedMachine
from tests.simulation.world import World

_RETRY_S = 1.0


@verb
def rotate_ca(world: World, action: Action) -> None:
    """`rotate-ca`: another authority signs from now on."""
    if world.life_s:
        world.spawn(world.operators.rotate_authority())


@verb
def revoke_subject(world: World, action: Action) -> None:
    """`revoke-subject SUBJECT [for SECONDS]`: a worker is removed by force, and joins again in the end; or the
    certificates of `person/NAME` are revoked."""
    name = action.args[0]
    machine = world.machines.get(name)
    if not world.life_s or (machine is not None and not machine.is_worker):
        return
    if machine is None:
        world.spawn(world.operators.revoke_person(name))
        return
    machine.begin_trouble("revocation")
    removal = asyncio.ensure_future(world.operators.remove_machine(machine.id, force=True))
    world.spawn(removal)
    world.begin(f"removal of {name}", action.for_s, lambda: world.spawn(_join_again(world, machine, removal)))


async def _join_again(world: World, machine: SimulatedMachine, removal: asyncio.Future[None]) -> None:
    """Have a machine that was removed join as soon as it is up, and whatever interrupts it; and again, if the server
    that gave it a certificate had not heard of the removal."""
    assert machine.trust is not None
    former = machine.trust.certificate
    await asyncio.wait([removal])
    while machine.trust.certificate == former or not await machine.trust.counts(world.records.revocations.values()):
        if machine.is_up:
            machine.run_errand(machine.join())
        await asyncio.sleep(_RETRY_S)
