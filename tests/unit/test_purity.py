"""The pure packages may calculate with dates, and never read a clock. Their imports do not show that."""

import ast
from pathlib import Path

import pytest

import fleetd

ROOT = Path(fleetd.__file__).parent
MODULES = sorted(path for folder in ("model", "scheduler", "reconciler") for path in (ROOT / folder).glob("*.py"))
CLOCKS = ("now", "today", "utcnow")


def calls_of_clocks(source: str) -> list[str]:
    calls = (node.func for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call))
    return [call.attr for call in calls if isinstance(call, ast.Attribute) and call.attr in CLOCKS]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_a_pure_module_reads_no_clock(path: Path) -> None:
    assert calls_of_clocks(path.read_text()) == []


def test_a_call_of_a_clock_is_found() -> None:
    assert calls_of_clocks("x = datetime.datetime.now(UTC)\ny = date.today()\nz = now") == ["now", "today"]
