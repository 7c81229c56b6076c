"""The directory of unit files that are fleet's, and their links in systemd's runtime directory.

File operations only: nothing here talks to systemd, knows what a unit's text means (but for whether it can be enabled),
or decides which file should be there.
"""

import os
import re
import time
from collections.abc import Iterable
from pathlib import Path

from fleetd.core.names import parse_name
from fleetd.systemd.protocol import ServiceManagerError

MAX_NAME_LENGTH = 255
INVALID_NAME = "systemd takes no unit of this name; choose another"
_NAME = re.compile(
    r"[A-Za-z0-9:_.\\-][A-Za-z0-9:_.\\@-]*\."
    r"(?:service|socket|target|timer|path|mount|automount|swap|slice|scope|device)"
)
_BEING_WRITTEN = ".new"  # systemd and read() pass over names that begin with a dot


def is_unit_name(name: str) -> bool:
    """Whether systemd takes this for the name of a unit or of a template. fleet's own rules let more names pass."""
    return len(name) <= MAX_NAME_LENGTH and _NAME.fullmatch(name) is not None


def is_loadable(name: str) -> bool:
    """Whether systemd can load a unit of this name; a template it cannot, without an instance."""
    return is_unit_name(name) and not parse_name(name).is_template


def has_install_section(text: str) -> bool:
    """Whether there is something in this unit file that enabling it could act on."""
    return any(line.strip() == "[Install]" for line in text.splitlines())


def link_owner(link: str) -> str:
    """The unit that a link made by enabling gives a dependency to (`OWNER.wants/NAME`), or '' for another link."""
    owner, _, kind = Path(link).parent.name.rpartition(".")
    return owner if kind in ("wants", "requires") else ""


class UnitFiles:
    """The unit files in `directory` (absolute), each linked from `runtime_directory` (systemd's, below /run)."""

    def __init__(self, directory: Path, runtime_directory: Path) -> None:
        self._directory = directory
        self._runtime_directory = runtime_directory

    def names(self) -> list[str]:
        """The names of all unit files, in order."""
        if not self._directory.is_dir():
            return []
        return sorted(entry for entry in os.listdir(self._directory) if is_unit_name(entry))

    def read(self) -> dict[str, str]:
        """Name → content of all unit files, in order of their names; '' for one that is not text."""
        texts = {}
        for name in self.names():
            try:
                texts[name] = (self._directory / name).read_text("utf-8")
            except UnicodeDecodeError:
                texts[name] = ""
            except FileNotFoundError:
                continue  # removed by someone since the directory was listed
        return texts

    def put(self, name: str, text: str) -> None:
        """Write and link one unit file, or leave it alone where it already is so. Raises ServiceManagerError for a name
        that systemd would not take, or whose link would replace what is not ours."""
        if not is_unit_name(name):
            raise ServiceManagerError(f"write {name}: {INVALID_NAME}")
        target, link = self._directory / name, self._runtime_directory / name
        linked = self._is_ours(link)
        if not linked and os.path.lexists(link):
            raise ServiceManagerError(f"write {name}: {link} is not fleet's; remove it or choose another name")
        # The link comes first: after a crash between the two, read() does not yet show a file that systemd cannot see.
        if not linked:
            self._runtime_directory.mkdir(parents=True, exist_ok=True)
            link.symlink_to(target)
        self._replace(target, text.encode("utf-8"))

    def drop(self, name: str) -> None:
        """Unlink and delete one unit file; of a name unknown there is nothing to drop."""
        if not is_unit_name(name):
            return
        link = self._runtime_directory / name
        (self._directory / name).unlink(missing_ok=True)
        if self._is_ours(link):
            link.unlink()

    def announce(self) -> None:
        """Let systemd notice links made since its last look without a reload.

        It looks again when the directory's modification time has changed, and on older kernels that time moves in steps
        of some milliseconds: a link made in the step of its last look would not be found.
        """
        if self._runtime_directory.is_dir():
            now = time.time_ns()  # given as a number: left to the kernel, it would move in the same steps
            os.utime(self._runtime_directory, ns=(now, now))

    def foreign_path(self, name: str, search_path: Iterable[str]) -> str:
        """Where in these directories a unit of this name, or its template, is found that is not ours; or ''."""
        for candidate in (name, parse_name(name).template):
            for directory in search_path if candidate else ():
                path = os.path.join(directory, candidate)  # for each new unit a dozen: a Path costs as much as looking
                if os.path.lexists(path) and not self._is_ours(Path(path)):
                    return path
        return ""

    def owners_of_links(self, names: Iterable[str]) -> list[str]:
        """The units that enabling these has given a dependency to, in order."""
        wanted = frozenset(names)
        links = self._runtime_directory.glob("*.*/*")
        return sorted({owner for link in links if link.name in wanted and (owner := link_owner(str(link)))})

    def resolve(self, path: str) -> str:
        """The unit file of ours that this path is a link to, or the path itself."""
        return os.readlink(path) if path and self._is_ours(Path(path)) else path

    def has_linked(self, path: str) -> bool:
        """Whether a unit read from this path was one of ours, also when its file is gone."""
        return Path(path).parent in (self._directory, self._runtime_directory)

    def _is_ours(self, path: Path) -> bool:
        return path.is_symlink() and Path(os.readlink(path)).parent == self._directory

    def _replace(self, target: Path, content: bytes) -> None:
        # An unchanged file keeps its modification time, or systemd would ask for a reload.
        if target.is_file() and target.read_bytes() == content:
            return
        self._directory.mkdir(parents=True, exist_ok=True)
        temporary = self._directory / _BEING_WRITTEN
        try:
            temporary.write_bytes(content)
            temporary.chmod(0o644)
            temporary.replace(target)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise
