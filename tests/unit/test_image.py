"""References to images: which a registry can be asked about, and what it answers."""

import pytest

from fleetd.model.image import MAX_CHARACTERS, by_digest, explain_refusal, is_digest, refuse_image

DIGEST = "sha256:" + "0123456789abcdef" * 4


@pytest.mark.parametrize(
    ("image", "repository"),
    [
        ("reg.example/hello:1", "reg.example/hello"),
        ("reg.example/hello", "reg.example/hello"),
        ("reg.example:5000/a/b-c__d.e:Latest_1.0", "reg.example:5000/a/b-c__d.e"),
        ("10.0.0.1:5000/hello:1", "10.0.0.1:5000/hello"),
        ("registry:5000/hello", "registry:5000/hello"),
    ],
)
def test_an_image_of_a_registry_can_be_asked_about(image: str, repository: str) -> None:
    assert refuse_image(image) == ""
    assert by_digest(image, DIGEST) == f"{repository}@{DIGEST}"


@pytest.mark.parametrize(
    "image",
    [
        "",
        "alpine",
        "library/alpine:3",
        "localhost/hello:1",
        f"reg.example/hello@{DIGEST}",
        "docker-archive:/tmp/x.tar",
        "oci:/srv/image",
        "reg.example/Hello:1",
        "reg.example/hello:",
        "reg.example//hello",
        "--authfile=/etc/shadow",
        "reg.example/hello:1 --x",
        "reg.example/hello:1\n",
        "reg.example/" + "a" * MAX_CHARACTERS,
    ],
)
def test_any_other_text_is_refused(image: str) -> None:
    assert "names no image of a registry: write it as REGISTRY/NAME:TAG" in refuse_image(image)


@pytest.mark.parametrize(("text", "holds"), [(DIGEST, True), (DIGEST[:-1], False), (DIGEST + "0", False), ("", False)])
def test_a_digest_is_told_from_other_text(text: str, holds: bool) -> None:
    assert is_digest(text) is holds


@pytest.mark.parametrize(
    ("words", "meaning"),
    [
        ("reading manifest 9 in reg.example/hello: manifest unknown", "no such tag (manifest unknown)"),
        ("NAME UNKNOWN: repository name not known to registry", "no such repository (name unknown)"),
        ("requested access to the resource is denied", "may not have it"),
        ("dial tcp 192.0.2.1:443: i/o timeout", ""),
        ("", ""),
        # An answer of something that need not be a registry is not repeated, whatever it says.
        ("invalid character '<' looking for beginning of value: manifest unknown", ""),
        ('unexpected end of JSON, response body: "denied"', ""),
    ],
)
def test_only_what_a_registry_says_is_explained(words: str, meaning: str) -> None:
    found = explain_refusal(words)
    assert meaning in found
    assert bool(found) is bool(meaning)
