"""One machine for tests: a real agent on an embedded store and a simulated systemd, with a simple membership."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from fleetd.agent.agent import Agent
from fleetd.agent.ledger import Ledger
from fleetd.api.locking import Locking
from fleetd.membership.registration import Registration
from fleetd.membership.store_epoch import StoreEpoch
from fleetd.model.confinement import NO_LIMITS, Privileges
from fleetd.model.content import DropIn
from fleetd.model.machine import MachineSettings
from fleetd.model.placement import Placement
from fleetd.model.reboot import Reboot, RebootPhase
from fleetd.model.secret import SecretRef
from fleetd.model.unit import TargetState, UnitState
from fleetd.process.unit_locks import ServerLocks
from fleetd.registry.records import PLACEMENTS, STATES, Synced
from fleetd.registry.registry import Registry
from fleetd.store.embedded import EmbeddedStore, inline
from fleetd.store.protocol import (
    Changes,
    Comparison,
    Delete,
    KeepAlive,
    Operation,
    Put,
    RangeResult,
    Refused,
    Unavailable,
)
from fleetd.systemd.protocol import NO_DROPINS, Run, ServiceManagerError, UnitDetails, UnitStatus
from fleetd.testing.scripted_fetcher import ScriptedFetcher
from fleetd.testing.scripted_prober import ScriptedProber
from fleetd.testing.simulated_systemd import SimulatedSystemd

MACHINE, BOOT = "m1", "boot-1"
PATIENCE_S = 5.0
TTL_S = 10.0
DAEMON = "[Service]\nExecStart=/bin/daemon\n"
OTHER = "[Service]\nExecStart=/bin/other\n"
ONESHOT = "[Service]\nType=oneshot\nExecStart=/bin/true\n"


class FaultyStore(EmbeddedStore):
    """An embedded store that can be unreachable, and whose watches can miss changes."""

    is_down = False
    refuses = "nothing"  # no key that contains this is written
    deaf_to = "nothing"  # a watch reports no change of keys that contain this
    interruption: Callable[[], Awaitable[None]] | None = None  # runs after the first read of this machine's placements

    async def transact(self, comparisons: Sequence[Comparison], operations: Sequence[Operation]) -> int:
        self._refuse_while_down()
        if any(self.refuses in operation.key and isinstance(operation, Put) for operation in operations):
            raise Refused("the servers of the cluster refuse it")
        return await super().transact(comparisons, operations)

    async def range(self, prefix: str, **options: Any) -> RangeResult:
        self._refuse_while_down()
        snapshot = await super().range(prefix, **options)
        if "/placements/" in prefix:
            await self._interrupt()
        return snapshot

    async def get_many(self, keys: Sequence[str], *, revision: int = 0) -> RangeResult:
        snapshot = await super().get_many(keys, revision=revision)
        if any("/synced/" in key for key in keys):
            await self._interrupt()
        return snapshot

    async def keep_alive(self, lease: int) -> KeepAlive:
        self._refuse_while_down()
        return await super().keep_alive(lease)

    async def watch(self, prefix: str, after_revision: int, *, end: str = "") -> AsyncGenerator[Changes, None]:
        async for changes in super().watch(prefix, after_revision, end=end):
            if self.deaf_to not in prefix:
                yield changes

    async def _interrupt(self) -> None:
        interruption, self.interruption = self.interruption, None
        if interruption is not None:
            await interruption()

    def _refuse_while_down(self) -> None:
        if self.is_down:
            raise Unavailable("the store does not answer")


class FaultySystemd(SimulatedSystemd):
    """A simulated systemd whose files, answers and explanations can fail for single units."""

    def __init__(self) -> None:
        super().__init__()
        self.bad_on_disk: list[str] = []  # units whose files can be neither written nor removed
        self.refused_stops: list[str] = []
        self.refused_links: list[str] = []
        self.loses_bus_at_link = False  # fails once
        self.restless: list[str] = []  # started again, as by a socket, as soon as they are stopped
        self.refuses_reload = False
        self.is_mute = False  # describes no unit when asked for it alone
        self.has_slow_journal = False  # explains a failure only after its caller gave up
        self.interruption: Callable[[], Awaitable[None]] | None = None  # runs after the next observation of units
        self.privileges_of: dict[str, Privileges] = {}  # of units with drop-ins of the machine's own
        self.was_asked_to_write = asyncio.Event()
        self.was_asked_to_start = asyncio.Event()

    async def observe(self, names: Sequence[str]) -> Mapping[str, UnitStatus]:
        statuses = await super().observe(names)
        interruption, self.interruption = self.interruption, None
        if interruption is not None:
            await interruption()
        return statuses

    async def write(
        self, files: Mapping[str, str], dropins: Mapping[str, Sequence[DropIn]] = NO_DROPINS
    ) -> Mapping[str, Exception]:
        bad = self._disk_errors(files)
        self.was_asked_to_write.set()
        good = {name: text for name, text in files.items() if name not in bad}
        return {**await super().write(good, dropins), **bad}

    async def remove(self, names: Collection[str]) -> Mapping[str, Exception]:
        bad = self._disk_errors(names)
        return {**await super().remove([name for name in names if name not in bad]), **bad}

    async def link(self, make: Mapping[str, str], drop: Mapping[str, str]) -> Mapping[str, Exception]:
        if self.loses_bus_at_link:
            self.loses_bus_at_link = False
            self.lose_bus(for_s=0.05)
        refused = {link: ServiceManagerError(f"{link} is in the way") for link in make if link in self.refused_links}
        makeable = {link: name for link, name in make.items() if link not in refused}
        return {**await super().link(makeable, drop), **refused}

    async def reload(self) -> None:
        if self.refuses_reload:
            raise ServiceManagerError("reload: Access denied")
        await super().reload()

    async def start(self, name: str) -> None:
        self.was_asked_to_start.set()
        await super().start(name)

    async def stop(self, name: str) -> None:
        await super().stop(name)
        if name in self.refused_stops:
            raise ServiceManagerError(f"stop {name}: Operation refused")
        if name in self.restless:
            await asyncio.sleep(0.001)
            await super().start(name)

    async def details(self, name: str) -> UnitDetails:
        self._find_words(name)
        return await super().details(name)

    async def last_run(self, name: str) -> Run:
        self._find_words(name)
        return await super().last_run(name)

    async def privileges(self, name: str) -> Privileges:
        found = await super().privileges(name)
        return self.privileges_of.get(name, found)

    async def explain(self, name: str) -> str:
        self._find_words(name)
        if self.has_slow_journal:
            await asyncio.sleep(PATIENCE_S)
        return await super().explain(name)

    def _disk_errors(self, names: Collection[str]) -> dict[str, Exception]:
        return {name: OSError("Input/output error") for name in names if name in self.bad_on_disk}

    def _find_words(self, name: str) -> None:
        if self.is_mute:
            raise ServiceManagerError(f"look at {name}: Message recipient disconnected")


class MachineUnderTest:
    """The leader's, the membership's and systemd's effects on one agent, and what the agent publishes."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.systemd = FaultySystemd()
        self.sessions = 0
        self.told_refusal = asyncio.Event()
        self.running: asyncio.Task[None] | None = None
        self.prober = ScriptedProber()
        self.fetcher = ScriptedFetcher()
        self.place_of_machine = ("10.0.0.1", "eu")
        self.limits = NO_LIMITS  # of its fleet.conf, from the next start on
        self.seal_key = "k"  # the public half of what opens its secrets
        self.use_store("the-cluster")

    def use_store(self, cluster_id: str) -> None:
        """Replace the store by this empty one."""
        self.store = FaultyStore(":memory:", offload=inline, cluster_id=cluster_id)
        self.registry = Registry(self.store)

    async def start(self, *, synced: bool = True) -> None:
        """Start fleetd and register; with `synced`, the leader acknowledges the machine."""
        self.sessions += 1
        now = asyncio.get_running_loop().time
        self.registration = Registration(f"session-{self.sessions}", lambda: 0.0, now)
        self.registration.renew(0.0, TTL_S, now())
        self.ledger = Ledger(self.directory)
        seen = self.ledger.store
        self.epoch = StoreEpoch(self.registry, MACHINE, seen.cluster_id, seen.revision, now=now)
        self.agent = Agent(
            MACHINE,
            self.registry,
            self.systemd,
            self.ledger,
            self.epoch,
            self.registration,
            BOOT,
            on_refused_reboot=self.told_refusal.set,
            credentials_directory=self.directory / "credentials",
            find_seal_key=lambda: self.seal_key,
            limits=self.limits,
            prober=self.prober,
            place=self._find_place,
            fetcher=self.fetcher,
            locks=ServerLocks(Locking(self.registry, self.epoch, now, lambda: 1e9 + now()), MACHINE),
        )
        self.running = asyncio.create_task(self.agent.run())
        await self.register()
        if synced:
            await self.take_in()

    async def register(self) -> None:
        """The loss of the lease, as the membership handles it."""
        lease = await self.store.grant(3600)
        await self.agent.publish_all(lease)
        self.registration.lease = lease
        self.registration.lost.clear()
        self.agent.heartbeat_answered(await self.store.revision())

    async def take_in(self, session: str = "") -> None:
        """The leader acknowledges this session: it has planned for it."""
        await self.put(Synced(session or self.registration.session), MACHINE)

    async def order_reboot(
        self, order: str, *, boot_id: str = BOOT, phase: RebootPhase = RebootPhase.ORDERED, client: str = ""
    ) -> None:
        """The leader gets on with a reboot of this machine; it writes `synced` again with an order."""
        reboot = Reboot(order, boot_id, phase, client=client)
        puts = [self.registry.put(reboot, MACHINE), self.registry.put(Synced(self.registration.session), MACHINE)]
        await self.store.transact([], puts[: 1 + (phase is RebootPhase.ORDERED)])

    async def stop(self) -> None:
        """End fleetd, as in a restart."""
        if self.running is not None:
            self.running.cancel()
            with suppress(asyncio.CancelledError):
                await self.running
        await self.systemd.close()

    async def restart(self, *, synced: bool = True) -> None:
        await self.stop()
        await self.start(synced=synced)

    async def put(self, record: Any, *names: str) -> None:
        await self.store.transact([], [self.registry.put(record, *names)])

    def _find_place(self, settings: MachineSettings | None) -> tuple[str, str]:
        address, zone = self.place_of_machine
        return address, settings.metadata.get("zone", zone) if settings else zone

    async def place(
        self,
        name: str,
        generation: int,
        target: str = "launched",
        text: str = DAEMON,
        *,
        superseded: bool = False,
        dropins: tuple[DropIn, ...] = (),
        secrets: tuple[SecretRef, ...] = (),
    ) -> None:
        """The leader writes the placement of one unit."""
        placement = Placement(
            MACHINE, name, text, TargetState(target), generation, superseded, dropins=dropins, secrets=secrets
        )
        await self.put(placement, MACHINE, name)

    async def place_all(self, texts: Mapping[str, str], generation: int) -> None:
        """The leader writes many placements in one transaction."""
        orders = [Placement(MACHINE, name, text, TargetState.LAUNCHED, generation) for name, text in texts.items()]
        await self.store.transact([], [self.registry.put(order, MACHINE, order.unit) for order in orders])

    async def withdraw(self, name: str, generation: int) -> None:
        await self.place(name, generation, "inactive")

    async def withdraw_text(self, name: str, generation: int, text: str) -> None:
        """The same for a unit with this content."""
        await self.place(name, generation, "inactive", text=text)

    async def unplace(self, name: str) -> None:
        """The leader deletes the placement."""
        await self.store.transact([], [Delete(self.registry.key(PLACEMENTS, MACHINE, name))])

    async def states(self) -> dict[str, UnitState]:
        """The states that the machine has published."""
        prefix = self.registry.key(STATES, MACHINE) + "/"
        items = (await EmbeddedStore.range(self.store, prefix)).items
        return {item.key.removeprefix(prefix): STATES.decode(item) for item in items}

    async def until(
        self, holds: Callable[[dict[str, UnitState]], bool], patience_s: float = PATIENCE_S
    ) -> dict[str, UnitState]:
        """Wait until the condition holds for the published states. Return them."""
        states: dict[str, UnitState] = {}
        try:
            async with asyncio.timeout(patience_s):
                changes = EmbeddedStore.watch(self.store, self.registry.key(STATES), await self.store.revision())
                while not holds(states := await self.states()):
                    await anext(changes)
        except TimeoutError:
            raise AssertionError(f"it never came to it; states: {states}; calls: {self.systemd.calls[-10:]}") from None
        return states

    async def until_active(self, name: str, generation: int) -> UnitState:
        return (
            await self.until(
                lambda states: (
                    name in states and (states[name].active, states[name].generation) == ("active", generation)
                )
            )
        )[name]

    async def settle(self, for_s: float = 0.05) -> None:
        """Wait until nothing is left to do."""
        await asyncio.sleep(for_s)

    def asked(self, *verbs: str) -> list[tuple[str, tuple[str, ...]]]:
        """The calls to systemd of these kinds, in order."""
        return [(call.verb, call.names) for call in self.systemd.calls if call.verb in verbs]

    def asked_to_act(self) -> list[tuple[str, tuple[str, ...]]]:
        """All calls to systemd that change something."""
        return self.asked("start", "restart", "stop", "write", "remove", "reload")
