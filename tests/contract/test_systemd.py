"""The service manager's protocol (fleetd/systemd/protocol.py): files, starts and stops. This runs on the simulated
systemd; test_systemd_real.py runs the same on real ones."""

import asyncio

import pytest

from fleetd.systemd.protocol import ManagerUnavailable, ServiceManager, ServiceManagerError, UnitStatus
from tests.contract.systemd_harness import (
    ENDS_WITH_3,
    SLEEPER,
    Harness,
    next_changes,
    oneshot,
    quiet,
    start_all,
    until_active,
    until_all,
    until_ended,
)

# Files.


@pytest.mark.covers("6.2.5")
async def test_a_new_unit_can_be_started_at_once_without_a_reload(manager: ServiceManager) -> None:
    assert await manager.write({"new.service": SLEEPER}) == {}
    assert not await manager.reload_needed(["new.service"])
    await manager.start("new.service")
    seen = await until_active(manager, "new.service")
    assert seen["new.service"] == UnitStatus("new.service", "loaded", "active", "running", job=False)


async def test_units_written_and_started_one_after_the_other_are_found(manager: ServiceManager) -> None:
    names = [f"burst{number}.service" for number in range(30)]
    for name in names:
        await manager.write({name: SLEEPER})
        await manager.start(name)
    await until_active(manager, *names)


async def test_files_read_are_those_written_last(manager: ServiceManager) -> None:
    await manager.write({"b.service": SLEEPER, "a.service": SLEEPER})
    await manager.write({"b.service": ENDS_WITH_3})
    assert list(manager.read_files().items()) == [("a.service", SLEEPER), ("b.service", ENDS_WITH_3)]
    await manager.remove(["a.service"])
    assert list(manager.read_files()) == ["b.service"]


async def test_a_written_unit_is_loaded_and_inactive(manager: ServiceManager) -> None:
    await manager.write({"idle.service": SLEEPER})
    seen = await manager.observe(["idle.service"])
    assert seen["idle.service"] == UnitStatus("idle.service", "loaded", "inactive", "dead", job=False)


@pytest.mark.covers("P.12")
async def test_a_refused_file_affects_no_other(manager: ServiceManager) -> None:
    good = {f"good{number}.service": SLEEPER for number in range(9)}
    bad = {"bad.busname": SLEEPER}
    refused = await manager.write({**dict(list(good.items())[:4]), **bad, **dict(list(good.items())[4:])})
    assert list(refused) == ["bad.busname"]
    assert list(manager.read_files()) == list(good)
    await start_all(manager, *good)
    await until_active(manager, *good)


async def test_a_name_that_systemd_refuses_is_refused_with_a_reason(manager: ServiceManager) -> None:
    names = ["no-suffix", "a/b.service", f"{'long' * 64}.service", "x.busname", "good.service"]
    refused = await manager.write(dict.fromkeys(names, SLEEPER))
    assert list(refused) == names[:-1]
    assert all(str(refused[name]).startswith(f"write {name}: ") for name in refused)
    assert list(manager.read_files()) == ["good.service"]


@pytest.mark.covers("R.7")
async def test_a_unit_that_systemd_has_without_a_file_is_never_shadowed(manager: ServiceManager) -> None:
    refused = await manager.write({"-.mount": "[Mount]\nWhat=/dev/null\nWhere=/\n"})
    assert "choose another name" in str(refused["-.mount"])
    assert manager.read_files() == {}


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("ssh.service", "/lib/systemd/system/ssh.service"),
        ("getty@x.service", "/lib/systemd/system/getty@.service"),
        ("getty@.service", "/lib/systemd/system/getty@.service"),
        ("missing.service", ""),
        ("missing@x.service", ""),
    ],
)
async def test_a_unit_of_the_system_or_its_template_is_reported(manager: ServiceManager, name: str, path: str) -> None:
    assert manager.shadows(name) == path


async def test_our_own_units_shadow_nothing(manager: ServiceManager) -> None:
    await manager.write({"ours.service": SLEEPER, "ours@1.service": SLEEPER})
    assert [manager.shadows(name) for name in ("ours.service", "ours@1.service")] == ["", ""]


# Links for [Install].


