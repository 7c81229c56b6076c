"""Small files that are replaced as a whole."""

import os
import stat
from pathlib import Path

import pytest

from fleetd.small_files import replace_file


def test_a_file_is_replaced_for_its_owner_alone_and_written_to_the_disk_with_its_folder(tmp_path: Path) -> None:
    path, synced = tmp_path / "a", []
    path.write_text("former")
    path.chmod(0o644)
    replace_file(path, "né", sync=lambda descriptor: synced.append(stat.S_ISDIR(os.fstat(descriptor).st_mode)))
    assert path.read_bytes() == "né".encode()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert synced == [False, True]
    replace_file(path, b"\0")
    assert path.read_bytes() == b"\0"
    assert os.listdir(tmp_path) == ["a"]


def test_a_link_is_replaced_and_not_followed(tmp_path: Path) -> None:
    (tmp_path / "target").write_text("target")
    (tmp_path / "a").symlink_to("target")
    replace_file(tmp_path / "a", "new")
    assert (tmp_path / "target").read_text() == "target"
    assert not (tmp_path / "a").is_symlink()


def test_a_file_that_cannot_be_written_stays_as_it_was(tmp_path: Path) -> None:
    def fail(_: int) -> None:
        raise OSError(28, "No space left on device")

    path = tmp_path / "a"
    path.write_text("former")
    with pytest.raises(OSError, match="No space left"):
        replace_file(path, "new", sync=fail)
    assert path.read_text() == "former"
    assert os.listdir(tmp_path) == ["a"]
