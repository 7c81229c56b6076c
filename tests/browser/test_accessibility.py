"""axe-core finds nothing in any view that would keep somebody from using the page."""

import pytest
from axe_playwright_python.async_playwright import Axe
from playwright.async_api import expect

from tests.browser.cluster import ANNOUNCING, M1
from tests.browser.conftest import PHONE, WIDE, Visit

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.long, pytest.mark.xdist_group("browser")]
VIEWS = (
    "machines",
    "units",
    "units?group=1",
    "services",
    "services?group=0",
    "locks",
    "rollouts",
    "upkeep",
    "events",
    "unit/db.service",
    f"machine/{M1}",
)
DIFFERENT = ("machines", "services", "unit/db.service")  # with a map, lists, tables, a log
OPTIONS = {"resultTypes": ["violations"]}


async def check(visit: Visit, where: str) -> None:
    found = await Axe().run(visit.page, options=OPTIONS)
    said = [
        (where, violation["id"], violation["help"], [node["html"][:200] for node in violation["nodes"][:3]])
        for violation in found.response["violations"]
    ]
    assert said == []


@pytest.mark.parametrize(
    ("scheme", "size", "views"),
    [("light", WIDE, VIEWS), ("dark", WIDE, DIFFERENT), ("light", PHONE, DIFFERENT)],
)
async def test_axe_finds_nothing_in_any_view(
    visit: Visit, scheme: str, size: dict[str, int], views: tuple[str, ...]
) -> None:
    await visit.cluster.apply(api=ANNOUNCING)
    await visit.page.set_viewport_size(size)
    await visit.page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
    for view in views:
        await visit.open(view)
        await expect(visit.page.locator("main > *")).to_be_visible()
        if view.startswith("services"):
            await expect(visit.row("api")).to_be_visible()
        if view.startswith("unit/"):
            await expect(visit.page.get_by_role("table", name="Why here")).to_be_visible()
        await check(visit, f"{view} {scheme} {size['width']}")


async def test_axe_finds_nothing_in_a_dialog(visit: Visit) -> None:
    await visit.open(f"machine/{M1}")
    await visit.page.get_by_role("button", name="Drain", exact=True).click()
    await expect(visit.page.get_by_role("dialog").get_by_role("table")).to_be_visible()
    await check(visit, "drain")
    await visit.page.keyboard.press("Escape")
    await visit.page.keyboard.press("?")
    await expect(visit.page.get_by_role("dialog")).to_contain_text("Keys")
    await check(visit, "keys")
