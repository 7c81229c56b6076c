"""What units announce (Announce=), in fleet's own form, and in those of Prometheus and of Consul's clients."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from contextlib import aclosing
from typing import Any

from fleetd.api import schema
from fleetd.api.http import ApiError, Request, Response, Route, render_json
from fleetd.model.announcement import refuse_service_name
from fleetd.model.permission import Permission
from fleetd.model.timespan import parse_time_span
from fleetd.registry.records import SERVICES
from fleetd.registry.registry import Registry
from fleetd.store.protocol import Compacted

MOST_WAITING = 256
MOST_OF_USER = MOST_WAITING // 4  # a quarter, as of the connections
LONGEST_WAIT_S = 600.0
DEFAULT_WAIT_S = 300.0  # of those that name an index, as Consul has it
TRUE = ("", "true", "1", "yes")
_DATACENTER = "fleet"


class Services:
    """The resources."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._waiting: Counter[str] = Counter()  # requests that wait for a change, by who asks

    async def get_all(self, request: Request, _: str) -> Response:
        """Show what units announce, also while their checks fail; with `passing`, only those that pass.

        With `index`, that of an earlier answer, it waits until something has changed since then, for `wait` at most (a
        time span, at most 10min; default: 5min)."""
        return await self._show(request, "")

    async def get(self, request: Request, service: str) -> Response:
        """Show which units announce a name, as GET /fleet/v2/services shows all. A name that nothing announces has an
        empty list."""
        return await self._show(request, service)

    async def get_targets(self, request: Request, _: str) -> Response:
        """Show the units that announce these names (`service`, may be repeated; default: all) on TCP ports as targets
        for Prometheus (`http_sd_configs`), whether their checks pass or not. Labels tell name, unit, machine, zone."""
        wanted = request.query_values("service")
        for name in wanted:
            _check_name(name)
        found, _index = await self._read(wanted[0] if len(wanted) == 1 else "")
        return _render_list(
            [
                {
                    "targets": [_join(each.address, each.port)],
                    "labels": {
                        "__meta_fleet_service": each.service,
                        "__meta_fleet_unit": each.unit,
                        "__meta_fleet_machine": each.machine,
                        "__meta_fleet_zone": each.zone,
                    },
                }
                for each in found
                if each.protocol == "tcp" and (not wanted or each.service in wanted)
            ]
        )

    async def get_health(self, request: Request, service: str) -> Response:
        """Show which units announce a name, as Consul's clients read it (`passing`, `index` and `wait` as there)."""
        await self._wait(request, service)
        found, index = await self._read(service)
        if _is_asked(request, "passing"):
            found = [each for each in found if not each.failing]
        return _with_index(_render_list([_as_consul(each) for each in found]), index)

    async def get_catalog(self, request: Request, _: str) -> Response:
        """Show all names, as Consul's clients read it (`index` and `wait` as there)."""
        await self._wait(request, "")
        found, index = await self._read("")
        return _with_index(render_json({each.service: [] for each in found}), index)

    async def _show(self, request: Request, service: str) -> Response:
        await self._wait(request, service)
        found, index = await self._read(service)
        if _is_asked(request, "passing"):
            found = [each for each in found if not each.failing]
        return render_json(schema.Services(tuple(found), index))

    async def _read(self, service: str) -> tuple[list[schema.Service], int]:
        """What is announced under this name ('': all), and the index of that."""
        if service:
            _check_name(service)
        page = await self._registry.read_page(SERVICES, *([service] if service else []))
        found = [
            schema.Service(
                each.service, each.unit, each.machine, each.address, port.port, port.protocol, each.zone, each.failing
            )
            for each in page.records.values()
            for port in each.ports
        ]
        return found, page.revision

    async def _wait(self, request: Request, service: str) -> None:
        """Wait for a change after the index of the request, if it has one."""
        index, wait_s = _parse_wait(request)
        if service:
            _check_name(service)
        if index == 0:
            return
        user = request.actor.identity
        if self._waiting.total() >= MOST_WAITING:
            raise ApiError(503, "this fleetd has as many waiting requests as it takes: ask another machine's fleetd")
        if self._waiting[user] >= MOST_OF_USER:
            raise ApiError(503, f"{MOST_OF_USER} requests of yours wait here already, which is the limit")
        self._waiting[user] += 1
        try:
            async with asyncio.timeout(wait_s):
                await self._wait_for_change(service, index)
        except TimeoutError:
            pass
        finally:
            self._waiting -= Counter([user])  # without those who have none

    async def _wait_for_change(self, service: str, index: int) -> None:
        prefix = self._registry.key(SERVICES, *([service] if service else [])) + "/"
        try:
            async with aclosing(self._registry.store.watch(prefix, index)) as watch:
                async for changes in watch:
                    if changes.events:
                        return
        except Compacted:
            return  # it is long ago, or was before a restore


