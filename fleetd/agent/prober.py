"""Carries out checks (Check=): a connection, a request over HTTP, or a program that has to exit with 0. What podman
checks of containers is followed.

There may be hundreds of units whose checks run every few seconds, so a check by connection is a few callbacks on a
socket, without streams and tasks.
"""

import asyncio
import errno
import os
import signal
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Protocol

from fleetd.model.announce_options import EXEC, HTTP, Check
from fleetd.model.ip_address import is_ip_address

if TYPE_CHECKING:
    from fleetd.agent.podman_health import PodmanHealth

MAX_PROGRAMS = 8  # that run at once
LOOPBACK = ("127.0.0.1", "::1")
ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"}
_NOT_FOUND = 127  # how a shell exits that does not find a program
_FIRST_LINE = 512  # bytes of an answer over HTTP, of which the status is in the first line

Done = Callable[[str], None]  # called once, with why the check failed, '' if it passed


class Prober(Protocol):
    """What carries out checks."""

    def begin(self, check: Check, address: str, timeout_s: float, done: Done) -> None:
        """Begin a check of a unit on this machine, which is reached at `address` ('': at none), and call `done` with
        the result, within `timeout_s` and a moment. Needs a running event loop."""

    def follow(self, unit: str, on_result: Done) -> None:
        """Call `on_result` with each result of the checks that podman makes of the unit's container, the first time
        soon. Needs a running event loop."""

    def unfollow(self, unit: str) -> None:
        """Follow the container of this unit not any more."""

    def close(self) -> None:
        """End the checks that are under way, without a result."""


class HostProber:
    """Carries out checks on this host. `own_unit` is fleetd's systemd unit ('': none), of the manager of a `user` or of
    the system."""

    def __init__(self, own_unit: str = "", *, user: bool = False) -> None:
        self._own_unit, self._user = own_unit, user
        self._podman: PodmanHealth | None = None
        self._connections: dict[_Connection, None] = {}
        self._programs: dict[asyncio.Task[None], None] = {}
        self._turn = asyncio.Semaphore(MAX_PROGRAMS)

    def begin(self, check: Check, address: str, timeout_s: float, done: Done) -> None:
        """Begin a check (Prober)."""
        if check.kind == EXEC:
            task = asyncio.create_task(self._run(check.command, timeout_s, done))
            self._programs[task] = None
            task.add_done_callback(lambda task: self._programs.pop(task, None))
            return

        def end(failure: str) -> None:
            self._connections.pop(connection, None)
            done(failure)

        connection = _Connection(check, _addresses(address), timeout_s, end)
        self._connections[connection] = None
        connection.begin()

    def follow(self, unit: str, on_result: Done) -> None:
        """Follow the health of a container (Prober)."""
        if self._podman is None:
            from fleetd.agent.podman_health import through_systemd  # most machines need none

            self._podman = through_systemd(self._own_unit, user=self._user)
        self._podman.follow(unit, on_result)

    def unfollow(self, unit: str) -> None:
        """Follow it not any more (Prober)."""
        if self._podman is not None:
            self._podman.unfollow(unit)

    def close(self) -> None:
        """End the checks that are under way (Prober)."""
        if self._podman is not None:
            self._podman.close()
        for connection in list(self._connections):
            connection.close()
        self._connections.clear()
        for task in self._programs:
            task.cancel()

    async def _run(self, command: Sequence[str], timeout_s: float, done: Done) -> None:
        async with self._turn:
            done(await _run_program(command, timeout_s))


class WithoutPrograms:
    """Carries out the checks of another prober, but for programs: these are not run, and fail for this reason."""

    def __init__(self, prober: Prober, why: str) -> None:
        self._prober = prober
        self._why = why

    def begin(self, check: Check, address: str, timeout_s: float, done: Done) -> None:
        """Begin a check (Prober)."""
        if check.kind == EXEC:
            asyncio.get_running_loop().call_soon(done, self._why)
        else:
            self._prober.begin(check, address, timeout_s, done)

    def follow(self, unit: str, on_result: Done) -> None:
        """Follow the health of a container (Prober), which runs its own programs."""
        self._prober.follow(unit, on_result)

    def unfollow(self, unit: str) -> None:
        """Follow it not any more (Prober)."""
        self._prober.unfollow(unit)

    def close(self) -> None:
        """End the checks that are under way (Prober)."""
        self._prober.close()


