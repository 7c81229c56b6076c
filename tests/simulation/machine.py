"""One simulated machine: its systemd, its network, its disk, and the fleetd that runs on it, with all that can befall
them.

fleetd is the real Node of node.py: agent, engine, membership, API. What is done to machines, and when, is not
decided here.
"""

import asyncio
import contextvars
import logging
import shutil
from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from fleetd.api import schema
from fleetd.api.http import Request, Response
from fleetd.api.routes import LEAVE
from fleetd.config.config import Config
from fleetd.membership.parking import Parking, park_when_possible
from fleetd.model.machine import Machine
from fleetd.process.node import HostEnvironment, Node
from fleetd.registry.registry import Registry
from fleetd.store.embedded import inline
from fleetd.systemd.protocol import ManagerUnavailable
from fleetd.testing.simulated_systemd import SYSTEM_UNITS, SimulatedSystemd
from tests.simulation.disk import watch_writes
from tests.simulation.server import StoreServer
from tests.simulation.wire import IsFatal, Link, Observer, Wire

OWN_UNIT = "fleet.service"
RESTART_S = 1.0  # after which systemd starts a fleetd that was killed
BOOT_S = 15.0
LEAVE_POLL_S = 1.0
HANG_S = 60.0
_CHANGING = ("write", "remove", "link", "start", "stop", "reload")
EPOCH_S = 1_700_000_000.0

speaker: contextvars.ContextVar[str] = contextvars.ContextVar("speaker", default="")  # whose log lines these are
log = logging.getLogger("fleetd.simulated")


class Surrounds(msgspec.Struct, frozen=True):
    """What a machine needs of the world: its fleet.conf, the store, whom to tell of its writes, of what it asks of
    systemd (machine, verb, units) and of a fleetd that failed by itself (machine, what), where ids come from, and who
    decides whether its fleetd dies just before or just after it writes anything (machine, moment)."""

    config: Config
    server: StoreServer
    on_write: Observer
    on_call: Callable[[str, str, Sequence[str]], None]
    on_failure: Callable[[str, BaseException], None]
    new_id: Callable[[], str]
    is_fatal: Callable[[str, str], bool]


class MachineSystemd(SimulatedSystemd):
    """A simulated systemd that tells what is asked of it, and keeps a fleetd waiting that is not to run. `is_fatal` is
    asked about whatever changes anything."""

    def __init__(
        self,
        system_units: Mapping[str, str],
        link: Link,
        on_call: Callable[[str, Sequence[str]], None],
        is_fatal: IsFatal,
    ) -> None:
        super().__init__(system_units=system_units)
        self._link = link
        self._on_call = on_call
        self._is_fatal = is_fatal

    async def _take_time(self, verb: str, names: Any, *, connected: bool = True) -> None:
        await super()._take_time(verb, names, connected=connected)
        await self._link.awake.wait()
        if verb in _CHANGING and self._is_fatal(f"before it asks systemd to {verb} {' '.join(names)}"):
            raise ManagerUnavailable("who asked is dead")
        self._on_call(verb, list(names))
        self.calls.clear()

    async def write(self, files: Mapping[str, str]) -> Mapping[str, Exception]:
        refused = await super().write(files)
        self._is_fatal(f"after it has written {' '.join(files)}")
        return refused

    async def remove(self, names: Collection[str]) -> Mapping[str, Exception]:
        failures = await super().remove(names)
        self._is_fatal(f"after it has removed {' '.join(names)}")
        return failures

    async def start(self, name: str) -> None:
        await super().start(name)
        self._is_fatal(f"after it has asked systemd to start {name}")

    async def stop(self, name: str) -> None:
        await super().stop(name)
        self._is_fatal(f"after it has asked systemd to stop {name}")

    async def reload(self) -> None:
        await super().reload()
        self._is_fatal("after it has asked systemd to reload")

    def hang_up(self) -> None:
        """Who is connected hears and asks nothing any more."""
        self._session = False

    async def wait_for_changes(self) -> Sequence[str]:
        names = await super().wait_for_changes()
        await self._link.awake.wait()
        return names

    def begin_shutdown(self) -> None:
        """The whole machine goes down: systemd stops what runs, and fleetd at the end."""
        self.stopping = True
        for name in self.processes():
            unit = self._units.get(name)
            if unit is not None:
                self._units.queue_stop(unit)

    @property
    def own_names(self) -> tuple[str, ...]:
        """The units that this machine has without fleet."""
        return tuple(self._system_units)


