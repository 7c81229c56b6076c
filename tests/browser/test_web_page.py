"""What people see and do on the web page, in Chromium."""

import json
import re
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.async_api import Browser, Route, expect

from contrib.testbed.etcd import free_port
from fleetd.config.options import Address
from fleetd.model.announcement import ServicePort, ServiceRecord
from fleetd.registry.registry import Registry
from fleetd.store.embedded import EmbeddedStore, inline
from tests.api.conftest import Fleet
from tests.api.served import LOOPBACK, serving
from tests.api.test_following import Cluster as PeerCluster
from tests.browser.cluster import ANNOUNCING, M1, M2, M3, SERVICE, Cluster
from tests.browser.conftest import PHONE, Visit
from tests.certificates import TestAuthority, TestTrust
from tests.scripted_inspector import entry

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.long, pytest.mark.xdist_group("browser")]
VIEWS = ("machines", "units", "services", "locks", "rollouts", "upkeep", "events", "unit/db.service", f"machine/{M1}")
MARKUP = "<img src=x onerror=\"document.title='taken'\"><script>document.title='taken'</script>"


async def be(visit: Visit, *grants: str) -> None:
    """Have fleetd tell the page that whoever looks has these rights."""
    told = [dict(zip(("permission", "pattern"), grant.split(":"), strict=True)) for grant in grants]
    body = json.dumps({"name": "ann", "grants": told})
    await answer_with(visit, "**/fleet/v2/whoami", body)


async def answer_with(visit: Visit, pattern: str, body: str, status: int = 200) -> None:
    """Have requests to these addresses answered like this."""
    await visit.page.route(
        pattern, lambda route: route.fulfill(status=status, content_type="application/json", body=body)
    )


# What is shown


async def test_machines_and_units_are_shown_with_their_states(visit: Visit) -> None:
    await visit.open("machines")
    await expect(visit.page.locator("#summary")).to_contain_text("3 machines")
    await expect(visit.page.locator("#summary")).to_contain_text("4 units")
    await expect(visit.row("zone=z2")).to_contain_text("10.0.0.2")
    await expect(visit.row("zone=z2")).to_contain_text("ready")
    await visit.page.get_by_role("link", name="Units", exact=True).click()
    await expect(visit.row("db.service")).to_contain_text("active/running")
    assert await visit.page.title() == "Units - fleet"


async def test_what_happens_is_shown_without_loading_again(visit: Visit) -> None:
    await visit.open()
    await visit.cluster.apply(late=SERVICE)
    await expect(visit.row("late.service")).to_contain_text("active/running")
    await visit.cluster.ask("POST", "/fleet/v2/units", {"operations": [{"name": "late.service", "destroy": True}]})
    await expect(visit.row("late.service")).to_have_count(0)
    await visit.page.get_by_role("link", name="Events").click()
    await expect(visit.row("late.service placed on").first).to_be_visible()


async def test_a_unit_says_why_it_is_there_and_what_has_happened(visit: Visit) -> None:
    await visit.open("unit/web%401.service")
    main = visit.page.locator("main")
    await expect(main.get_by_role("heading", name=re.compile("web@1.service"))).to_contain_text("active/running")
    await expect(main.get_by_role("table", name="Why here")).to_be_visible()
    await expect(main.get_by_role("table", name="History")).to_contain_text("web@1.service placed on")
    await visit.page.get_by_text("Unit file").click()
    await expect(main.locator("pre")).to_contain_text("ExecStart=/bin/sleep infinity")


async def test_a_log_is_shown_and_goes_on(visit: Visit) -> None:
    for number, inspector in enumerate(visit.cluster.inspectors.values()):
        inspector.entries = (said(10**15 + number, "db.service", "first"),)
    await visit.open("unit/db.service")
    log = visit.page.get_by_role("log")
    await expect(log).to_contain_text("first")
    for number, inspector in enumerate(visit.cluster.inspectors.values()):
        inspector.entries += (said(10**15 + 10 + number, "db.service", "second"),)
    await expect(log).to_contain_text("second")
    await expect(log.get_by_text("first")).to_have_count(1)


def said(number: int, unit: str, text: str) -> bytes:
    """An entry of a journal with its cursor."""
    return json.dumps({**json.loads(entry(number, unit, text)), "__CURSOR": f"c{number}"}).encode()


