"""Find the tests that cover each statement about CoreOS fleet and each promise, from their marks, without running them.

A test has the mark `@pytest.mark.covers("2.1.1", …)`, a stateful test of hypothesis is assigned with it
(`TestX = pytest.mark.covers("2.1.1", …)(X.TestCase)`), a scenario of the simulation has a line `# covers 2.1.1 …`.
"""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

TESTS = Path(__file__).parents[1]
SCENARIOS = TESTS / "simulation" / "scenarios"
_MARK = "pytest.mark.covers"
_COMMENT = "# covers "


@cache
def find_covers() -> dict[str, tuple[str, ...]]:
    """Row → the tests (`unit/test_names.py::test_a_name`) and scenarios that cover it, in order."""
    found: dict[str, list[str]] = {}
    for path in sorted(TESTS.rglob("*.py")):
        for test, rows in _marked_in(path):
            for row in rows:
                found.setdefault(row, []).append(f"{path.relative_to(TESTS)}::{test}")
    for path in sorted(SCENARIOS.glob("*.txt")):
        for line in path.read_text().splitlines():
            for row in line.removeprefix(_COMMENT).split() if line.startswith(_COMMENT) else ():
                found.setdefault(row, []).append(str(path.relative_to(TESTS)))
    return {row: tuple(tests) for row, tests in found.items()}


def _marked_in(path: Path) -> Iterator[tuple[str, list[str]]]:
    text = path.read_text()
    if _MARK not in text:
        return
    for node in ast.walk(ast.parse(text)):
        match node:
            case (
                ast.FunctionDef(name=name, decorator_list=marks) | ast.AsyncFunctionDef(name=name, decorator_list=marks)
            ) if name.startswith("test_"):
                pass
            case ast.Assign(targets=[ast.Name(id=name)], value=ast.Call(func=mark)) if name.startswith("Test"):
                marks = [mark]
            case _:
                continue
        for mark in marks:
            if isinstance(mark, ast.Call) and ast.unparse(mark.func) == _MARK:
                yield name, [ast.literal_eval(argument) for argument in mark.args]
