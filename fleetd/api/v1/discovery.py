"""The description of version 1 in Google's discovery format, generated from schema.py.

`$ENDPOINT` is literal, as in CoreOS fleet's document.
"""

from collections.abc import Mapping
from types import UnionType
from typing import Any, get_args, get_origin

import msgspec

from fleetd.api import schema
from fleetd.api.v1.machines import EDITED_PATH, OPERATIONS
from fleetd.model.unit import TargetState
from fleetd.model.unit_option import UnitOption

_ENTITIES: tuple[type[msgspec.Struct], ...] = (
    schema.Cordon,
    schema.Drain,
    schema.Machine,
    schema.MachinePage,
    schema.Unit,
    UnitOption,
    schema.UnitPage,
    schema.UnitState,
    schema.UnitStatePage,
)
_STATES = {"desiredState": list(TargetState), "currentState": list(TargetState)}
_SET = "Create, change, start or stop a unit; with the header If-None-Match: * only create it."
_READ_ONLY = ("currentState", "machineID")


def _describe_type(type_: Any) -> dict[str, Any]:
    if get_origin(type_) is tuple:
        return {"type": "array", "items": _describe_type(get_args(type_)[0])}
    if get_origin(type_) is dict:
        return {"type": "object", "additionalProperties": _describe_type(get_args(type_)[1])}
    if get_origin(type_) is UnionType:  # a struct or None
        return _describe_type(get_args(type_)[0])
    if issubclass(type_, msgspec.Struct):
        return {"$ref": type_.__name__}
    return {"type": {float: "number", bool: "boolean"}.get(type_, "string")}


def _describe_entity(entity: type[msgspec.Struct]) -> dict[str, Any]:
    properties = {}
    for field in msgspec.structs.fields(entity):
        properties[field.encode_name] = _describe_type(field.type)
        if field.encode_name in _STATES and entity is schema.Unit:
            properties[field.encode_name]["enum"] = _STATES[field.encode_name]
        if field.encode_name in _READ_ONLY and entity is schema.Unit:
            properties[field.encode_name]["readOnly"] = True
    return {"id": entity.__name__, "type": "object", "properties": properties}


def _describe_edits() -> dict[str, Any]:
    """The body of a PATCH of machines: a list of operations."""
    properties = {
        "op": {"type": "string", "enum": list(OPERATIONS), "required": True},
        "path": {"type": "string", "pattern": f"^{EDITED_PATH.pattern}$", "required": True},
        "value": {"type": "string", "description": "What add and replace set the key to."},
    }
    return {
        "MetadataEdit": {"id": "MetadataEdit", "type": "object", "properties": properties},
        "MetadataEdits": {"id": "MetadataEdits", "type": "array", "items": {"$ref": "MetadataEdit"}},
    }


def _describe_method(
    id_: str,
    method: str,
    path: str,
    description: str,
    *,
    request: str = "",
    response: str = "",
    query: Mapping[str, str] = {},
) -> dict[str, Any]:
    """`query` maps the parameters to their types."""
    named = path.partition("{")[2].rstrip("}")
    parameters: dict[str, dict[str, Any]] = {
        name: {"type": type_, "location": "query"} for name, type_ in query.items()
    }
    if named:
        parameters[named] = {"type": "string", "location": "path", "required": True}
    described: dict[str, Any] = {
        "id": id_,
        "httpMethod": method,
        "path": path,
        "description": description,
        "parameters": parameters,
    }
    if named:
        described["parameterOrder"] = [named]
    if request:
        described["request"] = {"$ref": request}
    if response:
        described["response"] = {"$ref": response}
    return described


def _describe_resources() -> dict[str, Any]:
    page = {"nextPageToken": "string", "limit": "integer"}
    filters = {"unitName": "string", "machineID": "string"}
    describe = _describe_method
    machines = (
        describe("fleet.Machine.List", "GET", "machines", "List machines.", response="MachinePage", query=page),
        describe("fleet.Machine.Edit", "PATCH", "machines", "Change machines' metadata.", request="MetadataEdits"),
    )
    units = (
        describe("fleet.Unit.List", "GET", "units", "List units.", response="UnitPage", query=page),
        describe("fleet.Unit.Get", "GET", "units/{unitName}", "Show a unit.", response="Unit"),
        describe("fleet.Unit.Delete", "DELETE", "units/{unitName}", "Destroy a unit."),
        describe("fleet.Unit.Set", "PUT", "units/{unitName}", _SET, request="Unit"),
    )
    states = (
        describe("fleet.UnitState.Get", "GET", "state/{unitName}", "Show a unit's state.", response="UnitState"),
        describe(
            "fleet.UnitState.List", "GET", "state", "List states.", response="UnitStatePage", query={**page, **filters}
        ),
    )
    return {
        name: {"methods": {method["id"].rpartition(".")[2]: method for method in methods}}
        for name, methods in (("Machines", machines), ("Units", units), ("UnitState", states))
    }


def describe_api() -> dict[str, Any]:
    """The document."""
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
        "schemas": {entity.__name__: _describe_entity(entity) for entity in _ENTITIES} | _describe_edits(),
        "resources": _describe_resources(),
    }
