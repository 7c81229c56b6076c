"""[Install] on one machine: which links its units create and remove, also under faults."""

import pytest

from fleetd.agent.ledger import Ledger
from fleetd.model.unit import TargetState
from tests.agent.machine import DAEMON, MachineUnderTest


def installed(section: str, unit: str = "") -> str:
    return f"{unit}{DAEMON}\n[Install]\n{section}\n"


def links(machine: MachineUnderTest) -> dict[str, str]:
    """All links; the ledger has the same ones."""
    assert machine.ledger.links == machine.systemd.find_links()
    return dict(machine.systemd.find_links())


async def destroy(machine: MachineUnderTest, name: str, generation: int) -> None:
    await machine.withdraw(name, generation)
    await machine.until(lambda states: states[name].target is TargetState.INACTIVE)


async def test_an_alias_is_not_a_second_unit(machine: MachineUnderTest) -> None:
    await machine.start()
    client = f"[Unit]\nRequires=db.service\nAfter=db.service\n{DAEMON}"
    await machine.place_all({"client.service": client, "pg.service": installed("Alias=db.service")}, 7)
    await machine.until_active("client.service", 7)
    await machine.until_active("pg.service", 7)
    assert list(machine.systemd.processes()) == ["client.service", "pg.service"]
    await destroy(machine, "client.service", 8)
    await destroy(machine, "pg.service", 9)
    assert machine.systemd.processes() == {}
    assert links(machine) == {}


async def test_links_are_removed_with_their_unit(machine: MachineUnderTest) -> None:
    await machine.start()
    await machine.place("a.service", 7, text=installed("Alias=b.service\nWantedBy=multi-user.target"))
    await machine.until_active("a.service", 7)
    assert links(machine) == {"b.service": "a.service", "multi-user.target.wants/a.service": "a.service"}
    await destroy(machine, "a.service", 8)
    assert links(machine) == {}
    assert len(machine.asked("reload")) == 2, "multi-user.target is to know both times"


@pytest.mark.parametrize("text", [DAEMON, installed("WantedBy=other.target")])
async def test_a_replaced_unit_loses_the_links_that_it_dropped(machine: MachineUnderTest, text: str) -> None:
    await machine.start()
    await machine.place("web.service", 7)
    await machine.place("logger.service", 7, "loaded", installed("WantedBy=web.service"))
    await machine.until(lambda states: "logger.service" in states and states["logger.service"].generation == 7)
    assert "web.service.wants/logger.service" in links(machine)
    await machine.place("logger.service", 8, "loaded", text)
    await machine.until(lambda states: states["logger.service"].generation == 8)
    assert "web.service.wants/logger.service" not in links(machine)
    machine.systemd.crash("web.service")
    await machine.place("web.service", 9)
    await machine.until_active("web.service", 9)
    assert list(machine.systemd.processes()) == ["web.service"], "starting web starts the old logger no more"


async def test_the_second_of_two_units_gets_a_shared_alias_when_the_first_goes(
    machine: MachineUnderTest, caplog: pytest.LogCaptureFixture
) -> None:
    await machine.start()
    await machine.place("b.service", 7, text=installed("Alias=db.service"))
    await machine.until_active("b.service", 7)
    await machine.place("a.service", 8, text=installed("Alias=db.service"))
    await machine.until_active("a.service", 8)
    assert links(machine) == {"db.service": "b.service"}
    assert "a.service: [Install] Alias=db.service has no effect: b.service has it" in caplog.text
    states = await machine.until(lambda states: states["a.service"].note != "")
    assert states["a.service"].note == "[Install] Alias=db.service has no effect: b.service has it"
    await machine.restart()
    await machine.until_active("a.service", 8)
    assert links(machine) == {"db.service": "b.service"}, "it stays whose it was"
    await destroy(machine, "b.service", 9)
    assert links(machine) == {"db.service": "a.service"}
    await machine.until(lambda states: states["a.service"].note == "")


async def test_a_service_and_a_socket_that_name_each_other_keep_their_links(machine: MachineUnderTest) -> None:
    await machine.start()
    service = installed("Also=web.socket\nWantedBy=multi-user.target")
    socket = "[Socket]\nListenStream=/run/web\n\n[Install]\nAlso=web.service\nWantedBy=sockets.target\n"
    await machine.place_all({"web.service": service, "web.socket": socket}, 7)
    await machine.until_active("web.service", 7)
    await machine.until_active("web.socket", 7)
    await destroy(machine, "web.service", 8)
    assert links(machine) == {"sockets.target.wants/web.socket": "web.socket"}


