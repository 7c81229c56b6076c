"""The API of a worker: its own states for local users, and words for everything else."""

import pytest

from fleetd.api.routes import Api
from fleetd.model.permission import parse_rights
from fleetd.store.protocol import Unavailable
from tests.api.conftest import Fleet

SERVERS = ("https://10.0.0.1:7443", "https://10.0.0.2:7443")
WORDS = (
    "this machine is a worker: it shows its own units and changes nothing; ask a server: "
    "fleetctl --endpoint=https://10.0.0.1:7443, or --tunnel=10.0.0.1"
)


@pytest.fixture
def worker(fleet: Fleet) -> Fleet:
    fleet.reconfigure(servers=SERVERS)
    return fleet


def _asking(api: Api, *, on_workers: bool) -> list[str]:
    routes = [route for route in api.routes if route.on_workers is on_workers]
    return [f"{route.method} {route.path.replace('{', '').replace('}', '')}" for route in routes]


async def test_a_worker_refuses_in_words_what_only_servers_know_or_do(worker: Fleet) -> None:
    asked = _asking(worker.api, on_workers=False)
    assert "PUT /fleet/v1/units/unitName" in asked
    for request in asked:
        assert await worker.refused(request, {}) == (403, WORDS)


async def test_a_worker_answers_who_looks_at_it(worker: Fleet) -> None:
    worker.rights = parse_rights("view")
    asked = _asking(worker.api, on_workers=True)
    assert "GET /fleet/v1/state" in asked
    for request in asked:
        if request.startswith("GET "):
            assert (await worker.ask(request)).status in (200, 404), request


async def test_only_who_may_administer_has_a_worker_leave(worker: Fleet) -> None:
    worker.rights = parse_rights("view")
    assert (await worker.refused("POST /fleet/v2/leave"))[0] == 403


async def test_a_worker_without_servers_says_so_in_its_words(worker: Fleet) -> None:
    worker.reconfigure(servers=SERVERS, not_ready=lambda: "it refuses this machine: the certificate has expired")
    assert await worker.refused("GET /fleet/v1/machines") == (
        503,
        "this machine is a worker, and cannot reach the servers of its cluster: "
        "it refuses this machine: the certificate has expired",
    )


async def test_an_error_of_the_store_is_not_etcds_on_a_worker(worker: Fleet) -> None:
    async def fail(*_: object, **__: object) -> None:
        raise Unavailable("fleet server does not answer")

    worker.registry.store.range = fail
    status, message = await worker.refused("GET /fleet/v1/state")
    assert (status, "etcd" in message) == (503, False)
