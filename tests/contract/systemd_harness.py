"""What the suite of fleetd/systemd runs on: a simulated systemd, or the real one of this machine."""

import asyncio
import contextlib
import os
import shutil
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator, Mapping
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from typing import Protocol, TypeVar

from fleetd.systemd.dbus_manager import SystemdOverDBus
from fleetd.systemd.protocol import ManagerUnavailable, ServiceManager, UnitStatus
from fleetd.testing.simulated_systemd import SimulatedSystemd

LIBRARY_VARIABLE = "FLEET_TEST_DBUS_LIBRARY"  # if set: run on the real systemd, with this library
PATIENCE_S = 30.0
T = TypeVar("T")

SLEEPER = "[Service]\nExecStart=/bin/sleep infinity\n"
ENDS_WITH_3 = "[Service]\nExecStart=/bin/sh -c 'echo the disk is on fire; exit 3'\n"


class Harness(Protocol):
    """A service manager, and what an administrator can do to it. `others` are units that are not fleet's."""

    manager: ServiceManager

    async def reconnect(self) -> None:
        """Close the connection and open another, as a restart of fleetd does."""

    def lose_bus(self) -> None:
        """Break the bus. It returns within a second or two."""

    def crash(self, name: str) -> None:
        """Kill the main process of a running unit."""

    def pid(self, name: str) -> int:
        """The main process of a unit, 0 without one."""

    def own_dropin(self, name: str, dropin: str) -> str:
        """Give the machine a drop-in of its own for this unit. Return its path."""

    def disown_dropins(self, name: str) -> None:
        """Remove these drop-ins of this unit."""

    def inhibit_shutdown(self, who: str, why: str) -> AbstractContextManager[object]:
        """Have a program hold a lock that blocks shutdowns."""

    async def start_turn(self, name: str) -> int:
        """A number that is higher for a unit that started later."""


class SimulatedHarness:
    def __init__(self) -> None:
        self.manager = SimulatedSystemd()

    async def reconnect(self) -> None:
        await self.manager.close()
        await self.manager.connect()

    def lose_bus(self) -> None:
        self.manager.lose_bus(for_s=0.2)

    def crash(self, name: str) -> None:
        self.manager.crash(name)

    def pid(self, name: str) -> int:
        return self.manager.pid(name)

    def own_dropin(self, name: str, dropin: str) -> str:
        self.manager.own_dropin(name, path := f"/etc/systemd/system/{name}.d/{dropin}")
        return path

    def disown_dropins(self, name: str) -> None:
        self.manager.disown(name)

    @contextmanager
    def inhibit_shutdown(self, who: str, why: str) -> Iterator[None]:
        self.manager.inhibit(who, why)
        yield
        self.manager.inhibit(who, "")

    async def start_turn(self, name: str) -> int:
        return int((await self.manager.details(name)).invocation, 16)


class RealHarness:
    def __init__(self, library: str) -> None:
        self._library = library
        self.manager = SystemdOverDBus(library=library)

    async def reconnect(self) -> None:
        await self.manager.close()
        self.manager = SystemdOverDBus(library=self._library)
        await self.manager.connect()

    def lose_bus(self) -> None:
        systemctl("restart", "dbus.service")

    def crash(self, name: str) -> None:
        systemctl("kill", "--kill-whom=main", "--signal=KILL", name)

    def pid(self, name: str) -> int:
        return int(systemctl("show", "--value", "--property=MainPID", name))

    def own_dropin(self, name: str, dropin: str) -> str:
        path = Path(f"/etc/systemd/system/{name}.d/{dropin}")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("[Unit]\nDescription=of the machine's own\n")
        return str(path)

    def disown_dropins(self, name: str) -> None:
        shutil.rmtree(f"/etc/systemd/system/{name}.d")

    @contextmanager
    def inhibit_shutdown(self, who: str, why: str) -> Iterator[None]:
        options = ("--what=sleep:shutdown", "--mode=block", f"--who={who}", f"--why={why}")
        command = ["systemd-inhibit", *options, "/bin/sh", "-c", "echo locked; exec cat"]
        pipe = subprocess.PIPE
        with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as holder:
            assert holder.stdin
            assert holder.stdout
            assert holder.stdout.readline() == "locked\n"
            yield
            holder.stdin.close()

    async def start_turn(self, name: str) -> int:
        return int(systemctl("show", "--value", "--property=InactiveExitTimestampMonotonic", name))


