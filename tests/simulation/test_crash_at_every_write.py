"""fleetd is killed just before and just after each of its writes: each transaction, each call to systemd, each change
of its ledger. A short story is run again for each, and ends as it does without a kill.

All checkers run meanwhile, and afterwards the cluster must converge.
"""

import re
from collections import Counter

import pytest

from tests.simulation.run import RunResult, run_actions
from tests.simulation.scenario import parse_scenario

VICTIM = "m1"
SAMPLE = 7  # a prime: moments come in pairs, before a write and after it
CONVERGENCE_S = 30.0  # the cluster recovers from a kill within seconds

STORY = """
machines m1, m2, m3
3    start web@1.service
4    start web@2.service
5    start web@3.service
6    start once.service          # ends after 15 s
10   edit web@2.service 3        # a limit in a drop-in
14   start web@1.service 2       # replaced
20   edit web@2.service 1        # without it again
28   edit web@3.service 2        # a drop-in that asks for a restart
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
DRAINS = """
machines m1, m2, m3 disk=ssd
3    start web@1.service
4    start web@2.service
5    start web@3.service
6    start picky.service         # fits only on m3
20   drain m3
21   drain m2                    # its member of the group waits for that of m3
100  expect web@1.service has kept its process
100  expect web@2.service runs on m1
100  expect web@3.service runs on m1
100  expect picky.service has kept its process
"""
MOVES = """
machines m1, m2, m3
3    start web@1.service
4    start web@2.service
5    start web@3.service
20   move m3 web@1.service
22   move m1 web@3.service       # waits until the other one is proven
70   expect web@1.service runs on m3
70   expect web@2.service has kept its process
70   expect web@3.service runs on m1
"""
ROLLOUTS = """
machines m1, m2, m3
3    roll 1
15   roll 2                      # reaches one instance after the other
55   expect the rollout of roll@.service is done
55   roll 4                      # systemd refuses it: the first one gets its former content back
95   expect the rollout of roll@.service is reverted
95   expect roll@1.service has edition 2
95   expect roll@2.service has edition 2
95   expect roll@3.service has edition 2
95   expect roll@1.service runs once
"""
HANDOVERS = """
machines m1, m2, m3
3    start twice.service
20   drain m1                    # it runs on there until it is proven on m2
50   expect twice.service runs on m2
50   refuse twice.service for 30
51   drain m2                    # it fails on m3, and stays
80   expect twice.service runs on m2
80   uncordon m1
82   move m1 twice.service
110  expect twice.service runs on m1
"""
CHANGES = {  # story → how often each unit is started
    DRAINS: {"web@1.service": 1, "web@2.service": 2, "web@3.service": 2, "picky.service": 1},
    MOVES: {"web@1.service": 2, "web@2.service": 1, "web@3.service": 2},
    ROLLOUTS: {"roll@1.service": 3, "roll@2.service": 2, "roll@3.service": 2},
    HANDOVERS: {"twice.service": 3},
}
REBOOTS = """
machines m1 disk=hdd, m2 disk=hdd, m3 disk=ssd
1    start web@1.service
3    start web@2.service
4    start picky.service         # stays on m3
5    start everywhere.service
20   ask-reboot m3 m1
140  expect m1 has booted 2 times
140  expect m2 has booted 1 times
140  expect m3 has booted 2 times
140  expect web@1.service runs once
140  expect web@2.service runs once
140  expect picky.service runs on m3
140  expect everywhere.service runs everywhere
"""
AS_LEADER, AS_FOLLOWER = "", f"1 restart {VICTIM}\n"  # another machine leads meanwhile


class KillPoint:
    """Records the moments at which the victim could die, and kills it at the one with this number (None: at none)."""

    def __init__(self, number: int | None) -> None:
        self.moments: list[str] = []
        self._number = number

    def is_fatal(self, machine: str, moment: str) -> bool:
        """True if the fleetd of the machine dies now."""
        if machine != VICTIM:
            return False
        self.moments.append(moment)
        return len(self.moments) - 1 == self._number


def run_story(preface: str, kill_point: KillPoint, story: str = STORY) -> RunResult:
    scenario = parse_scenario(preface + story)
    return run_actions(
        scenario.actions, machines=scenario.machines, is_fatal=kill_point.is_fatal, convergence_s=CONVERGENCE_S
    )


def runs(result: RunResult) -> Counter[str]:
    """How often each unit was started, on any machine."""
    found = (re.search(r" (\S+) process \d+ began", line) for line in result.lines)
    return Counter(each[1] for each in found if each)


@pytest.mark.covers("R.5", "S.18")
@pytest.mark.long
@pytest.mark.parametrize("preface", [AS_LEADER, AS_FOLLOWER], ids=["a-leaders", "a-followers"])
@pytest.mark.parametrize("each", [SAMPLE, pytest.param(1, marks=pytest.mark.soak)], ids=["some", "all"])
def test_a_kill_at_any_write_loses_nothing_and_repeats_nothing(preface: str, each: int) -> None:
    undisturbed = KillPoint(None)
    expected = run_story(preface, undisturbed)
    assert expected.failure is None
    assert {"ledger", "asks"} <= {word for moment in undisturbed.moments for word in moment.split()}
    assert runs(expected) == {"web@1.service": 3, "web@2.service": 1, "web@3.service": 3, "once.service": 1}
    for number, moment in list(enumerate(undisturbed.moments))[::each]:
        result = run_story(preface, KillPoint(number))
        assert result.failure is None, f"killed {moment} (number {number}): {result.failure}"
        assert runs(result) == runs(expected), f"killed {moment} (number {number})"


@pytest.mark.covers("B.8", "C.4")
@pytest.mark.long
@pytest.mark.parametrize("preface", [AS_LEADER, AS_FOLLOWER], ids=["a-leaders", "a-followers"])
@pytest.mark.parametrize("story", CHANGES, ids=["drains", "moves", "rollouts", "handovers"])
@pytest.mark.parametrize("each", [SAMPLE, pytest.param(1, marks=pytest.mark.soak)], ids=["some", "all"])
def test_a_kill_at_any_write_of_a_change_comes_to_the_same_end(each: int, story: str, preface: str) -> None:
    undisturbed = KillPoint(None)
    expected = run_story(preface, undisturbed, story)
    assert expected.failure is None
    assert runs(expected) == CHANGES[story]
    for number, moment in list(enumerate(undisturbed.moments))[::each]:
        result = run_story(preface, KillPoint(number), story)
        assert result.failure is None, f"killed at {number}, {moment}: {result.failure}"
        assert runs(result) == CHANGES[story], f"killed at {number}, {moment}"


@pytest.mark.covers("C.4")
@pytest.mark.long
@pytest.mark.parametrize("preface", [AS_LEADER, AS_FOLLOWER], ids=["a-leaders", "a-followers"])
@pytest.mark.parametrize("each", [SAMPLE, pytest.param(1, marks=pytest.mark.soak)], ids=["some", "all"])
def test_a_kill_at_any_write_in_reboots_ends_each_boot_once(preface: str, each: int) -> None:
    undisturbed = KillPoint(None)
    assert run_story(preface, undisturbed, REBOOTS).failure is None
    for number, moment in list(enumerate(undisturbed.moments))[::each]:
        result = run_story(preface, KillPoint(number), REBOOTS)
        assert result.failure is None, f"killed at {number}, {moment}: {result.failure}"
