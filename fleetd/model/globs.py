"""The patterns of one unit that others' names are held against, all at once.

How one pattern is read is names.py's matter; who is held against them occupancy.py's.
"""

import re
from functools import cached_property, lru_cache

from fleetd.model.names import glob_expression, literal_prefix


class Globs(tuple[str, ...]):
    """Patterns in the order in which they stand. They are compiled when they are first needed, as one, and kept so for
    as long as the unit's requirements are: a cache that many units share would be too small for some clusters."""

    @cached_property
    def prefixes(self) -> tuple[str, ...]:
        """How the names begin that they may match; '' for a pattern that may match any."""
        return tuple(dict.fromkeys(map(literal_prefix, self)))

    @cached_property
    def _compiled(self) -> re.Pattern[str]:
        expressions = (glob_expression(pattern) for pattern in self)
        return re.compile("|".join(f"(?:{each})" for each in expressions if each is not None) or "(?!)", re.DOTALL)

    def match(self, name: str) -> bool:
        """Whether one of them matches the whole name. Those that are malformed match none."""
        return name.startswith(self.prefixes) and self._compiled.fullmatch(name) is not None


@lru_cache(maxsize=4096)
def share_globs(patterns: tuple[str, ...]) -> Globs:
    """These patterns, the same object for as many units as can be: instances of one template mostly have the same."""
    return Globs(patterns)
