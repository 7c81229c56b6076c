"""One unit in version 2: its unit file and its drop-ins."""

from fleetd.api import schema
from fleetd.api.http import ApiError, Request, Response, render_json
from fleetd.api.unit_operations import NOT_FOUND
from fleetd.api.v1.units import options_of
from fleetd.model.names import InvalidName, validate_name
from fleetd.model.unit import Unit
from fleetd.registry.records import UNITS
from fleetd.registry.registry import Registry


def describe_content(unit: Unit) -> schema.UnitContent:
    """The unit with its whole content."""
    return schema.UnitContent(
        unit.name,
        unit.generation,
        unit.target,
        unit.content.hash,
        options_of(unit.text),
        tuple(schema.DropIn(dropin.name, dropin.text) for dropin in unit.dropins),
    )


class Contents:
    """The resource."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    async def get(self, _: Request, name: str) -> Response:
        """Show a unit with its unit file and its drop-ins."""
        try:
            validate_name(name)
        except InvalidName as error:
            raise ApiError(404, NOT_FOUND) from error
        unit = (await self._registry.get_many(UNITS, [(name,)])).get((name,))
        if unit is None:
            raise ApiError(404, NOT_FOUND)
        return render_json(describe_content(unit))
