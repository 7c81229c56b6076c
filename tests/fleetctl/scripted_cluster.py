"""A cluster for fleetctl's tests: fleetd's API over a store in memory, with leader and agents that follow a script.

They act after each response that reports states, never by the clock. So a command that polls sees the state before an
action at least once.
"""

import asyncio
import socket
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import msgspec
from msgspec.structs import replace

from fleetd.api import schema
from fleetd.api.http import Request, Response
from fleetd.api.pagination import LIMIT
from fleetd.api.routes import Api
from fleetd.api.server import Server
from fleetd.config.options import Address
from fleetd.model.cluster_settings import ClusterSettings
from fleetd.model.content import make_dropins
from fleetd.model.group import group_of
from fleetd.model.machine import Capability, Machine, MachineSettings
from fleetd.model.placement import Decision, Placement
from fleetd.model.reason import BEST, INFEASIBLE, Reason, Rejection, RejectionCount, RejectionKind
from fleetd.model.requirements import requirements_of
from fleetd.model.rollout import Phase, Rollout
from fleetd.model.unit import TargetState, Unit, UnitState
from fleetd.model.unitfile import UnitFile
from fleetd.registry.records import DECISIONS, MACHINES, ROLLOUTS, STATES, UNITS, Kind, Names, Record
from fleetd.registry.registry import Registry
from fleetd.store.embedded import EmbeddedStore, inline
from fleetd.store.protocol import Comparison, Conflict, Delete, Operation
from fleetd.trust import sealing_wire
from fleetd.trust.sealing_process import Sealing
from tests.actors import ADMIN
from tests.api.issuing import Issuer
from tests.fleetctl.background import BackgroundLoop

R = TypeVar("R", bound=Record)

PAGE_SIZE = 2
LEASE_S = 3600.0
# There is no machine to answer.
CAPABILITIES: dict[str, bool] = {each: each is not Capability.ANSWERS for each in Capability}
M1 = Machine(
    "1" * 32,
    address="10.0.0.1",
    metadata={"region": "eu", "disk": "ssd"},
    capabilities=CAPABILITIES,
    seal_key="the key of 1",
)
M2 = Machine("2" * 32, capabilities=CAPABILITIES)
SERVICE = "[Service]\nExecStart=/bin/true\n"
_OPERATIONS = ("POST", f"{schema.V2}/units")
_TELL_STATES = (
    ("GET", f"{schema.V1}/state"),
    ("GET", f"{schema.V2}/units"),
    ("GET", f"{schema.V2}/rollouts"),
    ("POST", f"{schema.V2}/reports"),
)


class ScriptedOutcome(msgspec.Struct, frozen=True):
    """What becomes of a unit that is launched or loaded.

    `machine` None: the leader does not place it, because of `reason` and `rejections`. `carried_out` False: the agent
    failed with `error` and reports generation 0. `stuck`: leader and agent do nothing. `lingers`: number of reads of
    states during which the unit keeps running after it was told to stop.
    """

    machine: Machine | None = M1
    reason: Reason = BEST
    rejections: tuple[RejectionCount, ...] = ()
    load: str = "loaded"
    active: str = "active"
    sub: str = "running"
    completed: bool = False
    error: str = ""
    carried_out: bool = True
    stuck: bool = False
    lingers: int = 0


def infeasible(*rejections: tuple[RejectionKind, str, int]) -> ScriptedOutcome:
    """No machine takes the unit: rejections with their subject and the number of machines."""
    counts = tuple(RejectionCount(Rejection(kind, subject), machines) for kind, subject, machines in rejections)
    return ScriptedOutcome(machine=None, reason=INFEASIBLE, rejections=counts)


def always(status: int, content: bytes, kind: str = schema.JSON_TYPE) -> Callable[[str, str], Response]:
    """An `intercept` that answers every request with this response."""
    return lambda method, path: Response(status, (("Content-Type", kind),), content)


STUCK = ScriptedOutcome(stuck=True)
NO_SSD = infeasible((RejectionKind.METADATA, "disk=ssd", 2))


class _Store(EmbeddedStore):
    """A store in which each write of a `contested` key conflicts with another client's."""

    contested: frozenset[str] = frozenset()

    async def transact(self, comparisons: Sequence[Comparison], operations: Sequence[Operation]) -> int:
        if any(operation.key in self.contested for operation in operations):
            raise Conflict
        return await super().transact(comparisons, operations)


async def _seal(request: sealing_wire.Request) -> sealing_wire.Answer:
    """Seals nothing, and says that it has."""
    return sealing_wire.Answer((sealing_wire.Sealed(box=b"box", keys={M1.seal_key: b"key"}),))


