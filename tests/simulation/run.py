"""One run of a simulated cluster, from its first boot to convergence, and its result."""

import asyncio
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec

from tests.simulation.actions import Action, perform
from tests.simulation.clock import run_cluster
from tests.simulation.convergence import CONVERGENCE_S, converge
from tests.simulation.faults import MACHINES, draw_actions, draw_config, draw_life, draw_machines
from tests.simulation.scenario import Scenario
from tests.simulation.world import Failure, World

_MEMORY = Path("/dev/shm")


class RunResult(msgspec.Struct, frozen=True):
    """The result of a run: the failure (None: none), its log and the log's digest, its length in virtual time."""

    failure: Failure | None
    lines: tuple[str, ...]
    digest: str
    length_s: float


@contextmanager
def simulation_directory() -> Iterator[Path]:
    """A directory for the disks of one run."""
    with tempfile.TemporaryDirectory(dir=_MEMORY if _MEMORY.is_dir() else None, prefix="fleet-simulation-") as path:
        yield Path(path)


def run_actions(
    actions: Sequence[Action],
    *,
    seed: int = 0,
    machines: Mapping[str, Mapping[str, str]] = MACHINES,
    config: Sequence[str] = (),
    is_fatal: Callable[[str, str], bool] = lambda machine, moment: False,
    convergence_s: float = CONVERGENCE_S,
    life_s: float = 0.0,
    converges: bool = True,
) -> RunResult:
    """Run these actions on a new cluster of these machines, let it converge, and check. `seed` decides which messages
    are lost, `config` are the lines of fleet.conf; `is_fatal` decides whether a machine's fleetd dies just before or
    just after a write; certificates live for `life_s` (0: there are none). With
    `converges` false, the run ends with the last action, and is judged by what must never happen alone."""
    with simulation_directory() as path:

        async def run() -> RunResult:
            return await _run(
                World(path, seed, machines, config, is_fatal, life_s), actions, convergence_s if converges else None
            )

        return run_cluster(run())


def run_seed(seed: int) -> RunResult:
    """Run this seed."""
    return run_actions(
        draw_actions(seed),
        seed=seed,
        machines=draw_machines(seed),
        config=draw_config(seed),
        life_s=draw_life(seed),
    )


def run_scenario(scenario: Scenario) -> RunResult:
    """Run this scenario."""
    return run_actions(
        scenario.actions,
        seed=scenario.seed,
        machines=scenario.machines,
        config=scenario.config,
        life_s=scenario.life_s,
    )


async def _run(world: World, actions: Sequence[Action], convergence_s: float | None) -> RunResult:
    try:
        for machine in world.machines.values():
            await machine.boot()
        for action in actions:
            if await _passes(world, action.at_s):
                await perform(world, action)
        if world.failure is None and convergence_s is not None:
            await converge(world, convergence_s)
        return RunResult(world.failure, tuple(world.lines), world.digest, world.now_s)
    finally:
        await world.close()


async def _passes(world: World, until_s: float) -> bool:
    """Let time pass until then. Return True if the run has not failed."""
    try:
        async with asyncio.timeout(until_s - world.now_s):
            await world.failed.wait()
    except TimeoutError:
        return True
    return False
