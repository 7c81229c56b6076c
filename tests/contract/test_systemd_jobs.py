"""The service manager's protocol (fleetd/systemd/protocol.py): restarts, dependent units, and failed jobs. Like
test_systemd.py, this runs on the simulated systemd, and in test_systemd_real.py on real ones."""

import asyncio
from collections.abc import Callable

import pytest

from fleetd.model.job_result import REFUSED, SKIPPED
from fleetd.systemd.protocol import JobRefused, Run, ServiceManager
from tests.contract.systemd_harness import (
    ENDS_WITH_3,
    PATIENCE_S,
    SLEEPER,
    Harness,
    oneshot,
    start_all,
    until_active,
    until_ended,
)

TIED = {
    "requires.service": "[Unit]\nRequires=base.service\nAfter=base.service\n" + SLEEPER,
    "binds.service": "[Unit]\nBindsTo=base.service\nAfter=base.service\n" + SLEEPER,
    "part.service": "[Unit]\nPartOf=base.service\n" + SLEEPER,
    "further.service": "[Unit]\nRequires=requires.service\nAfter=requires.service\n" + SLEEPER,
}
LOOSE = {
    "wants.service": "[Unit]\nWants=base.service\nAfter=base.service\n" + SLEEPER,
    "idle.service": "[Unit]\nRequires=base.service\n" + SLEEPER,
}


async def invocation(manager: ServiceManager, name: str) -> str:
    return (await manager.details(name)).invocation


# Restarts.


@pytest.mark.covers("P.7")
async def test_a_restart_restarts_running_units_that_require_the_unit(harness: Harness) -> None:
    manager = harness.manager
    assert await manager.write({"base.service": SLEEPER, **TIED, **LOOSE}) == {}
    running = ("base.service", *TIED, "wants.service")
    await start_all(manager, *running)
    await until_active(manager, *running)
    before = {name: harness.pid(name) for name in running}
    assert all(before.values())
    await manager.restart("base.service")
    await until_active(manager, *running)
    after = {name: harness.pid(name) for name in running}
    assert all(after.values())
    assert [name for name in running if after[name] == before[name]] == ["wants.service"]
    assert harness.pid("idle.service") == 0
    assert manager.job_result("base.service") == "done"


async def test_a_stop_stops_units_that_require_the_unit(harness: Harness) -> None:
    manager = harness.manager
    await manager.write({"base.service": SLEEPER, **TIED})
    await start_all(manager, "base.service", *TIED)
    await until_active(manager, "base.service", *TIED)
    await manager.stop("base.service")
    await until_ended(manager, "base.service", *TIED)


async def test_a_dead_unit_stops_units_bound_to_it_and_not_those_requiring_it(harness: Harness) -> None:
    manager = harness.manager
    await manager.write({"base.service": SLEEPER, **TIED})
    await start_all(manager, "base.service", *TIED)
    await until_active(manager, "base.service", *TIED)
    harness.crash("base.service")
    await until_ended(manager, "base.service", "binds.service")
    assert harness.pid("requires.service")


async def test_a_restart_starts_an_inactive_unit(harness: Harness) -> None:
    await harness.manager.write({"rests.service": SLEEPER})
    await harness.manager.restart("rests.service")
    await until_active(harness.manager, "rests.service")
    assert harness.pid("rests.service")


async def test_a_restart_changes_the_invocation_and_a_reload_does_not(harness: Harness) -> None:
    manager = harness.manager
    await manager.write({"web.service": SLEEPER})
    assert await invocation(manager, "web.service") == ""
    await manager.start("web.service")
    await until_active(manager, "web.service")
    first = await invocation(manager, "web.service")
    await manager.write({"web.service": SLEEPER + "MemoryMax=100M\n"})
    await manager.reload()
    assert await invocation(manager, "web.service") == first != ""
    await manager.restart("web.service")
    await until_active(manager, "web.service")
    second = await invocation(manager, "web.service")
    assert second not in ("", first)
    harness.crash("web.service")
    await until_ended(manager, "web.service")
    assert await invocation(manager, "web.service") == second, "the end of a run is not another one"


