"""Units in version 1: list, get, put (create, replace, start, stop), delete."""

from collections.abc import Callable, Mapping
from functools import lru_cache

from fleetd.api import schema
from fleetd.api.audit import Audit, asked_unit
from fleetd.api.capabilities import check_capability, needed_capability, refuse_short_isolation
from fleetd.api.http import ApiError, Request, Response, render_json
from fleetd.api.joined_units import check_joined
from fleetd.api.pagination import parse_page, read_page
from fleetd.api.quota import Quota
from fleetd.api.templates import with_last_rollouts
from fleetd.api.unit_operations import NOT_FOUND, Author, Change, UnitOperation, make_operation, parse_put, plan_change
from fleetd.api.write_batching import WriteBatcher
from fleetd.model.actor import Actor
from fleetd.model.names import InvalidName, validate_name
from fleetd.model.placement import Decision
from fleetd.model.requirements import requirements_of
from fleetd.model.unit import TargetState, Unit, UnitState
from fleetd.model.unit_option import UnitOption
from fleetd.model.unitfile import UnitFileError, parse_unit_file
from fleetd.registry.records import DECISIONS, STATES, UNITS
from fleetd.registry.registry import Registry
from fleetd.store.protocol import Conflict

_ATTEMPTS = 5  # at a write that conflicts
_CACHED_TEXTS = 4096


@lru_cache(maxsize=_CACHED_TEXTS)
def options_of(text: str) -> tuple[UnitOption, ...]:
    """The options of a stored unit file, cached, because the same texts are listed again and again."""
    try:
        return parse_unit_file(text)
    except UnitFileError:  # written past the API: list it anyway, so that it can be replaced
        return ()


def published_state(state: UnitState | None) -> TargetState:
    """The current state of version 1, from the state that the assigned machine reports (None: none)."""
    return state.target if state else TargetState.INACTIVE


def describe_unit(unit: Unit, decision: Decision | None, states: Mapping[tuple[str, str], UnitState]) -> schema.Unit:
    """The unit as version 1 shows it. A global unit has no machine and no current state."""
    machine = decision.machine if decision and not requirements_of(unit.content, unit.name).is_global else ""
    return schema.Unit(
        name=unit.name,
        options=options_of(unit.text),
        desired_state=unit.target,
        current_state=published_state(states.get((machine, unit.name))),
        machine_id=machine,
    )


class Units:
    """The resource. `shadows` returns the system unit that a name would hide, '' for none."""

    def __init__(
        self,
        registry: Registry,
        token_limit: int,
        shadows: Callable[[str], str],
        quota: Quota,
        audit: Audit,
        unix_now: Callable[[], float],
        agent_ttl_s: float,
    ) -> None:
        self._registry = registry
        self.quota = quota
        self._writes = WriteBatcher(registry)
        self._token_limit = token_limit
        self._shadows = shadows
        self.audit = audit
        self._unix_now = unix_now
        self.agent_ttl_s = agent_ttl_s

    def author(self, actor: Actor) -> Author:
        """The author of changes that are made now."""
        return Author(actor, self._unix_now())

    async def get_all(self, request: Request, _: str) -> Response:
        """One page of units, by name."""
        page = parse_page(request, self._token_limit)
        reader = self._registry.at_one_revision()
        units, token = await read_page(reader, UNITS, page)
        decisions = await reader.get_many(DECISIONS, [(name,) for name in units])
        placed = [(decision.machine, *names) for names, decision in decisions.items() if decision.machine]
        states = await reader.get_many(STATES, placed)
        entities = tuple(describe_unit(unit, decisions.get((name,)), states) for name, unit in units.items())
        return render_json(schema.UnitPage(entities, token))

    async def get(self, request: Request, name: str) -> Response:
        """One unit."""
        try:
            validate_name(name)
        except InvalidName as error:
            raise ApiError(404, NOT_FOUND) from error
        reader = self._registry.at_one_revision()
        unit, decision = await reader.unit_and_decision(name)
        if unit is None:
            raise ApiError(404, NOT_FOUND)
        machine = decision.machine if decision else ""
        states = await reader.get_many(STATES, [(machine, name)] if machine else [])
        return render_json(describe_unit(unit, decision, states))

    async def put(self, request: Request, name: str) -> Response:
        """Create or replace a unit, or change its target state."""
        operation, author = parse_put(request, name), self.author(request.actor)
        if operation.options and await self._create(operation, author):
            return Response(201)
        return Response(await self.carry_out(operation, author))

    async def delete(self, request: Request, name: str) -> Response:
        """Destroy a unit."""
        operation = make_operation(schema.UnitOperation(name, destroy=True))
        return Response(await self.carry_out(operation, self.author(request.actor)))

    async def carry_out(self, operation: UnitOperation, author: Author) -> int:
        """Carry out one operation; returns the HTTP status. Raises ApiError."""
        for _ in range(_ATTEMPTS):
            before, _decision = await self._registry.unit_and_decision(operation.name)
            template = await self._find_template(operation)
            change = plan_change(operation, before, self._shadows, template, author=author)
            if change.after is before:
                return change.status
            await self._check_cluster(change)
            try:
                async with self.quota.admit(before, change.after):
                    write_set = self._registry.unit_write_set(
                        operation.name, before, change.after, asked_unit(author.actor, before, change.after)
                    )
                    revision = await self._writes.write(write_set)
            except Conflict:
                continue
            self.audit.note_unit(author.actor, before, change.after, revision)
            return change.status
        raise ApiError(409, f'unit "{operation.name}" is being changed by other clients at the same time: try again')

    async def _check_cluster(self, change: Change) -> None:
        """Raises ApiError if the new content cannot be beside that of other units, or if an older fleetd would run it
        in another way than it says."""
        before, after = (unit.content if unit else None for unit in (change.before, change.after))
        if after != before:
            await check_joined(self._registry, [change.after], {})
        refuse_short_isolation(change.operation.name, before, after, self.agent_ttl_s)
        if needed := needed_capability(before, after):
            await check_capability(self._registry, needed)

    async def _find_template(self, operation: UnitOperation) -> Unit | None:
        """The template whose drop-ins count for this operation."""
        if not operation.template:
            return None
        found = await self._registry.get_many(UNITS, [(operation.template,)])
        templates = {name: unit for (name,), unit in found.items()}
        return (await with_last_rollouts(self._registry, templates)).get(operation.template)

    async def _create(self, operation: UnitOperation, author: Author) -> bool:
        """Try to create the unit without reading it first, which saves a request to the store.

        False if it exists or is invalid: then `carry_out` reports that against the existing unit.
        """
        try:
            template = await self._find_template(operation)
            change = plan_change(operation, None, self._shadows, template, author=author)
            await self._check_cluster(change)
            async with self.quota.admit(None, change.after):
                write_set = self._registry.unit_write_set(
                    operation.name, None, change.after, asked_unit(author.actor, None, change.after)
                )
                revision = await self._writes.write(write_set)
        except (ApiError, Conflict):
            return False
        self.audit.note_unit(author.actor, None, change.after, revision)
        return True
