"""Applying units that belong together, and scaling a template, in version 2.

A plan is made of one look at the cluster and written in few transactions, each guarded by what was read. If one of them
conflicts, all is planned again. Units come first, then the record of the apply: before that is there, the leader
changes nothing.
"""

from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack

import msgspec

from fleetd.api import schema
from fleetd.api.apply_writes import write_sets_of
from fleetd.api.audit import Audit
from fleetd.api.capabilities import check_capability, needed_capability, refuse_short_isolation
from fleetd.api.http import ApiError, Request, Response, parse_json, render_json
from fleetd.api.joined_units import check_joined
from fleetd.api.quota import Quota
from fleetd.api.v2.apply_reports import describe_plan, describe_set, describe_version
from fleetd.model.actor import Actor
from fleetd.model.admission import refuse_made
from fleetd.model.apply import ApplyPlan, ApplyRequest, Known, Stamp, plan_apply, plan_scale
from fleetd.model.content import Content, InvalidDropIn, make_dropins
from fleetd.model.group import MAX_INSTANCES, group_of
from fleetd.model.machine import Capability
from fleetd.model.names import is_template, template_of
from fleetd.model.permission import Permission
from fleetd.model.requirements import requirements_of
from fleetd.model.rollout import Apply
from fleetd.model.unit import Unit
from fleetd.model.unit_set import InvalidSet, SetUnit, expand, refuse_members, refuse_set_name
from fleetd.model.unitfile import UnitFileError, parse_unit_file, render_unit_file
from fleetd.model.version import (
    Version,
    contents_by_group,
    contents_of,
    pick_version,
    plan_versions,
    refuse_version,
)
from fleetd.registry.records import APPLIES, DECISIONS, ROLLOUTS, SETS, UNITS, VERSIONS
from fleetd.registry.registry import Reader, Registry
from fleetd.registry.transactions import WriteSet, cut_into_transactions
from fleetd.store.protocol import Conflict, Delete

MAX_NOTE = 200  # characters
MOST_GROUPS_READ_SINGLY = 64  # for more templates, reading all units is cheaper
MOST_APPLIES = 200  # records, before those that no unit names are deleted
_ATTEMPTS = 5  # at writes that conflict