async def test_a_system_unit_keeps_its_name_and_never_requires_a_fleet_unit(
    machine: MachineUnderTest, caplog: pytest.LogCaptureFixture
) -> None:
    await machine.start()
    await machine.place("a.service", 7, text=installed("RequiredBy=ssh.service"))
    await machine.until_active("a.service", 7)
    assert links(machine) == {}
    assert "a.service: [Install] RequiredBy=ssh.service has no effect" in caplog.text
    await machine.place("b.service", 8, text=installed("Alias=ssh.service"))
    states = await machine.until(lambda states: "b.service" in states)
    assert '[Install] Alias=ssh.service: unit "ssh.service" would hide /lib' in states["b.service"].error
    await machine.place("a.service", 9, text=installed("Alias=ssh.service"))
    await machine.until_active("a.service", 9)
    assert links(machine) == {}
    assert "a.service: [Install] Alias=ssh.service has no effect" in caplog.text


async def test_a_link_for_a_running_instance_counts_at_its_next_start(machine: MachineUnderTest) -> None:
    await machine.start()
    await machine.place("web@1.service", 7)
    await machine.until_active("web@1.service", 7)
    await machine.place("logger.service", 8, "loaded", installed("WantedBy=web@1.service"))
    await machine.until(lambda states: "logger.service" in states and states["logger.service"].generation == 8)
    machine.systemd.crash("web@1.service")
    await machine.place("web@1.service", 9)
    await machine.until_active("web@1.service", 9)
    await machine.until(lambda states: states["logger.service"].active == "active")


async def test_links_unfinished_at_a_crash_are_completed_at_the_next_start(machine: MachineUnderTest) -> None:
    await machine.start()
    await machine.place("a.service", 7, text=installed("Alias=b.service"))
    await machine.until_active("a.service", 7)
    await machine.stop()
    await machine.systemd.connect()
    await machine.systemd.link({}, {"b.service": "a.service"})
    ledger = Ledger(machine.directory)
    ledger.put_links({"b.service": "a.service", "gone.service": "a.service"})
    await machine.systemd.link({"gone.service": "a.service"}, {})
    await machine.systemd.close()
    await machine.start()
    await machine.until_active("a.service", 7)
    await machine.settle()
    assert links(machine) == {"b.service": "a.service"}


async def test_links_missing_in_the_ledger_are_adopted(machine: MachineUnderTest) -> None:
    await machine.start()
    await machine.place("a.service", 7)
    await machine.until_active("a.service", 7)
    await machine.stop()
    (machine.directory / "links").unlink()
    await machine.systemd.connect()
    await machine.systemd.link({"old.target.wants/a.service": "a.service"}, {})
    await machine.systemd.close()
    await machine.start()
    await machine.until_active("a.service", 7)
    await machine.settle()
    assert links(machine) == {}


async def test_links_unmade_at_the_loss_of_the_bus_are_made_afterwards(machine: MachineUnderTest) -> None:
    await machine.start()
    await machine.place("a.service", 7)
    await machine.until_active("a.service", 7)
    machine.systemd.loses_bus_at_link = True
    await machine.place("b.service", 8, text=installed("Alias=c.service"))
    await machine.until_active("b.service", 8)
    assert links(machine) == {"c.service": "b.service"}


async def test_a_link_that_cannot_be_made_blocks_no_unit_and_is_retried(
    machine: MachineUnderTest, caplog: pytest.LogCaptureFixture
) -> None:
    machine.systemd.refused_links = ["x.target.wants/a.service"]
    await machine.start()
    await machine.place("a.service", 7, text=installed("WantedBy=x.target y.target"))
    await machine.until_active("a.service", 7)
    assert links(machine) == {"y.target.wants/a.service": "a.service"}
    assert caplog.text.count("x.target.wants/a.service is in the way") == 1
    machine.systemd.refused_links = []
    await machine.place("b.service", 8)
    await machine.until_active("b.service", 8)
    assert "x.target.wants/a.service" in links(machine)


async def test_an_install_section_that_systemd_refuses_is_reported(
    machine: MachineUnderTest, caplog: pytest.LogCaptureFixture
) -> None:
    """A new unit is refused for it. A unit that runs already keeps running, in its target state."""
    await machine.start()
    await machine.place("a.service", 7)
    await machine.until_active("a.service", 7)
    await machine.place("a.service", 8, text=installed("Alias=a.socket"))
    await machine.until_active("a.service", 8)
    assert links(machine) == {}
    assert "a.service: [Install] has no effect: " in caplog.text
