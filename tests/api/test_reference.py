"""CoreOS fleet's API as a client on the wire sees it: status, headers and body, to the byte."""

import json
from pathlib import Path
from typing import Any

import pytest

from fleetd import __version__
from fleetd.api.server import Server
from fleetd.config.options import Address
from fleetd.model.machine import Machine
from fleetd.model.placement import Decision
from fleetd.model.unit import TargetState, UnitState
from tests.api.wire import Connection

JSON = {"Content-Type": "application/json"}
OPTIONS = [{"section": "Service", "name": "ExecStart", "value": "/bin/true"}]
OTHER = [{"section": "Service", "name": "ExecStart", "value": "/bin/false"}]
HASH = "ab" * 20


@pytest.fixture
async def wire(fleet: Any, tmp_path: Path) -> Any:
    address = Address(path=str(tmp_path / "fleet.sock"))
    server = Server(fleet.api)
    await server.start([address], insecure=True)
    connection = await Connection.open(address.path)
    yield connection
    connection.close()
    await server.stop()


def error(code: int, message: str) -> bytes:
    return b'{"error":{"code":%d,"message":"%s"}}' % (code, message.encode())


async def fill(fleet: Any) -> None:
    """One of each entity."""
    await fleet.add_unit("web.service", "[Service]\nExecStart=/bin/true\n", "launched")
    await fleet.put(Decision("web.service", 1, machine="m1"), "web.service")
    await fleet.put(UnitState("loaded", "active", "running", HASH, TargetState.LAUNCHED), "m1", "web.service")
    await fleet.put(Machine("m1", address="10.0.0.1", metadata={"b": "2", "a": "1"}), "m1")
    await fleet.put(Machine("m2"), "m2")


UNIT = (
    b'{"currentState":"launched","desiredState":"launched","machineID":"m1","name":"web.service",'
    b'"options":[{"name":"ExecStart","section":"Service","value":"/bin/true"}]}'
)
STATE = (
    b'{"hash":"' + HASH.encode() + b'","machineID":"m1","name":"web.service","systemdActiveState":"active",'
    b'"systemdLoadState":"loaded","systemdSubState":"running"}'
)
MACHINES = b'{"machines":[{"id":"m1","metadata":{"a":"1","b":"2"},"primaryIP":"10.0.0.1"},{"id":"m2"}]}'


@pytest.mark.covers("3.4.7", "4.1.1", "4.1.2", "4.1.5", "4.2.1", "4.2.3")
@pytest.mark.parametrize("root", ["/fleet/v1", "/v1-alpha"])
@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/units", b'{"units":[' + UNIT + b"]}"),
        ("/units?alt=json", b'{"units":[' + UNIT + b"]}"),
        ("/units/web.service", UNIT),
        ("/units/web%2Eservice", UNIT),
        ("/state", b'{"states":[' + STATE + b"]}"),
        ("/state?machineID=m1&unitName=web.service", b'{"states":[' + STATE + b"]}"),
        ("/state?machineID=m2", b"{}"),
        ("/state/web.service", STATE),
        ("/machines", MACHINES),
    ],
)
async def test_reads_answer_as_coreos_fleet_does(
    fleet: Any, wire: Connection, root: str, path: str, body: bytes
) -> None:
    await fill(fleet)
    expected = {**JSON, "Server": f"fleetd/{__version__}", "Content-Length": str(len(body))}
    assert await wire.ask("GET", root + path) == (200, expected, body)
    assert await wire.ask("HEAD", root + path) == (200, expected, b"")


@pytest.mark.covers("4.1.6", "4.1.7", "4.5.3")
@pytest.mark.parametrize(
    ("request_", "status", "headers", "body"),
    [
        ("GET /fleet/v1/units/absent.service", 404, JSON, error(404, "unit does not exist")),
        ("DELETE /fleet/v1/units/absent.service", 404, JSON, error(404, "unit does not exist")),
        ("GET /fleet/v1/state/absent.service", 404, JSON, error(404, "unit state does not exist")),
        ("GET /fleet/v1/machines/m1", 404, JSON, error(404, "")),
        ("GET /fleet/v1/units/", 404, JSON, error(404, "")),
        ("GET /fleet", 404, JSON, error(404, "")),
        ("GET /fleet/v1", 405, {**JSON, "Allow": ""}, error(405, "")),
        (
            "POST /fleet/v1/units",
            405,
            {**JSON, "Allow": "GET, HEAD"},
            error(405, "only GET supported against this resource"),
        ),
        (
            "OPTIONS /fleet/v1/units/web.service",
            405,
            {**JSON, "Allow": "GET, HEAD, PUT, DELETE"},
            error(405, "only GET, PUT and DELETE supported against this resource"),
        ),
        (
            "PUT /fleet/v1/machines",
            405,
            {**JSON, "Allow": "GET, HEAD, PATCH"},
            error(405, "only GET and PATCH supported against this resource"),
        ),
        (
            "PUT /fleet/v1/units/web.service",
            415,
            JSON,
            error(415, "expected 1 Content-Type, got 0"),
        ),
        ("GET /fleet/v1/units?nextPageToken=AgACAA%3D%3D", 400, JSON, error(400, "token limit must be 100")),
        ("GET /fleet/v1/units/../state?a=b", 301, {"Location": "/fleet/v1/state?a=b"}, b""),
        ("GET //fleet/v1/units", 301, {"Location": "/fleet/v1/units"}, b""),
    ],
)
async def test_refusals_and_redirects_answer_as_coreos_fleet_does(
    wire: Connection, request_: str, status: int, headers: dict[str, str], body: bytes
) -> None:
    expected = {**headers, "Server": f"fleetd/{__version__}", "Content-Length": str(len(body))}
    assert await wire.ask(*request_.split()) == (status, expected, body)


