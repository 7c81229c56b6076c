"""Did you mean: the names that come nearest to one that there is not.

Of units this is said to a person at a terminal only: it takes a request, and scripts get what they always got.
"""

import sys
from collections.abc import Collection
from typing import TYPE_CHECKING

from fleetctl import screen
from fleetctl.errors import ClientError

if TYPE_CHECKING:
    from fleetctl.client import Client

MOST = 5


def nearest(word: str, names: Collection[str]) -> list[str]:
    """The names that begin with the word, else those that resemble it; at most five, by name or by likeness."""
    import difflib  # here, because nobody waits for it who writes a name right

    stem = _strip_type(word)
    begun = sorted(name for name in names if stem and name.startswith(stem))
    stems = {_strip_type(name): name for name in names}  # the type is what all units have in common
    return begun[:MOST] or [stems[match] for match in difflib.get_close_matches(stem, stems, MOST)]


def _strip_type(name: str) -> str:
    return name.rpartition(".")[0] or name


def render_hint(candidates: Collection[str]) -> str:
    """The question, after an empty line; '' where there is nothing to ask."""
    return "\nDid you mean this?\n" + "".join(f"\t{name}\n" for name in candidates) if candidates else ""


def suggest_unit(client: "Client", name: str) -> str:
    """What to add to an error that says that there is no such unit; '' where nobody is there to read it."""
    if not screen.is_watched(sys.stderr):
        return ""
    try:
        hint = render_hint(nearest(name, [unit.name for unit in client.units()]))
    except ClientError:
        return ""  # the error itself is what matters
    return "\n" + hint.rstrip("\n") if hint else ""
