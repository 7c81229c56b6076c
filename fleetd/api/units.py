"""Units in version 1: list them, show one, set one (create, replace, start, stop), destroy one (reference 4.4)."""

from collections.abc import Callable, Mapping
from functools import lru_cache

import msgspec

from fleetd.api import schema
from fleetd.api.message import ApiError, Request, Response, parse_json, render_json
from fleetd.api.pages import parse_page, read_page
from fleetd.core.cluster import requirements_of
from fleetd.core.names import InvalidName, is_reserved, parse_name, validate_name
from fleetd.core.placement import Decision
from fleetd.core.unit import (
    InvalidRequirements,
    TargetState,
    Unit,
    UnitState,
    validate_requirements,
)
from fleetd.core.unitfile import Option, UnitFileError, check_options, parse_unit_file, render_unit_file
from fleetd.registry import Registry
from fleetd.store.protocol import Conflict

_ATTEMPTS = 5  # at a write that others keep overtaking
_CACHED_TEXTS = 4096


class OptionWish(msgspec.Struct, frozen=True):
    """One option as a client sends it."""

    section: str = ""
    name: str = ""
    value: str = ""


class UnitWish(msgspec.Struct, frozen=True):
    """What a client wants of a unit; what it may not set is not looked at."""

    name: str = ""
    options: tuple[OptionWish, ...] = ()
    desired_state: str = msgspec.field(name="desiredstate", default="")


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


def describe_unit(unit: Unit, decision: Decision | None, states: Mapping[tuple[str, ...], UnitState]) -> schema.Unit:
    """The unit as version 1 shows it. A global one has no machine, and no current state of its own."""
    machine = decision.machine if decision and not requirements_of(unit.text, unit.name).is_global else ""
    return schema.Unit(
        name=unit.name,
        options=_entity_options(unit.text),
        desired_state=unit.target,
        current_state=current_state(states.get((machine, unit.name))),
        machine_id=machine,
    )


def parse_wish(request: Request, name: str) -> tuple[UnitWish, TargetState | None]:
    """What a PUT asks for, and the target state where it names one. Raises ApiError."""
    types = request.header_values("Content-Type")
    if len(types) != 1:
        raise ApiError(415, f"expected 1 Content-Type, got {len(types)}")
    if types[0].partition(";")[0].strip().lower() != schema.JSON_TYPE:
        raise ApiError(415, f"only acceptable Content-Type is {schema.JSON_TYPE}")
    wish = parse_json(request.body, UnitWish)
    if wish.name and wish.name != name:
        raise ApiError(400, f'name in URL "{name}" differs from unit name in request body "{wish.name}"')
    try:
        validate_name(name)
    except InvalidName as error:
        raise ApiError(400, str(error)) from error
    if wish.desired_state and wish.desired_state not in list(TargetState):
        raise ApiError(400, f'invalid desiredState "{wish.desired_state}": expect inactive, loaded or launched')
    return wish, TargetState(wish.desired_state) if wish.desired_state else None


def check_content(options: tuple[Option, ...]) -> None:
    """Raises ApiError for options that make no unit file, or one that asks for what cannot be."""
    try:
        check_options(options)
        validate_requirements(options)
    except (UnitFileError, InvalidRequirements) as error:
        raise ApiError(400, str(error)) from error


def plan_unit(name: str, wish: UnitWish, target: TargetState | None, before: Unit | None) -> Unit:
    """The unit as it is to be written, given what it was (None: unknown). Raises ApiError.

    It is `before` itself where nothing is to be done: a target that it has already, unless that is launched; to ask
    for that again starts a unit that has stopped.
    """
    options = tuple(Option(option.section, option.name, option.value) for option in wish.options)
    if before is None and not options:
        raise ApiError(409, "unit does not exist and options field empty")
    text = render_unit_file(options) if options or before is None else before.text
    if before is None or text != before.text:
        check_content(options)
        target = target or TargetState.INACTIVE
    elif target is None:
        raise ApiError(409, "must provide DesiredState to update existing unit")
    if parse_name(name).is_template and target is not TargetState.INACTIVE:
        raise ApiError(400, f'cannot activate template "{name}"')
    if before and (before.text, before.target) == (text, target) and target is not TargetState.LAUNCHED:
        return before
    return Unit(name, text, target)


class Units:
    """The resource. `shadows` says which unit of the machine's own a name would hide ('': none)."""

    def __init__(self, registry: Registry, token_limit: int, shadows: Callable[[str], str]) -> None:
        self._registry = registry
        self._token_limit = token_limit
        self._shadows = shadows

    async def get_all(self, request: Request, _: str) -> Response:
        """One page of units, by name."""
        page = parse_page(request, self._token_limit)
        units, token = await read_page(self._registry, "units", page)
        decisions = await self._registry.pick("decisions", [(name,) for name in units])
        homes = [(decision.machine, *names) for names, decision in decisions.items() if decision.machine]
        states = await self._registry.pick("states", homes)
        entities = tuple(describe_unit(unit, decisions.get((name,)), states) for name, unit in units.items())
        return render_json(schema.UnitPage(entities, token))

    async def get(self, request: Request, name: str) -> Response:
        """One unit."""
        unit, decision = await self._read(name)
        machine = decision.machine if decision else ""
        states = await self._registry.pick("states", [(machine, name)] if machine else [])
        return render_json(describe_unit(unit, decision, states))

    async def put(self, request: Request, name: str) -> Response:
        """Create or replace a unit, or change its target state."""
        wish, target = parse_wish(request, name)
        if wish.options and await self._create(name, wish, target):
            return Response(201)
        for _ in range(_ATTEMPTS):
            before, _decision = await self._registry.unit_and_decision(name)
            after = plan_unit(name, wish, target, before)
            if after is before:
                return Response(204)
            created = before is None or before.text != after.text
            if created:
                self._check_free(name)
            try:
                await self._registry.write_unit(after, before)
            except Conflict:
                continue
            return Response(201 if created else 204)
        raise _overtaken(name)

    async def _create(self, name: str, wish: UnitWish, target: TargetState | None) -> bool:
        """Write a unit as a new one, which most are that come with their file: one request to the store, not two.
        False where it is not new, or where something is wrong with it, which is told against what is there."""
        try:
            unit = plan_unit(name, wish, target, None)
            self._check_free(name)
            await self._registry.write_unit(unit, None)
        except (ApiError, Conflict):
            return False
        return True

    async def delete(self, request: Request, name: str) -> Response:
        """Destroy a unit."""
        for _ in range(_ATTEMPTS):
            unit, _decision = await self._read(name)
            try:
                await self._registry.delete_unit(unit)
            except Conflict:
                continue
            return Response(204)
        raise _overtaken(name)

    async def _read(self, name: str) -> tuple[Unit, Decision | None]:
        try:
            validate_name(name)
        except InvalidName as error:
            raise ApiError(404, "unit does not exist") from error
        unit, decision = await self._registry.unit_and_decision(name)
        if unit is None:
            raise ApiError(404, "unit does not exist")
        return unit, decision

    def _check_free(self, name: str) -> None:
        if is_reserved(name):
            raise ApiError(400, f'unit name "{name}" is reserved for what runs the machine itself: choose another one')
        if path := self._shadows(name):
            raise ApiError(400, f'unit "{name}" would hide {path}, a unit of the system: choose another name')


def _overtaken(name: str) -> ApiError:
    return ApiError(409, f'unit "{name}" is being changed by others at the same time: try again')
