"""What podman says of the health of containers (Check=container): one `podman events` a machine, and a list of the
containers when a unit begins to be followed, or when something may have been missed.

The container of a unit is the one with the label PODMAN_SYSTEMD_UNIT of its name, which podman gives to what is started
in a unit that has this variable. Each check of podman's writes an event. Before 4.6 it comes before the result counts,
and tells that of the check before: there each event is a reason to look again.

podman needs more of the machine than fleetd may touch, so systemd runs it in a transient unit that ends with fleetd's.
"""

import asyncio
import logging
import os
import re
import signal
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

import msgspec

log = logging.getLogger(__name__)

PODMAN = "podman"
LABEL = "PODMAN_SYSTEMD_UNIT"
SETTLE_S = 0.3  # from an event to when its result can be read; events within it are one reason to look
LOOK_S = 30.0  # for so long podman may look
FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 60.0  # before podman is started again
NO_CHECK = "its container has no health check: add HealthCmd= to [Container]"
NO_CONTAINER = f"podman has no container with the label {LABEL} of this unit"
_TELLS_RESULT = (4, 6)  # the version of podman from which on an event tells the result of its own check
_EVENTS = ("events", "--filter", "event=health_status", "--format", "json")
_LIST = ("ps", "--filter", f"label={LABEL}", "--format", "json")
_HEALTH = re.compile(r"\((healthy|unhealthy|starting)\)")
_VERSION = re.compile(r"([0-9]+)\.([0-9]+)")
_LONGEST_LINE = 1 << 20  # bytes
_LONGEST_WORDS = 200  # characters
_PASSED_ON = ("HOME", "XDG_RUNTIME_DIR", "XDG_CONFIG_HOME", "DBUS_SESSION_BUS_ADDRESS")
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

OnResult = Callable[[str], None]  # called with why the container is not well, '' if it is


class _Event(msgspec.Struct):
    """A line of `podman events`."""

    id_: str = msgspec.field(name="ID", default="")
    health: str = msgspec.field(name="health_status", default="")
    labels: dict[str, str] | None = msgspec.field(name="Attributes", default=None)


class _Container(msgspec.Struct):
    """A container in the answer of `podman ps`."""

    id_: str = msgspec.field(name="Id")
    status: str = msgspec.field(name="Status", default="")
    labels: dict[str, str] | None = msgspec.field(name="Labels", default=None)


class _Failed(Exception):
    """podman cannot be asked; the message says why."""


