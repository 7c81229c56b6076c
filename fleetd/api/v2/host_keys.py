"""The SSH host keys that machines publish, by which fleetctl knows them."""

from fleetd.api import schema
from fleetd.api.http import Request, Response, render_json
from fleetd.registry.records import MACHINES
from fleetd.registry.registry import Registry


class HostKeys:
    """The resource."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    async def get_all(self, request: Request, _: str) -> Response:
        """Show the public host keys that these machines publish of their SSH servers (all machines where none is
        named). Machines that publish none, or are absent, are left out."""
        wanted = sorted(set(request.query_values("machine")))
        found = await (
            self._registry.get_many(MACHINES, [(id_,) for id_ in wanted]) if wanted else self._registry.read(MACHINES)
        )
        keys = tuple(schema.HostKeys(id_, found[id_,].host_keys) for (id_,) in sorted(found) if found[id_,].host_keys)
        return render_json(schema.MachineHostKeys(keys))