class Applies:
    """The resource. `shadows` returns the system unit that a name would hide, '' for none. `unix_now` is the wall
    clock, `new_id` returns a unique word."""

    def __init__(
        self,
        registry: Registry,
        quota: Quota,
        shadows: Callable[[str], str],
        audit: Audit,
        unix_now: Callable[[], float],
        new_id: Callable[[], str],
        agent_ttl_s: float,
    ) -> None:
        self._registry = registry
        self._quota = quota
        self._shadows = shadows
        self._audit = audit
        self._unix_now = unix_now
        self._new_id = new_id
        self._agent_ttl_s = agent_ttl_s

    async def post(self, request: Request, _: str) -> Response:
        """Apply units that belong together: create and change them, and destroy what is not among them any more."""
        asked = parse_json(request.body, schema.Apply)
        wanted = make_request(asked, self._shadows)

        async def read(reader: Reader) -> Known:
            return await _read_known(reader, wanted.set, list(wanted.contents))

        stamp = self._stamp(request, asked.note)
        return await self._carry_out(
            read,
            lambda known: plan_apply(wanted, known, stamp),
            stamp,
            request.actor,
            Permission.SUBMIT,
            plan_only=asked.plan,
            with_contents=asked.contents,
            revision=asked.revision,
        )

    async def scale(self, request: Request, _: str) -> Response:
        """Create and destroy numbered instances of a template, so that there are so many."""
        asked = parse_json(request.body, schema.Scale)
        if not is_template(asked.template):
            raise ApiError(400, f'"{asked.template}" is no template: only templates (NAME@.service) have instances')
        if not 0 <= asked.instances <= MAX_INSTANCES:
            raise ApiError(400, f"{asked.instances} instances cannot be: the number is from 0 to {MAX_INSTANCES}")
        stamp = self._stamp(request, asked.note)

        async def read(reader: Reader) -> Known:
            return await _read_known(reader, "", [asked.template])

        def plan(known: Known) -> ApplyPlan:
            template = known.units.get(asked.template)
            if template is None:
                raise ApiError(409, f'the cluster has no template "{asked.template}": submit or apply it first')
            return plan_scale(template, asked.instances, known, stamp)

        return await self._carry_out(read, plan, stamp, request.actor, Permission.OPERATE, plan_only=asked.plan)

    async def undo(self, group: str, number: int, actor: Actor) -> None:
        """Apply this version of a group, or (0) the last one that differs from what its units hold. Units that do not
        exist are not created. Raises ApiError."""

        async def read(reader: Reader) -> Known:
            return await _read_known(reader, "", [group])

        units = (await read(self._registry.at_one_revision())).units
        if not units:
            raise ApiError(404, f"unknown group {group}: there is no unit of this name, and no instance of it")
        versions = await self._read_versions(group)
        contents = {name: unit.content for name, unit in units.items()}
        version = versions.get(number) if number else pick_version(versions, group, contents)
        if version is None:
            there_are = ", ".join(map(str, sorted(versions))) or "none: only applies make versions"
            what = f"no version {number}" if number else "no version that differs from what it holds"
            raise ApiError(409, f"{group} has {what} (there are {there_are})")
        stamp = Stamp(self._new_id(), actor.name, f"undo: version {version.number}", self._unix_now())

        def plan(known: Known) -> ApplyPlan:
            return plan_apply(ApplyRequest("", contents_of(version, group, known.units)), known, stamp)

        answer = await self._carry_out(read, plan, stamp, actor, Permission.OPERATE)
        if not msgspec.json.decode(answer.body, type=schema.Applied).id:
            raise ApiError(409, f"{group} holds version {version.number} already")

    def _stamp(self, request: Request, note: str) -> Stamp:
        if len(note) > MAX_NOTE or not note.isprintable():
            raise ApiError(400, f"note has to be one line of at most {MAX_NOTE} printable characters")
        return Stamp(self._new_id(), request.user, note, self._unix_now())

    async def get_sets(self, _: Request, __: str) -> Response:
        """List the sets and their members."""
        sets = await self._registry.read(SETS)
        return render_json(schema.UnitSets(tuple(describe_set(name, found) for (name,), found in sets.items())))

    async def get_versions(self, _: Request, group: str) -> Response:
        """Show the last versions of a template with its instances, or of one unit, as applies have made them."""
        versions = await self._read_versions(group)
        return render_json(schema.Versions(tuple(describe_version(versions[number]) for number in sorted(versions))))

    async def _carry_out(
        self,
        read: Callable[[Reader], Awaitable[Known]],
        make_plan: Callable[[Known], ApplyPlan],
        stamp: Stamp,
        actor: Actor,
        permission: Permission,
        *,
        plan_only: bool = False,
        with_contents: bool = False,
        revision: int = 0,
    ) -> Response:
        """Plan, and unless it is `plan_only` write, if the actor has this permission for all units that are written.
        Raises ApiError."""
        answer: schema.Applied | None = None
        for _ in range(_ATTEMPTS):
            reader = self._registry.at_one_revision()
            known = await read(reader)
            plan = make_plan(known)
            if answer is None:  # later attempts plan only what is left
                if revision and (newer := _find_newer(known, plan, revision)):
                    raise ApiError(412, f"{', '.join(newer)} changed since revision {revision}: plan it anew")
                answer = await self._describe(reader, plan, with_contents)
            if plan_only or plan.changes_nothing:
                return render_json(answer)
            if plan.refusals:
                raise ApiError(409, "; ".join(plan.refusals))
            _check_permission(plan, known, actor, permission)
            if permission is Permission.SUBMIT:
                _check_made(plan, known)
            changed = [unit.after for unit in plan.written if unit.after]
            await check_joined(reader, changed, {})
            if changed:
                await check_capability(reader, Capability.PROOFS)
            if any(unit.after and unit.after.dropins for unit in plan.written):
                await check_capability(reader, Capability.DROPINS)
            for unit in plan.written:
                refuse_short_isolation(unit.name, None, unit.new_content, self._agent_ttl_s)
            for unit in plan.written:
                if needed := needed_capability(None, unit.new_content):
                    await check_capability(reader, needed)
                    break
            answer = msgspec.structs.replace(answer, id=stamp.rollout)
            try:
                await self._write(plan, known, stamp, actor)
            except Conflict:
                continue
            await self._forget_applies()
            return render_json(answer)
        raise ApiError(409, "the units are being changed by other clients at the same time: try again")

    async def _describe(self, reader: Reader, plan: ApplyPlan, with_contents: bool) -> schema.Applied:
        changed = [unit.before for unit in plan.written if unit.before is not None]
        names = [(unit.name,) for unit in changed if requirements_of(unit.content, unit.name).is_global]
        decisions = {name: found for (name,), found in (await reader.get_many(DECISIONS, names)).items()}
        return describe_plan(plan, decisions, with_contents)

    async def _write(self, plan: ApplyPlan, known: Known, stamp: Stamp, actor: Actor) -> None:
        """Write the plan. Raises Conflict if something of it has changed since it was read."""
        versions = await self._plan_versions(plan, known, stamp)
        apply = Apply(stamp.by, stamp.at, stamp.note)
        writes = write_sets_of(self._registry, plan, known.sets, versions, stamp.rollout, apply, actor)
        async with AsyncExitStack() as claims:
            for unit in plan.written:
                await claims.enter_async_context(self._quota.admit(unit.before, unit.after))
            for transaction in cut_into_transactions(writes, record=self._registry.record):
                revision = await self._registry.write(transaction)
        # Not before: after a conflict, all that belongs to an incomplete apply is written again.
        for unit in plan.written:
            self._audit.note_unit(actor, unit.before, unit.after, revision)

    async def _plan_versions(
        self, plan: ApplyPlan, known: Known, stamp: Stamp
    ) -> dict[str, tuple[tuple[Version, ...], tuple[int, ...]]]:
        """The versions to write, and the numbers of those to delete, of each group whose content changes."""
        new = {unit.name: content for unit in plan.written if (content := unit.new_content) is not None}
        groups = dict.fromkeys(map(group_of, new))
        former = {name: unit.content for name, unit in known.units.items()}
        destroyed = {unit.name for unit in plan.written if unit.after is None}
        kept = {name: content for name, content in former.items() if name not in destroyed}
        held = contents_by_group({**kept, **new}, groups)
        held_before = contents_by_group(former, groups)
        for group, holds in held.items():
            if refusal := refuse_version(group, holds):
                raise ApiError(413, refusal)
        planned = {}
        for group, holds in held.items():
            version = Version(number=0, held=holds, at=stamp.at, by=stamp.by, note=stamp.note, apply=stamp.rollout)
            planned[group] = plan_versions(await self._read_versions(group), held_before.get(group), version)
        return planned

    async def _read_versions(self, group: str) -> dict[int, Version]:
        """The versions of a group, by number."""
        found = await self._registry.archive.read(VERSIONS, group)
        return {version.number: version for version in found.values()}

    async def _forget_applies(self) -> None:
        """Delete the records of applies that no unit names any more, once there are many."""
        if (await self._registry.store.digest(self._registry.key(APPLIES) + "/")).count <= MOST_APPLIES:
            return
        reader = self._registry.at_one_revision()
        applies = [id_ for (id_,) in await reader.read(APPLIES)]
        named = {unit.rollout for unit in (await reader.units()).values()}
        deletes = [Delete(self._registry.key(APPLIES, id_)) for id_ in applies if id_ not in named]
        for transaction in cut_into_transactions(WriteSet((), (delete,)) for delete in deletes):
            await self._registry.write(transaction)


