"""Secrets on a machine: sealed, where systemd asks for them, before a unit starts."""

import msgspec

from fleetd.model.secret import SealedSecret, SealedVersion, SecretRef
from fleetd.trust.credentials_wire import Delivered
from tests.agent.machine import MACHINE, MachineUnderTest

WEB = "web.service"


async def seal(machine: MachineUnderTest, *numbers: int, name: str = "db.pw", key: str = "k") -> None:
    """The leader has these versions sealed for the machine, to this key of its."""
    versions = tuple(SealedVersion(number, b"key", b"box %d" % number) for number in numbers)
    await machine.put(SealedSecret(key, versions), MACHINE, name)


def delivered(machine: MachineUnderTest, unit: str = WEB) -> dict[str, int]:
    """The versions that a unit is given here, by secret."""
    folder = machine.directory / "credentials" / unit
    files = sorted(folder.iterdir()) if folder.exists() else []
    assert all(file.stat().st_mode & 0o777 == 0o600 for file in files)
    return {file.name: msgspec.json.decode(file.read_bytes(), type=Delivered).version for file in files}


async def test_a_unit_has_its_secrets_before_it_starts_and_others_none(machine: MachineUnderTest) -> None:
    await seal(machine, 3, 7)
    await seal(machine, 2, name="tls")
    await machine.start()
    await machine.place(WEB, 7, secrets=(SecretRef("db.pw", 7), SecretRef("tls", 2)))
    await machine.until_active(WEB, 7)
    assert delivered(machine) == {"db.pw": 7, "tls": 2}
    await machine.place("other.service", 8)
    await machine.until_active("other.service", 8)
    assert delivered(machine, "other.service") == {}
    assert (machine.directory / "credentials" / WEB).stat().st_mode & 0o777 == 0o700


async def test_a_unit_whose_secret_is_not_there_is_not_started_and_says_so_until_it_is(
    machine: MachineUnderTest,
) -> None:
    await machine.start()
    await machine.place(WEB, 7, secrets=(SecretRef("db.pw", 7),))
    await machine.place("gone.service", 8, secrets=(SecretRef("x", 0),))
    states = await machine.until(lambda states: sum(bool(state.error) for state in states.values()) == 2)
    assert states[WEB].error == "not started: version 7 of the secret db.pw is not sealed for this machine yet"
    assert states["gone.service"].error == "not started: its secret x is missing (fleetctl secret set x)"
    assert machine.asked("start") == []
    await seal(machine, 7)
    state = await machine.until_active(WEB, 7)
    assert state.error == ""
    assert delivered(machine) == {"db.pw": 7}


async def test_a_restart_brings_another_version_and_a_secret_that_is_named_no_longer_goes(
    machine: MachineUnderTest,
) -> None:
    await seal(machine, 3, 7)
    await seal(machine, 2, name="tls")
    await machine.start()
    await machine.place(WEB, 7, secrets=(SecretRef("db.pw", 3), SecretRef("tls", 2)))
    await machine.until_active(WEB, 7)
    await machine.place(WEB, 8, secrets=(SecretRef("db.pw", 7),))
    await machine.until_active(WEB, 8)
    assert delivered(machine) == {"db.pw": 7}
    await machine.place(WEB, 9)
    await machine.until_active(WEB, 9)
    assert delivered(machine) == {}


async def test_they_stay_over_a_restart_of_fleetd_and_go_with_the_unit(machine: MachineUnderTest) -> None:
    await seal(machine, 7)
    await machine.start()
    await machine.place(WEB, 7, secrets=(SecretRef("db.pw", 7),))
    await machine.until_active(WEB, 7)
    await machine.stop()
    assert delivered(machine) == {"db.pw": 7}
    await machine.start()
    await machine.withdraw(WEB, 8)
    await machine.until(lambda states: states[WEB].generation == 8)
    assert delivered(machine) == {}
    assert list((machine.directory / "credentials").iterdir()) == []


async def test_a_damaged_file_is_written_anew(machine: MachineUnderTest) -> None:
    await seal(machine, 7)
    await machine.start()
    await machine.place(WEB, 7, secrets=(SecretRef("db.pw", 7),))
    await machine.until_active(WEB, 7)
    (machine.directory / "credentials" / WEB / "db.pw").write_bytes(b"junk")
    await machine.place(WEB, 8, secrets=(SecretRef("db.pw", 7),))
    await machine.until_active(WEB, 8)
    assert delivered(machine) == {"db.pw": 7}


async def test_a_machine_with_a_new_key_gives_units_what_is_sealed_to_that_one_alone(machine: MachineUnderTest) -> None:
    await seal(machine, 7)
    await machine.start()
    await machine.place(WEB, 7, secrets=(SecretRef("db.pw", 7),))
    await machine.until_active(WEB, 7)
    machine.seal_key = "new"
    await machine.place(WEB, 8, secrets=(SecretRef("db.pw", 7),))
    states = await machine.until(lambda states: bool(states[WEB].error))
    assert states[WEB].error == "not started: version 7 of the secret db.pw is not sealed for this machine yet"
    await seal(machine, 7, key="new")
    await machine.until_active(WEB, 8)
    file = machine.directory / "credentials" / WEB / "db.pw"
    assert msgspec.json.decode(file.read_bytes(), type=Delivered).recipient == "new"


async def test_a_unit_waits_until_its_machine_can_open_secrets(machine: MachineUnderTest) -> None:
    machine.seal_key = ""
    await seal(machine, 7)
    await machine.start()
    await machine.place(WEB, 7, secrets=(SecretRef("db.pw", 7),))
    await machine.place("other.service", 8)
    states = await machine.until(lambda states: WEB in states and bool(states[WEB].error))
    assert states[WEB].error == "not started: this machine cannot open secrets yet (the log of its fleetd says why)"
    await machine.until_active("other.service", 8)
    machine.seal_key = "k"
    await machine.until_active(WEB, 7)


async def test_the_store_is_not_asked_where_no_unit_has_a_secret(machine: MachineUnderTest) -> None:
    await machine.start()
    await machine.place(WEB, 7)
    await machine.until_active(WEB, 7)
    assert not (machine.directory / "credentials").exists()
