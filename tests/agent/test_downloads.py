"""What a machine downloads before it stops or starts anything for it."""

import asyncio

import pytest

from fleetd.agent.downloads import TIDY_S
from fleetd.model.download import Download
from fleetd.model.placement import Placement
from fleetd.model.unit import TargetState, UnitState
from tests.agent.machine import MACHINE, MachineUnderTest

WEB, IMAGE, NEW = "web.service", f"registry:5000/web@sha256:{'1' * 64}", f"registry:5000/web@sha256:{'2' * 64}"


def container(image: str) -> str:
    return (
        f"[Service]\nExecStart=/usr/bin/podman run {image}\n[X-Image]\nImage={image}\n"
        "[X-Source web.container Container]\nImage=registry:5000/web:1\n"
    )


LONG_S = 100.0


async def until_active(machine: MachineUnderTest, name: str, generation: int) -> UnitState:
    states = await machine.until(
        lambda states: name in states and (states[name].active, states[name].generation) == ("active", generation),
        LONG_S,
    )
    return states[name]


async def test_a_unit_starts_when_its_image_is_there(machine: MachineUnderTest) -> None:
    machine.fetcher.takes_s = 60.0
    await machine.start()
    await machine.place(WEB, 1, text=container(IMAGE))
    state = (await machine.until(lambda states: WEB in states and states[WEB].note != ""))[WEB]
    assert state.note == f"waits for the image {IMAGE}, which is being downloaded"
    assert (state.error, state.active) == ("", "inactive")
    assert machine.asked_to_act() == []
    assert (await until_active(machine, WEB, 1)).note == ""
    assert machine.fetcher.begun == [IMAGE]


async def test_what_is_there_is_not_asked_for(machine: MachineUnderTest) -> None:
    machine.fetcher.here[Download(IMAGE)] = None
    await machine.start()
    await machine.place(WEB, 1, text=container(IMAGE))
    await machine.place("other.service", 1, text=container(IMAGE))
    await until_active(machine, WEB, 1)
    await until_active(machine, "other.service", 1)
    assert machine.fetcher.begun == []


async def test_it_runs_on_until_the_image_of_its_new_content_is_there(machine: MachineUnderTest) -> None:
    await machine.start()
    await machine.place(WEB, 1, text=container(IMAGE))
    await until_active(machine, WEB, 1)
    machine.fetcher.failures[NEW] = "manifest unknown"
    machine.systemd.calls.clear()
    await machine.place(WEB, 2, text=container(NEW))
    state = (await machine.until(lambda states: states[WEB].error != ""))[WEB]
    assert state.error.startswith(f"this machine cannot get the image {NEW}: manifest unknown: ")
    assert (state.active, state.generation, state.refusal) == ("active", 1, "")
    assert machine.asked_to_act() == []
    machine.fetcher.failures.clear()
    assert (await until_active(machine, WEB, 2)).error == ""


async def test_it_runs_on_until_then_also_where_it_gets_another_lock(machine: MachineUnderTest) -> None:
    await machine.start()
    await machine.place(WEB, 1, text=container(IMAGE) + "[X-Fleet]\nLock=only\n")
    await until_active(machine, WEB, 1)
    machine.fetcher.takes_s = 30.0
    machine.systemd.calls.clear()
    await machine.place(WEB, 2, text=container(NEW) + "[X-Fleet]\nLock=other\n")
    await machine.until(lambda states: states[WEB].note != "")
    await asyncio.sleep(10)
    assert machine.asked_to_act() == []
    assert (await until_active(machine, WEB, 2)).error == ""


async def test_a_rollout_hears_that_it_failed(machine: MachineUnderTest) -> None:
    await machine.start()
    await machine.place(WEB, 1, text=container(IMAGE))
    await until_active(machine, WEB, 1)
    machine.fetcher.failures[NEW] = "manifest unknown"
    order = Placement(MACHINE, WEB, container(NEW), TargetState.LAUNCHED, 2, prove_after_s=10.0, prove_within_s=60.0)
    await machine.put(order, MACHINE, WEB)
    state = (await machine.until(lambda states: states[WEB].proof is not None))[WEB]
    assert state.proof is not None
    assert "manifest unknown" in state.proof.failed
    assert state.active == "active"


async def test_what_cannot_be_had_is_refused_for_a_while_that_grows(machine: MachineUnderTest) -> None:
    machine.fetcher.failures[IMAGE] = "connection refused"
    await machine.start()
    await machine.place(WEB, 1, text=container(IMAGE))
    state = (await machine.until(lambda states: WEB in states and states[WEB].refusal != ""))[WEB]
    assert state.refusal.startswith(f"cannot get the image {IMAGE}: connection refused: ")
    assert state.error == f"this machine {state.refusal}"
    await machine.withdraw_text(WEB, 2, container(IMAGE))
    await machine.until(lambda states: states[WEB].generation == 2)
    began_s = asyncio.get_running_loop().time()
    state = (await machine.until(lambda states: not states[WEB].refusal, LONG_S))[
        WEB
    ]  # the leader may place it here again
    assert 0 < asyncio.get_running_loop().time() - began_s <= 5.0
    assert machine.fetcher.begun == [IMAGE]  # nobody waits for it here
    await machine.place(WEB, 3, text=container(IMAGE))
    await machine.until(lambda states: states[WEB].refusal != "", LONG_S)
    began_s = asyncio.get_running_loop().time()
    await machine.until(lambda states: not states[WEB].refusal, LONG_S)
    assert asyncio.get_running_loop().time() - began_s > 8.0
    machine.fetcher.failures.clear()
    await until_active(machine, WEB, 3)


