"""The faults that the simulated systemd has on request. tests/contract/test_systemd*.py cover its normal behaviour."""

import asyncio
import math

import pytest

from fleetd.systemd.protocol import ManagerUnavailable, ServiceManagerError, UnitStatus
from fleetd.testing.scripted_program import Program, parse_program
from fleetd.testing.simulated_systemd import Behaviour, SimulatedSystemd

SLEEPER = "[Service]\nExecStart=/bin/sleep infinity\n"


@pytest.fixture
async def systemd() -> SimulatedSystemd:
    systemd = SimulatedSystemd()
    await systemd.connect()
    await systemd.write({"web.service": SLEEPER})
    return systemd


async def state(systemd: SimulatedSystemd, name: str = "web.service") -> tuple[str, str, bool]:
    unit = (await systemd.observe([name]))[name]
    return unit.active, unit.sub, unit.job


async def test_a_slow_start_is_activating_until_it_is_done(systemd: SimulatedSystemd) -> None:
    systemd.behave("web.service", Behaviour(start_s=0.05))
    await systemd.start("web.service")
    assert await state(systemd) == ("activating", "start", True)
    await asyncio.sleep(0.1)
    assert await state(systemd) == ("active", "running", False)


async def test_a_hanging_start_can_be_stopped(systemd: SimulatedSystemd) -> None:
    systemd.behave("web.service", Behaviour(start_s=math.inf))
    await systemd.start("web.service")
    await systemd.stop("web.service")
    await asyncio.sleep(0.01)
    assert await state(systemd) == ("inactive", "dead", False)


async def test_a_start_fails_with_the_result_it_is_given(systemd: SimulatedSystemd) -> None:
    systemd.behave("web.service", Behaviour(fails="timeout"))
    await systemd.start("web.service")
    await asyncio.sleep(0.01)
    assert await state(systemd) == ("failed", "failed", False)
    assert (await systemd.details("web.service")).result == "timeout"
    assert systemd.job_result("web.service") == "failed"
    assert systemd.pid("web.service") == 0


async def test_a_start_is_refused_with_the_given_words(systemd: SimulatedSystemd) -> None:
    systemd.behave("web.service", Behaviour(refusal="Unit web.service is masked."))
    with pytest.raises(ServiceManagerError, match=r"^start web.service: Unit web.service is masked.$"):
        await systemd.start("web.service")
    systemd.behave("web.service", Behaviour())
    await systemd.start("web.service")
    assert await state(systemd) == ("active", "running", False)


async def test_a_hanging_stop_fails_at_systemds_timeout(systemd: SimulatedSystemd) -> None:
    await systemd.write({"web.service": f"[Service]\nTimeoutStopSec=0.05\n{SLEEPER}"})
    systemd.behave("web.service", Behaviour(stop_s=math.inf))
    await systemd.start("web.service")
    await systemd.stop("web.service")
    assert await state(systemd) == ("deactivating", "stop-sigterm", True)
    await asyncio.sleep(0.1)
    assert await state(systemd) == ("failed", "failed", False)
    assert (await systemd.details("web.service")).result == "timeout"


async def test_a_start_during_a_stop_waits_for_its_end(systemd: SimulatedSystemd) -> None:
    systemd.behave("web.service", Behaviour(stop_s=0.05))
    await systemd.start("web.service")
    pid = systemd.pid("web.service")
    await systemd.stop("web.service")
    await systemd.start("web.service")
    assert await state(systemd) == ("deactivating", "stop-sigterm", True)
    await asyncio.sleep(0.1)
    assert await state(systemd) == ("active", "running", False)
    assert systemd.pid("web.service") not in (0, pid)


