"""The discovery document, and a client generated from it alone that can do everything."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Callable
from typing import Any

import httplib2
import pytest
from googleapiclient import discovery
from googleapiclient.errors import HttpError

from fleetd.api.server import Server
from fleetd.config.options import Address
from fleetd.model.machine import Machine, MachineSettings
from fleetd.model.unit import TargetState, UnitState

RUNNING = UnitState("loaded", "active", "running", "ab" * 20, TargetState.LAUNCHED, 7)


@pytest.fixture
async def document(fleet: Any) -> Any:
    response = await fleet.ask("GET /fleet/v1/discovery")
    assert response.status == 200
    return json.loads(response.body)


@pytest.mark.covers("4.1.13", "4.7.1")
async def test_the_document_names_the_api_and_no_endpoint(document: Any) -> None:
    named = {key: value for key, value in document.items() if isinstance(value, str) and key != "description"}
    assert named == {
        "kind": "discovery#restDescription",
        "discoveryVersion": "v1",
        "id": "fleet:v1",
        "name": "schema",
        "version": "v1",
        "title": "fleet API",
        "protocol": "rest",
        "basePath": "/fleet/v1/",
        "servicePath": "fleet/v1/",
        "batchPath": "batch",
        "rootUrl": "$ENDPOINT/",
        "baseUrl": "$ENDPOINT/fleet/v1/",
    }


@pytest.mark.covers("4.2.1", "4.2.2", "4.2.3", "4.2.4", "4.2.5", "4.2.6", "4.2.7", "4.2.8", "4.7.2")
async def test_the_document_describes_every_entity(document: Any) -> None:
    schemas = document["schemas"]
    assert {name: sorted(schema.get("properties", {})) for name, schema in schemas.items()} == {
        "Cordon": ["at", "by", "why"],
        "Drain": ["at", "by", "deadline", "force", "withGlobals"],
        "Machine": [
            "certificateExpires",
            "cordon",
            "drain",
            "id",
            "metadata",
            "mode",
            "primaryIP",
            "reboot",
            "rebootRequired",
        ],
        "MachinePage": ["machines", "nextPageToken"],
        "MetadataEdit": ["op", "path", "value"],
        "MetadataEdits": [],
        "Unit": ["currentState", "desiredState", "machineID", "name", "options"],
        "UnitOption": ["name", "section", "value"],
        "UnitPage": ["nextPageToken", "units"],
        "UnitState": [
            "hash",
            "machineID",
            "name",
            "systemdActiveState",
            "systemdLoadState",
            "systemdSubState",
        ],
        "UnitStatePage": ["nextPageToken", "states"],
    }
    assert schemas["Unit"]["properties"] == {
        "name": {"type": "string"},
        "options": {"type": "array", "items": {"$ref": "UnitOption"}},
        "desiredState": {"type": "string", "enum": ["inactive", "loaded", "launched"]},
        "currentState": {"type": "string", "enum": ["inactive", "loaded", "launched"], "readOnly": True},
        "machineID": {"type": "string", "readOnly": True},
    }
    assert schemas["Machine"]["properties"]["cordon"] == {"$ref": "Cordon"}
    assert schemas["Cordon"]["properties"]["at"] == {"type": "number"}
    metadata = schemas["Machine"]["properties"]["metadata"]
    assert metadata == {"type": "object", "additionalProperties": {"type": "string"}}


@pytest.mark.covers("4.7.3", "4.7.4")
async def test_the_document_describes_every_method(document: Any) -> None:
    def summary(method: Any) -> tuple[Any, ...]:
        places = {name: parameter["location"] for name, parameter in method["parameters"].items()}
        references = [method.get(key, {}).get("$ref", "") for key in ("request", "response")]
        return (method["id"], method["httpMethod"], method["path"], places, *references)

    page = {"nextPageToken": "query", "limit": "query"}
    one = {"unitName": "path"}
    methods = {
        f"{name}.{called}": summary(method)
        for name, resource in document["resources"].items()
        for called, method in resource["methods"].items()
    }
    assert methods == {
        "Machines.List": ("fleet.Machine.List", "GET", "machines", page, "", "MachinePage"),
        "Machines.Edit": ("fleet.Machine.Edit", "PATCH", "machines", {}, "MetadataEdits", ""),
        "Units.List": ("fleet.Unit.List", "GET", "units", page, "", "UnitPage"),
        "Units.Get": ("fleet.Unit.Get", "GET", "units/{unitName}", one, "", "Unit"),
        "Units.Set": ("fleet.Unit.Set", "PUT", "units/{unitName}", one, "Unit", ""),
        "Units.Delete": ("fleet.Unit.Delete", "DELETE", "units/{unitName}", one, "", ""),
        "UnitState.Get": ("fleet.UnitState.Get", "GET", "state/{unitName}", one, "", "UnitState"),
        "UnitState.List": (
            "fleet.UnitState.List",
            "GET",
            "state",
            {**page, "unitName": "query", "machineID": "query"},
            "",
            "UnitStatePage",
        ),
    }


# A client generated from the document


@pytest.fixture
async def client(fleet: Any, document: Any) -> AsyncIterator[Any]:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = Address(host="127.0.0.1", port=taken.getsockname()[1])
    server = Server(fleet.api)
    await server.start([address], insecure=True)
    described = json.dumps(document).replace("$ENDPOINT", f"http://{address}")
    http = httplib2.Http(proxy_info=None, timeout=60)
    made = await asyncio.to_thread(discovery.build_from_document, described, http=http)
    yield made
    made.close()
    await server.stop()


async def do(request: Callable[[], Any]) -> Any:
    """Build a request and send it, outside the loop that serves it."""
    return await asyncio.to_thread(lambda: request().execute())


async def test_a_generated_client_creates_shows_changes_and_destroys_units(client: Any) -> None:
    units = client.Units()
    name = "foo\\x2dbar@1.service"
    unit = {"desiredState": "loaded", "options": [{"section": "Service", "name": "ExecStart", "value": "/bin/a <&>"}]}
    await do(lambda: units.Set(unitName=name, body=unit))
    assert await do(lambda: units.Get(unitName=name)) == {**unit, "name": name, "currentState": "inactive"}
    await do(lambda: units.Set(unitName=name, body={"desiredState": "launched"}))
    assert (await do(lambda: units.Get(unitName=name)))["desiredState"] == "launched"
    await do(lambda: units.Delete(unitName=name))
    with pytest.raises(HttpError, match="unit does not exist") as refusal:
        await do(lambda: units.Get(unitName=name))
    assert refusal.value.resp.status == 404


@pytest.mark.covers("4.3.1")
async def test_a_generated_client_reads_all_pages(client: Any, fleet: Any) -> None:
    for number in range(5):
        await fleet.add_unit(f"u{number}.service")
    units = client.Units()
    request = units.List(limit=2)
    found = await do(lambda: request)
    names = [unit["name"] for unit in found["units"]]
    while "nextPageToken" in found:
        token = found["nextPageToken"]
        found = await do(lambda token=token: units.List(limit=2, nextPageToken=token))
        names += [unit["name"] for unit in found["units"]]
    assert names == [f"u{number}.service" for number in range(5)]


async def test_a_generated_client_reads_states_by_unit_and_machine(client: Any, fleet: Any) -> None:
    for machine, unit in (("m1", "a.service"), ("m2", "a.service"), ("m2", "b.service")):
        await fleet.put(RUNNING, machine, unit)
    states = client.UnitState()
    assert (await do(lambda: states.Get(unitName="b.service")))["machineID"] == "m2"
    found = await do(lambda: states.List(unitName="a.service", machineID="m2"))
    assert [(state["name"], state["machineID"]) for state in found["states"]] == [("a.service", "m2")]


@pytest.mark.covers("4.7.3", "4.7.4")
async def test_a_generated_client_lists_machines_and_edits_their_metadata(client: Any, fleet: Any) -> None:
    await fleet.put(Machine("m1", metadata={"a": "1", "b": "2"}), "m1")
    edits = [
        {"op": "add", "path": "/m1/metadata/c", "value": "3"},
        {"op": "remove", "path": "/m1/metadata/a"},
    ]
    await do(lambda: client.Machines().Edit(body=edits))
    assert await fleet.registry.settings() == {"m1": MachineSettings({"c": "3", "a": ""})}
    found = await do(lambda: client.Machines().List())
    assert found == {"machines": [{"id": "m1", "metadata": {"b": "2", "c": "3"}}]}
