"""The service manager's protocol (fleetd/systemd/protocol.py): changes that it reports, and what it answers.

Like test_systemd.py, this runs on the simulated systemd, and in test_systemd_real.py on real ones.
"""

import asyncio
import re
from functools import partial

import pytest
from msgspec import structs

from fleetd.systemd.protocol import Inhibited, ManagerUnavailable, Run, ServiceManager, UnitDetails, UnitStatus
from tests.contract.systemd_harness import (
    ENDS_WITH_3,
    PATIENCE_S,
    SLEEPER,
    Harness,
    next_changes,
    oneshot,
    quiet,
    start_all,
    until_active,
    until_all,
    until_asked,
    until_ended,
)

# Reported changes.


@pytest.mark.covers("6.3.1", "9.4")
async def test_a_start_a_stop_and_a_crash_are_each_reported(harness: Harness) -> None:
    manager = harness.manager
    await manager.write({"told.service": SLEEPER})
    await manager.start("told.service")
    assert await next_changes(manager) == ["told.service"]
    await until_active(manager, "told.service")
    await quiet(manager)

    harness.crash("told.service")
    seen = await until_ended(manager, "told.service")
    assert seen["told.service"].active == "failed"
    assert (await manager.details("told.service")).result == "signal"
    assert "was killed by signal 9 (Killed)" in await manager.explain("told.service")

    await manager.start("told.service")
    await until_active(manager, "told.service")
    await quiet(manager)
    await manager.stop("told.service")
    assert await next_changes(manager) == ["told.service"]


@pytest.mark.covers("9.4", "R.8")
async def test_nothing_is_reported_at_rest(manager: ServiceManager) -> None:
    await manager.write({"calm.service": SLEEPER})
    await manager.start("calm.service")
    await until_active(manager, "calm.service")
    await quiet(manager)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.5):
            await manager.wait_for_changes()


async def test_a_removed_unit_is_not_reported_again(manager: ServiceManager) -> None:
    await manager.write({"gone.service": oneshot("/bin/sleep 0.3"), "stays.service": SLEEPER})
    await manager.start("gone.service")
    await manager.remove(["gone.service"])
    await manager.start("stays.service")
    told: list[str] = []
    await asyncio.sleep(0.6)
    while "stays.service" not in told:
        told += await next_changes(manager)
    assert set(told) == {"stays.service"}


async def test_a_new_session_reports_every_unit_in_its_present_state(harness: Harness) -> None:
    files = {"a.service": SLEEPER, "b.service": SLEEPER}
    await harness.manager.write(files)
    await harness.manager.link({"multi-user.target.wants/b.service": "b.service"}, {})
    await harness.manager.reload()
    await start_all(harness.manager, *files)
    await until_active(harness.manager, *files)
    pids = [harness.pid(name) for name in files]

    await harness.reconnect()
    assert await next_changes(harness.manager) == list(files)
    assert harness.manager.read_files() == files
    assert not await harness.manager.reload_needed(list(files))
    assert [harness.pid(name) for name in files] == pids
    assert harness.manager.job_result("a.service") == ""


async def test_a_lost_bus_is_found_again_and_every_unit_reported(harness: Harness) -> None:
    manager = harness.manager
    files = {"a.service": SLEEPER, "b.service": SLEEPER}
    await manager.write(files)
    await start_all(manager, *files)
    await until_active(manager, *files)
    pids = [harness.pid(name) for name in files]
    await quiet(manager)

    harness.lose_bus()
    assert await next_changes(manager) == list(files)
    assert [unit.active for unit in (await manager.observe(files)).values()] == ["active", "active"]
    assert [harness.pid(name) for name in files] == pids
    await quiet(manager)
    harness.crash("a.service")  # later changes are reported as before
    await until_ended(manager, "a.service")


async def test_a_call_without_a_connection_raises_an_error(harness: Harness) -> None:
    await harness.manager.close()
    with pytest.raises(ManagerUnavailable, match=r"^start any.service: "):
        await harness.manager.start("any.service")
    with pytest.raises(ManagerUnavailable):
        await harness.manager.observe(["any.service"])
    await harness.manager.connect()
    assert await harness.manager.observe(["any.service"]) == {"any.service": UnitStatus("any.service")}


async def test_connecting_twice_changes_nothing(manager: ServiceManager) -> None:
    await manager.write({"calm.service": SLEEPER})
    await quiet(manager)
    await manager.connect()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.3):
            await manager.wait_for_changes()


# Answers.


