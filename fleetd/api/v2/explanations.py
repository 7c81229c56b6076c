"""Explanations: why a unit is where it is, and on no other machine. The member that is asked computes it, from one read
of everything, in a thread; nothing is written."""

from fleetd.aio import Offload
from fleetd.api import schema
from fleetd.api.http import ApiError, Request, Response, render_json
from fleetd.registry.registry import Registry
from fleetd.registry.snapshots import make_snapshot
from fleetd.store.protocol import RangeResult


class Explanations:
    """The resource."""

    def __init__(self, registry: Registry, offload: Offload) -> None:
        self._registry = registry
        self._offload = offload
        self._is_busy = False

    async def get(self, _: Request, name: str) -> Response:
        """Explain why a unit is on its machine, and on no other: all rules that keep it from each. One explanation at a
        time is made by each fleetd."""
        if self._is_busy:
            raise ApiError(503, "this fleetd is making another explanation: try again, or ask another machine's fleetd")
        self._is_busy = True
        try:
            found = await self._registry.everything()
            return render_json(await self._offload(lambda: _explain(self._registry, found, name)))
        finally:
            self._is_busy = False


def _explain(registry: Registry, found: RangeResult, name: str) -> schema.Explanation:
    from fleetd.api.v2.explain_reports import describe_explanation  # most daemons are never asked

    return describe_explanation(make_snapshot(registry, found.items), name, found.revision)
