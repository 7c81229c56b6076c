"""The key that opens secrets is bound to the TPM of its machine: with systemd-creds and a TPM in software."""

import shlex
import shutil
import threading
from pathlib import Path

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from fleetd.trust.credentials import Refused, find_value
from fleetd.trust.credentials_wire import Delivered
from fleetd.trust.sealing import answer, encrypt, make_seal_key, public_half, read_seal_key
from fleetd.trust.sealing_wire import Encrypt, MakeKey, Share, ShareAll
from fleetd.trust.tpm import Tpm, TpmFailed
from tests import software_tpm
from tests.requirements import require

# A TPM that systemd-creds finds, and cannot use: as where the libraries for it are not installed.
USELESS = ("sh", "-c", 'case "$*" in *has-tpm2*) ;; *) echo "TPM2 support is not installed." >&2; exit 1;; esac', "sh")


class MachineWithTpm:
    """A machine with a folder for its key, and with a TPM or without."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.chip = directory / "tpm"
        self.key = directory / "trust" / "seal.key"
        self.bound = self.key.with_suffix(".cred")
        self.lost = self.key.with_suffix(".cred.lost")

    def insert_tpm(self) -> None:
        """Give it another TPM. To clear the one that there is makes it another one, too."""
        shutil.rmtree(self.chip, ignore_errors=True)
        self.chip.mkdir()

    def tpm(self, script: str = "") -> Tpm:
        """The TPM, as a process finds it that starts now. A shell script runs before each call, with its arguments."""
        command = software_tpm.command(self.chip)
        if script:
            command = ("sh", "-c", f'{script}\nexec {shlex.join(command)} "$@"', "sh")
        return Tpm(command, timeout_s=60.0)

    def files(self) -> set[str]:
        return {path.name for path in self.key.parent.iterdir()}


@pytest.fixture
def machine(tmp_path: Path) -> MachineWithTpm:
    require(software_tpm.missing(), "runs systemd-creds with a TPM in software")
    found = MachineWithTpm(tmp_path)
    found.insert_tpm()
    return found


def test_a_key_is_made_for_the_tpm_and_no_file_has_it(machine: MachineWithTpm) -> None:
    made = make_seal_key(machine.key, machine.tpm())
    assert (made.bound, made.warning) == (True, "")
    assert machine.files() == {"seal.cred", "seal.pub"}
    assert machine.bound.stat().st_mode & 0o777 == 0o600
    key = read_seal_key(machine.key, machine.tpm())
    assert public_half(key) == made.public == (machine.key.parent / "seal.pub").read_text()
    assert make_seal_key(machine.key, machine.tpm()) == made


def test_a_process_seals_for_others_with_a_key_that_the_tpm_opens(machine: MachineWithTpm) -> None:
    other = public_half(X25519PrivateKey.generate())
    (made,) = answer(MakeKey(str(machine.key)), machine.tpm()).sealed
    (sealed,) = answer(Encrypt("a", 1, b"value", (made.public,))).sealed
    items = (Share("a", 1, sealed.keys[made.public], (other,)),)
    (shared,) = answer(ShareAll(str(machine.key), items), machine.tpm()).sealed
    assert set(shared.keys) == {other}


def test_a_key_in_a_file_is_moved_to_the_tpm_once_there_is_one(machine: MachineWithTpm) -> None:
    machine.chip.rmdir()
    made = make_seal_key(machine.key, machine.tpm())
    assert (made.bound, made.warning, machine.files()) == (False, "", {"seal.key", "seal.pub"})
    machine.insert_tpm()
    moved = make_seal_key(machine.key, machine.tpm())
    assert (moved.public, moved.bound, machine.files()) == (made.public, True, {"seal.cred", "seal.pub"})
    assert public_half(read_seal_key(machine.key, machine.tpm())) == made.public


def test_a_move_that_was_interrupted_is_finished(machine: MachineWithTpm) -> None:
    made = make_seal_key(machine.key)
    content = machine.key.read_bytes()
    make_seal_key(machine.key, machine.tpm())
    machine.key.write_bytes(content)
    assert public_half(read_seal_key(machine.key, machine.tpm())) == made.public
    assert make_seal_key(machine.key, machine.tpm()).public == made.public
    assert machine.files() == {"seal.cred", "seal.pub"}


def test_a_cleared_tpm_makes_a_new_key_and_it_is_said_in_words(machine: MachineWithTpm) -> None:
    former = make_seal_key(machine.key, machine.tpm())
    credential = machine.bound.read_bytes()
    machine.insert_tpm()
    with pytest.raises(TpmFailed, match=r"the TPM of this machine does not open .*seal\.cred: .*integrity check"):
        read_seal_key(machine.key, machine.tpm())
    made = make_seal_key(machine.key, machine.tpm())
    assert made.bound
    assert made.public != former.public
    assert made.warning.startswith("the key for secrets is lost, and there is a new one: the TPM of this machine does ")
    assert made.warning.endswith("those that no other server can open have to be set again")
    assert public_half(read_seal_key(machine.key, machine.tpm())) == made.public
    assert machine.lost.read_bytes() == credential
    assert make_seal_key(machine.key, machine.tpm()).warning == "", "it is said once"


def test_a_damaged_credential_is_replaced_too(machine: MachineWithTpm) -> None:
    former = make_seal_key(machine.key, machine.tpm())
    machine.bound.write_bytes(b"junk")
    made = make_seal_key(machine.key, machine.tpm())
    assert made.public != former.public
    assert "or the file is damaged" in made.warning


def test_a_key_is_kept_as_long_as_its_tpm_cannot_be_asked(machine: MachineWithTpm) -> None:
    made = make_seal_key(machine.key, machine.tpm())
    away = machine.chip.rename(machine.directory / "away")
    with pytest.raises(TpmFailed, match=r"seal\.cred.*; systemd-creds has-tpm2 finds no TPM to use"):
        make_seal_key(machine.key, machine.tpm())
    with pytest.raises(TpmFailed, match=r"seal\.cred: /nowhere is not installed; systemd-creds has-tpm2 finds no TPM"):
        make_seal_key(machine.key, Tpm(("/nowhere",)))
    with pytest.raises(TpmFailed, match="TPM2 support is not installed"):
        make_seal_key(machine.key, Tpm(USELESS))
    with pytest.raises(TpmFailed, match="no TPM is used here"):
        read_seal_key(machine.key)
    assert machine.files() == {"seal.cred", "seal.pub"}
    away.rename(machine.chip)
    assert make_seal_key(machine.key, machine.tpm()) == made


def test_a_tpm_that_fails_once_loses_no_key(machine: MachineWithTpm) -> None:
    made = make_seal_key(machine.key, machine.tpm())
    marker = machine.directory / "failed"
    fails_once = f'case "$*" in *decrypt*) [ -e {marker} ] || {{ touch {marker}; echo busy >&2; exit 1; }} ;; esac'
    assert make_seal_key(machine.key, machine.tpm(fails_once)) == made
    assert marker.exists()
    assert not machine.lost.exists()


def test_a_tpm_that_cannot_be_used_leaves_the_key_in_its_file_with_a_warning(tmp_path: Path) -> None:
    path = tmp_path / "seal.key"
    made = make_seal_key(path, Tpm(USELESS))
    assert not made.bound
    assert made.warning == (
        f"the key for secrets is not bound to the TPM of this machine, but in the file {path}: "
        "TPM2 support is not installed."
    )
    assert make_seal_key(path, Tpm(USELESS)) == made
    assert public_half(read_seal_key(path, Tpm(USELESS))) == made.public


@pytest.mark.parametrize("command", [("/nowhere",), ("/bin/false",), ("/",)])
def test_without_systemd_creds_or_a_tpm_the_key_is_in_a_file(tmp_path: Path, command: tuple[str, ...]) -> None:
    made = make_seal_key(tmp_path / "seal.key", Tpm(command))
    assert (made.bound, made.warning) == (False, "")
    assert (tmp_path / "seal.key").stat().st_mode & 0o777 == 0o600


def test_what_a_tpm_does_not_give_back_is_not_relied_on(tmp_path: Path) -> None:
    forgets = Tpm(("sh", "-c", 'case "$*" in *crypt*) cat >/dev/null; echo junk;; esac', "sh"))
    made = make_seal_key(tmp_path / "seal.key", forgets)
    assert not made.bound
    assert made.warning.endswith("sh did not give back what it was given")


def test_a_tpm_that_does_not_answer_is_given_up() -> None:
    with pytest.raises(TpmFailed, match=r"sh did not answer within 0\.1 s"):
        Tpm(("sh", "-c", "exec sleep 60"), timeout_s=0.1).open("a", b"")


def test_units_that_start_at_once_ask_the_tpm_once(machine: MachineWithTpm) -> None:
    made = make_seal_key(machine.key, machine.tpm())
    sealed = encrypt("db.pw", 7, b"value", [made.public])
    (machine.directory / "a.service").mkdir()
    delivered = Delivered(7, sealed.keys[made.public], sealed.box)
    (machine.directory / "a.service" / "db.pw").write_bytes(msgspec.json.encode(delivered))
    calls = machine.directory / "calls"
    tpm = machine.tpm(f'echo "$@" >> {calls}')
    found: list[tuple[bytes, int]] = []

    def ask() -> None:
        found.append(find_value("a.service", "db.pw", machine.directory, machine.key, tpm))

    threads = [threading.Thread(target=ask) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60.0)
    assert found == [(b"value", 7)] * 20
    assert len(calls.read_text().splitlines()) == 1
    machine.insert_tpm()
    make_seal_key(machine.key, machine.tpm())
    with pytest.raises(Refused, match=r"version 7 of the secret db\.pw is not sealed to this machine's key"):
        find_value("a.service", "db.pw", machine.directory, machine.key, tpm)
    machine.chip.rename(machine.directory / "away")
    with pytest.raises(Refused, match=r"cannot open the secret db\.pw: the TPM of this machine does not open"):
        find_value("a.service", "db.pw", machine.directory, machine.key, machine.tpm())
