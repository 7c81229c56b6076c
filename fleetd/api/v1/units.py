"""Units in version 1: list them, show one, set one (create, replace, start, stop), destroy one (reference 4.4)."""

from collections.abc import Callable, Mapping
from functools import lru_cache

from fleetd.api import schema
from fleetd.api.http import ApiError, Request, Response, render_json
from fleetd.api.operations import NOT_FOUND, UnitBody, UnitOperation, make_wish, parse_put, plan_change
from fleetd.api.pagination import parse_page, read_page
from fleetd.api.quota import Quota
from fleetd.api.write_batching import Writes
from fleetd.model.names import InvalidName, validate_name
from fleetd.model.placement import Decision
from fleetd.model.unit import TargetState, Unit, UnitState
from fleetd.model.unitfile import UnitFileError, parse_unit_file
from fleetd.registry.records import DECISIONS, STATES, UNITS
from fleetd.registry.registry import Registry
from fleetd.scheduler.snapshot import requirements_of
from fleetd.store.protocol import Conflict

_ATTEMPTS = 5  # at a write that others keep overtaking
_CACHED_TEXTS = 4096


@lru_cache(maxsize=_CACHED_TEXTS)
def _entity_options(text: str) -> tuple[schema.UnitOption, ...]:
    """The options of a stored unit file, remembered: the same texts are asked for again and again."""
    try:
        options = parse_unit_file(text)
    except UnitFileError:  # written by something else than fleet: it hides no other unit, and can be replaced
        return ()
    return tuple(schema.UnitOption(option.section, option.name, option.value) for option in options)


def current_state(state: UnitState | None) -> TargetState:
    """What a unit has come to, from what its machine reports of it (None: nothing, or it has no machine)."""
    return state.target if state else TargetState.INACTIVE


def describe_unit(unit: Unit, decision: Decision | None, states: Mapping[tuple[str, str], UnitState]) -> schema.Unit:
    """The unit as version 1 shows it. A global one has no machine, and no current state of its own."""
    machine = decision.machine if decision and not requirements_of(unit.text, unit.name).is_global else ""
    return schema.Unit(
        name=unit.name,
        options=_entity_options(unit.text),
        desired_state=unit.target,
        current_state=current_state(states.get((machine, unit.name))),
        machine_id=machine,
    )


class Units:
    """The resource. `shadows` says which unit of the machine's own a name would hide ('': none)."""

    def __init__(self, registry: Registry, token_limit: int, shadows: Callable[[str], str], quota: Quota) -> None:
        self._registry = registry
        self.quota = quota
        self._writes = Writes(registry)
        self._token_limit = token_limit
        self._shadows = shadows

    async def get_all(self, request: Request, _: str) -> Response:
        """One page of units, by name."""
        page = parse_page(request, self._token_limit)
        units, token = await read_page(self._registry, UNITS, page)
        decisions = await self._registry.get_many(DECISIONS, [(name,) for name in units])
        homes = [(decision.machine, *names) for names, decision in decisions.items() if decision.machine]
        states = await self._registry.get_many(STATES, homes)
        entities = tuple(describe_unit(unit, decisions.get((name,)), states) for name, unit in units.items())
        return render_json(schema.UnitPage(entities, token))

    async def get(self, request: Request, name: str) -> Response:
        """One unit."""
        unit, decision = await self._read(name)
        machine = decision.machine if decision else ""
        states = await self._registry.get_many(STATES, [(machine, name)] if machine else [])
        return render_json(describe_unit(unit, decision, states))

    async def put(self, request: Request, name: str) -> Response:
        """Create or replace a unit, or change its target state."""
        operation = parse_put(request, name)
        if operation.options and await self._create(operation):
            return Response(201)
        return Response(await self.carry_out(operation))

    async def delete(self, _: Request, name: str) -> Response:
        """Destroy a unit."""
        return Response(await self.carry_out(make_wish(name, UnitBody(), destroy=True)))

    async def carry_out(self, operation: UnitOperation) -> int:
        """Do what is wished of one unit, against what is there; the HTTP status. Raises ApiError."""
        for _ in range(_ATTEMPTS):
            before, _decision = await self._registry.unit_and_decision(operation.name)
            change = plan_change(operation, before, self._shadows)
            if change.after is before:
                return change.status
            try:
                async with self.quota.room_for(before, change.after):
                    await self._writes.write(self._registry.unit_write_set(operation.name, before, change.after))
            except Conflict:
                continue
            return change.status
        raise ApiError(409, f'unit "{operation.name}" is being changed by others at the same time: try again')

    async def _create(self, operation: UnitOperation) -> bool:
        """Write a unit as a new one, which most are that come with their file: one request to the store, not two.
        False where it is not new, or where something is wrong with it, which is told against what is there."""
        try:
            change = plan_change(operation, None, self._shadows)
            async with self.quota.room_for(None, change.after):
                await self._writes.write(self._registry.unit_write_set(operation.name, None, change.after))
        except (ApiError, Conflict):
            return False
        return True

    async def _read(self, name: str) -> tuple[Unit, Decision | None]:
        try:
            validate_name(name)
        except InvalidName as error:
            raise ApiError(404, NOT_FOUND) from error
        unit, decision = await self._registry.unit_and_decision(name)
        if unit is None:
            raise ApiError(404, NOT_FOUND)
        return unit, decision
