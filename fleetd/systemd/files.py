"""The directory of fleet's unit files, and the links to them in systemd's runtime directory. File operations only."""

import contextlib
import glob
import os
import re
import time
from collections.abc import Iterable
from pathlib import Path

from fleetd.model.names import is_systemd_name, parse_name
from fleetd.systemd.protocol import NameTaken, ServiceManagerError

INVALID_NAME = "systemd takes no unit of this name; choose another"
_MOUNTS = Path("/proc/self/mountinfo")
_OCTAL = re.compile(rb"\\([0-7]{3})")
_HEXADECIMAL = re.compile(rb"\\x([0-9a-f]{2})")
_BEING_WRITTEN = ".new"  # systemd and read() ignore names that begin with a dot


def units_of_link(link: str, name: str) -> tuple[str, ...]:
    """Return the units whose dependencies or names change with this link (`OWNER.wants/UNIT`, `ALIAS`) to `name`."""
    folder, slash, _ = link.rpartition("/")
    return (folder.rpartition(".")[0],) if slash else (link, name)


def _mount_points() -> list[str]:
    """Return where file systems are mounted; proc_pid_mountinfo(5) writes a space as `\\040`."""
    try:
        lines = _MOUNTS.read_bytes().splitlines()
    except OSError:
        return []
    return [os.fsdecode(_OCTAL.sub(lambda found: bytes([int(found[1], 8)]), line.split(b" ")[4])) for line in lines]


def mount_point(name: str) -> str:
    """Return the directory that a mount unit of this name is for (systemd-escape(1))."""
    path = os.fsencode(name.removesuffix(".mount").replace("-", "/"))
    return os.fsdecode(b"/" + _HEXADECIMAL.sub(lambda found: bytes([int(found[1], 16)]), path).strip(b"/"))


