"""Bounds on what one worker may ask of a server, so that one that misbehaves does not slow the others."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import msgspec

from fleetd.store.protocol import Unavailable

CONCURRENT_REQUESTS = 32
STREAMS = 8  # at once: one, and for a moment a second, would do
REQUESTS_PER_S, REQUESTS_AT_ONCE = 100.0, 300.0
BYTES_PER_S, BYTES_AT_ONCE = 4.0 * 2**20, 32.0 * 2**20  # asked and answered together


class Limits(msgspec.Struct, frozen=True):
    """Those of one worker."""

    requests: int = CONCURRENT_REQUESTS
    streams: int = STREAMS
    requests_per_s: float = REQUESTS_PER_S
    requests_at_once: float = REQUESTS_AT_ONCE
    bytes_per_s: float = BYTES_PER_S
    bytes_at_once: float = BYTES_AT_ONCE


class Allowance:
    """An amount that grows by `per_s` up to `most`, and is spent. What is spent in excess has to grow again first."""

    __slots__ = ("_amount", "_most", "_per_s", "_since_s")

    def __init__(self, per_s: float, most: float, now_s: float) -> None:
        self._per_s = per_s
        self._most = self._amount = most
        self._since_s = now_s

    def is_left(self, now_s: float) -> bool:
        """True if something may be spent."""
        self._amount = min(self._most, self._amount + self._per_s * (now_s - self._since_s))
        self._since_s = now_s
        return self._amount > 0

    def spend(self, amount: float) -> None:
        self._amount -= amount


class WorkerUse:
    """What one worker uses now."""

    def __init__(self, limits: Limits, now_s: float) -> None:
        self.limits = limits
        self.requests = 0
        self.streams = 0
        self._rate = Allowance(limits.requests_per_s, limits.requests_at_once, now_s)
        self._bytes = Allowance(limits.bytes_per_s, limits.bytes_at_once, now_s)

    def begin(self, size: int, now_s: float) -> None:
        """A request of so many bytes begins. Raises Unavailable over a limit."""
        if self.requests >= self.limits.requests:
            raise Unavailable(f"this worker waits for {self.requests} answers already, which is the limit")
        if not self._rate.is_left(now_s):
            raise Unavailable(f"this worker asks more than {self.limits.requests_per_s:g} times a second")
        if not self._bytes.is_left(now_s):
            raise Unavailable(f"this worker moves more than {self.limits.bytes_per_s:g} bytes a second")
        self.requests += 1
        self._rate.spend(1)
        self._bytes.spend(size)

    def spend_bytes(self, size: int) -> None:
        """So many bytes are answered."""
        self._bytes.spend(size)

    def check_streams(self) -> None:
        """Raises Unavailable if the worker may not read one more stream."""
        if self.streams >= self.limits.streams:
            raise Unavailable(f"this worker has {self.streams} streams of watches open already, which is the limit")

    @contextmanager
    def stream(self) -> Iterator[None]:
        """Within the `with` block the worker reads one more stream. Raises Unavailable over the limit."""
        self.check_streams()
        self.streams += 1
        try:
            yield
        finally:
            self.streams -= 1


class WorkerLimits:
    """What all workers use now, by machine. `now` is a monotonic clock."""

    def __init__(self, now: Callable[[], float], limits: Limits | None = None) -> None:
        self._now = now
        self._limits = limits or Limits()
        self._uses: dict[str, WorkerUse] = {}

    def of(self, machine: str) -> WorkerUse:
        """What this worker uses."""
        if machine not in self._uses:
            self._uses[machine] = WorkerUse(self._limits, self._now())
        return self._uses[machine]

    @contextmanager
    def request(self, machine: str, size: int) -> Iterator[WorkerUse]:
        """Within the `with` block a request of so many bytes is answered. Raises Unavailable over a limit."""
        use = self.of(machine)
        use.begin(size, self._now())
        try:
            yield use
        finally:
            use.requests -= 1

    @property
    def streaming(self) -> int:
        """The number of workers that read a stream."""
        return sum(1 for use in self._uses.values() if use.streams)
