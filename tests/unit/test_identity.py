"""A machine's identity: its id, its boot, its address, and the errors about them."""

import ipaddress
from pathlib import Path

import pytest

from fleetd.process.identity import (
    IdentityError,
    find_address,
    find_reboot_need,
    is_own_host,
    read_boot_id,
    read_machine_id,
)

ID = "0123456789abcdef0123456789abcdef"


@pytest.mark.covers("5.4.4")
@pytest.mark.parametrize("text", [ID, ID + "\n", f" {ID} \n\n"])
def test_the_machine_id_is_read_without_surrounding_blanks(tmp_path: Path, text: str) -> None:
    path = tmp_path / "machine-id"
    path.write_text(text)
    assert read_machine_id(path) == ID


@pytest.mark.covers("5.4.4")
@pytest.mark.parametrize(
    ("content", "why"),
    [
        (None, "No such file or directory; run systemd-machine-id-setup"),
        (b"", "is empty; remove"),
        (b"\n", "is empty; remove"),
        (b"uninitialized\n", "holds 'uninitialized', not 32 hexadecimal digits; remove"),
        (ID[:31].encode(), "not 32 hexadecimal digits; remove"),
        (ID.upper().encode(), "not 32 hexadecimal digits; remove"),
        (b"\xff" * 32, "not 32 hexadecimal digits; remove"),
        (b"x" * 1000, f"holds '{'x' * 40}', not"),
    ],
)
def test_a_missing_or_malformed_machine_id_is_reported_with_the_remedy(
    tmp_path: Path, content: bytes | None, why: str
) -> None:
    path = tmp_path / "machine-id"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(IdentityError) as refusal:
        read_machine_id(path)
    assert str(refusal.value).startswith(f"unable to determine local machine ID: {path}")
    assert why in str(refusal.value)
    assert "systemd-machine-id-setup" in str(refusal.value)


def test_a_boot_is_identified_by_the_kernels_boot_id(tmp_path: Path) -> None:
    (tmp_path / "boot_id").write_text("b6f1\n")
    assert read_boot_id(tmp_path / "boot_id") == "b6f1"
    assert read_boot_id() == read_boot_id() != ""


@pytest.mark.covers("5.3.8")
def test_the_address_is_reachable_by_other_machines_or_empty() -> None:
    address = find_address()
    assert address == "" or not (
        ipaddress.IPv4Address(address).is_loopback or ipaddress.IPv4Address(address).is_unspecified
    )


async def test_a_machine_is_reached_by_the_addresses_of_its_interfaces_alone() -> None:
    own = find_address()
    assert not own or await is_own_host(own)
    loopback = ("127.0.0.1", "::1", "localhost")
    for other in (*loopback, "192.0.2.7", "2001:db8::7", "no-such-host.invalid", "", "a b", "[::1"):
        assert not await is_own_host(other), other


@pytest.mark.parametrize(
    ("packages", "words"),
    [
        (None, "{path} exists"),
        ("", "{path} exists"),
        ("linux-image-amd64\ndbus\nlinux-image-amd64\n", "dbus, linux-image-amd64"),
        ("a b c d e f g", "a, b, c, d, e and 2 more"),
        ("bad\x1b[31m good", "good"),
    ],
)
def test_a_machine_wants_a_reboot_for_the_packages_that_say_so(
    tmp_path: Path, packages: str | None, words: str
) -> None:
    path = tmp_path / "reboot-required"
    assert find_reboot_need(path) == ""
    path.write_text("*** System restart required ***\n")
    if packages is not None:
        path.with_name("reboot-required.pkgs").write_text(packages)
    assert find_reboot_need(path) == words.format(path=path)
