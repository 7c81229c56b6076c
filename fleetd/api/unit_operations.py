"""Operations on units as clients send them: parsing, validation, and the change that one makes to a unit. Pure."""

from collections.abc import Callable, Sequence

import msgspec

from fleetd.api import schema
from fleetd.api.http import ApiError, Request, check_is_json, parse_json
from fleetd.model.actor import Actor
from fleetd.model.admission import refuse_content, refuse_made, refuse_names
from fleetd.model.content import Content, DropIn, InvalidDropIn, make_dropins, own_dropins, refuse_size
from fleetd.model.group import refuse_instance_options
from fleetd.model.names import InvalidName, parse_name, template_of, validate_name
from fleetd.model.permission import Permission
from fleetd.model.unit import TargetState, Unit
from fleetd.model.unit_option import UnitOption
from fleetd.model.unitfile import UnitFileError, parse_unit_file, render_unit_file, without_comments

MAX_UNITS = 1000  # in one request
NOT_FOUND = "unit does not exist"


class UnitOperation(msgspec.Struct, frozen=True):
    """One operation on one unit: set content (`options`, empty: keep; `dropins`, None: keep) and `target` (None: keep),
    destroy, or restart.

    `only_new` refuses to change a unit that exists, `generation` one that has changed since it had this (0: none).
    """

    name: str
    options: tuple[UnitOption, ...] = ()
    target: TargetState | None = None
    only_new: bool = False
    destroy: bool = False
    restart: bool = False
    dropins: tuple[DropIn, ...] | None = None
    generation: int = 0

    @property
    def needs(self) -> Permission:
        """The permission that it takes."""
        brings_content = self.destroy or bool(self.options) or self.dropins is not None
        return Permission.SUBMIT if brings_content else Permission.OPERATE

    @property
    def template(self) -> str:
        """The template whose drop-ins count for this operation, which gives an instance its content; else ''."""
        return template_of(self.name) if self.options or self.dropins is not None else ""


class Author(msgspec.Struct, frozen=True):
    """Who makes changes, at this Unix time."""

    actor: Actor
    at: float

    def sign(self, unit: Unit) -> Unit:
        """The unit as written by this author."""
        return msgspec.structs.replace(unit, by=self.actor.name, note="", at=self.at)


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
    return UnitOperation(
        asked.name,
        options,
        target,
        asked.only_new,
        asked.destroy,
        restart,
        dropins=None if asked.dropins is None else _parse_dropins(asked.dropins),
        generation=asked.generation,
    )


def _parse_dropins(asked: Sequence[schema.DropIn]) -> tuple[DropIn, ...]:
    """The drop-ins that a client sends. Raises ApiError."""
    try:
        return make_dropins((dropin.name, dropin.text) for dropin in asked)
    except InvalidDropIn as error:
        raise ApiError(400, str(error)) from error


def _parse_target(text: str) -> TargetState | None:
    """The target state that a client names (None: none). Raises ApiError."""
    try:
        return TargetState(text) if text else None
    except ValueError as error:
        raise ApiError(400, f'invalid desiredState "{text}": expect inactive, loaded or launched') from error


def plan_change(
    operation: UnitOperation,
    before: Unit | None,
    shadows: Callable[[str], str],
    template: Unit | None = None,
    *,
    author: Author,
) -> Change:
    """The change that the operation makes to the unit, by this author. Raises ApiError.

    `shadows` returns the system unit that a name would hide, '' for none. `template` is that of `operation.template`,
    if the cluster has it: a new instance gets its drop-ins, and runs the same content as others do for its `rollout`.
    """
    if refusal := author.actor.refuse(operation.needs, [operation.name]):
        raise ApiError(403, refusal)
    if operation.destroy:
        if before is None:
            raise ApiError(404, NOT_FOUND)
        return Change(operation, before, None, 204)
    if operation.restart:
        return Change(operation, before, author.sign(_plan_restart(operation, before)), 204)
    if operation.only_new and before is not None:
        raise ApiError(412, f'unit "{operation.name}" exists already')
    if operation.generation and (before is None or before.generation != operation.generation):
        raise ApiError(412, f'unit "{operation.name}" was changed meanwhile: look at it and repeat what you want of it')
    inherited = template.dropins if template else ()
    after = _plan_unit(operation, before, inherited)
    if before is None and template and after.content == template.content:
        after = msgspec.structs.replace(after, rollout=template.rollout)
    is_new = before is None or before.content != after.content
    if is_new:
        if refusal := refuse_made(after.text, [each.text for each in (before, template) if each]):
            raise ApiError(400, refusal)
        options = _effective_options(operation, after.content)
        if refusal := refuse_names(operation.name, options, shadows):
            raise ApiError(400, refusal)
        if refusal := author.actor.refuse_content(operation.name, options):
            raise ApiError(403, refusal)
    return Change(operation, before, after if after is before else author.sign(after), 201 if is_new else 204)