def service_routes(registry: Registry) -> tuple[Route, ...]:
    """The routes; below /v1, those of Consul that its clients read."""
    services = Services(registry)
    v2, view, options = schema.V2, Permission.VIEW, "passing index wait"
    found = schema.Services
    return (
        Route("GET", f"{v2}/services", services.get_all, view, answer=found, options=options),
        Route("GET", f"{v2}/services/{{service}}", services.get, view, answer=found, options=options),
        Route("GET", f"{v2}/http_sd", services.get_targets, view, answer=list, query="service"),
        Route("GET", "/v1/health/service/{service}", services.get_health, view, answer=list, options=options),
        Route("GET", "/v1/catalog/services", services.get_catalog, view, answer=dict, options="index wait"),
    )


def _check_name(name: str) -> None:
    """Raises ApiError for what no unit can announce."""
    if refusal := refuse_service_name(name):
        raise ApiError(400, refusal)


def _is_asked(request: Request, option: str) -> bool:
    values = request.query_values(option)
    return bool(values) and values[-1].lower() in TRUE


def _parse_wait(request: Request) -> tuple[int, float]:
    """The index after which a change is waited for (0: none), and for how long. Raises ApiError."""
    indices, waits = request.query_values("index"), request.query_values("wait")
    text = indices[-1] if indices else "0"
    if not (text.isascii() and text.isdigit() and len(text) < 19):
        raise ApiError(400, f"index={text[:80]} is no index of an earlier answer: it has to be a number")
    try:
        wait_s = parse_time_span(waits[-1]) if waits else DEFAULT_WAIT_S
    except ValueError as error:
        raise ApiError(400, f"wait: {error}") from error
    return int(text), min(wait_s, LONGEST_WAIT_S)


def _join(address: str, port: int) -> str:
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def _as_consul(each: schema.Service) -> dict[str, Any]:
    """A service as an entry of Consul's /v1/health/service."""
    id_ = f"{each.machine}:{each.unit}:{each.service}:{each.port}/{each.protocol}"
    meta = {"unit": each.unit, "protocol": each.protocol, "zone": each.zone}
    check: dict[str, Any] = {
        "Node": each.machine,
        "CheckID": f"service:{id_}",
        "Name": f"Check of {each.unit}",
        "Status": "critical" if each.failing else "passing",
        "Notes": "",
        "Output": each.failing,
        "ServiceID": id_,
        "ServiceName": each.service,
        "ServiceTags": [],
    }
    return {
        "Node": {
            "ID": each.machine,
            "Node": each.machine,
            "Address": each.address,
            "Datacenter": _DATACENTER,
            "TaggedAddresses": {},
            "Meta": {"zone": each.zone},
        },
        "Service": {
            "ID": id_,
            "Service": each.service,
            "Tags": [],
            "Address": each.address,
            "Port": each.port,
            "Meta": meta,
            "Weights": {"Passing": 1, "Warning": 1},
        },
        "Checks": [check],
    }


def _render_list(items: Sequence[dict[str, Any]]) -> Response:
    """A response with these objects as an array, which the programs for which it is made expect."""
    response = render_json({"": items})
    return Response(200, response.headers, response.body[len(b'{"":') : -1])


def _with_index(response: Response, index: int) -> Response:
    """The response with the headers that Consul's clients expect of each."""
    headers = (("X-Consul-Index", str(index)), ("X-Consul-KnownLeader", "true"), ("X-Consul-LastContact", "0"))
    return Response(response.status, response.headers + headers, response.body)
