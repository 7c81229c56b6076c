"""What podman's list of images tells without podman."""

from pathlib import Path

import pytest

from fleetd.agent.known_images import KnownImages

IMAGE = f"reg.example/hello@sha256:{'1' * 64}"
LISTED = f'[{{"id": "1", "names": ["{IMAGE}", "reg.example/hello:1"]}}, {{"id": "2", "names": null}}, {{"id": "3"}}]'


@pytest.mark.parametrize(
    ("listed", "is_here"),
    [(LISTED, True), (LISTED.replace("sha256:11", "sha256:12"), False), ("[]", False), ("{", False), (None, False)],
)
def test_an_image_that_podman_has_found_is_here_while_its_list_has_it(
    tmp_path: Path, listed: str | None, is_here: bool
) -> None:
    path = tmp_path / "images.json"
    if listed is not None:
        path.write_text(listed)
    images = KnownImages(path)
    assert not images.have(IMAGE)
    images.note(IMAGE, is_here=True)
    assert images.have(IMAGE) == is_here
    assert not images.have("reg.example/hello:1")
    images.note(IMAGE, is_here=False)
    assert not images.have(IMAGE)


def test_a_user_has_another_list(tmp_path: Path) -> None:
    (tmp_path / "images.json").write_text(LISTED)
    images = KnownImages(tmp_path / "images.json", is_readable=False)
    images.note(IMAGE, is_here=True)
    assert not images.have(IMAGE)
