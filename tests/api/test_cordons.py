"""The cordon of a machine: who set it, when and why, what it does to other settings, and what is refused."""

from typing import Any

import msgspec
import pytest

from fleetd.model.machine import Capability, Cordon, Machine, MachineSettings
from fleetd.registry.records import Synced
from tests.api.conftest import JSON, Fleet

CORDON = "/fleet/v2/machines/m1/cordon"
AT = 1_800_014_400.0


async def cordon(fleet: Fleet, why: str = "disk", by: str = "ann", request: str = f"PUT {CORDON}") -> None:
    response = await fleet.ask(request, {"why": why}, (*JSON, ("Fleet-User", by)))
    assert (response.status, response.body) == (204, b"")


@pytest.fixture
async def machine(fleet: Fleet) -> Fleet:
    """A cluster of one machine, m1."""
    fleet.reconfigure(unix_now=lambda: AT)
    await fleet.put(Machine("m1", metadata={"role": "db"}, capabilities={Capability.CORDON: True}), "m1")
    return fleet


async def settings(fleet: Fleet) -> dict[str, MachineSettings]:
    return await fleet.registry.settings()


async def test_a_cordon_says_why_by_whom_and_since_when(machine: Fleet) -> None:
    await cordon(machine)
    assert await settings(machine) == {"m1": MachineSettings(cordon=Cordon("disk", "ann", AT))}
    listed = msgspec.json.decode((await machine.ask("GET /fleet/v1/machines")).body)
    assert listed["machines"] == [
        {"id": "m1", "metadata": {"role": "db"}, "cordon": {"why": "disk", "by": "ann", "at": AT}}
    ]


async def test_it_stands_until_it_is_taken_back_which_may_be_repeated(machine: Fleet) -> None:
    await cordon(machine)
    for _ in range(2):
        assert (await machine.ask(f"DELETE {CORDON}")).status == 204
        assert await settings(machine) == {}


async def test_the_first_to_cordon_for_a_reason_is_kept_and_another_reason_replaces_it(machine: Fleet) -> None:
    await cordon(machine)
    await cordon(machine, by="bob")
    assert (await settings(machine))["m1"].cordon == Cordon("disk", "ann", AT)
    await cordon(machine, why="kernel", by="bob")
    assert (await settings(machine))["m1"].cordon == Cordon("kernel", "bob", AT)


async def test_metadata_and_cordon_do_not_touch_each_other(machine: Fleet) -> None:
    edit = [{"op": "add", "path": "/m1/metadata/disk", "value": "ssd"}]
    await cordon(machine)
    assert (await machine.ask("PATCH /fleet/v1/machines", edit)).status == 204
    assert await settings(machine) == {"m1": MachineSettings({"disk": "ssd"}, Cordon("disk", "ann", AT))}
    assert (await machine.ask(f"DELETE {CORDON}")).status == 204
    assert await settings(machine) == {"m1": MachineSettings({"disk": "ssd"})}


async def test_no_reason_and_no_user_are_needed(machine: Fleet) -> None:
    assert (await machine.ask(f"PUT {CORDON}", {})).status == 204
    assert (await settings(machine))["m1"].cordon == Cordon("", "", AT)


async def test_the_user_is_one_line_of_bounded_length(machine: Fleet) -> None:
    await cordon(machine, by="an\x1b[1mn\udce4" + "x" * 100)
    stored = (await settings(machine))["m1"].cordon
    assert stored is not None
    assert stored.by == ("an[1mn" + "x" * 100)[:64]


@pytest.mark.parametrize("why", ["two\nlines", "\x1b[31mred", "x" * 201])
async def test_a_reason_that_is_no_short_line_is_refused(machine: Fleet, why: str) -> None:
    refused = await machine.refused(f"PUT {CORDON}", {"why": why})
    assert refused == (400, "why has to be one line of at most 200 printable characters")
    assert await settings(machine) == {}


@pytest.mark.parametrize(("body", "headers", "status"), [(b"", JSON, 400), ({"why": 1}, JSON, 400), ({}, (), 415)])
async def test_a_body_that_is_no_request_is_refused(machine: Fleet, body: Any, headers: Any, status: int) -> None:
    assert (await machine.refused(f"PUT {CORDON}", body, headers))[0] == status
    assert await settings(machine) == {}


async def test_an_unknown_machine_is_refused(machine: Fleet) -> None:
    for method in ("PUT", "DELETE"):
        status, said = await machine.refused(f"{method} /fleet/v2/machines/m2/cordon", {"why": "disk"})
        assert (status, said) == (404, "unknown machine: give the full id of one that is or was in the cluster")


async def test_an_absent_machine_is_not_cordoned_and_may_be_uncordoned(machine: Fleet) -> None:
    await machine.put(Synced("s"), "m2")
    status, said = await machine.refused("PUT /fleet/v2/machines/m2/cordon", {})
    assert (status, said.partition(":")[0]) == (409, "the machine is absent")
    await machine.put(MachineSettings(cordon=Cordon("disk")), "m2")
    assert (await machine.ask("DELETE /fleet/v2/machines/m2/cordon")).status == 204
    assert await settings(machine) == {}


async def test_a_machine_whose_fleetd_would_pass_over_it_forbids_a_cordon_but_not_its_end(machine: Fleet) -> None:
    await machine.put(Machine("m2", version="0.9"), "m2")
    status, said = await machine.refused(f"PUT {CORDON}", {})
    assert (status, said) == (
        409,
        "cordons and drains cannot be used yet: machine m2 runs fleetd 0.9, which does not know of them; update "
        "fleetd there first",
    )
    assert (await machine.ask(f"DELETE {CORDON}")).status == 204


async def test_other_methods_and_paths_are_refused(machine: Fleet) -> None:
    assert await machine.refused(f"GET {CORDON}") == (405, "only PUT and DELETE supported against this resource")
    for path in ("/fleet/v2/machines//cordon", f"{CORDON}/x", "/fleet/v2/cordon", "/fleet/v2/machines/m1/cordons"):
        response = await machine.ask(f"PUT {path}", {})
        assert response.status in (301, 404)
