"""The cordon of a machine: it takes no new units but global ones, and keeps those that it has."""

from collections.abc import Callable

from msgspec.structs import replace

from fleetd.api import schema
from fleetd.api.audit import asked_machine
from fleetd.api.capabilities import check_capability
from fleetd.api.http import ApiError, Request, Response, parse_json
from fleetd.model.event import ClusterEvent
from fleetd.model.machine import Capability, Cordon, Machine, MachineSettings
from fleetd.registry.registry import Reader, Registry

MAX_WHY = 200  # characters: it is part of the reasons of units


class Cordons:
    """The resource. `unix_now` is the wall clock."""

    def __init__(self, registry: Registry, unix_now: Callable[[], float]) -> None:
        self._registry = registry
        self._unix_now = unix_now

    async def put(self, request: Request, id_: str) -> Response:
        """Cordon a machine: it takes no new units but global ones."""
        why = parse_json(request.body, schema.CordonRequest).why
        check_why(why)
        cordon = Cordon(why, request.user, self._unix_now())

        def change(settings: MachineSettings, machine: Machine | None) -> MachineSettings:
            if machine is None:
                raise ApiError(
                    409, "the machine is absent: cordon it when it is back (fleetctl list-machines shows it)"
                )
            is_known = settings.cordon is not None and why in ("", settings.cordon.why)
            return settings if is_known else replace(settings, cordon=cordon)

        await refuse_unknown(self._registry, id_)
        await check_capability(self._registry, Capability.CORDON)
        return await self._change(id_, change, asked_machine(request.user, "cordon", id_, why))

    async def delete(self, request: Request, id_: str) -> Response:
        """Let a machine, present or absent, take new units again. That ends its drain, too."""
        await refuse_unknown(self._registry, id_)
        asked = asked_machine(request.user, "uncordon", id_)
        return await self._change(id_, lambda settings, _: replace(settings, cordon=None, drain=None), asked)

    async def _change(
        self, id_: str, change: Callable[[MachineSettings, Machine | None], MachineSettings], asked: ClusterEvent
    ) -> Response:
        await self._registry.change_settings(id_, change, asked)
        return Response(204)


def check_why(why: str) -> None:
    """Raises ApiError unless this is a reason for people that fits on one line."""
    if len(why) > MAX_WHY or not why.isprintable():
        raise ApiError(400, f"why has to be one line of at most {MAX_WHY} printable characters")


async def refuse_unknown(reader: Reader, id_: str) -> None:
    """Raises ApiError unless the machine is or was in the cluster."""
    if not await reader.known_machines([id_]):
        raise ApiError(404, "unknown machine: give the full id of one that is or was in the cluster")
