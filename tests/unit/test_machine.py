"""A machine's own record: which addresses are valid, and where it serves https."""

import pytest

from fleetd.model.machine import Machine, dialled_address, https_url, is_address


@pytest.mark.parametrize(
    "text", ["10.0.0.1", "::1", "fe80::1%eth0.7", "::ffff:10.0.0.1", "m1", "m-1.example.org", "_srv.x", "a" * 253]
)
def test_an_ip_literal_or_a_host_name_is_an_address(text: str) -> None:
    assert is_address(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "-oProxyCommand=x",
        "a;b",
        "a b",
        "$(id)",
        "%h",
        "a@b",
        "10.0.0.1:22",
        "a\n",
        "::1%a;b",
        "::1%",
        ":::",
        "ä.example",
        "a" * 254,
    ],
)
def test_any_other_text_is_no_address(text: str) -> None:
    assert not is_address(text)


@pytest.mark.parametrize(
    ("address", "https", "url"),
    [
        ("10.0.0.5", "", ""),
        ("", ":7443", ""),
        ("10.0.0.5", ":7443", "https://10.0.0.5:7443"),
        ("10.0.0.5", "192.0.2.1:443", "https://192.0.2.1:443"),
        ("fd00::5", ":7443", "https://[fd00::5]:7443"),
        ("10.0.0.5", "[fd00::6]:7443", "https://[fd00::6]:7443"),
    ],
)
def test_a_server_says_where_it_serves_https(address: str, https: str, url: str) -> None:
    assert https_url(Machine("m1", address=address, https=https)) == url


@pytest.mark.parametrize(
    ("address", "host", "dialled"),
    [
        ("10.0.0.1", "", "10.0.0.1:7444"),
        ("10.0.0.1", "0.0.0.0", "10.0.0.1:7444"),
        ("fd00::1", "::", "[fd00::1]:7444"),
        ("10.0.0.1", "10.9.0.1", "10.9.0.1:7444"),
        ("10.0.0.1", "fd00::9", "[fd00::9]:7444"),
        ("", "", ""),
    ],
)
def test_where_others_dial_what_a_machine_listens_on(address: str, host: str, dialled: str) -> None:
    assert dialled_address(Machine("m1", address=address), host, 7444) == dialled
