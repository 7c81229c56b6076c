"""Drop-ins of placed units: written, restored, replaced without a restart where that is enough, and removed."""

import pytest

from fleetd.model.content import Content, DropIn
from tests.agent.machine import DAEMON, MachineUnderTest

LIMIT = DropIn("10-limit.conf", "[Service]\nMemoryMax=10M\n")
OTHER = DropIn("20-other.conf", "[Service]\nExecStart=\nExecStart=/bin/other\n")
WEB = "web.service"


async def test_a_unit_is_started_with_its_drop_ins_and_reports_the_hash_of_both(machine: MachineUnderTest) -> None:
    await machine.start()
    await machine.place(WEB, 7, dropins=(LIMIT, OTHER))
    state = await machine.until_active(WEB, 7)
    assert state.hash == Content(DAEMON, (LIMIT, OTHER)).hash
    assert machine.systemd.read_dropins() == {WEB: (LIMIT, OTHER)}
    assert [verb for verb, _ in machine.asked_to_act()] == ["write", "start"]


@pytest.mark.parametrize(
    ("before", "after", "verbs"),
    [
        ((), (LIMIT,), ["write", "reload"]),
        ((LIMIT,), (), ["write", "reload"]),
        ((LIMIT,), (LIMIT, OTHER), ["write", "reload", "restart"]),
        ((OTHER,), (), ["write", "reload", "restart"]),
    ],
)
async def test_a_changed_drop_in_does_to_the_unit_the_least_that_applies_it(
    machine: MachineUnderTest, before: tuple[DropIn, ...], after: tuple[DropIn, ...], verbs: list[str]
) -> None:
    await machine.start()
    await machine.place(WEB, 7, dropins=before)
    await machine.until_active(WEB, 7)
    pid = machine.systemd.pid(WEB)
    del machine.systemd.calls[:]
    await machine.place(WEB, 9, dropins=after)
    state = await machine.until_active(WEB, 9)
    assert state.hash == Content(DAEMON, after).hash
    assert machine.systemd.read_dropins() == ({WEB: after} if after else {})
    assert [verb for verb, _ in machine.asked_to_act()] == verbs
    assert (machine.systemd.pid(WEB) == pid) == ("restart" not in verbs)


@pytest.mark.parametrize("left", [(), (DropIn(LIMIT.name, "[Service]\nMemoryMax=1M\n"),), (LIMIT, OTHER)])
async def test_a_drop_in_that_was_changed_on_disk_is_restored(
    machine: MachineUnderTest, left: tuple[DropIn, ...]
) -> None:
    await machine.start()
    await machine.place(WEB, 7, dropins=(LIMIT,))
    await machine.until_active(WEB, 7)
    pid = machine.systemd.pid(WEB)
    await machine.systemd.write({WEB: DAEMON}, {WEB: left})
    await machine.restart()
    await machine.settle()
    assert machine.systemd.read_dropins() == {WEB: (LIMIT,)}
    assert machine.systemd.pid(WEB) == pid


async def test_an_installed_alias_may_come_from_a_drop_in(machine: MachineUnderTest) -> None:
    await machine.start()
    await machine.place(WEB, 7, dropins=(DropIn("alias.conf", "[Install]\nAlias=site.service\n"),))
    await machine.until_active(WEB, 7)
    assert machine.systemd.find_links() == {"site.service": WEB}
    await machine.restart()
    await machine.settle()
    await machine.place(WEB, 9, dropins=())
    await machine.until_active(WEB, 9)
    assert machine.systemd.find_links() == {}


async def test_a_new_unit_with_a_drop_in_of_the_machines_own_name_is_refused_until_that_goes(
    machine: MachineUnderTest,
) -> None:
    path = f"/etc/systemd/system/{WEB}.d/{LIMIT.name}"
    machine.systemd.own_dropin(WEB, path)
    await machine.start()
    await machine.place(WEB, 7, dropins=(LIMIT,))
    states = await machine.until(lambda states: WEB in states and states[WEB].error != "")
    assert states[WEB].refusal == f"has its own {path}"
    assert states[WEB].error == (
        f'unit "{WEB}" has the drop-in {path}, which is not fleet\'s: remove it, or choose another name'
    )
    assert dict(machine.systemd.read_files()) == {}
    machine.systemd.disown(WEB)
    await machine.place(WEB, 9, dropins=(LIMIT,))
    assert (await machine.until_active(WEB, 9)).error == ""


async def test_a_running_unit_keeps_its_content_if_the_name_of_a_new_drop_in_is_taken(
    machine: MachineUnderTest,
) -> None:
    await machine.start()
    await machine.place(WEB, 7, dropins=(OTHER,))
    await machine.until_active(WEB, 7)
    pid = machine.systemd.pid(WEB)
    machine.systemd.own_dropin(WEB, f"/run/systemd/system/{WEB}.d/{LIMIT.name}")
    await machine.place(WEB, 9, dropins=(LIMIT,))
    states = await machine.until(lambda states: states[WEB].error != "")
    assert "which is not fleet's" in states[WEB].error
    assert (states[WEB].active, states[WEB].generation) == ("active", 7)
    assert states[WEB].hash == Content(DAEMON, (OTHER,)).hash
    assert machine.systemd.pid(WEB) == pid
    machine.systemd.disown(WEB)
    assert (await machine.until_active(WEB, 9)).hash == Content(DAEMON, (LIMIT,)).hash


async def test_a_drop_in_that_systemd_refuses_is_reported_as_a_unit_file_is(machine: MachineUnderTest) -> None:
    await machine.start()
    await machine.place(WEB, 7)
    await machine.until_active(WEB, 7)
    pid = machine.systemd.pid(WEB)
    await machine.place(WEB, 9, dropins=(DropIn("bad.conf", "[Service]\nExecStart=\n"),))
    states = await machine.until(lambda states: states[WEB].load == "bad-setting" and states[WEB].error != "")
    assert "bad unit file setting" in states[WEB].error
    assert machine.systemd.pid(WEB) == pid, "what runs is not stopped for it"
    await machine.place(WEB, 11)
    state = await machine.until_active(WEB, 11)
    assert (state.load, state.error) == ("loaded", "")


@pytest.mark.parametrize("dropins", [(LIMIT,), (OTHER,)])
async def test_a_unit_with_drop_ins_that_is_withdrawn_leaves_nothing(
    machine: MachineUnderTest, dropins: tuple[DropIn, ...]
) -> None:
    await machine.start()
    await machine.place(WEB, 7, dropins=dropins)
    await machine.until_active(WEB, 7)
    await machine.place(WEB, 9, "inactive", dropins=dropins)
    await machine.until(lambda states: states.get(WEB) is not None and states[WEB].generation == 9)
    assert dict(machine.systemd.read_files()) == dict(machine.systemd.read_dropins()) == {}
