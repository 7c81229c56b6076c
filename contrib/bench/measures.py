"""What is measured, one function a measure: each takes the bench and returns its figures."""

import asyncio
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial

import msgspec

from contrib.bench import floor, process
from contrib.bench.api import Api, active_on, are_active
from contrib.bench.figure import Figure
from contrib.bench.observer import Observer
from contrib.bench.targets import NONE, TARGETS, Targets
from contrib.testbed import OWN_TIMEOUTS, Cluster, EtcdServer, Machine
from fleetd.model.unit_option import UnitOption

TEXT = "[Unit]\nDescription=Sleeper\n[Service]\nExecStart=/bin/sleep infinity\n"
OPTIONS = (
    UnitOption("Unit", "Description", "Sleeper"),
    UnitOption("Service", "ExecStart", "/bin/sleep infinity"),
)
AGENT_TTL_S = 10.0  # fleetd's default, which the testbed keeps
POLL_ONE_S = 0.003
POLL_MANY_S = 0.2
REST_S = 60.0  # in which a machine makes some thirty requests
PATIENCE_S = 120.0
SETTLE_S = 5.0  # until a machine has done what it does after it was asked for something
GROWTH_UNITS = 1000


Starting = Callable[[Sequence[str], Sequence[UnitOption]], Awaitable[None]]


class Bench(msgspec.Struct, frozen=True):
    """The machines, and how much to ask of them. `instances`: of the group that is rolled out."""

    cluster: Cluster
    rounds: int
    units: int
    instances: int = 100

    @property
    def targets(self) -> Targets:
        return TARGETS.get(len(self.cluster.machines), NONE)

    @property
    def share(self) -> int:
        """How many units a machine gets, or so."""
        return self.units // len(self.cluster.machines)

    def api(self, machine: Machine | None = None) -> Api:
        machine = machine or self.cluster.machines[0]
        return Api(machine.path("/run/fleet.sock"))

    def observer(self) -> Observer:
        """Who sees when many are active, without asking those who are busy with that."""
        return Observer(self.cluster.etcd.client_url)

    def names(self, prefix: str) -> list[str]:
        return [f"{prefix}-{index:04}.service" for index in range(self.units)]

    async def fill(self, api: Api) -> list[str]:
        """All units active, if they are not yet; their names."""
        names = self.names("many")
        if not are_active(await api.reports(), names):
            await api.start_all(names, OPTIONS)
            await api.wait(partial(are_active, names=names), POLL_MANY_S)
        return names


async def clear(api: Api) -> None:
    """No units, and no machine that still has one."""
    await api.destroy_all(list(await api.reports()))
    await api.wait(lambda reports: not reports, POLL_MANY_S)


async def measure_one(bench: Bench) -> list[Figure]:
    """One unit, from the request to where it is reported active."""
    samples, floor_samples = [], []
    async with bench.api() as api:
        await clear(api)
        for index in range(bench.rounds):
            name = f"one-{index}.service"
            floor_samples.append(floor.start_alone(bench.cluster.machines[:1], [name], TEXT))
            began = time.monotonic()
            await api.start(name, OPTIONS)
            active = await api.wait(partial(are_active, names=[name]), POLL_ONE_S, name)
            samples.append(active - began)
            await clear(api)
    return [Figure("one", "one unit, PUT to active", "s", tuple(samples), tuple(floor_samples), bench.targets.one_s)]


async def measure_many(bench: Bench) -> list[Figure]:
    """Many units, from the first request to where all are reported active: in one request, as `fleetctl start` has it;
    and with one for each, as version 1 of the API does."""
    samples, samples_put, floor_samples = [], [], []
    names = bench.names("many")
    async with bench.api() as api, bench.observer() as observer:

        async def settle() -> None:
            await clear(api)
            await observer.until("nothing is active", lambda: not observer.active, PATIENCE_S)
            await asyncio.sleep(SETTLE_S)

        async def start(ask: Starting) -> float:
            await settle()
            began = time.monotonic()
            active = asyncio.create_task(observer.until_active(names, PATIENCE_S))
            await ask(names, OPTIONS)
            took_s = await active - began
            assert are_active(await api.reports(), names), "the API reports something else than the store has"
            return took_s

        for _ in range(bench.rounds):
            await settle()
            floor_samples.append(floor.start_alone(bench.cluster.machines, bench.names("alone"), TEXT))
            samples.append(await start(api.start_all))
            samples_put.append(await start(api.put_all))
    floors = tuple(floor_samples)
    at_once = Figure("many", f"{bench.units} units, request to all active", "s", tuple(samples), floors)
    one_by_one = Figure("many_put", f"{bench.units} units, first PUT to all active", "s", tuple(samples_put), floors)
    return [at_once.at_most(bench.targets.many), one_by_one]


async def measure_cut(bench: Bench) -> list[Figure]:
    """A machine's power is cut, until all that it ran is reported active elsewhere. Each machine gets its turn, and so
    the leader too."""
    samples = []
    for index in range(bench.rounds):
        victim, witness = (bench.cluster.machines[(index + shift) % len(bench.cluster.machines)] for shift in (1, 2))
        async with bench.api(witness) as api, bench.observer() as observer:
            await clear(api)
            names = await bench.fill(api)
            if not any(active_on(report) == victim.id for report in (await api.reports()).values()):
                raise RuntimeError(f"{victim.name} runs nothing: its power cut would measure nothing")
            await observer.until_active(names, PATIENCE_S)
            began = time.monotonic()
            victim.power_cut()
            samples.append(await observer.until_active(names, PATIENCE_S, besides=[victim.id]) - began)
            assert are_active(await api.reports(), names, besides=victim.id)
        victim.boot()
        bench.cluster.wait_ready()
    name = f"power cut, to its {bench.share} units active elsewhere"
    return [Figure("cut", name, "s", tuple(samples), (AGENT_TTL_S,), AGENT_TTL_S + bench.targets.cut_s)]


