"""Which worker each lease was granted to.

The key `leases/<id>`, on the lease itself, names the machine, so that every server knows. The lease that the key of a
machine is on is its own, too: a machine that has become a worker has registered without a server.
"""

from collections import Counter
from collections.abc import Callable

from fleetd.model.timespan import LONGEST_S
from fleetd.registry.records import MACHINES
from fleetd.registry.registry import Registry
from fleetd.store.protocol import LeaseNotFound, Put, Unavailable

MAX_LEASES = 16  # of one worker, that one server has granted and that have not ended
MAX_REMEMBERED = 65536


class LeaseOwners:
    """Grants leases to workers, and remembers whose each is: that never changes. `now` is a monotonic clock."""

    def __init__(self, registry: Registry, now: Callable[[], float]) -> None:
        self._registry = registry
        self._store = registry.store
        self._now = now
        self._owners: dict[int, str] = {}
        self._ends: dict[str, dict[int, float]] = {}  # of leases granted here, by machine
        self._coming: Counter[str] = Counter()  # leases that are being granted, by machine

    async def grant(self, machine: str, ttl_s: float) -> int:
        """A new lease for this machine. Raises ValueError for no time span, Unavailable for too many leases."""
        if not 0 < ttl_s <= LONGEST_S:
            raise ValueError(f"a lease of {ttl_s} s: at most {LONGEST_S:g} s are allowed")
        ends = self._ends.setdefault(machine, {})
        for lease in [lease for lease, end_s in ends.items() if end_s <= self._now()]:
            del ends[lease]
        count = len(ends) + self._coming[machine]
        if count >= MAX_LEASES:
            raise Unavailable(f"this worker has {count} leases already, which is the limit")
        self._coming[machine] += 1
        try:
            lease = await self._store.grant(ttl_s)
        finally:
            self._coming[machine] -= 1
        ends[lease] = self._now() + ttl_s
        self._remember(lease, machine)
        await self._store.transact([], [Put(self._registry.lease_key(lease), machine.encode(), lease)])
        return lease

    async def check(self, machine: str, lease: int) -> None:
        """Raises LeaseNotFound unless the lease is this machine's: of the leases of others it learns nothing."""
        if not await self._is_of(machine, lease):
            raise LeaseNotFound(f"lease {lease} has expired, was revoked, or is not this machine's")

    def note_beat(self, machine: str, lease: int, ttl_s: float) -> None:
        """The lease lives on for so long."""
        ends = self._ends.get(machine, {})
        if lease in ends:
            ends[lease] = self._now() + ttl_s

    def note_end(self, machine: str, lease: int) -> None:
        """The lease was revoked."""
        self._ends.get(machine, {}).pop(lease, None)

    async def _is_of(self, machine: str, lease: int) -> bool:
        if not lease:
            return False
        if lease not in self._owners:
            keys = [self._registry.lease_key(lease), self._registry.key(MACHINES, machine)]
            found = {item.key: item for item in (await self._store.get_many(keys)).items}
            named, registered = found.get(keys[0]), found.get(keys[1])
            if named is not None:
                self._remember(lease, named.value.decode("utf-8", "replace"))
            elif registered is not None and registered.lease == lease:
                self._remember(lease, machine)
        return self._owners.get(lease) == machine

    def _remember(self, lease: int, machine: str) -> None:
        if len(self._owners) >= MAX_REMEMBERED:
            del self._owners[next(iter(self._owners))]
        self._owners[lease] = machine
