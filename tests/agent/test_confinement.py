"""What a machine's fleet.conf says of the units that it takes, kept against what the store says."""

import pytest

from fleetd.model.confinement import DROPIN_NAME, Limits, Privileges, user_of
from fleetd.model.content import DropIn
from tests.agent.machine import DAEMON, OTHER, MachineUnderTest

WEB = "web.service"
ROOT = f"{DAEMON}User=root\n"
CONFINING = Limits(confine=True)


def dropins_of(machine: MachineUnderTest) -> list[str]:
    return [dropin.name for dropin in machine.systemd.read_dropins().get(WEB, ())]


async def refusal_of(machine: MachineUnderTest, name: str = WEB) -> str:
    states = await machine.until(lambda states: name in states and states[name].refusal != "")
    assert states[name].refusal in states[name].error
    assert (states[name].load, states[name].hash) == ("not-found", "")
    return states[name].refusal


async def test_a_placement_of_a_name_that_is_not_accepted_is_not_carried_out(machine: MachineUnderTest) -> None:
    machine.limits = Limits(("db-*",))
    await machine.start()
    await machine.place(WEB, 7)
    assert await refusal_of(machine) == "accepts only db-*"
    await machine.place("db-1.service", 8)
    await machine.until_active("db-1.service", 8)
    assert list(machine.systemd.read_files()) == ["db-1.service"]
    assert machine.asked("start") == [("start", ("db-1.service",))]


async def test_a_placement_that_could_become_root_is_not_carried_out(machine: MachineUnderTest) -> None:
    machine.limits = CONFINING
    await machine.start()
    await machine.place(WEB, 7, text=ROOT)
    assert "User= is not allowed" in await refusal_of(machine)
    await machine.place("a.socket", 7)
    assert "services only" in await refusal_of(machine, "a.socket")
    assert machine.systemd.read_files() == {}
    assert machine.asked("start") == []
    await machine.place(WEB, 9)
    await machine.until_active(WEB, 9)


async def test_a_unit_that_starts_one_of_the_machines_own_is_refused(machine: MachineUnderTest) -> None:
    machine.limits = CONFINING
    machine.systemd.own("debug-shell.service", "/lib/systemd/system/debug-shell.service")
    await machine.start()
    await machine.place(WEB, 7, text=f"{DAEMON}[Unit]\nWants=network.target debug-shell.service\n")
    assert "it starts debug-shell.service (/lib/systemd" in await refusal_of(machine)
    await machine.place(WEB, 9, text=f"{DAEMON}[Unit]\nWants=other.service\n")
    await machine.until_active(WEB, 9)


async def test_a_confined_unit_has_one_more_drop_in_and_counts_as_it_was_placed(machine: MachineUnderTest) -> None:
    machine.limits = CONFINING
    await machine.start()
    limit = DropIn("a.conf", "[Service]\nMemoryMax=1G\n")
    await machine.place(WEB, 7, dropins=(limit,))
    state = await machine.until_active(WEB, 7)
    assert dropins_of(machine) == ["a.conf", DROPIN_NAME]
    await machine.restart()
    await machine.settle()
    assert (await machine.states())[WEB].hash == state.hash
    assert machine.asked("start", "stop", "write")[-1][0] == "start"
    await machine.place(WEB, 9, text=OTHER)  # changed content restarts it
    await machine.until_active(WEB, 9)
    assert dropins_of(machine) == [DROPIN_NAME]


async def test_a_running_unit_is_stopped_and_removed_when_its_placement_may_not_be_here(
    machine: MachineUnderTest,
) -> None:
    machine.limits = CONFINING
    await machine.start()
    await machine.place(WEB, 7)
    await machine.until_active(WEB, 7)
    await machine.place(WEB, 9, text=ROOT)
    assert "User= is not allowed" in await refusal_of(machine)
    assert machine.systemd.read_files() == {}
    assert machine.asked("stop") == [("stop", (WEB,))]


async def test_what_runs_when_the_machine_begins_to_confine_is_started_anew_or_removed(
    machine: MachineUnderTest,
) -> None:
    await machine.start()
    await machine.place(WEB, 7)
    await machine.place("root.service", 7, text=ROOT)
    await machine.until_active(WEB, 7)
    await machine.until_active("root.service", 7)
    machine.systemd.calls.clear()
    machine.limits = CONFINING
    await machine.restart()
    await refusal_of(machine, "root.service")
    await machine.until(lambda states: machine.asked("start") != [] and states[WEB].active == "active")
    assert dropins_of(machine) == [DROPIN_NAME]
    assert sorted(machine.asked("stop", "start")) == [
        ("start", (WEB,)),
        ("stop", ("root.service",)),
        ("stop", (WEB,)),
    ]
    machine.limits = Limits()
    await machine.restart()
    await machine.settle()
    assert dropins_of(machine) == []
    assert (await machine.states())[WEB].active == "active"


async def test_a_unit_that_would_not_be_confined_is_not_started(machine: MachineUnderTest) -> None:
    found: list[Privileges] = [Privileges(WEB, True, True, "root", "", (), True, True, "strict", 0)]
    machine.systemd.privileges_of[WEB] = found[0]
    machine.limits = CONFINING
    await machine.start()
    await machine.place(WEB, 7)
    states = await machine.until(lambda states: WEB in states and states[WEB].error != "")
    assert "it would not be confined (User=)" in states[WEB].error
    assert machine.asked("start") == []
    assert user_of(WEB) not in states[WEB].error
    del machine.systemd.privileges_of[WEB]
    await machine.place(WEB, 9)
    await machine.until_active(WEB, 9)


async def test_a_restart_with_content_that_would_not_be_confined_is_not_made(machine: MachineUnderTest) -> None:
    machine.limits = CONFINING
    await machine.start()
    await machine.place(WEB, 7)
    await machine.until_active(WEB, 7)
    machine.systemd.privileges_of[WEB] = Privileges(WEB, True, True, user_of(WEB), "", (), False, True, "strict", 0)
    await machine.place(WEB, 9, text=OTHER)
    states = await machine.until(lambda states: states[WEB].error != "")
    assert "(DynamicUser=)" in states[WEB].error
    assert machine.asked("restart") == []


@pytest.mark.parametrize("limits", [Limits(), CONFINING])
async def test_install_makes_no_links_where_units_are_confined(machine: MachineUnderTest, limits: Limits) -> None:
    machine.limits = limits
    await machine.start()
    await machine.place(WEB, 7, text=f"{DAEMON}[Install]\nWantedBy=multi-user.target\n")
    await machine.until_active(WEB, 7)
    assert bool(machine.systemd.find_links()) == (limits is not CONFINING)


async def test_a_machine_that_takes_all_units_asks_systemd_for_nothing_more(machine: MachineUnderTest) -> None:
    await machine.start()
    await machine.place(WEB, 7)
    await machine.until_active(WEB, 7)
    assert machine.asked("privileges") == []
