"""The directory of unit files that are fleet's, and their links in systemd's runtime directory.

File operations only: nothing here talks to systemd, knows what a unit's text means, or decides which file or link
should be there.
"""

import contextlib
import glob
import os
import re
import time
from collections.abc import Iterable
from pathlib import Path

from fleetd.model.names import parse_name
from fleetd.systemd.protocol import NameTaken, ServiceManagerError

MAX_NAME_LENGTH = 255
INVALID_NAME = "systemd takes no unit of this name; choose another"
_NAME = re.compile(
    r"[A-Za-z0-9:_.\\-][A-Za-z0-9:_.\\@-]*\."
    r"(?:service|socket|target|timer|path|mount|automount|swap|slice|scope|device)"
)
_MOUNTS = Path("/proc/self/mountinfo")
_OCTAL = re.compile(r"\\([0-7]{3})")
_BEING_WRITTEN = ".new"  # systemd and read() pass over names that begin with a dot


def is_unit_name(name: str) -> bool:
    """Whether systemd takes this for the name of a unit or of a template. fleet's own rules let more names pass."""
    return len(name) <= MAX_NAME_LENGTH and _NAME.fullmatch(name) is not None


def is_loadable(name: str) -> bool:
    """Whether systemd can load a unit of this name; a template it cannot, without an instance."""
    return is_unit_name(name) and not parse_name(name).is_template


def units_of_link(link: str, name: str) -> tuple[str, ...]:
    """The units whose dependencies or names this link (`OWNER.wants/UNIT`, `ALIAS`) to a unit of this name changes."""
    folder, slash, _ = link.rpartition("/")
    return (folder.rpartition(".")[0],) if slash else (link, name)


def _mount_points() -> list[str]:
    """Where file systems are mounted, escaped as in the kernel's table."""
    try:
        return [line.split(" ")[4] for line in _MOUNTS.read_text("utf-8", "surrogateescape").splitlines()]
    except OSError:
        return []


def mount_name(mount_point: str) -> str:
    """The name of the mount unit of this directory, which is escaped as in the kernel's table (`\\040` is a blank)."""
    path = _OCTAL.sub(lambda match: chr(int(match[1], 8)), mount_point).strip("/")
    plain = "".join(_escape(char, is_first=index == 0) for index, char in enumerate(path))
    return f"{plain or '-'}.mount"


def _escape(char: str, *, is_first: bool) -> str:
    if char == "/":
        return "-"
    if (char.isascii() and char.isalnum()) or char in ":_" or (char == "." and not is_first):
        return char
    return "".join(f"\\x{byte:02x}" for byte in char.encode("utf-8", "surrogateescape"))


