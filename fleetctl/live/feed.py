"""Reads what the live view shows, in threads of its own, so that keys are answered while fleetd is slow."""

import threading
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import quote, urlencode

import msgspec

from fleetctl.client import ApiError, Client, NotFleet
from fleetctl.errors import ClientError
from fleetctl.live.detail import Detail, Entry, Explanation
from fleetctl.live.state import Lists
from fleetd.model.decoding import UNREADABLE

PAUSE_S = 2.0  # between two reads of the lists
SHARE = 4  # a pause is at least so many times as long as the read took: a large cluster is not asked all the time
LOG_LINES = 50


def read_lists(client: Client) -> Lists:
    """The machines and units. Raises ClientError."""
    return Lists({machine.id: machine for machine in client.machines()}, client.every_report())


class Feed:
    """Reads the lists again and again until it is stopped, and keeps the last ones."""

    def __init__(self, client: Client, first: Lists, pause_s: float = PAUSE_S) -> None:
        self._client = client
        self._pause_s = pause_s
        self._lock = threading.Lock()
        self._news: Lists | None = first
        self._failure = ""
        self._is_stopped = False
        self._wake = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        """Begin to read."""
        self._thread.start()

    def stop(self) -> None:
        """Read no more. An answer that is still to come is dropped."""
        self._is_stopped = True
        self._wake.set()

    def hurry(self) -> None:
        """Read at once."""
        self._wake.set()

    def take(self) -> Lists | None:
        """The lists, if they were read since the last call."""
        with self._lock:
            news, self._news = self._news, None
            return news

    @property
    def failure(self) -> str:
        """Why the last read has failed; '' if it has not."""
        return self._failure

    def _run(self) -> None:
        pause_s = self._pause_s
        while True:
            self._wake.wait(pause_s)
            self._wake.clear()
            if self._is_stopped:
                return
            began_s = time.monotonic()
            try:
                found = read_lists(self._client)
            except ClientError as error:
                self._failure = str(error)
            else:
                self._failure = ""
                with self._lock:
                    self._news = found
            pause_s = max(self._pause_s, SHARE * (time.monotonic() - began_s))


class DetailReader:
    """Reads about one unit at a time, over a connection that is opened when the first one is asked for."""

    def __init__(self, connect: Callable[[], Client]) -> None:
        self._connect = connect
        self._client: Client | None = None
        self._lock = threading.Lock()

    def read(self, unit: str) -> Detail:
        """What fleetd says of the unit."""
        with self._lock:
            self._client = self._client or self._connect()
            explanation, no_explanation = _read_explanation(self._client, unit)
            log, no_log = _read_log(self._client, unit)
        return Detail(explanation, no_explanation, log, no_log)


def _read_explanation(client: Client, unit: str) -> tuple[Explanation | None, str]:
    try:
        answer = client.read_insight(f"explain/{quote(unit, safe='')}")
        return msgspec.json.decode(answer, type=Explanation), ""
    except UNREADABLE:
        return None, "fleetd's explanation is unreadable"
    except ClientError as error:
        return None, "this fleetd, an older one, explains no more than that" if _is_absent(error, unit) else str(error)


def _read_log(client: Client, unit: str) -> tuple[tuple[Entry, ...], str]:
    try:
        answer = client.read_insight(f"journal?{urlencode([('unit', unit), ('lines', LOG_LINES)])}")
        return tuple(msgspec.json.decode(line, type=dict[str, Any]) for line in answer.splitlines()), ""
    except UNREADABLE:
        return (), "fleetd's answer about the log is unreadable"
    except ClientError as error:
        by_ssh = f"this fleetd, an older one, shows no logs; by SSH: fleetctl journal {unit}"
        return (), by_ssh if _is_absent(error, unit) else str(error)


def _is_absent(error: ClientError, unit: str) -> bool:
    """True if fleetd does not know the request. If it does not know the unit, it names that."""
    return isinstance(error, ApiError | NotFleet) and error.code in (404, 405) and unit not in str(error)
