"""A machine's room finds those who mind one another by short ways: it must find the same as by asking each pair."""

from hypothesis import given
from hypothesis import strategies as st

from fleetd.model.constraints import Requirements
from fleetd.model.globs import Globs
from fleetd.model.names import literal_prefix, matches_glob
from fleetd.scheduler.occupancy import Occupancy

NAMES = st.sampled_from(
    ["web@1.service", "web@2.service", "web@1.timer", "web@.service", "web@1@2.service", "web.service", "we@1.service"]
)
PATTERNS = st.sampled_from(
    [
        "web@*.service",
        "web@1*",
        "web@1@*",
        "w*",
        "*@1.service",
        "we[b]@*",
        "web\\@*",
        "web@?.timer",
        "web.service",
        "[",
        "",
    ]
)
REQUIREMENTS = st.builds(Requirements, conflicts=st.lists(PATTERNS, max_size=3, unique=True).map(Globs))
STEPS = st.lists(st.tuples(NAMES, st.none() | REQUIREMENTS), max_size=12)  # None: it goes


def conflict(name: str, mine: Requirements, other: str, theirs: Requirements) -> bool:
    """By the rule alone (reference 2.6)."""
    by_mine = any(matches_glob(pattern, other) for pattern in mine.conflicts)
    return name != other and (by_mine or any(matches_glob(pattern, name) for pattern in theirs.conflicts))


@given(STEPS, NAMES, REQUIREMENTS)
def test_whoever_conflicts_is_found_whatever_came_and_went(
    steps: list[tuple[str, Requirements | None]], name: str, mine: Requirements
) -> None:
    occupancy, here = Occupancy(), dict[str, Requirements]()
    for unit, operations in steps:
        occupancy.discard(unit)
        here.pop(unit, None)
        if operations is not None:
            occupancy.add(unit, operations, staying=True)
            here[unit] = operations
        occupancy.may_conflict(name, mine)  # what it remembers of this must not outlive the next step
    expected = {other for other, theirs in here.items() if conflict(name, mine, other, theirs)}
    for each in (occupancy, occupancy.copy()):
        assert set(each.conflicting(name, mine)) == expected
        assert each.may_conflict(name, mine) or not expected


@given(PATTERNS, NAMES)
def test_what_a_pattern_matches_begins_with_its_literal_prefix(pattern: str, name: str) -> None:
    assert name.startswith(literal_prefix(pattern)) or not matches_glob(pattern, name)
