"""The host keys of a machine: which files sshd names, and what of them is a public key."""

import base64
import os
import struct
from pathlib import Path

import pytest

from fleetd.model.host_keys import MAX_KEYS, MAX_LENGTH, SshdFiles, decode_key, parse_public_keys, read_sshd_config
from fleetd.model.machine import Machine
from fleetd.process.host_keys import HostKeys
from fleetd.registry.records import MACHINES
from fleetd.registry.snapshots import apply_record
from fleetd.scheduler.snapshot import Snapshot


def make_key(kind: str = "ssh-ed25519", data: bytes = b"k" * 32) -> str:
    """A public key as OpenSSH writes it, without its comment."""
    name = kind.encode()
    blob = struct.pack(">I", len(name)) + name + struct.pack(">I", len(data)) + data
    return f"{kind} {base64.b64encode(blob).decode()}"


ED25519, RSA = make_key(), make_key("ssh-rsa", b"n" * 400)
LARGEST_RSA = make_key("ssh-rsa", b"n" * 2048 + b"e" * 8)
TOO_LARGE = make_key("ssh-rsa", b"n" * MAX_LENGTH)


@pytest.mark.parametrize(
    ("texts", "keys"),
    [
        ((), ()),
        ((f"{ED25519} root@here\n", RSA), (ED25519, RSA)),
        ((f"# a comment\n\n {ED25519}\r\n{ED25519} again",), (ED25519,)),
        ((make_key("sk-ssh-ed25519@openssh.com"),), (make_key("sk-ssh-ed25519@openssh.com"),)),
        ((LARGEST_RSA,), (LARGEST_RSA,)),
        ((TOO_LARGE,), ()),
        (("ssh-ed25519", "ssh-ed25519 AAA", "ssh-ed25519 ====", "ssh-ed25519 \xe9"), ()),
        ((ED25519.replace("ssh-ed25519", "ssh-rsa"),), ()),
        ((ED25519[:-20],), (ED25519[:-20],) if len(ED25519[:-20].split()[1]) % 4 == 0 else ()),
        ((f"ssh-ed25519 {base64.b64encode(struct.pack('>I', 11) + b'ssh-ed25519').decode()}",), ()),
        ((make_key("UPPER"), make_key("a\x1b[31m"), make_key("x" * 65)), ()),
        (("-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXktdjE=\n",), ()),
    ],
)
def test_only_lines_of_public_keys_count(texts: tuple[str, ...], keys: tuple[str, ...]) -> None:
    assert parse_public_keys(texts) == keys


def test_a_machine_has_a_bounded_number_of_keys() -> None:
    many = [make_key(data=bytes([number]) * 32) for number in range(MAX_KEYS + 3)]
    assert parse_public_keys(["\n".join(many)]) == tuple(many[:MAX_KEYS])


def test_a_key_is_refused_with_the_reason() -> None:
    with pytest.raises(ValueError, match="the key is not base64"):
        decode_key("ssh-rsa", "=")
    with pytest.raises(ValueError, match="the key is not of the kind ssh-rsa"):
        decode_key("ssh-rsa", ED25519.split()[1])


@pytest.mark.parametrize(
    ("text", "keys", "includes"),
    [
        ("", (), ()),
        ("#HostKey /etc/ssh/a\n\nPort 22\nUsePAM\n", (), ()),
        (
            'HostKey /etc/ssh/a\nhostkey=/b\nHOSTKEY = /c # why\n\tHostKey "/d e"\n',
            ("/etc/ssh/a", "/b", "/c", "/d e"),
            (),
        ),
        ("HostKey\nInclude\n", (), ()),
        (
            "Include /etc/ssh/sshd_config.d/*.conf more\nHostKey /a\n",
            ("/a",),
            ("/etc/ssh/sshd_config.d/*.conf", "more"),
        ),
        ("HostKey /a\nMatch User x\nHostKey /b\nInclude c\n", ("/a",), ()),
    ],
)
def test_sshd_config_names_files_before_the_first_match(
    text: str, keys: tuple[str, ...], includes: tuple[str, ...]
) -> None:
    assert read_sshd_config(text) == SshdFiles(keys, includes)


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_without_hostkey_the_usual_files_count_and_private_keys_do_not(tmp_path: Path) -> None:
    assert HostKeys(tmp_path / "none").find() == ()
    write(tmp_path / "ssh_host_rsa_key.pub", f"{RSA} root@here\n")
    write(tmp_path / "ssh_host_ed25519_key.pub", f"{ED25519} root@here\n")
    write(tmp_path / "ssh_host_ed25519_key", make_key(data=b"private"))
    write(tmp_path / "sshd_config", "Include sshd_config.d/*.conf\n#HostKey /x\n")
    assert HostKeys(tmp_path).find() == (ED25519, RSA)


def test_files_that_sshd_config_names_count_alone(tmp_path: Path) -> None:
    write(tmp_path / "ssh_host_rsa_key.pub", RSA)
    write(tmp_path / "keys/own.pub", ED25519)
    write(tmp_path / "agent.pub", make_key(data=b"a" * 32))
    write(tmp_path / "sshd_config", "Include sshd_config.d/*.conf\nHostKey agent.pub\nHostKey none\nHostKey gone\n")
    write(tmp_path / "sshd_config.d/b.conf", f"HostKey {tmp_path}/keys/own\n")
    assert set(HostKeys(tmp_path).find()) == {ED25519, make_key(data=b"a" * 32)}


def test_files_that_cannot_be_read_are_passed_over(tmp_path: Path) -> None:
    write(
        tmp_path / "sshd_config", "Include sshd_config\nInclude a\0b\nInclude **bad/../*\nHostKey x\0y\nHostKey fifo\n"
    )
    os.mkfifo(tmp_path / "fifo.pub")
    (tmp_path / "ssh_host_dsa_key.pub").mkdir()
    (tmp_path / "ssh_host_rsa_key.pub").write_bytes(b"\xff" + RSA.encode())
    assert HostKeys(tmp_path).find() == ()


def test_keys_are_read_again_when_a_file_or_a_folder_has_changed(tmp_path: Path) -> None:
    keys = HostKeys(tmp_path / "ssh")
    assert keys.find() == ()
    write(tmp_path / "ssh/ssh_host_rsa_key.pub", RSA)
    assert keys.find() == keys.find() == (RSA,)
    write(tmp_path / "ssh/ssh_host_rsa_key.pub", LARGEST_RSA)
    assert keys.find() == (LARGEST_RSA,)
    write(tmp_path / "ssh/ssh_host_ed25519_key.pub", ED25519)
    assert keys.find() == (ED25519, LARGEST_RSA)
    write(tmp_path / "ssh/sshd_config", "Include more/*.conf\n")
    assert keys.find() == (ED25519, LARGEST_RSA)
    write(tmp_path / "ssh/more/own.conf", "HostKey own\n")
    assert keys.find() == ()
    write(tmp_path / "ssh/own.pub", RSA)
    assert keys.find() == (RSA,)
    (tmp_path / "ssh/more/own.conf").unlink()
    assert keys.find() == (ED25519, LARGEST_RSA)


def test_a_snapshot_of_the_cluster_has_machines_without_their_keys() -> None:
    snapshot = Snapshot()
    apply_record(snapshot, MACHINES, ("m1",), Machine("m1", address="10.0.0.1", host_keys=(ED25519,)))
    assert snapshot.machines == {"m1": Machine("m1", address="10.0.0.1")}
    assert not apply_record(snapshot, MACHINES, ("m1",), Machine("m1", address="10.0.0.1", host_keys=(RSA,))).units
