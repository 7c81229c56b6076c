"""How the figures of all runs are kept and shown: the table of the last runs, and the chart of all."""

from xml.etree import ElementTree

import msgspec
import pytest

from contrib.bench.chart import draw
from contrib.bench.figure import Figure, render_table
from contrib.bench.history import (
    BEGIN,
    END,
    PAGE,
    Noted,
    Record,
    panels_of,
    put_table,
    read_history,
    read_machine_runs,
    render_markdown,
)

SVG = "{http://www.w3.org/2000/svg}"


def record(machines: int, one_s: float, memory_mib: float) -> Record:
    figures = {"one": Noted(one_s, "s", 0.05, one_s / 0.05, 0.15), "memory": Noted(memory_mib, "MiB", limit=50.0)}
    return Record("abc", "2026-01-01", "a host", machines, machines * 100, figures)


def test_the_table_shows_the_last_run_of_each_size_side_by_side() -> None:
    table = render_markdown([record(3, 0.2, 49.0), record(20, 0.1, 47.0), record(3, 0.05, 45.0)])
    assert table.splitlines() == [
        "| | 3 machines, 300 units | 20 machines, 2000 units | floor |",
        "|---|--:|--:|---|",
        "| one unit, PUT to reported active | 0.050 s (1.00 ×) | 0.10 s (2.00 ×) | `systemctl start` |",  # noqa: RUF001
        "| memory of a fleetd with its share | 45.0 MiB | 47.0 MiB |  |",
    ]


def test_the_table_goes_between_its_marks() -> None:
    text = f"before\n{BEGIN}old\n{END}after\n"
    assert put_table(text, "new\n") == f"before\n{BEGIN}new\n{END}after\n"
    with pytest.raises(ValueError, match="no place"):
        put_table("before\nafter\n", "new\n")


def test_the_page_shows_the_last_runs() -> None:
    text = PAGE.read_text()
    assert put_table(text, render_markdown(read_machine_runs())) == text


def test_the_chart_has_a_point_for_each_run_and_a_colour_for_each_size() -> None:
    root = ElementTree.fromstring(draw(panels_of([record(3, 0.2, 49.0), record(3, 0.05, 45.0), record(20, 0.1, 47.0)])))
    one = root.findall(f"{SVG}g")[0]
    assert one.findtext(f"{SVG}text") == "one unit active"
    heights: dict[str, list[float]] = {}
    for circle in one.iter(f"{SVG}circle"):
        heights.setdefault(circle.get("fill", ""), []).append(float(circle.get("cy", "")))
    few, many = heights.values()
    assert (len(few), len(many)) == (2, 1)
    newest, before = few
    assert before < many[0] < newest  # less time is lower


def test_the_stored_history_can_be_shown() -> None:
    records = read_history()
    assert records
    assert "<svg" in draw(panels_of(records))
    assert msgspec.json.decode(msgspec.json.encode(records[0]), type=Record) == records[0]


def test_a_figure_is_compared_with_its_target() -> None:
    figure = Figure("many", "many units", "s", (2.0, 3.0, 4.0), (2.0,)).at_most(1.4)
    assert (figure.value, figure.ratio, figure.holds) == (3.0, 1.5, False)
    assert figure.at_most(1.6).holds
    assert "MISSED" in render_table([figure])
    assert Figure("x", "x", "s", (1.0,)).at_most(1.0).holds  # without a floor there is no target
