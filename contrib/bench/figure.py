"""A figure: what was measured, what to hold it against, and whether that is good enough. Nothing is measured here."""

import math
import statistics
from collections.abc import Sequence

import msgspec


class Figure(msgspec.Struct, frozen=True):
    """One line of the table. `key` names it in the history. `floor` is what cannot be undercut, taken in the same run;
    `limit` what is promised, in the figure's unit."""

    key: str
    name: str
    unit: str
    samples: tuple[float, ...]
    floor_samples: tuple[float, ...] = ()
    limit: float = math.inf

    @property
    def value(self) -> float:
        return statistics.median(self.samples)

    @property
    def floor(self) -> float | None:
        return statistics.median(self.floor_samples) if self.floor_samples else None

    @property
    def ratio(self) -> float | None:
        return self.value / self.floor if self.floor else None

    @property
    def holds(self) -> bool:
        return self.value <= self.limit

    def at_most(self, ratio: float) -> "Figure":
        """The same, promised to be within so many times its floor."""
        return msgspec.structs.replace(self, limit=ratio * (self.floor or math.inf))


def render_table(figures: Sequence[Figure]) -> str:
    """Columns aligned, numbers to the right."""
    rows = [("figure", "measured", "floor", "ratio", "target", "")]
    rows += [_cells(figure) for figure in figures]
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    return "\n".join(
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:5], widths[1:]), row[5]]).rstrip() for row in rows
    )


def render_number(value: float, unit: str) -> str:
    """With as many digits as say something."""
    digits = 3 if value < 0.1 else 2 if value < 10 else 1 if value < 100 else 0
    return f"{value:.{digits}f} {unit}"


def _cells(figure: Figure) -> tuple[str, str, str, str, str, str]:
    ratio = "" if figure.ratio is None else f"{figure.ratio:.2f}"
    floor = "" if figure.floor is None else render_number(figure.floor, figure.unit)
    is_promised = math.isfinite(figure.limit)
    target = f"≤ {render_number(figure.limit, figure.unit)}" if is_promised else ""
    mark = ("ok" if figure.holds else "MISSED") if is_promised else ""
    return figure.name, render_number(figure.value, figure.unit), floor, ratio, target, mark