class UnitFiles:
    """The unit files in `directory` (absolute), each linked from `runtime_directory` (systemd's, below /run)."""

    def __init__(self, directory: Path, runtime_directory: Path) -> None:
        # As text: pathlib takes longer than the kernel, and keeps each name for ever in the table of interned strings.
        self._directory = os.fspath(directory)
        self._runtime_directory = os.fspath(runtime_directory)

    def close_to_others(self) -> None:
        """Keep other users from reading what units say, passwords among it: systemd reads them as root."""
        if os.path.isdir(self._directory) and os.stat(self._directory).st_mode & 0o077:
            os.chmod(self._directory, 0o700)

    def names(self) -> list[str]:
        """The names of all unit files, in order."""
        if not os.path.isdir(self._directory):
            return []
        return sorted(entry for entry in os.listdir(self._directory) if is_unit_name(entry))

    def read(self) -> dict[str, str]:
        """Name → content of all unit files, in order of their names; '' for one that is not text."""
        texts = {}
        for name in self.names():
            try:
                texts[name] = _read(self._file(name)).decode()
            except UnicodeDecodeError:
                texts[name] = ""
            except FileNotFoundError:
                continue  # removed by someone since the directory was listed
        return texts

    def put(self, name: str, text: str) -> str:
        """Write and link one unit file, or leave it alone where it already is so; the unit whose alias its name was
        until now, or ''. Raises ServiceManagerError for a name that systemd would not take, or whose link would replace
        what is not ours."""
        if not is_unit_name(name):
            raise ServiceManagerError(f"write {name}: {INVALID_NAME}")
        target, link = self._file(name), self._link(name)
        if os.path.lexists(link) and not self._is_ours(link):
            words = f"write {name}: {link} is not fleet's; remove it or choose another name"
            raise NameTaken(words, f"has its own {link}")
        # The link comes first: after a crash between the two, read() does not yet show a file that systemd cannot see.
        found = _destination(link)
        if found != target:
            os.makedirs(self._runtime_directory, exist_ok=True)
            _unlink(link)  # another unit's alias: a name is its unit's before it is an alias
            os.symlink(target, link)
        self._replace(target, text.encode("utf-8"))
        return os.path.basename(found) if found != target else ""

    def drop(self, name: str) -> None:
        """Unlink and delete one unit file; of a name unknown there is nothing to drop."""
        if not is_unit_name(name):
            return
        target, link = self._file(name), self._link(name)
        _unlink(target)
        if _destination(link) == target:
            os.unlink(link)

    def make_link(self, link: str, name: str) -> bool:
        """Make a link below the runtime directory that leads to a unit of ours; whether it was not there. Raises
        ServiceManagerError where something else is in its place."""
        path = self._link(link)
        found, target = _destination(path), self._target(link, name)
        if found == target:
            return False
        if os.path.dirname(found) == self._directory:
            os.unlink(path)  # as systemd makes them for another directory's units; or it led to another unit of ours
        if os.path.lexists(path):
            raise ServiceManagerError(f"link {path}: it is there, and is not fleet's; remove it")
        os.makedirs(os.path.dirname(path), exist_ok=True)
        os.symlink(target, path)
        return True

    def drop_link(self, link: str, name: str) -> bool:
        """Remove such a link if it is as it was made, and its folder with the last one; whether it was there."""
        path = self._link(link)
        is_there = _destination(path) in (self._target(link, name), self._file(name))
        if is_there:
            os.unlink(path)
        if "/" in link:
            with contextlib.suppress(OSError):  # there is none, or others are in it
                os.rmdir(os.path.dirname(path))
        return is_there

    def find_links(self) -> dict[str, str]:
        """Every link below the runtime directory to one of our unit files that is not the unit's own: link → unit."""
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
        """Where a link leads: a dependency to the unit's file, as systemd makes it; an alias to the unit's own link,
        for to systemd a link to a file elsewhere is a unit of its own."""
        return self._file(name) if "/" in link else self._link(name)

    def announce(self) -> None:
        """Let systemd notice links made since its last look without a reload.

        It looks again when the directory's modification time has changed, and on older kernels that time moves in steps
        of some milliseconds: a link made in the step of its last look would not be found.
        """
        if os.path.isdir(self._runtime_directory):
            now = time.time_ns()  # given as a number: left to the kernel, it would move in the same steps
            os.utime(self._runtime_directory, ns=(now, now))

    def foreign_path(self, name: str, search_path: Iterable[str]) -> str:
        """Where in these directories a unit of this name, or its template, is found that is not ours; or ''. Of what is
        mounted, and has a unit without a file: which directory."""
        for candidate in (name, parse_name(name).template):
            for directory in search_path if candidate else ():
                path = f"{directory}/{candidate}"  # for each new unit a dozen: to join them costs as much as looking
                if os.path.lexists(path) and not self._is_ours(path):
                    return path
        if name.endswith(".mount") and not os.path.exists(self._file(name)):
            mounted = (point for point in _mount_points() if mount_name(point) == name)
            return next((f"the mount of {point}" for point in mounted), "")
        return ""

    def resolve(self, path: str) -> str:
        """The unit file of ours that this path is a link to, or the path itself."""
        return os.readlink(path) if path and self._is_ours(path) else path

    def has_linked(self, path: str) -> bool:
        """Whether a unit read from this path was one of ours, also when its file is gone."""
        return os.path.dirname(path) in (self._directory, self._runtime_directory)

    def _is_ours(self, path: str) -> bool:
        """Whether this is the link of a unit file of ours, or an alias of one."""
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
    """Where this leads, if it is a symlink, else ''."""
    try:
        return os.readlink(path)
    except OSError:
        return ""
