"""The routes of the API: path and method to handler, and errors to responses."""

import posixpath
import time
from collections.abc import Awaitable, Callable, Collection, Mapping
from urllib.parse import quote, urlencode

import msgspec

from fleetd.api import schema
from fleetd.api.http import (
    MAX_BODY_BYTES,
    NO_STORE,
    ApiError,
    Request,
    Response,
    check_is_json,
    render_error,
    render_json,
    to_api_error,
)
from fleetd.api.origin import check_caller
from fleetd.api.quota import UNLIMITED, Quota
from fleetd.api.v1.discovery import describe_api
from fleetd.api.v1.machines import Machines
from fleetd.api.v1.states import States
from fleetd.api.v1.units import Units
from fleetd.api.v2.operations import Operations
from fleetd.api.v2.reports import Reports
from fleetd.metrics import CONTENT_TYPE
from fleetd.model.quota import Usage
from fleetd.registry.records import MalformedRecord
from fleetd.registry.registry import Registry
from fleetd.store.protocol import Unavailable

LEAVE = f"{schema.V2}/leave"
METRICS = "/metrics"
HEALTH = "/health"
OPENAPI = f"{schema.V2}/openapi.json"
_ALWAYS = (LEAVE, METRICS)  # answered even while the store is away or the machine is leaving

Handler = Callable[[Request, str], Awaitable[Response]]
Leave = Callable[[], Awaitable[schema.Leaving]]


class Resource(msgspec.Struct, frozen=True):
    """The handlers of one path by method, and the message for any other method."""

    methods: Mapping[str, Handler]
    refusal: str = ""

    @property
    def allowed(self) -> str:
        """The value of the Allow header."""
        return ", ".join(["GET", "HEAD"] * ("GET" in self.methods) + [name for name in self.methods if name != "GET"])


_BARE_ROOT = Resource({})


