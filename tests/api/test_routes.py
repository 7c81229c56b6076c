"""Routing, errors, what all resources share; no request ends in a server error."""

import json
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleetd.api import schema
from fleetd.api.http import Request
from fleetd.api.routes import Api
from fleetd.model.placement import Decision
from fleetd.model.unit import TargetState, UnitState
from fleetd.registry.registry import Registry
from fleetd.store.embedded import EmbeddedStore, inline
from fleetd.store.protocol import Put, Unavailable
from tests.actors import ADMIN
from tests.examples import examples

ROOTS = ("/fleet/v1", "/v1-alpha")
GET_ONLY = "only GET supported against this resource"
READABLE = ("units", "units/web.service", "state", "state/web.service", "machines", "discovery")
OF_UNIT = "only GET, PUT and DELETE supported against this resource"
OF_MACHINES = "only GET and PATCH supported against this resource"


@pytest.mark.covers("4.1.8", "4.1.9", "4.1.10", "4.1.11", "4.1.12", "4.1.13", "4.1.15", "4.1.17", "4.1.18", "10.6.7")
@pytest.mark.parametrize("root", ROOTS)
@pytest.mark.parametrize(
    ("path", "allowed", "message"),
    [
        ("/units", "GET, HEAD", GET_ONLY),
        ("/units/web.service", "GET, HEAD, PUT, DELETE", OF_UNIT),
        ("/state", "GET, HEAD", GET_ONLY),
        ("/state/web.service", "GET, HEAD", GET_ONLY),
        ("/machines", "GET, HEAD, PATCH", OF_MACHINES),
        ("/discovery", "GET, HEAD", "only HTTP GET supported against this resource"),
        ("", "", ""),
    ],
)
async def test_an_unknown_method_is_refused_with_the_known_ones(
    fleet: Any, root: str, path: str, allowed: str, message: str
) -> None:
    methods = ["GET", "HEAD", "PUT", "DELETE", "PATCH", "POST", "OPTIONS", "get"]
    for method in methods:
        if method in allowed.split(", "):
            continue
        response = await fleet.ask(f"{method} {root}{path}")
        assert response.status == 405
        assert ("Allow", allowed) in response.headers
        if method != "HEAD":
            assert await fleet.refused(f"{method} {root}{path}") == (405, message)


@pytest.mark.covers("4.1.6", "4.1.16", "4.1.18")
@pytest.mark.parametrize(
    "path",
    [
        "/fleet",
        "/fleet/v1/",
        "/fleet/v1/units/",
        "/fleet/v1/units/a/b",
        "/fleet/v1/units/a%2Fb",
        "/fleet/v1/machines/ID",
        "/fleet/v1/discovery/x",
        "/fleet/v1/nothing",
        "/fleet/v1x",
        "/fleet/v2",
        "/v1-alpha/",
    ],
)
async def test_an_unknown_path_is_not_found_whatever_the_method(fleet: Any, path: str) -> None:
    for method in ("GET", "PUT", "DELETE", "PATCH", "POST"):
        response = await fleet.ask(f"{method} {path}")
        assert (response.status, response.body) == (404, b'{"error":{"code":404,"message":""}}')


@pytest.mark.covers("4.1.15", "4.1.18")
async def test_the_bare_root_is_not_found(fleet: Any) -> None:
    response = await fleet.ask("GET /")
    assert (response.status, response.body) == (405, b'{"error":{"code":405,"message":""}}')


@pytest.mark.covers("4.1.7")
@pytest.mark.parametrize(
    ("path", "location"),
    [
        ("//fleet//v1/units", "/fleet/v1/units"),
        ("/fleet/v1/../v1/units", "/fleet/v1/units"),
        ("/fleet/./v1/units/", "/fleet/v1/units/"),
        ("/../..", "/"),
        ("/fleet/v1//units?unitName=a%26b&x=", "/fleet/v1/units?unitName=a%26b&x="),
        ("//evil.example/%0d%0aX:y", "/evil.example/%0D%0AX%3Ay"),
    ],
)
async def test_an_unclean_path_is_redirected_to_the_clean_one(fleet: Any, path: str, location: str) -> None:
    response = await fleet.ask(f"GET {path}")
    assert (response.status, response.headers) == (301, (("Location", location),))


@pytest.mark.covers("3.4.7", "4.1.1", "4.1.19")
async def test_both_roots_serve_the_same_routes(fleet: Any) -> None:
    await fleet.add_unit("foo\\x2dbar@1.service")
    for root in ROOTS:
        assert json.loads((await fleet.ask(f"GET {root}/units/foo%5Cx2dbar%401.service")).body)["name"] == (
            "foo\\x2dbar@1.service"
        )


