"""What units announce (Announce=), in fleet's own form, and in that of Prometheus; consul.py has that of Consul."""

import asyncio
import re
from collections import Counter
from collections.abc import Sequence
from contextlib import aclosing
from typing import Any

from fleetd.api import schema
from fleetd.api.http import ApiError, Request, Response, Route, render_json
from fleetd.model.announcement import refuse_service_name
from fleetd.model.machine import effective_metadata
from fleetd.model.permission import Permission
from fleetd.model.timespan import parse_time_span
from fleetd.registry.records import SERVICES
from fleetd.registry.registry import Registry
from fleetd.store.protocol import Compacted

MOST_WAITING = 256
MOST_OF_USER = MOST_WAITING // 4  # a quarter, as of the connections
LONGEST_WAIT_S = 600.0
DEFAULT_WAIT_S = 300.0  # of those that name an index, as Consul has it
_NOT_OF_LABELS = re.compile(r"[^A-Za-z0-9_]")
TRUE = ("", "true", "1", "yes")


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
        for Prometheus (`http_sd_configs`), whether their checks pass or not. Labels tell name, unit, machine, zone, and
        the metadata of the machine."""
        wanted = request.query_values("service")
        for name in wanted:
            _check_name(name)
        found, _index = await self.read(wanted[0] if len(wanted) == 1 else "")
        machines, settings = await self._registry.machines(), await self._registry.settings()
        metadata = {
            id_: _metadata_labels(effective_metadata(machine, settings.get(id_))) for id_, machine in machines.items()
        }
        return render_list(
            [
                {
                    "targets": [_join(each.address, each.port)],
                    "labels": {
                        **metadata.get(each.machine, {}),
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

    async def _show(self, request: Request, service: str) -> Response:
        await self.wait(request, service)
        found, index = await self.read(service)
        if is_asked(request, "passing"):
            found = [each for each in found if not each.failing]
        return render_json(schema.Services(tuple(found), index))

    async def read(self, service: str) -> tuple[list[schema.Service], int]:
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

    async def wait(self, request: Request, service: str) -> None:
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


def service_routes(services: Services) -> tuple[Route, ...]:
    """The routes."""
    v2, view, options = schema.V2, Permission.VIEW, "passing index wait"
    found = schema.Services
    return (
        Route("GET", f"{v2}/services", services.get_all, view, answer=found, options=options),
        Route("GET", f"{v2}/services/{{service}}", services.get, view, answer=found, options=options),
        Route("GET", f"{v2}/http_sd", services.get_targets, view, answer=list, query="service"),
    )


def _check_name(name: str) -> None:
    """Raises ApiError for what no unit can announce."""
    if refusal := refuse_service_name(name):
        raise ApiError(400, refusal)


def is_asked(request: Request, option: str) -> bool:
    """Whether a request has this option, and does not deny it."""
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


def _metadata_labels(metadata: dict[str, str]) -> dict[str, str]:
    """Metadata as labels of Prometheus, whose names have letters, digits and `_` alone."""
    return {f"__meta_fleet_metadata_{_NOT_OF_LABELS.sub('_', key)}": value for key, value in metadata.items()}


def _join(address: str, port: int) -> str:
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def render_list(items: Sequence[dict[str, Any]]) -> Response:
    """A response with these values as an array, which the programs for which it is made expect."""
    response = render_json({"": items})
    return Response(200, response.headers, response.body[len(b'{"":') : -1])