class Api:
    """The API of one daemon.

    `shadows(name)` returns the system unit that a name would hide, '' for none. `not_ready()` returns why no request
    can be answered yet, `trouble()` why only /health fails; '' for neither. `leave()` makes this machine leave the
    cluster, or continues, and reports its progress. `metrics()` renders the counters. `allowed_hosts` are the host
    names, in lower case, that clients over TCP may use. `allowed_usage` limits what the cluster may hold; `now` is a
    clock in seconds.
    """

    def __init__(
        self,
        registry: Registry,
        *,
        token_limit: int = 100,
        shadows: Callable[[str], str] = lambda name: "",
        not_ready: Callable[[], str] = lambda: "",
        trouble: Callable[[], str] = lambda: "",
        leave: Leave | None = None,
        metrics: Callable[[], bytes] | None = None,
        allowed_hosts: Collection[str] = (),
        allowed_usage: Usage = UNLIMITED,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._registry = registry
        self._not_ready = not_ready
        self._trouble = trouble
        self._leave = leave
        self._metrics = metrics
        self._allowed_hosts = allowed_hosts
        self._discovery = render_json(describe_api())
        units = Units(registry, token_limit, shadows, Quota(registry, allowed_usage, now))
        states = States(registry, token_limit)
        machines = Machines(registry, token_limit)
        get_only = "only GET supported against this resource"
        self._v1 = {
            "units": Resource({"GET": units.get_all}, get_only),
            "state": Resource({"GET": states.get_all}, get_only),
            "machines": Resource(
                {"GET": machines.get_all, "PATCH": machines.patch}, "only GET and PATCH supported against this resource"
            ),
            "discovery": Resource({"GET": self._get_discovery}, "only HTTP GET supported against this resource"),
        }
        self._v1_items = {
            "units": Resource(
                {"GET": units.get, "PUT": units.put, "DELETE": units.delete},
                "only GET, PUT and DELETE supported against this resource",
            ),
            "state": Resource({"GET": states.get}, get_only),
        }
        reports = Reports(registry)
        operations = Operations(registry, units, shadows)
        only_post = "only POST supported against this resource"
        self._others = {
            f"{schema.V2}/units": Resource(
                {"GET": reports.get_all, "POST": operations.post}, "only GET and POST supported against this resource"
            ),
            f"{schema.V2}/restart": Resource({"POST": operations.restart}, only_post),
            f"{schema.V2}/reports": Resource({"POST": reports.post}, only_post),
        }
        self._machines = Resource({"DELETE": machines.delete}, "only DELETE supported against this resource")
        self._others[HEALTH] = Resource({"GET": self._get_health}, get_only)
        self._others[OPENAPI] = Resource({"GET": self._get_openapi}, get_only)
        if leave:
            self._others[LEAVE] = Resource({"POST": self._post_leave}, only_post)
        if metrics:
            self._others[METRICS] = Resource({"GET": self._get_metrics}, get_only)

    async def handle(self, request: Request) -> Response:
        """The response to a request; errors of clients and of the store become responses."""
        try:
            response = await self._answer(request)
        except (ApiError, MalformedRecord, Unavailable) as error:
            refusal = to_api_error(error)
            response = render_error(refusal.status, str(refusal), refusal.headers)
        if request.method == "HEAD":
            length = ("Content-Length", str(len(response.body)))
            return Response(response.status, (*response.headers, length))
        return response

    async def _answer(self, request: Request) -> Response:
        if request.metrics_only:
            if request.path not in (HEALTH, METRICS):
                raise ApiError(404, f"this socket serves only {METRICS} and {HEALTH}")
        elif not request.local:
            check_caller(request, self._allowed_hosts)
        if (reason := self._not_ready()) and request.path not in _ALWAYS:
            raise ApiError(503, f"{NO_STORE}: {reason}")
        if len(request.body) > MAX_BODY_BYTES:
            raise body_too_large()
        if not _is_text(request):
            raise ApiError(400, "path and query must be percent-encoded UTF-8")
        if (clean := _clean_path(request.path)) != request.path:
            query = f"?{urlencode(request.query)}" if request.query else ""
            return Response(301, (("Location", quote(clean) + query),))
        resource, name = self._find(request.path)
        handler = resource.methods.get("GET" if request.method == "HEAD" else request.method)
        if handler is None:
            raise ApiError(405, resource.refusal, (("Allow", resource.allowed),))
        if _has_to_be_json(request):
            check_is_json(request)
        return await handler(request, name)

    def _find(self, path: str) -> tuple[Resource, str]:
        """The resource of a path, and the name of the item in it ('' for the collection). Raises ApiError."""
        if path in ("/", schema.V1, schema.V1_ALPHA):
            return _BARE_ROOT, ""
        if path in self._others:
            return self._others[path], ""
        machine = path.removeprefix(f"{schema.V2}/machines/")
        if machine not in ("", path) and "/" not in machine:
            return self._machines, machine
        for root in (schema.V1, schema.V1_ALPHA):
            kind, slash, name = path.removeprefix(root + "/").partition("/")
            items = self._v1_items if slash else self._v1
            if path.startswith(root + "/") and kind in items and "/" not in name and bool(name) == bool(slash):
                return items[kind], name
        raise ApiError(404, "")

    async def _get_discovery(self, _: Request, __: str) -> Response:
        return self._discovery

    async def _get_openapi(self, _: Request, __: str) -> Response:
        from fleetd.api.v2.openapi import render_openapi  # most daemons are never asked for it

        return render_json(render_openapi())

    async def _get_health(self, _: Request, __: str) -> Response:
        """200 while this daemon is ready, the store answers, and nothing else is wrong."""
        await self._registry.store.revision()
        if trouble := self._trouble():
            raise ApiError(503, f"{NO_STORE}: {trouble}")
        return render_json({})

    async def _get_metrics(self, _: Request, __: str) -> Response:
        assert self._metrics
        return Response(200, (("Content-Type", CONTENT_TYPE),), self._metrics())

    async def _post_leave(self, request: Request, _: str) -> Response:
        assert self._leave
        if not request.local:
            raise ApiError(403, "only the machine itself may ask for this: run `fleetd leave` there")
        return render_json(await self._leave())


def body_too_large() -> ApiError:
    """The error for a body over the limit; server.py needs it before there is a Request."""
    return ApiError(413, f"the request body has more than {MAX_BODY_BYTES} bytes")


def _has_to_be_json(request: Request) -> bool:
    """True if Content-Type must say JSON, which no HTML form can. PUT checks it itself, later, as CoreOS fleet does.

    Scripts written for CoreOS fleet send PATCH without it; over the unix socket that is safe.
    """
    if request.method == "PATCH":
        return not request.local
    return request.method == "POST" and request.path != LEAVE


def _is_text(request: Request) -> bool:
    """True if path and query are UTF-8; other bytes arrive as lone surrogates."""
    try:
        "".join((request.path, *(part for pair in request.query for part in pair))).encode()
    except UnicodeEncodeError:
        return False
    return True


def _clean_path(path: str) -> str:
    """The path without empty, `.` and `..` segments; a final slash stays."""
    clean = posixpath.normpath("/" + path.lstrip("/"))
    return clean + "/" if path.endswith("/") and clean != "/" else clean
