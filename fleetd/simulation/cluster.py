"""SimulatedCluster: a cluster in one event loop on a virtual clock, which begins with given units where they are."""

import asyncio
import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import msgspec

from fleetd.api import schema
from fleetd.api.http import Request, Response
from fleetd.config.cluster_settings import CLUSTER_OPTIONS, refuse_value
from fleetd.config.config import parse_config
from fleetd.model.actor import Actor
from fleetd.model.cluster_settings import ClusterSetting, ClusterSettings
from fleetd.model.machine import Capability, Machine, MachineSettings
from fleetd.model.names import is_template
from fleetd.model.permission import EVERY_RIGHT
from fleetd.model.placement import Decision, Placement
from fleetd.model.reason import render, render_rejection
from fleetd.model.requirements import requirements_of
from fleetd.model.secret import SecretRef
from fleetd.model.unit import TargetState, Unit
from fleetd.model.unit_set import UnitSet
from fleetd.process.host_environment import HostEnvironment
from fleetd.process.node import Node
from fleetd.registry.records import SECRETS
from fleetd.registry.registry import Registry
from fleetd.simulation.secrets import make_secret, needed_secrets, pretend_sealing, seal_key_of
from fleetd.simulation.store import MachineStore
from fleetd.simulation.timeline import Sighting
from fleetd.store.embedded import EmbeddedStore, inline
from fleetd.testing.scripted_prober import ScriptedProber
from fleetd.testing.simulated_systemd import SimulatedSystemd
from fleetd.testing.virtual_time import VirtualLoop
from fleetd.testing.virtual_time import run_virtually as run_virtually

Result = TypeVar("Result")

EPOCH_S = 1_700_000_000.0  # Unix time at the beginning
QUIET_S = 120.0  # without a write: nothing goes on any more
POLL_S = 5.0
_OPERATOR = Actor("simulate", "simulate", EVERY_RIGHT)
_JSON = (("Content-Type", schema.JSON_TYPE),)


def refuse_settings(settings: Mapping[str, str]) -> list[str]:
    """Why no cluster has these settings, by name."""
    unknown = [f'unknown setting "{name}"' for name in sorted(settings.keys() - CLUSTER_OPTIONS.keys())]
    known = sorted(settings.keys() & CLUSTER_OPTIONS.keys())
    return [*unknown, *(refusal for name in known if (refusal := refuse_value(name, settings[name])))]


class Beginning(msgspec.Struct, frozen=True):
    """The cluster at the beginning: machines, what operators have set of them, units with the machines where each is,
    the sets by name, and the settings of the cluster."""

    machines: Sequence[Machine]
    machine_settings: Mapping[str, MachineSettings] = {}
    units: Sequence[Unit] = ()
    places: Mapping[str, Sequence[str]] = {}
    sets: Mapping[str, UnitSet] = {}
    settings: Mapping[str, str] = {}


class SimulatedMachine:
    """A machine: its systemd, and its fleetd while it is on."""

    def __init__(self, machine: Machine, store: EmbeddedStore, directory: Path, new_id: Callable[[], str]) -> None:
        self.id = machine.id
        self.systemd = SimulatedSystemd()
        self.is_on = True
        self._store = MachineStore(store)
        environment = HostEnvironment(
            runtime=directory,
            unix_now=lambda: EPOCH_S + asyncio.get_running_loop().time(),
            new_id=new_id,
            offload=inline,
            sealing=pretend_sealing(directory),
            prober=ScriptedProber(),
        )
        config = msgspec.structs.replace(parse_config("", "simulate", {}, {})[0], metadata=machine.metadata)
        directory.mkdir()
        self.node = Node(config, self._store, self.systemd, machine, environment)

    async def lose(self) -> None:
        """Its power fails."""
        self.is_on = False
        self._store.cut()
        await self.systemd.close()
        self.systemd.reboot()
        await self.node.close()


