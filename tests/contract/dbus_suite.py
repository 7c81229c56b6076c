"""The parts of the contract that only a real systemd can show: its files, and changes that other programs make.

test_systemd_real.py runs this inside a machine; it is not collected elsewhere.
"""

import asyncio
import os
import signal
from pathlib import Path

import pytest

from fleetd.systemd.protocol import ServiceManager
from tests.contract.systemd_harness import (
    SLEEPER,
    Harness,
    next_changes,
    quiet,
    systemctl,
    until_active,
    until_all,
    until_ended,
)

UNITS = Path("/run/fleet/units")
LINKS = Path("/run/systemd/system")


@pytest.mark.covers("5.3.11", "6.2.1")
async def test_a_unit_is_a_plain_file_and_a_link_at_runtime_scope(manager: ServiceManager) -> None:
    await manager.write({"plain.service": SLEEPER})
    assert (UNITS / "plain.service").stat().st_mode & 0o7777 == 0o600
    assert UNITS.stat().st_mode & 0o7777 == 0o700
    assert os.readlink(LINKS / "plain.service") == str(UNITS / "plain.service")
    assert systemctl("show", "--value", "--property=UnitFileState", "plain.service") == "linked-runtime"
    await manager.remove(["plain.service"])
    assert not (UNITS / "plain.service").exists()
    assert not (LINKS / "plain.service").is_symlink()


@pytest.mark.covers("6.2.1", "6.2.4")
async def test_links_equal_those_of_systemctl_enable_and_go_completely(manager: ServiceManager) -> None:
    links = {"multi-user.target.wants/enabled.service": "enabled.service", "other.service": "enabled.service"}
    before = sorted(LINKS.rglob("*"))
    text = f"{SLEEPER}[Install]\nWantedBy=multi-user.target\nAlias=other.service\n"
    assert await manager.write({"enabled.service": text}) == {}
    assert await manager.link(links, {}) == {}
    assert all((LINKS / link).is_symlink() for link in links)
    await manager.reload()
    shown = systemctl("show", "--property=UnitFileState,Names,WantedBy", "other.service")
    assert shown.splitlines() == [
        "Names=enabled.service other.service",
        "WantedBy=multi-user.target",
        "UnitFileState=enabled-runtime",
    ]
    assert manager.shadows("other.service") == ""
    assert await manager.link({}, links) == {}
    await manager.remove(["enabled.service"])
    assert sorted(LINKS.rglob("*")) == before


async def test_links_of_others_are_neither_replaced_nor_removed(manager: ServiceManager) -> None:
    theirs = LINKS / "multi-user.target.wants" / "mine.service"
    await manager.write({"mine.service": SLEEPER})
    theirs.parent.mkdir(exist_ok=True)
    theirs.symlink_to("/etc/systemd/system/mine.service")
    try:
        links = {"multi-user.target.wants/mine.service": "mine.service"}
        assert "is not fleet's" in str((await manager.link(links, {}))["multi-user.target.wants/mine.service"])
        assert await manager.link({}, links) == {}
        assert os.readlink(theirs) == "/etc/systemd/system/mine.service"
    finally:
        theirs.unlink()


async def test_a_transient_unit_of_another_program_is_never_shadowed(manager: ServiceManager) -> None:
    run = await asyncio.create_subprocess_exec("systemd-run", "-q", "--unit=theirs.service", "/bin/sleep", "infinity")
    assert await run.wait() == 0
    try:
        assert manager.shadows("theirs.service") == "/run/systemd/transient/theirs.service"
        refused = await manager.write({"theirs.service": SLEEPER})
        assert "would hide /run/systemd/transient/theirs.service" in str(refused["theirs.service"])
        assert manager.read_files() == {}
    finally:
        systemctl("stop", "theirs.service")


async def test_a_link_made_just_before_systemd_looks_is_found(manager: ServiceManager) -> None:
    await manager.write({"first.service": SLEEPER})
    seen = LINKS.stat().st_mtime_ns
    await manager.start("first.service")  # systemd reads the directory
    await manager.write({"second.service": SLEEPER})
    assert LINKS.stat().st_mtime_ns != seen
    await manager.start("second.service")
    await until_active(manager, "second.service")


async def test_a_reexecuted_systemd_is_followed(harness: Harness) -> None:
    manager = harness.manager
    await manager.write({"kept.service": SLEEPER})
    await manager.start("kept.service")
    await until_active(manager, "kept.service")
    await quiet(manager)  # or pending changes of the start would be taken for the news that the bus is back
    pid = harness.pid("kept.service")
    systemctl("daemon-reexec")
    assert await next_changes(manager) == ["kept.service"]
    assert harness.pid("kept.service") == pid
    harness.crash("kept.service")
    await until_ended(manager, "kept.service")


async def test_a_reload_by_another_program_is_reported(manager: ServiceManager) -> None:
    await manager.write({"edited.service": SLEEPER})
    await manager.start("edited.service")
    await until_active(manager, "edited.service")
    (UNITS / "edited.service").write_text("[Service]\nType=oneshot\nExecStart=/bin/true\n")
    systemctl("daemon-reload")
    async with asyncio.timeout(60):
        while not (await manager.details("edited.service")).oneshot:
            await manager.wait_for_changes()


async def test_a_stop_timeout_is_a_failure_with_systemds_result(harness: Harness) -> None:
    manager = harness.manager
    text = "[Service]\nTimeoutStopSec=1\nExecStart=/bin/sh -c 'trap \"\" TERM; while :; do sleep 0.1; done'\n"
    await manager.write({"stubborn.service": text})
    await manager.start("stubborn.service")
    await until_active(manager, "stubborn.service")
    await asyncio.sleep(2)  # until the shell has set its trap, also on a busy machine
    await manager.stop("stubborn.service")
    seen = await until_all(manager, ["stubborn.service"], lambda unit: unit.active == "failed" and not unit.job)
    assert seen["stubborn.service"].sub == "failed"
    assert (await manager.details("stubborn.service")).result == "timeout"
    assert f"killed by signal {signal.SIGKILL:d}" in await manager.explain("stubborn.service")
