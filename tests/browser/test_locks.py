"""The page of locks, and what takes one away."""

import pytest
from playwright.async_api import expect

from tests.browser.conftest import Visit

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.long, pytest.mark.xdist_group("browser")]


async def test_locks_are_shown_and_one_is_taken_away_after_a_question(visit: Visit) -> None:
    await visit.open("locks")
    await expect(visit.page.locator("main")).to_contain_text("Nobody holds a lock")
    await visit.cluster.ask("POST", "/fleet/v2/locks/backup", {"wait": 0, "ttl": 60, "holder": "host:1"})
    row = visit.page.locator("tr", has_text="backup")
    await expect(row).to_contain_text("held")
    await expect(row).to_contain_text("host:1")
    await row.get_by_role("button", name="Take lock backup away").click()
    dialog = visit.page.get_by_role("dialog")
    await expect(dialog).to_contain_text("What runs with it is ended at its next renewal.")
    await dialog.get_by_role("button", name="Cancel").click()
    await expect(row).to_contain_text("held")
    await row.get_by_role("button", name="Take lock backup away").click()
    await dialog.get_by_role("button", name="Take it away").click()
    await expect(row).to_contain_text("vanished")
    await visit.open("events")
    await expect(visit.page.locator("main")).to_contain_text("unlock of backup was asked for")
    assert visit.complaints == []


async def test_who_may_not_operate_a_name_is_not_offered_to_take_its_lock_away(visit: Visit) -> None:
    await visit.open("locks")
    row = await visit.call(
        "rights.js", "may", {"grants": [{"permission": "operate", "pattern": "web-*"}]}, "operate", "db"
    )
    assert row is False
    locks = [
        {"name": "b", "slots": 1, "waiting": 2, "holders": []},
        {
            "name": "a",
            "slots": 1,
            "waiting": 0,
            "holders": [
                {"session": "a.1", "is_foreign": True},
                {"session": "a.2", "by": "root", "since": 5.0, "is_gone": True},
            ],
        },
    ]
    rows = await visit.call("locks.js", "lockRows", locks)
    assert [(each["name"], each["state"], each["holder"]) for each in rows] == [
        ("a", "foreign", ""),
        ("a", "vanished", "root"),
        ("b", "waited for", ""),
    ]