def _is_later(seen: Run, run: Run) -> bool:
    """True once all of another run is seen: systemd is asked for one thing after the other."""
    return seen.active_since_s > run.active_since_s and seen.invocation != run.invocation


async def run_when(manager: ServiceManager, name: str, holds: Callable[[Run], bool]) -> Run:
    async with asyncio.timeout(PATIENCE_S):
        while True:
            run = await manager.last_run(name)
            if holds(run):
                return run
            await asyncio.sleep(0.02)


RESTARTED = "[Unit]\nStartLimitIntervalSec=0\n[Service]\nRestart=always\nRestartSec=50ms\n"


async def test_a_run_says_since_when_a_unit_is_active_and_how_often_it_was_restarted(harness: Harness) -> None:
    manager, now_s = harness.manager, asyncio.get_running_loop().time
    await manager.write({"web.service": f"{RESTARTED}ExecStart=/bin/sleep infinity\n"})
    asked_s = now_s()
    await manager.start("web.service")
    await until_active(manager, "web.service")
    first = await manager.last_run("web.service")
    assert asked_s - 0.01 <= first.active_since_s <= now_s()
    assert first.restarts == 0

    await manager.write({"web.service": f"{RESTARTED}ExecStart=/bin/sleep infinity\nMemoryMax=100M\n"})
    await manager.reload()
    assert await manager.last_run("web.service") == first, "a daemon-reload is no restart"

    harness.crash("web.service")
    second = await run_when(manager, "web.service", lambda seen: _is_later(seen, first))
    assert second.restarts == 1
    assert second.invocation != first.invocation
    assert first.active_since_s < second.active_since_s <= now_s()

    await manager.restart("web.service")
    third = await run_when(manager, "web.service", lambda seen: _is_later(seen, second))
    assert third.restarts == 0, "systemd counts its own restarts alone, since it was last asked"


async def test_a_unit_that_crashes_again_and_again_is_never_active_for_long(manager: ServiceManager) -> None:
    await manager.write({"web.service": f"{RESTARTED}ExecStart=/bin/sh -c 'sleep 0.3; exit 1'\n"})
    await manager.start("web.service")
    looked_active = 0
    while (await manager.last_run("web.service")).restarts < 3:
        [seen] = (await manager.observe(["web.service"])).values()
        looked_active += seen.active == "active"
        if seen.active == "active":
            assert asyncio.get_running_loop().time() - (await manager.last_run("web.service")).active_since_s < 1.0
        await asyncio.sleep(0.05)
    assert looked_active > 3, "it looks active nearly always"


async def test_a_restart_runs_the_new_file_and_reports_its_failure(manager: ServiceManager) -> None:
    await manager.write({"web.service": SLEEPER})
    await manager.start("web.service")
    await until_active(manager, "web.service")
    await manager.write({"web.service": oneshot("/bin/sh -c 'exit 3'")})
    assert await manager.reload_needed(["web.service"])
    await manager.reload()
    await manager.restart("web.service")
    seen = await until_ended(manager, "web.service")
    assert seen["web.service"].active == "failed"
    assert manager.job_result("web.service") == "failed"


async def test_a_restart_with_a_failed_requirement_reports_it(manager: ServiceManager) -> None:
    files = {
        "base.service": SLEEPER,
        "app.service": "[Unit]\nRequires=base.service\nAfter=base.service\n" + SLEEPER,
    }
    await manager.write(files)
    await start_all(manager, *files)
    await until_active(manager, *files)
    await manager.write({"base.service": oneshot("/bin/false")})
    await manager.reload()
    await manager.stop("base.service")
    await until_ended(manager, *files)
    await manager.restart("app.service")
    await until_ended(manager, *files)
    assert manager.job_result("app.service") == "dependency"


# Failed jobs.


