"""Suggestions for misspelt names. For units only at a terminal, since they need a request."""

import sys
from collections.abc import Collection
from typing import TYPE_CHECKING

from fleetctl import terminal
from fleetctl.errors import ClientError

if TYPE_CHECKING:
    from fleetctl.client import Client

MOST = 5


def nearest(word: str, names: Collection[str]) -> list[str]:
    """At most five names that begin with the word, else the most similar ones."""
    import difflib  # imported late: rarely needed

    stem = _strip_type(word)
    begun = sorted(name for name in names if stem and name.startswith(stem))
    stems = {_strip_type(name): name for name in names}  # compare without the type, which most units share
    return begun[:MOST] or [stems[match] for match in difflib.get_close_matches(stem, stems, MOST)]


def _strip_type(name: str) -> str:
    return name.rpartition(".")[0] or name


def render_hint(candidates: Collection[str]) -> str:
    """The question after an empty line, '' without candidates."""
    return "\nDid you mean this?\n" + "".join(f"\t{name}\n" for name in candidates) if candidates else ""


def suggest_unit(client: "Client", name: str) -> str:
    """A hint for the error that a unit does not exist; '' unless stderr is a terminal."""
    if not terminal.is_watched(sys.stderr):
        return ""
    try:
        hint = render_hint(nearest(name, [unit.name for unit in client.units()]))
    except ClientError:
        return ""  # the caller's error matters more
    return "\n" + hint.rstrip("\n") if hint else ""