async def test_what_is_left_of_it_goes_where_its_image_cannot_be_had(machine: MachineUnderTest) -> None:
    await machine.start()
    await machine.place(WEB, 1, "loaded", text=container(IMAGE))
    await machine.until(lambda states: WEB in states and states[WEB].generation == 1)
    machine.fetcher.failures[IMAGE] = "no space left on device"
    await machine.place(WEB, 2, text=container(IMAGE))
    state = (await machine.until(lambda states: states[WEB].refusal != ""))[WEB]
    assert state.load == "loaded"
    await machine.withdraw_text(WEB, 3, container(IMAGE))
    state = (await machine.until(lambda states: states[WEB].generation == 3))[WEB]
    assert (state.load, state.refusal != "") == ("not-found", True)


async def test_nobody_waits_for_a_download_any_more(machine: MachineUnderTest) -> None:
    machine.fetcher.takes_s = 1000.0
    await machine.start()
    await machine.place(WEB, 1, text=container(IMAGE))
    await machine.until(lambda states: WEB in states and states[WEB].note != "")
    await machine.unplace(WEB)
    await machine.until(lambda states: WEB not in states)
    await machine.settle()
    assert machine.fetcher.cancelled == [IMAGE]


async def test_a_restart_of_fleetd_ends_no_download(machine: MachineUnderTest) -> None:
    machine.fetcher.takes_s = 30.0
    await machine.start()
    await machine.place(WEB, 1, text=container(IMAGE))
    await machine.until(lambda states: WEB in states and states[WEB].note != "")
    await machine.restart()
    assert machine.fetcher.cancelled == []
    await until_active(machine, WEB, 1)


@pytest.mark.parametrize("fails", [False, True])
async def test_a_machine_says_when_a_unit_may_come(machine: MachineUnderTest, *, fails: bool) -> None:
    machine.fetcher.failures |= {IMAGE: "unauthorized"} if fails else {}
    await machine.start()
    order = Placement(MACHINE, WEB, container(IMAGE), TargetState.INACTIVE, 4, prepares=True)
    await machine.put(order, MACHINE, WEB)
    states = await machine.until(lambda states: WEB in states and bool(states[WEB].prepared or states[WEB].refusal))
    assert states[WEB].prepared == ("" if fails else order.content.hash)
    assert ("registry_auth_file=" in states[WEB].refusal) == fails
    assert states[WEB].generation == 0
    await machine.restart()
    if not fails:
        await machine.until(lambda states: WEB in states and states[WEB].prepared == order.content.hash)
        await machine.place(WEB, 4, text=container(IMAGE))
        await until_active(machine, WEB, 4)
    assert machine.asked("stop") == []


async def test_units_with_one_image_wait_for_one_download(machine: MachineUnderTest) -> None:
    machine.fetcher.failures[IMAGE] = "gone"
    await machine.start()
    await machine.place(WEB, 1, text=container(IMAGE))
    await machine.until(lambda states: WEB in states and states[WEB].refusal != "")
    await machine.place("other.service", 1, text=container(IMAGE))
    await machine.until(lambda states: "other.service" in states and states["other.service"].refusal != "")
    assert machine.fetcher.begun == [IMAGE]
    machine.fetcher.failures.clear()
    await until_active(machine, WEB, 1)
    await until_active(machine, "other.service", 1)
    assert machine.fetcher.begun == [IMAGE, IMAGE]


FILE = Download("https://host/app.raw", "b" * 64, "app.raw")
FETCHING = f"[Service]\nExecStart=/bin/daemon\n[X-Fleet]\nFetch={FILE.source} sha256:{FILE.sha256}\n"


@pytest.mark.parametrize("target", ["launched", "loaded"])
async def test_a_unit_has_its_files_before_it_is_here(machine: MachineUnderTest, target: str) -> None:
    """Also one that something else starts."""
    machine.fetcher.failures[FILE.source] = "404 Not Found"
    await machine.start()
    await machine.place(WEB, 1, target, text=FETCHING)
    state = (await machine.until(lambda states: WEB in states and states[WEB].refusal != ""))[WEB]
    assert state.refusal.startswith(f"cannot get the file {FILE.source}: 404 Not Found: ")
    assert machine.asked_to_act() == []
    machine.fetcher.failures.clear()
    await machine.until(lambda states: states[WEB].generation == 1, LONG_S)
    assert machine.fetcher.prepared[WEB] == (FILE,)
    await machine.unplace(WEB)
    await machine.until(lambda states: WEB not in states, LONG_S)
    assert WEB not in machine.fetcher.prepared


async def test_what_is_not_needed_is_tidied_up_only_if_there_is_anything(machine: MachineUnderTest) -> None:
    await machine.start()
    await machine.place(WEB, 1, text=container(IMAGE))
    await machine.until(lambda states: WEB in states and states[WEB].note != "")
    await machine.settle(2 * TIDY_S)
    assert machine.fetcher.tidied == []
    machine.fetcher.keeps_any = True
    await machine.restart()
    await machine.place("other.service", 2, text=FETCHING)
    await until_active(machine, "other.service", 2)
    await machine.withdraw_text(WEB, 3, container(IMAGE))
    await machine.settle(2 * TIDY_S + 1)
    assert machine.fetcher.tidied == [{FILE}, {FILE}]
