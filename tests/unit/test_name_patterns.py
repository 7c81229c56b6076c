"""Names and patterns by which users select units."""

import pytest

from fleetd.model.name_patterns import NamePatterns, is_name_pattern

NAMES = ("web@1.service", "web@2.service", "db.service", r"mnt-my\x2ddata.mount")


@pytest.mark.parametrize(
    ("texts", "selected"),
    [
        ([], []),
        (["db.service"], ["db.service"]),
        (["db"], []),
        (["web@*"], ["web@1.service", "web@2.service"]),
        (["web@[^1]*", "db.service"], ["web@2.service", "db.service"]),
        (["web@[!1].service"], ["web@2.service"]),
        (["??.service"], ["db.service"]),
        (["[", "[z-a]*"], []),
        ([r"mnt-my\x2ddata.mount"], [r"mnt-my\x2ddata.mount"]),
        ([r"mnt-my\x2d*"], [r"mnt-my\x2ddata.mount"]),
    ],
)
def test_names_and_patterns_select(texts: list[str], selected: list[str]) -> None:
    assert list(filter(NamePatterns(texts).match, NAMES)) == selected
    assert bool(NamePatterns(texts)) == bool(texts)


def test_names_are_told_from_patterns() -> None:
    assert not any(map(is_name_pattern, NAMES))
    assert all(map(is_name_pattern, ("*", "a?", "[ab]")))