async def test_a_log_is_followed_as_it_is_written_while_somebody_reads_it(visit: Visit, tmp_path: Path) -> None:
    peers = PeerCluster(Fleet(Registry(EmbeddedStore(":memory:", offload=inline))), tmp_path)
    await peers.start()
    address = Address(host=LOOPBACK, port=free_port())
    async with serving(peers.fleet.api, address):
        await visit.page.goto(f"http://{LOOPBACK}:{address.port}/ui/#/unit/web.service")
        log = visit.page.get_by_role("log")
        await expect(log.get_by_text("first")).to_have_count(2)
        for inspector in peers.inspectors.values():
            inspector.later.put_nowait(entry(2, "web.service", "and then"))
        await expect(log.get_by_text("and then")).to_have_count(2)
        await visit.page.get_by_role("link", name="Units", exact=True).click()
        await peers.wait_for(lambda: not any(each.following for each in peers.inspectors.values()))
        await visit.page.goto("about:blank")
    await peers.close()
    await peers.fleet.registry.store.close()


async def test_what_others_have_written_stays_text(visit: Visit) -> None:
    for inspector in visit.cluster.inspectors.values():
        inspector.entries = (said(10**15, "odd.service", MARKUP),)
    await visit.cluster.apply(odd=f"[Unit]\nDescription={MARKUP}\n{SERVICE}")
    await visit.cluster.until_active("odd.service")
    await visit.cluster.ask("PUT", f"/fleet/v2/machines/{M2}/cordon", {"why": MARKUP})
    await visit.open("unit/odd.service")
    await visit.page.get_by_text("Unit file").click()
    await expect(visit.page.get_by_role("log")).to_contain_text("<img src=x")
    await expect(visit.page.locator("pre")).to_contain_text("<script>")
    await visit.open(f"machine/{M2}")
    await expect(visit.page.locator(".facts")).to_contain_text("<script>")
    assert await visit.page.locator("img, main script").count() == 0
    assert "taken" not in await visit.page.title()


async def test_everything_comes_from_the_fleetd_that_is_asked(visit: Visit) -> None:
    for view in VIEWS:
        await visit.open(view)
    hosts = {urlsplit(url).netloc for url in visit.asked if not url.startswith(("about:", "data:"))}
    assert hosts == {urlsplit(visit.cluster.url).netloc}


async def test_a_page_that_has_lost_its_fleetd_says_so_and_goes_on_when_it_is_back(visit: Visit) -> None:
    await visit.open()
    await visit.cluster.stop_serving()
    await expect(visit.page.get_by_role("alert")).to_contain_text("fleetd")
    await visit.cluster.serve()
    await visit.cluster.apply(late=SERVICE)
    await expect(visit.row("late.service")).to_contain_text("active/running")
    await expect(visit.page.get_by_role("alert")).to_be_hidden()


async def test_over_https_the_page_is_for_whom_the_certificate_names(
    browser: Browser, cluster: Cluster, tmp_path: Path
) -> None:
    authority = TestAuthority(tmp_path)
    person = str(authority.person("ann", "operate:web@*"))
    https = Address(host=LOOPBACK, port=free_port(), tls=True)
    url = f"https://{LOOPBACK}:{https.port}"
    certificates = [{"origin": url, "certPath": person, "keyPath": person}]
    async with serving(cluster.nodes[M1].api, https, trust=TestTrust(authority)):
        stranger = await browser.new_context(ignore_https_errors=True)
        answer = await (await stranger.new_page()).goto(f"{url}/ui/")
        assert (answer.status, "fleetctl login" in await answer.text()) == (401, True)
        await stranger.close()
        context = await browser.new_context(ignore_https_errors=True, client_certificates=certificates)
        page = await context.new_page()
        await page.goto(f"{url}/ui/#/unit/web%401.service")
        await expect(page.get_by_role("button", name="ann")).to_be_visible()
        await page.get_by_role("button", name="Restart").click()
        await page.get_by_role("dialog").get_by_role("button", name="Restart").click()
        await expect(page.locator(".facts")).to_contain_text("by ann")
        await context.close()


# Lists