@pytest.mark.parametrize("folder", ["wants", "requires"])
async def test_a_linked_unit_is_started_with_its_target_until_the_link_goes(
    manager: ServiceManager, folder: str
) -> None:
    files = {"mine.target": "[Unit]\n", "part.service": SLEEPER}
    links = {f"mine.target.{folder}/part.service": "part.service"}
    assert await manager.write(files) == {}
    assert await manager.link(links, {}) == {}
    await manager.start("mine.target")
    await until_active(manager, *files)

    await asyncio.gather(manager.stop("mine.target"), manager.stop("part.service"))
    await until_ended(manager, *files)
    assert await manager.link({}, links) == {}
    if await manager.reload_needed(list(files)):
        await manager.reload()
    await manager.start("mine.target")
    await until_active(manager, "mine.target")
    assert (await manager.observe(["part.service"]))["part.service"].active == "inactive"


@pytest.mark.parametrize("owner", ["multi-user.target", "web@1.service", "web@.service"])
async def test_a_link_to_a_loaded_unit_needs_a_reload(manager: ServiceManager, owner: str) -> None:
    await manager.write({"linked.service": SLEEPER, "web@1.service": SLEEPER})
    await manager.start("web@1.service")
    await until_active(manager, "web@1.service")
    links = {f"{owner}.wants/linked.service": "linked.service"}
    for make, drop in ((links, {}), ({}, links)):
        assert not await manager.reload_needed(["linked.service"])
        assert await manager.link(make, drop) == {}
        assert await manager.reload_needed(["linked.service"])
        await manager.reload()
    assert await manager.link({}, links) == {}
    assert not await manager.reload_needed(["linked.service"]), "nothing was taken away"


async def test_a_unit_wanted_by_a_running_instance_starts_at_its_next_start(manager: ServiceManager) -> None:
    files = {"logger.service": SLEEPER, "web@1.service": SLEEPER}
    await manager.write(files)
    await manager.start("web@1.service")
    await until_active(manager, "web@1.service")
    await manager.link({"web@1.service.wants/logger.service": "logger.service"}, {})
    if await manager.reload_needed(list(files)):
        await manager.reload()
    await manager.stop("web@1.service")
    await until_ended(manager, "web@1.service")
    await manager.start("web@1.service")
    await until_active(manager, *files)


async def test_an_alias_is_not_a_second_unit(harness: Harness) -> None:
    manager = harness.manager
    files = {
        "client.service": f"[Unit]\nRequires=db.service\nAfter=db.service\n{SLEEPER}",
        "pg.service": SLEEPER,
    }
    await manager.write(files)
    assert await manager.link({"db.service": "pg.service"}, {}) == {}
    assert manager.shadows("db.service") == ""
    await start_all(manager, *files)
    await until_active(manager, *files)
    assert harness.pid("db.service") == harness.pid("pg.service") != 0
    pid = harness.pid("pg.service")
    await manager.start("db.service")
    await until_active(manager, *files)
    assert harness.pid("pg.service") == pid
    await manager.stop("db.service")
    await until_ended(manager, *files)


async def test_a_removed_alias_can_be_used_again(harness: Harness) -> None:
    manager = harness.manager
    await manager.write({"a.service": SLEEPER, "b.service": SLEEPER})
    await manager.link({"db.service": "a.service"}, {})
    if await manager.reload_needed(["a.service", "b.service"]):  # this name may have been asked for before it existed
        await manager.reload()
    await manager.start("db.service")
    await until_active(manager, "a.service")
    await manager.link({"db.service": "b.service"}, {"db.service": "a.service"})
    if await manager.reload_needed(["a.service", "b.service"]):
        await manager.reload()
    await manager.start("db.service")
    await until_active(manager, "b.service")
    assert await manager.write({"db.service": SLEEPER}) == {}
    await manager.link({}, {"db.service": "b.service"})
    if await manager.reload_needed(["a.service", "b.service", "db.service"]):
        await manager.reload()
    await manager.start("db.service")
    await until_active(manager, "db.service")
    assert len({harness.pid(name) for name in ("a.service", "b.service", "db.service")}) == 3


@pytest.mark.covers("R.7", "R.15")
async def test_an_alias_never_hides_a_unit_of_the_system(manager: ServiceManager) -> None:
    await manager.write({"mine.service": SLEEPER})
    failures = await manager.link({"ssh.service": "mine.service", "-.mount": "mine.service"}, {})
    assert sorted(failures) == ["-.mount", "ssh.service"]
    assert manager.shadows("ssh.service") == "/lib/systemd/system/ssh.service"


