"""fleetd is killed at each of its writes in turn, just before and just after: each transaction, each step that it asks
of systemd, each entry of its ledger. A short story is told again for each, and ends as it does when nobody is killed.

All checkers look on meanwhile, and afterwards the cluster must have healed.
"""

import re
from collections import Counter

import pytest

from tests.simulation.run import Outcome, run_actions
from tests.simulation.scenario import parse_scenario

VICTIM = "m1"
SAMPLE = 7  # a prime: moments come in pairs, before a write and after it
HEALING_S = 30.0  # a kill is got over in some seconds

STORY = """
machines m1, m2, m3
3    start web@1.service
4    start web@2.service
5    start web@3.service
6    start once.service          # ends after 15 s
14   start web@1.service 2       # replaced
24   stop web@1.service
32   launch web@1.service
40   destroy web@1.service
44   power-cut m3 for 30         # its unit goes elsewhere
70   expect web@1.service is unknown
70   expect web@1.service runs nowhere
70   expect web@2.service has kept its process
70   expect web@3.service runs once
70   expect once.service runs nowhere
"""
AS_LEADER, AS_FOLLOWER = "", f"1 restart {VICTIM}\n"  # another machine takes office meanwhile


class Fate:
    """Notes the moments at which the victim could die, and has it die at the one of this number (None: at none)."""

    def __init__(self, number: int | None) -> None:
        self.moments: list[str] = []
        self._number = number

    def is_fatal(self, machine: str, moment: str) -> bool:
        """Whether the fleetd of the machine dies now."""
        if machine != VICTIM:
            return False
        self.moments.append(moment)
        return len(self.moments) - 1 == self._number


def tell(preface: str, fate: Fate) -> Outcome:
    scenario = parse_scenario(preface + STORY)
    return run_actions(scenario.actions, machines=scenario.machines, is_fatal=fate.is_fatal, healing_s=HEALING_S)


def runs(outcome: Outcome) -> Counter[str]:
    """How often each unit was started, wherever."""
    found = (re.search(r" (\S+) process \d+ began", line) for line in outcome.lines)
    return Counter(each[1] for each in found if each)


@pytest.mark.covers("R.5", "S.18")
@pytest.mark.long
@pytest.mark.parametrize("preface", [AS_LEADER, AS_FOLLOWER], ids=["a-leaders", "a-followers"])
@pytest.mark.parametrize("each", [SAMPLE, pytest.param(1, marks=pytest.mark.soak)], ids=["some", "all"])
def test_a_fleetd_that_is_killed_at_any_of_its_writes_loses_nothing_and_does_nothing_twice(
    preface: str, each: int
) -> None:
    undisturbed = Fate(None)
    expected = tell(preface, undisturbed)
    assert expected.failure is None
    assert runs(expected) == {"web@1.service": 3, "web@2.service": 1, "web@3.service": 2, "once.service": 1}
    for number, moment in list(enumerate(undisturbed.moments))[::each]:
        outcome = tell(preface, Fate(number))
        assert outcome.failure is None, f"killed {moment} (number {number}): {outcome.failure}"
        assert runs(outcome) == runs(expected), f"killed {moment} (number {number})"
