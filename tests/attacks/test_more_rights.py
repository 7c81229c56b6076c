"""Somebody who may do a little tries to do more: by content, names, methods, headers and bytes between requests."""

from typing import Any

import pytest

from fleetd.model.permission import parse_rights
from tests.api.conftest import JSON, Fleet
from tests.attacks.target import Target, request

SERVICE = "[Service]\nExecStart=/bin/true\n"
OPTIONS = [{"section": "Service", "name": "ExecStart", "value": "/bin/true"}]
VIEW, OPERATE, OWN_NAMES, EVERYTHING = "view", "view,operate", "submit:web-*", "admin"
UNITS = {
    "db.service": SERVICE,
    "db@.service": SERVICE,
    "db@1.service": SERVICE,
    "web-1.service": SERVICE,
    "web-x@.service": SERVICE,
}


def option(section: str, name: str, value: str) -> list[dict[str, str]]:
    return [*OPTIONS, {"section": section, "name": name, "value": value}]


def applied(name: str, text: str = SERVICE, *dropins: str, **options: Any) -> dict[str, Any]:
    own = [{"name": f"{number}.conf", "text": dropin} for number, dropin in enumerate(dropins)]
    return {"units": [{"name": name, "text": text, "dropins": own}], **options}


def operation(name: str, **fields: Any) -> dict[str, Any]:
    return {"operations": [{"name": name, **fields}]}


REPLACES = "[X-Fleet]\nReplaces=db.service\n"
LOCK = "[X-Fleet]\nLock="
ALIAS = "[Install]\nAlias=db.service\n"
REQUIRED = "[Install]\nRequiredBy=db.service\n"

