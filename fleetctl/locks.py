"""Takes a lock of the cluster and holds it: its session is renewed in a thread, and counts by this machine's clock."""

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING
from urllib.parse import quote

import msgspec

from fleetctl import output
from fleetctl.errors import ApiError, ClientError, CommandFailed
from fleetctl.wait import SILENCE_S
from fleetd.api import schema
from fleetd.api.lock_schema import HELD, WAITING
from fleetd.model.decoding import UNREADABLE
from fleetd.model.lock import RENEW_PART

if TYPE_CHECKING:
    from fleetctl.client import Client

FAILED_STATUS = 125  # as timeout(1): the command was not run, for a reason of fleetctl's own
RETRY_S = 1.0
SILENT_S = 45.0  # of an answer that has a line each 15 s
_GONE, _TAKEN = 404, 409


def now() -> float:
    """A clock in seconds that goes on while the machine is suspended."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class NotFree(Exception):
    """The lock was not to be had in time. The message says who has it."""


class Held(msgspec.Struct, frozen=True):
    """A lock that is held, for `ttl_s` from `sent` on: when the last renewal that was answered was sent, or earlier."""

    session: str
    token: str
    ttl_s: float
    sent: float


class Locks:
    """The locks of a cluster at one endpoint."""

    def __init__(self, client: "Client") -> None:
        self._client = client

    def take(self, name: str, request: schema.LockRequest, *, for_ever: bool = False) -> Held:
        """Wait for a lock and take it. Raises NotFree, CommandFailed. Lost connections are made again, for SILENCE_S,
        or `for_ever`."""
        until = None if request.wait is None else now() + request.wait
        silent_after = 0.0  # until there was an answer, nothing is tried again
        while True:
            try:
                held = self._ask(name, request)
                silent_after = now() + SILENCE_S
                if held is not None and (renewed := self.renew(held)) is not None:
                    return renewed
            except ApiError as error:
                if error.code == _TAKEN:
                    raise NotFree(f"{error}".partition(": ")[2]) from error
                if not error.may_pass or not silent_after:
                    raise CommandFailed(f"Error taking lock {name}: {error}", FAILED_STATUS) from error
            except _Interrupted as error:
                silent_after = now() + SILENCE_S
                output.note(f"waiting for lock {name} goes on: {error}")
            except ClientError as error:
                if not (error.may_pass and silent_after and (for_ever or now() < silent_after)):
                    raise CommandFailed(f"Error taking lock {name}: {error}", FAILED_STATUS) from error
            time.sleep(RETRY_S)
            if until is not None:
                request = msgspec.structs.replace(request, wait=max(0.0, until - now()))

    def _ask(self, name: str, request: schema.LockRequest) -> Held | None:
        """Wait for a lock over one connection; None if that has to begin anew. Raises NotFree, _Interrupted."""
        path = f"locks/{quote(name, safe='', errors='surrogateescape')}"
        if request.wait == 0:
            return _read_held(self._client.exchange("POST", f"{schema.V2}/{path}", request, schema.LockAnswer))
        has_answered = False
        try:
            with self._client.open_stream(path, SILENT_S, msgspec.json.encode(request)) as lines:
                for line in lines:
                    answer = _parse(line)
                    if answer.state == HELD:
                        return _read_held(answer)
                    if answer.state != WAITING:
                        raise NotFree(f"lock {name} was not to be had in time: {output.printable(answer.detail)}")
                    if not has_answered:
                        output.note(f"waiting for lock {name}: {output.printable(answer.detail)}")
                    has_answered = True
        except ClientError as error:
            if has_answered and error.may_pass:
                raise _Interrupted(str(error)) from error
            raise
        raise _Interrupted("fleetd has ended the connection")

    def renew(self, held: Held) -> Held | None:
        """Renew a session; None if it does not hold its lock any more. Raises ClientError."""
        sent = now()
        try:
            answer = self._client.exchange("PUT", _path(held.session), None, schema.LockAnswer)
        except ApiError as error:
            if error.code == _GONE:
                return None
            raise
        return msgspec.structs.replace(held, sent=sent - max(0.0, answer.age))

    def release(self, held: Held) -> None:
        """Release a session. If that fails, the lock is free after its TTL."""
        try:
            self._client.exchange("DELETE", _path(held.session), None, schema.LockAnswer)
        except ApiError as error:
            if error.code != _GONE:
                output.note(f"the lock is free in {2 * held.ttl_s:g} s only: {error}")
        except ClientError as error:
            output.note(f"the lock is free in {2 * held.ttl_s:g} s only: {error}")

    def list(self) -> tuple[schema.Lock, ...]:
        """The locks that somebody holds or waits for. Raises ClientError."""
        return self._client.exchange("GET", f"{schema.V2}/locks", None, schema.Locks).locks

    def take_away(self, name: str) -> schema.LockEviction:
        """Take a lock from all who hold it. Raises ClientError."""
        path = f"{schema.V2}/locks/{quote(name, safe='', errors='surrogateescape')}"
        return self._client.exchange("DELETE", path, None, schema.LockEviction)


class Renewal:
    """Renews a session in a thread, from now on until it is stopped. `sent` is when the last renewal that was answered
    was sent. `is_lost` once fleetd says that the lock is; `told` is called then."""

    def __init__(self, locks: Locks, held: Held, told: Callable[[], None]) -> None:
        self._locks = locks
        self._held = held
        self._told = told
        self._stopped = threading.Event()
        self.is_lost = False
        self.trouble = ""  # why the last renewal failed
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    @property
    def sent(self) -> float:
        """When the last renewal that was answered was sent."""
        return self._held.sent

    def stop(self) -> None:
        """Stop. A renewal that is under way is waited for."""
        self._stopped.set()
        self._thread.join()

    def _run(self) -> None:
        pause_s = self._held.ttl_s * RENEW_PART
        while not self._stopped.wait(pause_s):
            try:
                renewed = self._locks.renew(self._held)
            except ClientError as error:
                self.trouble, pause_s = str(error), min(RETRY_S, self._held.ttl_s / 12)
                continue
            if renewed is None:
                self.is_lost = True
                self._told()
                return
            self._held, pause_s = renewed, self._held.ttl_s * RENEW_PART


class _Interrupted(Exception):
    """The connection over which a lock was waited for has ended."""


def _path(session: str) -> str:
    return f"{schema.V2}/lock-sessions/{quote(session, safe='')}"


def _parse(line: bytes) -> schema.LockAnswer:
    with suppress(*UNREADABLE):
        return msgspec.json.decode(line, type=schema.LockAnswer)
    raise CommandFailed("the endpoint does not answer as fleet's API does: check --endpoint", FAILED_STATUS)


def _read_held(answer: schema.LockAnswer) -> Held:
    return Held(answer.session, answer.token, answer.ttl, 0.0)