@pytest.mark.parametrize(
    ("file", "result", "words"),
    [
        ("[Unit]\nConditionPathExists=/no/such/path\n" + SLEEPER, SKIPPED, "(ConditionPathExists=/no/such/path)"),
        ("[Unit]\nConditionPathExists=!/\n" + SLEEPER, SKIPPED, "(ConditionPathExists=!/)"),
        (SLEEPER + "ExecCondition=/bin/false\n", SKIPPED, "exec-condition"),
        ("[Unit]\nAssertPathExists=/no/such/path\n" + SLEEPER, "assert", "asserts failed"),
        ("[Unit]\nConditionPathExists=/no/such/path\n" + oneshot("/bin/true"), SKIPPED, "/no/such/path"),
    ],
)
async def test_a_skipped_start_reports_the_unmet_condition(
    manager: ServiceManager, file: str, result: str, words: str
) -> None:
    await manager.write({"picky.service": file})
    for _ in range(2):
        await manager.start("picky.service")
        seen = await until_ended(manager, "picky.service")
        assert seen["picky.service"].active == "inactive"
        assert manager.job_result("picky.service") == result
        assert words in await manager.explain("picky.service")


async def test_met_conditions_prevent_nothing(manager: ServiceManager) -> None:
    conditions = "[Unit]\nConditionPathExists=/\nAssertPathExists=/\nConditionPathExists=!/no/such/path\n"
    await manager.write({"easy.service": conditions + SLEEPER + "ExecCondition=/bin/true\n"})
    await manager.start("easy.service")
    await until_active(manager, "easy.service")
    await manager.stop("easy.service")
    await until_ended(manager, "easy.service")
    assert manager.job_result("easy.service") == "done"


async def test_units_ordered_after_a_skipped_unit_start(manager: ServiceManager) -> None:
    files = {
        "skipped.service": "[Unit]\nConditionPathExists=/no/such/path\n" + SLEEPER,
        "next.service": "[Unit]\nRequires=skipped.service\nAfter=skipped.service\n" + SLEEPER,
    }
    await manager.write(files)
    await manager.start("next.service")
    await until_active(manager, "next.service")


@pytest.mark.parametrize(
    ("name", "file"),
    [("tick.timer", "[Timer]\nOnActiveSec=1h\n"), ("watch.path", "[Path]\nPathExists=/no/such/path\n")],
)
async def test_a_trigger_of_a_missing_unit_is_refused_until_it_exists(
    manager: ServiceManager, name: str, file: str
) -> None:
    triggered = name.rpartition(".")[0] + ".service"
    await manager.write({name: file})
    await manager.start(name)
    seen = await until_ended(manager, name)
    assert (seen[name].active, manager.job_result(name)) == ("inactive", REFUSED)
    assert f"Refusing to start, unit {triggered} to trigger not loaded." in await manager.explain(name)
    await manager.write({triggered: SLEEPER})
    if await manager.reload_needed([name, triggered]):
        await manager.reload()
    await manager.start(name)
    await until_active(manager, name)


async def test_a_socket_is_refused_while_its_service_runs(manager: ServiceManager) -> None:
    await manager.write({"talk.socket": "[Socket]\nListenStream=/run/talk.sock\n", "talk.service": SLEEPER})
    await manager.start("talk.service")
    await until_active(manager, "talk.service")
    await manager.start("talk.socket")
    await until_ended(manager, "talk.socket")
    assert manager.job_result("talk.socket") == REFUSED
    assert "Socket service talk.service already active, refusing." in await manager.explain("talk.socket")
    await manager.stop("talk.service")
    await until_ended(manager, "talk.service")
    await manager.start("talk.socket")
    await until_active(manager, "talk.socket")


async def test_a_failed_unit_is_not_reported_as_refused(manager: ServiceManager) -> None:
    collected = "[Unit]\nCollectMode=inactive-or-failed\n"
    await manager.write(
        {"fails.service": oneshot("/bin/false"), "forgotten.service": collected + oneshot("/bin/false")}
    )
    await start_all(manager, "fails.service", "forgotten.service")
    await until_ended(manager, "fails.service", "forgotten.service")
    assert [manager.job_result(name) for name in ("fails.service", "forgotten.service")] == ["failed", "failed"]


