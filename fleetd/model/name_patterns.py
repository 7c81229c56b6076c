"""Names and patterns by which users select units. Pure.

A pattern is matched as by fnmatch(3) against the whole name, as in systemctl: without escapes, since names of units may
contain backslashes. Those of Conflicts= and Replaces= have escapes (globs.py).
"""

import re
from collections.abc import Iterable
from fnmatch import translate
from functools import lru_cache


def is_name_pattern(text: str) -> bool:
    """True for a pattern; names of units have none of these characters."""
    return not {"*", "?", "["}.isdisjoint(text)


@lru_cache(maxsize=1024)
def compile_name_pattern(pattern: str) -> re.Pattern[str]:
    """The expression that matches the names from their beginning to their end."""
    return re.compile(translate(pattern.replace("[^", "[!")))


class NamePatterns:
    """Selects the names that are one of these texts, or match one of them as a pattern."""

    def __init__(self, texts: Iterable[str] = ()) -> None:
        self._names = frozenset(texts)
        self._patterns = [compile_name_pattern(text) for text in sorted(self._names) if is_name_pattern(text)]

    def __bool__(self) -> bool:
        """True if there is any text."""
        return bool(self._names)

    def match(self, name: str) -> bool:
        """True if the name is selected."""
        return name in self._names or any(pattern.match(name) for pattern in self._patterns)