@pytest.mark.covers("4.1.17")
async def test_head_is_get_without_the_body(fleet: Any) -> None:
    await fleet.add_unit("web.service")
    await fleet.put(UnitState("loaded", "active", "running", target=TargetState.LAUNCHED), "m1", "web.service")
    fleet.reconfigure(metrics=lambda: b"some 1\n")
    readable = [f"{root}/{rest}" for root in ROOTS for rest in READABLE] + ["/fleet/v2/units", "/health", "/metrics"]
    for path in (*readable, "/fleet/v1/units/absent.service", "/none", "/"):
        got = await fleet.ask(f"GET {path}")
        head = await fleet.ask(f"HEAD {path}")
        assert (got.status == 200) == (path in readable)
        assert (head.status, head.body) == (got.status, b"")
        assert head.headers == (*got.headers, ("Content-Length", str(len(got.body))))


# Before it can answer


@pytest.mark.covers("4.9.2", "5.4.5")
async def test_until_the_daemon_is_ready_only_metrics_are_served(fleet: Any) -> None:
    fleet.reconfigure(not_ready=lambda: "this machine is not registered yet", metrics=lambda: b"fleet_registered 0\n")
    assert (await fleet.ask("GET /metrics")).body == b"fleet_registered 0\n"
    message = "fleet server unable to communicate with etcd: this machine is not registered yet"
    for request in ("GET /fleet/v1/units", "PUT /fleet/v1/units/a.service", "GET /nothing", "GET //", "GET /health"):
        assert await fleet.refused(request) == (503, message)


async def test_a_request_waits_for_a_daemon_that_starts_and_a_question_for_its_health_does_not(fleet: Any) -> None:
    reasons = ["this machine is not registered yet"]

    async def wait() -> None:
        reasons.clear()

    fleet.reconfigure(not_ready=lambda: "".join(reasons), wait_until_ready=wait)
    assert (await fleet.refused("GET /health"))[0] == 503
    assert (await fleet.ask("GET /fleet/v1/units")).status == 200


class Unreachable:
    """A store that does not answer."""

    def __getattr__(self, name: str) -> Any:
        async def fail(*_: Any, **__: Any) -> Any:
            raise Unavailable("etcd at http://127.0.0.1:2379 does not answer")

        return fail


@pytest.mark.covers("2.10.9", "4.4.17", "4.6.7", "4.9.3")
async def test_a_store_that_does_not_answer_is_reported(fleet: Any) -> None:
    fleet.registry.store = Unreachable()
    message = "fleet server unable to communicate with etcd: etcd at http://127.0.0.1:2379 does not answer"
    options = [{"section": "A", "name": "B", "value": "c"}]
    for request, body in (
        ("GET /fleet/v1/units", None),
        ("GET /fleet/v1/units/a.service", None),
        ("PUT /fleet/v1/units/a.service", {"options": options}),
        ("DELETE /fleet/v1/units/a.service", None),
        ("GET /fleet/v1/state", None),
        ("GET /fleet/v1/state/a.service", None),
        ("GET /fleet/v1/machines", None),
        ("PATCH /fleet/v1/machines", [{"op": "remove", "path": "/m/metadata/k"}]),
        ("GET /fleet/v2/units", None),
        ("GET /health", None),
    ):
        assert await fleet.refused(request, body) == (503, message)


async def test_health_is_ok_while_the_store_answers(fleet: Any) -> None:
    response = await fleet.ask("GET /health")
    assert (response.status, response.body) == (200, b"{}")


async def test_health_fails_on_a_leader_that_cannot_read_the_cluster(fleet: Any) -> None:
    fleet.reconfigure(trouble=lambda: "this machine leads, but cannot read the cluster: it does not answer")
    status, message = await fleet.refused("GET /health")
    assert status == 503
    assert message.endswith("this machine leads, but cannot read the cluster: it does not answer")
    assert (await fleet.ask("GET /fleet/v1/units")).status == 200


async def test_an_invalid_record_is_reported_with_a_remedy(fleet: Any) -> None:
    await fleet.registry.store.transact(
        [], [Put("/fleet/units/a.service", b"junk"), Put("/fleet/settings/m1", b"junk")]
    )
    status, message = await fleet.refused("GET /fleet/v1/units/a.service")
    assert status == 500
    assert message.startswith("/fleet/units/a.service holds no units record")
    assert message.endswith("repair or delete this key in the store")
    assert (await fleet.ask("GET /fleet/v1/units")).body == b"{}"
    edit = [{"op": "remove", "path": "/m1/metadata/k"}]
    assert (await fleet.refused("PATCH /fleet/v1/machines", edit))[0] == 500


