"""Small files that are replaced as a whole."""

import os
import stat
from collections.abc import Callable
from pathlib import Path


def replace_file(
    path: Path,
    content: str | bytes,
    *,
    sync: Callable[[int], None] = os.fsync,
    for_all: bool = False,
    like: os.stat_result | None = None,
) -> None:
    """Write a file that its owner alone may read, or everybody (`for_all`), or that has the owner and the mode of
    another (`like`), in place of what is there. A reader finds
    the former content or this one, and so does a machine whose power fails; when this returns, it finds this one.
    `sync` has a file or a folder written to the disk. Raises OSError; what was there is there, then."""
    new = path.with_name(f".{path.name}.{os.getpid()}.new")  # another process may be replacing it, too
    new.unlink(missing_ok=True)
    try:
        with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            if for_all:
                os.fchmod(file.fileno(), 0o644)
            if like is not None:
                _make_like(file.fileno(), like)
            file.flush()
            sync(file.fileno())
        new.replace(path)
    except OSError:
        new.unlink(missing_ok=True)
        raise
    sync_folder(path.parent, sync=sync)


def _make_like(descriptor: int, like: os.stat_result) -> None:
    found = os.fstat(descriptor)
    if (found.st_uid, found.st_gid) != (like.st_uid, like.st_gid):
        os.fchown(descriptor, like.st_uid, like.st_gid)
    os.fchmod(descriptor, stat.S_IMODE(like.st_mode))


def sync_folder(folder: Path, *, sync: Callable[[int], None] = os.fsync) -> None:
    """Have the names in a folder written to the disk. Raises OSError."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        sync(descriptor)
    finally:
        os.close(descriptor)
