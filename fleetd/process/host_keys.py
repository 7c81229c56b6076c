"""The public host keys of this machine's SSH server, as its files have them."""

from collections.abc import Iterator
from pathlib import Path

from fleetd.model.host_keys import MAX_KEYS, MAX_LENGTH, parse_public_keys, read_sshd_config

SSHD_DIRECTORY = Path("/etc/ssh")
MAX_CONFIG_BYTES = 65536
MAX_CONFIG_FILES = 32


def find_host_keys(directory: Path = SSHD_DIRECTORY) -> tuple[str, ...]:
    """The public keys, as `KIND BASE64`, beside the keys that HostKey names in sshd_config and the files that this
    includes; where it names none, those in ssh_host_*_key.pub. Private keys are never read. () without an sshd."""
    private = list(_find_configured(directory))[:MAX_KEYS]
    public = [path if path.suffix == ".pub" else path.with_name(path.name + ".pub") for path in private]
    return parse_public_keys(_read(path, MAX_LENGTH) for path in public or _glob(directory, "ssh_host_*_key.pub"))


def _find_configured(directory: Path) -> Iterator[Path]:
    """The files of HostKey= of sshd_config and what it includes, in any depth."""
    left = [directory / "sshd_config"]
    for _ in range(MAX_CONFIG_FILES):  # which also ends a file that includes itself
        if not left:
            return
        found = read_sshd_config(_read(left.pop(0), MAX_CONFIG_BYTES))
        yield from (directory / key for key in found.host_keys if key.lower() != "none")
        for pattern in found.includes:
            left += _glob(directory, pattern)


def _glob(directory: Path, pattern: str) -> list[Path]:
    """The files of this pattern, relative to the directory, in order."""
    place = directory / pattern
    try:
        return sorted(place.parent.glob(place.name))
    except (OSError, ValueError):
        return []


def _read(path: Path, size: int) -> str:
    """The beginning of a file, '' if there is none that can be read."""
    try:
        if not path.is_file():
            return ""
        with path.open(encoding="utf-8", errors="replace") as file:
            return file.read(size)
    except (OSError, ValueError):
        return ""
