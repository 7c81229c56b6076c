"""Unit states in version 1: the state of each unit on each machine.

They are stored by machine and listed by unit, so the first page reads all of them. The listing is kept for a moment,
for the next pages.
"""

import asyncio
from collections.abc import Iterable

import msgspec

from fleetd.api import schema
from fleetd.api.http import ApiError, Request, Response, render_json
from fleetd.api.pagination import Page, cut_page, parse_page
from fleetd.model.unit import TargetState, UnitState
from fleetd.registry.records import MACHINES, STATES
from fleetd.registry.registry import Reader, Registry

HELD_S = 10.0  # how long a listing is kept for its next page

Report = tuple[str, str, UnitState]  # unit, machine, state


def is_gone(state: UnitState) -> bool:
    """True if the state only says that the machine has removed the unit."""
    return state.target is TargetState.INACTIVE and not state.runs


def describe_state(machine: str, unit: str, state: UnitState) -> schema.UnitState:
    """The state as version 1 shows it."""
    return schema.UnitState(unit, state.hash, machine, state.load, state.active, state.sub)


def select_states(states: Iterable[tuple[tuple[str, ...], UnitState]], unit: str = "") -> list[Report]:
    """(unit, machine, state) of what machines have, sorted; `unit` '' means all."""
    found = ((name, machine, state) for (machine, name), state in states if not is_gone(state))
    return sorted((report for report in found if unit in ("", report[0])), key=_key)


def _key(report: Report) -> str:
    """The sort key: unit, then machine. No name has a character at or below the newline."""
    return f"{report[0]}\n{report[1]}"


class Listing(msgspec.Struct, frozen=True):
    """Sorted reports, as of one revision of the store."""

    reports: list[Report]
    revision: int


class States:
    """The resource. Needs a running event loop."""

    def __init__(self, registry: Registry, token_limit: int, held_s: float = HELD_S) -> None:
        self._registry = registry
        self._token_limit = token_limit
        self._held_s = held_s
        self._held: Listing | None = None
        self._timer: asyncio.TimerHandle | None = None

    async def get_all(self, request: Request, _: str) -> Response:
        """One page of states by unit and machine, filtered by machineID and unitName."""
        page = parse_page(request, self._token_limit)
        machine, unit = (next(iter(request.query_values(name)), "") for name in ("machineID", "unitName"))
        held = None if machine or unit else self._find_held(page)
        listing = held or await _list(self._registry.at_one_revision(), machine, unit)
        reports, token = cut_page(listing.reports, _key, page, listing.revision)
        if not machine and not unit:
            self._hold(listing if token else None)
        entities = tuple(describe_state(id_, name, state) for name, id_, state in reports)
        return render_json(schema.UnitStatePage(entities, token))

    async def get(self, _: Request, name: str) -> Response:
        """The state of one unit on its assigned machine, else on the first machine that has it."""
        reader = self._registry.at_one_revision()
        found = (await _list(reader, "", name)).reports
        if not found:
            raise ApiError(404, "unit state does not exist")
        _unit, decision = await reader.unit_and_decision(name)
        assigned = decision.machine if decision else ""
        unit, machine, state = next((item for item in found if item[1] == assigned), found[0])
        return render_json(describe_state(machine, unit, state))

    def _find_held(self, page: Page) -> Listing | None:
        """The kept listing of all states, for a later page whose token is not newer."""
        if self._held and not page.is_first and page.revision <= self._held.revision:
            return self._held
        return None

    def _hold(self, listing: Listing | None) -> None:
        """Keep the listing for the next page, until the timer drops it."""
        if self._timer:
            self._timer.cancel()
        self._held = listing
        self._timer = asyncio.get_running_loop().call_later(self._held_s, self._hold, None) if listing else None


async def _list(reader: Reader, machine: str, unit: str) -> Listing:
    """The states on one machine ('': on all), of one unit ('': of all)."""
    if unit and not machine:  # one key for each machine
        machines = await reader.read_page(MACHINES)
        states = await reader.states_of([unit], [names[0] for names in machines.records])
        return Listing(select_states(states.items()), machines.revision)
    page = await reader.read_page(STATES, *([machine] if machine else []))
    return Listing(select_states(page.records.items(), unit), page.revision)
