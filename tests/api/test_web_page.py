"""The files of the web page: what is served, how a browser has to treat it, and that nothing else is."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from contrib.testbed.etcd import free_port
from fleetd.api.http import Response
from fleetd.api.web_page import FOLDER
from fleetd.config.options import Address
from fleetd.model.permission import NO_RIGHTS, parse_rights
from tests.api.conftest import Fleet
from tests.api.served import LOOPBACK, Client, ask, serving
from tests.attacks.target import authority
from tests.certificates import TestAuthority, TestTrust

__all__ = ["authority"]

FILES = sorted(path.name for path in FOLDER.iterdir())
SCRIPTS = [name for name in FILES if name.endswith(".js")]
TYPES = {".css": "text/css", ".html": "text/html", ".js": "text/javascript", ".svg": "image/svg+xml"}


async def header(fleet: Fleet, path: str, name: str) -> str:
    response = await fleet.ask(f"GET {path}")
    return dict(response.headers)[name]


def texts() -> Iterator[tuple[str, str]]:
    return ((name, (FOLDER / name).read_text()) for name in FILES)


@pytest.mark.parametrize("name", FILES)
async def test_each_file_is_served_with_its_type_and_its_limits(fleet: Fleet, name: str) -> None:
    response = await fleet.ask(f"GET /ui/{name}")
    assert isinstance(response, Response)
    headers = dict(response.headers)
    assert (response.status, response.body) == (200, (FOLDER / name).read_bytes())
    assert headers["Content-Type"].partition(";")[0] == TYPES[Path(name).suffix]
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Cache-Control"] == "no-cache"
    policy = headers["Content-Security-Policy"].split("; ")
    assert {"default-src 'self'", "frame-ancestors 'none'", "base-uri 'none'"} <= set(policy)
    assert "unsafe" not in headers["Content-Security-Policy"]


async def test_the_page_is_at_ui_with_a_slash_and_without_one_leads_there(fleet: Fleet) -> None:
    response = await fleet.ask("GET /ui")
    assert (response.status, dict(response.headers)["Location"]) == (308, "/ui/")
    response = await fleet.ask("GET /ui/")
    assert response.body == (FOLDER / "index.html").read_bytes()


async def test_a_browser_that_has_a_file_is_not_sent_it_again(fleet: Fleet) -> None:
    tag = await header(fleet, "/ui/main.js", "ETag")
    for known in (tag, f"W/{tag}", f'"other", {tag}', "*"):
        response = await fleet.ask("GET /ui/main.js", None, (("If-None-Match", known),))
        assert (response.status, response.body, dict(response.headers)["ETag"]) == (304, b"", tag)
    response = await fleet.ask("GET /ui/main.js", None, (("If-None-Match", '"other"'),))
    assert response.status == 200
    assert await header(fleet, "/ui/list.js", "ETag") != tag


@pytest.mark.parametrize(
    "path",
    [
        "/ui/absent.js",
        "/ui/../web_page.py",
        "/ui/..%2F..%2Fapi%2Fweb_page.py",
        "/ui/%2E%2E",
        "/ui/.js",
        "/ui/main.js/",
        "/ui/main.js%00",
        "/ui/main.js%0A",
        "/ui/MAIN.js",
        "/ui/main.py",
        "/ui/index",
        "/ui//etc/passwd",
    ],
)
async def test_nothing_else_is_served(fleet: Fleet, path: str) -> None:
    assert (await fleet.ask(f"GET {path}")).status in (301, 404)


@pytest.mark.parametrize("path", ["/ui", "/ui/", "/ui/main.js"])
async def test_the_page_is_for_whoever_may_view_and_is_only_read(fleet: Fleet, path: str) -> None:
    for method in ("PUT", "POST", "PATCH", "DELETE"):
        assert (await fleet.refused(f"{method} {path}", {}))[0] == 405
    assert (await fleet.ask(f"HEAD {path}")).body == b""
    fleet.rights = parse_rights("operate:web-*")
    assert (await fleet.ask(f"GET {path}")).status in (200, 308)
    fleet.rights = NO_RIGHTS
    status, why = await fleet.refused(f"GET {path}")
    assert (status, "needs the permission view" in why) == (403, True)


async def test_a_worker_says_which_server_has_the_page(fleet: Fleet) -> None:
    fleet.reconfigure(servers=["https://10.0.0.1:7443"])
    status, why = await fleet.refused("GET /ui/")
    assert (status, "--endpoint=https://10.0.0.1:7443" in why) == (403, True)


async def test_the_page_is_no_part_of_the_described_api(fleet: Fleet) -> None:
    description = json.loads((await fleet.ask("GET /fleet/v2/openapi.json")).body)
    assert not [path for path in description["paths"] if path.startswith("/ui")]


async def test_the_page_is_served_wherever_the_api_is(fleet: Fleet, path: Address, authority: TestAuthority) -> None:
    plain, metrics = (Address(host=LOOPBACK, port=free_port()) for _ in range(2))
    https = Address(host=LOOPBACK, port=free_port(), tls=True)
    viewer = authority.client_context(authority.person("ann", "view"))
    stranger = authority.client_context()
    trust = TestTrust(authority)
    async with serving(fleet.api, path, plain, https, trust=trust, metrics_addresses=[metrics]):
        for client, status in (
            (Client(path), 200),
            (Client(plain), 200),
            (Client(https, viewer), 200),
            (Client(https, stranger), 401),
            (Client(metrics), 404),
        ):
            assert (await ask(client, "GET", "/ui/"))[0].status == status
        response, body = await ask(Client(plain), "GET", "/ui/main.js")
        tag = response.getheader("ETag") or ""
        assert body == (FOLDER / "main.js").read_bytes()
        response, body = await ask(Client(plain), "GET", "/ui/main.js", headers={"If-None-Match": tag})
        assert (response.status, body) == (304, b"")
        for headers in ({"Host": "evil.example"}, {"Origin": "http://evil.example"}, {"Sec-Fetch-Site": "cross-site"}):
            assert (await ask(Client(plain), "GET", "/ui/", headers=headers))[0].status == 403


# What a browser would be asked to load


def test_the_page_names_nothing_that_lies_elsewhere() -> None:
    for name, text in texts():
        found = set(re.findall(r"\b(?:https?:)?//[\w.-]+\.\w+", text)) - {"http://www.w3.org"}  # the namespace of SVG
        assert not found, name


def test_the_page_has_no_script_and_no_style_of_its_own_in_its_html() -> None:
    html = (FOLDER / "index.html").read_text()
    assert re.findall(r"<script[^>]*>(.*?)</script>", html, re.DOTALL) == ["", ""]
    assert not re.search(r"<style|\sstyle=|\son\w+=|javascript:", html)


def test_no_script_makes_elements_of_text() -> None:
    for name in SCRIPTS:
        text = (FOLDER / name).read_text()
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function", text), (
            name
        )


def test_each_script_that_is_imported_is_there_and_each_is_used() -> None:
    direct = {"load.js", "main.js"}
    imported = set(direct)
    for name in SCRIPTS:
        imported |= set(re.findall(r'from "\./([\w.-]+)"', (FOLDER / name).read_text()))
    assert imported == set(SCRIPTS)
    preloaded = re.findall(r'modulepreload" href="([\w.-]+)"', (FOLDER / "index.html").read_text())
    assert preloaded == sorted(set(SCRIPTS) - direct), "a browser asks for all at once"


def test_what_is_said_to_be_pure_uses_neither_the_document_nor_the_network() -> None:
    pure = [name for name in SCRIPTS if "Pure" in (FOLDER / name).read_text().partition("\nimport")[0].split("\n\n")[0]]
    assert pure == ["cluster.js", "machines.js", "query.js", "rights.js", "services.js", "units.js", "words.js"]
    for name in pure:
        text = (FOLDER / name).read_text()
        assert not re.search(
            r"\b(document|window|fetch|location|history|setTimeout|Date\.now|Math\.random)\b\W", text
        ), name
        assert set(re.findall(r'from "\./([\w.-]+)"', text)) <= set(pure), name


def brightness(colour: str) -> float:
    """The relative luminance of `#rrggbb` or `#rgb`, as the Web Content Accessibility Guidelines have it."""
    digits = colour.removeprefix("#")
    pairs = re.findall("..", digits if len(digits) == 6 else "".join(digit * 2 for digit in digits))
    linear = [
        value / 12.92 if value <= 0.03928 else ((value + 0.055) / 1.055) ** 2.4
        for value in (int(pair, 16) / 255 for pair in pairs)
    ]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    darker, lighter = sorted(map(brightness, (one, other)))
    return (lighter + 0.05) / (darker + 0.05)


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_each_text_is_easy_to_tell_from_what_is_behind_it(scheme: int) -> None:
    blocks = re.findall(r":root \{(.*?)\}", (FOLDER / "style.css").read_text(), re.DOTALL)
    colours = dict(re.findall(r"--([a-z]+): (#[0-9a-f]+);", blocks[scheme]))
    for text in ("text", "quiet", "link", "good", "changing", "bad"):
        for behind in ("back", "raised", "current"):
            assert contrast(colours[text], colours[behind]) >= 4.5, (text, behind)
    for button in ("link", "bad"):
        assert contrast(colours["back"], colours[button]) >= 4.5, button


def test_modules_are_small() -> None:
    for name in SCRIPTS:
        assert len((FOLDER / name).read_text().splitlines()) < 250, name
