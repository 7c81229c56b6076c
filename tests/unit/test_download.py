"""What a unit needs on its machine, and why a machine cannot have it."""

import pytest

from fleetd.model.admission import refuse_content
from fleetd.model.confinement import Limits, refuse
from fleetd.model.container_image import image_of
from fleetd.model.content import Content
from fleetd.model.content_change import Impact, impact
from fleetd.model.download import MAX_CAUSE, MAX_FETCHES, Download, describe_failure
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
    assert [each.source for each in image_of(parse_unit_file(text))] == needed
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


# Fetch=

HASH = "b" * 64
URL = "https://files.example/a/app.raw"


def fetching(*values: str) -> str:
    return "[Service]\nExecStart=/bin/true\n[X-Fleet]\n" + "".join(f"Fetch={value}\n" for value in values)


@pytest.mark.parametrize(
    ("value", "download"),
    [
        (f"{URL} sha256:{HASH}", Download(URL, HASH, "app.raw")),
        (f"  {URL}   sha256:{HASH}  other.raw ", Download(URL, HASH, "other.raw")),
        (f"http://10.0.0.1:80/%i.raw?x=/y#z sha256:{HASH}", Download("http://10.0.0.1:80/1.raw?x=/y#z", HASH, "1.raw")),
        (f"https://[fd00::1]/%p sha256:{HASH}", Download("https://[fd00::1]/web", HASH, "web")),
        (f"http://host sha256:{HASH} name", Download("http://host", HASH, "name")),
    ],
)
def test_a_unit_needs_the_files_that_it_names(value: str, download: Download) -> None:
    text = fetching(value)
    assert refuse_content(parse_unit_file(text), "web@1.service") == ""
    assert requirements_of(Content(text), "web@1.service").downloads == (download,)
    assert str(download) == f"the file {download.source}"


def test_a_container_may_need_files_too() -> None:
    text = unit(IMAGE) + f"[X-Fleet]\nFetch={URL} sha256:{HASH}\n"
    found = requirements_of(Content(text), "web.service").downloads
    assert found == (Download(IMAGE), Download(URL, HASH, "app.raw"))


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ([URL], "is not URL sha256:HEX [NAME]"),
        ([f"{URL} sha256:{HASH} a b"], "is not URL sha256:HEX [NAME]"),
        ([f"ftp://host/a sha256:{HASH}"], "is no URL of http or https"),
        ([f"file:///etc/passwd sha256:{HASH}"], "is no URL of http or https"),
        ([f"https:///a sha256:{HASH}"], "is no URL of http or https"),
        ([f"https://host/{'a' * 3000} sha256:{HASH}"], "is no URL of http or https"),
        ([f"https://ann:pw@host/a sha256:{HASH}"], "a user or password"),
        ([f"{URL} sha256:{HASH.upper()}"], "64 hex digits in small letters"),
        ([f"{URL} md5:{HASH}"], "sha256sum FILE"),
        ([f"https://host/ sha256:{HASH}"], "'' cannot be the name of a file"),
        ([f"{URL} sha256:{HASH} ../../etc/passwd"], "cannot be the name of a file"),
        ([f"{URL} sha256:{HASH} .."], "cannot be the name of a file"),
        ([f"{URL} sha256:{HASH} .hidden"], "cannot be the name of a file"),
        ([f"https://host/%2e%2e sha256:{HASH}"], "cannot be the name of a file"),
        ([f"{URL} sha256:{HASH}", f"https://other/app.raw sha256:{HASH}"], "two files have the name app.raw"),
        ([f"https://host/{n} sha256:{HASH}" for n in range(MAX_FETCHES + 1)], "at most 16 are allowed"),
    ],
)
def test_what_cannot_be_fetched_is_refused(values: list[str], words: str) -> None:
    refusal = refuse_content(parse_unit_file(fetching(*values)), "web.service")
    assert refusal.startswith("Fetch")
    assert words in refusal


def test_what_no_unit_may_have_is_passed_over() -> None:
    """An older API may have taken it."""
    assert requirements_of(Content(fetching("nonsense", f"{URL} sha256:{HASH}")), "w.service").downloads == (
        Download(URL, HASH, "app.raw"),
    )


def test_another_file_restarts_the_unit() -> None:
    before, after = Content(fetching(f"{URL} sha256:{HASH}")), Content(fetching(f"{URL} sha256:{'c' * 64}"))
    assert impact(before, after) == (Impact.RESTART, "Fetch= changed")


def test_a_machine_that_confines_its_units_downloads_nothing_as_root() -> None:
    content = Content(fetching(f"{URL} sha256:{HASH}"))
    assert f"the file {URL} is not downloaded" in refuse(Limits(confine=True), "web.service", content)
    assert refuse(Limits(), "web.service", content) == ""


@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        ("404 Not Found", "404 Not Found: put it there again, or name another place in Fetch="),
        ("403 Forbidden", "let machines have it without a login"),
        ("what is there has another hash: sha256:1", "give Fetch= the hash of what is there now"),
        ("no space left on device for it", "make room"),
        ("timed out", "timed out: it is tried again in a while"),
    ],
)
def test_a_file_that_cannot_be_had(said: str, sentence: str) -> None:
    assert sentence in describe_failure(Download(URL, HASH, "app.raw"), said)
