"""A small API server with state: what fleetctl sees of a cluster, without a cluster behind it.

It keeps units as the real one does (generations, 201/204/400/409, pages), places them on machines by a rule each unit's
Fate gives, and moves on at every read, never by the clock. Faults make it answer as a sick or a foreign server would.
"""

import json
import os
import socketserver
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import msgspec

from fleetd.api import schema
from fleetd.model.constraints import parse_requirements
from fleetd.model.names import InvalidName, parse_name, validate_name
from fleetd.model.unitfile import UnitFile

PAGE_SIZE = 2
M1 = schema.Machine(id="1" * 32, primary_ip="10.0.0.1", metadata={"region": "eu", "disk": "ssd"})
M2 = schema.Machine(id="2" * 32, primary_ip="", metadata={})


def reject(machines: Mapping[str, int]) -> Iterator[schema.RejectionCount]:
    """Rejections of which only the sentence matters, with the number of machines of each."""
    return (schema.RejectionCount("metadata", message, count) for message, count in machines.items())


class Fate(msgspec.Struct):
    """How a unit fares when it is launched: where (None: nowhere, because of `reason`), and what becomes of it there.

    `error` with `carried_out` false is that of a step that the machine could not do. `stuck`: nothing ever happens.
    `lingers`: for how many reads a copy still runs that was told to stop.
    """

    machine: schema.Machine | None = M1
    load: str = "loaded"
    active: str = "active"
    sub: str = "running"
    completed: bool = False
    error: str = ""
    carried_out: bool = True
    reason: str = ""
    waits: str = ""
    rejections: dict[str, int] = {}
    stuck: bool = False
    lingers: int = 1


class Held(msgspec.Struct):
    """A unit, and how far the cluster is with it."""

    content: UnitFile
    target: str
    generation: int
    decided: int = 0
    machine: schema.Machine | None = None
    copy: schema.AllocationReport | None = None
    lingered: int = 0
    restarts: int = 0