def _plan_restart(operation: UnitOperation, before: Unit | None) -> Unit:
    if before is None:
        raise ApiError(404, NOT_FOUND)
    if before.target is TargetState.INACTIVE:
        raise ApiError(409, f'unit "{operation.name}" is inactive, so there is nothing to restart: start it instead')
    return msgspec.structs.replace(before, restart_of=before.generation)


def _plan_unit(operation: UnitOperation, before: Unit | None, inherited: tuple[DropIn, ...]) -> Unit:
    """The unit to write, `before` itself if it stays as it is. `inherited` are the drop-ins of its template.

    The same target again is a new generation: it starts a launched unit that has ended, and stops a loaded one that its
    socket or timer has started.
    """
    content = _plan_content(operation, before, inherited)
    target = operation.target
    if target is None and before and not operation.options and operation.dropins is not None:
        target = before.target
        if content == before.content:
            return before
    if before is None or content != before.content:
        if refusal := _refuse_content(operation, content, inherited):
            raise ApiError(400, refusal)
        target = target or TargetState.INACTIVE
    elif target is None:
        raise ApiError(409, "must provide DesiredState to update existing unit")
    if parse_name(operation.name).is_template and target is not TargetState.INACTIVE:
        raise ApiError(400, f'cannot activate template "{operation.name}"')
    if before and (before.content, before.target) == (content, target) and target is TargetState.INACTIVE:
        return before
    restart_of = (
        before.restart_of if before and target is TargetState.LAUNCHED else 0
    )  # keep a restart that is still pending
    if before is not None and content == before.content:  # it stays that of the request that it came with
        return msgspec.structs.replace(before, target=target, restart_of=restart_of)
    return Unit(operation.name, content.text, target, restart_of=restart_of, dropins=content.dropins)


def _plan_content(operation: UnitOperation, before: Unit | None, inherited: tuple[DropIn, ...]) -> Content:
    """The content of the unit after the operation. Raises ApiError.

    Drop-ins that the operation does not mention stay beside a new unit file, as they do on a machine. So a client that
    does not know of them (version 1 of the API cannot tell of them) removes none.
    """
    if before is None and not operation.options:
        raise ApiError(409, "unit does not exist and options field empty")
    text = render_unit_file(operation.options) if operation.options or before is None else before.text
    kept = before.dropins if before else inherited
    return Content(text, kept if operation.dropins is None else operation.dropins)


def _effective_options(operation: UnitOperation, content: Content) -> Sequence[UnitOption]:
    """The options of unit file and drop-ins together. Raises UnitFileError."""
    return operation.options if operation.options and not content.dropins else content.options()


def _refuse_content(operation: UnitOperation, content: Content, inherited: tuple[DropIn, ...]) -> str:
    """Why the unit may not have this content, or ''."""
    if operation.options and (refusal := refuse_content(operation.options, operation.name)):
        return refusal
    if not operation.options or content.dropins:
        try:
            refusal = refuse_content(content.options(), operation.name) or refuse_size(content)
        except UnitFileError as error:
            refusal = f"its unit file cannot be read, so that no drop-in can be added to it: {error}"
        if refusal:
            return refusal
    for dropin in own_dropins(operation.dropins or (), inherited):
        if refusal := refuse_instance_options(operation.name, parse_unit_file(dropin.text)):
            return f'drop-in "{dropin.name}": {refusal}'
    return ""
