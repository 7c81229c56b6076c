"""The OpenAPI 3.0 description of versions 1 and 2, served at /fleet/v2/openapi.json.

Version 1 is taken from its discovery document, the rest from the routes and the types of schema.py, so neither can fall
behind the code. Only a request for it imports this module.
"""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from fleetd.api import schema
from fleetd.api.http import Route
from fleetd.api.v1.discovery import describe_api

_REF = "#/components/schemas/"
_JSON = schema.JSON_TYPE


def render_openapi(routes: Sequence[Route]) -> dict[str, Any]:
    """The description of these routes, without the files of the web page, as JSON values."""
    discovery = describe_api()
    paths = _describe_v1(discovery)
    types: dict[Any, None] = {schema.ErrorEntity: None}
    for route in routes:
        if route.is_page:
            continue
        if route.method.lower() not in paths.setdefault(route.path, {}):
            paths[route.path][route.method.lower()] = _describe(route)
            types |= {type_: None for type_ in (route.body, route.answer) if type_ not in (None, dict, list, bytes)}
    _, components = msgspec.json.schema_components(types, ref_template=_REF + "{name}")
    for component in components.values():
        component["description"] = inspect.cleandoc(component["description"])
    described = {name: _translate(entity) for name, entity in discovery["schemas"].items()}
    return {
        "openapi": "3.0.3",
        "info": {"title": discovery["title"], "version": "v2", "description": discovery["description"]},
        "paths": paths,
        "components": {"schemas": described | components},
    }


def _describe_v1(discovery: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    paths: dict[str, dict[str, Any]] = {}
    for resource in discovery["resources"].values():
        for method in resource["methods"].values():
            path = discovery["basePath"] + method["path"]
            paths.setdefault(path, {})[method["httpMethod"].lower()] = _translate_method(method)
    return paths


def _describe(route: Route) -> dict[str, Any]:
    """A route as an OpenAPI operation."""
    operation: dict[str, Any] = {
        "summary": inspect.getdoc(route.handler),
        "responses": _responses(_describe_answer(route)),
    }
    if route.parameter:
        operation["parameters"] = [
            {"name": route.parameter, "in": "path", "required": True, "schema": {"type": "string"}}
        ]
    repeated = {"type": "array", "items": {"type": "string"}}
    query = dict.fromkeys(route.query.split(), repeated) | {name: {"type": "string"} for name in route.options.split()}
    if query:
        named = [{"name": name, "in": "query", "schema": kind} for name, kind in query.items()]
        operation.setdefault("parameters", []).extend(named)
    if route.body:
        operation["requestBody"] = _body({"$ref": _REF + route.body.__name__})
    return operation


def _describe_answer(route: Route) -> dict[str, Any]:
    if route.answer is None:
        return {"204": {"description": "No content."}}
    if route.answer is bytes:
        return {"200": {"description": "Success.", "content": {"text/plain": {"schema": {"type": "string"}}}}}
    if route.is_streamed:
        lines = {"schema": {"$ref": _REF + route.answer.__name__}}
        kinds = ("application/x-ndjson", "text/event-stream")
        return {"200": {"description": "Success.", "content": dict.fromkeys(kinds, lines)}}
    if route.answer is list:
        return _content("200", {"type": "array", "items": {"type": "object"}})
    return _content("200", {"type": "object"} if route.answer is dict else {"$ref": _REF + route.answer.__name__})


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


def _content(status: str, content: Mapping[str, Any]) -> dict[str, Any]:
    return {status: {"description": "Success.", "content": {_JSON: {"schema": content}}}}


def _responses(success: Mapping[str, Any]) -> dict[str, Any]:
    """The responses of an operation: every error has one shape, whatever its status."""
    error = {"description": "An error.", "content": {_JSON: {"schema": {"$ref": _REF + "ErrorEntity"}}}}
    return {**success, "default": error}
