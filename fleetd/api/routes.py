"""The routes of the API: path and method to handler, and errors to responses."""

import asyncio
import posixpath
import time
import uuid
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol
from urllib.parse import quote, urlencode, urlsplit

from msgspec.structs import replace

from fleetd import metrics
from fleetd.aio import Offload
from fleetd.api import schema
from fleetd.api.audit import Audit
from fleetd.api.http import (
    NO_STORE,
    ApiError,
    Request,
    Response,
    Route,
    StreamedResponse,
    check_is_json,
    render_error,
    render_json,
    to_api_error,
)
from fleetd.api.origin import check_caller
from fleetd.api.quota import UNLIMITED, Quota
from fleetd.api.route_table import Parts, make_routes
from fleetd.api.tls_clients import LOGIN
from fleetd.api.trust import Trust
from fleetd.api.v1.discovery import describe_api
from fleetd.api.v2.consul import NOT_ANSWERED, ROOT
from fleetd.api.v2.events import MARK_S
from fleetd.api.web_page import page_routes
from fleetd.membership.store_epoch import StoreEpoch
from fleetd.model.certificate import MACHINE, SERVER, CertificateIdentity
from fleetd.model.machine import Machine
from fleetd.model.permission import Permission
from fleetd.model.quota import Usage
from fleetd.registry.events import EventLog
from fleetd.registry.moment import read_moment
from fleetd.registry.records import MalformedRecord
from fleetd.registry.registry import Registry
from fleetd.store.protocol import Unavailable
from fleetd.trust.sealing_process import Sealing

if TYPE_CHECKING:
    from fleetd.api.peer_streams import PeerStreams

LEAVE = f"{schema.V2}/leave"
METRICS = "/metrics"
HEALTH = "/health"
OPENAPI = f"{schema.V2}/openapi.json"
WORKERS = "/fleet/worker/"
TOKEN_HEADER = "Fleet-Token"  # noqa: S105 (its name)
_ROOTS = ("/", schema.V1, schema.V1_ALPHA)
_ALWAYS = (LEAVE, METRICS)  # answered even while the store is away or the machine is leaving

NO_SERVER = "this machine is a worker, and cannot reach the servers of its cluster"

Leave = Callable[[], Awaitable[schema.Leaving]]


class WorkerHandler(Protocol):
    """What answers workers: their requests are no routes, and are described in store/worker_wire.py."""

    async def handle(self, request: Request) -> Response | StreamedResponse:
        """The response to a request of a worker."""


async def _is_ready() -> None:
    """Nothing has to be waited for."""