def _find_newer(known: Known, plan: ApplyPlan, revision: int) -> list[str]:
    """The units of the plan that were written after this revision of the store."""
    units = [known.units[unit.name] for unit in plan.units if unit.name in known.units]
    return [unit.name for unit in units if unit.generation > revision]


def _check_permission(plan: ApplyPlan, known: Known, actor: Actor, permission: Permission) -> None:
    """Raises ApiError if the actor may not write one of the units, or what it names, or put it into a set or out."""
    moved: set[str] = set()
    for name, set_ in plan.sets.items():
        moved.update({*set_.members} ^ {*(known.sets[name].members if name in known.sets else ())})
    refusal = actor.refuse(permission, dict.fromkeys([*(unit.name for unit in plan.written), *sorted(moved)]))
    if not refusal and permission is Permission.SUBMIT:
        contents = ((unit.name, unit.new_content) for unit in plan.written)
        refusals = (actor.refuse_content(name, content.options()) for name, content in contents if content)
        refusal = next(filter(None, refusals), "")
    if refusal:
        raise ApiError(403, refusal)


def _check_made(plan: ApplyPlan, known: Known) -> None:
    """Raises ApiError for a unit that is not what the container makes that it names as its source."""
    found: set[str] = set()  # instances have the text of their template: it is checked once
    for unit in plan.written:
        if unit.after is None or unit.after.text in found:
            continue
        former = (known.units.get(name) for name in (unit.name, template_of(unit.name)))
        if refusal := refuse_made(unit.after.text, [each.text for each in former if each]):
            raise ApiError(400, f'unit "{unit.name}": {refusal}')
        found.add(unit.after.text)