async def test_a_replaced_file_of_a_running_unit_needs_a_reload(harness: Harness) -> None:
    manager = harness.manager
    await manager.write({"web.service": SLEEPER, "other.service": SLEEPER})
    await start_all(manager, "web.service", "other.service")
    await until_active(manager, "web.service", "other.service")
    pid = harness.pid("web.service")
    assert pid

    assert await manager.write({"web.service": oneshot("/bin/true")}) == {}
    assert await manager.reload_needed(["other.service", "web.service"])
    assert not await manager.reload_needed(["other.service"])
    await manager.reload()
    assert not await manager.reload_needed(["other.service", "web.service"])
    assert harness.pid("web.service") == pid
    assert (await manager.details("web.service")).oneshot


async def test_writing_the_same_file_needs_no_reload(manager: ServiceManager) -> None:
    await manager.write({"same.service": SLEEPER})
    await manager.start("same.service")
    await until_active(manager, "same.service")
    await manager.write({"same.service": SLEEPER})
    assert not await manager.reload_needed(["same.service"])


async def test_a_replaced_file_of_an_inactive_unit_is_used_at_its_start(manager: ServiceManager) -> None:
    await manager.write({"change.service": ENDS_WITH_3})
    await manager.observe(["change.service"])
    await manager.write({"change.service": SLEEPER})
    if await manager.reload_needed(["change.service"]):
        await manager.reload()
    await manager.start("change.service")
    await until_active(manager, "change.service")


@pytest.mark.covers("6.2.4")
async def test_a_removed_failed_unit_is_forgotten(manager: ServiceManager) -> None:
    await manager.write({"broken.service": ENDS_WITH_3})
    await manager.start("broken.service")
    seen = await until_ended(manager, "broken.service")
    assert seen["broken.service"].active == "failed"
    await manager.remove(["broken.service"])
    assert (await manager.observe(["broken.service"]))["broken.service"] == UnitStatus("broken.service")


async def test_a_reused_name_runs_the_new_file(harness: Harness) -> None:
    manager = harness.manager
    await manager.write({"again.service": ENDS_WITH_3})
    await manager.start("again.service")
    await until_ended(manager, "again.service")
    await manager.remove(["again.service"])
    await manager.write({"again.service": SLEEPER})
    assert not await manager.reload_needed(["again.service"])
    await manager.start("again.service")
    await until_active(manager, "again.service")
    assert harness.pid("again.service")


async def test_a_required_name_can_be_written_later(manager: ServiceManager) -> None:
    await manager.write({"needs.service": f"[Unit]\nWants=late.service\n{SLEEPER}"})
    await manager.start("needs.service")
    await until_active(manager, "needs.service")
    assert (await manager.observe(["late.service"]))["late.service"].load == "not-found"
    await manager.write({"late.service": SLEEPER})
    await manager.start("late.service")
    await until_active(manager, "late.service")


@pytest.mark.covers("10.7.9")
async def test_removing_an_unknown_unit_is_no_error(manager: ServiceManager) -> None:
    await manager.write({"known.service": SLEEPER})
    await manager.remove(["unknown.service", "known.service", "template@.service", "no-suffix"])
    assert manager.read_files() == {}


# Starts and stops.


async def test_before_the_first_job_no_job_has_ended(manager: ServiceManager) -> None:
    await manager.write({"fresh.service": SLEEPER})
    assert manager.job_result("fresh.service") == ""
    assert manager.job_result("unknown.service") == ""


@pytest.mark.covers("6.2.2")
async def test_a_start_returns_when_queued_and_its_end_is_reported(manager: ServiceManager) -> None:
    await manager.write({"slow.service": oneshot("/bin/sleep 0.7")})
    await manager.start("slow.service")
    seen = (await until_all(manager, ["slow.service"], lambda unit: unit.active == "activating"))["slow.service"]
    assert (seen.sub, seen.job) == ("start", True)
    assert manager.job_result("slow.service") == ""
    assert await manager.pending_job("slow.service") == "start"
    await until_ended(manager, "slow.service")
    assert manager.job_result("slow.service") == "done"
    assert await manager.pending_job("slow.service") == ""


async def test_each_job_has_its_own_result(manager: ServiceManager) -> None:
    await manager.write({"twice.service": oneshot("/bin/sleep 0.3")})
    await manager.start("twice.service")
    await until_ended(manager, "twice.service")
    assert manager.job_result("twice.service") == "done"
    await manager.start("twice.service")
    assert manager.job_result("twice.service") == ""
    await until_ended(manager, "twice.service")
    assert manager.job_result("twice.service") == "done"