class Api:
    """The API of one daemon.

    `shadows(name)` returns the system unit that a name would hide, '' for none. `not_ready()` returns why no request
    can be answered yet, `trouble()` why only /health fails; '' for neither. `wait_until_ready()` ends when requests can
    be answered, or it is known why not. `leave()` makes this machine leave the cluster, or continues, and reports its
    progress. `metrics()` renders the counters. `allowed_hosts` are the host names, in lower case, that clients over TCP
    may use. `allowed_usage` limits what the cluster may hold; `now` is a clock in seconds, `unix_now` the wall clock,
    `new_id` returns a unique word, and `machine` this machine. `audit` keeps the fields of an entry for each change.
    `trust` is the authority of the cluster, None where there is none. `workers` answers workers (worker/server.py),
    None where they cannot come. `servers` are those that a worker asks. `offload` runs long work in a thread, `sealing`
    seals secrets with this machine's key. `event_mark_s` is how long a stream of events may be silent. `epoch` is what
    this fleetd knows of the store's, `agent_ttl_s` for how long a machine may be silent.
    """

    def __init__(
        self,
        registry: Registry,
        *,
        token_limit: int = 100,
        shadows: Callable[[str], str] = lambda name: "",
        not_ready: Callable[[], str] = lambda: "",
        wait_until_ready: Callable[[], Awaitable[None]] = _is_ready,
        trouble: Callable[[], str] = lambda: "",
        leave: Leave | None = None,
        metrics: Callable[[], bytes] = metrics.render,
        allowed_hosts: Collection[str] = (),
        allowed_usage: Usage = UNLIMITED,
        now: Callable[[], float] = time.monotonic,
        unix_now: Callable[[], float] = time.time,
        new_id: Callable[[], str] = lambda: uuid.uuid4().hex,
        machine: Callable[[], Machine] = lambda: Machine(""),
        offload: Offload = asyncio.to_thread,
        audit: Callable[[Mapping[str, str]], None] = lambda fields: None,
        trust: Trust | None = None,
        workers: WorkerHandler | None = None,
        servers: Sequence[str] = (),
        sealing: Sealing | None = None,
        peers: "PeerStreams | None" = None,
        event_mark_s: float = MARK_S,
        epoch: StoreEpoch | None = None,
        agent_ttl_s: float = 0.0,
    ) -> None:
        self._registry = registry
        registry.record_events(EventLog(registry, unix_now, lambda: machine().session))
        self._servers = servers
        self._no_store = NO_SERVER if servers else NO_STORE
        self._not_ready = not_ready
        self._wait_until_ready = wait_until_ready
        self._trouble = trouble
        self._leave = leave
        self._metrics = metrics
        self._audit = Audit(audit, lambda: machine().short_id)
        self._workers = workers
        self._allowed_hosts = allowed_hosts
        self._discovery = render_json(describe_api())
        parts = Parts(
            registry,
            token_limit,
            shadows,
            Quota(registry, allowed_usage, now),
            self._audit,
            now,
            unix_now,
            new_id,
            machine,
            offload,
            trust,
            sealing,
            peers,
            event_mark_s,
            epoch if epoch is not None else StoreEpoch(registry, ""),
            agent_ttl_s,
        )
        self.routes = (*make_routes(parts), *self._own_routes())
        self._resources: dict[tuple[str, str | None], dict[str, Route]] = {}  # by what is around the parameter
        for route in self.routes:
            before, brace, after = route.path.partition(f"/{{{route.parameter}}}")
            self._resources.setdefault((before, after if brace else None), {})[route.method] = route

    def _own_routes(self) -> tuple[Route, ...]:
        """The routes about this daemon, and the web page."""
        view, v1, v2 = Permission.VIEW, schema.V1, schema.V2
        return (
            Route("GET", f"{v1}/discovery", self._get_discovery, view, answer=dict, on_workers=True),
            Route("GET", f"{v2}/whoami", self._get_whoami, None, answer=schema.WhoAmI, on_workers=True),
            Route("POST", LEAVE, self._post_leave, Permission.ADMIN, answer=schema.Leaving, on_workers=True),
            Route("GET", OPENAPI, self._get_openapi, view, answer=dict, on_workers=True),
            Route("GET", HEALTH, self._get_health, view, answer=dict, on_workers=True),
            Route("GET", METRICS, self._get_metrics, view, answer=bytes, on_workers=True),
            *page_routes(),
        )

    async def handle(self, request: Request) -> Response | StreamedResponse:
        """The response to a request; errors of clients and of the store become responses."""
        try:
            if self._workers is not None and request.certificate and request.path.startswith(WORKERS):
                return await self._workers.handle(request)  # no browser has the certificate of a machine
            response = await self._answer(request)
        except (ApiError, MalformedRecord, Unavailable) as error:
            refusal = to_api_error(error, self._no_store)
            response = render_error(refusal.status, str(refusal), refusal.headers)
        if request.method == "HEAD" and isinstance(response, Response):
            length = ("Content-Length", str(len(response.body)))
            return Response(response.status, (*response.headers, length))
        return response

    async def _answer(self, request: Request) -> Response | StreamedResponse:
        if request.metrics_only:
            if request.path not in (HEALTH, METRICS):
                raise ApiError(404, f"this socket serves only {METRICS} and {HEALTH}")
        else:
            check_caller(request, self._allowed_hosts)
            if not request.local:
                self._check_certificate(request)
        if request.path not in (HEALTH, METRICS) and self._not_ready():
            await self._wait_until_ready()
        if (reason := self._not_ready()) and request.path not in _ALWAYS:
            raise ApiError(503, f"{self._no_store}: {reason}")
        if not _is_text(request):
            raise ApiError(400, "path and query must be percent-encoded UTF-8")
        if (clean := _clean_path(request.path)) != request.path:
            query = f"?{urlencode(request.query)}" if request.query else ""
            return Response(301, (("Location", quote(clean) + query),))
        routes, name = self._find(request.path)
        route = routes.get("GET" if request.method == "HEAD" else request.method)
        if route is None:
            raise _refuse_method(request.path, list(routes))
        if self._servers and not route.on_workers:
            raise _refuse_on_worker(self._servers)
        if not request.metrics_only:
            _check_permission(request, route)
        if _has_to_be_json(request, route):
            check_is_json(request)
        # Read before what is shown: what happens between is told too, and nothing is missed.
        wants_token = route.has_token and request.header_values(TOKEN_HEADER) and not self._servers
        moment = await read_moment(self._registry) if wants_token else None
        response = await route.handler(request, name)
        if moment is not None:
            response = replace(response, headers=(*response.headers, (TOKEN_HEADER, str(moment))))
        if route.needs in (Permission.OPERATE, Permission.ADMIN) and not route.by_name:
            self._audit.note_request(request)
        return response

    def _check_certificate(self, request: Request) -> None:
        """Raises ApiError for a client over https whose certificate does not count or is a machine's, unless the route
        is for anybody."""
        if not request.refusal[0] and (request.certificate is None or request.certificate.kind != MACHINE):
            return
        route = self._resources.get((request.path, None), {}).get(request.method)
        if route is not None and (route.anonymous or (route.for_servers and _is_server(request.certificate))):
            return
        if request.certificate is None:
            raise ApiError(*request.refusal)
        raise ApiError(
            403, f"this certificate is that of {request.certificate.subject}, and the API is for people: {LOGIN}"
        )

    def _find(self, path: str) -> tuple[dict[str, Route], str]:
        """The routes of a path by method, and the value of its parameter ('': it has none). Raises ApiError."""
        if path in _ROOTS:
            return {}, ""
        if path.startswith(schema.V1_ALPHA + "/"):
            path = schema.V1 + path.removeprefix(schema.V1_ALPHA)
        parent, _, last = path.rpartition("/")
        grandparent, _, middle = parent.rpartition("/")
        for before, name, after in ((path, "", None), (parent, last, ""), (grandparent, middle, f"/{last}")):
            found = self._resources.get((before, after))
            if found and (name or after is None):
                return found, name
        raise ApiError(404, NOT_ANSWERED if path.startswith(ROOT) else "")

    async def _get_discovery(self, _: Request, __: str) -> Response:
        """Describe version 1 in Google's discovery format."""
        return self._discovery

    async def _get_openapi(self, _: Request, __: str) -> Response:
        """Describe versions 1 and 2."""
        from fleetd.api.v2.openapi import render_openapi  # most daemons are never asked for it

        return render_json(render_openapi(self.routes))

    async def _get_whoami(self, request: Request, _: str) -> Response:
        """Tell who asks, and what they may do."""
        actor = request.actor
        grants = tuple(schema.Grant(grant.permission, grant.pattern) for grant in actor.rights.grants)
        expires = int(request.certificate.expires_at_s) if request.certificate else 0
        return render_json(schema.WhoAmI(actor.name, actor.identity, actor.groups, grants, expires))

    async def _get_health(self, _: Request, __: str) -> Response:
        """Tell whether this fleetd and its store answer."""
        await self._registry.store.revision()
        if trouble := self._trouble():
            raise ApiError(503, f"{self._no_store}: {trouble}")
        return render_json({})

    async def _get_metrics(self, _: Request, __: str) -> Response:
        """Show the metrics in Prometheus' text format."""
        return Response(200, (("Content-Type", metrics.CONTENT_TYPE),), self._metrics())

    async def _post_leave(self, request: Request, _: str) -> Response:
        """Make this machine leave the cluster; on its own unix socket only."""
        if self._leave is None:
            raise ApiError(404, "")
        if not request.local:
            raise ApiError(403, "only the machine itself may ask for this: run `fleetd leave` there")
        return render_json(await self._leave())


