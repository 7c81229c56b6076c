"""The service manager's protocol (fleetd/systemd/protocol.py): drop-ins. This runs on the simulated systemd;
test_systemd_real.py runs the same on real ones."""

import pytest

from fleetd.model.content import DropIn
from fleetd.systemd.protocol import DropInTaken
from tests.contract.systemd_harness import SLEEPER, Harness, until_active, until_ended

FAILS = DropIn("10-fails.conf", "[Service]\nExecStart=\nExecStart=/bin/sh -c 'exit 3'\n")
SLEEPS = DropIn("20-sleeps.conf", "[Service]\nExecStart=\nExecStart=/bin/sleep 3600\n")
LIMIT = DropIn("30-limit.conf", "[Service]\nMemoryMax=100M\n")


async def test_a_new_unit_starts_with_its_drop_ins_without_a_reload(harness: Harness) -> None:
    manager = harness.manager
    assert await manager.write({"new.service": SLEEPER}, {"new.service": (FAILS,)}) == {}
    assert not await manager.reload_needed(["new.service"])
    await manager.start("new.service")
    assert (await until_ended(manager, "new.service"))["new.service"].active == "failed"


async def test_of_two_drop_ins_the_later_name_counts(harness: Harness) -> None:
    manager = harness.manager
    await manager.write({"web.service": SLEEPER}, {"web.service": (FAILS, SLEEPS)})
    await manager.start("web.service")
    await until_active(manager, "web.service")


async def test_drop_ins_read_are_those_written_last(harness: Harness) -> None:
    manager = harness.manager
    dropins = {"b.service": (FAILS, SLEEPS), "a.service": (LIMIT,), "none.service": ()}
    await manager.write({"b.service": SLEEPER, "a.service": SLEEPER, "none.service": SLEEPER}, dropins)
    assert list(manager.read_dropins().items()) == [("a.service", (LIMIT,)), ("b.service", (FAILS, SLEEPS))]
    assert manager.read_files() == dict.fromkeys(("a.service", "b.service", "none.service"), SLEEPER)
    await manager.write({"b.service": SLEEPER, "a.service": SLEEPER}, {"b.service": (SLEEPS,)})
    assert manager.read_dropins() == {"b.service": (SLEEPS,)}
    await manager.remove(["b.service"])
    assert manager.read_dropins() == {}


async def test_an_unchanged_drop_in_needs_no_reload_and_a_changed_one_does(harness: Harness) -> None:
    manager = harness.manager
    await manager.write({"web.service": SLEEPER})
    await manager.start("web.service")
    await until_active(manager, "web.service")
    pid = harness.pid("web.service")
    changed = DropIn(LIMIT.name, "[Service]\nMemoryMax=200M\n")
    for dropins in ((LIMIT,), (changed,), (SLEEPS, changed), (SLEEPS,), ()):
        await manager.write({"web.service": SLEEPER}, {"web.service": dropins})
        assert await manager.reload_needed(["web.service"]), dropins
        await manager.reload()
        await manager.write({"web.service": SLEEPER}, {"web.service": dropins})
        assert not await manager.reload_needed(["web.service"]), dropins
    assert harness.pid("web.service") == pid != 0


async def test_a_drop_in_written_before_a_restart_of_fleetd_needs_a_reload_after_it(harness: Harness) -> None:
    await harness.manager.write({"web.service": SLEEPER})
    await harness.manager.start("web.service")
    await until_active(harness.manager, "web.service")
    for dropins in ((LIMIT,), (LIMIT, SLEEPS), (), (SLEEPS,)):
        await harness.manager.write({"web.service": SLEEPER}, {"web.service": dropins})
        await harness.reconnect()
        assert await harness.manager.reload_needed(["web.service"]), dropins
        await harness.manager.reload()
        await harness.reconnect()
        assert not await harness.manager.reload_needed(["web.service"]), dropins


async def test_a_restart_runs_with_the_new_drop_in(harness: Harness) -> None:
    manager = harness.manager
    await manager.write({"web.service": SLEEPER}, {"web.service": (SLEEPS,)})
    await manager.start("web.service")
    await until_active(manager, "web.service")
    await manager.write({"web.service": SLEEPER}, {"web.service": (FAILS,)})
    await manager.reload()
    await manager.restart("web.service")
    assert (await until_ended(manager, "web.service"))["web.service"].active == "failed"


async def test_an_instance_has_the_drop_ins_of_its_template_and_its_own(harness: Harness) -> None:
    manager = harness.manager
    await manager.write({"web@.service": SLEEPER}, {"web@.service": (FAILS,)})
    await manager.write({"web@1.service": SLEEPER, "web@2.service": SLEEPER}, {"web@1.service": (SLEEPS,)})
    await manager.start("web@1.service")
    await manager.start("web@2.service")
    await until_active(manager, "web@1.service")
    assert (await until_ended(manager, "web@2.service"))["web@2.service"].active == "failed"


async def test_a_drop_in_with_which_a_unit_cannot_be_loaded_is_explained(harness: Harness) -> None:
    manager = harness.manager
    await manager.write({"bad.service": SLEEPER}, {"bad.service": (DropIn("a.conf", "[Service]\nExecStart=\n"),)})
    assert (await manager.observe(["bad.service"]))["bad.service"].load == "bad-setting"
    assert "bad unit file setting" in await manager.explain("bad.service")


@pytest.mark.covers("R.7")
async def test_a_drop_in_of_the_machines_own_is_neither_replaced_nor_removed(harness: Harness) -> None:
    manager = harness.manager
    own = harness.own_dropin("web.service", LIMIT.name)
    assert manager.shadowed_dropin("web.service", LIMIT.name) == own
    assert manager.shadowed_dropin("web.service", SLEEPS.name) == ""
    assert manager.shadowed_dropin("other.service", LIMIT.name) == ""
    refused = await manager.write({"web.service": SLEEPER}, {"web.service": (SLEEPS, LIMIT)})
    assert list(refused) == ["web.service"]
    assert isinstance(refused["web.service"], DropInTaken)
    assert str(refused["web.service"]) == (
        f'write web.service: unit "web.service" has the drop-in {own}, which is not fleet\'s: '
        "remove it, or choose another name"
    )
    assert manager.read_files() == {}
    assert await manager.write({"web.service": SLEEPER}, {"web.service": (SLEEPS,)}) == {}
    assert manager.read_dropins() == {"web.service": (SLEEPS,)}
    await manager.remove(["web.service"])
    assert manager.shadowed_dropin("web.service", LIMIT.name) == own
    harness.disown_dropins("web.service")
    assert await manager.write({"web.service": SLEEPER}, {"web.service": (LIMIT,)}) == {}
