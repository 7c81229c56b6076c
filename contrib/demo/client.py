"""A client that sends requests to a group of web servers all the time, and counts those that fail."""

import http.client
import time
import urllib.request
from collections.abc import Sequence

from contrib.testbed.background import Background

TIMEOUT_S = 2.0  # for one server's answer
PAUSE_S = 0.02  # between two requests


class Client(Background):
    """While entered, asks the servers in turn, as a load balancer does: where one has no answer, the next one is asked.
    A request fails if no server answers.

    `requests`: how many were sent. `retried`: how many of them the first server did not answer. `failures`: for each
    that failed, what became of it at each server.
    """

    def __init__(self, urls: Sequence[str]) -> None:
        super().__init__()
        self.requests = 0
        self.retried = 0
        self.failures: list[str] = []
        self._urls = list(urls)

    @property
    def count(self) -> str:
        """The requests so far, as words."""
        return (
            f"{self.requests} requests so far, {len(self.failures)} failed "
            f"({self.retried} went to the next server, since one did not answer)"
        )

    def _run(self) -> None:
        while not self._ended.is_set():
            self._ask()
            time.sleep(PAUSE_S)

    def _ask(self) -> None:
        """Send one request."""
        self._urls.append(self._urls.pop(0))
        errors = []
        for url in self._urls:
            error = _fetch(url)
            if not error:
                break
            errors.append(f"{url}: {error}")
        else:
            self.failures.append("; ".join(errors))
        self.requests += 1
        self.retried += 0 < len(errors) < len(self._urls)


def _fetch(url: str) -> str:
    """Why the server has no page to give, '' if it has one."""
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_S) as response:
            response.read()
    except (OSError, http.client.HTTPException) as error:
        return str(error) or type(error).__name__
    return ""