# What the daemon provides


async def test_leave_is_accepted_on_a_unix_socket_only(fleet: Any) -> None:
    asked = 0

    async def leave() -> schema.Leaving:
        nonlocal asked
        asked += 1
        return schema.Leaving(waiting_for=("web.service",))

    fleet.reconfigure(leave=leave)
    assert (await fleet.refused("POST /fleet/v2/leave"))[0] == 403
    assert await fleet.refused("GET /fleet/v2/leave") == (405, "only POST supported against this resource")
    assert asked == 0
    response = await fleet.api.handle(Request("POST", "/fleet/v2/leave", local=True, actor=ADMIN))
    assert (response.status, response.body, asked) == (200, b'{"waitingFor":["web.service"]}', 1)


@pytest.mark.covers("4.1.14", "4.8.1")
async def test_metrics_are_served_as_they_are_rendered(fleet: Any) -> None:
    fleet.reconfigure(metrics=lambda: b"fleet_engine_reconcile_count_total 1\n")
    response = await fleet.ask("GET /metrics")
    assert response.headers == (("Content-Type", "text/plain; version=0.0.4"),)
    assert response.body == b"fleet_engine_reconcile_count_total 1\n"


# Arbitrary requests

TEXT = st.text(max_size=12) | st.sampled_from(["web.service", "web@.service", "units", "..", "%", "\0", "inactive"])
SENT = TEXT | st.sampled_from(["\udcff", "a\ud800.service"])  # invalid UTF-8 arrives as half a surrogate pair
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXT,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["name", "options", "desiredState", "section", "value", "op", "path"]), inner, max_size=4
        )
    ),
    max_leaves=12,
)
OPTION = st.fixed_dictionaries({}, optional={"section": TEXT, "name": TEXT, "value": TEXT})
UNIT = st.fixed_dictionaries(
    {}, optional={"name": TEXT, "options": st.lists(OPTION | st.none(), max_size=3), "desiredState": TEXT}
)
EDIT = st.fixed_dictionaries({}, optional={"op": TEXT, "path": TEXT, "value": JSON})
BODY = st.binary(max_size=40) | (JSON | UNIT | st.lists(EDIT, max_size=3)).map(lambda value: json.dumps(value).encode())
PATHS = st.sampled_from(
    ["/fleet/v1/units/", "/fleet/v1/state/", "/fleet/v1/", "/v1-alpha/units/", "/fleet/v2/", "/", ""]
)
REQUEST = st.builds(
    Request,
    method=st.sampled_from(["GET", "HEAD", "PUT", "DELETE", "PATCH", "POST"]) | TEXT,
    path=st.tuples(PATHS, SENT | st.sampled_from(["machines", "state"])).map("".join),
    query=st.lists(
        st.tuples(st.sampled_from(["nextPageToken", "limit", "machineID", "unitName", "name"]), SENT), max_size=3
    ).map(tuple),
    headers=st.sampled_from([(), (("Content-Type", "application/json"),)]),
    body=BODY,
    actor=st.just(ADMIN),
)


@pytest.mark.covers("H.5")
@settings(max_examples=examples(400))
@given(st.lists(REQUEST, min_size=1, max_size=3))
async def test_no_request_ends_in_a_server_error(requests: list[Request]) -> None:
    store = EmbeddedStore(":memory:", offload=inline)
    api = Api(Registry(store))
    try:
        for request in requests:
            response = await api.handle(request)
            assert response.status in (200, 201, 204, 301, 400, 404, 405, 409, 413, 415)
            if response.status >= 400 and request.method != "HEAD":
                assert json.loads(response.body)["error"]["code"] == response.status
        assert (await api.handle(Request("GET", "/fleet/v1/units", actor=ADMIN))).status == 200
    finally:
        await store.close()


async def test_listing_five_hundred_units_takes_under_100_ms_of_processor_time(fleet: Any) -> None:
    fleet.reconfigure(token_limit=500)
    for number in range(500):
        name = f"web{number}.service"
        text = (
            f"[Unit]\nDescription=number {number}\n[Service]\nExecStart=/bin/sleep {number}\n[X-Fleet]\nConflicts=a*\n"
        )
        await fleet.add_unit(name, text, "launched")
        await fleet.put(Decision(name, 1, machine="m1"), name)
        await fleet.put(UnitState("loaded", "active", "running", target=TargetState.LAUNCHED), "m1", name)
    durations = []
    for _ in range(5):
        started = time.process_time()
        response = await fleet.ask("GET /fleet/v1/units")
        durations.append(time.process_time() - started)
    assert len(json.loads(response.body)["units"]) == 500
    assert min(durations) < 0.1