def _addresses(own: str) -> tuple[str, ...]:
    """Where a service of this machine may listen: its own address first, at which others reach it. A host name
    (`public_ip=`) is left out: connect(2) takes addresses alone, and to resolve one here would hold up the daemon."""
    return (*([own] if own not in LOOPBACK and is_ip_address(own) else []), *LOOPBACK)


async def _run_program(command: Sequence[str], timeout_s: float) -> str:
    """Why the program failed, '' if it exits with 0 in time. It gets a session of its own, so that all that it starts
    is killed with it."""
    try:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
            env=ENVIRONMENT,
            cwd="/",
            start_new_session=True,
        )
    except OSError as error:
        return f"{command[0]} cannot be started: {error.strerror}"
    try:
        async with asyncio.timeout(timeout_s):
            status = await process.wait()
    except TimeoutError:
        return f"not done within {timeout_s:g} s"
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        if process.returncode is None:
            await asyncio.shield(process.wait())
    if status < 0:
        return f"killed by signal {-status}"
    if status == _NOT_FOUND:
        return "exit status 127: a program that it runs was not found"
    return f"exit status {status}" if status else ""


class _Connection:
    """One check by connection. It tries the addresses one after the other, as long as they refuse."""

    def __init__(self, check: Check, addresses: Sequence[str], timeout_s: float, done: Done) -> None:
        self._check = check
        self._left = list(addresses)
        self._timeout_s = timeout_s
        self._done = done
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._socket: socket.socket | None = None
        self._answer = b""
        self._failure = "there is no address to connect to"

    def begin(self) -> None:
        """Begin. The result follows, never at once."""
        self._timer = self._loop.call_later(self._timeout_s, self._end, f"no answer within {self._timeout_s:g} s")
        self._loop.call_soon(self._try_next)

    def close(self) -> None:
        """End it without a result."""
        self._left.clear()
        self._done = lambda failure: None
        self._end("")

    def _try_next(self) -> None:
        if self._timer is None:
            return  # closed
        while self._left:
            address = self._left.pop(0)
            family = socket.AF_INET6 if ":" in address else socket.AF_INET
            try:
                self._socket = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
                code = self._socket.connect_ex((address, self._check.port))
            except OSError as error:  # no such family
                code = error.errno or errno.EADDRNOTAVAIL
            if code in (0, errno.EINPROGRESS) and self._socket is not None:
                self._loop.add_writer(self._socket, self._connected)
                return
            self._note_refused(code)
        self._end(self._failure)

    def _note_refused(self, code: int) -> None:
        if code == errno.ECONNREFUSED or self._failure.startswith("there"):
            self._failure = os.strerror(code).lower()
        self._drop()

    def _drop(self) -> None:
        if self._socket is not None:
            self._loop.remove_writer(self._socket)
            self._loop.remove_reader(self._socket)
            self._socket.close()
            self._socket = None

    def _connected(self) -> None:
        assert self._socket is not None
        self._loop.remove_writer(self._socket)
        if code := self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self._note_refused(code)
            self._try_next()
        elif self._check.kind == HTTP:
            lines = (
                f"GET {self._check.path} HTTP/1.1",
                f"Host: {self._host()}",
                "User-Agent: fleetd",
                "Accept: */*",
                "Connection: close",
            )
            try:
                self._socket.send("\r\n".join((*lines, "", "")).encode())
            except OSError as error:
                self._end(f"the connection broke: {error.strerror}")
            else:
                self._loop.add_reader(self._socket, self._readable)
        else:
            self._end("")

    def _host(self) -> str:
        assert self._socket is not None
        host = self._socket.getpeername()[0]
        return f"[{host}]:{self._check.port}" if ":" in host else f"{host}:{self._check.port}"

    def _readable(self) -> None:
        assert self._socket is not None
        try:
            received = self._socket.recv(_FIRST_LINE)
        except BlockingIOError:
            return
        except OSError as error:
            self._end(f"the connection broke: {error.strerror}")
            return
        self._answer += received
        if not received or b"\n" in self._answer or len(self._answer) >= _FIRST_LINE:
            self._end(_judge_status(self._answer))

    def _end(self, failure: str) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
            self._drop()
            self._done(failure)


def _judge_status(answer: bytes) -> str:
    """Why this beginning of an answer over HTTP is a failure; '' if it is none."""
    words = answer.split(b"\n", 1)[0].split()
    if not answer:
        return "the connection was closed without an answer"
    if len(words) < 2 or not words[0].startswith(b"HTTP/") or not (words[1].isdigit() and len(words[1]) == 3):
        return "the answer is not HTTP"
    return "" if words[1][:1] in (b"2", b"3") else f"status {words[1].decode()}"