def make_request(asked: schema.Apply, shadows: Callable[[str], str]) -> ApplyRequest:
    """What a client asks to apply, validated. Raises ApiError."""
    if asked.set and (refusal := refuse_set_name(asked.set)):
        raise ApiError(400, refusal)
    if asked.prune and not asked.set:
        raise ApiError(400, "prune needs a set: only its members are destroyed")
    if asked.edit and (asked.set or asked.generation <= 0 or len(asked.units) != 1):
        raise ApiError(400, "edit is about one unit in no set, and names the generation that was edited")
    units = [_make_unit(unit) for unit in asked.units]
    try:
        contents = {unit.name: Content(unit.text, unit.dropins) for unit in units} if asked.edit else expand(units)
    except InvalidSet as error:
        raise ApiError(400, str(error)) from error
    for name, refusal in refuse_members(units, contents, shadows).items():
        raise ApiError(400, f'unit "{name}": {refusal}')
    edited = asked.generation if asked.edit else 0
    return ApplyRequest(asked.set, contents, asked.prune, asked.confirmed, asked.take_over, asked.retry, edited)


def _make_unit(asked: schema.AppliedUnit) -> SetUnit:
    try:
        text = render_unit_file(parse_unit_file(asked.text))
        return SetUnit(asked.name, text, make_dropins((dropin.name, dropin.text) for dropin in asked.dropins))
    except UnitFileError as error:
        where = f", line {error.line}" if error.line else ""
        raise ApiError(400, f'unit "{asked.name}"{where}: {error}') from error
    except InvalidDropIn as error:
        raise ApiError(400, f'unit "{asked.name}": {error}') from error


async def _read_known(reader: Reader, set_: str, wanted: Sequence[str]) -> Known:
    """What the cluster has of these units, of the groups of templates among them, and of the members of the set."""
    sets = {name: found for (name,), found in (await reader.read(SETS)).items()}
    members = sets[set_].members if set_ in sets else ()
    templates = dict.fromkeys(template_of(name) for name in wanted if template_of(name))
    units: dict[str, Unit] = {}
    if len(templates) > MOST_GROUPS_READ_SINGLY:
        units = await reader.units()
    else:
        for template in templates:
            units |= await reader.group(template)
        others = [(name,) for name in dict.fromkeys((*wanted, *members)) if template_of(name) not in templates]
        units |= {name: unit for (name,), unit in (await reader.get_many(UNITS, others)).items()}
    ids = [(id_,) for id_ in dict.fromkeys(unit.rollout for unit in units.values()) if id_]
    complete = {id_ for (id_,) in await reader.get_many(APPLIES, ids)}
    groups = [(group,) for group in dict.fromkeys(group_of(unit.name) for unit in units.values() if unit.rollout)]
    rollouts = {group: rollout for (group,), rollout in (await reader.get_many(ROLLOUTS, groups)).items()}
    return Known(units, sets, complete, rollouts)
