"""What is an address, and what is a name."""

import pytest

from fleetd.model.ip_address import is_ip_address


@pytest.mark.parametrize(
    ("text", "is_one"),
    [
        ("10.0.0.1", True),
        ("fd00::1", True),
        ("::ffff:10.0.0.1", True),
        ("10.0.0", False),
        ("[::1]", False),
        ("a", False),
    ],
)
def test_an_address_is_told_from_a_name(text: str, is_one: bool) -> None:
    assert is_ip_address(text) is is_one