def _is_server(certificate: CertificateIdentity | None) -> bool:
    return certificate is not None and certificate.role == SERVER


def _check_permission(request: Request, route: Route) -> None:
    """Raises ApiError unless the client has the permission that the route needs."""
    if route.needs is None or (route.by_name and request.actor.rights.allow(route.needs)):
        return
    request.check_permission(route.needs)


def _refuse_on_worker(servers: Sequence[str]) -> ApiError:
    """The error for a request that only servers answer."""
    return ApiError(
        403,
        "this machine is a worker: it shows its own units and changes nothing; ask a server: fleetctl "
        f"--endpoint={servers[0]}, or --tunnel={urlsplit(servers[0]).hostname}",
    )


def _refuse_method(path: str, methods: list[str]) -> ApiError:
    """The error for a method that a resource does not have; its words are CoreOS fleet's."""
    if not methods:
        return ApiError(405, "", (("Allow", ""),))
    names = ", ".join(methods[:-1]) + " and " * (len(methods) > 1) + methods[-1]
    allowed = [*["GET", "HEAD"] * ("GET" in methods), *(method for method in methods if method != "GET")]
    message = f"only {'HTTP ' * path.endswith('/discovery')}{names} supported against this resource"
    return ApiError(405, message, (("Allow", ", ".join(allowed)),))


def _has_to_be_json(request: Request, route: Route) -> bool:
    """True if Content-Type must say JSON, which no HTML form can. The PUT of version 1 checks it itself, later, as
    CoreOS fleet does.

    Scripts written for CoreOS fleet send PATCH without it; over the unix socket that is safe.
    """
    if route.method == "PATCH":
        return not request.local
    return route.body is not None


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
