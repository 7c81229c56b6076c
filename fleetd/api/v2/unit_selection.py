"""Which units a request is about."""

from collections.abc import Sequence

from fleetd.api.http import ApiError
from fleetd.model.name_patterns import NamePatterns, is_name_pattern

MAX_PATTERNS = 32  # each is compared with each unit, or with the units of each event


def select_units(texts: Sequence[str]) -> NamePatterns:
    """What selects the units with these names or patterns. Raises ApiError if the patterns are too many."""
    if (count := sum(map(is_name_pattern, texts))) > MAX_PATTERNS:
        raise ApiError(400, f"{count} patterns of units: {MAX_PATTERNS} can be asked for at once")
    return NamePatterns(texts)
