"""Chromium, a cluster, and a page of it. All tests of a module share one event loop, in which both run.

Playwright for Python speaks to Debian's Chromium, which contrib/setup installs; it downloads none.
"""

import os
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from playwright.async_api import Browser, ConsoleMessage, Locator, Page, async_playwright, expect

from tests.browser.chromium import launcher
from tests.browser.cluster import SERVICE, Cluster
from tests.browser.flags import FLAGS, PATIENCE_S
from tests.requirements import require

NOT_LOADED = "Failed to load resource"  # an answer of 400 or above, or none: the page tells of that itself
WIDE, PHONE = {"width": 1280, "height": 800}, {"width": 390, "height": 844}


class Visit:
    """A page of the cluster in a browser. `complaints` are what the browser has complained of: errors of scripts, and
    what its policy has kept from being loaded. `asked` are the addresses of all requests."""

    def __init__(self, page: Page, cluster: Cluster) -> None:
        self.page = page
        self.cluster = cluster
        self.complaints: list[str] = []
        self.asked: list[str] = []
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("console", self._note)
        page.on("request", lambda request: self.asked.append(request.url))

    def _note(self, message: ConsoleMessage) -> None:
        if message.type == "error" and not message.text.startswith(NOT_LOADED):
            self.complaints.append(message.text)

    async def open(self, view: str = "units") -> None:
        """Open the page anew at this address within it, and wait until it shows the cluster."""
        await self.page.goto("about:blank")
        await self.page.goto(f"{self.cluster.url}/ui/#/{view}")
        await expect(self.page.locator("#summary")).to_contain_text("machine")
        await expect(self.page.locator("#summary")).not_to_contain_text("reading")

    def row(self, text: str) -> Locator:
        """The row of the list with this text."""
        return self.page.locator(".space > [role=row]", has_text=text)

    async def confirm(self, doing: str) -> None:
        """Press a button of the page, and then the one of the dialog, as soon as the plan is there."""
        await self.page.get_by_role("button", name=doing, exact=True).click()
        await self.page.get_by_role("dialog").get_by_role("button", name=doing, exact=True).click()
        await expect(self.page.get_by_role("dialog")).to_have_count(0)

    async def call(self, module: str, function: str, *arguments: Any) -> Any:
        """What a function of the page returns."""
        return await self.page.evaluate(
            "async ([module, name, given]) => (await import(`/ui/${module}`))[name](...given)",
            [module, function, list(arguments)],
        )


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Browser]:
    home = tmp_path_factory.mktemp("home")
    found = shutil.which("chromium")
    require([] if found else ["chromium is not installed (Debian: chromium)"], "opens the web page in a browser")
    expect.set_options(timeout=PATIENCE_S * 1000)
    async with async_playwright() as playwright:
        launched = await playwright.chromium.launch(
            executable_path=launcher(str(found), home),
            args=FLAGS,
            chromium_sandbox=False,
            timeout=PATIENCE_S * 1000,
            env={"PATH": os.environ["PATH"], "HOME": str(home), "DBUS_SESSION_BUS_ADDRESS": "disabled:"},
        )
        yield launched
        await launched.close()


@pytest_asyncio.fixture(loop_scope="module")
async def cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    """Three machines with db.service, and web@1.service to web@3.service."""
    made = Cluster(tmp_path)
    await made.start()
    await made.apply(db=SERVICE, web_1=SERVICE, web_2=SERVICE, web_3=SERVICE)
    await made.until_active("db.service", "web@1.service", "web@2.service", "web@3.service")
    yield made
    await made.stop()


@pytest_asyncio.fixture(loop_scope="module")
async def visit(browser: Browser, cluster: Cluster) -> AsyncIterator[Visit]:
    context = await browser.new_context(viewport=WIDE, service_workers="block")
    context.set_default_timeout(PATIENCE_S * 1000)
    made = Visit(await context.new_page(), cluster)
    yield made
    await context.close()
    assert made.complaints == []