class UnitFiles:
    """The unit files in `directory` (absolute), each linked from `runtime_directory` (systemd's, below /run)."""

    def __init__(self, directory: Path, runtime_directory: Path) -> None:
        # As str: pathlib takes longer than the system calls, and interns every name for good.
        self._directory = os.fspath(directory)
        self._runtime_directory = os.fspath(runtime_directory)

    def close_to_others(self) -> None:
        """Keep other users from reading the unit files, which may hold passwords; systemd reads them as root."""
        if os.path.isdir(self._directory) and os.stat(self._directory).st_mode & 0o077:
            os.chmod(self._directory, 0o700)

    def names(self) -> list[str]:
        """Return the names of all unit files, in order."""
        if not os.path.isdir(self._directory):
            return []
        return sorted(entry for entry in os.listdir(self._directory) if is_systemd_name(entry))

    def read(self) -> dict[str, str]:
        """Return name → content of all unit files, by name; '' for one that is not text."""
        texts = {}
        for name in self.names():
            try:
                texts[name] = _read(self._file(name)).decode()
            except UnicodeDecodeError:
                texts[name] = ""
            except FileNotFoundError:
                continue  # removed since the directory was listed
        return texts

    def put(self, name: str, text: str) -> str:
        """Write and link one unit file, unless it is there already. Returns the unit whose alias its name was until
        now, or ''. Raises ServiceManagerError for a name that systemd does not accept, and NameTaken if the link would
        replace a file that is not fleet's."""
        if not is_systemd_name(name):
            raise ServiceManagerError(f"write {name}: {INVALID_NAME}")
        target, link = self._file(name), self._link(name)
        if os.path.lexists(link) and not self._is_ours(link):
            raise NameTaken(name, link)
        # Link first: after a crash between the two, read() must not return a file that systemd does not see.
        found = _destination(link)
        if found != target:
            os.makedirs(self._runtime_directory, exist_ok=True)
            _unlink(link)  # it may be another unit's alias; a unit's own name takes precedence
            os.symlink(target, link)
        self._replace(target, text.encode("utf-8"))
        return os.path.basename(found) if found != target else ""

    def drop(self, name: str) -> None:
        """Unlink and delete one unit file, if it is there."""
        if not is_systemd_name(name):
            return
        target, link = self._file(name), self._link(name)
        _unlink(target)
        if _destination(link) == target:
            os.unlink(link)

    def make_link(self, link: str, name: str) -> bool:
        """Make a link below the runtime directory to a unit of fleet's. Returns False if it was there already. Raises
        ServiceManagerError if something else is in its place."""
        path = self._link(link)
        found, target = _destination(path), self._target(link, name)
        if found == target:
            return False
        if os.path.dirname(found) == self._directory:
            os.unlink(path)  # made by systemd for units outside its directories, or leading to another unit of fleet's
        if os.path.lexists(path):
            raise ServiceManagerError(f"link {path}: it exists and is not fleet's; remove it")
        os.makedirs(os.path.dirname(path), exist_ok=True)
        os.symlink(target, path)
        return True

    def drop_link(self, link: str, name: str) -> bool:
        """Remove such a link if it is unchanged, and its directory if that is empty then. Returns True if it was
        there."""
        path = self._link(link)
        is_there = _destination(path) in (self._target(link, name), self._file(name))
        if is_there:
            os.unlink(path)
        if "/" in link:
            with contextlib.suppress(OSError):  # it does not exist, or is not empty
                os.rmdir(os.path.dirname(path))
        return is_there

    def find_links(self) -> dict[str, str]:
        """Return link → unit for every link to a unit file of fleet's that is not the unit's own."""
        links: dict[str, str] = {}
        at = self._runtime_directory
        for link in sorted((*glob.glob("*.*", root_dir=at), *glob.glob("*.*/*", root_dir=at))):
            path = self._link(link)
            folder, name = os.path.split(_destination(path))
            if folder and link != name:
                is_alias = "/" not in link and folder == at and self._is_ours(path)
                if is_alias or folder == self._directory:
                    links[link] = name
        return links

    def _file(self, name: str) -> str:
        return f"{self._directory}/{name}"

    def _link(self, link: str) -> str:
        return f"{self._runtime_directory}/{link}"

    def _target(self, link: str, name: str) -> str:
        """Return a link's target: the unit's file for a dependency, as systemd itself makes it; the unit's own link for
        an alias, because systemd takes a link to a file elsewhere for another unit."""
        return self._file(name) if "/" in link else self._link(name)

    def touch(self) -> None:
        """Have systemd notice new links without a reload.

        systemd looks again when the directory's mtime has changed. On older kernels that moves in steps of some
        milliseconds, so that a link made in the same step as systemd's last look would not be noticed.
        """
        if os.path.isdir(self._runtime_directory):
            now = time.time_ns()  # explicit: the kernel's own value moves in the same steps
            os.utime(self._runtime_directory, ns=(now, now))

    def foreign_path(self, name: str, search_path: Iterable[str]) -> str:
        """Return the path of a unit of this name, or its template, in these directories that is not fleet's, or ''; for
        a mount, which has a unit without a file, its mount point."""
        for candidate in (name, parse_name(name).template):
            for directory in search_path if candidate else ():
                path = f"{directory}/{candidate}"  # os.path.join would cost as much as the system call
                if os.path.lexists(path) and not self._is_ours(path):
                    return path
        if name.endswith(".mount") and not os.path.exists(self._file(name)):
            point = mount_point(name)
            return f"the mount of {point}" if point in _mount_points() else ""
        return ""

    def resolve(self, path: str) -> str:
        """Return the unit file of fleet's that this path is a link to, or the path itself."""
        return os.readlink(path) if path and self._is_ours(path) else path

    def has_linked(self, path: str) -> bool:
        """True if a unit read from this path is, or was, fleet's; its file may be gone."""
        return os.path.dirname(path) in (self._directory, self._runtime_directory)

    def _is_ours(self, path: str) -> bool:
        """True if this is the link of a unit file of fleet's, or an alias of one."""
        found = _destination(path)
        if os.path.dirname(found) == self._runtime_directory:
            found = _destination(found)
        return os.path.dirname(found) == self._directory

    def _replace(self, target: str, content: bytes) -> None:
        # An unchanged file keeps its modification time, or systemd would ask for a reload.
        if os.path.isfile(target) and _read(target) == content:
            return
        os.makedirs(self._directory, exist_ok=True)
        self.close_to_others()
        temporary = self._file(_BEING_WRITTEN)
        try:
            with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb", buffering=0) as file:
                file.write(content)
            os.replace(temporary, target)
        except OSError:
            _unlink(temporary)
            raise


def _read(path: str) -> bytes:
    with open(path, "rb", buffering=0) as file:
        return file.read()


def _unlink(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


def _destination(path: str) -> str:
    """Return the target of a symlink, '' if it is none."""
    try:
        return os.readlink(path)
    except OSError:
        return ""
