"""`python -m contrib.bench.web_page [--quick] [--seed N]`: what the web page of a large cluster takes in Chromium.

The API and the page are served over a store that holds a cluster at rest; the fleetd that serves, the browser and this
program share the machine. Processor time of the page's main thread stands beside what a person waits for: other work
may share the machine, too. Needs Debian's Chromium and Playwright (extra `test`).
"""

import argparse
import asyncio
import os
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from contrib.bench.figure import Figure, render_table
from contrib.bench.leader import Paper
from contrib.bench.plan import LARGE, QUICK, fill
from contrib.testbed.etcd import free_port
from fleetd.api.http import Request, Response
from fleetd.api.routes import Api
from fleetd.api.server import Server
from fleetd.config.options import Address
from fleetd.model.actor import Actor
from fleetd.model.permission import EVERY_RIGHT
from fleetd.registry.registry import Registry
from fleetd.store.embedded import EmbeddedStore

if TYPE_CHECKING:
    from playwright.async_api import Page

ROUNDS = 3
VIEW_S = 1.5  # from the address to the first rows
FRAME_MS = 1000 / 60  # for sixty frames a second, while a list is scrolled
SCROLLED_S = 3.0
PATIENCE_MS = 120_000
FIRST_VIEW = """() => new Promise((done) => {
  const look = () => {
    const rows = document.querySelectorAll(".space > [role=row]").length;
    if (rows) requestAnimationFrame(() => done(performance.now() / 1000)); // since the page was asked for
    else requestAnimationFrame(look);
  };
  look();
})"""
WHOLE = """() => {
  const said = document.getElementById("summary").textContent;
  return said.includes("unit") && !said.includes("reading");
}"""
SCROLL = """(seconds) => new Promise((done) => {
  const list = document.querySelector(".list");
  const began = performance.now();
  let frames = 0, last = began;
  const step = (now) => {
    frames += 1;
    last = now;
    list.scrollTop = (list.scrollTop + 300) % (list.scrollHeight - list.clientHeight);
    if (now - began < seconds * 1000) requestAnimationFrame(step);
    else done([frames, (last - began) / 1000]);
  };
  requestAnimationFrame(step);
})"""


async def measure(paper: Paper, folder: Path) -> list[Figure]:
    """The figures, of a cluster on paper."""
    store = EmbeddedStore(str(folder / "store.db"))
    registry = Registry(store)
    await fill(store, registry, paper)
    api = Api(registry)
    server = Server(api)
    address = Address(host="127.0.0.1", port=free_port())
    await server.start([address], insecure=True)
    try:
        figures = await ask_for_units(api)
        figures += await asyncio.to_thread(look, f"http://{address.host}:{address.port}", folder)
    finally:
        await server.stop()
        await store.close()
    return figures


async def ask_for_units(api: Api) -> list[Figure]:
    """What the list of all units takes a fleetd."""
    asking = Actor(rights=EVERY_RIGHT)
    walls, processor, sizes = [], [], []
    for _ in range(ROUNDS):
        began, used = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF)
        response = await api.handle(Request("GET", "/fleet/v2/units", (), (), b"", actor=asking))
        after = resource.getrusage(resource.RUSAGE_SELF)
        walls.append(time.perf_counter() - began)
        processor.append(after.ru_utime + after.ru_stime - used.ru_utime - used.ru_stime)
        assert isinstance(response, Response)
        assert response.status == 200
        sizes.append(len(response.body) / 1e6)
    return [
        Figure("units-wall", "GET /fleet/v2/units", "s", tuple(walls)),
        Figure("units-cpu", "the same, of the processor", "s", tuple(processor)),
        Figure("units-size", "the same, its content", "MB", tuple(sizes)),
    ]


def look(url: str, home: Path) -> list[Figure]:
    """What a person waits for, and sees when scrolling."""
    return asyncio.run(_look(url, home))


async def _look(url: str, home: Path) -> list[Figure]:
    from playwright.async_api import async_playwright

    figures = []
    async with async_playwright() as playwright:
        environment: dict[str, str | float | bool] = {"PATH": os.environ["PATH"], "HOME": str(home)}
        browser = await playwright.chromium.launch(
            executable_path=shutil.which("chromium"),
            args=["--no-proxy-server", "--disable-dev-shm-usage", "--disable-background-networking"],
            chromium_sandbox=False,
            env=environment,
        )
        for view in ("units", "machines"):
            context = await browser.new_context(viewport={"width": 1280, "height": 800})
            page = await context.new_page()
            page.set_default_timeout(PATIENCE_MS)
            figures += await _watch(page, url, view)
            await context.close()
        await browser.close()
    return figures


async def _watch(page: "Page", url: str, view: str) -> list[Figure]:
    shown, worked, rates, costs = [], [], [], []
    browser = await page.context.new_cdp_session(page)
    await browser.send("Performance.enable", {"timeDomain": "threadTicks"})

    async def busy_s() -> float:
        """Processor time of the page's main thread so far."""
        metrics = (await browser.send("Performance.getMetrics"))["metrics"]
        return float(next(metric["value"] for metric in metrics if metric["name"] == "TaskDuration"))

    for _ in range(ROUNDS):
        await page.goto("about:blank")
        before = await busy_s()
        await page.goto(f"{url}/ui/#/{view}", wait_until="commit")
        shown.append(float(await page.evaluate(FIRST_VIEW)))
        await page.wait_for_function(WHOLE)
        loaded = await busy_s()
        worked.append(loaded - before)
        frames, within_s = await page.evaluate(SCROLL, SCROLLED_S)
        rates.append(frames / within_s)
        costs.append((await busy_s() - loaded) / frames * 1000)
    return [
        Figure(f"{view}-view", f"first view of {view}", "s", tuple(shown), limit=VIEW_S),
        Figure(f"{view}-cpu", "main thread, until all is shown", "s", tuple(worked)),
        Figure(f"{view}-rate", f"frames a second, scrolling {view}", "", tuple(rates)),
        Figure(f"{view}-frame", "main thread, for a frame", "ms", tuple(costs), limit=FRAME_MS),
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m contrib.bench.web_page", description="Measure the web page.")
    parser.add_argument("--quick", action="store_true", help="a small cluster: to see that it works")
    parser.add_argument("--seed", type=int, default=1, help="of the units and machines that are drawn")
    given = parser.parse_args(arguments)
    paper = Paper(given.seed, *(QUICK if given.quick else LARGE))
    with tempfile.TemporaryDirectory() as folder:
        figures = asyncio.run(measure(paper, Path(folder)))
    print(f"{len(paper.units):,} units on {len(paper.machines):,} machines:", render_table(figures), sep="\n")
    return 0 if all(figure.holds for figure in figures) else 1


if __name__ == "__main__":
    sys.exit(main())
