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


def test_a_file_has_the_owner_and_mode_of_another_before_it_is_there(tmp_path: Path) -> None:
    """Whoever owns the folder could put a link in its place, and be given what that points to."""
    path, victim = tmp_path / "a", tmp_path / "victim"
    victim.write_text("")
    victim.chmod(0o600)
    path.write_text("old")
    path.chmod(0o640)
    if os.getuid() == 0:
        os.chown(path, 65534, 65534)
    before, seen = path.stat(), []

    def swap(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            seen.append(path.stat())
            path.unlink()
            path.symlink_to(victim)

    replace_file(path, "new", sync=swap, like=before)
    assert [(each.st_mode, each.st_uid, each.st_gid) for each in seen] == [
        (before.st_mode, before.st_uid, before.st_gid)
    ]
    assert (victim.stat().st_uid, stat.S_IMODE(victim.stat().st_mode)) == (os.getuid(), 0o600)
