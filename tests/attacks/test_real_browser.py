"""A web page in a real Chromium of somebody who can reach the API: of another site, and after DNS rebinding.

On https the browser's user has a certificate. A site in between adds it to each connection, as a browser does that has
imported it; everything else that arrives is what Chromium sends.
"""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest

from tests.api.served import LOOPBACK
from tests.attacks import browser as browsers
from tests.attacks.browser import NAME, Browser, Site, browser, site, until
from tests.attacks.target import SECRET, Target, request
from tests.metrics import Counted

__all__ = ["browser"]

TRIES = 16
JSON = "Content-Type: application/json"
RESTART = '{"names":["db.service"]}'


class Sites:
    """A site of somebody else (`pages`), one that checks nothing (`careless`), and those with fleetd behind them."""

    def __init__(self, pages: Site, careless: Site, plain: Site, https: Site) -> None:
        self.pages = pages
        self.careless = careless
        self.plain = plain
        self.https = https

    @property
    def read(self) -> dict[str, dict[str, str]]:
        """What the page could read, by address and try."""
        return {
            address: {name: text for name, text in found.items() if text}
            for address, found in self.pages.reports.items()
        }


@pytest.fixture
async def sites(target: Target) -> AsyncIterator[Sites]:
    user = target.authority.client_context(target.authority.person("admin"))
    async with AsyncExitStack() as stack:
        yield Sites(
            await stack.enter_async_context(site()),
            await stack.enter_async_context(site()),
            await stack.enter_async_context(site(target.plain)),
            await stack.enter_async_context(
                site(target.https, certificate=target.authority.machine("site", names=[LOOPBACK]), tls=user)
            ),
        )


async def check_that_the_target_works(target: Target) -> None:
    """The same requests by somebody who is no page of another site."""
    answer = await target.send(target.plain, request("GET /fleet/v1/units?try=none"))
    assert (answer.statuses, SECRET.encode() in answer.text) == ((200,), True)
    answer = await target.send(target.plain, request("POST /fleet/v2/restart?try=none", JSON, body=RESTART))
    assert answer.statuses == (200,), answer.text
    assert not await target.is_untouched()


@pytest.mark.covers("R.9")
async def test_a_page_of_another_site_reads_and_changes_nothing(target: Target, sites: Sites, browser: Browser) -> None:
    answers = Counted()
    attacked = [f"http://{LOOPBACK}:{target.plain.port}", f"https://{LOOPBACK}:{target.https.port}", sites.https.url()]

    async with browser.visit(sites.pages, [*attacked, sites.careless.url()], sites.pages):
        assert await until(lambda: len(sites.careless.tries) == TRIES), "sent by the browser"
        assert await until(lambda: answers("fleet_api_answers_total", code="403") >= 2 * TRIES)

    assert sites.read == {address: {} for address in (*attacked, sites.careless.url())}
    assert await target.is_untouched()
    assert answers("fleet_api_answers_total", code="200") == 0
    await check_that_the_target_works(target)


@pytest.mark.covers("R.9")
async def test_a_page_whose_name_is_bound_to_a_server_reads_and_changes_nothing(
    target: Target, sites: Sites, browser: Browser
) -> None:
    """For the browser the server is of the page's own origin: only the name in Host gives it away."""
    answers = Counted()

    for done, each in enumerate((sites.careless, sites.plain, sites.https)):
        async with browser.visit(each, [each.url(NAME)], sites.pages):
            assert await until(lambda wanted=done * TRIES: answers("fleet_api_answers_total", code="403") >= wanted)

    careless = sites.read.pop(sites.careless.url(NAME))
    assert {"fetch", "frame", "POST of JSON", "PUT of JSON"} <= careless.keys(), "a browser lets the page read its own"
    assert all(browsers.SECRET in text for text in careless.values())
    for each in (sites.plain, sites.https):
        found = sites.read[each.url(NAME)]
        assert f'host name \\"{NAME}:{each.port}\\" is not allowed' in found["fetch"]
        assert not any(word in text for text in found.values() for word in (SECRET, "db.service"))
        assert not {"websocket", "server-sent events"} & found.keys()
    assert await target.is_untouched()
    assert answers("fleet_api_answers_total", code="200") == 0
    await check_that_the_target_works(target)


async def test_an_address_that_the_user_has_entered_is_answered(target: Target, browser: Browser) -> None:
    assert SECRET in await browser.enter(f"http://{LOOPBACK}:{target.plain.port}/fleet/v1/units")
    assert await target.is_untouched()
