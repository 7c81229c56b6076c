"""The service manager's protocol (fleetd/systemd/protocol.py): what a service would run with, if it was started. This
runs on the simulated systemd; test_systemd_real.py runs the same on real ones."""

import pytest

from fleetd.model.confinement import confined, refuse_privileges, user_of
from fleetd.model.content import Content, DropIn
from tests.contract.systemd_harness import SLEEPER, Harness, until_active

WEB = "web.service"


async def test_a_confined_service_has_what_it_is_to_have_before_and_after_its_start(harness: Harness) -> None:
    manager = harness.manager
    content = confined(WEB, Content(SLEEPER))
    await manager.write({WEB: content.text}, {WEB: content.dropins})
    assert refuse_privileges(WEB, await manager.privileges(WEB)) == ""
    await manager.start(WEB)
    await until_active(manager, WEB)
    assert refuse_privileges(WEB, await manager.privileges(WEB)) == ""
    assert (await manager.privileges(WEB)).user == user_of(WEB)


@pytest.mark.parametrize(
    ("dropin", "what"),
    [
        ("User=root\n", "User="),
        ("Group=root\n", "Group="),
        ("DynamicUser=no\n", "DynamicUser="),
        ("NoNewPrivileges=no\nDynamicUser=no\n", "NoNewPrivileges="),
        ("ProtectSystem=no\nDynamicUser=no\n", "ProtectSystem="),
        ("AmbientCapabilities=CAP_SYS_ADMIN\n", "AmbientCapabilities="),
        ("SupplementaryGroups=root\n", "SupplementaryGroups="),
        ("ExecStart=\nExecStart=+/bin/sleep infinity\n", "the prefix of a command"),
    ],
)
async def test_a_drop_in_that_comes_later_is_seen(harness: Harness, dropin: str, what: str) -> None:
    manager = harness.manager
    content = confined(WEB, Content(SLEEPER))
    later = DropIn("~~later.conf", f"[Service]\n{dropin}")
    await manager.write({WEB: content.text}, {WEB: (*content.dropins, later)})
    assert what in refuse_privileges(WEB, await manager.privileges(WEB))
