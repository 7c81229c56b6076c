"""A machine that was cut off returns at each moment around the failover of its unit: before and after its lease ends,
the unit is placed elsewhere, the placement is read, the replacement runs, and its state is published. Whatever happened
to the store meanwhile, one allocation runs at the end of a unit that the store knows; others are not touched.

All checkers run meanwhile, and afterwards the cluster must converge.
"""

import pytest

from tests.simulation.run import run_actions
from tests.simulation.scenario import Scenario, parse_scenario, render_scenario

FIRST_S, LAST_S, STEP_S = 30.0, 37.0, 0.5  # the lease ends at about 31 s
CONVERGENCE_S = 60.0

STORY = """
1    start web@1.service
5    snapshot
10   start web@2.service
11   start web@3.service
20   cut m1 for {cut_s}
28   slow m2 0.4 for 20
28   slow-start web@1.service {start_s} for 20
{befalls}
60   expect web@1.service runs once
"""

BEFALLS = {  # for each case: what happens to the store, and what is expected of the units that the snapshot lacks
    "nothing": """
60   expect web@2.service has kept its process
60   expect web@3.service runs once""",
    "a-restore": """
21   restore
60   expect web@2.service has kept its process
60   expect web@3.service has kept its process
60   expect web@3.service is an orphan""",
    "a-restore-and-writes": """
21   restore
22   store-write 30
60   expect web@2.service has kept its process
60   expect web@3.service has kept its process
60   expect web@3.service is an orphan""",
    "a-restore-when-the-lease-ends": """
30.8 restore
33   store-write 30""",
    "a-restore-in-the-failover": """
32.2 restore
36   store-write 30""",
}


def run_story(back_s: float, start_s: float, befalls: str) -> Scenario:
    """The story in which the machine returns at this time."""
    story = STORY.format(cut_s=back_s - 20, start_s=start_s, befalls=BEFALLS[befalls].strip())
    lines = sorted(story.strip().splitlines(), key=lambda line: float(line.split()[0]))
    return parse_scenario("\n".join(["machines m1, m2", *lines]))


@pytest.mark.covers("R.3")
@pytest.mark.parametrize(
    "start_s", [pytest.param(0.0, id="starts-at-once"), pytest.param(1.5, id="starts-slowly", marks=pytest.mark.long)]
)
@pytest.mark.parametrize("befalls", BEFALLS)
def test_one_allocation_runs_whenever_the_machine_returns(befalls: str, start_s: float) -> None:
    for step in range(round((LAST_S - FIRST_S) / STEP_S) + 1):
        back_s = FIRST_S + step * STEP_S
        scenario = run_story(back_s, start_s, befalls)
        result = run_actions(scenario.actions, machines=scenario.machines, convergence_s=CONVERGENCE_S)
        again = render_scenario(scenario.machines, scenario.actions)
        assert result.failure is None, f"back at {back_s:g} s: {result.failure}\n{again}"