async def test_six_hundred_units_are_observed_together(manager: ServiceManager) -> None:
    files = {f"many{number:03}.service": oneshot("/bin/true", "RemainAfterExit=yes\n") for number in range(600)}
    await manager.write(files)
    await manager.start("many599.service")
    await until_active(manager, "many599.service")
    seen = await manager.observe([*files, "unknown.service", "template@.service", "no-suffix"])
    assert list(seen) == [*files, "unknown.service", "template@.service", "no-suffix"]
    assert [unit.name for unit in seen.values()] == list(seen)
    assert {unit.load for unit in list(seen.values())[:600]} == {"loaded"}
    assert [name for name, unit in seen.items() if unit.active == "active"] == ["many599.service"]
    assert [unit.load for unit in list(seen.values())[600:]] == ["not-found"] * 3


async def test_three_thousand_concurrent_calls_do_not_lose_the_bus(manager: ServiceManager) -> None:
    await manager.write({"busy.service": SLEEPER})
    await manager.start("busy.service")
    await until_active(manager, "busy.service")
    await quiet(manager)
    answers = await asyncio.gather(*(manager.pending_job("busy.service") for _ in range(3000)))
    assert answers == [""] * 3000
    with pytest.raises(TimeoutError):  # a bus that was lost and found would be reported
        async with asyncio.timeout(0.3):
            await manager.wait_for_changes()


async def test_details_have_the_file_and_whether_it_was_started(manager: ServiceManager) -> None:
    await manager.write({"told.service": SLEEPER, "group.target": "[Unit]\n"})
    told = UnitDetails("/run/fleet/units/told.service", "", "success", False)
    assert await manager.details("told.service") == told
    assert (await manager.details("group.target")).result == ""
    await manager.start("told.service")
    await until_active(manager, "told.service")
    details = await manager.details("told.service")
    assert details == structs.replace(told, invocation=details.invocation)
    assert (await manager.last_run("told.service")).invocation == details.invocation
    assert len(bytes.fromhex(details.invocation)) == 16
    assert (await manager.details("ssh.service")).fragment_path == "/lib/systemd/system/ssh.service"
    for name in ("unknown.service", "template@.service", "no-suffix"):
        assert await manager.details(name) == UnitDetails()
        assert await manager.last_run(name) == Run()


async def test_a_failure_is_explained_with_systemds_words_and_the_last_lines(manager: ServiceManager) -> None:
    await manager.write({"broken.service": ENDS_WITH_3})
    await manager.start("broken.service")
    await until_ended(manager, "broken.service")
    explanation = ""
    async with asyncio.timeout(PATIENCE_S):
        while "the disk is on fire" not in explanation:  # the journal is a little behind
            explanation = await manager.explain("broken.service")
    first, *lines = explanation.splitlines()
    assert first == "exit-code: main process exited with status 3; last lines:"
    assert "the disk is on fire" in lines


async def test_an_unknown_unit_is_explained_as_unknown(manager: ServiceManager) -> None:
    assert await manager.explain("unknown.service") == "Unit unknown.service not found."
    assert "no unit of this name" in await manager.explain("template@.service")


async def test_a_running_unit_has_no_failure_to_explain(manager: ServiceManager) -> None:
    await manager.write({"fine.service": SLEEPER})
    await manager.start("fine.service")
    await until_active(manager, "fine.service")
    assert "exited" not in await manager.explain("fine.service")


async def test_a_running_machine_is_not_stopping(manager: ServiceManager) -> None:
    assert not await manager.machine_is_stopping()


async def test_a_reboot_that_a_program_inhibits_is_refused_and_says_by_whom(harness: Harness) -> None:
    with harness.inhibit_shutdown("The Updater", "its 3rd step"), pytest.raises(Inhibited) as refused:
        await harness.manager.reboot_machine()
    told = re.fullmatch(
        r"reboot this machine: The Updater \(process \d+\) has inhibited it: its 3rd step", str(refused.value)
    )
    assert told
    assert not await harness.manager.machine_is_stopping()


async def test_an_unknown_unit_has_no_pending_job(manager: ServiceManager) -> None:
    assert [await manager.pending_job(name) for name in ("unknown.service", "template@.service", "x")] == ["", "", ""]


async def test_all_of_many_units_start_at_once_and_each_end_is_reported(manager: ServiceManager) -> None:
    files = {f"many{number:02}.service": SLEEPER for number in range(50)}
    await manager.write(files)
    await start_all(manager, *files)
    await until_all(manager, files, lambda unit: unit.active == "active" and not unit.job)
    assert {manager.job_result(name) for name in files} == {"done"}


async def test_many_slow_units_are_all_started_and_stopped(
    manager: ServiceManager,
) -> None:
    files = {f"slow{number:03}.service": oneshot("/bin/sleep infinity") for number in range(530)}
    await manager.write(files)
    await asyncio.gather(*(until_asked(partial(manager.start, name)) for name in files))
    seen = await until_all(manager, files, lambda unit: unit.active == "activating")
    assert all(unit.job for unit in seen.values())