async def serve_many(visit: Visit, machines: int, units: int) -> None:
    """Have fleetd tell the page of a large cluster."""
    ids = [f"{number:032x}" for number in range(machines)]
    found = [{"id": id_, "primaryIP": "10.0.0.1", "metadata": {"rack": id_[-2:]}} for id_ in ids]
    reports = [
        {
            "name": f"web@{number}.service" if number % 2 else f"unit{number:05}.service",
            "target": "launched",
            "generation": 1,
            "decided": 1,
            "machine": ids[number % machines],
            "since": 1.0,
            "allocations": [
                {
                    "machine": ids[number % machines],
                    "address": "10.0.0.1",
                    "load": "loaded",
                    "active": "failed" if number == units // 2 else "active",
                    "sub": "running",
                }
            ],
        }
        for number in range(units)
    ]
    await answer_with(visit, "**/fleet/v1/machines", json.dumps({"machines": found}))
    await answer_with(visit, "**/fleet/v2/units", json.dumps({"units": reports}))


async def count_rows(visit: Visit) -> int:
    return int(await visit.page.locator("[role=row]").count())


async def test_of_twenty_thousand_units_only_the_visible_ones_are_in_the_document(visit: Visit) -> None:
    await serve_many(visit, 1000, 20_000)
    await visit.open()
    grid = visit.page.get_by_role("grid")
    assert await grid.get_attribute("aria-rowcount") == "20001"
    assert 10 < await count_rows(visit) < 80
    await expect(visit.page.locator(".space > [role=row]").first).to_contain_text("failed")  # it comes first
    await grid.focus()
    await visit.page.keyboard.press("End")
    await expect(visit.row("web@9999.service")).to_be_visible()
    assert await count_rows(visit) < 80
    await visit.page.get_by_role("searchbox").fill("unit1000")
    await expect(visit.page.locator(".count")).to_have_text("5 of 20000")
    await visit.page.get_by_role("searchbox").fill("web@*")
    await visit.page.get_by_label("By template").check()
    await expect(visit.row("web@.service")).to_contain_text("10000 units")
    await visit.open("machines")
    assert await visit.page.get_by_role("grid").get_attribute("aria-rowcount") == "1001"
    assert await count_rows(visit) < 80


async def test_a_cell_of_the_grid_is_a_machine_with_its_state(visit: Visit) -> None:
    await serve_many(visit, 1000, 20_000)
    await visit.open("machines")
    grid = visit.page.get_by_role("listbox", name="All machines at a glance")
    assert await grid.get_by_role("option").count() == 1000
    await expect(grid.locator(".bad")).to_have_count(1)
    await expect(grid.locator(".bad")).to_have_attribute("aria-label", re.compile("ready, 20 units, 1 failed, rack="))
    box, window = await grid.bounding_box(), visit.page.viewport_size
    assert box is not None
    assert window is not None
    assert box["height"] < window["height"] / 2
    await visit.page.get_by_role("searchbox").fill("rack=0a")
    await expect(grid.locator(".faded")).to_have_count(996)
    await visit.page.get_by_role("searchbox").fill("")
    await grid.focus()
    for key in ("End", "ArrowUp", "ArrowRight", "Home", "ArrowDown", "ArrowLeft", "Home"):
        await visit.page.keyboard.press(key)
    name = await grid.locator("[aria-selected=true]").get_attribute("aria-label")
    await visit.page.keyboard.press("Enter")
    await expect(visit.page.get_by_role("heading", name=re.compile(f"^Machine {str(name)[:8]}"))).to_be_visible()


async def test_a_fleetd_that_falls_silent_counts_as_lost(visit: Visit) -> None:
    await visit.page.clock.install()
    held: list[Route] = []
    await visit.page.route("**/fleet/v2/events?after=*", lambda route: held.append(route))
    await visit.open()

    async def are_asked_for() -> bool:
        return bool(held)

    await visit.cluster.until(are_asked_for, True)
    await visit.page.clock.run_for(60_000)
    await expect(visit.page.get_by_role("alert")).to_contain_text("fleetd is silent")
    await visit.page.unroute("**/fleet/v2/events?after=*")
    await visit.page.clock.run_for(60_000)
    await expect(visit.page.get_by_role("alert")).to_be_hidden()
    await visit.cluster.apply(new=SERVICE)
    await visit.page.clock.resume()
    await expect(visit.row("new.service")).to_contain_text("active/running")