# rights, what is tried, request, body
CONTENT = [
    (OWN_NAMES, "replace a unit of others", "POST /fleet/v2/apply", applied("web-2.service", SERVICE + REPLACES)),
    (OWN_NAMES, "the same by a drop-in", "POST /fleet/v2/apply", applied("web-2.service", SERVICE, REPLACES)),
    (OWN_NAMES, "in the second drop-in", "POST /fleet/v2/apply", applied("web-2.service", SERVICE, "", REPLACES)),
    (OWN_NAMES, "the name of a unit of others", "POST /fleet/v2/apply", applied("web-2.service", SERVICE, ALIAS)),
    (OWN_NAMES, "have a unit of others need it", "POST /fleet/v2/apply", applied("web-2.service", SERVICE, REQUIRED)),
    (
        OWN_NAMES,
        "a drop-in for a unit that exists",
        "POST /fleet/v2/units",
        operation("web-1.service", dropins=[{"name": "a.conf", "text": REPLACES}]),
    ),
    (
        OWN_NAMES,
        "a drop-in for a unit of others",
        "POST /fleet/v2/units",
        operation("db.service", dropins=[{"name": "a.conf", "text": "[Service]\nExecStart=/bin/false\n"}]),
    ),
    (
        OWN_NAMES,
        "a template whose instances take names of others",
        "PUT /fleet/v1/units/web-x@db.service",
        {"options": option("Install", "Alias", "%i.service")},
    ),
    (
        OWN_NAMES,
        "a template whose instances replace others",
        "PUT /fleet/v1/units/web-x@db.service",
        {"options": option("X-Fleet", "Replaces", "%i.service")},
    ),
    (
        OWN_NAMES,
        "several in one line",
        "PUT /fleet/v1/units/web-2.service",
        {"options": option("Install", "Alias", "web-3.service db.service")},
    ),
    (
        OWN_NAMES,
        "an empty one first",
        "POST /fleet/v2/apply",
        applied("web-2.service", f"{SERVICE}[Install]\nAlias=web-3.service\nAlias=db.service\n"),
    ),
    (OWN_NAMES, "everything", "PUT /fleet/v1/units/web-2.service", {"options": option("X-Fleet", "Replaces", "*")}),
    (
        OWN_NAMES,
        "run with a lock of others",
        "PUT /fleet/v1/units/web-2.service",
        {"options": option("X-Fleet", "Lock", "db 2")},
    ),
    (OWN_NAMES, "the same by a drop-in", "POST /fleet/v2/apply", applied("web-2.service", SERVICE, f"{LOCK}db\n")),
    (
        OWN_NAMES,
        "a lock of others before one's own",
        "POST /fleet/v2/apply",
        applied("web-2.service", f"{SERVICE}{LOCK}db\nLock=web-2\n"),
    ),
    (
        OWN_NAMES,
        "an instance whose lock is of others",
        "PUT /fleet/v1/units/web-x@db.service",
        {"options": option("X-Fleet", "Lock", "%i")},
    ),
    (OWN_NAMES, "take a lock of others", "POST /fleet/v2/locks/db", {"wait": 0}),
    (OWN_NAMES, "wait for a lock of others", "POST /fleet/v2/locks/db", {}),
    (OWN_NAMES, "take a lock of others away", "DELETE /fleet/v2/locks/db", None),
    (OWN_NAMES, "renew a lock of others", "PUT /fleet/v2/lock-sessions/db.1", None),
    (OWN_NAMES, "release a lock of others", "DELETE /fleet/v2/lock-sessions/db.1", None),
    (EVERYTHING, "stop what runs isolated", "PUT /fleet/v1/units/fleet-isolate.service", {"options": OPTIONS}),
    (
        EVERYTHING,
        "hold up all downloads of an image",
        "PUT /fleet/v1/units/fleet-pull-0123456789abcdef.service",
        {"options": OPTIONS},
    ),
    (
        EVERYTHING,
        "the name of the service that stops units",
        "POST /fleet/v2/apply",
        applied("web-2.service", f"{SERVICE}[Install]\nAlias=fleet-lease.service\n"),
    ),
    (OWN_NAMES, "empty a set of others", "POST /fleet/v2/apply", {"set": "theirs", "prune": True, "confirmed": True}),
    (OWN_NAMES, "take over what is others'", "POST /fleet/v2/apply", applied("db.service", set="mine", takeOver=True)),
    (
        OWN_NAMES,
        "edit what is others'",
        "POST /fleet/v2/apply",
        applied("db.service", SERVICE + "User=root\n", edit=True),
    ),
    (OWN_NAMES, "an instance of others' template", "PUT /fleet/v1/units/db@2.service", {"desiredState": "launched"}),
    (OWN_NAMES, "more instances of it", "POST /fleet/v2/scale", {"template": "db@.service", "instances": 3}),
    (OWN_NAMES, "a setting of the cluster", "PATCH /fleet/v2/settings", {"set": {"max_units": "1"}}),
    (OPERATE, "submit", "PUT /fleet/v1/units/new.service", {"options": OPTIONS}),
    (
        OPERATE,
        "change while it starts",
        "PUT /fleet/v1/units/db.service",
        {"options": option("Unit", "A", "b"), "desiredState": "launched"},
    ),
    (OPERATE, "destroy among operations", "POST /fleet/v2/units", operation("db.service", destroy=True)),
    (
        OPERATE,
        "a drop-in among operations",
        "POST /fleet/v2/units",
        operation("db.service", dropins=[{"name": "a.conf", "text": "[Service]\nUser=root\n"}]),
    ),
    (OPERATE, "apply", "POST /fleet/v2/apply", applied("db.service", SERVICE, "[Service]\nUser=root\n")),
    (OPERATE, "apply nothing but a prune", "POST /fleet/v2/apply", {"set": "theirs", "prune": True, "confirmed": True}),
    (OPERATE, "metadata", "PATCH /fleet/v1/machines", [{"op": "add", "path": "/m1/metadata/a", "value": "b"}]),
    (OPERATE, "reboot", "PUT /fleet/v2/machines/m1/reboot", {}),
    (OPERATE, "forget a machine", "DELETE /fleet/v2/machines/m1", None),
    (OPERATE, "remove a machine", "POST /fleet/v2/machines/m1/remove", {"force": True}),
    (OPERATE, "a token for a machine", "POST /fleet/v2/machine-tokens", {}),
    (OPERATE, "revoke an administrator", "POST /fleet/v2/revocations", {"name": "admin"}),
    (OPERATE, "an authority", "POST /fleet/v2/authorities", {}),
    (VIEW, "start", "PUT /fleet/v1/units/db.service", {"desiredState": "launched"}),
    (VIEW, "restart", "POST /fleet/v2/restart", {"names": ["db.service"]}),
    (VIEW, "cordon", "PUT /fleet/v2/machines/m1/cordon", {}),
    (VIEW, "undo a rollout", "POST /fleet/v2/rollouts/db.service", {"action": "undo"}),
    (VIEW, "move", "PUT /fleet/v2/units/db.service/move", {"machine": "m1"}),
]


