"""What a worker may read and write."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleetd.model.machine import Capability, Machine, MachineMode
from fleetd.model.machine_identity import MachineIdentity
from fleetd.model.worker_access import (
    Selection,
    WorkerAccess,
    find_access,
    owner_of,
    owner_of_request,
    record_of_worker,
)
from fleetd.registry.records import (
    MACHINES,
    PLACEMENTS,
    REBOOT_REQUESTS,
    REBOOTS,
    SETTINGS,
    STATES,
    SYNCED,
    KeySpace,
)

OWN, OTHER = "ab12", "ab123"  # the one id begins with the other
KEYS = KeySpace("/fleet/")
ACCESS = find_access(KEYS.prefix, OWN)
UNIT = "web.service"

READABLE = (
    KEYS.history_key,
    KEYS.identity_key,
    *(KEYS.key(kind, OWN) for kind in (MACHINES, SYNCED, SETTINGS, REBOOTS, REBOOT_REQUESTS)),
    *(KEYS.key(kind, OWN, UNIT) for kind in (PLACEMENTS, STATES)),
    f"/fleet/sealed-secrets/{OWN}/db.pw",
    "/fleet/trust/authorities/1",
    "/fleet/trust/revocations/7",
    f"/fleet/services/web/{OTHER}/{UNIT}",
    KEYS.request_key(OWN, "r1"),
)
UNREADABLE = (
    "",
    "/",
    "/fleet",
    "/fleet/",
    "/fleet/units/web.service",
    "/fleet/decisions/web.service",
    "/fleet/leader",
    "/fleet/leases/7",
    "/fleet/secrets/db.pw",
    "/fleet/trust/tokens/x",
    "/fleet/trust/authorities",
    "/fleet/trust/revocationsx/1",
    f"/fleet/trust/machines/{OWN}",
    "/fleet-authority/1",
    "/fleet-locks/backup/1f",
    "/fleet-lock-state/names/backup",
    KEYS.lock_epoch_key,
    KEYS.request_key(OTHER, "r1"),
    KEYS.answer_key("r1", OWN),
    f"/fleet-requests/{OWN}",
    f"/fleet/machines/{OTHER}",
    f"/fleet/machines/{OWN}/",
    f"/fleet/machines/{OWN}\0",
    f"/fleet/machines/{OWN[:-1]}",
    f"/fleet/machines/{OWN}/../{OTHER}",
    f"/fleet/machines//{OWN}",
    f"/fleet/placements/{OTHER}/{UNIT}",
    f"/fleet/placements/{OWN}",
    f"/fleet/placements//{OWN}/{UNIT}",
    f"/fleet/states/{OTHER}/{UNIT}",
    f"/fleet/states/../states/{OWN}/{UNIT}",
    f"/fleet/historyx/{OWN}/",
    f"/fleet/history/{OWN}",
    f"/FLEET/machines/{OWN}",
    f"/fleet2/machines/{OWN}",
    f"fleet/machines/{OWN}",
)


@pytest.mark.parametrize("key", READABLE)
def test_a_worker_reads_what_is_of_its_machine(key: str) -> None:
    assert ACCESS.may_read(key)
    assert ACCESS.select(key) in (Selection((key,), ()), Selection((), (key,)))


@pytest.mark.parametrize("key", UNREADABLE)
def test_a_worker_reads_nothing_else(key: str) -> None:
    assert not ACCESS.may_read(key)


@pytest.mark.parametrize(
    ("prefix", "keys", "prefixes"),
    [
        ("", len(ACCESS.readable.keys), len(ACCESS.readable.prefixes)),
        ("/fleet/", len(ACCESS.readable.keys), len(ACCESS.readable.prefixes) - 1),
        ("/fleet-requests/", 0, 1),
        (f"/fleet-requests/{OTHER}/", 0, 0),
        ("/fleet/s", 2, 3),
        ("/fleet/services/web/", 0, 1),
        ("/fleet/placements/", 0, 1),
        (f"/fleet/placements/{OWN}", 0, 1),
        (f"/fleet/placements/{OWN}/web", 0, 1),
        (f"/fleet/placements/{OTHER}", 0, 0),
        ("/fleet/placements/x", 0, 0),
        ("/fleet/units/", 0, 0),
        ("/fleet/trust/", 0, 2),
        ("/fleet/trust/revocations/", 0, 1),
        (f"/fleet/machines/{OWN}/", 0, 0),
    ],
)
def test_a_prefix_is_answered_with_the_own_part(prefix: str, keys: int, prefixes: int) -> None:
    found = ACCESS.select(prefix)
    assert (len(found.keys), len(found.prefixes)) == (keys, prefixes)


@pytest.mark.parametrize(
    ("key", "lease", "cause"),
    [
        (f"/fleet/machines/{OWN}", 7, ""),
        (f"/fleet/states/{OWN}/{UNIT}", 7, ""),
        (f"/fleet/machines/{OWN}", 0, "on its lease only"),
        (f"/fleet/states/{OWN}/{UNIT}", 0, "on its lease only"),
        (f"/fleet/states/{OWN}/", 7, "cannot be empty"),
        (f"/fleet/states/{OWN}/a/{UNIT}", 7, "invalid character"),
        (f"/fleet/states/{OWN}/a\0b.service", 7, "invalid character"),
        (f"/fleet/states/{OWN}/../x.service", 7, "invalid character"),
        (f"/fleet/states/{OWN}/{'x' * 300}.service", 7, "maximum length"),
        (f"/fleet/states/{OTHER}/{UNIT}", 7, "only its own machine"),
        (f"/fleet/machines/{OTHER}", 7, "only its own machine"),
        (f"/fleet/machines/{OWN}/", 7, "only its own machine"),
        (f"/fleet/placements/{OWN}/{UNIT}", 7, "only its own machine"),
        (f"/fleet/synced/{OWN}", 7, "only its own machine"),
        (f"/fleet/settings/{OWN}", 7, "only its own machine"),
        ("/fleet/history", 7, "only its own machine"),
        ("/fleet/trust/revocations/7", 7, "only its own machine"),
        ("/fleet/leases/7", 7, "only its own machine"),
        (f"/fleet/trust/machines/{OWN}", 7, "only its own machine"),
        (f"/fleet-answers/r1/{OWN}", 7, ""),
        (f"/fleet-answers/r1/{OWN}", 0, "on its lease only"),
        (f"/fleet-answers/r1/{OTHER}", 7, "only its own machine"),
        (f"/fleet-answers//{OWN}", 7, "only its own machine"),
        (f"/fleet-answers/{OWN}", 7, "only its own machine"),
        (f"/fleet-answers/r1/x/{OWN}", 7, "only its own machine"),
        (f"/fleet-requests/{OWN}/r1", 7, "only its own machine"),
        (f"/fleet/services/web/{OWN}/{UNIT}", 0, ""),
        (f"/fleet/services/web/{OWN}/{UNIT}", 7, "on no lease"),
        (f"/fleet/services/web/{OTHER}/{UNIT}", 0, "only its own machine"),
        (f"/fleet/services/web/{OWN}/{UNIT}/x", 0, "only its own machine"),
        (f"/fleet/services/web/{OWN}/", 0, "only its own machine"),
        (f"/fleet/services/{OWN}", 0, "only its own machine"),
    ],
)
def test_a_worker_writes_its_machine_and_states_on_a_lease(key: str, lease: int, cause: str) -> None:
    refusal = ACCESS.refuse_put(key, lease)
    assert (cause in refusal) if cause else not refusal


def test_a_worker_deletes_states_whatever_their_names() -> None:
    assert not ACCESS.refuse_delete(f"/fleet/states/{OWN}/a/b")
    assert ACCESS.refuse_delete(f"/fleet/states/{OTHER}/{UNIT}")


def test_an_answer_belongs_to_the_request_of_the_same_id() -> None:
    assert ACCESS.request_of(KEYS.answer_key("r1", OWN)) == KEYS.request_key(OWN, "r1")


@pytest.mark.parametrize(
    ("key", "owner"),
    [(f"/fleet-requests/{OWN}/r1", OWN), (f"/fleet-requests/{OWN}", OWN), ("/fleet-requests//r1", "-")],
)
def test_the_owner_of_a_request_is_its_first_part(key: str, owner: str) -> None:
    assert owner_of_request(KEYS.requests_prefix, key) == owner


@pytest.mark.parametrize("machine", ["", "/", "a/b", "..", "a\0", "a\n", "-", "é", "x" * 65, "*"])
def test_no_access_is_for_what_is_no_id_of_a_machine(machine: str) -> None:
    with pytest.raises(ValueError, match="is not the id of a machine"):
        find_access("/fleet/", machine)


@pytest.mark.parametrize(
    ("key", "owner"),
    [
        (f"/fleet/machines/{OWN}", OWN),
        (f"/fleet/states/{OWN}/{UNIT}", OWN),
        ("/fleet/history", ""),
        ("/fleet/units/a.service", "a.service"),
        ("/fleet/trust/revocations/7", ""),
        (f"/fleet/services/web/{OWN}/{UNIT}", ""),
        (f"/fleet/trust/machines/{OWN}", "machines"),
    ],
)
def test_the_owner_of_a_key_is_its_second_part(key: str, owner: str) -> None:
    assert owner_of("/fleet/", key) == owner


_LATER = (
    Capability.ANSWERS,
    Capability.ANNOUNCEMENTS,
    Capability.ISOLATION,
    Capability.DOWNLOADS,
)  # there were workers before


def test_what_a_worker_says_of_itself_does_not_decide() -> None:
    """Every field is either what was recorded, or about the worker alone."""
    said = Machine(
        OWN,
        session="s",
        address="10.0.0.66",
        metadata={"role": "db"},
        version="1.0",
        boot_id="b",
        mode=MachineMode.LEAVING,
        shuts_down=True,
        capabilities={"GPGPU": True, Capability.MOVES: False},
        configured={"reboot_slots": "9"},
        reboot_required="kernel",
        etcd_member="1f",
        since=1.0,
        host_keys=("ssh-ed25519 EVIL",),
        https="10.0.0.66:7443",
        certificate_expires_s=2.0,
        seal_key="own",
    )
    recorded = MachineIdentity("worker", "10.0.0.7", {"zone": "a"}, ("ssh-ed25519 GOOD",), 1.0, "ann")
    found = record_of_worker(said, recorded)
    changed = {name for name in Machine.__struct_fields__ if getattr(found, name) != getattr(said, name)}
    assert changed == {"address", "metadata", "host_keys", "capabilities", "configured", "etcd_member", "https"} | {
        "is_worker"
    }
    assert found.is_worker
    assert (found.address, found.metadata, found.host_keys) == ("10.0.0.7", {"zone": "a"}, ("ssh-ed25519 GOOD",))
    assert (found.configured, found.etcd_member, found.https) == ({}, "", "")
    assert found.capabilities == {
        "GPGPU": True,
        **{str(each): True for each in Capability if each not in _LATER},
    }


# Properties

words = st.sampled_from(
    f"/ // . .. \0 * {OWN} {OTHER} {OWN[:2]} fleet fleet-authority machines states synced placements sealed-secrets "
    f"secrets services units history cluster leases trust authorities revocations fleet-requests fleet-answers {UNIT} "
    "é \U0010ffff".split(" ")
)
keys = st.one_of(
    st.lists(words, max_size=6).map("".join),
    st.lists(words | st.just(""), max_size=5).map("/".join).map("/fleet/".__add__),
    st.sampled_from([*READABLE, *UNREADABLE]),
)


def is_own(key: str) -> bool:
    """Whether a key is of the machine, said in another way than the function under test says it."""
    parts = key.split("/")
    if parts[:2] == ["", "fleet-requests"]:
        return len(parts) > 3 and parts[2] == OWN
    if parts[:2] != ["", "fleet"]:
        return False
    match parts[2:]:
        case ["history"] | ["cluster"]:
            return True
        case ["machines" | "synced" | "settings" | "reboots" | "reboot-requests", machine]:
            return machine == OWN
        case ["placements" | "states" | "sealed-secrets", machine, _, *_]:
            return machine == OWN
        case ["trust", "authorities" | "revocations", _, *_] | ["services", _, *_]:
            return True  # public
    return False


@given(keys)
def test_what_may_be_read_is_the_machines_own(key: str) -> None:
    assert ACCESS.may_read(key) == is_own(key)


@given(keys, st.sets(keys))
def test_a_selection_has_each_own_key_below_the_prefix_once_and_no_other(prefix: str, stored: set[str]) -> None:
    found = ACCESS.select(prefix)
    read = [key for key in stored if key in found.keys]
    read += [key for own in found.prefixes for key in stored if key.startswith(own)]
    assert sorted(read) == sorted(key for key in stored if key.startswith(prefix) and is_own(key))


@given(keys, st.integers(0, 3))
def test_what_may_be_written_is_the_machines_own_and_readable(key: str, lease: int) -> None:
    if not ACCESS.refuse_put(key, lease):
        assert bool(lease) is not key.startswith("/fleet/services/")
        assert not ACCESS.refuse_delete(key)
    if not ACCESS.refuse_delete(key) and key.startswith("/fleet-answers/"):
        assert key.split("/")[3:] == [OWN]
    elif not ACCESS.refuse_delete(key):
        assert is_own(key)
        assert key.split("/")[2] in ("machines", "states", "services")
        assert ACCESS.may_read(key)


@given(st.text(max_size=8), keys)
def test_two_machines_write_no_key_in_common(machine: str, key: str) -> None:
    try:
        other: WorkerAccess = find_access(KEYS.prefix, machine)
    except ValueError:
        return
    if machine != OWN:
        assert other.refuse_delete(key) or ACCESS.refuse_delete(key)