async def measure_memory(bench: Bench) -> list[Figure]:
    """What fleetd holds in memory once it has started its share of the units: the largest of the machines."""
    async with bench.api() as api:
        await bench.fill(api)
    largest = max(process.resident_mib(machine) for machine in bench.cluster.machines)
    name = f"memory of a fleetd, with {bench.share} units"
    return [Figure("memory", name, "MiB", (largest,), limit=bench.targets.memory_mib)]


async def measure_growth(bench: Bench) -> list[Figure]:
    """What each unit more takes of a fleetd that has just been started: one machine gets many."""
    machine = bench.cluster.machines[-1]
    names = [f"more-{index:04}.service" for index in range(GROWTH_UNITS)]
    async with bench.api() as api:
        await clear(api)
        machine.run(["systemctl", "restart", "fleet.service"])
        await asyncio.sleep(SETTLE_S)
        before = process.resident_mib(machine)
        await api.start_all(names, (*OPTIONS, UnitOption("X-Fleet", "MachineID", machine.id)))
        await api.wait(partial(are_active, names=names), POLL_MANY_S)
        await asyncio.sleep(SETTLE_S)
        each_kib = (process.resident_mib(machine) - before) * 1024 / GROWTH_UNITS
        await clear(api)
    name = f"memory for each further unit, up to {GROWTH_UNITS}"
    return [Figure("growth", name, "KiB", (each_kib,), limit=bench.targets.growth_kib)]


async def measure_rest(bench: Bench) -> list[Figure]:
    """Cost while nothing changes: processor time of the busiest fleetd, of etcd beside an idle one,
    and requests to the store, beside those of machines that have no units."""
    alone_dir = bench.cluster.network.directory / "etcd-alone"
    async with bench.api() as api:
        await clear(api)
        idle = await _rest(bench)
        await bench.fill(api)
    with EtcdServer(alone_dir, address=bench.cluster.network.address, extra_args=OWN_TIMEOUTS) as alone:
        rest = await _rest(bench, alone)
    per_machine = Figure("requests", "at rest: requests a machine", "/min", (rest.requests,), (idle.requests,))
    etcd, etcd_alone = (rest.etcd,), (rest.etcd_alone,)
    return [
        Figure("rest_fleetd", "at rest: a fleetd", "%", (rest.fleetd,), limit=bench.targets.fleetd_percent),
        Figure("rest_etcd", "at rest: etcd", "%", etcd, etcd_alone, limit=bench.targets.etcd_percent),
        per_machine.at_most(bench.targets.requests),
    ]


class _Rest(msgspec.Struct, frozen=True):
    """While nothing changed: % of a core that the busiest fleetd, etcd and an idle etcd used, and requests
    a minute for each machine."""

    fleetd: float
    etcd: float
    etcd_alone: float
    requests: float


async def _rest(bench: Bench, alone: EtcdServer | None = None) -> _Rest:
    await asyncio.sleep(AGENT_TTL_S)  # the first beats after a change ask once whether a watch has missed it
    machines, url = bench.cluster.machines, bench.cluster.etcd.client_url
    began, before = time.monotonic(), [process.cpu_s(machine) for machine in machines]
    etcd_before = process.observe_etcd(url)
    alone_before = process.observe_etcd(alone.client_url) if alone else etcd_before
    await asyncio.sleep(REST_S)
    etcd = process.observe_etcd(url)
    alone_after = process.observe_etcd(alone.client_url) if alone else etcd_before
    took, after = time.monotonic() - began, [process.cpu_s(machine) for machine in machines]
    busiest = max(later - earlier for later, earlier in zip(after, before, strict=True))
    return _Rest(
        fleetd=busiest / took * 100,
        etcd=(etcd.cpu_s - etcd_before.cpu_s) / took * 100,
        etcd_alone=(alone_after.cpu_s - alone_before.cpu_s) / took * 100,
        requests=(etcd.requests - etcd_before.requests) / len(machines) / took * 60,
    )


async def measure_fleetctl(bench: Bench) -> list[Figure]:
    """How long a user waits for a command, beside the start of Python alone."""
    async with bench.api() as api:
        await bench.fill(api)
    endpoint = f"--endpoint=unix://{bench.cluster.machines[0].path('/run/fleet.sock')}"
    fleetctl = f"{sys.prefix}/bin/fleetctl"
    python = await time_python(bench.rounds)
    lists = await time_command(bench.rounds, fleetctl, endpoint, "list-units")
    helps = await time_command(bench.rounds, fleetctl, "--help")
    return [
        Figure("list_units", f"fleetctl list-units, {bench.units} units", "s", lists, python),
        Figure("help", "fleetctl --help", "s", helps, python),
    ]


async def time_python(rounds: int) -> tuple[float, ...]:
    """How long Python takes to start: the floor of every command."""
    return await time_command(rounds, sys.executable, "-c", "pass")


async def time_command(rounds: int, *command: str) -> tuple[float, ...]:
    """How long a command takes, each time."""
    return tuple([await asyncio.to_thread(_time_once, command) for _ in range(rounds)])


def _time_once(command: Sequence[str]) -> float:
    began = time.monotonic()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.monotonic() - began


# In this order: later ones use what earlier ones have started, and a cut leaves the machines uneven.
MEASURES: dict[str, Callable[[Bench], Awaitable[list[Figure]]]] = {
    "one": measure_one,
    "many": measure_many,
    "memory": measure_memory,
    "rest": measure_rest,
    "fleetctl": measure_fleetctl,
    "cut": measure_cut,
    "growth": measure_growth,
}
