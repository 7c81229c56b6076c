"""Reads what the live view shows, in threads of its own, so that keys are answered while fleetd is slow."""

import threading
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import quote, urlencode

import msgspec

from fleetctl.client import ApiError, Client, NotFleet
from fleetctl.errors import ClientError
from fleetctl.event_stream import follow
from fleetctl.live.changes import Happening, happening_of
from fleetctl.live.detail import Detail, Entry
from fleetctl.live.rows import announced_by
from fleetctl.live.state import MOST_EVENTS, Lists
from fleetd.api import schema
from fleetd.api.event_schema import BEGIN, GAP
from fleetd.model.decoding import UNREADABLE

PAUSE_S = 2.0  # between two reads of the lists
RARE_S = 30.0  # between two reads while events come and nothing happens
LEAST_S = 0.25  # between two reads while much happens
PAST_S = 3600.0  # of the events that are shown at first
SHARE = 4  # a pause is at least so many times as long as the read took: a large cluster is not asked all the time
LOG_LINES = 50
ANNOUNCED_WAIT_S = 60  # for a change of what units announce, in one request
ANNOUNCED_PAUSE_S = 1.0  # between two reads of that


def read_lists(client: Client) -> Lists:
    """The machines and units. Raises ClientError."""
    return Lists({machine.id: machine for machine in client.machines()}, client.every_report())


class Feed:
    """Reads the lists again and again until it is stopped, and follows the events: after each the lists are read, else
    seldom. Where fleetd tells no events, the lists are read each `pause_s`. What units announce no event tells: a
    `patient` client, if there is one, waits for the next change of that."""

    def __init__(
        self, client: Client, first: Lists, pause_s: float = PAUSE_S, patient: Callable[[], Client] | None = None
    ) -> None:
        self.failure = ""  # why the last read has failed; '' if it has not
        self.tells = False  # whether events come
        self.silence = ""  # why fleetd tells no events; '' if it does
        self._client = client
        self._patient = patient
        self._pause_s = pause_s
        self._last = first
        self._announced = first.announced
        self._lock = threading.Lock()
        self._news: Lists | None = first
        self._happenings: list[Happening] = []
        self._has_missed = False
        self._is_stopped = threading.Event()
        self._wake = threading.Event()
        self._threads = [
            threading.Thread(target=each, daemon=True) for each in (self._read, self._follow, self._listen)
        ]

    def start(self) -> None:
        """Begin to read."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Read no more. An answer that is still to come is dropped."""
        self._is_stopped.set()
        self._wake.set()

    def hurry(self) -> None:
        """Read at once."""
        self._wake.set()

    def take(self) -> Lists | None:
        """The lists, if they were read since the last call."""
        with self._lock:
            news, self._news = self._news, None
            return news

    def take_happenings(self) -> list[Happening]:
        """The events since the last call."""
        with self._lock:
            told, self._happenings = self._happenings, []
            return told

    def _read(self) -> None:
        while True:
            self._wake.wait(RARE_S if self.tells else self._pause_s)
            self._wake.clear()
            if self._is_stopped.is_set():
                return
            began_s = time.monotonic()
            try:
                found = read_lists(self._client)
            except ClientError as error:
                self.failure = str(error)
            else:
                self.failure = ""
                with self._lock:
                    self._show(found)
            if self._is_stopped.wait(
                max(LEAST_S, SHARE * (time.monotonic() - began_s))
            ):  # a burst of events is one read
                return

    def _show(self, found: Lists) -> None:
        self._last = self._news = msgspec.structs.replace(found, announced=self._announced)

    def _listen(self) -> None:
        """Follow what units announce. Of a fleetd that does not know it, an older one, nothing is shown."""
        if self._patient is None:
            return
        client, index = self._patient(), 0
        while not self._is_stopped.is_set():
            try:
                found = client.services(index=index, wait_s=ANNOUNCED_WAIT_S if index else 0)
            except ClientError as error:
                if not error.may_pass:
                    return
                index = 0
                self._is_stopped.wait(self._pause_s)
                continue
            index, announced = found.index, announced_by(found.services)
            with self._lock:
                if announced != self._announced:
                    self._announced = announced
                    self._show(self._last)
            self._is_stopped.wait(ANNOUNCED_PAUSE_S)

    def _follow(self) -> None:
        query = [("since", str(int(time.time() - PAST_S)))]
        while not self._is_stopped.is_set():
            try:
                for event in follow(self._client, query):
                    if self._is_stopped.is_set():
                        return
                    self._hear(event)
            except ClientError as error:
                self.tells, self.silence = False, str(error)
                if not error.may_pass:
                    if isinstance(error, ApiError | NotFleet) and error.code in (404, 405):
                        self.silence = "this fleetd, an older one, tells no events"
                    return
            query, self._has_missed = [], True
            self._is_stopped.wait(self._pause_s)

    def _hear(self, event: schema.Event) -> None:
        self.tells, self.silence = True, ""
        if event.kind == BEGIN:
            event = schema.Event(GAP, detail="what happened meanwhile is not told") if self._has_missed else event
            self._has_missed = False
        if event.kind != BEGIN:
            with self._lock:
                self._happenings.append(happening_of(event, time.time()))
                del self._happenings[:-MOST_EVENTS]
        self._wake.set()


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


def _read_explanation(client: Client, unit: str) -> tuple[schema.Explanation | None, str]:
    try:
        answer = client.read_insight(f"explain/{quote(unit, safe='')}")
        return msgspec.json.decode(answer, type=schema.Explanation), ""
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
