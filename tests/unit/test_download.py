"""What a unit needs on its machine, and why a machine cannot have it."""

import pytest

from fleetd.model.content import Content
from fleetd.model.download import MAX_CAUSE, Download, describe_failure, downloads_of
from fleetd.model.requirements import requirements_of
from fleetd.model.unitfile import parse_unit_file

DIGEST = f"sha256:{'a' * 64}"
IMAGE = f"registry:5000/hello@{DIGEST}"


def unit(named: str, resolved: str = "", file: str = "hello.container") -> str:
    kept = f"[X-Image]\nImage={resolved}\n" if resolved else ""
    return f"[Service]\nExecStart=/usr/bin/podman run x\n{kept}[X-Source {file} Container]\nImage={named}\n"


@pytest.mark.parametrize(
    ("text", "needed"),
    [
        (unit("registry:5000/hello:1", IMAGE), [IMAGE]),
        (unit(IMAGE), [IMAGE]),
        (unit(f"registry:5000/hello:1@{DIGEST}"), [f"registry:5000/hello:1@{DIGEST}"]),
        (unit("registry:5000/hello:1"), []),
        (unit(f"%i/hello@{DIGEST}"), []),
        (unit(f"hello@{DIGEST}"), []),  # podman decides which registry is meant
        (unit("registry:5000/hello@sha256:12"), []),
        (unit(f"localhost/hello@{DIGEST}"), []),
        (f"[Container]\nImage={IMAGE}\n", []),  # of no meaning in a unit
        ("[Service]\nExecStart=/bin/true\n", []),
    ],
)
def test_a_container_needs_its_image_by_digest(text: str, needed: list[str]) -> None:
    assert [each.source for each in downloads_of(parse_unit_file(text))] == needed
    assert [each.source for each in requirements_of(Content(text), "hello.service").downloads] == needed


@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        ("Error: reading manifest: manifest unknown", "reading manifest: manifest unknown: push it there again"),
        ("Error: unauthorized: authentication required", "registry_auth_file= in fleet.conf"),
        ("write /var/tmp/x: no space left on device", "make room on the machine"),
        ("no image found in manifest list for architecture arm64", "push it for the architecture"),
        ("podman is not installed", "install it there"),
        ("dial tcp: connection refused", "connection refused: it is tried again in a while"),
        ("", "it was not said why"),
    ],
)
def test_a_failure_names_cause_and_remedy(said: str, sentence: str) -> None:
    words = describe_failure(Download(IMAGE), said)
    assert words.startswith(f"cannot get the image {IMAGE}: ")
    assert sentence in words


def test_a_long_cause_is_cut() -> None:
    words = describe_failure(Download(IMAGE), f"{'x' * 1000} no space left on device")
    assert "no space left on device: make room" in words
    assert len(words) < MAX_CAUSE + len(IMAGE) + 120
