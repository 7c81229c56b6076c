"""A machine's identity: its id, its boot, its address, and the errors about them."""

import ipaddress
from pathlib import Path

import pytest

from fleetd.process.identity import IdentityError, find_address, read_boot_id, read_machine_id

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
