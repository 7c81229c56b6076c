"""fleet's directory of unit files and drop-ins, and the links to them in systemd's runtime directory. File operations
only.

The drop-ins of a unit are in a folder `NAME.d` beside its file. systemd reads none there: it reads the links to them in
the folder of this name in its runtime directory, in which the machine's own drop-ins may be as well.
"""

import contextlib
import glob
import os
import re
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from fleetd.model.content import DropIn
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

    def read_dropins(self) -> dict[str, tuple[DropIn, ...]]:
        """Return name → drop-ins, in order of name, of every unit that has some; those alone that systemd reads."""
        found = {}
        entries = os.listdir(self._directory) if os.path.isdir(self._directory) else []
        for name in (entry.removesuffix(".d") for entry in sorted(entries) if entry.endswith(".d")):
            dropins = [self._read_dropin(name, dropin) for dropin in self._dropins(name)]
            if dropins := [dropin for dropin in dropins if dropin is not None]:
                found[name] = tuple(dropins)
        return found

    def _read_dropin(self, name: str, dropin: str) -> DropIn | None:
        path = self._file(f"{name}.d/{dropin}")
        if _destination(self._link(f"{name}.d/{dropin}")) != path:
            return None
        try:
            return DropIn(dropin, _read(path).decode(errors="replace"))
        except OSError:
            return None

    def _dropins(self, name: str) -> list[str]:
        """Return the file names of fleet's drop-ins of this unit, also of those of which only the file or the link is
        there, in order."""
        links = [link for link in _entries(self._link(f"{name}.d")) if self._is_our_dropin(name, link)]
        return sorted({*links, *_entries(self._file(f"{name}.d"))})

    def dropin_links(self, name: str) -> list[str]:
        """Return the paths at which systemd reads fleet's drop-ins of this unit."""
        return [self._link(f"{name}.d/{dropin}") for dropin in self._dropins(name) if self._is_our_dropin(name, dropin)]

    def _is_our_dropin(self, name: str, dropin: str) -> bool:
        return _destination(self._link(f"{name}.d/{dropin}")) == self._file(f"{name}.d/{dropin}")

    def foreign_dropin(self, name: str, dropin: str, search_path: Iterable[str]) -> str:
        """Return the path of a drop-in of this unit and file name in these directories that is not fleet's, or ''."""
        own = self._file(f"{name}.d/{dropin}")
        for directory in search_path:
            path = f"{directory}/{name}.d/{dropin}"
            if os.path.lexists(path) and _destination(path) != own:
                return path
        return ""

    def put_dropins(self, name: str, dropins: Sequence[DropIn]) -> bool:
        """Write and link these drop-ins of a unit, and remove fleet's others. Returns False if they were so already."""
        wanted = {dropin.name: dropin.text.encode() for dropin in dropins}
        has_changed = False
        for dropin in self._dropins(name):
            if dropin not in wanted:
                self._drop_dropin(name, dropin)
                has_changed = True
        for dropin, text in wanted.items():
            target, link = self._file(f"{name}.d/{dropin}"), self._link(f"{name}.d/{dropin}")
            # Link first, as for unit files.
            if _destination(link) != target:
                os.makedirs(os.path.dirname(link), exist_ok=True)
                os.symlink(target, link)
                has_changed = True
            has_changed |= self._replace(target, text)
        return has_changed

    def _drop_dropin(self, name: str, dropin: str) -> None:
        if self._is_our_dropin(name, dropin):
            os.unlink(self._link(f"{name}.d/{dropin}"))
        _unlink(self._file(f"{name}.d/{dropin}"))
        for folder in (self._link(f"{name}.d"), self._file(f"{name}.d")):
            with contextlib.suppress(OSError):  # it does not exist, or is not empty
                os.rmdir(folder)

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
        """Unlink and delete one unit file with its drop-ins, if it is there."""
        if not is_systemd_name(name):
            return
        self.put_dropins(name, ())
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

    def _replace(self, target: str, content: bytes) -> bool:
        """Write this file. Returns False if it was there already."""
        # An unchanged file keeps its modification time, or systemd would ask for a reload.
        if os.path.isfile(target) and _read(target) == content:
            return False
        os.makedirs(os.path.dirname(target), exist_ok=True)
        self.close_to_others()
        temporary = self._file(_BEING_WRITTEN)
        try:
            with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb", buffering=0) as file:
                file.write(content)
            os.replace(temporary, target)
        except OSError:
            _unlink(temporary)
            raise
        return True


def _entries(folder: str) -> list[str]:
    """Return the names in this folder, none if it does not exist."""
    return os.listdir(folder) if os.path.isdir(folder) else []


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
