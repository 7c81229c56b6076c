"""Which lines of the stream of events a reader gets."""

import pytest

from fleetd.api.schema import Event
from fleetd.api.v2.event_lines import Selection
from fleetd.model.name_patterns import NamePatterns

M1 = "9678f7a7" * 4


@pytest.mark.parametrize(
    ("patterns", "line", "is_selected"),
    [
        (["web@*.service"], Event("rollout", subject="web@.service", step="done"), True),
        (["web@.service"], Event("rollout", subject="web@.service", step="done"), True),
        (["web@1.service"], Event("rollout", subject="web@.service", units=("web@1.service",)), True),
        (["web@2.service"], Event("rollout", subject="web@.service", units=("web@1.service",)), False),
        (["db.service"], Event("rollout", subject="db.service", step="done"), True),
        (["db.service"], Event("asked", subject="db.service", action="set-secret"), False),
        (["db.service"], Event("lost", machine=M1), False),
        (["db.service"], Event("gap"), True),
    ],
)
def test_a_unit_selects_what_is_about_it_and_about_the_rollout_of_its_name(
    patterns: list[str], line: Event, is_selected: bool
) -> None:
    assert Selection(units=NamePatterns(patterns)).selects(line) is is_selected
