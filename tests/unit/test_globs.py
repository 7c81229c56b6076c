"""A unit's patterns, matched against a name all at once: with the same result as one by one."""

from hypothesis import given
from hypothesis import strategies as st

from fleetd.model.globs import Globs, share_globs
from fleetd.model.names import literal_prefix, matches_glob

PATTERN = st.text("ab*?[]\\@.-^|()", max_size=8)
NAME = st.text("ab@.|", min_size=1, max_size=8)


@given(st.lists(PATTERN, max_size=5), NAME)
def test_a_name_matches_if_any_of_the_patterns_does(patterns: list[str], name: str) -> None:
    globs = Globs(patterns)
    assert globs.match(name) == any(matches_glob(pattern, name) for pattern in patterns)
    assert globs.match(name) <= name.startswith(globs.prefixes)
    assert set(globs.prefixes) == set(map(literal_prefix, patterns))


def test_a_set_of_patterns_reads_as_its_patterns_and_is_shared() -> None:
    assert Globs(["web@*", "db"]) == ("web@*", "db")
    assert share_globs(("web@*",)) is share_globs(("web@*",))
