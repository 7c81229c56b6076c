"""Operations on many units in version 2: one request, few transactions, one result for each unit.

Each unit is compared with what was read of it. If a transaction conflicts, its operations are carried out one by one,
as version 1 does, so that one unit cannot fail the others.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, contextmanager

from fleetd.api import schema
from fleetd.api.audit import asked_unit
from fleetd.api.capabilities import check_capability, needed_capability, refuse_short_isolation
from fleetd.api.http import ApiError, Request, Response, parse_json, render_json, to_api_error
from fleetd.api.joined_units import check_joined
from fleetd.api.templates import with_last_rollouts
from fleetd.api.unit_operations import Author, Change, UnitOperation, check_names, make_operation, plan_change
from fleetd.api.v1.units import Units
from fleetd.model.machine import Capability
from fleetd.model.unit import Unit
from fleetd.registry.records import UNITS, MalformedRecord
from fleetd.registry.registry import Registry
from fleetd.registry.transactions import cut_into_transactions
from fleetd.store.protocol import Conflict, Unavailable


class Operations:
    """The resource. `shadows` returns the system unit that a name would hide, '' for none."""

    def __init__(self, registry: Registry, units: Units, shadows: Callable[[str], str]) -> None:
        self._registry = registry
        self._units = units
        self._shadows = shadows

    async def post(self, request: Request, _: str) -> Response:
        """Create, change or destroy many units."""
        operations = parse_json(request.body, schema.UnitOperations).operations
        return await self._carry_out(operations, self._units.author(request.actor))

    async def restart(self, request: Request, _: str) -> Response:
        """Restart units where they run."""
        names = parse_json(request.body, schema.Restarts).names
        operations = [schema.UnitOperation(name) for name in names]
        return await self._carry_out(operations, self._units.author(request.actor), restart=True)

    async def _carry_out(
        self, asked: Sequence[schema.UnitOperation], author: Author, *, restart: bool = False
    ) -> Response:
        """Carry out the operations; the response has one result for each, in the same order. Raises ApiError."""
        check_names([each.name for each in asked])
        results: dict[str, schema.Result] = {}
        operations = []
        for each in asked:
            with _recording(each.name, results):
                operations.append(make_operation(each, restart=restart))
        names = dict.fromkeys(name for each in operations for name in (each.name, each.template) if name)
        found = await self._registry.get_many(UNITS, [(name,) for name in names])
        units: dict[str, Unit | None] = {name: found.get((name,)) for name in names}  # as the operations leave them
        units |= await with_last_rollouts(self._registry, _find_templates(operations, units))
        refusals: dict[Capability, ApiError | None] = {}
        changes = []
        async with AsyncExitStack() as claims:
            for operation in operations:
                with _recording(operation.name, results):
                    if operation.dropins:
                        await self._check(Capability.DROPINS, refusals)
                    template = units.get(operation.template)
                    change = plan_change(operation, units[operation.name], self._shadows, template, author=author)
                    before, after = (unit.content if unit else None for unit in (change.before, change.after))
                    if after is not None and after != before:
                        await check_joined(self._registry, [change.after], units)
                    refuse_short_isolation(operation.name, before, after, self._units.agent_ttl_s)
                    if needed := needed_capability(before, after):
                        await self._check(needed, refusals)
                    await claims.enter_async_context(self._units.quota.admit(change.before, change.after))
                    changes.append(change)
                    units[operation.name] = change.after
            await self._apply(changes, results, author)
        return render_json(schema.Results(tuple(results[each.name] for each in asked)))

    async def _check(self, capability: Capability, refusals: dict[Capability, ApiError | None]) -> None:
        """Raises ApiError while a machine does not have this capability. `refusals` are what was found before."""
        if capability not in refusals:
            refusals[capability] = None
            try:
                await check_capability(self._registry, capability)
            except ApiError as error:
                refusals[capability] = error
        if refusal := refusals[capability]:
            raise refusal

    async def _apply(self, changes: Sequence[Change], results: dict[str, schema.Result], author: Author) -> None:
        """Write the changes. Once the store is unavailable the rest fails at once, without a timeout each."""
        results |= {each.operation.name: schema.Result(each.operation.name, each.status) for each in changes}
        left = [each for each in changes if each.after is not each.before]
        steps = (
            self._registry.unit_write_set(
                each.operation.name, each.before, each.after, asked_unit(author.actor, each.before, each.after)
            )
            for each in left
        )
        units = self._registry.key(UNITS) + "/"
        for transaction in cut_into_transactions(steps, record=self._registry.record):
            written = sum(operation.key.startswith(units) for operation in transaction.operations)
            part, left = left[:written], left[written:]
            try:
                revision = await self._registry.write(transaction)
            except Conflict:
                results |= {each.operation.name: await self._apply_singly(each.operation, author) for each in part}
            except Unavailable as error:
                refusal = to_api_error(error)
                results |= {each.operation.name: _refused(each.operation.name, refusal) for each in (*part, *left)}
                return
            else:
                for each in part:
                    self._units.audit.note_unit(author.actor, each.before, each.after, revision)

    async def _apply_singly(self, operation: UnitOperation, author: Author) -> schema.Result:
        try:
            return schema.Result(operation.name, await self._units.carry_out(operation, author))
        except (ApiError, MalformedRecord, Unavailable) as error:
            return _refused(operation.name, to_api_error(error))


def _find_templates(operations: Sequence[UnitOperation], units: Mapping[str, Unit | None]) -> dict[str, Unit]:
    """The templates of new instances, by name."""
    new = [each for each in operations if units[each.name] is None]
    found = {each.template: units.get(each.template) for each in new}
    named = {each.name: None for each in operations}
    return {name: template for name, template in found.items() if template is not None and name not in named}


@contextmanager
def _recording(name: str, results: dict[str, schema.Result]) -> Iterator[None]:
    """Record an ApiError as the result of this unit."""
    try:
        yield
    except ApiError as refusal:
        results[name] = _refused(name, refusal)


def _refused(name: str, refusal: ApiError) -> schema.Result:
    return schema.Result(name, refusal.status, str(refusal))