class SimulatedMachine:
    """Machine number `number` (its id is made of that digit), called `name` in scenarios. It begins switched off."""

    def __init__(
        self,
        name: str,
        number: int,
        metadata: Mapping[str, str],
        own_units: Sequence[str],
        link: Link,
        directory: Path,
        surrounds: Surrounds,
    ) -> None:
        self.name = name
        self.id = str(number) * 32
        self.address = f"10.0.{number}.{name[1:]}"
        self.metadata = dict(metadata)
        self.link = link
        self.is_up = False
        self.clock_offset_s = 0.0
        self._troubles: dict[str, None] = {}  # what could make it look dead
        self._last_trouble_s = 0.0
        system_units = SYSTEM_UNITS | {own: f"/lib/systemd/system/{own}" for own in own_units}
        self.systemd = MachineSystemd(
            system_units, link, lambda verb, names: surrounds.on_call(name, verb, names), self._is_fatal
        )
        self.node: Node | None = None
        self.wire: Wire | None = None
        self._surrounds = surrounds
        self._directory = directory
        self._boots = 0
        self._is_dying = False  # fleetd is dead to the world already, and its end only a matter of cleaning up
        self._watcher: asyncio.Task[None] | None = None
        self._cuts = 0  # of its power
        self._errand: asyncio.Task[None] | None = None
        self._parker: asyncio.Task[bool] | None = None
        self._has_ended = asyncio.Event()  # the last fleetd, so that systemd may start the next one
        self._has_ended.set()

    # The machine.

    def begin_trouble(self, what: str) -> None:
        """From now on nobody needs to wonder if it is taken for dead."""
        self._troubles[what] = None

    def end_trouble(self, what: str) -> None:
        """This is wrong with it no more."""
        if what in self._troubles:
            del self._troubles[what]
            self._last_trouble_s = asyncio.get_running_loop().time()

    @property
    def well_for_s(self) -> float:
        """Since when nothing has been wrong with it that could make it look dead."""
        return 0.0 if self._troubles else asyncio.get_running_loop().time() - self._last_trouble_s

    async def boot(self) -> None:
        """Power is on: the machine comes up, and fleetd with it. One that still shuts down does so first; if its power
        is cut meanwhile, it is for the end of that to switch it on."""
        cuts = self._cuts
        await self._finish_errand()
        if self.is_up or self._cuts != cuts:
            return
        self.is_up = True
        self._boots += 1
        shutil.rmtree(self._directory, ignore_errors=True)
        self.end_trouble("power")
        await self.start_fleetd()

    async def power_cut(self) -> None:
        """Everything ends at once; what was under /run is gone."""
        self.begin_trouble("power")
        self.is_up = False
        self._cuts += 1
        await self._end_errand()
        await self._end_parker()
        await self.kill_fleetd()
        self.systemd.reboot()

    def pause(self) -> None:
        """fleetd gets no time to run; units do."""
        self.begin_trouble("pause")
        self.link.awake.clear()

    def wake(self) -> None:
        """fleetd runs on as if nothing had been."""
        self.link.awake.set()
        self.end_trouble("pause")

    # fleetd.

    @property
    def serves(self) -> bool:
        """Whether somebody who asks this machine's API gets an answer soon."""
        return self.node is not None and self.link.awake.is_set()

    async def start_fleetd(self) -> None:
        """systemctl start fleet."""
        await self._finish_errand()
        await self._has_ended.wait()
        if not self.is_up or self.node is not None:
            return
        await self._end_parker()
        token = speaker.set(self.name)
        around = self._surrounds
        self._is_dying = False
        self.wire = Wire(self.name, around.server, self.link, around.on_write, around.on_failure, self._is_fatal)
        await self.systemd.close()
        machine = Machine(
            id=self.id,
            session=self._surrounds.new_id(),
            address=self.address,
            metadata=self.metadata,
            boot_id=f"{self.name}-boot-{self._boots}",
        )
        surroundings = HostEnvironment(
            runtime=watch_writes(self._directory, self._is_fatal),
            own_unit=OWN_UNIT,
            unix_now=lambda: EPOCH_S + asyncio.get_running_loop().time() + self.clock_offset_s,
            new_id=self._surrounds.new_id,
            offload=inline,
            park_later=self._park_later,
        )
        self.node = Node(self._config(), self.wire, self.systemd, machine, surroundings)
        self.node.start()
        self._watcher = asyncio.create_task(self._watch_over(self.node))
        self.end_trouble("fleetd")
        speaker.reset(token)

    def _is_fatal(self, moment: str) -> bool:
        """Whether fleetd is dead at this moment. If it has just died, systemd will start it again."""
        if not self._is_dying and self._surrounds.is_fatal(self.name, moment):
            self._is_dying = True
            assert self.wire
            self.wire.cut()
            self.systemd.hang_up()
            self.run_errand(self.restart_fleetd(kill=True))
        return self._is_dying

    def _config(self) -> Config:
        return msgspec.structs.replace(self._surrounds.config, metadata=self.metadata)

    async def kill_fleetd(self) -> None:
        """kill -9: nothing more is said to anybody, and the units go on."""
        node, self.node = self.node, None
        if node is None:
            return
        self.begin_trouble("fleetd")
        self._has_ended.clear()
        assert self.wire
        await self.wire.close()
        await self.systemd.close()
        self.wake()
        if self._watcher:
            self._watcher.cancel()
        try:
            async with asyncio.timeout(HANG_S):
                await node.close()
        except TimeoutError as error:
            self._surrounds.on_failure(f"{self.name}, whose fleetd does not end", error)
        finally:
            self._has_ended.set()

    async def _watch_over(self, node: Node) -> None:
        await node.finished.wait()
        if node.failure:
            self._surrounds.on_failure(self.name, node.failure)

    # What takes its time. One such errand is done at a time; a power cut ends it.

    def run_errand(self, errand: Coroutine[Any, Any, None]) -> None:
        """Begin something that takes a while, unless something of the kind is under way."""
        if self._errand is not None and not self._errand.done():
            errand.close()
            return
        self._errand = asyncio.create_task(errand)

    async def _end_errand(self) -> None:
        errand, self._errand = self._errand, None
        if errand is not None and errand is not asyncio.current_task():
            errand.cancel()
            await asyncio.gather(errand, return_exceptions=True)

    async def _finish_errand(self) -> None:
        if self._errand is not None and self._errand is not asyncio.current_task():
            await asyncio.wait([self._errand])

    async def restart_fleetd(self, *, kill: bool = False) -> None:
        """systemctl restart fleet; or fleetd is killed, and systemd starts it again."""
        if kill:
            await self.kill_fleetd()
            await asyncio.sleep(RESTART_S)
        else:
            await self._depart("restart")
        await self.start_fleetd()

    async def stop_fleetd(self) -> None:
        """systemctl stop fleet."""
        await self._depart("stop")

    async def shut_down(self) -> None:
        """systemctl poweroff."""
        if not self.is_up:
            return
        self.begin_trouble("power")
        self.systemd.begin_shutdown()
        await self._end_parker()
        await self._depart("stop")
        self.is_up = False
        self.systemd.reboot()

    async def _park_later(self, parking: Parking) -> None:
        """What systemd is asked to keep running after the end of fleetd, until fleetd is started again."""
        around = self._surrounds
        wire = Wire(self.name, around.server, self.link, around.on_write, around.on_failure, lambda _: False)
        self._parker = asyncio.create_task(park_when_possible(Registry(wire), parking))

    async def _end_parker(self) -> None:
        parker, self._parker = self._parker, None
        if parker is not None:
            parker.cancel()
            await asyncio.gather(parker, return_exceptions=True)

    async def leave(self) -> None:
        """`fleetd leave`: asked again and again until the machine has left."""
        self.begin_trouble("fleetd")
        while self.node is not None:
            response = await self.answer(Request("POST", LEAVE, local=True))
            if response.status == 200 and msgspec.json.decode(response.body, type=schema.Leaving).left:
                return
            await asyncio.sleep(LEAVE_POLL_S)

    async def rejoin(self) -> None:
        """The machine that was told to leave is to stay after all, or to come back: its fleetd is restarted."""
        await self._end_errand()
        await self.restart_fleetd()

    async def _depart(self, job: str) -> None:
        """fleetd is sent SIGTERM while systemd has this job for it."""
        node = self.node
        if node is None:
            return
        self.begin_trouble("fleetd")
        self.systemd.set_pending_job(OWN_UNIT, job)
        try:
            await node.shut_down()
        finally:
            self.systemd.set_pending_job(OWN_UNIT, "")
            if self.node is node:
                await self.kill_fleetd()

    async def answer(self, request: Request) -> Response:
        """What the API of this machine answers."""
        assert self.node
        return await self.node.api.handle(request)
