"""`python -m contrib.bench.containers`: how long a container takes from the request until it is reported active, beside
the same service started by systemd alone, on a real machine with an image that it has, by digest.

fleet may take 0.1 s more. It ends with 1 if it does.
"""

import argparse
import asyncio
import sys
import time
from collections.abc import Sequence
from functools import partial

from contrib import interrupt
from contrib.bench import floor
from contrib.bench.api import Api, are_active
from contrib.bench.figure import Figure, render_table
from contrib.testbed import Cluster, Machine, missing_requirements
from contrib.testbed.registry import ContainerRegistry
from fleetd.model.quadlet.source import without_sources
from fleetd.model.quadlet.translation import translate, with_image
from fleetd.model.unit_option import UnitOption
from fleetd.model.unitfile import parse_unit_file, render_unit_file

MORE_S = 0.1
POLL_S = 0.003
FILE = """\
[Container]
Image={image}
Network=none
Exec=/bin/sh -c "trap 'exit 0' TERM; sleep infinity & wait"
"""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m contrib.bench.containers", description="Measure a container.")
    parser.add_argument("--rounds", type=int, default=15, help="how often it is measured (default 15)")
    rounds = parser.parse_args().rounds
    if missing := missing_requirements():
        print(f"contrib.bench.containers boots machines: {'; '.join(missing)}", file=sys.stderr)
        return 2
    interrupt.end_on_first()
    try:
        with Cluster(machines=1) as cluster:
            figures = asyncio.run(_measure(cluster, rounds))
    except KeyboardInterrupt:
        return 130
    print(f"\n{render_table(figures)}")
    print(f"\nThe best of {rounds}. fleet takes {figures[0].value - (figures[0].floor or 0):.3f} s more.")
    return 0 if all(figure.holds for figure in figures) else 1


async def _measure(cluster: Cluster, rounds: int) -> list[Figure]:
    """The figure, from starts by turns."""
    (machine,) = cluster.machines
    image = ContainerRegistry(cluster, machine).push("hello:1", "one")
    options = _make_unit(machine, image)
    text = render_unit_file(without_sources(options))
    samples, alone = [], []
    async with Api(machine.path("/run/fleet.sock")) as api:
        for index in range(rounds + 1):  # the first one pulls
            alone.append(floor.start_alone([machine], [f"alone-{index}.service"], text))
            samples.append(await _start(api, f"hello-{index}.service", options))
    samples, alone = samples[1:], alone[1:]
    best_s = min(alone)  # what else runs here delays both
    return [
        Figure("container", "a container, PUT to active, at best", "s", (min(samples),), (best_s,), best_s + MORE_S)
    ]


def _make_unit(machine: Machine, image: str) -> Sequence[UnitOption]:
    """The service of a container whose image is named by its digest."""
    found = machine.run(["skopeo", "inspect", "--tls-verify=false", "--format", "{{.Digest}}", f"docker://{image}"])
    unit = translate("hello.container", parse_unit_file(FILE.format(image=image)), lambda name: None)
    return with_image(unit, f"{image.rpartition(':')[0]}@{found.stdout.strip()}")


async def _start(api: Api, name: str, options: Sequence[UnitOption]) -> float:
    began = time.monotonic()
    await api.start(name, options)
    active = await api.wait(partial(are_active, names=[name]), POLL_S, name)
    await api.destroy(name)
    await api.wait(lambda reports: not reports, POLL_S)
    return active - began


if __name__ == "__main__":
    sys.exit(main())
