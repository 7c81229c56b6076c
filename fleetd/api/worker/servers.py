"""The servers of the cluster, which workers are told of: those that they joined with are replaced some day."""

import math
from collections.abc import Callable

from fleetd.model.machine import https_url
from fleetd.registry.registry import Registry
from fleetd.store.protocol import Unavailable

KEPT_S = 300.0  # workers ask every ten minutes, and all machines are read for it


class KnownServers:
    """The https URLs of the machines that serve workers, as read lately. `now` is a monotonic clock."""

    def __init__(self, registry: Registry, now: Callable[[], float]) -> None:
        self._registry = registry
        self._now = now
        self._read_s = -math.inf
        self._urls: tuple[str, ...] = ()

    async def urls(self) -> tuple[str, ...]:
        """The URLs, in order. Raises Unavailable."""
        if self._now() - self._read_s > KEPT_S:
            self._read_s = self._now()  # who asks meanwhile is told what is known
            try:
                machines = await self._registry.machines()
            except Unavailable:
                self._read_s = -math.inf
                raise
            self._urls = tuple(sorted(url for machine in machines.values() if (url := https_url(machine))))
        return self._urls
