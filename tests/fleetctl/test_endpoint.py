"""How an endpoint is parsed."""

import pytest

from fleetctl.endpoint import Endpoint, parse_endpoint


@pytest.mark.parametrize(
    ("text", "endpoint"),
    [
        ("unix:///run/fleet.sock", Endpoint(text="unix:///run/fleet.sock", socket="/run/fleet.sock")),
        ("http://m1", Endpoint(text="http://m1", host="m1", port=80)),
        ("http://[::1]", Endpoint(text="http://[::1]", host="::1", port=80)),
        ("https://m1", Endpoint(text="https://m1", host="m1", port=443, tls=True)),
        (
            "https://me:a%3Ab@[fe80::1]:8443/proxy/",
            Endpoint(
                text="https://me:a%3Ab@[fe80::1]:8443/proxy/",
                host="fe80::1",
                port=8443,
                tls=True,
                login="me:a:b",
                path="/proxy",
            ),
        ),
    ],
)
def test_an_endpoint_is_parsed_into_what_is_connected_to(text: str, endpoint: Endpoint) -> None:
    assert parse_endpoint(text) == endpoint