def systemctl(*arguments: str) -> str:
    """Run systemctl on this machine. Return its output. Raises CalledProcessError."""
    return subprocess.run(["systemctl", *arguments], check=True, capture_output=True, text=True).stdout.strip()


@asynccontextmanager
async def open_harness() -> AsyncIterator[Harness]:
    """A connected service manager without units of fleet and without pending changes, before and after the test."""
    library = os.environ.get(LIBRARY_VARIABLE)
    harness: Harness = RealHarness(library) if library else SimulatedHarness()
    await harness.manager.connect()
    try:
        yield harness
        await _clear(harness.manager)
    finally:
        await harness.manager.close()


async def _clear(manager: ServiceManager) -> None:
    names = list(manager.read_files())
    seen = await until_asked(lambda: manager.observe(names))
    at_work = [name for name, unit in seen.items() if unit.active != "inactive" or unit.job]
    await asyncio.gather(*(until_asked(partial(manager.stop, name)) for name in at_work))
    await until_all(manager, names, lambda unit: unit.active in ("inactive", "failed") and not unit.job)
    await manager.link({}, manager.find_links())
    await manager.remove(names)
    if await manager.reload_needed(names):
        await manager.reload()


async def until_asked(ask: Callable[[], Awaitable[T]]) -> T:
    """Ask systemd; ask again if the connection was made anew meanwhile, as a flood of signals may have it."""
    while True:
        try:
            return await ask()
        except ManagerUnavailable:
            await asyncio.sleep(0.1)


async def until_all(
    manager: ServiceManager, names: Collection[str], holds: Callable[[UnitStatus], bool]
) -> Mapping[str, UnitStatus]:
    """Follow the changes until the condition holds for all units. Return their states. Raises TimeoutError with them.

    It looks only after a change, so a change that is not reported fails the test. A bus that returns is a change.
    """
    seen: Mapping[str, UnitStatus] = {name: UnitStatus(name, load="") for name in names}
    try:
        async with asyncio.timeout(PATIENCE_S):
            while True:
                with contextlib.suppress(ManagerUnavailable):
                    seen = await manager.observe(names)
                    if all(holds(unit) for unit in seen.values()):
                        break
                await manager.wait_for_changes()
    except TimeoutError:
        late = [unit for unit in seen.values() if not holds(unit)]
        raise TimeoutError(f"after {PATIENCE_S} s: {late}") from None
    return seen


async def until_active(manager: ServiceManager, *names: str) -> Mapping[str, UnitStatus]:
    return await until_all(manager, names, lambda unit: unit.active == "active" and not unit.job)


async def until_ended(manager: ServiceManager, *names: str) -> Mapping[str, UnitStatus]:
    return await until_all(manager, names, lambda unit: unit.active in ("inactive", "failed") and not unit.job)


def oneshot(command: str, more: str = "") -> str:
    return f"[Service]\nType=oneshot\nExecStart={command}\n{more}"


async def start_all(manager: ServiceManager, *names: str) -> None:
    await asyncio.gather(*(manager.start(name) for name in names))


async def next_changes(manager: ServiceManager) -> list[str]:
    async with asyncio.timeout(PATIENCE_S):
        return list(await manager.wait_for_changes())


async def quiet(manager: ServiceManager) -> None:
    """Take pending changes until there are none for a while."""
    try:
        while True:
            async with asyncio.timeout(1.0):  # signals of a busy machine are late
                await manager.wait_for_changes()
    except TimeoutError:
        return