class SimulatedCluster:
    """The cluster, in `directory` (empty at first). `sightings` is the log of processes so far."""

    def __init__(self, directory: Path, beginning: Beginning) -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        loop.before_time_passes(self._look)
        self._loop = loop
        self._began_s = loop.time()
        self._beginning = beginning
        self._store = EmbeddedStore(":memory:", offload=inline, cluster_id="simulated")
        self._registry = Registry(self._store)
        ids = itertools.count(1)
        self.machines: dict[str, SimulatedMachine] = {}
        for number, machine in enumerate(beginning.machines):
            made = msgspec.structs.replace(
                machine,
                session=f"session-{number}",
                boot_id=f"boot-{number}",
                capabilities=dict.fromkeys(Capability, True),
                seal_key=seal_key_of(machine.id),
            )
            self.machines[machine.id] = SimulatedMachine(
                made, self._store, directory / str(number), lambda: f"id-{next(ids)}"
            )
        self._processes: dict[str, Mapping[str, int]] = {}  # by machine, as they were seen last
        self.sightings: list[Sighting] = []

    @property
    def now_s(self) -> float:
        """Seconds since the beginning."""
        return self._loop.time() - self._began_s

    async def start(self) -> None:
        """Write what the cluster begins with, and switch all machines on."""
        registry, beginning = self._registry, self._beginning
        settings = {name: ClusterSetting(value, "", EPOCH_S) for name, value in beginning.settings.items()}
        await self._store.transact([], [registry.put(ClusterSettings(settings))])
        for machine, setting in beginning.machine_settings.items():
            await self._store.transact([], [registry.put(setting, machine)])
        for name, set_ in beginning.sets.items():
            await self._store.transact([], [registry.put(set_, name)])
        for unit in beginning.units:
            await registry.write_unit(unit, None)
        await self._make_secrets()
        for name, unit in (await registry.units()).items():
            await self._place(unit, [id_ for id_ in beginning.places.get(name, ()) if id_ in self.machines])
        for each in self.machines.values():
            each.node.start()

    async def _place(self, unit: Unit, machines: Sequence[str]) -> None:
        """Have the unit where it is, as if the leader had placed it there."""
        if unit.target is TargetState.INACTIVE or not machines:
            return
        secrets = tuple(SecretRef(name, 1) for name in requirements_of(unit.content, unit.name).secrets)
        placements = [
            Placement(
                machine, unit.name, unit.text, unit.target, unit.generation, dropins=unit.dropins, secrets=secrets
            )
            for machine in machines
        ]
        decision = Decision(unit.name, unit.generation, machines[0] if len(machines) == 1 else "", since=EPOCH_S)
        records = [self._registry.put(placement, placement.machine, unit.name) for placement in placements]
        await self._store.transact([], [*records, self._registry.put(decision, unit.name)])

    async def settle(self, at_most_s: float) -> bool:
        """Let time pass until nothing goes on any more. Returns False if that is not so after this time."""
        end_s = self.now_s + at_most_s
        revision, since_s = await self._store.revision(), self.now_s
        while self.now_s < end_s:
            await asyncio.sleep(POLL_S)
            self._check()
            latest = await self._store.revision()
            is_quiet = latest == revision and self.now_s - since_s >= QUIET_S
            if is_quiet and not await self._is_waiting():
                return True
            if latest != revision or is_quiet:
                revision, since_s = latest, self.now_s
        return False

    async def _is_waiting(self) -> bool:
        """Whether a unit waits for its lost machine."""
        return any(decision.lost for decision in (await self._registry.decisions()).values())

    async def find_nowhere(self) -> dict[str, str]:
        """The units that are to run and have no machine that is on: unit → why. A global unit runs wherever it fits,
        which may be nowhere."""
        units, found = await self._registry.units(), {}
        for name, decision in (await self._registry.decisions()).items():
            unit = units.get(name)
            if unit is None or unit.target is not TargetState.LAUNCHED or decision.completed == unit.generation:
                continue
            if is_template(name) or requirements_of(unit.content, name).is_global:
                continue
            if decision.lost or not decision.machine:
                found[name] = _explain(decision)
        return found

    def _check(self) -> None:
        """Raises what a fleetd has failed with, which is a bug of fleet."""
        for machine in self.machines.values():
            if machine.is_on and machine.node.failure is not None:
                raise machine.node.failure

    async def drain(self, machine: str) -> str:
        """Have a machine drained. Returns why that is refused, or ''."""
        return _refusal(await self.ask("PUT", f"machines/{machine}/drain", schema.DrainRequest("simulated")))

    async def find_left(self, machine: str) -> dict[str, str]:
        """What has not left a drained machine, but for what is to stay there: unit → why."""
        answer = await self.ask("GET", f"machines/{machine}/drain")
        report = msgspec.json.decode(answer.body, type=schema.DrainReport)
        return {each.unit: each.reason or report.hold for each in report.units if each.state != "global"}

    async def apply(self, request: schema.Apply) -> str:
        """Apply units, with the secrets that they name. Returns why that is refused, or ''."""
        refusal = _refusal(await self.ask("POST", "apply", request))
        await self._make_secrets()
        return refusal

    async def ask(self, method: str, path: str, body: msgspec.Struct | None = None) -> Response:
        """The answer of a machine that is on to an administrator's request; the path is that below /fleet/v2/."""
        sent = b"" if body is None else msgspec.json.encode(body)
        asked = Request(method, f"{schema.V2}/{path}", headers=_JSON, body=sent, local=True, actor=_OPERATOR)
        machine = next(machine for machine in self.machines.values() if machine.is_on)
        answer = await machine.node.api.handle(asked)
        assert isinstance(answer, Response)
        return answer

    async def _make_secrets(self) -> None:
        """Have every secret that a unit names."""
        there = {name for (name,) in await self._registry.read(SECRETS)}
        keys = [seal_key_of(machine) for machine in self.machines]
        for name in sorted(needed_secrets((await self._registry.units()).values()) - there):
            await self._store.transact([], [self._registry.put(make_secret(keys), name)])

    async def close(self) -> None:
        """End everything."""
        self._loop.before_time_passes(lambda: None)
        for machine in self.machines.values():
            if machine.is_on:
                await machine.lose()
        await self._store.close()

    def _look(self) -> None:
        """Note which processes have begun and ended."""
        ended: list[Sighting] = []
        begun: list[Sighting] = []
        for machine in self.machines.values():
            before, found = self._processes.get(machine.id, {}), machine.systemd.processes()
            if found is before:
                continue  # nearly always: nothing has begun or ended there
            for name, pid in before.items():
                if found.get(name) != pid:
                    ended.append(Sighting(self.now_s, machine.id, name, has_ended=True))
            for name, pid in found.items():
                if before.get(name) != pid:
                    begun.append(Sighting(self.now_s, machine.id, name))
            self._processes[machine.id] = found
        self.sightings += [*ended, *begun]


def _refusal(answer: Response) -> str:
    return "" if answer.status < 400 else msgspec.json.decode(answer.body, type=schema.ErrorEntity).error.message


def _explain(decision: Decision) -> str:
    """Why the unit is nowhere: the reason, and how many machines do not take it for what."""
    counts = [
        f"{render_rejection(each.rejection)} ({each.machines} machine{'s'[: each.machines != 1]})"
        for each in decision.rejections
    ]
    return render(decision.reason) + (f": {', '.join(counts)}" if counts else "")
