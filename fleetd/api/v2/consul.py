"""What units announce, as clients of Consul read it: Prometheus, Traefik, consul-template and libraries."""

from collections.abc import Sequence
from typing import Any

from fleetd.api import schema
from fleetd.api.http import ApiError, Request, Response, Route, render_json
from fleetd.api.v2.services import Services, is_asked, render_list
from fleetd.model.permission import Permission

ROOT = "/v1/"
_DATACENTER = "fleet"
_WEIGHTS = {"Passing": 1, "Warning": 1}  # as Consul has them by default
_SELECTED = ("filter", "node-meta")  # would select less: an answer that ignores them would be wrong
NOT_ANSWERED = (
    "of Consul's API there are, to be read, /v1/health/service/NAME, /v1/catalog/service/NAME, /v1/catalog/services "
    "and /v1/agent/self; nothing can be registered: a unit is announced by Announce= in its "
    "file (fleet.unit(5))"
)


class Consul:
    """The resources."""

    def __init__(self, services: Services) -> None:
        self._services = services

    async def get_health(self, request: Request, service: str) -> Response:
        """Show which units announce a name, as Consul does, also while their checks fail; with `passing`, only those
        that pass, with `tag`, those of this protocol. `index` and `wait` are as in GET /fleet/v2/services."""
        found, index = await self._read(request, service)
        if is_asked(request, "passing"):
            found = [each for each in found if not each.failing]
        return _with_index(render_list([_as_entry(each) for each in found]), index)

    async def get_service(self, request: Request, service: str) -> Response:
        """Show which units announce a name, as GET /v1/health/service does, without their checks."""
        found, index = await self._read(request, service)
        return _with_index(render_list([_as_catalog_service(each) for each in found]), index)

    async def get_services(self, request: Request, _: str) -> Response:
        """Show all names, each with its protocols as tags, as Consul does."""
        found, index = await self._read(request, "")
        tags: dict[str, list[str]] = {}
        for each in found:
            known = tags.setdefault(each.service, [])
            if each.protocol not in known:
                known.append(each.protocol)
        return _with_index(render_json(tags), index)

    async def get_self(self, request: Request, _: str) -> Response:
        """Show what Consul's clients ask of an agent first: the name of its datacenter."""
        return render_json({"Config": {"Datacenter": _DATACENTER, "NodeName": _DATACENTER}})

    async def _read(self, request: Request, service: str) -> tuple[list[schema.Service], int]:
        """What is announced under this name ('': all), with one of these tags, and the index of that."""
        for option in _SELECTED:
            if request.query_values(option):
                raise ApiError(400, f"{option}= selects nothing here: read all, and leave out the others")
        for name in request.query_values("dc"):
            if name not in ("", _DATACENTER):
                raise ApiError(400, f'there is one datacenter here, "{_DATACENTER}", and no "{name[:80]}"')
        await self._services.wait(request, service)
        found, index = await self._services.read(service)
        tags = set(request.query_values("tag")) - {""}
        return [each for each in found if tags <= {each.protocol}], index


def consul_routes(services: Services) -> tuple[Route, ...]:
    """The routes."""
    consul = Consul(services)
    view, query, options = Permission.VIEW, "tag", "index wait dc"
    of_service = f"passing {options}"
    return (
        Route("GET", f"{ROOT}health/service/{{service}}", consul.get_health, view, None, list, query, of_service),
        Route("GET", f"{ROOT}catalog/service/{{service}}", consul.get_service, view, None, list, query, options),
        Route("GET", f"{ROOT}catalog/services", consul.get_services, view, answer=dict, options=options),
        Route("GET", f"{ROOT}agent/self", consul.get_self, view, answer=dict),
    )


def _id_of(each: schema.Service) -> str:
    return f"{each.machine}:{each.unit}:{each.service}:{each.port}/{each.protocol}"


def _meta_of(each: schema.Service) -> dict[str, str]:
    return {"unit": each.unit, "protocol": each.protocol, "zone": each.zone}


def _as_entry(each: schema.Service) -> dict[str, Any]:
    """A service as an entry of Consul's /v1/health/service."""
    check: dict[str, Any] = {
        "Node": each.machine,
        "CheckID": f"service:{_id_of(each)}",
        "Name": f"Check of {each.unit}",
        "Status": "critical" if each.failing else "passing",
        "Notes": "",
        "Output": each.failing,
        "ServiceID": _id_of(each),
        "ServiceName": each.service,
        "ServiceTags": [each.protocol],
    }
    return {
        "Node": {**_node_of(each), "Meta": {"zone": each.zone}},
        "Service": {
            "ID": _id_of(each),
            "Service": each.service,
            "Tags": [each.protocol],
            "Address": each.address,
            "Port": each.port,
            "Meta": _meta_of(each),
            "Weights": _WEIGHTS,
        },
        "Checks": [check],
    }


def _as_catalog_service(each: schema.Service) -> dict[str, Any]:
    """A service as an entry of Consul's /v1/catalog/service."""
    return {
        **_node_of(each),
        "NodeMeta": {"zone": each.zone},
        "ServiceID": _id_of(each),
        "ServiceName": each.service,
        "ServiceTags": [each.protocol],
        "ServiceAddress": each.address,
        "ServicePort": each.port,
        "ServiceMeta": _meta_of(each),
        "ServiceWeights": _WEIGHTS,
    }


def _node_of(each: schema.Service) -> dict[str, Any]:
    """The machine of a service, as Consul's entries begin with their node."""
    return {
        "ID": each.machine,
        "Node": each.machine,
        "Address": each.address,
        "Datacenter": _DATACENTER,
        "TaggedAddresses": {},
    }


def _with_index(response: Response, index: int) -> Response:
    """The response with the headers that Consul's clients expect of each."""
    headers: Sequence[tuple[str, str]] = (
        ("X-Consul-Index", str(index)),
        ("X-Consul-KnownLeader", "true"),
        ("X-Consul-LastContact", "0"),
    )
    return Response(response.status, (*response.headers, *headers), response.body)
