"""`python -m contrib.bench.exports [--units N]`: what export, import and simulate cost in a large cluster.

No machine is booted: the API is served over an embedded store that is filled by hand; a tenth of the units has a
drop-in, which is the same for all. The import goes into a second store, which is empty. The simulation has all
of it in one process, and loses a machine.
"""

import argparse
import asyncio
import os
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from contrib.bench.figure import Figure, render_table
from fleetd.api.routes import Api
from fleetd.api.server import Server
from fleetd.config.options import Address
from fleetd.model.content import make_dropins
from fleetd.model.machine import Capability, Machine
from fleetd.model.placement import Decision
from fleetd.model.reason import BEST
from fleetd.model.unit import TargetState, Unit, UnitState
from fleetd.model.unitfile import UnitFile
from fleetd.registry.registry import Registry
from fleetd.store.embedded import EmbeddedStore
from fleetd.store.protocol import MAX_OPERATIONS, Put

TEXT = UnitFile.parse("[Unit]\nDescription=One of many\n\n[Service]\nExecStart=/bin/sleep infinity\n").text
SHARED = make_dropins([("limit.conf", "[Service]\nMemoryMax=1G\n")])
WITH_DROPIN = 10  # every tenth unit
# Twice of what they took where they were measured first.
MOST_S = {"export": 10.0, "compare": 15.0, "import": 120.0, "simulate": 240.0}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m contrib.bench.exports", description=__doc__)
    parser.add_argument("--units", type=int, default=20_000)
    parser.add_argument("--machines", type=int, default=1_000)
    arguments = parser.parse_args()
    figures = asyncio.run(_measure(arguments.units, arguments.machines))
    print(f"\n{arguments.units} units on {arguments.machines} machines:\n{render_table(figures)}")
    return 0 if all(figure.holds for figure in figures) else 1


async def _measure(units: int, machines: int) -> list[Figure]:
    with tempfile.TemporaryDirectory(prefix="fleet-exports-") as directory:
        file, folder = Path(directory) / "cluster.jsonl", Path(directory)
        async with _serve(folder / "full") as full, _serve(folder / "empty") as empty:
            await _add_machines(full[1], machines)
            await _add_machines(empty[1], machines)
            await _add_units(full[1], units, machines)
            figures = [await _time("export", full[0], "export", output=file)]
            figures.append(await _time("compare", full[0], "import", str(file)))
            figures.append(await _time("import", empty[0], "import", "--yes", str(file)))
        figures.append(await _time("simulate", "", "simulate", f"--lose={0:032x}", "--output=json", str(file)))
        return figures


@asynccontextmanager
async def _serve(directory: Path) -> AsyncIterator[tuple[str, Registry]]:
    """The endpoint of an API over an empty store, and the store's registry."""
    directory.mkdir()
    store = EmbeddedStore(str(directory / "store.db"))
    registry = Registry(store)
    server = Server(Api(registry))
    await server.start([Address(path=str(directory / "fleet.sock"))], insecure=False)
    try:
        yield f"unix://{directory}/fleet.sock", registry
    finally:
        await server.stop()
        await store.close()


async def _add_machines(registry: Registry, machines: int) -> None:
    made = [
        Machine(
            f"{number:032x}",
            address=f"10.0.{number // 250}.{number % 250}",
            capabilities=dict.fromkeys(Capability, True),
        )
        for number in range(machines)
    ]
    await _write(registry, [registry.put(machine, machine.id) for machine in made])


async def _add_units(registry: Registry, units: int, machines: int) -> None:
    """Units, each decided for and active on its machine."""
    puts = []
    for number in range(units):
        name, machine = f"u{number:05}.service", f"{number % machines:032x}"
        unit = Unit(name, TEXT, TargetState.LAUNCHED, dropins=SHARED if number % WITH_DROPIN == 0 else ())
        state = UnitState("loaded", "active", "running", unit.content.hash, TargetState.LAUNCHED, number + 1)
        puts.append(registry.put(unit, name))
        puts.append(registry.put(Decision(name, 2**40, machine, since=1e9, reason=BEST), name))
        puts.append(registry.put(state, machine, name))
    await _write(registry, puts)


async def _write(registry: Registry, puts: Sequence[Put]) -> None:
    for start in range(0, len(puts), MAX_OPERATIONS):
        await registry.store.transact([], puts[start : start + MAX_OPERATIONS])


async def _time(name: str, endpoint: str, *arguments: str, output: Path | None = None) -> Figure:
    """The processor time of a command."""
    options = [f"--endpoint={endpoint}"] if endpoint else []
    program = [sys.executable, "-m", "fleetctl.cli", *options, "--request-timeout=120", *arguments]
    before = os.times()
    began = time.monotonic()
    with open(output or os.devnull, "wb") as file:
        process = await asyncio.create_subprocess_exec(*program, stdout=file, stderr=asyncio.subprocess.PIPE)
        _, said = await process.communicate()
    if process.returncode:
        raise RuntimeError(f"{arguments[:2]} ended with {process.returncode}: {said.decode()[-500:]}")
    after = os.times()
    used_s = after.children_user + after.children_system - before.children_user - before.children_system
    served_s = after.user + after.system - before.user - before.system
    took_s = time.monotonic() - began
    print(f"{name}: {used_s:.2f} s of fleetctl, {served_s:.2f} s of the API, {took_s:.2f} s on the clock")
    return Figure(name, f"fleetctl {name}, processor time", "s", (used_s,), limit=MOST_S[name])


if __name__ == "__main__":
    sys.exit(main())
