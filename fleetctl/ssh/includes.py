"""~/.ssh/config with what it includes, as one text: the library that reads it passes over Include.

An included file may open Host and Match sections of its own; after it, the section that it stood in goes on.
"""

import glob
import os
import re
import shlex
from collections.abc import Iterator

from fleetctl.errors import SshFailed

DEEPEST = 16  # as in OpenSSH
_DIRECTIVE = re.compile(r"\s*(\w+)(?:\s*=\s*|\s+)(.*)")
_EVERY_HOST = ("host *", "match all")
_TO_ALL = "Host *"  # what a file begins with, unsaid


def read_with_includes(path: str) -> str:
    """The text of a configuration file, with what it includes in the places of its Include lines; '' where there is no
    such file. Raises SshFailed for what cannot be read, or not be put so."""
    try:
        return "\n".join(_expand(path, _TO_ALL, 0))
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise SshFailed(f"open {error.filename}: {(error.strerror or str(error)).lower()}") from error


def _expand(path: str, section: str, depth: int) -> Iterator[str]:
    """The lines of a file that stands in this section, and of those that it includes."""
    if depth > DEEPEST:
        raise SshFailed(
            f"{path} is included more than {DEEPEST} times one within the other: does a file include itself?"
        )
    outer = section
    with open(path, encoding="utf-8", errors="surrogateescape") as file:
        lines = file.read().splitlines()
    for line in lines:
        found = _DIRECTIVE.fullmatch(line)
        directive = found[1].lower() if found else ""
        if directive in ("host", "match"):
            if depth and not _is_for_all(outer):
                raise SshFailed(
                    f"{path} opens the section '{line.strip()}' and is included in the section '{outer}', which "
                    "fleetctl cannot join: put that Include before the first Host or Match"
                )
            section = line.strip()
        if found and directive == "include":
            for included in _find(found[2], path):
                yield from _expand(included, section, depth + 1)
            yield section
        else:
            yield line


def _is_for_all(section: str) -> bool:
    return " ".join(section.lower().replace("=", " ").split()) in _EVERY_HOST


def _find(value: str, path: str) -> list[str]:
    """The files that an Include names, which may be none; relative names are below ~/.ssh."""
    try:
        patterns = shlex.split(value, comments=True)
    except ValueError as error:
        raise SshFailed(f"{path} cannot be used: Include {value}: {str(error).lower()}") from error
    home = os.path.expanduser("~/.ssh")
    return [file for pattern in patterns for file in sorted(glob.glob(os.path.join(home, os.path.expanduser(pattern))))]
