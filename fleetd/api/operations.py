"""What clients wish of units: how a wish is read, and what it makes of a unit, or why it cannot be (reference 4.4).

Pure. Nothing is read from the store here, and nothing written.
"""

from collections.abc import Callable, Sequence

import msgspec

from fleetd.api import schema
from fleetd.api.http import ApiError, Request, check_is_json, parse_json
from fleetd.model.admission import refuse_content, refuse_names
from fleetd.model.names import InvalidName, parse_name, validate_name
from fleetd.model.unit import TargetState, Unit
from fleetd.model.unitfile import Option, render_unit_file, without_comments

MOST_WISHES = 1000  # in one request
NOT_FOUND = "unit does not exist"


class OptionBody(msgspec.Struct, frozen=True):
    """One option as a client sends it."""

    section: str = ""
    name: str = ""
    value: str = ""


class UnitBody(msgspec.Struct, frozen=True):
    """What a client sends of a unit; what it may not set is not looked at."""

    name: str = ""
    options: tuple[OptionBody, ...] = ()
    desired_state: str = msgspec.field(name="desiredstate", default="")


class WishBody(UnitBody, frozen=True):
    """What a client sends of one unit among several (schema.Wish)."""

    only_new: bool = msgspec.field(name="onlynew", default=False)
    destroy: bool = False


class WishesBody(msgspec.Struct, frozen=True):
    """What a client sends of several units."""

    operations: tuple[WishBody, ...] = ()


class UnitOperation(msgspec.Struct, frozen=True):
    """What is wished of one unit: this content (none: the one it has) and this target state (None: unsaid); with
    `only_new` only if there is no unit of this name; or that it be destroyed; or restarted."""

    name: str
    options: tuple[Option, ...] = ()
    target: TargetState | None = None
    only_new: bool = False
    destroy: bool = False
    restart: bool = False


class Change(msgspec.Struct, frozen=True):
    """What a wish makes of its unit: from `before` (None: there was none) to `after` (None: none any more; `before`
    itself: nothing is to be done), and the HTTP status that says so."""

    operation: UnitOperation
    before: Unit | None
    after: Unit | None
    status: int


def parse_put(request: Request, name: str) -> UnitOperation:
    """What a PUT of the unit of this name asks for. Raises ApiError."""
    check_is_json(request)
    body = parse_json(request.body, UnitBody)
    if body.name and body.name != name:
        raise ApiError(400, f'name in URL "{name}" differs from unit name in request body "{body.name}"')
    return make_wish(name, body, only_new="*" in map(str.strip, request.header_values("If-None-Match")))


def parse_wishes(request: Request) -> tuple[WishBody, ...]:
    """What a request asks for of several units, each named once. Raises ApiError."""
    bodies = parse_json(request.body, WishesBody).operations
    _check_names([body.name for body in bodies])
    return bodies


def parse_restarts(request: Request) -> tuple[str, ...]:
    """The units that a request asks to restart, each named once. Raises ApiError."""
    names = parse_json(request.body, schema.Restarts).names
    _check_names(names)
    return names


def _check_names(names: Sequence[str]) -> None:
    if len(names) > MOST_WISHES:
        raise ApiError(413, f"{len(names)} units in one request: at most {MOST_WISHES} are allowed")
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise ApiError(400, f'unit "{name}" is named twice: what is wished of it last cannot be told')
        seen.add(name)


def make_wish(
    name: str, body: UnitBody, *, only_new: bool = False, destroy: bool = False, restart: bool = False
) -> UnitOperation:
    """The wish, its name and target state checked. Raises ApiError."""
    try:
        validate_name(name)
    except InvalidName as error:
        raise (ApiError(404, NOT_FOUND) if destroy or restart else ApiError(400, str(error))) from error
    if body.desired_state and body.desired_state not in list(TargetState):
        raise ApiError(400, f'invalid desiredState "{body.desired_state}": expect inactive, loaded or launched')
    target = TargetState(body.desired_state) if body.desired_state else None
    options = tuple(Option(option.section, option.name, without_comments(option.value)) for option in body.options)
    return UnitOperation(name, options, target, only_new, destroy, restart)


def plan_change(operation: UnitOperation, before: Unit | None, shadows: Callable[[str], str]) -> Change:
    """What the wish makes of the unit, given what it was. `shadows` says which unit of the machine's own a name would
    hide ('': none). Raises ApiError."""
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
        raise ApiError(409, f'unit "{operation.name}" is wanted on no machine, so that there is nothing to restart')
    return msgspec.structs.replace(before, restart_of=before.generation)


def _plan_unit(operation: UnitOperation, before: Unit | None) -> Unit:
    """The unit as it is to be written: `before` itself where it is inactive as it is to be. To ask again for launched
    starts a unit that has stopped, to ask again for loaded stops one that its socket or timer has started."""
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
    restart_of = before.restart_of if before and target is TargetState.LAUNCHED else 0  # may be still to be made
    return Unit(operation.name, text, target, restart_of=restart_of)