async def test_a_unit_that_refuses_manual_start_or_stop_is_reported(harness: Harness) -> None:
    manager = harness.manager
    words = "may be requested by dependency only"
    files = {
        "stays.service": "[Unit]\nRefuseManualStop=yes\n" + SLEEPER,
        "shy.service": "[Unit]\nRefuseManualStart=yes\n" + SLEEPER,
        "pulls.service": "[Unit]\nRequires=shy.service\n" + SLEEPER,
    }
    await manager.write(files)
    await manager.start("stays.service")
    await until_active(manager, "stays.service")
    for verb, name in (
        (manager.stop, "stays.service"),
        (manager.restart, "stays.service"),
        (manager.start, "shy.service"),
    ):
        with pytest.raises(JobRefused, match=words):
            await verb(name)
        assert manager.job_result(name) == ""
    assert harness.pid("stays.service")
    await manager.start("pulls.service")
    await until_active(manager, "shy.service", "pulls.service")
    await manager.write({"stays.service": SLEEPER})
    await manager.reload()


async def test_a_repeated_log_line_is_reported_once_at_its_last_place(manager: ServiceManager) -> None:
    await manager.write({"broken.service": ENDS_WITH_3})
    for _ in range(3):
        await manager.start("broken.service")
        await until_ended(manager, "broken.service")
    lines = (await manager.explain("broken.service")).splitlines()
    assert lines.count("the disk is on fire") == 1
    assert lines.index("the disk is on fire") < lines.index("broken.service: Failed with result 'exit-code'.")


# The order of jobs.


async def test_jobs_run_in_the_order_of_their_requests(harness: Harness) -> None:
    """The names sort in the opposite order."""
    manager = harness.manager
    count = 100
    names = [f"chain-{count - number:03}.service" for number in range(count)]
    pairs = zip(names, ["", *names], strict=False)
    files = {name: oneshot("/bin/true", f"RemainAfterExit=yes\n[Unit]\nAfter={before}\n") for name, before in pairs}
    await manager.write(files)
    await start_all(manager, *names)
    await until_active(manager, *names)
    turns = [await harness.start_turn(name) for name in names]
    assert turns == sorted(turns)


# Reloads of units.


async def test_a_reload_runs_exec_reload_and_keeps_the_process(harness: Harness) -> None:
    manager = harness.manager
    await manager.write({"reloads.service": SLEEPER + "ExecReload=/bin/true\n"})
    await manager.start("reloads.service")
    await until_active(manager, "reloads.service")
    pid = harness.pid("reloads.service")
    await manager.reload_unit("reloads.service")
    await until_active(manager, "reloads.service")
    assert (manager.job_result("reloads.service"), harness.pid("reloads.service")) == ("done", pid)


async def test_a_reload_that_fails_leaves_the_unit_running(harness: Harness) -> None:
    manager = harness.manager
    await manager.write({"stubborn.service": SLEEPER + "ExecReload=/bin/false\n"})
    await manager.start("stubborn.service")
    await until_active(manager, "stubborn.service")
    pid = harness.pid("stubborn.service")
    await manager.reload_unit("stubborn.service")
    await until_active(manager, "stubborn.service")
    assert (manager.job_result("stubborn.service"), harness.pid("stubborn.service")) == ("failed", pid)


async def test_a_unit_that_cannot_be_reloaded_is_left_as_it_is(harness: Harness) -> None:
    manager = harness.manager
    await manager.write({"plain.service": SLEEPER, "own.slice": "[Slice]\n"})
    await start_all(manager, "plain.service", "own.slice")
    await until_active(manager, "plain.service", "own.slice")
    pid = harness.pid("plain.service")
    for name in ("plain.service", "own.slice"):
        await manager.reload_unit(name)
        assert manager.job_result(name) == ""
    seen = await manager.observe(["plain.service", "own.slice"])
    assert {unit.active for unit in seen.values()} == {"active"}
    assert harness.pid("plain.service") == pid
