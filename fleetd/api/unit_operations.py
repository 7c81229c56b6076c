"""Operations on units as clients send them: parsing, validation, and the change that one makes to a unit. Pure."""

from collections.abc import Callable, Sequence

import msgspec

from fleetd.api import schema
from fleetd.api.http import ApiError, Request, check_is_json, parse_json
from fleetd.model.admission import refuse_content, refuse_names
from fleetd.model.names import InvalidName, parse_name, validate_name
from fleetd.model.unit import TargetState, Unit
from fleetd.model.unit_option import UnitOption
from fleetd.model.unitfile import render_unit_file, without_comments

MAX_UNITS = 1000  # in one request
NOT_FOUND = "unit does not exist"


class UnitOperation(msgspec.Struct, frozen=True):
    """One operation on one unit: set content (`options`, empty: keep) and `target` (None: keep), destroy, or restart.

    `only_new` refuses to change a unit that exists.
    """

    name: str
    options: tuple[UnitOption, ...] = ()
    target: TargetState | None = None
    only_new: bool = False
    destroy: bool = False
    restart: bool = False


class Change(msgspec.Struct, frozen=True):
    """What an operation does to its unit, and the HTTP status of that.

    `before` is None if the unit does not exist, `after` if it is destroyed. If `after` is `before`, nothing changes.
    """

    operation: UnitOperation
    before: Unit | None
    after: Unit | None
    status: int


def parse_put(request: Request, name: str) -> UnitOperation:
    """The operation that a PUT of this unit asks for. Raises ApiError."""
    check_is_json(request)
    body = parse_json(request.body, schema.Unit)
    if body.name and body.name != name:
        raise ApiError(400, f'name in URL "{name}" differs from unit name in request body "{body.name}"')
    only_new = "*" in map(str.strip, request.header_values("If-None-Match"))
    return make_operation(schema.UnitOperation(name, body.options, body.desired_state, only_new))


def check_names(names: Sequence[str]) -> None:
    """Raises ApiError for too many units in one request, and for one that is named twice."""
    if len(names) > MAX_UNITS:
        raise ApiError(413, f"{len(names)} units in one request, and at most {MAX_UNITS} are allowed")
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise ApiError(400, f'unit "{name}" is named twice in one request: name it once')
        seen.add(name)


def make_operation(asked: schema.UnitOperation, *, restart: bool = False) -> UnitOperation:
    """The operation, its name and target state validated. Raises ApiError."""
    try:
        validate_name(asked.name)
    except InvalidName as error:
        raise (ApiError(404, NOT_FOUND) if asked.destroy or restart else ApiError(400, str(error))) from error
    options = tuple(UnitOption(option.section, option.name, without_comments(option.value)) for option in asked.options)
    target = _parse_target(asked.desired_state)
    return UnitOperation(asked.name, options, target, asked.only_new, asked.destroy, restart)


def _parse_target(text: str) -> TargetState | None:
    """The target state that a client names (None: none). Raises ApiError."""
    try:
        return TargetState(text) if text else None
    except ValueError as error:
        raise ApiError(400, f'invalid desiredState "{text}": expect inactive, loaded or launched') from error


def plan_change(operation: UnitOperation, before: Unit | None, shadows: Callable[[str], str]) -> Change:
    """The change that the operation makes to the unit. Raises ApiError.

    `shadows` returns the system unit that a name would hide, '' for none.
    """
    if operation.destroy:
        if before is None:
            raise ApiError(404, NOT_FOUND)
        return Change(operation, before, None, 204)
    if operation.restart:
        return Change(operation, before, _plan_restart(operation, before), 204)
    if operation.only_new and before is not None:
        raise ApiError(412, f'unit "{operation.name}" exists already')
    after = _plan_unit(operation, before)
    is_new = before is None or before.content != after.content
    if is_new and (refusal := refuse_names(operation.name, operation.options, shadows)):
        raise ApiError(400, refusal)
    return Change(operation, before, after, 201 if is_new else 204)


def _plan_restart(operation: UnitOperation, before: Unit | None) -> Unit:
    if before is None:
        raise ApiError(404, NOT_FOUND)
    if before.target is TargetState.INACTIVE:
        raise ApiError(409, f'unit "{operation.name}" is inactive, so there is nothing to restart: start it instead')
    return msgspec.structs.replace(before, restart_of=before.generation)


def _plan_unit(operation: UnitOperation, before: Unit | None) -> Unit:
    """The unit to write, `before` itself if it stays inactive.

    The same target again is a new generation: it starts a launched unit that has ended, and stops a loaded one that its
    socket or timer has started.
    """
    if before is None and not operation.options:
        raise ApiError(409, "unit does not exist and options field empty")
    text = render_unit_file(operation.options) if operation.options or before is None else before.text
    target = operation.target
    if before is None or text != before.text:
        if refusal := refuse_content(operation.options):
            raise ApiError(400, refusal)
        target = target or TargetState.INACTIVE
    elif target is None:
        raise ApiError(409, "must provide DesiredState to update existing unit")
    if parse_name(operation.name).is_template and target is not TargetState.INACTIVE:
        raise ApiError(400, f'cannot activate template "{operation.name}"')
    if before and (before.text, before.target) == (text, target) and target is TargetState.INACTIVE:
        return before
    restart_of = (
        before.restart_of if before and target is TargetState.LAUNCHED else 0
    )  # keep a restart that is still pending
    return Unit(operation.name, text, target, restart_of=restart_of, dropins=before.dropins if before else ())
