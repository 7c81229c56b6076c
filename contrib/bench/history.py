"""The figures of all runs so far, one line of JSON each, and the table of the last ones in docs/performance.md.

`python -m contrib.bench.history` draws the chart (history.svg) and writes the table again. A run does so when it ends.
"""

import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from contrib.bench.chart import Panel, Series, draw
from contrib.bench.figure import Figure, render_number

HISTORY = Path(__file__).with_name("history.jsonl")
PICTURE = HISTORY.with_suffix(".svg")
PAGE = Path(__file__).parents[2] / "docs/performance.md"
BEGIN, END = "<!-- figures: contrib/bench/history.py -->\n", "<!-- end of figures -->\n"


class Noted(msgspec.Struct, frozen=True):
    """One figure as it was."""

    value: float
    unit: str
    floor: float | None = None
    ratio: float | None = None
    limit: float | None = None


class Record(msgspec.Struct, frozen=True):
    """One run. Ratios compare between machines (`host`); seconds do not."""

    commit: str
    date: str
    host: str
    machines: int
    units: int
    figures: dict[str, Noted]
    bench: str = "machines"


# What the table has: a figure's key, what it says, and how its floor is to be read.
ROWS = (
    ("one", "one unit, PUT to reported active", "`systemctl start`"),
    ("many", "all units, request to all active", "systemd alone"),
    ("many_put", "all units, with a request for each", "systemd alone"),
    ("cut", "power cut, to its share of the units active elsewhere", "`agent_ttl`"),
    ("memory", "memory of a fleetd with its share", ""),
    ("growth", "and for each further unit", ""),
    ("rest_fleetd", "at rest, processor time of a fleetd (of a core)", ""),
    ("rest_etcd", "at rest, processor time of etcd (of a core)", "an idle etcd"),
    ("requests", "at rest, store requests a minute, a machine", "without units"),
    ("list_units", "`fleetctl list-units` of all", "starting Python"),
    ("apply", "`fleetctl apply` of 500 unchanged files", "starting Python"),
    ("restart", "`fleetctl rollout restart` of 100 instances, ten at a time", "`systemctl restart`, ten at a time"),
)
PANELS = (
    ("one", "one unit active", "s"),
    ("many", "all units active, × systemd alone", "×"),  # noqa: RUF001 (a multiplication)
    ("cut", "power cut to active elsewhere", "s"),
    ("memory", "memory of a fleetd", "MiB"),
    ("rest_fleetd", "fleetd at rest", "%"),
    ("rest_etcd", "etcd at rest", "%"),
)


def note(figures: Sequence[Figure], machines: int, units: int, bench: str = "machines") -> None:
    """Append this run to the history, and show it where the history is shown."""
    noted = {
        figure.key: Noted(
            figure.value,
            figure.unit,
            figure.floor,
            figure.ratio,
            figure.limit if figure.limit < float("inf") else None,
        )
        for figure in figures
    }
    commit = _git("describe", "--always", "--dirty", "--abbrev=12")
    date = datetime.now(UTC).isoformat(timespec="seconds")
    record = Record(commit, date, describe_host(), machines, units, noted, bench)
    with HISTORY.open("ab") as history:
        history.write(msgspec.json.encode(record) + b"\n")
    show()


def show() -> None:
    """Draw the chart, and write the table into docs/performance.md."""
    records = read_machine_runs()
    PICTURE.write_text(draw(panels_of(records)))
    PAGE.write_text(put_table(PAGE.read_text(), render_markdown(records)))


def put_table(text: str, table: str) -> str:
    """The text with this table where its marks are. Raises ValueError where they are not."""
    head, begin, rest = text.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"no place for the table of figures: {BEGIN.strip()} … {END.strip()}")
    return head + begin + table + end + tail


def read_history() -> list[Record]:
    """All runs, the first one first."""
    return [msgspec.json.decode(line, type=Record) for line in HISTORY.read_bytes().splitlines()]


def read_machine_runs() -> list[Record]:
    """All runs on real machines, the first one first."""
    return [record for record in read_history() if record.bench == "machines"]


def describe_host() -> str:
    """What this machine is, in a few words."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    memory_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{os.cpu_count()} cores ({models[0] if models else platform.machine()}), {memory_gib:.0f} GiB"


def render_markdown(records: Sequence[Record]) -> str:
    """The last run of each size, side by side."""
    last = {(record.machines, record.units): record for record in records}
    sizes = sorted(last)
    heads = [f"{machines} machines, {units} units" for machines, units in sizes]
    lines = [f"| | {' | '.join(heads)} | floor |", "|---|" + "--:|" * len(sizes) + "---|"]
    for key, what, floor in ROWS:
        cells = [_render_cell(last[size].figures.get(key)) for size in sizes]
        if any(cells):
            lines.append(f"| {what} | {' | '.join(cells)} | {floor} |")
    return "\n".join(lines) + "\n"


def _render_cell(noted: Noted | None) -> str:
    """The figure, and how it stands to its floor."""
    if noted is None:
        return ""
    value = render_number(noted.value, noted.unit).removesuffix(" /min")
    return value if noted.ratio is None else f"{value} ({noted.ratio:.2f} ×)"  # noqa: RUF001


def panels_of(records: Sequence[Record]) -> list[Panel]:
    """What the picture shows: for each size of cluster its runs, in the order in which they were."""
    panels = []
    for key, title, unit in PANELS:
        series = []
        for machines in sorted({record.machines for record in records}):
            found = [record.figures.get(key) for record in records if record.machines == machines]
            values = [noted.ratio if key == "many" else noted.value for noted in found if noted]
            promised = [_promise(noted, key) for noted in found if noted]
            points = tuple(value for value in values if value is not None)
            if points:
                series.append(Series(f"{machines} machines", points, promised[-1]))
        panels.append(Panel(title, unit, tuple(series)))
    return panels


def _promise(noted: Noted, key: str) -> float | None:
    if noted.limit is None or key != "many":
        return noted.limit
    return noted.limit / noted.floor if noted.floor else None


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", "-C", HISTORY.parent, *arguments], capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


if __name__ == "__main__":
    show()
    sys.exit(0)
