"""The public host keys of this machine's SSH server, as its files have them."""

from collections.abc import Iterator
from pathlib import Path

from fleetd.model.host_keys import MAX_KEYS, MAX_LENGTH, parse_public_keys, read_sshd_config

SSHD_DIRECTORY = Path("/etc/ssh")
MAX_CONFIG_BYTES = 65536
MAX_CONFIG_FILES = 32

Stamp = tuple[int, int, int] | None
"""What changes with a file or folder: inode, size, time of the last change in ns; None while it does not exist."""


class HostKeys:
    """The keys, read again only when a file or folder that they came from has changed."""

    def __init__(self, directory: Path = SSHD_DIRECTORY) -> None:
        self._directory = directory
        self._stamps: dict[Path, Stamp] = {}  # of each file and folder before it was read
        self._keys: tuple[str, ...] = ()

    def find(self) -> tuple[str, ...]:
        """The public keys, as `KIND BASE64`, beside the keys that HostKey names in sshd_config and the files that this
        includes; where it names none, those in ssh_host_*_key.pub. Private keys are never read. () without an sshd."""
        if not self._stamps or any(_stamp(path) != stamp for path, stamp in self._stamps.items()):
            self._stamps = {}
            self._keys = parse_public_keys([self._read(path, MAX_LENGTH) for path in self._public_files()])
        return self._keys

    def _public_files(self) -> list[Path]:
        private = list(self._find_configured())[:MAX_KEYS]
        public = [path if path.suffix == ".pub" else path.with_name(path.name + ".pub") for path in private]
        return public or self._glob("ssh_host_*_key.pub")

    def _find_configured(self) -> Iterator[Path]:
        """The files of HostKey of sshd_config and of what it includes, in any depth."""
        left = [self._directory / "sshd_config"]
        for _ in range(MAX_CONFIG_FILES):  # which also ends a file that includes itself
            if not left:
                return
            found = read_sshd_config(self._read(left.pop(0), MAX_CONFIG_BYTES))
            yield from (self._directory / key for key in found.host_keys if key.lower() != "none")
            for pattern in found.includes:
                left += self._glob(pattern)

    def _glob(self, pattern: str) -> list[Path]:
        """The files of this pattern, relative to the directory, in order."""
        place = self._directory / pattern
        try:
            self._stamps[place.parent] = _stamp(place.parent)
            return sorted(place.parent.glob(place.name))
        except (OSError, ValueError):
            return []

    def _read(self, path: Path, size: int) -> str:
        """The beginning of a file, '' if there is none that can be read."""
        try:
            self._stamps[path] = _stamp(path)
            if not path.is_file():
                return ""
            with path.open(encoding="utf-8", errors="replace") as file:
                return file.read(size)
        except (OSError, ValueError):
            return ""


def _stamp(path: Path) -> Stamp:
    """Raises ValueError for what cannot be a path."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_ctime_ns
