"""A small run goes through every phase, and its report shows all of them. Times are not checked."""

from pathlib import Path

import pytest

from contrib.bench.scale.phases import JOIN, ONE, START, Size
from contrib.bench.scale.report import figures_of, render_report
from contrib.bench.scale.run import run_scale
from tests.requirements import require_etcd

SMALL = Size(machines=5, units=50, ttl_s=2.0, rest_s=1.0, processes=2)
LARGE = Size(machines=100, units=2000, ttl_s=10.0, rest_s=10.0, processes=2)


@pytest.mark.long
@pytest.mark.parametrize("size", [SMALL, pytest.param(LARGE, marks=pytest.mark.soak)], ids=["small", "large"])
def test_a_run_goes_through_every_phase_and_is_reported(tmp_path: Path, size: Size) -> None:
    require_etcd()
    said: list[str] = []
    findings = run_scale(size, tmp_path, said.append)
    names = list(findings.phases)
    assert names[:3] == [JOIN, "at rest, without units", START]
    assert names[3:5] == ["at rest, with all units", ONE]
    assert names[5:] == ["one machine lost", "a tenth of the machines lost", "the leader's machine lost"]
    assert [line.partition(":")[0] for line in said] == [*names, "the floor of it"]
    start = findings.phases[START]
    assert start.counts["transaction units"].keys == size.units + 1  # the events that tell of it
    assert start.counts["transaction units"].requests == 1  # all at once
    # The machine of each, what its machine reads; with each transaction the events, and at most the usage so far.
    decided = start.counts["transaction decisions"]
    assert 2 * size.units + decided.requests < decided.keys <= 2 * size.units + 2 * decided.requests
    assert all(phase.took_s > 0 and phase.etcd_cpu_s >= 0 for phase in findings.phases.values())
    # no machine is dead before its lease ends
    assert all(findings.phases[name].took_s > size.ttl_s / 2 for name in names[5:])
    assert findings.floor.took_s > 0
    assert {figure.key: figure.value for figure in figures_of(findings)}["start"] == start.took_s
    report = render_report(findings)
    assert all(name in report for name in names)
    assert f"| {size.machines * 10} | {size.units * 10} |" in report


@pytest.mark.long
def test_a_run_with_workers_has_etcd_asked_by_servers_alone(tmp_path: Path) -> None:
    require_etcd()
    size = Size(machines=12, units=24, ttl_s=2.0, rest_s=1.0, processes=2, servers=3)
    findings = run_scale(size, tmp_path, lambda said: None)
    start = findings.phases[START]
    assert start.counts["transaction units"].keys == size.units + 1  # the events that tell of it
    assert start.counts["transaction states"].keys >= size.units  # what the servers wrote for workers
    assert findings.phases["the leader's machine lost"].took_s > 0
    assert "3 machines are servers" in render_report(findings)
