"""All Conflicts= or Replaces= patterns of one unit, matched at once."""

import re
from functools import cached_property, lru_cache

from fleetd.model.names import glob_expression, literal_prefix


class Globs(tuple[str, ...]):
    """Glob patterns in the order of the unit file. They are compiled into one expression when first needed, and kept as
    long as the unit's requirements: a shared cache would be too small for some clusters."""

    @cached_property
    def prefixes(self) -> tuple[str, ...]:
        """The literal beginnings of the names that may match; '' for a pattern that may match any name."""
        return tuple(dict.fromkeys(map(literal_prefix, self)))

    @cached_property
    def _compiled(self) -> re.Pattern[str]:
        expressions = (glob_expression(pattern) for pattern in self)
        return re.compile("|".join(f"(?:{each})" for each in expressions if each is not None) or "(?!)", re.DOTALL)

    def match(self, name: str) -> bool:
        """True if one of the patterns matches the whole name. A malformed pattern matches none."""
        return name.startswith(self.prefixes) and self._compiled.fullmatch(name) is not None


@lru_cache(maxsize=4096)
def share_globs(patterns: tuple[str, ...]) -> Globs:
    """These patterns, as one object for all units that have them: instances of a template do."""
    return Globs(patterns)
