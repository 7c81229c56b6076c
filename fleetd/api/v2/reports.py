"""Unit reports in version 2: target, decision and its reason, and the state of each allocation."""

from collections.abc import Mapping, Sequence
from functools import lru_cache

import msgspec
from msgspec.structs import replace

from fleetd.aio import paused_collector
from fleetd.api import schema
from fleetd.api.http import Request, Response, parse_json, render_json
from fleetd.api.v1.states import is_gone
from fleetd.model.announcement import NOT_SETTLED
from fleetd.model.content import Content
from fleetd.model.machine import Machine
from fleetd.model.placement import Decision, Placement
from fleetd.model.reason import DrainEnded, NowhereElse, Reason, RejectionCount, render, render_rejection, render_wait
from fleetd.model.requirements import requirements_of
from fleetd.model.unit import Unit, UnitState
from fleetd.registry.records import DECISIONS, PLACEMENTS, UNITS
from fleetd.registry.registry import Reader, Registry


class ReportData(msgspec.Struct, frozen=True):
    """The records that reports are made of."""

    units: dict[str, Unit]
    decisions: dict[str, Decision]
    machines: dict[str, Machine]
    states: dict[tuple[str, str], UnitState]
    placements: dict[tuple[str, str], Placement]


def describe_allocation(data: ReportData, machine: str, unit: str, state: UnitState) -> schema.AllocationReport:
    """The state of a unit on one machine."""
    known = data.machines.get(machine)
    placement = data.placements.get((machine, unit))
    return schema.AllocationReport(
        machine=machine,
        address=known.address if known else "",
        load=state.load,
        active=state.active,
        sub=state.sub,
        hash=state.hash,
        target=state.target,
        generation=state.generation,
        completed=state.completed,
        superseded=bool(placement and placement.superseded),
        orphaned=unit not in data.units,
        error=state.error,
        result=state.result,
        note=state.note or _describe_unannounced(state),
        refusal=state.refusal,
    )


def describe_unit(
    unit: Unit | None, name: str, decision: Decision | None, allocations: tuple[schema.AllocationReport, ...]
) -> schema.UnitReport:
    """The report on a unit, or (None) on what machines still have of a unit that does not exist."""
    if unit is None:
        found = decision.reason if decision else None
        return schema.UnitReport(
            name,
            target="",
            generation=0,
            reason=render(found),
            cause=describe_reason(found),
            allocations=allocations,
        )
    decision = decision or Decision(name, generation=0)
    return schema.UnitReport(
        name=name,
        target=unit.target,
        generation=unit.generation,
        hash=unit.content.hash,
        file_hash=Content(unit.text).hash if unit.dropins else "",
        is_global=requirements_of(unit.content, name).is_global,
        decided=decision.generation,
        machine=decision.machine,
        machines=decision.machines,
        since=decision.since,
        reason=render(decision.reason),
        cause=describe_reason(decision.reason),
        rejections=tuple(map(describe_rejection, decision.rejections)),
        allocations=allocations,
        by=unit.by,
        at=int(unit.at),
    )


@lru_cache(maxsize=4096)
def describe_reason(reason: Reason | None) -> schema.Cause | None:
    """The data of a reason."""
    if reason is None:
        return None
    data = {**msgspec.to_builtins(reason), "waits": render_wait(reason)}
    data.pop("rejections", None)  # described below, as those of reports are
    cause = msgspec.convert(data, schema.Cause)
    if isinstance(reason, DrainEnded):
        return replace(cause, until=reason.deadline)
    if isinstance(reason, NowhereElse):
        return replace(cause, rejections=tuple(map(describe_rejection, reason.rejections)))
    return cause


def describe_rejection(count: RejectionCount) -> schema.RejectionCount:
    """A count of machines that reject a unit for one reason."""
    found = count.rejection
    return schema.RejectionCount(found.kind, render_rejection(found), count.machines, found.subject)


def _describe_unannounced(state: UnitState) -> str:
    """Why the names of a unit that is at work cannot be relied on; '' if that is only a matter of two seconds."""
    return f"not announced: {state.unannounced}" if state.unannounced not in ("", NOT_SETTLED) else ""


def make_reports(data: ReportData) -> tuple[schema.UnitReport, ...]:
    """Reports on everything that is a unit or has an allocation, by name."""
    allocations: dict[str, list[schema.AllocationReport]] = {}
    for (machine, name), state in sorted(data.states.items(), key=lambda item: item[0]):
        if not is_gone(state) or (state.error and name in data.units):
            allocations.setdefault(name, []).append(describe_allocation(data, machine, name, state))
    return tuple(
        describe_unit(data.units.get(name), name, data.decisions.get(name), tuple(allocations.get(name, ())))
        for name in sorted({**data.units, **allocations})
    )


def find_strays(
    decisions: Mapping[str, Decision], states: Mapping[tuple[str, str], UnitState]
) -> list[tuple[str, str]]:
    """(machine, unit) of allocations of non-global units on other machines than the assigned one."""
    return [
        (machine, name)
        for machine, name in states
        if (decision := decisions.get(name)) is not None and not decision.machines and decision.machine != machine
    ]


class Reports:
    """The resource."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    async def get_all(self, request: Request, _: str) -> Response:
        """Report units, their placement and its reason: those that the query names, or all."""
        names = request.query_values("name")
        return await self._report(names) if names else await self._report_all()

    async def post(self, request: Request, _: str) -> Response:
        """Report the named units, more than a URL holds."""
        return await self._report(parse_json(request.body, schema.ReportRequest).names)

    async def _report(self, asked: Sequence[str]) -> Response:
        reader = self._registry.at_one_revision()
        names = [name for name in dict.fromkeys(asked) if name and "/" not in name]
        wanted = [(name,) for name in names]
        units = {key[0]: unit for key, unit in (await reader.get_many(UNITS, wanted)).items()}
        decisions = {key[0]: decision for key, decision in (await reader.get_many(DECISIONS, wanted)).items()}
        machines = await reader.machines()
        states = await reader.states_of(names, machines)
        return await _render(reader, units, decisions, machines, states)

    async def _report_all(self) -> Response:
        reader = self._registry.at_one_revision()
        units, decisions = await reader.units(), await reader.decisions()
        machines, states = await reader.machines(), await reader.states()
        return await _render(reader, units, decisions, machines, states)


async def _render(
    reader: Reader,
    units: dict[str, Unit],
    decisions: dict[str, Decision],
    machines: dict[str, Machine],
    states: dict[tuple[str, str], UnitState],
) -> Response:
    # Only placements of strays are read: only they can be superseded.
    placements = await reader.get_many(PLACEMENTS, find_strays(decisions, states))
    with paused_collector():
        return render_json(schema.UnitReports(make_reports(ReportData(units, decisions, machines, states, placements))))
