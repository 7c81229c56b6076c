"""The indexes of an occupancy find the same conflicts as comparing each pair of units."""

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
STEPS = st.lists(st.tuples(NAMES, st.none() | REQUIREMENTS), max_size=12)  # None: removed


def conflict(name: str, mine: Requirements, other: str, theirs: Requirements) -> bool:
    """True if Conflicts= of either unit matches the other."""
    by_mine = any(matches_glob(pattern, other) for pattern in mine.conflicts)
    return name != other and (by_mine or any(matches_glob(pattern, name) for pattern in theirs.conflicts))


@given(STEPS, NAMES, REQUIREMENTS)
def test_conflicting_units_are_found_after_any_additions_and_removals(
    steps: list[tuple[str, Requirements | None]], name: str, mine: Requirements
) -> None:
    occupancy, here = Occupancy(), dict[str, Requirements]()
    for unit, requirements in steps:
        occupancy.discard(unit)
        here.pop(unit, None)
        if requirements is not None:
            occupancy.add(unit, requirements, staying=True)
            here[unit] = requirements
        occupancy.may_conflict(name, mine)  # fills the cache, which the next step must invalidate
    expected = {other for other, theirs in here.items() if conflict(name, mine, other, theirs)}
    for each in (occupancy, occupancy.copy()):
        assert set(each.conflicting(name, mine)) == expected
        assert each.may_conflict(name, mine) or not expected


@given(PATTERNS, NAMES)
def test_every_name_that_a_pattern_matches_starts_with_its_literal_prefix(pattern: str, name: str) -> None:
    assert name.startswith(literal_prefix(pattern)) or not matches_glob(pattern, name)
