"""A figure: what was measured, what to hold it against, and whether that is good enough. Nothing is measured here."""

import statistics
from collections.abc import Sequence

import msgspec


class Figure(msgspec.Struct, frozen=True):
    """One line of the table. `floor` is what cannot be undercut, taken in the same run; `limit` what is promised."""

    name: str
    unit: str
    samples: tuple[float, ...]
    floor_samples: tuple[float, ...] = ()
    limit: float | None = None

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
        return self.limit is None or self.value <= self.limit


def render_table(figures: Sequence[Figure]) -> str:
    """Columns aligned, numbers to the right."""
    rows = [("figure", "measured", "floor", "ratio", "target", "")]
    rows += [_cells(figure) for figure in figures]
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    return "\n".join(
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:5], widths[1:]), row[5]]).rstrip() for row in rows
    )


def _cells(figure: Figure) -> tuple[str, str, str, str, str, str]:
    ratio = "" if figure.ratio is None else f"{figure.ratio:.1f}"
    mark = "" if figure.limit is None else ("ok" if figure.holds else "MISSED")
    numbers = (_number(number, figure.unit) for number in (figure.value, figure.floor))
    value, floor = numbers
    return figure.name, value, floor, ratio, _number(figure.limit, figure.unit, "≤ "), mark


def _number(value: float | None, unit: str, prefix: str = "") -> str:
    if value is None:
        return ""
    digits = 3 if value < 1 else 2 if value < 10 else 1
    return f"{prefix}{value:.{digits}f} {unit}"
