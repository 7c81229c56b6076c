"""Ordered: sorted after each write, so that readers in several threads never change it; and what is reachable."""

from itertools import permutations

import pytest

from fleetd.model.ordered import Ordered, reachable


@pytest.mark.parametrize("keys", list(permutations("abcd")))
def test_every_insertion_leaves_the_keys_in_order(keys: tuple[str, ...]) -> None:
    ordered: Ordered[int] = Ordered()
    for count, key in enumerate(keys, start=1):
        ordered[key] = count
        # The dict itself: a mapping that sorts when it is read would pass any other check.
        assert list(dict.__iter__(ordered)) == sorted(keys[:count])
        assert dict(ordered) == {key: turn for turn, key in enumerate(keys[:count], start=1)}


def test_replaced_and_removed_keys_leave_the_others_in_order() -> None:
    ordered: Ordered[int] = Ordered()
    for key in "dacb":
        ordered[key] = 1
    ordered["b"] = 2
    ordered.pop("c")
    ordered["c"] = 3
    assert list(ordered.items()) == [("a", 1), ("b", 2), ("c", 3), ("d", 1)]


def test_reachable_are_the_names_and_their_neighbours_directly_or_through_others() -> None:
    neighbours = {"a": "bc", "b": "a", "c": "d", "e": "a"}
    found = reachable("a", lambda name: neighbours.get(name, ""))
    assert list(found) == ["a", "b", "c", "d"]
