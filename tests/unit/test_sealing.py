"""Secrets are sealed to machines by a process of its own, and given to nobody else."""

import base64
import logging
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from fleetd.trust import sealing
from fleetd.trust.sealing import CannotOpen, encrypt, make_seal_key, open_key, open_value, public_half, read_seal_key
from fleetd.trust.sealing_process import Sealing, SealingFailed, ask_process
from fleetd.trust.sealing_wire import Answer, Encrypt, MakeKey, Request, Sealed, Share, ShareAll

ONE, OTHER = X25519PrivateKey.generate(), X25519PrivateKey.generate()


@given(value=st.binary(max_size=200), version=st.integers(1, 2**62), name=st.text(max_size=20))
def test_only_whom_it_is_sealed_to_opens_it_and_as_what_it_was_sealed_alone(
    value: bytes, version: int, name: str
) -> None:
    mine = public_half(ONE)
    sealed = encrypt(name, version, value, [mine])
    assert open_value(ONE, name, version, sealed.keys[mine], sealed.box) == value
    for key, other_name, other_version in (
        (OTHER, name, version),
        (ONE, name + "x", version),
        (ONE, name, version + 1),
    ):
        with pytest.raises(CannotOpen):
            open_value(key, other_name, other_version, sealed.keys[mine], sealed.box)


@given(at=st.integers(0, 1000), flip=st.integers(1, 255))
def test_a_changed_bit_is_noticed(at: int, flip: int) -> None:
    sealed = encrypt("a", 1, b"value", [public_half(ONE)])
    key, box = sealed.keys[public_half(ONE)], sealed.box
    damaged = bytearray(key + box)
    damaged[at % len(damaged)] ^= flip
    # The highest bit of an X25519 key means nothing.
    if damaged[31] ^ key[31] != 0x80:
        with pytest.raises(CannotOpen):
            open_value(ONE, "a", 1, bytes(damaged[: len(key)]), bytes(damaged[len(key) :]))


@pytest.mark.parametrize("sealed", [b"", b"x" * 31, b"\0" * 80, b"x" * 80])
def test_what_is_no_sealed_key_is_refused(sealed: bytes) -> None:
    with pytest.raises(CannotOpen, match="version 3 of the secret a is not sealed to this machine's key"):
        open_key(ONE, "a", 3, sealed)


def test_a_box_without_its_end_is_damaged() -> None:
    sealed = encrypt("a", 1, b"value", [public_half(ONE)])
    with pytest.raises(CannotOpen, match="version 1 of the secret a is damaged"):
        open_value(ONE, "a", 1, sealed.keys[public_half(ONE)], b"")


def test_what_is_no_public_key_is_passed_over() -> None:
    junk = ["", "?", base64.b64encode(b"short").decode(), base64.b64encode(bytes(32)).decode()]
    assert list(encrypt("a", 1, b"v", [*junk, public_half(ONE)]).keys) == [public_half(ONE)]


