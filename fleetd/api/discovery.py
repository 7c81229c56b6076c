"""The document that describes version 1 to generic clients, in Google's discovery format (reference 4.7).

The entities are read off schema.py, so that the document cannot fall behind them. `$ENDPOINT` stands there literally:
it is for the reader to fill in.
"""

from typing import Any, get_args, get_origin

import msgspec

from fleetd.api import schema
from fleetd.core.unit import TargetState

_ENTITIES: tuple[type[msgspec.Struct], ...] = (
    schema.Machine,
    schema.MachinePage,
    schema.Unit,
    schema.UnitOption,
    schema.UnitPage,
    schema.UnitState,
    schema.UnitStatePage,
)
_STATES = {"desiredState": list(TargetState), "currentState": list(TargetState)}


def _describe_type(type_: Any) -> dict[str, Any]:
    if get_origin(type_) is tuple:
        return {"type": "array", "items": _describe_type(get_args(type_)[0])}
    if get_origin(type_) is dict:
        return {"type": "object", "additionalProperties": _describe_type(get_args(type_)[1])}
    if issubclass(type_, msgspec.Struct):
        return {"$ref": type_.__name__}
    return {"type": "string"}


def _describe_entity(entity: type[msgspec.Struct]) -> dict[str, Any]:
    properties = {}
    for field in msgspec.structs.fields(entity):
        properties[field.encode_name] = _describe_type(field.type)
        if field.encode_name in _STATES and entity is schema.Unit:
            properties[field.encode_name]["enum"] = _STATES[field.encode_name]
    return {"id": entity.__name__, "type": "object", "properties": properties}


def _describe_method(
    id_: str, method: str, path: str, request: str = "", response: str = "", query: tuple[str, ...] = ()
) -> dict[str, Any]:
    named = path.partition("{")[2].rstrip("}")
    parameters: dict[str, dict[str, Any]] = {name: {"type": "string", "location": "query"} for name in query}
    if named:
        parameters[named] = {"type": "string", "location": "path", "required": True}
    described: dict[str, Any] = {"id": id_, "httpMethod": method, "path": path, "parameters": parameters}
    if named:
        described["parameterOrder"] = [named]
    if request:
        described["request"] = {"$ref": request}
    if response:
        described["response"] = {"$ref": response}
    return described


def describe_api() -> dict[str, Any]:
    """The document."""
    token = ("nextPageToken",)
    machines = {"List": _describe_method("fleet.Machine.List", "GET", "machines", "", "MachinePage", token)}
    units = {
        "List": _describe_method("fleet.Unit.List", "GET", "units", "", "UnitPage", token),
        "Get": _describe_method("fleet.Unit.Get", "GET", "units/{unitName}", "", "Unit"),
        "Delete": _describe_method("fleet.Unit.Delete", "DELETE", "units/{unitName}"),
        "Set": _describe_method("fleet.Unit.Set", "PUT", "units/{unitName}", "Unit"),
    }
    filters = (*token, "unitName", "machineID")
    states = {
        "Get": _describe_method("fleet.UnitState.Get", "GET", "state/{unitName}", "", "UnitState"),
        "List": _describe_method("fleet.UnitState.List", "GET", "state", "", "UnitStatePage", filters),
    }
    base = schema.V1 + "/"
    return {
        "kind": "discovery#restDescription",
        "discoveryVersion": "v1",
        "id": "fleet:v1",
        "name": "schema",
        "version": "v1",
        "title": "fleet API",
        "description": "Units, their states, and the machines of a cluster.",
        "protocol": "rest",
        "rootUrl": "$ENDPOINT/",
        "baseUrl": f"$ENDPOINT{base}",
        "basePath": base,
        "servicePath": base.lstrip("/"),
        "batchPath": "batch",
        "parameters": {},
        "auth": {},
        "schemas": {entity.__name__: _describe_entity(entity) for entity in _ENTITIES},
        "resources": {
            "Machines": {"methods": machines},
            "Units": {"methods": units},
            "UnitState": {"methods": states},
        },
    }