class PodmanHealth:
    """Follows the health of containers, by the program `podman`. `prefix` stands before each of its commands, with the
    name of the unit that systemd runs it in; `stop` is the command that ends that of `podman events`. Needs a running
    event loop."""

    def __init__(
        self,
        prefix: Callable[[str], Sequence[str]] = lambda name: (),
        stop: Sequence[str] = (),
        podman: str = PODMAN,
    ) -> None:
        self._podman = podman
        self._prefix = prefix
        self._stop = stop
        self._followed: dict[str, OnResult] = {}
        self._untold: dict[str, None] = {}  # units of which nothing has been said yet
        self._containers: dict[str, str] = {}  # unit → id of its container; none if it has several
        self._stale = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._lags = True
        self._complaint = ""

    def follow(self, unit: str, on_result: OnResult) -> None:
        """Call `on_result` with what podman says of the unit's container: soon, and whenever podman has checked it."""
        self._followed[unit] = on_result
        self._untold[unit] = None
        self._stale.set()
        if self._task is None:
            self._task = asyncio.create_task(self._run())

    def unfollow(self, unit: str) -> None:
        """Follow this unit not any more."""
        for known in (self._followed, self._untold, self._containers):
            known.pop(unit, None)
        if not self._followed:
            self.close()

    def close(self) -> None:
        """Follow nothing any more."""
        self._followed.clear()
        self._untold.clear()
        self._containers.clear()
        if self._task is not None:
            self._task.cancel()
            self._task = None

    async def _run(self) -> None:
        """Keep `podman events` running, with pauses that become longer."""
        pause_s = FIRST_PAUSE_S
        loop = asyncio.get_running_loop()
        while True:
            began_s = loop.time()
            try:
                await self._follow_events()
                why = "podman events has ended"
            except _Failed as error:
                why = str(error)
            except OSError as error:
                why = f"{error.filename or PODMAN} cannot be started: {error.strerror}"
            if loop.time() - began_s > LONGEST_PAUSE_S:
                pause_s = FIRST_PAUSE_S
            if why != self._complaint:
                log.warning("podman does not say how containers are: %s; it is asked again and again", why)
                self._complaint = why
            for unit in list(self._untold):
                self._followed[unit](f"podman cannot be asked: {why}")
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)

    async def _follow_events(self) -> None:
        """Pass on what `podman events` says, until it ends. Raises _Failed and OSError."""
        self._lags = _version_of(await self._ask("version", "--version")) < _TELLS_RESULT
        await self._end_earlier()
        process = await self._start("events", _EVENTS, asyncio.subprocess.STDOUT)
        tasks = [asyncio.create_task(self._read_events(process)), asyncio.create_task(self._look())]
        self._stale.set()  # only from now on nothing is missed
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.shield(asyncio.create_task(self._end(process)))

    async def _read_events(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        words = ""
        try:
            while line := await process.stdout.readline():
                try:
                    self._note(msgspec.json.decode(line, type=_Event))
                except msgspec.DecodeError:
                    words = _last_words(line)
        except ValueError as error:  # a line that is too long
            raise _Failed(f"podman events says too much in one line: {error}") from error
        raise _Failed(f"podman events has ended: {words}" if words else "podman events has ended")

    def _note(self, event: _Event) -> None:
        unit = (event.labels or {}).get(LABEL, "")
        if unit not in self._followed:
            return
        if self._lags or not event.health or self._containers.get(unit) != event.id_:
            self._stale.set()
        else:
            self._tell(unit, event.health)

    async def _look(self) -> None:
        """Ask how the containers are, whenever that may have changed. Raises _Failed and OSError."""
        while True:
            await self._stale.wait()
            await asyncio.sleep(SETTLE_S)
            self._stale.clear()
            answer = await self._ask("list", *_LIST)
            try:
                containers = msgspec.json.decode(answer or b"[]", type=list[_Container] | None) or []
            except msgspec.DecodeError as error:
                raise _Failed(f"podman ps says what is no list of containers: {error}") from error
            if self._complaint:
                log.info("podman says how containers are again")
                self._complaint = ""
            self._tell_all(containers)

    def _tell_all(self, containers: Sequence[_Container]) -> None:
        found: dict[str, list[_Container]] = {}
        for each in containers:
            found.setdefault((each.labels or {}).get(LABEL, ""), []).append(each)
        for unit in list(self._followed):
            own = found.get(unit, [])
            self._containers.pop(unit, None)
            if len(own) == 1:
                self._containers[unit] = own[0].id_
            healths = [match[1] if (match := _HEALTH.search(each.status)) else "" for each in own]
            # Of several, each has to be well: a label proves nothing.
            self._tell(unit, next((each for each in healths if each != "healthy"), "healthy") if own else None)

    def _tell(self, unit: str, health: str | None) -> None:
        self._untold.pop(unit, None)
        if on_result := self._followed.get(unit):
            on_result(NO_CONTAINER if health is None else _describe(health))

    async def _ask(self, name: str, *arguments: str) -> bytes:
        """What podman answers. Raises _Failed and OSError."""
        process = await self._start(name, arguments, asyncio.subprocess.PIPE)
        try:
            async with asyncio.timeout(LOOK_S):
                answer, errors = await process.communicate()
        except TimeoutError as error:
            raise _Failed(f"podman {arguments[0]} is not done within {LOOK_S:g} s") from error
        finally:
            await asyncio.shield(asyncio.create_task(_kill(process)))
        if process.returncode:
            raise _Failed(_last_words(errors) or f"podman {arguments[0]} has exit status {process.returncode}")
        return answer

    async def _start(self, name: str, arguments: Sequence[str], errors: int) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            *self._prefix(name),
            self._podman,
            *arguments,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=errors,
            env=_environment(os.environ),
            cwd="/",
            start_new_session=True,
            limit=_LONGEST_LINE,
        )

    async def _end(self, process: asyncio.subprocess.Process) -> None:
        await self._end_earlier()
        await _kill(process)

    async def _end_earlier(self) -> None:
        """End a `podman events` that systemd runs, if there is one."""
        if self._stop:
            stopping = await asyncio.create_subprocess_exec(
                *self._stop,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.DEVNULL,
                env=_environment(os.environ),
            )
            await stopping.wait()


def through_systemd(own_unit: str, *, user: bool) -> PodmanHealth:
    """What follows containers for the fleetd of this unit of systemd's ('': run by hand, it runs podman itself)."""
    if not own_unit:
        return PodmanHealth()
    manager = ("--user",) if user else ()
    stem = f"{own_unit.removesuffix('.service')}-podman"

    def prefix(name: str) -> tuple[str, ...]:
        return (
            "systemd-run",
            *manager,
            "--quiet",
            "--pipe",
            "--wait",
            "--collect",
            f"--unit={stem}-{name}.service",
            "--description=fleet: ask podman how containers are",
            f"--property=BindsTo={own_unit}",
            f"--property=After={own_unit}",
            "--property=LogLevelMax=warning",  # systemd would write lines for each look
            "--",
        )

    return PodmanHealth(prefix, ("systemctl", *manager, "stop", f"{stem}-events.service"))


def _describe(health: str) -> str:
    """Why a container with this health is not well, '' if it is."""
    if health == "healthy":
        return ""
    return f"podman says that its container is {health}" if health else NO_CHECK


def _version_of(words: bytes) -> tuple[int, int]:
    """The version in `podman version 4.3.1`; (0, 0) if there is none."""
    found = _VERSION.search(words.decode(errors="replace"))
    return (int(found[1]), int(found[2])) if found else (0, 0)


def _last_words(text: bytes) -> str:
    lines = text.decode(errors="replace").strip().splitlines()
    return lines[-1][-_LONGEST_WORDS:] if lines else ""


def _environment(own: Mapping[str, str]) -> dict[str, str]:
    return {"PATH": _PATH, "LANG": "C.UTF-8", **{name: own[name] for name in _PASSED_ON if name in own}}


async def _kill(process: asyncio.subprocess.Process) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    await process.wait()