@pytest.mark.covers("4.1.2", "4.4.10", "4.6.7", "10.6.13")
async def test_writes_answer_with_a_status_and_no_body(wire: Connection) -> None:
    bare = {"Server": f"fleetd/{__version__}", "Content-Length": "0"}
    done = {"Server": f"fleetd/{__version__}"}
    unit = "/fleet/v1/units/web.service"
    assert await wire.ask("PUT", unit, {"options": OPTIONS}) == (201, bare, b"")
    assert await wire.ask("PUT", unit, {"desiredState": "loaded"}) == (204, done, b"")
    assert await wire.ask("PUT", unit, {"options": OTHER}) == (201, bare, b"")
    json_done = {**done, "Content-Type": "application/json"}  # without a body: clients read it nevertheless
    assert await wire.ask("PATCH", "/fleet/v1/machines", []) == (204, json_done, b"")
    assert await wire.ask("DELETE", unit) == (204, done, b"")


# PUT: of several errors, the first in CoreOS fleet's order is reported.


@pytest.mark.covers("1.1.9", "1.3.2", "4.4.4", "4.4.5", "4.4.6", "4.4.7", "4.4.8", "4.4.9", "4.4.12", "4.4.13")
@pytest.mark.parametrize(
    ("name", "types", "body", "status", "message"),
    [
        ("no name", 0, b"nonsense", 415, "expected 1 Content-Type, got 0"),
        ("no name", 2, b"nonsense", 415, "expected 1 Content-Type, got 2"),
        ("no name", 1, b"nonsense", 400, "unable to decode body: "),
        ("no name", 1, {"name": "other"}, 400, 'name in URL "no name" differs from unit name in request body "other"'),
        ("no name", 1, {"name": "no name"}, 400, 'unit name must contain "."'),
        ("new@.service", 1, {"desiredState": "launched"}, 409, "unit does not exist and options field empty"),
        (
            "new@.service",
            1,
            {
                "desiredState": "launched",
                "options": [
                    {"section": "X-Fleet", "name": "Global", "value": "true"},
                    {"section": "X-Fleet", "name": "MachineID", "value": "m"},
                ],
            },
            400,
            "MachineID cannot be used with Global",
        ),
        ("old@.service", 1, {}, 409, "must provide DesiredState to update existing unit"),
        ("old@.service", 1, {"options": OPTIONS}, 409, "must provide DesiredState to update existing unit"),
        ("old@.service", 1, {"desiredState": "loaded"}, 400, 'cannot activate template "old@.service"'),
    ],
)
async def test_a_put_with_several_errors_reports_the_first(
    fleet: Any, name: str, types: int, body: Any, status: int, message: str
) -> None:
    await fleet.add_unit("old@.service", "[Service]\nExecStart=/bin/true\n")
    headers = tuple(JSON.items()) * types
    refusal = await fleet.refused(f"PUT /fleet/v1/units/{name.replace(' ', '%20')}", body, headers)
    assert refusal[0] == status
    assert refusal[1].startswith(message)


@pytest.mark.covers("4.4.11", "4.4.14")
@pytest.mark.parametrize(
    ("body", "status", "target", "options"),
    [
        ({"options": OTHER}, 201, "inactive", OTHER),
        ({"options": OTHER, "desiredState": "loaded"}, 201, "loaded", OTHER),
        ({"options": OPTIONS, "desiredState": "loaded"}, 204, "loaded", OPTIONS),
        ({"desiredState": "inactive"}, 204, "inactive", OPTIONS),
        ({"desiredState": "launched", "machineID": "m9", "currentState": "x"}, 204, "launched", OPTIONS),
    ],
)
async def test_a_put_of_an_existing_unit_replaces_it_or_changes_its_target(
    fleet: Any, body: Any, status: int, target: str, options: Any
) -> None:
    await fleet.add_unit("web.service", "[Service]\nExecStart=/bin/true\n", "launched")
    assert (await fleet.ask("PUT /fleet/v1/units/web.service", body)).status == status
    shown = json.loads((await fleet.ask("GET /fleet/v1/units/web.service")).body)
    assert (shown["desiredState"], shown["options"]) == (target, options)