async def test_starting_a_running_unit_keeps_its_process(harness: Harness) -> None:
    manager = harness.manager
    await manager.write({"up.service": SLEEPER})
    await manager.start("up.service")
    await until_active(manager, "up.service")
    pid = harness.pid("up.service")
    await quiet(manager)
    await manager.start("up.service")
    while not manager.job_result("up.service"):
        await next_changes(manager)
    assert manager.job_result("up.service") == "done"
    assert harness.pid("up.service") == pid


async def test_a_unit_started_again_has_a_new_process(harness: Harness) -> None:
    manager = harness.manager
    await manager.write({"up.service": SLEEPER})
    await manager.start("up.service")
    await until_active(manager, "up.service")
    pid = harness.pid("up.service")
    await manager.stop("up.service")
    await until_ended(manager, "up.service")
    assert harness.pid("up.service") == 0
    await manager.start("up.service")
    await until_active(manager, "up.service")
    assert harness.pid("up.service") not in (0, pid)


@pytest.mark.covers("6.2.3", "R.6")
async def test_a_stop_runs_exec_stop_to_its_end(manager: ServiceManager) -> None:
    await manager.write({"careful.service": f"{SLEEPER}ExecStop=/bin/sleep 0.5\n"})
    await manager.start("careful.service")
    await until_active(manager, "careful.service")
    await manager.stop("careful.service")
    seen = await until_all(manager, ["careful.service"], lambda unit: unit.active == "deactivating")
    assert seen["careful.service"].job
    assert await manager.pending_job("careful.service") == "stop"
    assert manager.job_result("careful.service") == ""
    seen = (await until_ended(manager, "careful.service"))["careful.service"]
    assert (seen.active, manager.job_result("careful.service")) == ("inactive", "done")


async def test_a_start_that_is_stopped_is_canceled(manager: ServiceManager) -> None:
    await manager.write({"slow.service": oneshot("/bin/sleep 60")})
    await manager.start("slow.service")
    await manager.stop("slow.service")
    await until_ended(manager, "slow.service")
    assert manager.job_result("slow.service") == "done"  # the result of the stop, which came last


@pytest.mark.covers("10.7.9")
async def test_stopping_an_unloaded_unit_is_no_error(manager: ServiceManager) -> None:
    await manager.stop("unknown.service")
    assert manager.job_result("unknown.service") == ""


async def test_starting_an_unknown_unit_is_refused_in_systemds_words(manager: ServiceManager) -> None:
    with pytest.raises(ServiceManagerError) as refused:
        await manager.start("unknown.service")
    assert str(refused.value) == "start unknown.service: Unit unknown.service not found."
    assert not isinstance(refused.value, ManagerUnavailable)


async def test_an_unloadable_unit_is_refused_and_affects_no_other(manager: ServiceManager) -> None:
    assert await manager.write({"bad.service": "[Service]\nType=simple\n", "good.service": SLEEPER}) == {}
    with pytest.raises(ServiceManagerError, match=r"^start bad.service: Unit bad.service has a bad unit file setting"):
        await manager.start("bad.service")
    await manager.start("good.service")
    await until_active(manager, "good.service")
    assert (await manager.observe(["bad.service"]))["bad.service"].load == "bad-setting"
    explanation = await manager.explain("bad.service")
    assert explanation.startswith("Unit bad.service has a bad unit file setting.")
    assert "bad.service: Service has no ExecStart=" in explanation, "what is bad is said at once"


async def test_a_simple_service_that_fails_has_a_job_that_is_done(manager: ServiceManager) -> None:
    await manager.write({"broken.service": "[Service]\nExecStart=/bin/false\n"})
    await manager.start("broken.service")
    seen = await until_ended(manager, "broken.service")
    assert seen["broken.service"] == UnitStatus("broken.service", "loaded", "failed", "failed", job=False)
    assert manager.job_result("broken.service") == "done"
    assert (await manager.details("broken.service")).result == "exit-code"


async def test_a_oneshot_that_fails_has_a_failed_job(manager: ServiceManager) -> None:
    await manager.write({"broken.service": oneshot("/bin/false")})
    await manager.start("broken.service")
    seen = await until_ended(manager, "broken.service")
    assert seen["broken.service"].active == "failed"
    assert manager.job_result("broken.service") == "failed"


