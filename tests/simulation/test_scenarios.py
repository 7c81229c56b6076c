"""The scenarios in the folder beside this file: one for each fault that a cluster has to survive."""

from pathlib import Path

import pytest

from tests.simulation.faults import MACHINES, draw_actions
from tests.simulation.run import run_scenario
from tests.simulation.scenario import Scenario, parse_scenario, render_scenario

SCENARIOS = sorted((Path(__file__).parent / "scenarios").glob("*.txt"))


@pytest.mark.parametrize("path", SCENARIOS, ids=lambda path: path.stem)
def test_a_scenario_meets_its_expectations(path: Path) -> None:
    scenario = parse_scenario(path.read_text())
    result = run_scenario(scenario)
    assert result.failure is None, f"{result.failure}\nagain: python -m tests.simulation scenario {path}"


def test_there_are_scenarios() -> None:
    assert SCENARIOS


def test_a_rendered_scenario_reads_as_the_same() -> None:
    actions = draw_actions(0)
    config = ("failover_delay=1min", "rerun_after_failover=true")
    rendered = render_scenario(MACHINES, actions, config, 120.0)
    assert parse_scenario(rendered) == Scenario(MACHINES, actions, config, 120.0)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [("0 start a.service", "which machines"), ("machines m1\n0 dance m1", "line 2.*dance is no verb")],
)
def test_a_malformed_scenario_is_refused_with_its_line(text: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        parse_scenario(text)


def test_a_false_expectation_fails_the_run() -> None:
    scenario = parse_scenario("machines m1\n1 start web@1.service\n5 expect web@1.service runs nowhere")
    failure = run_scenario(scenario).failure
    assert failure is not None
    assert failure.rule == "Expectation"
