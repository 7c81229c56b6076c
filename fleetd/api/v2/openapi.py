"""The OpenAPI 3.0 description of versions 1 and 2, served at /fleet/v2/openapi.json.

Version 1 is taken from its discovery document, version 2 from the types of schema.py, so neither can fall behind the
code. Only a request for it imports this module.
"""

import inspect
from collections.abc import Mapping
from typing import Any

import msgspec

from fleetd.api import schema
from fleetd.api.v1.discovery import describe_api

_REF = "#/components/schemas/"
_JSON = schema.JSON_TYPE
_TYPES = (
    schema.ErrorEntity,
    schema.UnitReports,
    schema.ReportRequest,
    schema.UnitOperations,
    schema.Results,
    schema.Restarts,
    schema.Leaving,
)


def render_openapi() -> dict[str, Any]:
    """The description, as JSON values."""
    discovery = describe_api()
    _, components = msgspec.json.schema_components(_TYPES, ref_template=_REF + "{name}")
    for component in components.values():
        component["description"] = inspect.cleandoc(component["description"])
    described = {name: _translate(entity) for name, entity in discovery["schemas"].items()}
    return {
        "openapi": "3.0.3",
        "info": {"title": discovery["title"], "version": "v2", "description": discovery["description"]},
        "paths": _describe_v1(discovery) | _describe_v2(),
        "components": {"schemas": described | components},
    }


def _describe_v1(discovery: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    paths: dict[str, dict[str, Any]] = {}
    for resource in discovery["resources"].values():
        for method in resource["methods"].values():
            path = discovery["basePath"] + method["path"]
            paths.setdefault(path, {})[method["httpMethod"].lower()] = _translate_method(method)
    paths[discovery["basePath"] + "discovery"] = {
        "get": _operation("Describe version 1 in Google's discovery format.", _any_object("200"))
    }
    return paths


def _describe_v2() -> dict[str, dict[str, Any]]:
    names = {"name": "name", "in": "query", "schema": {"type": "array", "items": {"type": "string"}}}
    machine = {"name": "machine", "in": "path", "required": True, "schema": {"type": "string"}}
    reports, results = _json("200", schema.UnitReports), _json("200", schema.Results)
    given_up = {"204": {"description": "No content."}}
    return {
        f"{schema.V2}/units": {
            "get": _operation("Report units, their placement and its reason.", reports, parameters=[names]),
            "post": _operation("Create, change or destroy many units.", results, body=schema.UnitOperations),
        },
        f"{schema.V2}/reports": {
            "post": _operation("Report the named units, more than a URL holds.", reports, body=schema.ReportRequest)
        },
        f"{schema.V2}/restart": {
            "post": _operation("Restart units where they run.", results, body=schema.Restarts),
        },
        f"{schema.V2}/machines/{{machine}}": {
            "delete": _operation("Give up a parked machine.", given_up, parameters=[machine])
        },
        f"{schema.V2}/leave": {
            "post": _operation(
                "Make this machine leave the cluster; on its own unix socket only.", _json("200", schema.Leaving)
            )
        },
        f"{schema.V2}/openapi.json": {"get": _operation("Describe versions 1 and 2.", _any_object("200"))},
        "/health": {"get": _operation("Tell whether this fleetd and its store answer.", _any_object("200"))},
    }


def _operation(
    summary: str,
    success: Mapping[str, Any],
    *,
    parameters: list[dict[str, Any]] | None = None,
    body: type[msgspec.Struct] | None = None,
) -> dict[str, Any]:
    operation: dict[str, Any] = {"summary": summary, "responses": _responses(success)}
    if parameters:
        operation["parameters"] = parameters
    if body:
        operation["requestBody"] = _body({"$ref": _REF + body.__name__})
    return operation


def _translate_method(method: Mapping[str, Any]) -> dict[str, Any]:
    """A method of the discovery document as an OpenAPI operation."""
    done = {status: {"description": "Done."} for status in ("201", "204")}
    response = _translate(method["response"]) if "response" in method else None
    operation: dict[str, Any] = {
        "operationId": method["id"],
        "summary": method["description"],
        "parameters": [
            {"name": name, "in": described["location"], "required": described.get("required", False)}
            | {"schema": {"type": described["type"]}}
            for name, described in method["parameters"].items()
        ],
        "responses": _responses(_content("200", response) if response else done),
    }
    if "request" in method:
        operation["requestBody"] = _body(_translate(method["request"]))
    return operation


def _translate(described: Mapping[str, Any]) -> dict[str, Any]:
    """A schema of the discovery document as JSON Schema: references are paths, `required` is a list of the object."""
    schema_ = {key: value for key, value in described.items() if key not in ("id", "required", "$ref")}
    if "$ref" in described:
        schema_["$ref"] = _REF + described["$ref"]
    if "items" in described:
        schema_["items"] = _translate(described["items"])
    if "properties" in described:
        schema_["properties"] = {name: _translate(value) for name, value in described["properties"].items()}
        required = [name for name, value in described["properties"].items() if value.get("required") is True]
        schema_ |= {"required": required} if required else {}
    return schema_


def _body(content: Mapping[str, Any]) -> dict[str, Any]:
    return {"required": True, "content": {_JSON: {"schema": content}}}


def _json(status: str, type_: type[msgspec.Struct]) -> dict[str, Any]:
    return _content(status, {"$ref": _REF + type_.__name__})


def _any_object(status: str) -> dict[str, Any]:
    return _content(status, {"type": "object"})


def _content(status: str, content: Mapping[str, Any]) -> dict[str, Any]:
    return {status: {"description": "Success.", "content": {_JSON: {"schema": content}}}}


def _responses(success: Mapping[str, Any]) -> dict[str, Any]:
    """The responses of an operation: every error has one shape, whatever its status."""
    error = {"description": "An error.", "content": {_JSON: {"schema": {"$ref": _REF + "ErrorEntity"}}}}
    return {**success, "default": error}
