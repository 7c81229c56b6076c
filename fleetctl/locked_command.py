"""Runs a command while a lock is held: passes signals on, and ends the command before another one may have the lock."""

import ctypes
import os
import select
import signal
import sys
import time
from contextlib import suppress
from typing import Any

import msgspec

from fleetctl.locks import Held, Locks, Renewal, now
from fleetctl.prepared_command import PreparedCommand
from fleetd.model.lock import KILL_PART, Step, next_step

LOST_STATUS = 124  # as timeout(1): the command was ended
TOKEN, NAME = "FLEET_LOCK_TOKEN", "FLEET_LOCK_NAME"
_PASSED_ON = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)
_FROM_TERMINAL = (signal.SIGINT, signal.SIGQUIT)  # the terminal sends them to all of its foreground
_KILL_PAUSE_S = 0.02
_SET_SUBREAPER = 36  # prctl(2)


class Ended(msgspec.Struct, frozen=True):
    """How a command has ended: its exit status, and whether the lock was lost meanwhile, and why."""

    status: int
    lost: str = ""


def run_with_lock(locks: Locks, held: Held, name: str, command: PreparedCommand) -> Ended:
    """Run the command, and release the lock at its end. Raises CommandFailed if it cannot be run."""
    try:
        return _run(locks, held, name, command)
    finally:
        locks.release(held)


def _run(locks: Locks, held: Held, name: str, command: PreparedCommand) -> Ended:
    ctypes.CDLL(None).prctl(_SET_SUBREAPER, 1, 0, 0, 0)  # what its processes leave behind is found below this one
    own = os.getpid()
    before = _children(own) - {command.pid}
    passing = _Passing(command)
    former = {number: signal.signal(number, passing) for number in _PASSED_ON}
    try:
        command.start({TOKEN: held.token, NAME: name})
        passing.begin()
        news = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        renewal = Renewal(locks, held, lambda: os.eventfd_write(news, 1))
        try:
            lost = _watch(command, held, renewal, news, _Processes(own, before))
            return Ended(command.wait(), lost)
        finally:
            renewal.stop()
            os.close(news)
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


def _watch(command: PreparedCommand, held: Held, renewal: Renewal, news: int, processes: "_Processes") -> str:
    """Wait for the end of the command, and cause it if the lock cannot be renewed. Returns why, '' if it was not."""
    poll = select.poll()
    ended = os.pidfd_open(command.pid)
    poll.register(ended, select.POLLIN)
    poll.register(news, select.POLLIN)
    lost, told = "", False
    try:
        while True:
            sent = renewal.sent
            step, until = next_step(sent, held.ttl_s, now())
            if step is Step.RUN and (lost or renewal.is_lost):
                step, until = Step.TERM, sent + held.ttl_s * KILL_PART
            if step is not Step.RUN:
                lost = lost or _describe_loss(renewal)
            if step is Step.TERM and not told:
                told = True
                processes.send(signal.SIGTERM, signal.SIGCONT)
            if step is Step.KILL:
                processes.kill()
                return lost
            with suppress(BlockingIOError):
                os.eventfd_read(news)
            if any(found == ended for found, _ in poll.poll(max(0.0, until - now()) * 1000 + 1)):
                if lost:  # what the command leaves behind must not run on
                    processes.kill()
                return lost
    finally:
        os.close(ended)


def _describe_loss(renewal: Renewal) -> str:
    if renewal.is_lost:
        return "it was taken away, or the store has dropped it"
    return f"it could not be renewed in time: {renewal.trouble or 'no answer'}"


class _Passing:
    """Passes signals on to the command, once it runs."""

    def __init__(self, command: PreparedCommand) -> None:
        self._command = command
        self._early: list[int] | None = []

    def begin(self) -> None:
        """Pass them on from now on, and those that have come."""
        early, self._early = self._early or [], None
        for number in early:
            self._command.send_signal(number)

    def __call__(self, number: int, _: Any) -> None:
        if number in _FROM_TERMINAL and _is_in_foreground():
            return  # the command has got it too
        if self._early is not None:
            self._early.append(number)
        else:
            self._command.send_signal(number)


class _Processes:
    """All processes below this one but those that were there before."""

    def __init__(self, own: int, before: frozenset[int]) -> None:
        self._own = own
        self._before = before

    def _find(self) -> list[int]:
        found = [child for child in _children(self._own) if child not in self._before]
        for process in found:  # which grows
            found += _children(process)
        return found

    def send(self, *numbers: int) -> list[int]:
        """Send them these signals; returns the processes."""
        found = self._find()
        for process in found:
            for number in numbers:
                with suppress(ProcessLookupError, PermissionError):
                    os.kill(process, number)
        return found

    def kill(self) -> None:
        """Kill them all."""
        while [process for process in self.send(signal.SIGKILL) if not _is_zombie(process)]:
            time.sleep(_KILL_PAUSE_S)


def _children(process: int) -> frozenset[int]:
    found: set[int] = set()
    with suppress(OSError):
        for task in os.listdir(f"/proc/{process}/task"):
            with suppress(OSError), open(f"/proc/{process}/task/{task}/children") as file:
                found.update(map(int, file.read().split()))
    return frozenset(found)


def _is_zombie(process: int) -> bool:
    try:
        with open(f"/proc/{process}/stat", errors="replace") as file:
            return file.read().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True


def _is_in_foreground() -> bool:
    with suppress(OSError):
        return os.tcgetpgrp(sys.stdin.fileno()) == os.getpgrp()
    return False
