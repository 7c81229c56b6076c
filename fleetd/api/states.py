"""Unit states in version 1: what each machine reports of each unit (reference 4.5)."""

from collections.abc import Mapping

from fleetd.api import schema
from fleetd.api.message import ApiError, Request, Response, render_json
from fleetd.api.pages import cut_page, parse_page
from fleetd.core.unit import TargetState, UnitState
from fleetd.registry import Registry


def is_gone(state: UnitState) -> bool:
    """Whether a report only says that the machine has got rid of the unit."""
    return state.target is TargetState.INACTIVE and not state.runs


def describe_state(machine: str, unit: str, state: UnitState) -> schema.UnitState:
    """The report as version 1 shows it."""
    return schema.UnitState(unit, state.hash, machine, state.load, state.active, state.sub)


def select_states(states: Mapping[tuple[str, ...], UnitState], unit: str = "") -> list[tuple[str, str, UnitState]]:
    """Reports of units that are there, as (unit, machine, state) in that order; '' for a name means any."""
    found = ((name, machine, state) for (machine, name), state in states.items() if not is_gone(state))
    return sorted((report for report in found if unit in ("", report[0])), key=_key)


def _key(report: tuple[str, str, UnitState]) -> str:
    """What the reports are listed by: the unit, then the machine. No name holds what parts them, or comes before it."""
    return f"{report[0]}\n{report[1]}"


class States:
    """The resource."""

    def __init__(self, registry: Registry, token_limit: int) -> None:
        self._registry = registry
        self._token_limit = token_limit

    async def get_all(self, request: Request, _: str) -> Response:
        """One page of states, by unit and machine, of one machine or one unit where the query asks for that."""
        page = parse_page(request, self._token_limit)
        machine, unit = (next(iter(request.query_values(name)), "") for name in ("machineID", "unitName"))
        part = await self._registry.read_part("states", *([machine] if machine else []))
        states, token = cut_page(select_states(part.records, unit), _key, page, part.revision)
        entities = tuple(describe_state(id_, name, state) for name, id_, state in states)
        return render_json(schema.UnitStatePage(entities, token))

    async def get(self, _: Request, name: str) -> Response:
        """The state of one unit: where it belongs if it is there, else on the first machine that has it."""
        found = select_states(await self._registry.read("states"), name)
        if not found:
            raise ApiError(404, "unit state does not exist")
        _unit, decision = await self._registry.unit_and_decision(name)
        home = decision.machine if decision else ""
        unit, machine, state = next((item for item in found if item[1] == home), found[0])
        return render_json(describe_state(machine, unit, state))
