"""One run of a simulated cluster from its first boot to its healing, and what came of it."""

import asyncio
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import msgspec

from tests.simulation.actions import Action, perform
from tests.simulation.clock import run_cluster
from tests.simulation.convergence import HEALING_S, heal
from tests.simulation.faults import MACHINES, draw_actions, draw_config
from tests.simulation.world import Failure, World

_MEMORY = Path("/dev/shm")


class Outcome(msgspec.Struct, frozen=True):
    """How a run ended: what went wrong (None: nothing), its log and the digest of that, its length in virtual time."""

    failure: Failure | None
    lines: tuple[str, ...]
    digest: str
    length_s: float


def run_actions(
    actions: Sequence[Action],
    *,
    seed: int = 0,
    machines: Mapping[str, Mapping[str, str]] = MACHINES,
    config: Sequence[str] = (),
    is_fatal: Callable[[str, str], bool] = lambda machine, moment: False,
    healing_s: float = HEALING_S,
) -> Outcome:
    """Do these actions to a new cluster of these machines, heal it, and judge. `seed` is for what the wires lose,
    `config` are the lines of fleet.conf; `is_fatal` decides whether the fleetd of a machine dies at such a moment, just
    before or just after it writes."""
    with tempfile.TemporaryDirectory(dir=_MEMORY if _MEMORY.is_dir() else None, prefix="fleet-simulation-") as path:

        async def run() -> Outcome:
            return await _run(World(Path(path), seed, machines, config, is_fatal), actions, healing_s)

        return run_cluster(run())


def run_seed(seed: int) -> Outcome:
    """The run of this seed."""
    return run_actions(draw_actions(seed), seed=seed, config=draw_config(seed))


async def _run(world: World, actions: Sequence[Action], healing_s: float) -> Outcome:
    try:
        for machine in world.machines.values():
            await machine.boot()
        for action in actions:
            if await _passes(world, action.at_s):
                await perform(world, action)
        if world.failure is None:
            await heal(world, healing_s)
        return Outcome(world.failure, tuple(world.lines), world.digest, world.now_s)
    finally:
        await world.close()


async def _passes(world: World, until_s: float) -> bool:
    """Let time pass until then; whether all is well still."""
    try:
        async with asyncio.timeout(until_s - world.now_s):
            await world.failed.wait()
    except TimeoutError:
        return True
    return False
