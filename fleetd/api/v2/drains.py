"""The drain of a machine: its units move to others, as the disruption budget allows."""

from collections.abc import Callable, Sequence

from msgspec.structs import replace

from fleetd.api import schema
from fleetd.api.audit import asked_machine
from fleetd.api.capabilities import check_capability
from fleetd.api.http import ApiError, Request, Response, parse_json, render_json
from fleetd.api.v2.cordons import check_why, refuse_unknown
from fleetd.api.v2.drain_reports import HOLDS, DrainData, describe_progress, units_there
from fleetd.model.machine import Capability, Cordon, DrainRequest, Machine, MachineMode, MachineSettings
from fleetd.model.timespan import LONGEST_S
from fleetd.registry.records import DECISIONS, MACHINES, PLACEMENTS, REBOOTS, SETTINGS, STATES
from fleetd.registry.registry import Registry
from fleetd.scheduler.effective_machine import drain_of

_REFUSALS = {
    None: "the machine is absent: drain it when it is back, or wait until its units are started elsewhere",
    MachineMode.LEAVING: HOLDS[MachineMode.LEAVING],
    MachineMode.PARKED: "the machine is parked: start its fleetd again (systemctl start fleet), or give it up "
    "(fleetctl forget-machine)",
}


def refuse_held(machine: Machine | None) -> None:
    """Raises ApiError if the machine is absent (None), leaving or parked."""
    if machine is None or machine.mode is not MachineMode.READY:
        raise ApiError(409, _REFUSALS[machine.mode if machine else None])


class Drains:
    """The resource. `unix_now` is the wall clock."""

    def __init__(self, registry: Registry, unix_now: Callable[[], float]) -> None:
        self._registry = registry
        self._unix_now = unix_now

    async def put(self, request: Request, id_: str) -> Response:
        """Drain a machine: cordon it, and move its units to other machines."""
        asked = parse_json(request.body, schema.DrainRequest)
        check_why(asked.why)
        if not 0 <= asked.deadline <= LONGEST_S:
            raise ApiError(400, "deadline has to be a number of seconds from now, at most ten years; 0 for none")
        now = self._unix_now()
        deadline = now + asked.deadline if asked.deadline else 0.0
        drain = DrainRequest(request.user, now, deadline, asked.with_globals, asked.force)
        cordon = Cordon(asked.why, request.user, now)

        def change(settings: MachineSettings, machine: Machine | None) -> MachineSettings:
            refuse_held(machine)
            before = settings.drain
            is_known = before is not None and replace(drain, by=before.by, at=before.at) == before
            return replace(settings, cordon=settings.cordon or cordon, drain=before if is_known else drain)

        await refuse_unknown(self._registry, id_)
        await check_capability(self._registry, Capability.CORDON)
        await self._registry.change_settings(id_, change, asked_machine(request.user, "drain", id_, asked.why))
        return Response(204)

    async def delete(self, request: Request, id_: str) -> Response:
        """End the drain of a machine, present or absent: its units stay. It stays cordoned."""
        await refuse_unknown(self._registry, id_)
        event = asked_machine(request.user, "end-drain", id_)
        await self._registry.change_settings(id_, lambda settings, _: replace(settings, drain=None), event)
        return Response(204)

    async def get(self, request: Request, id_: str) -> Response:
        """Report how far the drain of a machine has got: each unit on it, and what became of those that the query names
        after they left."""
        data, asked = await self._read(id_, request.query_values("unit"))
        return render_json(describe_progress(data, asked))

    async def _read(self, id_: str, units: Sequence[str]) -> tuple[DrainData, list[str]]:
        """The records of the machine, and of these units where they are, all at one revision. Raises ApiError."""
        reader = self._registry.at_one_revision()
        await refuse_unknown(reader, id_)
        settings = (await reader.get_many(SETTINGS, [(id_,)])).get((id_,))
        reboot = (await reader.get_many(REBOOTS, [(id_,)])).get((id_,))
        placements, states = await reader.placements(id_), await reader.states(id_)
        asked = [name for name in dict.fromkeys(units) if name and "/" not in name]
        names = sorted({*units_there(id_, placements, states), *asked})
        found = await reader.get_many(DECISIONS, [(name,) for name in names])
        decisions = {key[0]: decision for key, decision in found.items()}
        elsewhere = [(decisions[name].machine, name) for name in asked if name in decisions and decisions[name].machine]
        placements |= await reader.get_many(PLACEMENTS, elsewhere)
        states |= await reader.get_many(STATES, elsewhere)
        ids = {id_, *(each for decision in decisions.values() for each in (decision.machine, decision.target) if each)}
        registered = await reader.get_many(MACHINES, [(each,) for each in sorted(ids)])
        machines = {key[0]: record for key, record in registered.items()}
        drain = drain_of(settings, reboot)
        return DrainData(id_, drain, machines, decisions, placements, states, self._unix_now()), asked