async def test_units_run_on_without_signals_while_the_bus_is_lost(systemd: SimulatedSystemd) -> None:
    await systemd.start("web.service")
    await systemd.wait_for_changes()
    pid = systemd.pid("web.service")
    systemd.lose_bus(for_s=0.05)
    with pytest.raises(ManagerUnavailable, match=r"^observe web.service: not connected to the bus$"):
        await systemd.observe(["web.service"])
    systemd.crash("web.service")
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.02):
            await systemd.wait_for_changes()
    assert await systemd.wait_for_changes() == ("web.service",)
    assert await state(systemd) == ("failed", "failed", False)
    assert pid


async def test_a_restart_of_systemd_keeps_every_process(systemd: SimulatedSystemd) -> None:
    await systemd.start("web.service")
    processes = systemd.processes()
    systemd.reexecute()
    await systemd.wait_for_changes()
    assert systemd.processes() == processes == {"web.service": systemd.pid("web.service")}


async def test_a_reboot_forgets_files_processes_and_the_session(systemd: SimulatedSystemd) -> None:
    await systemd.start("web.service")
    pid = systemd.pid("web.service")
    systemd.reboot()
    assert (systemd.read_files(), systemd.processes()) == ({}, {})
    with pytest.raises(ManagerUnavailable):
        await systemd.observe(["web.service"])
    await systemd.connect()
    assert await systemd.observe(["web.service"]) == {"web.service": UnitStatus("web.service")}
    await systemd.write({"web.service": SLEEPER})
    await systemd.start("web.service")
    assert systemd.pid("web.service") > pid


async def test_jobs_from_before_a_reboot_do_not_end_after_it(systemd: SimulatedSystemd) -> None:
    await systemd.write({"short.service": "[Service]\nExecStart=/bin/sleep 0.05\n"})
    await systemd.start("short.service")
    systemd.reboot()
    await systemd.connect()
    await systemd.write({"short.service": SLEEPER})
    await systemd.start("short.service")
    await asyncio.sleep(0.1)
    assert await state(systemd, "short.service") == ("active", "running", False)


async def test_units_that_require_each_other_start_together(systemd: SimulatedSystemd) -> None:
    pair = {
        name: f"[Unit]\nRequires={other}\n{SLEEPER}"
        for name, other in (("a.service", "b.service"), ("b.service", "a.service"))
    }
    await systemd.write(pair)
    await systemd.start("a.service")
    assert list(systemd.processes()) == ["a.service", "b.service"]


async def test_every_call_is_recorded(systemd: SimulatedSystemd) -> None:
    systemd.calls.clear()
    await systemd.start("web.service")
    await systemd.observe(["web.service", "other.service"])
    assert [(call.verb, call.names) for call in systemd.calls] == [
        ("start", ("web.service",)),
        ("observe", ("web.service", "other.service")),
    ]


async def test_a_stopping_machine_and_a_job_of_fleetd_itself_are_as_set(systemd: SimulatedSystemd) -> None:
    systemd.stopping = True
    systemd.set_pending_job("fleet.service", "restart")
    assert await systemd.machine_is_stopping()
    assert await systemd.pending_job("fleet.service") == "restart"


@pytest.mark.parametrize(
    ("command", "lasts_s", "status"),
    [
        ("/bin/true", 0, 0),
        ("/bin/false", 0, 1),
        ("/bin/sleep 2.5", 2.5, 0),
        ("/bin/sleep infinity", math.inf, 0),
        ("/bin/sh -c 'sleep 1; exit 4'", 1, 4),
        ("/bin/sh -c 'echo hello; exit 3'", 0, 3),
        ("/usr/bin/docker run redis", math.inf, 0),
    ],
)
def test_a_command_has_the_given_duration_and_result(command: str, lasts_s: float, status: int) -> None:
    program = parse_program("a.service", f"[Service]\nExecStart={command}\n")
    assert (program.lasts_s, program.exit_status) == (lasts_s, status)


def test_an_invalid_unit_file_is_a_bad_setting() -> None:
    assert parse_program("a.service", "[Service\n") == Program("service", load="bad-setting")
    assert parse_program("a.service", "[Unit]\n").load == "bad-setting"
    assert parse_program("a.target", "[Unit]\n").load == "loaded"