class Refused(Exception):
    """An error entity."""

    def __init__(self, code: int, message: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class FakeApi:
    """The state, and the calls over it. `requests` lists what was asked: (method, path without query); `bodies` what
    came with a PUT, or as one of many wishes. `before_request` may answer in the place of the API; it is asked about
    each of many wishes as if that had come alone.
    """

    def __init__(self) -> None:
        self.machines = [M1, M2]
        self.units: dict[str, Held] = {}
        self.gone: dict[str, Held] = {}
        self.fates: dict[str, Fate] = {}
        self.requests: list[tuple[str, str]] = []
        self.bodies: list[dict[str, Any]] = []
        self.before_request: Callable[[str, str], tuple[int, str, bytes] | None] = lambda method, path: None
        self._generation = 0
        self._lock = threading.Lock()

    def add(self, name: str, text: str = "[Service]\nExecStart=/bin/true\n", target: str = "inactive") -> None:
        """Have a unit in the cluster, settled in its target state."""
        self._generation += 1
        self.units[name] = Held(UnitFile.parse(text), target, self._generation)
        while self._advance(name, self.units[name]):
            pass

    def fate(self, name: str) -> Fate:
        return self.fates.get(name, Fate())

    def handle(self, method: str, url: str, headers: Mapping[str, str], body: bytes) -> tuple[int, str, bytes]:
        """One request: status, content type, body."""
        path, query = unquote(urlsplit(url).path), parse_qs(urlsplit(url).query)
        with self._lock:
            self.requests.append((method, path))
            return self._answer(method, path, query, headers, body)

    def _answer(
        self, method: str, path: str, query: dict[str, list[str]], headers: Mapping[str, str], body: bytes
    ) -> tuple[int, str, bytes]:
        special = self.before_request(method, path)
        if special is not None:
            return special
        try:
            status, answer = self._route(method, path, query, headers, body)
        except Refused as refused:
            error = schema.ErrorEntity(schema.ErrorDetail(refused.code, refused.message))
            return refused.code, schema.JSON_TYPE, msgspec.json.encode(error)
        return status, schema.JSON_TYPE, b"" if answer is None else msgspec.json.encode(answer)

    def _route(
        self, method: str, path: str, query: dict[str, list[str]], headers: Mapping[str, str], body: bytes
    ) -> tuple[int, Any]:
        if path.startswith("/fleet/v1/units/"):
            name = path.removeprefix("/fleet/v1/units/")
            calls = {"GET": self._get, "PUT": self._put, "DELETE": self._delete}
            return calls[method](name, headers, body)
        if method == "DELETE" and path.startswith("/fleet/v2/machines/"):
            return self._forget_machine(path.removeprefix("/fleet/v2/machines/"))
        if method == "POST" and path == "/fleet/v2/units":
            operations = msgspec.json.decode(body, type=schema.UnitOperations).operations
            return 200, schema.Results(tuple(map(self._carry_out, operations)))
        if method == "POST" and path == "/fleet/v2/restart":
            return 200, schema.Results(tuple(map(self._restart, msgspec.json.decode(body, type=schema.Restarts).names)))
        if method == "POST" and path == "/fleet/v2/reports":
            return 200, schema.UnitReports(
                tuple(self._reports(msgspec.json.decode(body, type=schema.ReportRequest).names))
            )
        if method != "GET":
            raise Refused(405, "only GET supported against this resource")
        if path == "/fleet/v1/units":
            items = [self._describe(name) for name in sorted(self.units)]
            return 200, schema.UnitPage(*_cut(items, query))
        if path == "/fleet/v1/state":
            return 200, schema.UnitStatePage(*_cut(self._states(query.get("unitName", [""])[0]), query))
        if path == "/fleet/v1/machines":
            return 200, schema.MachinePage(*_cut(self.machines, query))
        if path == "/fleet/v2/units":
            return 200, schema.UnitReports(tuple(self._reports(query.get("name", sorted({**self.gone, **self.units})))))
        raise Refused(404)

    def _forget_machine(self, id_: str) -> tuple[int, Any]:
        machine = next((machine for machine in self.machines if machine.id == id_), None)
        if machine is None:
            raise Refused(404, "machine does not exist")
        if machine.mode != "parked":
            raise Refused(409, "machine is not parked: its fleetd is running; run `fleetd leave` there")
        self.machines.remove(machine)
        return 204, None

    def _restart(self, name: str) -> schema.Result:
        held = self.units.get(name)
        if held is None:
            return schema.Result(name, 404, "unit does not exist")
        if held.target == "inactive":
            why = "is inactive, so there is nothing to restart: start it instead"
            return schema.Result(name, 409, f'unit "{name}" {why}')
        self._generation += 1
        held.generation = self._generation
        held.restarts += 1
        return schema.Result(name, 204)

    def _carry_out(self, operation: schema.UnitOperation) -> schema.Result:
        path = f"/fleet/v1/units/{operation.name}"
        if operation.destroy:
            status, _, content = self._answer("DELETE", path, {}, {}, b"")
        else:
            headers = {"Content-Type": schema.JSON_TYPE} | ({"If-None-Match": "*"} if operation.only_new else {})
            unit = schema.Unit(operation.name, operation.options, operation.desired_state)
            status, _, content = self._answer("PUT", path, {}, headers, msgspec.json.encode(unit))
        message = msgspec.json.decode(content, type=schema.ErrorEntity).error.message if status >= 400 else ""
        return schema.Result(operation.name, status, message)

    def _get(self, name: str, headers: Mapping[str, str], body: bytes) -> tuple[int, Any]:
        if name not in self.units:
            raise Refused(404, "unit does not exist")
        return 200, self._describe(name)

    def _put(self, name: str, headers: Mapping[str, str], body: bytes) -> tuple[int, Any]:
        if headers.get("Content-Type") != schema.JSON_TYPE:
            raise Refused(415, "only acceptable Content-Type is application/json")
        operation = msgspec.json.decode(body, type=schema.Unit)
        self.bodies.append(json.loads(body))
        try:
            validate_name(name)
        except InvalidName as error:
            raise Refused(400, str(error)) from error
        held = self.units.get(name)
        if held is not None and headers.get("If-None-Match") == "*":
            raise Refused(412, f'unit "{name}" exists already')
        content = UnitFile.from_options(operation.options)
        if held is None and not content.options:
            raise Refused(409, "unit does not exist and options field empty")
        if parse_name(name).is_template and operation.desired_state not in ("", "inactive"):
            raise Refused(400, f'cannot activate template "{name}"')
        self._generation += 1
        if held is None:
            self.units[name] = Held(content, operation.desired_state or "inactive", self._generation)
            return 201, None
        replaced = bool(content.options) and content.hash != held.content.hash
        if replaced:
            held.content = content
        held.target, held.generation = operation.desired_state, self._generation
        return (201 if replaced else 204), None

    def _delete(self, name: str, headers: Mapping[str, str], body: bytes) -> tuple[int, Any]:
        if name not in self.units:
            raise Refused(404, "unit does not exist")
        self._generation += 1
        held = self.units.pop(name)
        held.target, held.generation, held.lingered = "inactive", self._generation, 0
        self.gone[name] = held
        return 204, None

    def _describe(self, name: str) -> schema.Unit:
        held = self.units[name]
        return schema.Unit(
            name=name,
            options=held.content.options,
            desired_state=held.target,
            current_state=held.copy.target if held.copy else "inactive",
            machine_id=held.machine.id if held.machine and not self._is_global(name) else "",
        )

    def _is_global(self, name: str) -> bool:
        return parse_requirements(self.units[name].content.options, parse_name(name)).is_global

    def _states(self, unit: str) -> list[schema.UnitState]:
        found = []
        for name, held in sorted({**self.gone, **self.units}.items()):
            copy = held.copy
            if copy is not None and unit in ("", name):
                found.append(schema.UnitState(name, copy.hash, copy.machine, copy.load, copy.active, copy.sub))
            self._advance(name, held)
        return found

    def _reports(self, names: Sequence[str]) -> list[schema.UnitReport]:
        reports = []
        for name in names:
            held = self.units.get(name)
            if held is None:
                reports += self._remains(name)
                continue
            fate = self.fate(name)
            placed = held.machine is not None or held.target == "inactive"
            reports.append(
                schema.UnitReport(
                    name=name,
                    target=held.target,
                    generation=held.generation,
                    hash=held.content.hash,
                    is_global=self._is_global(name),
                    decided=held.decided,
                    machine=held.machine.id if held.machine else "",
                    reason="fits" if placed else fate.waits or fate.reason,
                    cause=schema.Cause("placed" if placed else "infeasible", waits="" if placed else fate.waits),
                    rejections=() if placed else tuple(reject(fate.rejections)),
                    allocations=(held.copy,) if held.copy else (),
                )
            )
            self._advance(name, held)
        return reports

    def _remains(self, name: str) -> list[schema.UnitReport]:
        """What is left of a unit that was destroyed."""
        held = self.gone.get(name)
        if held is None or held.copy is None:
            return []
        orphan = msgspec.structs.replace(held.copy, orphaned=True)
        self._advance(name, held)
        return [schema.UnitReport(name, target="", generation=0, allocations=(orphan,))]

    def _advance(self, name: str, held: Held) -> bool:
        """One step nearer to what is wanted; whether there was one to make."""
        fate = self.fate(name)
        if fate.stuck:
            return False
        if held.target == "inactive":
            return self._withdraw(held, fate)
        if held.decided < held.generation:
            held.decided, held.machine = held.generation, fate.machine
            return True
        if held.machine is None or (held.copy and held.copy.generation >= held.generation):
            return False
        runs = held.copy is not None and held.copy.active == "active"
        if held.target == "loaded" and runs and held.lingered < fate.lingers:
            held.lingered += 1
            return True
        held.lingered = 0
        before = held.copy
        held.copy = self._copy(held, fate)
        return held.copy != before

    def _copy(self, held: Held, fate: Fate) -> schema.AllocationReport:
        assert held.machine is not None
        launched = held.target == "launched"
        return schema.AllocationReport(
            machine=held.machine.id,
            address=held.machine.primary_ip,
            load=fate.load,
            active=fate.active if launched else "inactive",
            sub=fate.sub if launched else "dead",
            hash=held.content.hash,
            target=held.target,
            generation=held.generation if fate.carried_out else 0,
            completed=fate.completed and launched,
            error=fate.error,
        )

    def _withdraw(self, held: Held, fate: Fate) -> bool:
        if held.copy is None:
            held.machine = None
            held.decided = 0
            return False
        held.lingered += 1
        if held.lingered > fate.lingers:
            held.copy, held.machine, held.lingered = None, None, 0
        return True


def _cut(items: list[Any], query: dict[str, list[str]]) -> tuple[tuple[Any, ...], str]:
    """One page and the token of the next; as in the original, a full last page carries one too."""
    start = int(query.get("nextPageToken", ["0"])[0])
    page = tuple(items[start : start + PAGE_SIZE])
    return page, str(start + PAGE_SIZE) if len(page) == PAGE_SIZE else ""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    api: FakeApi

    def handle(self) -> None:
        """Serve until the client has gone, be it before it has read or been read to the end."""
        with suppress(BrokenPipeError, ConnectionResetError):
            super().handle()

    def _serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        status, kind, content = self.api.handle(self.command, self.path, dict(self.headers.items()), body)
        self.send_response(status)
        self.send_header("Content-Type", kind)
        if status != 204:
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_PUT = do_DELETE = do_POST = _serve  # noqa: N815 - names that http.server looks for

    def address_string(self) -> str:
        return "client"

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        """Say nothing: stderr is what the tests look at."""


class _UnixServer(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True
    request_queue_size = 64


class _TcpServer(socketserver.ThreadingMixIn, socketserver.TCPServer):
    daemon_threads = True
    allow_reuse_address = True


class Served:
    """An API served on a unix socket and on a TCP port of the loopback (over `tls` if given), until it is closed."""

    def __init__(self, api: FakeApi, socket_path: str, tls: ssl.SSLContext | None = None) -> None:
        handler = type("Handler", (_Handler,), {"api": api})
        self._servers = [_UnixServer(socket_path, handler), _TcpServer(("127.0.0.1", 0), handler)]
        if tls:
            self._servers[1].socket = tls.wrap_socket(self._servers[1].socket, server_side=True)
        self.unix = f"unix://{os.path.abspath(socket_path)}"
        self.tcp = f"http://127.0.0.1:{self._servers[1].server_address[1]}"
        self._threads = [
            threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.002}) for server in self._servers
        ]
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        for server, thread in zip(self._servers, self._threads, strict=True):
            server.shutdown()
            server.server_close()
            thread.join()
