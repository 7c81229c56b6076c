"""What a machine says of its https listener."""

import pytest

from fleetd.config.values import parse_listen
from fleetd.process.trusting import find_served


@pytest.mark.parametrize(
    ("listen", "served"),
    [
        ("", ""),
        ("/run/a.sock,:49153", ""),
        ("https://:7443", ":7443"),
        (":49153,https://[fd00::1]:7443,https://10.0.0.1:1", "[fd00::1]:7443"),
        ("https://127.0.0.1:1,https://localhost:2,https://m1.example.com:7443", "m1.example.com:7443"),
        ("https://[::1]:7443", "[::1]:7443"),
    ],
)
def test_a_machine_says_where_others_reach_it_over_https(listen: str, served: str) -> None:
    assert find_served(parse_listen(listen)) == served