class ScriptedCluster(Api):
    """Serves on the unix socket `path` and on a TCP port until it is closed.

    `outcomes` is the script, by unit, and `phases` that of rollouts, by group: how each ends. `requests` records method
    and path of each request, `operations` those that create or change units. `intercept(method, path)` may answer a
    request in place of the API; it runs in a thread, and may change the cluster. `system_units` are those that a unit's
    name would hide, with their paths. The `limit` of a list request is ignored, as by an older server: pages have
    PAGE_SIZE entries.
    """

    def __init__(self, loop: BackgroundLoop, path: str) -> None:
        self.unix = f"unix://{path}"
        self.outcomes: dict[str, ScriptedOutcome] = {}
        self.phases: dict[str, Phase] = {}
        self.requests: list[tuple[str, str]] = []
        self.operations: list[schema.UnitOperation] = []
        self.intercept: Callable[[str, str], Response | None] | None = None
        self.system_units: dict[str, str] = {}
        self._lingered: Counter[str] = Counter()
        self._loop = loop
        loop.do(self._open(path))

    async def _open(self, path: str) -> None:
        self._store = _Store(":memory:", offload=inline)
        self.registry = Registry(self._store)
        self.trust = Issuer(time.time())
        super().__init__(
            self.registry,
            token_limit=PAGE_SIZE,
            shadows=lambda name: self.system_units.get(name, ""),
            trust=self.trust,
            sealing=Sealing(Path(path).parent, _seal),
        )
        await self._register((M1, M2))
        self._server = Server(self)
        tcp = socket.create_server(("127.0.0.1", 0))
        self.tcp = f"http://127.0.0.1:{tcp.getsockname()[1]}"
        await self._server.start([Address(path=path)], insecure=True, inherited=[tcp])

    def close(self) -> None:
        self._loop.do(self._close())

    async def _close(self) -> None:
        await self._server.stop()
        await self._store.close()

    async def handle(self, request: Request) -> Response:
        asked = (request.method, request.path)
        self.requests.append(asked)
        if self.intercept and (answer := await asyncio.to_thread(self.intercept, *asked)):
            return answer
        self.operations += _operations_of(request)
        query = tuple(pair for pair in request.query if pair[0] != LIMIT)
        response = await super().handle(replace(request, query=query))
        if asked in _TELL_STATES:
            await self._act()
        return response

    # State, and changes by other clients and machines.

    @property
    def machines(self) -> list[Machine]:
        """The registered machines, by id."""
        return list(self._loop.do(self.registry.machines()).values())

    @property
    def units(self) -> dict[str, Unit]:
        """The units, by name."""
        return self._loop.do(self.registry.units())

    @property
    def targets(self) -> dict[str, TargetState]:
        """The target state of each unit."""
        return {name: unit.target for name, unit in self.units.items()}

    @property
    def states(self) -> dict[str, UnitState]:
        """The state that a machine reports of each unit, by unit."""
        return {name: state for (_, name), state in self._loop.do(self.registry.states()).items()}

    @property
    def targets_asked(self) -> list[tuple[str, str]]:
        """Unit and target state of each operation."""
        return [(operation.name, operation.desired_state) for operation in self.operations]

    @property
    def changes(self) -> list[tuple[str, str]]:
        """The requests other than GET."""
        return [request for request in self.requests if request[0] != "GET"]

    def register(self, *machines: Machine) -> None:
        """Register these machines, and remove all others."""
        self._loop.do(self._register(machines))

    async def _register(self, machines: Sequence[Machine]) -> None:
        for item in (await self._store.range(self.registry.key(MACHINES) + "/")).items:
            await self._store.revoke(item.lease)
        for machine in machines:
            lease = await self._store.grant(LEASE_S)
            await self._store.transact([], [self.registry.put(machine, machine.id, lease=lease)])

    @property
    def settings(self) -> dict[str, MachineSettings]:
        """What operators set on machines, by machine."""
        return self._loop.do(self.registry.settings())

    def set_settings(self, machine: Machine | str, settings: MachineSettings) -> None:
        """Set it, as somebody else does."""
        self._write([self.registry.put(settings, machine if isinstance(machine, str) else machine.id)])

    def read(self, kind: Kind[R]) -> dict[Names, R]:
        """The records of a kind, by name."""
        return self._loop.do(self.registry.read(kind))

    def put(self, record: Record, *names: str) -> None:
        """Write a record, as the leader does."""
        self._write([self.registry.put(record, *names)])

    @property
    def cluster_settings(self) -> ClusterSettings:
        """The settings of the cluster."""
        return self._loop.do(self.registry.cluster_settings())

    def set_cluster_settings(self, settings: ClusterSettings) -> None:
        """Set them, as somebody else does."""
        self._write([self.registry.put(settings)])

    def add(self, name: str, text: str = SERVICE, target: str = "inactive", **dropins: str) -> None:
        """Create a unit with these drop-ins (name without `.conf` → text), and let leader and agents act on it."""
        made = make_dropins((f"{dropin}.conf", text) for dropin, text in dropins.items())
        unit = Unit(name, UnitFile.parse(text).text, TargetState(target), dropins=made)
        self._loop.do(self._add(unit))

    async def _add(self, unit: Unit) -> None:
        await self.registry.write_unit(unit, None)
        await self._act()

    def apply(self, name: str, text: str, note: str = "") -> None:
        """Another client applies a unit."""
        body = schema.Apply((schema.AppliedUnit(name, text),), note=note)
        kind = (("Content-Type", schema.JSON_TYPE),)
        request = Request("POST", f"{schema.V2}/apply", headers=kind, body=msgspec.json.encode(body), actor=ADMIN)
        assert self._loop.do(self.handle(request)).status == 200

    def set_target(self, name: str, target: str) -> None:
        """Another client sets a target state."""
        unit = self.units[name]
        self._loop.do(self.registry.write_unit(replace(unit, target=TargetState(target)), unit))

    def destroy(self, name: str) -> None:
        """Another client destroys a unit, if it exists."""
        if unit := self.units.get(name):
            self._loop.do(self.registry.write(self.registry.unit_write_set(name, unit, None)))

    def place_on(self, machine: Machine, name: str) -> None:
        """The leader has placed a unit there."""
        unit = self.units[name]
        placement = Placement(machine.id, name, unit.text, unit.target, unit.generation)
        self._write([self.registry.put(placement, machine.id, name)])

    def contest(self, name: str) -> None:
        """Let each operation on this unit conflict with other clients'."""
        self._store.contested |= {self.registry.key(UNITS, name)}

    def reconsider(self, name: str) -> None:
        """Let the leader decide about a unit again, after a change of its outcome."""
        self._write([Delete(self.registry.key(DECISIONS, name))])

    def report(self, name: str, **changes: object) -> None:
        """Let the machine that has the unit report these changes of its state."""
        [(machine, state)] = [
            (machine, state) for (machine, unit), state in self._loop.do(self.registry.states()).items() if unit == name
        ]
        self._write([self.registry.put(replace(state, **changes), machine, name)])

    def _write(self, operations: list[Operation]) -> None:
        self._loop.do(self._store.transact([], operations))

    # Leader and agents.

    async def _act(self) -> None:
        """Carry out what was asked of each unit since the last call."""
        units, decisions = await self.registry.units(), await self.registry.decisions()
        states = {name: (machine, state) for (machine, name), state in (await self.registry.states()).items()}
        for name in {**units, **states}:
            if operations := self._act_on(name, units.get(name), decisions.get(name), states.get(name)):
                await self._store.transact([], operations)
        await self._roll_out(units)

    async def _roll_out(self, units: Mapping[str, Unit]) -> None:
        """Begin the rollout of each group, and end it at once, as `phases` says."""
        rollouts = {group: rollout for (group,), rollout in (await self.registry.read(ROLLOUTS)).items()}
        for unit in sorted(units.values(), key=lambda unit: unit.generation):
            group = group_of(unit.name)
            if unit.rollout and (group not in rollouts or unit.generation > rollouts[group].generation):
                rollout = Rollout(unit.rollout, unit.generation, phase=self.phases.get(group, Phase.DONE))
                await self._store.transact([], [self.registry.put(rollout, group)])

    def _act_on(
        self, name: str, unit: Unit | None, decision: Decision | None, allocation: tuple[str, UnitState] | None
    ) -> list[Operation]:
        """The writes of the leader and of the agent for one unit."""
        outcome = self.outcomes.get(name, ScriptedOutcome())
        if outcome.stuck or (unit and decision and decision.generation >= unit.generation):
            return []
        target = unit.target if unit else TargetState.INACTIVE
        is_stopping = allocation and allocation[1].runs and target is not TargetState.LAUNCHED
        if is_stopping and self._lingered[name] < outcome.lingers:
            self._lingered[name] += 1
            return []
        del self._lingered[name]
        if unit and target is not TargetState.INACTIVE:
            return self._place(unit, outcome)
        deleted = [self.registry.key(DECISIONS, name)] if decision else []
        deleted += [self.registry.key(STATES, allocation[0], name)] if allocation else []
        return [Delete(key) for key in deleted]

    def _place(self, unit: Unit, outcome: ScriptedOutcome) -> list[Operation]:
        machine = outcome.machine.id if outcome.machine else ""
        decision = Decision(unit.name, unit.generation, machine, reason=outcome.reason, rejections=outcome.rejections)
        if machine and requirements_of(unit.content, unit.name).is_global:
            decision = replace(decision, machine="", machines=1)
        put = self.registry.put
        state = [put(_make_state(unit, outcome), machine, unit.name)] if machine else []
        return [put(decision, unit.name), *state]


def _make_state(unit: Unit, outcome: ScriptedOutcome) -> UnitState:
    is_launched = unit.target is TargetState.LAUNCHED
    return UnitState(
        load=outcome.load,
        active=outcome.active if is_launched else "inactive",
        sub=outcome.sub if is_launched else "dead",
        hash=unit.content.hash,
        target=unit.target,
        generation=unit.generation if outcome.carried_out else 0,
        completed=outcome.completed and is_launched,
        error=outcome.error,
    )


def _operations_of(request: Request) -> Sequence[schema.UnitOperation]:
    """The operations in a request that create or change units."""
    if (request.method, request.path) == _OPERATIONS:
        body = msgspec.json.decode(request.body, type=schema.UnitOperations)
        return [operation for operation in body.operations if not operation.destroy]
    if request.method == "PUT" and request.path.startswith(f"{schema.V1}/units/"):
        return [msgspec.json.decode(request.body, type=schema.UnitOperation)]
    return []