@pytest.fixture
async def bounded(fleet: Fleet) -> Fleet:
    for name, text in UNITS.items():
        await fleet.add_unit(name, text)
    made = await fleet.ask("POST /fleet/v2/apply", {"set": "theirs", **applied("backup.service")})
    assert made.status == 200, made.body
    return fleet


async def stored(fleet: Fleet) -> int:
    return await fleet.registry.store.revision()


@pytest.mark.parametrize(
    ("rights", "tried", "request_", "body"), CONTENT, ids=[f"{row[0]}: {row[1]}" for row in CONTENT]
)
async def test_content_makes_no_more_of_ones_rights(
    bounded: Fleet, rights: str, tried: str, request_: str, body: Any
) -> None:
    if isinstance(body, dict) and body.get("edit"):
        body["generation"] = (await bounded.unit("db.service")).generation
    before = await stored(bounded)
    bounded.rights = parse_rights(rights)
    response = await bounded.ask(request_, body)
    assert response.status >= 400 or b'"code":403' in response.body, response.body  # which each unit of several has
    assert await stored(bounded) == before


async def test_a_template_of_ones_own_gives_its_instances_nothing_of_others(bounded: Fleet) -> None:
    """The template names nobody; what its instances name is checked when they are made."""
    bounded.rights = parse_rights(OWN_NAMES)
    for line in (
        "[X-Fleet]\nReplaces=%i.service\n",
        "[X-Fleet]\nLock=%i\n",
        "[Install]\nAlias=%i.service\n",
        "[Install]\nRequiredBy=%i.service\n",
    ):
        made = await bounded.ask("POST /fleet/v2/apply", applied("web-t@.service", SERVICE + line))
        before = await stored(bounded)
        if made.status == 200:
            for asked, body in (
                ("PUT /fleet/v1/units/web-t@db.service", {"desiredState": "launched"}),
                ("POST /fleet/v2/units", operation("web-t@db.service", desiredState="launched")),
                ("POST /fleet/v2/apply", {"units": [{"name": "web-t@db.service"}]}),
            ):
                response = await bounded.ask(asked, body)
                assert response.status >= 400 or b'"code":4' in response.body, (line, asked, response.body)
                assert await stored(bounded) == before, (line, asked)
        else:
            assert made.status == 403, made.body


@pytest.mark.parametrize(
    "name",
    [
        "web-/../db.service",
        "web-1.service/../db.service",
        "../units/db.service",
        "web-1.service\n",
        "web-1.service\0db.service",
        "web-*",
        "*",
        "db.service ",
        "DB.service",
        "web-.service,db.service",
        "\uff57eb-1.service",
    ],
)
async def test_names_that_look_like_ones_own_are_none(bounded: Fleet, name: str) -> None:
    before = await stored(bounded)
    bounded.rights = parse_rights(OWN_NAMES)
    for asked, body in (
        ("POST /fleet/v2/units", operation(name, desiredState="launched", options=OPTIONS)),
        ("POST /fleet/v2/units", operation(name, destroy=True)),
        ("POST /fleet/v2/apply", applied(name)),
    ):
        response = await bounded.ask(asked, body)
        assert response.status >= 400 or b'"code":4' in response.body, (asked, response.body)
        assert await stored(bounded) == before, (name, asked)


