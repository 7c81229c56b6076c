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

MAX_OPERATIONS = 1000  # in one request
NOT_FOUND = "unit does not exist"


class OptionBody(msgspec.Struct, frozen=True):
    """One unit file option in a request."""

    section: str = ""
    name: str = ""
    value: str = ""


class UnitBody(msgspec.Struct, frozen=True):
    """A unit in a request; fields that clients cannot set are ignored."""

    name: str = ""
    options: tuple[OptionBody, ...] = ()
    desired_state: str = msgspec.field(name="desiredstate", default="")


class OperationBody(UnitBody, frozen=True):
    """One of several operations in a request (schema.UnitOperation)."""

    only_new: bool = msgspec.field(name="onlynew", default=False)
    destroy: bool = False


class OperationsBody(msgspec.Struct, frozen=True):
    """A request with several operations."""

    operations: tuple[OperationBody, ...] = ()


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
    body = parse_json(request.body, UnitBody)
    if body.name and body.name != name:
        raise ApiError(400, f'name in URL "{name}" differs from unit name in request body "{body.name}"')
    return make_operation(name, body, only_new="*" in map(str.strip, request.header_values("If-None-Match")))


def parse_operations(request: Request) -> tuple[OperationBody, ...]:
    """The operations of a request, each unit named once. Raises ApiError."""
    bodies = parse_json(request.body, OperationsBody).operations
    _check_names([body.name for body in bodies])
    return bodies


def parse_restarts(request: Request) -> tuple[str, ...]:
    """The units that a request restarts, each named once. Raises ApiError."""
    names = parse_json(request.body, schema.Restarts).names
    _check_names(names)
    return names


def _check_names(names: Sequence[str]) -> None:
    if len(names) > MAX_OPERATIONS:
        raise ApiError(413, f"{len(names)} units in one request, and at most {MAX_OPERATIONS} are allowed")
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise ApiError(400, f'unit "{name}" is named twice in one request: name it once')
        seen.add(name)


def make_operation(
    name: str, body: UnitBody, *, only_new: bool = False, destroy: bool = False, restart: bool = False
) -> UnitOperation:
    """The operation, its name and target state validated. Raises ApiError."""
    try:
        validate_name(name)
    except InvalidName as error:
        raise (ApiError(404, NOT_FOUND) if destroy or restart else ApiError(400, str(error))) from error
    if body.desired_state and body.desired_state not in list(TargetState):
        raise ApiError(400, f'invalid desiredState "{body.desired_state}": expect inactive, loaded or launched')
    target = TargetState(body.desired_state) if body.desired_state else None
    options = tuple(UnitOption(option.section, option.name, without_comments(option.value)) for option in body.options)
    return UnitOperation(name, options, target, only_new, destroy, restart)


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
    is_new = before is None or before.text != after.text
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
    return Unit(operation.name, text, target, restart_of=restart_of)
