"""The port of fleetctl ui: another user of this machine, and pages of other sites in the browser that has entered."""

import asyncio
import json
import os
import subprocess
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import pytest_asyncio
from playwright.async_api import Browser, Page, expect

from fleetd.api.server import Server
from fleetd.config.options import Address
from tests.attacks.browser import NAME, site
from tests.browser.cluster import M1, Cluster
from tests.browser.conftest import browser, cluster
from tests.browser.flags import PATIENCE_S
from tests.fleetctl.page_command import PageCommand, page_command

__all__ = ["browser", "cluster"]

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.long, pytest.mark.xdist_group("browser")]

NOBODY = 65534
RESTART = '{"names":["db.service"]}'
EMPTY_REPLY, RESET = 52, 56  # exit statuses of curl
# What a page of another site can try with the browser's cookie: requests as a form or an image makes them, too.
TRY = """async ([target, body]) => {
  const read = [];
  const attempt = async (name, options) => {
    try {
      const answer = await fetch(`${target}/fleet/v2/${name}`, { credentials: "include", ...options });
      const text = await answer.text();
      if (answer.ok && text) read.push(text);
    } catch {}
  };
  await attempt("units", {});
  await attempt("units", { mode: "no-cors" });
  await attempt("restart", { method: "POST", body, headers: { "Content-Type": "application/json" } });
  await attempt("restart", { method: "POST", body, mode: "no-cors" });
  await attempt("restart", { method: "POST", body, mode: "no-cors", headers: { "Content-Type": "text/plain" } });
  return read;
}"""


@pytest_asyncio.fixture(loop_scope="module")
async def command(cluster: Cluster) -> AsyncIterator[PageCommand]:
    """fleetctl ui for the first machine."""
    socket = str(cluster.folder / "fleet.sock")
    server = Server(cluster.nodes[M1].api)
    await server.start([Address(path=socket)], insecure=False)
    async with AsyncExitStack() as stack:
        yield await asyncio.to_thread(
            stack.enter_context, page_command("--no-browser", "--endpoint", f"unix://{socket}")
        )
    await server.stop()


async def restarts(cluster: Cluster) -> int:
    """How often somebody has asked for a restart of the unit."""
    told = await cluster.ask("GET", "/fleet/v2/explain/db.service")
    return sum(event.get("action") == "restart" for event in told.get("history", ()))


@pytest.mark.skipif(os.getuid() != 0, reason="needs root, to become another user")
@pytest.mark.parametrize("address", ["127.0.0.1", "[::ffff:127.0.0.1]"])
async def test_another_user_gets_nothing_even_with_the_token_and_the_cookie(command: PageCommand, address: str) -> None:
    assert await as_nobody(command, address, command.address.partition(command.netloc)[2]) == ""
    await asyncio.to_thread(command.enter)
    assert command.cookie, "the token is still good for whom it is"
    assert await as_nobody(command, address, "/fleet/v2/units", f"Cookie: {command.cookie}") == ""
    status, text = await asyncio.to_thread(command.ask, "/fleet/v2/units")
    assert (status, "db.service" in text) == (200, True)


async def as_nobody(command: PageCommand, address: str, path: str, *headers: str) -> str:
    """What another user of this machine is answered."""
    given = [word for header in (f"Host: {command.netloc}", *headers) for word in ("--header", header)]
    argv = ["curl", "--silent", "--max-time", f"{PATIENCE_S:g}", *given, f"http://{address}:{command.port}{path}"]
    done = await asyncio.to_thread(
        subprocess.run, argv, user=NOBODY, group=NOBODY, capture_output=True, text=True, check=False
    )
    assert done.returncode in (EMPTY_REPLY, RESET), done
    return str(done.stdout)


async def test_pages_of_other_sites_read_and_change_nothing_in_the_browser_that_has_entered(
    browser: Browser, cluster: Cluster, command: PageCommand
) -> None:
    own = f"http://{command.netloc}"
    async with AsyncExitStack() as stack:
        beside = await stack.enter_async_context(site())  # of another port of this machine: the same site, for cookies
        bound = await stack.enter_async_context(site(Address(host="127.0.0.1", port=command.port)))
        context = await browser.new_context()
        stack.push_async_callback(context.close)
        page = await context.new_page()
        await page.goto(command.address)
        await expect(page.locator("#summary")).to_contain_text("3 machines")
        cookies = await context.cookies()
        assert [(cookie["httpOnly"], cookie["sameSite"]) for cookie in cookies] == [(True, "Strict")]

        foreign = await context.new_page()
        await foreign.route(f"http://{NAME}/", lambda route: route.fulfill(content_type="text/html", body="<p>hello"))
        for address, target in ((beside.url(), own), (f"http://{NAME}/", own), (bound.url(), bound.url())):
            await foreign.goto(address)
            assert await foreign.evaluate(TRY, [target, RESTART]) == [], address
        assert await framed(foreign, own) == ""
        assert await restarts(cluster) == 0

        asked = await page.evaluate(TRY, [own, RESTART])
        assert any("db.service" in text for text in asked), "the page itself may"
        assert await restarts(cluster) > 0


async def framed(foreign: Page, own: str) -> str:
    """What a frame of the page shows on another site."""
    await foreign.evaluate(
        """async (address) => {
          const frame = document.createElement("iframe");
          const loaded = new Promise((done) => { frame.onload = done; });
          frame.src = address;
          document.body.append(frame);
          await loaded;
        }""",
        f"{own}/ui/",
    )
    shown = foreign.frames[-1]
    return "" if "chrome-error" in shown.url else await shown.locator("body").inner_text()


async def test_the_token_is_in_no_answer_and_no_log(command: PageCommand, tmp_path: Path) -> None:
    await asyncio.to_thread(command.enter)
    for path in ("/", "/ui/", "/fleet/v2/whoami", "/?token=x"):
        assert command.address.partition("=")[2] not in json.dumps(await asyncio.to_thread(command.ask, path))
    status, said = await asyncio.to_thread(command.end)
    assert (status, "token" in said) == (0, False)