async def test_a_completed_oneshot_is_inactive_and_a_success(manager: ServiceManager) -> None:
    await manager.write({"once.service": oneshot("/bin/true")})
    await manager.start("once.service")
    seen = await until_ended(manager, "once.service")
    assert seen["once.service"] == UnitStatus("once.service", "loaded", "inactive", "dead", job=False)
    assert manager.job_result("once.service") == "done"
    details = await manager.details("once.service")
    assert (details.oneshot, details.result) == (True, "success")


async def test_a_oneshot_with_remain_after_exit_stays_active(manager: ServiceManager) -> None:
    await manager.write({"stays.service": oneshot("/bin/true", "RemainAfterExit=yes\n")})
    await manager.start("stays.service")
    seen = await until_active(manager, "stays.service")
    assert seen["stays.service"].sub == "exited"
    details = await manager.details("stays.service")
    assert (details.oneshot, len(details.invocation)) == (False, 32)


async def test_a_unit_starts_its_requirements_in_any_order_of_writing(harness: Harness) -> None:
    manager = harness.manager
    pair = {
        "app.service": f"[Unit]\nRequires=base.service\nAfter=base.service\n{SLEEPER}",
        "base.service": SLEEPER,
    }
    for files in (pair, dict(reversed(pair.items()))):
        assert await manager.write(files) == {}
        assert not await manager.reload_needed(list(files))
        await manager.start("app.service")
        await until_active(manager, *files)
        await manager.stop("base.service")
        await until_ended(manager, *files)
        assert harness.pid("app.service") == 0
        await manager.remove(list(files))


async def test_a_unit_with_a_failed_requirement_is_not_started(manager: ServiceManager) -> None:
    files = {
        "app.service": f"[Unit]\nRequires=base.service\nAfter=base.service\n{SLEEPER}",
        "base.service": oneshot("/bin/false"),
    }
    await manager.write(files)
    await manager.start("app.service")
    seen = await until_ended(manager, *files)
    assert (seen["app.service"].active, seen["base.service"].active) == ("inactive", "failed")
    assert manager.job_result("app.service") == "dependency"
    assert "dependency" in await manager.explain("app.service")


async def test_a_unit_with_an_unknown_requirement_is_refused(manager: ServiceManager) -> None:
    await manager.write({"app.service": f"[Unit]\nRequires=unknown.service\n{SLEEPER}"})
    with pytest.raises(ServiceManagerError, match=r"^start app.service: Unit unknown.service not found.$"):
        await manager.start("app.service")


async def test_instances_run_from_files_of_their_own(harness: Harness) -> None:
    manager = harness.manager
    files = {"many@1.service": SLEEPER, "many@2.service": SLEEPER, "many@.service": SLEEPER}
    assert await manager.write(files) == {}
    await start_all(manager, "many@1.service", "many@2.service")
    await until_active(manager, "many@1.service", "many@2.service")
    assert harness.pid("many@1.service") != harness.pid("many@2.service")
    seen = await manager.observe(["many@.service"])
    assert seen["many@.service"] == UnitStatus("many@.service")


@pytest.mark.covers("1.1.13", "10.4.11")
@pytest.mark.parametrize(
    ("name", "text", "sub"),
    [
        ("door.socket", "[Socket]\nListenStream=/run/door.sock\n", "listening"),
        ("clock.timer", "[Timer]\nOnActiveSec=1h\n", "waiting"),
        ("eye.path", "[Path]\nPathExists=/nowhere\n", "waiting"),
        ("group.target", "[Unit]\n", "active"),
        ("mine.slice", "[Slice]\n", "active"),
        ("srv-mine.mount", "[Mount]\nWhat=tmpfs\nWhere=/srv/mine\nType=tmpfs\n", "mounted"),
    ],
)
async def test_units_of_other_types_start_and_stop(manager: ServiceManager, name: str, text: str, sub: str) -> None:
    service = f"{name.partition('.')[0]}.service"
    assert await manager.write({name: text, service: SLEEPER}) == {}
    await manager.start(name)
    seen = await until_active(manager, name)
    assert (seen[name].load, seen[name].sub) == ("loaded", sub)
    assert (await manager.details(name)).invocation
    await manager.stop(name)
    seen = await until_ended(manager, name)
    assert (seen[name].active, seen[name].sub) == ("inactive", "dead")
