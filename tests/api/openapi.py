"""The API in OpenAPI's words, for tools that generate requests: made of the discovery document, and of the schema's own
types for version 2, so that what is tried is what is published. Nobody is served this: the discovery document is.
"""

from collections.abc import Mapping
from typing import Any

import msgspec

from fleetd.api import schema
from fleetd.api.v1.discovery import describe_api

_REF = "#/components/schemas/"
_JSON = schema.JSON_TYPE


def render_openapi() -> dict[str, Any]:
    """The document, OpenAPI 3.0."""
    document = describe_api()
    paths: dict[str, dict[str, Any]] = {}
    for resource in document["resources"].values():
        for method in resource["methods"].values():
            path = document["basePath"] + method["path"]
            paths.setdefault(path, {})[method["httpMethod"].lower()] = _render_operation(method)
    (_, reports, question, operations, results, restarts), components = msgspec.json.schema_components(
        [
            schema.ErrorEntity,
            schema.UnitReports,
            schema.Question,
            schema.UnitOperations,
            schema.Results,
            schema.Restarts,
        ],
        ref_template=_REF + "{name}",
    )
    name = {"name": "name", "in": "query", "schema": {"type": "array", "items": {"type": "string"}}}
    paths[f"{schema.V2}/units"] = {
        "get": {"parameters": [name], "responses": _responses(reports)},
        "post": {"requestBody": _body(operations), "responses": _responses(results)},
    }
    paths[f"{schema.V2}/restart"] = {"post": {"requestBody": _body(restarts), "responses": _responses(results)}}
    paths[f"{schema.V2}/reports"] = {"post": {"requestBody": _body(question), "responses": _responses(reports)}}
    machine = {"name": "machine", "in": "path", "required": True, "schema": {"type": "string"}}
    paths[f"{schema.V2}/machines/{{machine}}"] = {"delete": {"parameters": [machine], "responses": _responses(None)}}
    schemas = {name: _render_schema(described) for name, described in document["schemas"].items()} | components
    return {
        "openapi": "3.0.3",
        "info": {"title": document["title"], "version": document["version"]},
        "paths": paths,
        "components": {"schemas": schemas},
    }


def _render_operation(method: Mapping[str, Any]) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": method["id"],
        "parameters": [
            {"name": name, "in": described["location"], "required": described.get("required", False)}
            | {"schema": {"type": described["type"]}}
            for name, described in method["parameters"].items()
        ],
        "responses": _responses(_render_schema(method["response"]) if "response" in method else None),
    }
    if "request" in method:
        operation["requestBody"] = _body(_render_schema(method["request"]))
    return operation


def _body(content: Mapping[str, Any]) -> dict[str, Any]:
    return {"required": True, "content": {_JSON: {"schema": content}}}


def _responses(success: Mapping[str, Any] | None) -> dict[str, Any]:
    """A success with this body, or (None) with none; an error has an entity of its own, whatever its status."""
    error = {"description": "an error", "content": {_JSON: {"schema": {"$ref": _REF + "ErrorEntity"}}}}
    if success is not None:
        done = {"200": {"description": "what there is", "content": {_JSON: {"schema": success}}}}
    else:
        done = {status: {"description": "done"} for status in ("201", "204")}
    return {**done, "default": error}


def _render_schema(described: Mapping[str, Any]) -> dict[str, Any]:
    """A schema of the discovery format in JSON schema's words: a reference is a path, `required` is the object's."""
    rendered = {key: value for key, value in described.items() if key not in ("id", "required", "$ref")}
    if "$ref" in described:
        rendered["$ref"] = _REF + described["$ref"]
    if "items" in described:
        rendered["items"] = _render_schema(described["items"])
    if "properties" in described:
        rendered["properties"] = {name: _render_schema(value) for name, value in described["properties"].items()}
        required = [name for name, value in described["properties"].items() if value.get("required") is True]
        rendered |= {"required": required} if required else {}
    return rendered
