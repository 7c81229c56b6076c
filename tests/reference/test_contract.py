"""The tables in contract/ and in promises.md are complete: each statement about CoreOS fleet and each promise has a
row, and each row has tests that cover it (coverage.py), or a reason. `python -m tests.reference` prints the rows with
their tests."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec
import pytest

from tests.reference.coverage import find_covers

CONTRACT = Path(__file__).parent / "contract"
PROMISES = Path(__file__).parent / "promises.md"
STATUSES = ("held", "differs", "quirk mended", "meaningless here")

# Section of the reference → number of its statements.
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

# Section of the promises → number of its promises: about troubles of users, rules, failures of machines, input from
# outside, changes of a running cluster, and what may go wrong in them.
PROMISED = {"P": 18, "R": 15, "S": 21, "H": 7, "C": 16, "B": 13}


class Row(msgspec.Struct, frozen=True):
    """One statement about CoreOS fleet or one promise, and its status."""

    section: str
    number: str
    statement: str
    status: str
    reason: str


def parse_row(section: str, line: str) -> Row:
    number, statement, status = (cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1])
    kind, _, reason = status.partition(": ")
    return Row(section, number, statement, kind, reason)


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
PROMISE_ROWS = parse_table(PROMISES.read_text())


def faults(row: Row, covers: Mapping[str, tuple[str, ...]]) -> Iterator[str]:
    """What is wrong with a row, given the tests that cover each."""
    if not row.statement:
        yield "it states nothing"
    if row.status not in STATUSES:
        yield f"{row.status!r} is none of {', '.join(STATUSES)}"
    if row.status in ("differs", "meaningless here") and not row.reason:
        yield "it gives no reason"
    if row.status != "meaningless here" and row.number not in covers:
        yield "no test covers it"


def test_every_statement_of_every_section_has_its_row() -> None:
    assert Counter(row.section for row in ROWS) == STATEMENTS


@pytest.mark.parametrize("section", STATEMENTS)
def test_rows_are_numbered_and_covered_or_give_a_reason(section: str) -> None:
    rows = [row for row in ROWS if row.section == section]
    assert [row.number for row in rows] == [f"{section}.{number}" for number in range(1, STATEMENTS[section] + 1)]
    assert [f"{row.number}: {fault}" for row in rows for fault in faults(row, find_covers())] == []


@pytest.mark.parametrize("section", PROMISED)
def test_every_promise_has_its_row_and_is_covered(section: str) -> None:
    rows = [row for row in PROMISE_ROWS if row.section == section]
    assert [row.number for row in rows] == [f"{section}.{number}" for number in range(1, PROMISED[section] + 1)]
    assert [row.number for row in rows if row.status != "held"] == []
    assert [f"{row.number}: {fault}" for row in rows for fault in faults(row, find_covers())] == []


def test_every_mark_names_a_row_that_exists() -> None:
    known = {row.number for row in (*ROWS, *PROMISE_ROWS)}
    assert {row: tests for row, tests in find_covers().items() if row not in known} == {}


@pytest.mark.parametrize(
    ("line", "covers", "fault"),
    [
        ("| P.1 | something | held |", {}, "no test covers it"),
        ("| P.1 | | held |", {"P.1": ("unit/test_a.py::test_a",)}, "it states nothing"),
        ("| P.1 | something | perhaps |", {"P.1": ("unit/test_a.py::test_a",)}, "'perhaps' is none of "),
        ("| P.1 | something | differs |", {"P.1": ("unit/test_a.py::test_a",)}, "it gives no reason"),
    ],
)
def test_an_incomplete_row_is_found(line: str, covers: dict[str, tuple[str, ...]], fault: str) -> None:
    (found,) = faults(parse_row("P", line), covers)
    assert found.startswith(fault)
