"""A picture of the history: small panels, one a figure, each with a line of its runs and its target. SVG, by hand.

It is drawn for light and dark pages alike: the text is of the page's own colour, as far as a picture can know it.
"""

from collections.abc import Sequence
from html import escape

import msgspec

COLUMNS = 3
WIDTH, HEIGHT, GAP = 250, 130, 20
TOP, RIGHT = 40, 64  # for the title, and for the last values
COLOURS = ("#2a7de1", "#d9730d", "#4c9a2a", "#9a4cc9")

_STYLE = """\
text { font: 12px system-ui, sans-serif; fill: #24292f } .small { font-size: 10px; fill: #57606a }
.axis { stroke: #d0d7de } path { fill: none; stroke-width: 1.5 } .target { stroke-dasharray: 3 3; opacity: .6 }
@media (prefers-color-scheme: dark) {
text { fill: #e6edf3 } .small { fill: #8d96a0 } .axis { stroke: #30363d } }"""


class Series(msgspec.Struct, frozen=True):
    """The values of one size of cluster, run by run, and what was promised of the last."""

    name: str
    points: tuple[float, ...]
    target: float | None = None


class Panel(msgspec.Struct, frozen=True):
    title: str
    unit: str
    series: tuple[Series, ...]


def draw(panels: Sequence[Panel]) -> str:
    """The whole picture."""
    rows = -(-len(panels) // COLUMNS)
    width, height = COLUMNS * (WIDTH + GAP) + GAP, rows * (HEIGHT + GAP) + GAP + TOP // 2
    names = list(dict.fromkeys(series.name for panel in panels for series in panel.series))
    colours = {name: COLOURS[index % len(COLOURS)] for index, name in enumerate(names)}
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}">'
    ]
    parts.append(f"<title>The figures of all runs so far, the targets dashed</title><style>{_STYLE}</style>")
    for index, name in enumerate(names):
        parts.append(f'<text x="{GAP + index * 120}" y="16" style="fill: {colours[name]}">● {escape(name)}</text>')
    for index, panel in enumerate(panels):
        row, column = divmod(index, COLUMNS)
        x, y = GAP + column * (WIDTH + GAP), TOP // 2 + GAP // 2 + row * (HEIGHT + GAP)
        parts += [f'<g transform="translate({x} {y})">', *_draw_panel(panel, colours), "</g>"]
    return "\n".join([*parts, "</svg>", ""])


def _draw_panel(panel: Panel, colours: dict[str, str]) -> list[str]:
    """A title, a line at nought, and each series with its last value at its end."""
    highest = max((value for series in panel.series for value in (*series.points, series.target or 0)), default=0)
    bottom, right = HEIGHT - 4, WIDTH - RIGHT
    parts = [f'<text y="14">{escape(panel.title)}</text>', f'<path class="axis" d="M0 {bottom}H{right}"/>']

    def y_of(value: float) -> float:
        return round(bottom - value / (highest or 1) * (bottom - TOP + 14), 1)

    labels: list[float] = []
    for series in panel.series:
        colour = colours[series.name]
        step = right / max(1, len(series.points) - 1)
        places = [(round(right - step * back, 1), y_of(value)) for back, value in enumerate(reversed(series.points))]
        if series.target:
            parts.append(f'<path class="target" stroke="{colour}" d="M0 {y_of(series.target)}H{right}"/>')
        parts.append(f'<path stroke="{colour}" d="M{" L".join(f"{x} {y}" for x, y in places)}"/>')
        parts += [f'<circle cx="{x}" cy="{y}" r="2.5" fill="{colour}"/>' for x, y in places]
        label = _free(places[0][1] + 4, labels)
        parts.append(f'<text class="small" x="{right + 6}" y="{label}">{series.points[-1]:.3g} {panel.unit}</text>')
    return parts


def _free(wanted: float, taken: list[float]) -> float:
    """A height for a label at which it does not lie over another."""
    while any(abs(wanted - other) < 11 for other in taken):
        wanted = round(wanted - 1, 1)
    taken.append(wanted)
    return wanted
