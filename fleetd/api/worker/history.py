"""Whether what a server sees of the store is older than what a worker has seen.

A store that was restored has a lower revision, and so has one that lags. A worker must learn of the first and hear
nothing of the second, so each of its requests says what it knows. The history is the epoch's name of
membership/store_epoch.py; only servers write it.
"""

from fleetd.api.worker.errors import Lagging
from fleetd.registry.registry import Registry
from fleetd.store.worker_wire import Request, history_mark


class StoreHistory:
    """The mark of the store's history and its highest revision, as far as this server knows. Reads the store only when
    a worker knows something else."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._mark = ""
        self._known = 0

    def forget(self) -> None:
        """The history has changed: read it again."""
        self._mark = ""

    async def check_before(self, request: Request) -> None:
        """Raises Lagging, before anything is written, if the store is behind what the worker knows."""
        if self._known < request.highest_revision:
            await self.judge(request, await self._registry.store.revision())

    async def judge(self, request: Request, revision: int) -> str:
        """The mark of the history, for an answer as of this revision. Raises Lagging if the answer must not be given:
        the worker knows a later revision of the same history."""
        is_behind = revision < request.highest_revision
        if is_behind or not self._mark or request.history not in ("", self._mark):
            self._mark = await self._read()
        self._known = revision if is_behind else max(self._known, revision)
        if is_behind and request.history == self._mark:
            raise Lagging(
                f"the store is at revision {revision} for this server, and was at {request.highest_revision} already: "
                "ask another server"
            )
        return self._mark

    async def _read(self) -> str:
        store = self._registry.store
        cluster_id = await store.cluster_id()
        item = await store.get(self._registry.history_key)
        return history_mark(f"{cluster_id}/{item.value.decode('utf-8', 'replace')}" if item else cluster_id)