async def test_a_machine_that_was_lost_is_shown_until_it_is_back(visit: Visit) -> None:
    at = time.time() - 60
    told = [
        {"kind": "begin", "token": "e.0"},
        *({"kind": "lost", "machine": each * 32, "at": at} for each in "678"),
        {"kind": "back", "machine": "6" * 32, "at": at},
        {"kind": "left", "machine": "7" * 32, "at": at},
        {"kind": "lost", "machine": "9" * 32, "at": at - 90_000},
        {"kind": "lost", "machine": M2, "at": at},
        {"kind": "mark", "token": "e.1"},
    ]
    latest = "\n".join(map(json.dumps, told)) + "\n"
    await answer_with(visit, "**/fleet/v2/events?follow=false*", latest)
    await visit.open("machines")
    await expect(visit.page.locator("#summary")).to_contain_text("3 machines1 lost4 units")
    await expect(visit.row("88888888")).to_contain_text("lost")
    await expect(visit.page.get_by_role("option")).to_have_count(4)
    await expect(visit.row(M2[:8])).to_contain_text("ready")
    await visit.row("88888888").click()
    await expect(visit.page.locator("main")).to_contain_text("it was lost, or has left")


async def test_the_page_loads_again_when_one_of_its_files_could_not_be_had(visit: Visit) -> None:
    failed: list[str] = []

    async def fail_once(route: Route) -> None:
        if failed:
            await route.continue_()
        else:
            failed.append(route.request.url)
            await route.abort()

    await visit.page.route("**/ui/words.js", fail_once)
    await visit.open()
    await expect(visit.row("db.service")).to_be_visible()
    assert failed


async def test_what_units_announce_is_shown_by_name_as_it_changes(visit: Visit) -> None:
    await visit.open("services")
    await expect(visit.page.locator(".empty")).to_contain_text("No unit announces a name")
    await visit.cluster.apply(api_1=ANNOUNCING, api_2=ANNOUNCING)
    await expect(visit.row("api")).to_contain_text("2 announced")
    await expect(visit.row("api")).to_contain_text("2 instances")
    failing = ServiceRecord("10.0.0.9", (ServicePort(53, "udp"),), failing="its check fails: status 503")
    put = visit.cluster.registry.put(failing, "api", M2, "odd.service")
    await visit.cluster.store.transact([], [put])
    await expect(visit.row("api")).to_contain_text("1 failing, 2 announced")
    await visit.page.get_by_label("By name").uncheck()
    await expect(visit.row("odd.service")).to_contain_text("its check fails: status 503")
    await expect(visit.row("odd.service")).to_contain_text("53/udp")
    await visit.page.get_by_role("searchbox").fill("failing")
    await expect(visit.page.locator(".count")).to_have_text("1 of 3")
    assert visit.page.url.endswith("#/services?q=failing&group=0")
    await visit.page.get_by_role("searchbox").fill("api@1")
    await visit.page.keyboard.press("Enter")
    await visit.page.keyboard.press("Enter")
    await expect(visit.page.locator(".facts")).to_contain_text("api:8080")
    await visit.page.get_by_role("link", name="Units", exact=True).click()
    await expect(visit.row("api@1.service")).to_contain_text("api:8080")
    await visit.page.get_by_role("searchbox").fill("api:8080")
    await expect(visit.page.locator(".count")).to_have_text("2 of 6")
    await visit.page.get_by_role("link", name="Services").click()
    await visit.cluster.ask("POST", "/fleet/v2/units", {"operations": [{"name": "api@1.service", "destroy": True}]})
    await expect(visit.row("api")).to_contain_text("1 failing, 1 announced")
    await visit.page.keyboard.press("ArrowRight")
    await visit.row("api@2.service").get_by_role("link", name="10.0.0.").click()
    await expect(visit.page.get_by_role("heading", name=re.compile("^Machine"))).to_be_visible()
    await expect(visit.row("api@2.service")).to_contain_text("api:8080")


async def test_services_that_cannot_be_read_are_said_and_asked_for_again(visit: Visit) -> None:
    refusal = json.dumps({"error": {"code": 503, "message": "too many wait"}})
    await answer_with(visit, "**/fleet/v2/services*", refusal, 503)
    await visit.cluster.apply(api=ANNOUNCING)
    await visit.open("services")
    await expect(visit.page.get_by_role("alert")).to_contain_text("too many wait")
    await visit.page.unroute("**/fleet/v2/services*")
    await expect(visit.row("api")).to_contain_text("1 announced")
    await expect(visit.page.get_by_role("alert")).to_be_hidden()


