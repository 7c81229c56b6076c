"""How units stand as far as version 1 of the API can tell, in the words of version 2.

For servers that know no other version, such as CoreOS fleet's own. Pure; what is asked of them is client.py's.
"""

from collections.abc import Iterable, Mapping

from fleetd.api import schema
from fleetd.model.constraints import parse_requirements
from fleetd.model.names import parse_name
from fleetd.model.unit import TargetState
from fleetd.model.unitfile import Option, UnitFile, first_value

_GENERATION = 1  # such a server counts none: what a unit has come to tells whether the last wish was carried out


def describe_units(
    units: Iterable[schema.Unit], states: Iterable[schema.UnitState], addresses: Mapping[str, str]
) -> dict[str, schema.UnitReport]:
    """Reports on these units, by name. `addresses` are those of machines, by id."""
    allocations: dict[str, list[schema.UnitState]] = {}
    for state in states:
        allocations.setdefault(state.name, []).append(state)
    return {unit.name: _describe(unit, allocations.get(unit.name, []), addresses) for unit in units}


def _describe(unit: schema.Unit, states: list[schema.UnitState], addresses: Mapping[str, str]) -> schema.UnitReport:
    file = UnitFile.from_options(Option(option.section, option.name, option.value) for option in unit.options)
    is_global = parse_requirements(file.options, parse_name(unit.name)).is_global
    is_oneshot = first_value(file.options, "Service", "Type") == "oneshot"
    return schema.UnitReport(
        name=unit.name,
        target=unit.desired_state,
        generation=_GENERATION,
        hash=file.hash,
        is_global=is_global,
        decided=_GENERATION,
        machine=unit.machine_id,
        machines=len(states) if is_global else 0,
        reason="" if unit.machine_id or is_global else "waits for a machine that it fits on",
        allocations=tuple(_describe_allocation(unit, state, addresses, is_oneshot) for state in states),
    )


def _describe_allocation(
    unit: schema.Unit, state: schema.UnitState, addresses: Mapping[str, str], is_oneshot: bool
) -> schema.AllocationReport:
    is_stopping = unit.desired_state == TargetState.LOADED and state.active not in ("inactive", "failed")
    is_done = unit.current_state == unit.desired_state and not is_stopping
    has_ended = (state.active, state.sub) == ("inactive", "dead")
    return schema.AllocationReport(
        machine=state.machine_id,
        address=addresses.get(state.machine_id, ""),
        load=state.load,
        active=state.active,
        sub=state.sub,
        hash=state.hash,
        target=unit.current_state,
        generation=_GENERATION if is_done else 0,
        completed=is_oneshot and has_ended and is_done and unit.desired_state == TargetState.LAUNCHED,
    )
