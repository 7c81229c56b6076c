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
from fleetd.api.asking import Asking
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
from fleetd.api.tls_clients import LOGIN
from fleetd.api.trust import Trust
from fleetd.api.v1.discovery import describe_api
from fleetd.api.v1.machines import Machines
from fleetd.api.v1.states import States
from fleetd.api.v1.units import Units
from fleetd.api.v2.applies import Applies
from fleetd.api.v2.clusters import Clusters
from fleetd.api.v2.contents import Contents
from fleetd.api.v2.cordons import Cordons
from fleetd.api.v2.drains import Drains
from fleetd.api.v2.events import MARK_S, Events
from fleetd.api.v2.explanations import Explanations
from fleetd.api.v2.host_keys import HostKeys
from fleetd.api.v2.insight import Insight
from fleetd.api.v2.joining import Joining
from fleetd.api.v2.locks import Locks
from fleetd.api.v2.logins import Logins
from fleetd.api.v2.moves import Moves
from fleetd.api.v2.operations import Operations
from fleetd.api.v2.plans import Plans
from fleetd.api.v2.reboots import Reboots
from fleetd.api.v2.removals import Removals
from fleetd.api.v2.reports import Reports
from fleetd.api.v2.rollouts import Rollouts
from fleetd.api.v2.secrets import Secrets
from fleetd.api.v2.settings import Settings
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
    this fleetd knows of the store's.
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
    ) -> None:
        self._epoch = epoch if epoch is not None else StoreEpoch(registry, "")
        self._registry = registry
        registry.record_events(EventLog(registry, unix_now, lambda: machine().session))
        self._servers = servers
        self._no_store = NO_SERVER if servers else NO_STORE
        self._not_ready = not_ready
        self._wait_until_ready = wait_until_ready
        self._trouble = trouble
        self._leave = leave
        self._metrics = metrics
        self._unix_now = unix_now
        self._new_id = new_id
        self._machine = machine
        self._offload = offload
        self._audit = Audit(audit, lambda: machine().short_id)
        self._trust = trust
        self._workers = workers
        self._allowed_hosts = allowed_hosts
        self._sealing = sealing
        self._peers = peers
        self._event_mark_s = event_mark_s
        self._discovery = render_json(describe_api())
        self.routes = self._make_routes(token_limit, shadows, Quota(registry, allowed_usage, now), now)
        self._resources: dict[tuple[str, str | None], dict[str, Route]] = {}  # by what is around the parameter
        for route in self.routes:
            before, brace, after = route.path.partition(f"/{{{route.parameter}}}")
            self._resources.setdefault((before, after if brace else None), {})[route.method] = route

    def _make_routes(
        self, token_limit: int, shadows: Callable[[str], str], quota: Quota, now: Callable[[], float]
    ) -> tuple[Route, ...]:
        audit = self._audit
        units = Units(self._registry, token_limit, shadows, quota, audit, self._unix_now)
        states = States(self._registry, token_limit)
        machines = Machines(self._registry, token_limit)
        cordons, drains = Cordons(self._registry, self._unix_now), Drains(self._registry, self._unix_now)
        moves = Moves(self._registry, audit, self._unix_now)
        reboots = Reboots(self._registry, self._unix_now, self._new_id)
        settings = Settings(self._registry, self._machine, self._unix_now)
        operations, reports = Operations(self._registry, units, shadows), Reports(self._registry)
        applies = Applies(self._registry, quota, shadows, audit, self._unix_now, self._new_id)
        rollouts = Rollouts(self._registry, applies.undo, audit, self._unix_now, self._new_id)
        secrets = Secrets(self._registry, self._sealing, rollouts.restart, audit, self._unix_now)
        plans = Plans(self._registry, shadows, self._unix_now, self._offload, now)
        joining = Joining(self._registry, self._trust, audit, self._unix_now)
        logins = Logins(self._registry, self._trust, audit, self._unix_now)
        clusters = Clusters(self._registry, self._trust)
        removals = Removals(self._registry, self._trust, self._machine, self._unix_now)
        asking = Asking(self._registry, self._machine, self._new_id, now, self._peers)
        events = Events(self._registry, self._unix_now, mark_s=self._event_mark_s)
        insight = Insight(self._registry, asking, events.kept, self._unix_now)
        explanations = Explanations(self._registry, self._offload, events.history)
        locks = Locks(self._registry, self._epoch, audit, now, self._unix_now)
        view, operate, submit, admin = Permission
        v1, v2, results, found = schema.V1, schema.V2, schema.Results, schema.UnitReports
        return (
            # v1/discovery.py describes those of version 1.
            Route("GET", f"{v1}/units", units.get_all, view, has_token=True),
            Route("GET", f"{v1}/units/{{unitName}}", units.get, view),
            Route("PUT", f"{v1}/units/{{unitName}}", units.put, operate, by_name=True),
            Route("DELETE", f"{v1}/units/{{unitName}}", units.delete, submit, by_name=True),
            Route("GET", f"{v1}/state", states.get_all, view, on_workers=True, has_token=True),
            Route("GET", f"{v1}/state/{{unitName}}", states.get, view, on_workers=True),
            Route("GET", f"{v1}/machines", machines.get_all, view, on_workers=True, has_token=True),
            Route("PATCH", f"{v1}/machines", machines.patch, admin),
            Route("GET", f"{v1}/discovery", self._get_discovery, view, answer=dict, on_workers=True),
            Route("GET", f"{v2}/units", reports.get_all, view, answer=found, query="name", has_token=True),
            Route("GET", f"{v2}/units/{{unitName}}", Contents(self._registry).get, view, answer=schema.UnitContent),
            Route("GET", f"{v2}/units/{{unitName}}/move", moves.get, view, answer=schema.MoveReport),
            Route("PUT", f"{v2}/units/{{unitName}}/move", moves.put, operate, schema.MoveRequest, by_name=True),
            Route("POST", f"{v2}/units", operations.post, operate, schema.UnitOperations, results, by_name=True),
            Route("POST", f"{v2}/reports", reports.post, view, schema.ReportRequest, found),
            Route("POST", f"{v2}/restart", operations.restart, operate, schema.Restarts, results, by_name=True),
            Route("POST", f"{v2}/apply", applies.post, submit, schema.Apply, schema.Applied, by_name=True),
            Route("POST", f"{v2}/scale", applies.scale, operate, schema.Scale, schema.Applied, by_name=True),
            Route("GET", f"{v2}/sets", applies.get_sets, view, answer=schema.UnitSets),
            Route("GET", f"{v2}/versions/{{group}}", applies.get_versions, view, answer=schema.Versions),
            Route("DELETE", f"{v2}/machines/{{machine}}", machines.delete, admin),
            Route("PUT", f"{v2}/machines/{{machine}}/cordon", cordons.put, operate, schema.CordonRequest),
            Route("DELETE", f"{v2}/machines/{{machine}}/cordon", cordons.delete, operate),
            Route(
                "GET",
                f"{v2}/machines/{{machine}}/drain",
                drains.get,
                view,
                answer=schema.DrainReport,
                query="unit",
                on_workers=True,
            ),
            Route("PUT", f"{v2}/machines/{{machine}}/drain", drains.put, operate, schema.DrainRequest),
            Route("DELETE", f"{v2}/machines/{{machine}}/drain", drains.delete, operate),
            Route(
                "PUT",
                f"{v2}/machines/{{machine}}/reboot",
                reboots.put,
                admin,
                schema.RebootRequest,
                schema.RebootReport,
            ),
            Route("DELETE", f"{v2}/machines/{{machine}}/reboot", reboots.delete, admin),
            Route(
                "GET",
                f"{v2}/host-keys",
                HostKeys(self._registry).get_all,
                view,
                answer=schema.MachineHostKeys,
                query="machine",
            ),
            Route("GET", f"{v2}/cluster", clusters.get, view, answer=schema.ClusterReport),
            Route("POST", f"{v2}/machines/{{machine}}/remove", removals.post, admin, schema.MachineRemoval),
            Route(
                "POST",
                f"{v2}/machine-tokens",
                joining.post_token,
                admin,
                schema.MachineTokenRequest,
                schema.MachineToken,
            ),
            Route("GET", f"{v2}/authorities", joining.get_authorities, None, answer=schema.Authorities, anonymous=True),
            Route("POST", f"{v2}/authorities", joining.post_authority, admin, answer=schema.NewAuthority),
            Route("GET", f"{v2}/authority-keys", joining.get_keys, None, answer=schema.AuthorityKeys, for_servers=True),
            Route("POST", f"{v2}/join", joining.join, None, schema.JoinRequest, schema.JoinAnswer, anonymous=True),
            Route("POST", f"{v2}/renew", joining.renew, None, schema.RenewalRequest, schema.Renewal, anonymous=True),
            Route(
                "GET",
                f"{v2}/reboots",
                reboots.get_all,
                view,
                answer=schema.RebootReports,
                query="machine",
                on_workers=True,
            ),
            Route("GET", f"{v2}/rollouts", rollouts.get_all, view, answer=schema.Rollouts, query="group"),
            Route("POST", f"{v2}/rollouts/{{group}}", rollouts.post, operate, schema.RolloutCommand, by_name=True),
            Route("GET", f"{v2}/explain/{{unitName}}", explanations.get, view, answer=schema.Explanation),
            Route("POST", f"{v2}/plan", plans.post, view, schema.PlanRequest, schema.Plan),
            Route(
                "GET",
                f"{v2}/journal",
                insight.get_journal,
                view,
                answer=bytes,
                query="unit machine after",
                options="lines since grep follow previous",
            ),
            Route("GET", f"{v2}/status", insight.get_status, view, answer=schema.UnitStatuses, query="unit machine"),
            Route("GET", f"{v2}/secrets", secrets.get_all, view, answer=schema.SecretReports),
            Route(
                "PUT",
                f"{v2}/secrets/{{secret}}",
                secrets.put,
                submit,
                schema.SecretChange,
                schema.SecretChanged,
                by_name=True,
            ),
            Route("DELETE", f"{v2}/secrets/{{secret}}", secrets.delete, submit, query="force", by_name=True),
            *locks.routes(),
            Route("GET", f"{v2}/settings", settings.get_all, view, answer=schema.Settings),
            Route("PATCH", f"{v2}/settings", settings.patch, admin, schema.SettingChanges),
            Route("POST", f"{v2}/login", logins.post, view, schema.LoginRequest, schema.Login),
            Route("POST", f"{v2}/revocations", logins.revoke, admin, schema.RevocationRequest, by_name=True),
            Route("GET", f"{v2}/whoami", self._get_whoami, None, answer=schema.WhoAmI, on_workers=True),
            Route(
                "GET",
                f"{v2}/events",
                events.get,
                view,
                answer=schema.Event,
                query="kind unit machine",
                options="after since follow latest",
                is_streamed=True,
            ),
            Route("POST", LEAVE, self._post_leave, admin, answer=schema.Leaving, on_workers=True),
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
        raise ApiError(404, "")

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