@pytest.mark.parametrize("rights", [VIEW, OPERATE])
async def test_headers_and_queries_make_no_other_request_of_one(bounded: Fleet, rights: str) -> None:
    before = await stored(bounded)
    bounded.rights = parse_rights(rights)
    for header in ("X-HTTP-Method-Override", "X-HTTP-Method", "X-Method-Override", "X-Original-URL", "Fleet-User"):
        for value in ("DELETE", "root", "/fleet/v2/settings"):
            sent = (*JSON, (header, value))
            for asked in ("GET /fleet/v1/units/db.service", "POST /fleet/v1/units/db.service"):
                assert (await bounded.ask(asked, {}, sent)).status in (200, 405), (header, asked)
            assert (await bounded.ask("DELETE /fleet/v1/units/db.service", None, sent)).status == 403
    for query in ("_method=DELETE", "method=PUT&desiredState=launched", "user=root", "rights=admin"):
        assert (await bounded.ask(f"GET /fleet/v1/units/db.service?{query}")).status in (200, 400)
        assert (await bounded.ask(f"DELETE /fleet/v1/units/db.service?{query}")).status == 403
    for asked in (
        "delete /fleet/v1/units/db.service",
        "DELETE /fleet/v1//units/db.service",
        "PUT /fleet/v1/units/%2e%2e",
    ):
        assert (await bounded.ask(asked)).status in (301, 400, 403, 404, 405), asked
    assert await stored(bounded) == before


INNER = request(
    "PUT /fleet/v1/units/db.service", "Content-Type: application/json", body='{"desiredState":"inactive"}'
).decode()
GET = "GET /fleet/v2/whoami HTTP/1.1\r\nHost: 127.0.0.1\r\n"
SMUGGLED = {
    "a second request behind the first": f"{GET}\r\n{INNER}",
    "two lengths": f"{GET}Content-Length: 0\r\nContent-Length: {len(INNER)}\r\n\r\n{INNER}",
    "a length and chunks": f"{GET}Content-Length: {len(INNER)}\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{INNER}",
    "chunks and a length": f"{GET}Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n{INNER}",
    "chunks in other words": f"{GET}Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n{INNER}",
    "chunks after a tab": f"{GET}Transfer-Encoding:\tchunked\r\n\r\n0\r\n\r\n{INNER}",
    "a space before the colon": f"{GET}Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n{INNER}",
    "a folded header": f"{GET}Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n{INNER}",
    "a negative length": f"{GET}Content-Length: -1\r\n\r\n{INNER}",
    "a length with a sign": f"{GET}Content-Length: +0\r\n\r\n{INNER}",
    "a line feed alone ends the headers": f"{GET}X: y\n\n{INNER}",
    "a request within a header": f"{GET}Fleet-User: a\r\n\r\n{INNER}",
    "a carriage return within a header": f"{GET}X: y\r{INNER}",
    "a zero byte within a header": f"{GET}X: \0\r\n\r\n{INNER}",
    "a chunk with a wrong length": f"{GET}Transfer-Encoding: chunked\r\n\r\n1\r\n\r\n0\r\n\r\n{INNER}",
    "a chunk extension": f"{GET}Transfer-Encoding: chunked\r\n\r\n0;x\n\r\n\r\n{INNER}",
    "an upgrade to HTTP/2": f"{GET}Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n\r\n{INNER}",
    "a target with a space": f"GET /fleet/v2/whoami HTTP/1.1\r\nX: y\r\n\r\n{INNER}",
}


@pytest.mark.parametrize("rights", [VIEW, OPERATE.replace("operate", "operate:web-*")])
@pytest.mark.parametrize("tried", SMUGGLED)
async def test_bytes_between_requests_make_no_other_client(target: Target, rights: str, tried: str) -> None:
    """Each request of a connection has the rights of its certificate, however many fleetd takes the bytes for."""
    ann = target.authority.client_context(target.authority.person("ann", rights))
    answer = await target.send(target.https, SMUGGLED[tried].encode("latin-1"), ann)
    assert await target.is_untouched()
    assert [status for status in answer.statuses if status < 400] in ([], [200]), answer.text
    assert all(status in (400, 403, 413, 431, 501) for status in answer.statuses if status != 200), answer.text
