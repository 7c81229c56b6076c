"""Requests: a client that asks a web server a hundred times a second, and counts what it is answered."""

import asyncio
import time

from contrib.testbed.background import Background

PER_SECOND = 100
TIMEOUT_S = 10.0  # for an answer


class Requests(Background):
    """While entered, asks `address` at `port` at its pace, each time on a new connection, whether earlier requests were
    answered or not.

    `answered`: of each request that was answered with 200, when it was sent (seconds since the first) and the body of
    the answer; `failures`: of each other one, the same and what became of it. `longest_s`: how long one took at most;
    `began_s`: time.monotonic() of the first.
    """

    def __init__(self, address: str, port: int, per_second: int = PER_SECOND) -> None:
        super().__init__()
        self.answered: list[tuple[float, str]] = []
        self.failures: list[tuple[float, str]] = []
        self.longest_s = self.began_s = 0.0
        self._where = (address, port)
        self._pause_s = 1 / per_second

    @property
    def count(self) -> int:
        """How many requests have ended so far."""
        return len(self.answered) + len(self.failures)

    @property
    def answers(self) -> set[str]:
        """The different answers so far."""
        return {body for _, body in self.answered}

    def _run(self) -> None:
        asyncio.run(self._ask_all())

    async def _ask_all(self) -> None:
        self.began_s = due_s = time.monotonic()
        async with asyncio.TaskGroup() as group:
            while not self._ended.is_set():
                group.create_task(self._ask())
                due_s += self._pause_s
                await asyncio.sleep(max(due_s - time.monotonic(), 0))

    async def _ask(self) -> None:
        sent_s = time.monotonic()
        try:
            async with asyncio.timeout(TIMEOUT_S):
                status, body = await self._get()
        except (OSError, asyncio.IncompleteReadError, TimeoutError) as error:
            self.failures.append((sent_s - self.began_s, str(error) or type(error).__name__))
        else:
            if status.split()[1:2] == ["200"]:
                self.answered.append((sent_s - self.began_s, body))
            else:
                self.failures.append((sent_s - self.began_s, status or "no answer"))
        self.longest_s = max(self.longest_s, time.monotonic() - sent_s)

    async def _get(self) -> tuple[str, str]:
        """The first line of the answer, and its body."""
        reader, writer = await asyncio.open_connection(*self._where)
        try:
            writer.write(f"GET / HTTP/1.0\r\nHost: {self._where[0]}\r\n\r\n".encode())
            head, _, body = (await reader.read(-1)).decode().partition("\r\n\r\n")
            return head.partition("\r\n")[0], body.strip()
        finally:
            writer.close()