async def test_an_empty_cluster_says_how_to_begin(visit: Visit) -> None:
    await serve_many(visit, 0, 0)
    await visit.open("machines")
    await expect(visit.page.locator("#summary")).to_have_text("0 machines0 units")
    await visit.open("units")
    await expect(visit.page.locator(".empty")).to_contain_text("fleetctl start FILE")
    await visit.open("machine/1")
    await expect(visit.page.locator("main")).to_contain_text("It is not in the cluster now")


async def test_a_list_is_filtered_grouped_and_sorted_and_its_address_says_how(visit: Visit) -> None:
    await visit.open()
    await visit.page.get_by_role("searchbox").fill("web !@2")
    await expect(visit.page.locator(".count")).to_have_text("2 of 4")
    await visit.page.get_by_label("By template").check()
    await expect(visit.row("web@.service")).to_contain_text("2 units")
    await visit.page.get_by_role("button", name="Unit", exact=True).click()
    address = visit.page.url
    await visit.page.goto("about:blank")
    await visit.page.goto(address)
    await expect(visit.row("web@.service")).to_contain_text("2 active")
    await visit.row("web@.service").click()
    await expect(visit.row("web@3.service")).to_be_visible()


async def test_the_page_is_used_by_keyboard_alone(visit: Visit) -> None:
    press = visit.page.keyboard.press
    await visit.open("machines")
    await press("2")
    await expect(visit.row("db.service")).to_be_visible()
    await press("/")
    await visit.page.keyboard.type("web")
    await press("Enter")
    await press("ArrowDown")
    await expect(visit.page.locator("[aria-selected=true]")).to_contain_text("web@2.service")
    await press("Enter")
    await expect(visit.page.get_by_role("heading", name=re.compile("web@2.service"))).to_be_focused()
    await press("Tab")
    await expect(visit.page.get_by_role("button", name="Stop")).to_be_focused()
    await press("Enter")
    dialog = visit.page.get_by_role("dialog")
    await expect(dialog).to_contain_text("would be changed")
    await press("Escape")
    await expect(dialog).to_have_count(0)
    await press("Escape")
    await expect(visit.page.get_by_role("searchbox")).to_have_value("web")
    await press("?")
    await expect(dialog).to_contain_text("Keys")


# What is done


async def test_a_unit_is_stopped_and_started_after_its_plan_was_shown(visit: Visit) -> None:
    await visit.open("unit/db.service")
    await visit.page.get_by_role("button", name="Stop").click()
    dialog = visit.page.get_by_role("dialog")
    await expect(dialog).to_contain_text("By the cluster at revision")
    await expect(dialog.get_by_role("table")).to_contain_text("becomes loaded")
    assert await visit.cluster.state("db.service") == "active"
    await dialog.get_by_role("button", name="Stop").click()
    await expect(visit.page.get_by_role("heading", name=re.compile("^db.service"))).to_contain_text("inactive/dead")
    await visit.confirm("Start")
    await expect(visit.page.get_by_role("heading", name=re.compile("^db.service"))).to_contain_text("active/running")
    await visit.confirm("Destroy")
    await expect(visit.page.locator("main")).to_contain_text("no unit of this name")


async def test_a_machine_is_drained_after_its_plan_was_shown_and_takes_units_again(visit: Visit) -> None:
    await visit.open(f"machine/{M3}")
    await visit.page.get_by_role("button", name="Drain", exact=True).click()
    dialog = visit.page.get_by_role("dialog")
    await expect(dialog.get_by_role("table")).to_contain_text("move")
    await dialog.get_by_role("textbox").fill("new disk")
    await dialog.get_by_role("button", name="Drain", exact=True).click()
    await expect(visit.page.locator(".facts")).to_contain_text("new disk")
    await expect(visit.page.locator("main")).to_contain_text("is done")
    await visit.page.get_by_role("link", name="Drains and reboots").click()
    await expect(visit.page.locator("main")).to_contain_text("is done")
    await visit.open(f"machine/{M3}")
    await visit.confirm("Uncordon")
    await expect(visit.page.get_by_role("heading", name=re.compile("^Machine"))).to_contain_text("ready")


