"""URLs: what is shown of them, and which hosts are local."""

import pytest

from fleetd.url import has_user, is_on_loopback, without_user


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://a:1", "http://a:1"),
        ("http://me@a:1/x", "http://a:1/x"),
        ("https://me:p@ss@a:1 and http://you:p@b", "https://a:1 and http://b"),
        ("http://a/x@y", "http://a/x@y"),
    ],
)
def test_user_and_password_are_left_out(text: str, shown: str) -> None:
    assert without_user(text) == shown
    assert has_user(text) == (text != shown)


@pytest.mark.parametrize(
    ("url", "here"),
    [
        ("http://127.0.0.1:2379", True),
        ("http://127.9.9.9", True),
        ("http://[::1]:2379", True),
        ("http://me:pw@localhost:2379", True),
        ("http://localhost.example.org", False),
        ("http://127.0.0.1.example.org", False),
        ("http://10.0.0.1", False),
        ("http://[::]", False),
        ("http://", False),
    ],
)
def test_loopback_is_told_from_other_machines(url: str, here: bool) -> None:
    assert is_on_loopback(url) == here
