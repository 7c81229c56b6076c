"""A web page in the browser of somebody who can reach the API, on the plain and on the https listener.

The requests are those that browsers make for a page; what a page may choose of them is what it can forge (Fetch
Standard: Host, Origin and Sec-Fetch-* it cannot). On https the browser has imported its user's certificate, and sends
it without asking.
"""

import pytest

from tests.api.served import LOOPBACK
from tests.attacks.target import SECRET, Target, request

EVIL = "http://evil.example"
START = '{"desiredState":"inactive"}'
LISTENERS = ("plain", "https")


async def send_as_page(target: Target, listener: str, data: bytes) -> "tuple[bool, tuple[int, ...], bytes]":
    """Whether nothing was given and nothing changed, with what came back."""
    if listener == "plain":
        answer = await target.send(target.plain, data)
    else:
        context = target.authority.client_context(target.authority.person("admin"))
        answer = await target.send(target.https, data, context)
    return answer.gave_nothing and await target.is_untouched(), answer.statuses, answer.text


TRIED = {
    "DNS rebinding: the page's own name leads here": request("GET /fleet/v1/units", host="evil.example"),
    "rebinding with a port": request("GET /fleet/v1/units", host="evil.example:7443"),
    "rebinding with a name that begins like ours": request("GET /fleet/v1/units", host=f"{LOOPBACK}.evil.example"),
    "rebinding with a trailing dot": request("GET /fleet/v1/units", host="localhost.evil.example."),
    "rebinding, a POST from its own origin": request(
        "POST /fleet/v2/restart",
        f"Origin: {EVIL}",
        "Content-Type: application/json",
        body='{"names":["db.service"]}',
        host="evil.example",
    ),
    "cross-origin fetch": request("GET /fleet/v1/units", f"Origin: {EVIL}"),
    "an image, a script, a link of the page": request(
        "GET /fleet/v1/units", "Sec-Fetch-Site: cross-site", "Sec-Fetch-Mode: no-cors", "Sec-Fetch-Dest: script"
    ),
    "a page of another port of this host": request("GET /fleet/v1/units", f"Origin: http://{LOOPBACK}:1"),
    "a sandboxed frame or a file": request("GET /fleet/v1/units", "Origin: null"),
    "a simple request: a form": request(
        "POST /fleet/v2/restart",
        f"Origin: {EVIL}",
        "Content-Type: application/x-www-form-urlencoded",
        body='{"names":["db.service"]}',
    ),
    "a simple request of an old browser, which sends no Origin": request(
        "POST /fleet/v2/restart", "Content-Type: text/plain", body='{"names":["db.service"]}'
    ),
    "a form with a file": request(
        "POST /fleet/v2/units", "Content-Type: multipart/form-data; boundary=x", body="--x\r\n\r\n{}\r\n--x--"
    ),
    "navigator.sendBeacon": request(
        "POST /fleet/v2/apply", f"Origin: {EVIL}", "Content-Type: text/plain", "Sec-Fetch-Mode: no-cors", body="{}"
    ),
    "a preflight": request(
        "OPTIONS /fleet/v1/units/db.service",
        f"Origin: {EVIL}",
        "Access-Control-Request-Method: PUT",
        "Access-Control-Request-Headers: content-type",
    ),
    "a preflight to a private network": request(
        "OPTIONS /fleet/v1/units", f"Origin: {EVIL}", "Access-Control-Request-Private-Network: true"
    ),
    "the request after the preflight": request(
        "PUT /fleet/v1/units/db.service", f"Origin: {EVIL}", "Content-Type: application/json", body=START
    ),
    "a websocket": request(
        "GET /fleet/v1/units",
        f"Origin: {EVIL}",
        "Upgrade: websocket",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    ),
    "server-sent events": request("GET /fleet/v1/units", f"Origin: {EVIL}", "Accept: text/event-stream"),
    "two Host headers": request("GET /fleet/v1/units", f"Host: {LOOPBACK}", host="evil.example"),
    "two Host headers, ours first": request("GET /fleet/v1/units", "Host: evil.example"),
    "two Origins, ours first": request("GET /fleet/v1/units", f"Origin: http://{LOOPBACK}", f"Origin: {EVIL}"),
    "the rebound name in the request line": request(f"GET {EVIL}/fleet/v1/units", host="evil.example"),
    "HTTP/1.0 by the name": b"GET /fleet/v1/units HTTP/1.0\r\nHost: evil.example\r\n\r\n",
}


@pytest.mark.parametrize("listener", LISTENERS)
@pytest.mark.parametrize("tried", TRIED)
async def test_a_page_reads_and_changes_nothing(target: Target, listener: str, tried: str) -> None:
    is_safe, statuses, text = await send_as_page(target, listener, TRIED[tried])
    assert is_safe, (tried, statuses, text)
    assert statuses != (), "answered with a refusal, not with silence"


@pytest.mark.parametrize("listener", LISTENERS)
async def test_no_answer_lets_a_page_read_it(target: Target, listener: str) -> None:
    """Even one that is given out, as to the user's own request, is marked for no page and for no other type."""
    _, statuses, text = await send_as_page(target, listener, request("GET /fleet/v1/units"))
    assert statuses == (200,)
    assert SECRET.encode() in text
    head = text.partition(b"\r\n\r\n")[0].lower()
    assert b"access-control-" not in head
    assert b"set-cookie" not in head
    assert b"content-type: application/json" in head


async def test_smuggled_bytes_behind_a_form_are_no_request(target: Target) -> None:
    """A form may send a body that looks like a request; it is read as a body, and the connection goes on after it."""
    inner = request("PUT /fleet/v1/units/db.service", "Content-Type: application/json", body=START).decode()
    for data in (
        request("POST /fleet/v2/restart", f"Origin: {EVIL}", "Content-Type: text/plain", body=inner),
        request("GET /fleet/v1/units", f"Origin: {EVIL}", "Content-Type: text/plain", body=inner),
    ):
        answer = await target.send(target.plain, data.replace(b"Connection: close\r\n", b"", 1))
        assert len(answer.statuses) <= 1, answer.text
        assert answer.gave_nothing
        assert await target.is_untouched()
