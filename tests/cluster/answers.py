"""Which of several web servers answer, asked all the time."""

import http.client
import threading
import time
import urllib.request
from collections.abc import Sequence
from types import TracebackType
from typing import Self

TIMEOUT_S = 3.0
PAUSE_S = 0.1


class Answers:
    """While entered, asks each server again and again, each for itself.

    `outages`: server → from when to when it did not answer (time.monotonic), the last one perhaps without an end.
    """

    def __init__(self, urls: Sequence[str]) -> None:
        self.outages: dict[str, list[tuple[float, float]]] = {url: [] for url in urls}
        self._ended = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(url,)) for url in urls]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join()

    @property
    def most_at_once(self) -> int:
        """How many servers did not answer at the same moment, at most."""
        found = [outage for outages in self.outages.values() for outage in outages]
        return max((sum(began <= moment < ended for began, ended in found) for moment, _ in found), default=0)

    def _run(self, url: str) -> None:
        outages = self.outages[url]
        since: float | None = None
        while not self._ended.is_set():
            began = time.monotonic()
            answers = _answers(url)
            if answers and since is not None:
                outages[-1] = (since, began)
                since = None
            elif not answers and since is None:
                since = began
                outages.append((since, float("inf")))
            self._ended.wait(PAUSE_S)


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_S) as response:
            response.read()
    except (OSError, http.client.HTTPException):
        return False
    return True
