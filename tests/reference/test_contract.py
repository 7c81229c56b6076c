"""The tables in contract/ and in promises.md are whole: each statement of the reference and each promise has its row,
and each row tests that exist, or a reason. They are read, never run: that the tests pass is their own matter.
"""

import ast
import re
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import msgspec
import pytest

TESTS = Path(__file__).parents[1]
CONTRACT = TESTS / "reference" / "contract"
SCENARIOS = Path("simulation/scenarios")
PROMISES = TESTS / "reference" / "promises.md"
STATUSES = ("held", "differs", "quirk mended", "meaningless here")

# Section of the reference → how many statements it makes.
STATEMENTS = {
    "1.1": 13,
    "1.2": 6,
    "1.3": 10,
    "1.4": 20,
    "1.5": 5,
    "1.6": 4,
    "1.7": 9,
    "1.8": 6,
    "1.9": 6,
    "1.10": 13,
    "2.1": 9,
    "2.2": 5,
    "2.3": 6,
    "2.4": 3,
    "2.5": 5,
    "2.6": 3,
    "2.7": 6,
    "2.8": 3,
    "2.9": 2,
    "2.10": 9,
    "3.1": 10,
    "3.2": 3,
    "3.3": 16,
    "3.4": 10,
    "3.5": 4,
    "3.6": 11,
    "3.7": 6,
    "3.8": 43,
    "3.9": 21,
    "3.10": 34,
    "4.1": 19,
    "4.2": 8,
    "4.3": 6,
    "4.4": 17,
    "4.5": 4,
    "4.6": 10,
    "4.7": 4,
    "4.8": 1,
    "4.9": 4,
    "5.1": 8,
    "5.2": 6,
    "5.3": 18,
    "5.4": 9,
    "5.5": 3,
    "5.6": 5,
    "6.1": 13,
    "6.2": 5,
    "6.3": 5,
    "7": 11,
    "8": 14,
    "9": 14,
    "10.1": 12,
    "10.2": 19,
    "10.3": 10,
    "10.4": 11,
    "10.5": 6,
    "10.6": 13,
    "10.7": 15,
}

# Section of the promises → how many there are: of what users suffered from, of rules, of what befalls machines, and of
# what comes from outside.
PROMISED = {"P": 18, "R": 9, "S": 21, "H": 7}


class Row(msgspec.Struct, frozen=True):
    """One statement of the reference, as our own words have it, and what holds it."""

    section: str
    number: str
    statement: str
    status: str
    reason: str
    tests: tuple[str, ...]


def parse_row(section: str, line: str) -> Row:
    number, statement, status, tests = (cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1])
    kind, _, reason = status.partition(": ")
    return Row(section, number, statement, kind, reason, tuple(test for test in tests.split("<br>") if test))


def parse_table(text: str) -> list[Row]:
    """The rows below each `## SECTION title`."""
    rows: list[Row] = []
    section = ""
    for line in text.splitlines():
        if line.startswith("## "):
            section = line.split()[1]
        elif line.startswith("|") and not line.startswith(("| row |", "|---")):
            rows.append(parse_row(section, line))
    return rows


ROWS = [row for path in sorted(CONTRACT.glob("[0-9]*.md")) for row in parse_table(path.read_text())]


@cache
def names_in(path: str) -> frozenset[str]:
    """The names of the tests that a file of the suite defines."""
    tree = ast.parse((TESTS / path).read_text())
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    return frozenset(node.name for node in ast.walk(tree) if isinstance(node, functions) and node.name[:5] == "test_")


def faults(row: Row) -> Iterator[str]:
    """What is wrong with a row."""
    if not row.statement:
        yield "it states nothing"
    if row.status not in STATUSES:
        yield f"{row.status!r} is none of {', '.join(STATUSES)}"
    if row.status in ("differs", "meaningless here") and not row.reason:
        yield "it gives no reason"
    if row.status != "meaningless here" and not row.tests:
        yield "no test holds it"
    if len(set(row.tests)) != len(row.tests):
        yield "it names a test twice"
    for test in row.tests:
        if not exists(test):
            yield f"there is no {test}"


def exists(test: str) -> bool:
    """Whether there is such a test, or such a scenario of the simulator's."""
    path, _, name = test.partition("::")
    if Path(path).parent == SCENARIOS and not name:
        return (TESTS / path).is_file()
    return (TESTS / path).is_file() and name in names_in(path)


def test_every_statement_of_every_section_has_its_row() -> None:
    assert Counter(row.section for row in ROWS) == STATEMENTS


@pytest.mark.parametrize("section", STATEMENTS)
def test_rows_are_numbered_and_say_what_holds_them_or_why_nothing_does(section: str) -> None:
    rows = [row for row in ROWS if row.section == section]
    assert [row.number for row in rows] == [f"{section}.{number}" for number in range(1, STATEMENTS[section] + 1)]
    assert [f"{row.number}: {fault}" for row in rows for fault in faults(row)] == []


@pytest.mark.parametrize("section", PROMISED)
def test_every_promise_has_its_row_and_each_is_held_by_tests_that_exist(section: str) -> None:
    rows = [row for row in parse_table(PROMISES.read_text()) if row.section == section]
    assert [row.number for row in rows] == [f"{section}.{number}" for number in range(1, PROMISED[section] + 1)]
    assert [row.number for row in rows if row.status != "held"] == []
    assert [f"{row.number}: {fault}" for row in rows for fault in faults(row)] == []


def test_a_promise_that_names_what_does_not_exist_is_noticed() -> None:
    found = [
        list(faults(parse_row("P", f"| P.1 | something | held | {tests} |")))
        for tests in ("", "unit/test_no.py::test_a", "unit/test_names.py::test_no", "simulation/scenarios/no.txt")
    ]
    assert all(len(each) == 1 for each in found)