async def test_what_would_come_of_a_loss_is_shown_and_nothing_done(visit: Visit) -> None:
    before = await visit.cluster.store.revision()
    await visit.open(f"machine/{M2}")
    await visit.page.get_by_role("button", name="If it were lost").click()
    dialog = visit.page.get_by_role("dialog")
    await expect(dialog).to_contain_text("would")
    await dialog.get_by_role("button", name="Close").click()
    await expect(dialog).to_have_count(0)
    changed = await visit.cluster.ask("GET", "/fleet/v2/units")
    assert all(unit["generation"] <= before for unit in changed["units"])


async def test_a_rollout_is_paused_and_resumed(visit: Visit) -> None:
    changed = "[Service]\nExecStart=/bin/sleep {}\n[X-Fleet]\nUpdateSettleSec={}\nUpdateDeadlineSec=2h\n"
    await visit.cluster.apply(**dict.fromkeys(("web_1", "web_2", "web_3"), changed.format(9000, "1h")))
    await visit.open("rollouts")
    work = visit.page.locator(".work", has_text="web@.service")
    await expect(work).to_contain_text("of 3 units")
    await visit.confirm("Pause")
    await expect(work).to_contain_text("paused")
    await visit.confirm("Resume")
    await expect(work.get_by_role("button", name="Pause")).to_be_visible()
    await visit.cluster.apply(**dict.fromkeys(("web_1", "web_2", "web_3"), changed.format(9001, "1s")))
    await expect(work.locator("h2")).to_contain_text("done")
    await expect(work.get_by_role("button")).to_have_count(0)


async def test_what_a_role_may_not_do_is_not_offered(visit: Visit) -> None:
    await be(visit, "view:*")
    await visit.open("unit/db.service")
    await expect(visit.page.get_by_role("table", name="Why here")).to_be_visible()
    assert await visit.page.locator(".actions button").all_text_contents() == ["Follow"]  # the log
    await visit.open(f"machine/{M1}")
    assert await visit.page.locator(".actions button").all_text_contents() == ["If it were lost"]
    await be(visit, "operate:web@*", "view:*")
    await visit.open("unit/web%401.service")
    assert await visit.page.locator(".actions button").all_text_contents() == ["Stop", "Unload", "Restart", "Follow"]
    await visit.open("unit/db.service")
    assert await visit.page.locator(".actions button").all_text_contents() == ["Follow"]
    await visit.page.get_by_role("button", name="ann").click()
    await expect(visit.page.get_by_role("dialog").get_by_role("table")).to_contain_text("web@*")


async def test_a_refusal_is_shown_where_the_change_was_asked_for(visit: Visit) -> None:
    refusal = json.dumps({"error": {"code": 403, "message": "ann may not do this"}})
    await answer_with(visit, "**/fleet/v2/restart", refusal, 403)
    await visit.open("unit/db.service")
    await visit.page.get_by_role("button", name="Restart").click()
    dialog = visit.page.get_by_role("dialog")
    await dialog.get_by_role("button", name="Restart").click()
    await expect(dialog.get_by_role("alert")).to_have_text("ann may not do this")
    await expect(dialog.get_by_role("button", name="Restart")).to_be_enabled()


# How it looks


async def test_nothing_is_wider_than_a_phone(visit: Visit) -> None:
    await visit.page.set_viewport_size(PHONE)
    for view in VIEWS:
        await visit.open(view)
        await expect(visit.page.locator("main > *")).to_be_visible()
        width = await visit.page.evaluate("document.documentElement.scrollWidth")
        assert width <= PHONE["width"], view


async def test_the_page_is_dark_where_the_system_is(visit: Visit) -> None:
    colours: dict[str, Any] = {}
    for scheme in ("light", "dark"):
        await visit.page.emulate_media(color_scheme=scheme)
        await visit.open()
        colours[scheme] = await visit.page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert [brightness(colours[scheme]) > 128 for scheme in ("light", "dark")] == [True, False]


def brightness(colour: str) -> float:
    return sum(map(int, re.findall(r"\d+", colour)[:3])) / 3


async def test_each_control_has_a_name(visit: Visit) -> None:
    for view in VIEWS:
        await visit.open(view)
        nameless = await visit.page.evaluate(
            """[...document.querySelectorAll("button, input, a, progress, [role=grid], [role=log], table")].filter(
                (each) => !(each.getAttribute("aria-label") || each.textContent.trim() || each.labels?.length)
            ).map((each) => each.outerHTML)"""
        )
        assert nameless == [], view