def test_a_key_is_made_once_and_only_root_reads_it(tmp_path: Path) -> None:
    path = tmp_path / "trust" / "seal.key"
    public = make_seal_key(path).public
    assert make_seal_key(path).public == public == public_half(read_seal_key(path))
    assert path.with_suffix(".pub").read_text() == public
    assert (path.stat().st_mode & 0o777, path.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    path.write_bytes(b"junk")
    with pytest.raises(ValueError, match=r"seal\.key holds no key: remove it and restart fleetd"):
        read_seal_key(path)


def test_a_process_makes_keys_encrypts_and_seals_for_others(tmp_path: Path) -> None:
    path = tmp_path / "seal.key"
    (made,) = sealing.answer(MakeKey(str(path))).sealed
    (sealed,) = sealing.answer(Encrypt("a", 1, b"value", (made.public,))).sealed
    items = (Share("a", 1, sealed.keys[made.public], (public_half(ONE),)), Share("b", 1, b"junk", (public_half(ONE),)))
    shared, failed = sealing.answer(ShareAll(str(path), items)).sealed
    assert open_value(ONE, "a", 1, shared.keys[public_half(ONE)], sealed.box) == b"value"
    assert failed.keys == {}
    assert failed.error == "version 1 of the secret b is not sealed to this machine's key"


async def test_the_daemon_has_a_process_do_it_and_keeps_nothing_of_it(tmp_path: Path) -> None:
    machine = Sealing(tmp_path)
    assert machine.find_public() == ""
    public = await machine.make_key()
    assert machine.find_public() == public
    sealed = await machine.encrypt("a", 1, b"\0value", [public])
    (shared,) = await machine.share([Share("a", 1, sealed.keys[public], (public_half(ONE),))])
    assert open_value(ONE, "a", 1, shared.keys[public_half(ONE)], sealed.box) == b"\0value"
    (tmp_path / "seal.key").write_bytes(b"junk")
    with pytest.raises(SealingFailed, match="holds no key"):
        await machine.share([])


async def test_a_key_that_a_tpm_may_open_is_to_be_tried(tmp_path: Path) -> None:
    tpms = tmp_path / "tpmrm"
    machine = Sealing(tmp_path, tpms=tpms)
    assert not machine.may_be_bound()
    tpms.mkdir()
    assert not machine.may_be_bound()
    (tpms / "tpmrm0").mkdir()
    assert machine.may_be_bound()
    assert not Sealing(tmp_path).may_be_bound()
    (tmp_path / "seal.pub").write_text("public\n")
    assert machine.find_public() == ""
    (tmp_path / "seal.cred").write_text("credential")
    assert machine.find_public() == "public"
    assert Sealing(tmp_path).may_be_bound()


@pytest.mark.parametrize(
    ("made", "level", "said"),
    [
        (Sealed(public="k"), 0, ""),
        (Sealed(public="k", bound=True), logging.INFO, "the key for secrets is bound to the TPM of this machine"),
        (Sealed(public="k", bound=True, warning="it is lost"), logging.WARNING, "it is lost"),
    ],
)
async def test_what_became_of_the_key_is_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, made: Sealed, level: int, said: str
) -> None:
    async def ask(request: Request) -> Answer:
        return Answer((made,))

    caplog.set_level(logging.INFO, "fleetd.trust.sealing_process")
    (tmp_path / "seal.cred").write_text("credential")
    machine = Sealing(tmp_path, ask)
    assert machine.awaits_tpm()
    assert await machine.make_key() == "k"
    assert not machine.awaits_tpm()
    assert [(record.levelno, record.message) for record in caplog.records] == ([(level, said)] if said else [])


async def test_a_process_that_cannot_be_started_or_says_nothing_is_named(tmp_path: Path) -> None:
    with pytest.raises(SealingFailed, match="cannot start /nowhere: No such file"):
        await ask_process(MakeKey(str(tmp_path)), ("/nowhere",))
    with pytest.raises(SealingFailed, match="ended with 1"):
        await ask_process(MakeKey(str(tmp_path)), ("/bin/false",))
    with pytest.raises(SealingFailed, match="answered no JSON"):
        await ask_process(MakeKey(str(tmp_path)), ("/bin/true",))
    with pytest.raises(SealingFailed, match=r"did not answer within 0\.1 s"):
        await ask_process(MakeKey(str(tmp_path)), ("/bin/sleep", "60"), timeout_s=0.1)
    with pytest.raises(SealingFailed, match="Is a directory"):
        await ask_process(MakeKey(str(tmp_path)))


async def test_the_daemon_has_no_cryptography_in_memory() -> None:
    import asyncio

    code = "import sys, fleetd.process.daemon, fleetd.trust.sealing_process; print('cryptography' in sys.modules)"
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", code, stdout=asyncio.subprocess.PIPE)
    assert (await process.communicate())[0] == b"False\n"


async def test_a_double_answers_as_the_process_does(tmp_path: Path) -> None:
    async def ask(request: MakeKey | Encrypt | ShareAll) -> Answer:
        return sealing.answer(request)

    machine = Sealing(tmp_path, ask)
    assert machine.find_public() == ""
    assert await machine.make_key() == machine.find_public() != ""
