"""One run: all phases on one etcd, then the floor on another."""

import asyncio
from pathlib import Path

import msgspec

from contrib.bench.observer import Observer
from contrib.bench.scale.floor import Floor, measure_floor
from contrib.bench.scale.phases import START, Memory, Phase, Play, Say, Size
from contrib.bench.scale.workers import Workers
from contrib.testbed import OWN_TIMEOUTS, EtcdServer


class Findings(msgspec.Struct, frozen=True):
    """All results of a run. `submitted_s` is when the last unit of the start was accepted."""

    size: Size
    phases: dict[str, Phase]
    submitted_s: float
    memory: Memory
    floor: Floor


def run_scale(size: Size, directory: Path, say: Say) -> Findings:
    """All phases, in a directory that is empty at first. Raises TimeoutError where one does not come to its end."""
    with EtcdServer(directory / "etcd", extra_args=OWN_TIMEOUTS) as etcd:
        play = asyncio.run(_play(size, etcd.client_url, directory, say))
    with EtcdServer(directory / "bare", extra_args=OWN_TIMEOUTS) as bare:
        floor = asyncio.run(measure_floor(bare.client_url, play.phases[START].counts, size.servers or size.machines))
    say(f"the floor of it: {floor.took_s:.1f} s")
    return Findings(size, play.phases, play.submitted_s, play.memory, floor)


async def _play(size: Size, etcd_url: str, directory: Path, say: Say) -> Play:
    async with Observer(etcd_url) as observer, Workers() as workers:
        play = Play(size, etcd_url, directory, workers, observer, say)
        await play.run()
    return play
