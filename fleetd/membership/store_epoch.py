"""Which history of the store this is: a name that changes when the store is restored from a snapshot.

Its revision alone does not tell: a machine that was cut off or off meanwhile comes back to a store that may have been
written to more often than the one it knew. So the first that does see the revision fall, agent or leader, names the
history that begins. A name goes on from that of the history before, entry by entry, so that one that is older than the
name that is known tells that the store was set back to before that. What a restore means for the units here is
reconciler/plan.py's matter.
"""

import asyncio
from contextlib import suppress

from fleetd.registry.registry import Registry
from fleetd.store.protocol import Conflict, Put, Unavailable, Unchanged

RETRY_S = 1.0
MOST_ENTRIES = 20


def is_same_cluster(one: str, other: str) -> bool:
    """Whether these name histories of one cluster."""
    return one.partition("/")[0] == other.partition("/")[0]


def _entries(name: str) -> list[str]:
    """What the name of a history is made of, a restore each."""
    return [entry for entry in name.partition("/")[2].split(";") if entry]


def _is_older(name: str, known: str) -> bool:
    """Whether this names a history that went before the known one, of the same cluster."""
    before, entries = _entries(known), _entries(name)
    return is_same_cluster(name, known) and name != known and (not entries or entries[-1] in before)


class StoreEpoch:
    """The history that this machine works for. `known` is its name as it was read last, by an earlier fleetd perhaps;
    '' where none was."""

    def __init__(self, registry: Registry, machine_id: str, known: str) -> None:
        self._store = registry.store
        self.key = registry.key("history")
        self._machine_id = machine_id
        self._known = known

    async def read(self, highest: int, revision: int) -> str:
        """Its name, after the store was read at this revision and had been at `highest` before. Raises Unavailable."""
        name, written_at = await self._read()
        # Any other name was given by somebody who saw it before, or is another cluster's.
        if (revision < highest and name == self._known) or _is_older(name, self._known):
            own = f"{self._machine_id}-{highest}-{revision}-{len(_entries(self._known))}"
            value = ";".join([*_entries(name), own][-MOST_ENTRIES:])
            with suppress(Conflict):
                await self._store.transact([Unchanged(self.key, written_at)], [Put(self.key, value.encode())])
            name, _ = await self._read()
        self._known = name
        return name

    async def tell_of_fall(self, highest: int, revision: int) -> None:
        """Have every machine know that the store was set back from `highest` to `revision`, as soon as it answers: one
        whose next heartbeat comes late sees no fall any more, and would not write again what it wrote and was lost."""
        while True:
            try:
                await self.read(highest, revision)
                return
            except Unavailable:
                await asyncio.sleep(RETRY_S)

    async def _read(self) -> tuple[str, int]:
        """The name, and the revision at which the part of it that restores change was written; 0: never."""
        cluster_id = await self._store.cluster_id()
        item = await self._store.get(self.key)
        if item is None:
            return cluster_id, 0
        return f"{cluster_id}/{item.value.decode('utf-8', 'replace')}", item.mod_revision
