"""The service manager's protocol (fleetd/systemd/protocol.py): units that are stopped when nobody renews a lease. This
runs on the simulated systemd; test_systemd_real.py runs the same on real ones."""

import asyncio
import time

from fleetd.model.content import Content
from fleetd.model.isolation_dropin import isolating_dropins
from fleetd.model.job_result import SKIPPED
from fleetd.systemd.protocol import IsolatedUnit, ServiceManager
from tests.contract.systemd_harness import SLEEPER, Harness, RealHarness, until_active, until_ended

WEB, DB = "web.service", "db.service"
SINGLE = f"{SLEEPER}[X-Fleet]\nIsolationSec=30s\n"
LOCKED = f"{SLEEPER}[X-Fleet]\nLock=db\n"
DEAF = "[Service]\nExecStart=/bin/sh -c 'trap : TERM; while :; do sleep 0.1; done'\n[X-Fleet]\nIsolationSec=30s\n"
LEASE_S = 1.5


def boot_now(harness: Harness) -> float:
    is_real = isinstance(harness, RealHarness)
    return time.clock_gettime(time.CLOCK_BOOTTIME) if is_real else asyncio.get_running_loop().time()


def isolated(*names: str, stop_s: float = 10.0) -> list[IsolatedUnit]:
    return [IsolatedUnit(name, 30.0, stop_s) for name in names]


async def write(manager: ServiceManager, name: str, text: str) -> None:
    await manager.write({name: text}, {name: isolating_dropins(name, Content(text))})


async def run(manager: ServiceManager, name: str, text: str) -> None:
    await write(manager, name, text)
    await manager.start(name)
    await until_active(manager, name)


async def until_isolated(manager: ServiceManager, *names: str) -> None:
    await until_ended(manager, *names)
    async with asyncio.timeout(10):
        while manager.isolation().is_under_way or not manager.isolation().is_isolated:  # noqa: ASYNC110
            await asyncio.sleep(0.05)


async def test_units_are_stopped_when_the_lease_ends_and_started_by_nobody(harness: Harness) -> None:
    manager = harness.manager
    await manager.hold_lease(isolated(WEB, DB), boot_now(harness) + LEASE_S)
    await run(manager, WEB, SINGLE)
    await write(manager, DB, SINGLE)
    assert not manager.isolation().is_isolated
    await until_isolated(manager, WEB)
    assert manager.isolation().stopped == (WEB,)
    for name in (WEB, DB):
        await manager.start(name)
        await until_ended(manager, name)
        assert manager.job_result(name) == SKIPPED
    await manager.end_isolation(isolated(WEB, DB), boot_now(harness) + 30)
    assert not manager.isolation().is_isolated
    await manager.start(WEB)
    await until_active(manager, WEB)
    await manager.drop_lease()


async def test_a_lease_that_is_renewed_stops_nothing(harness: Harness) -> None:
    manager = harness.manager
    await manager.hold_lease(isolated(WEB), boot_now(harness) + LEASE_S)
    await run(manager, WEB, SINGLE)
    process = harness.pid(WEB)
    for _ in range(6):
        await asyncio.sleep(LEASE_S / 3)
        await manager.hold_lease(isolated(WEB), boot_now(harness) + LEASE_S)
    assert manager.isolation().is_leased
    assert not manager.isolation().is_isolated
    assert harness.pid(WEB) == process
    await manager.drop_lease()
    assert not manager.isolation().is_leased
    await asyncio.sleep(LEASE_S * 1.5)
    assert harness.pid(WEB) == process
    assert not manager.isolation().is_isolated


async def test_a_renewal_that_comes_too_late_stops_the_units(harness: Harness) -> None:
    manager = harness.manager
    await manager.hold_lease(isolated(WEB), boot_now(harness) + 30)
    await run(manager, WEB, SINGLE)
    await manager.hold_lease(isolated(WEB), boot_now(harness) - 1)
    await until_isolated(manager, WEB)
    await manager.end_isolation(isolated(WEB), boot_now(harness) + 30)
    await manager.drop_lease()


async def test_a_unit_that_does_not_stop_is_killed(harness: Harness) -> None:
    manager = harness.manager
    await manager.hold_lease(isolated(WEB, stop_s=1.0), boot_now(harness) + LEASE_S)
    await run(manager, WEB, DEAF)
    began = boot_now(harness)
    await until_isolated(manager, WEB)
    assert boot_now(harness) - began < LEASE_S + 1.0 + 2.0
    assert harness.pid(WEB) == 0
    await manager.drop_lease()


async def test_a_unit_with_a_lock_starts_only_with_a_permit(harness: Harness) -> None:
    manager = harness.manager
    await manager.hold_lease(isolated(WEB), boot_now(harness) + 30)
    await write(manager, WEB, LOCKED)
    await manager.start(WEB)
    await until_ended(manager, WEB)
    assert manager.job_result(WEB) == SKIPPED
    manager.permit([WEB])
    await manager.start(WEB)
    await until_active(manager, WEB)
    manager.permit([])
    await manager.stop(WEB)
    await until_ended(manager, WEB)
    await manager.start(WEB)
    await until_ended(manager, WEB)
    assert manager.job_result(WEB) == SKIPPED
    await manager.drop_lease()


async def test_a_daemon_reload_each_moment_keeps_no_unit_running(harness: Harness) -> None:
    manager = harness.manager
    await manager.hold_lease(isolated(WEB), boot_now(harness) + LEASE_S)
    await run(manager, WEB, SINGLE)

    async def reload() -> None:
        while True:
            await manager.reload()
            await asyncio.sleep(0.3)

    reloading = asyncio.create_task(reload())
    await until_isolated(manager, WEB)
    reloading.cancel()
    await manager.drop_lease()
