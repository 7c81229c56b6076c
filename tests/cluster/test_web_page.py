"""The web page of real machines in Chromium, by `fleetctl ui` through SSH: left open while what it shows goes away."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect, sync_playwright

from contrib.testbed import Cluster
from tests.browser.chromium import launcher
from tests.browser.flags import FLAGS, PATIENCE_S
from tests.cluster.operator import SLEEPER, Operator
from tests.cluster.remote_operator import RemoteOperator
from tests.fleetctl.page_command import PageCommand, page_command
from tests.requirements import require


@pytest.fixture(scope="module")
def shown() -> Iterator[Cluster]:
    with Cluster(machines=3, ssh=True) as cluster:
        yield cluster


@pytest.fixture
def command(shown: Cluster, tmp_path: Path) -> Iterator[PageCommand]:
    """fleetctl ui through the tunnel to the last machine."""
    (tmp_path / "home").mkdir()
    remote = RemoteOperator(shown, tmp_path / "home")
    remote.install_key()
    remote.write_known_hosts()
    remote.reach_by_tunnel()
    own = {name: remote.environment[name] for name in ("HOME", "FLEETCTL_SSH_USERNAME", "FLEETCTL_TUNNEL")}
    with page_command("--no-browser", **own) as started:
        yield started


@pytest.fixture
def page(tmp_path: Path) -> Iterator[Page]:
    found = shutil.which("chromium")
    require([] if found else ["chromium is not installed (Debian: chromium)"], "opens the web page in a browser")
    expect.set_options(timeout=PATIENCE_S * 1000)
    with sync_playwright() as playwright:
        environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "DBUS_SESSION_BUS_ADDRESS": "disabled:"}
        options = {
            "executable_path": launcher(str(found), tmp_path),
            "args": FLAGS,
            "chromium_sandbox": False,
            "env": environment,
        }
        browser = playwright.chromium.launch(timeout=PATIENCE_S * 1000, **options)  # type: ignore[arg-type]
        opened = browser.new_page()
        opened.set_default_timeout(PATIENCE_S * 1000)
        yield opened
        browser.close()


def test_a_page_left_open_catches_up_after_its_fleetd_the_leader_and_its_tunnel_were_lost(
    shown: Cluster, command: PageCommand, page: Page, tmp_path: Path
) -> None:
    (tmp_path / "units").mkdir()
    operator = Operator(shown, tmp_path / "units")
    complaints: list[str] = []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    rows, trouble, bastion = page.locator(".space > [role=row]"), page.locator("#trouble"), shown.machines[2]
    page.goto(command.address)
    expect(page.locator("#summary")).to_contain_text("3 machines")
    page.goto(f"http://{command.netloc}/ui/#/units")
    operator.start({"a.service": SLEEPER})
    expect(rows.filter(has_text="a.service")).to_contain_text("active/running")

    bastion.run(["systemctl", "stop", "fleet.socket", "fleet.service"])
    expect(trouble).to_be_visible()
    bastion.run(["systemctl", "start", "fleet.socket", "fleet.service"])
    shown.wait_ready()
    operator.start({"b.service": SLEEPER})
    expect(rows.filter(has_text="b.service")).to_contain_text("active/running")
    expect(trouble).to_be_hidden()

    operator.leader().run(["systemctl", "kill", "--signal=KILL", "fleet.service"])
    shown.wait_ready()
    operator.start({"c.service": SLEEPER})
    expect(rows.filter(has_text="c.service")).to_contain_text("active/running")
    expect(trouble).to_be_hidden()

    bastion.run(["sh", "-c", "kill -KILL $(pgrep -f '^sshd: root')"])
    operator.start({"d.service": SLEEPER})
    expect(rows.filter(has_text="d.service")).to_contain_text("active/running")
    expect(trouble).to_be_hidden()

    page.goto(f"http://{command.netloc}/ui/#/unit/d.service")
    page.get_by_role("button", name="Stop", exact=True).click()
    expect(page.get_by_role("dialog").get_by_role("table")).to_contain_text("becomes loaded")
    page.get_by_role("dialog").get_by_role("button", name="Stop", exact=True).click()
    shown.wait_until("d.service is stopped", lambda: "d.service" not in operator.placed())
    expect(page.get_by_role("heading", name="d.service")).to_contain_text("inactive/dead")
    assert complaints == []
    assert command.end()[0] == 0
