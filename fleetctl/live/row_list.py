"""A list for Textual that draws the rows that are visible and no others, so that 20,000 are as quick as twenty."""

import time
from collections.abc import Callable, Sequence
from typing import ClassVar

from rich.segment import Segment
from rich.style import Style
from textual import events
from textual.binding import Binding, BindingType
from textual.geometry import Size
from textual.message import Message
from textual.scroll_view import ScrollView
from textual.strip import Strip

from fleetctl import terminal
from fleetctl.live.detail import Line
from fleetctl.live.pane import Pane
from fleetctl.live.rows import AGE, Level, Row, cells_at

HEADS = 1  # lines above the rows
_AGE_WIDTH = 6
_STYLES = {
    Level.IDLE: "row-list--idle",
    Level.GOOD: "row-list--good",
    Level.CHANGING: "row-list--changing",
    Level.BAD: "row-list--bad",
}


class RowList(ScrollView, can_focus=True):
    """Shows a Pane. Its own keys move the cursor."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {"row-list--head", *_STYLES.values()}
    DEFAULT_CSS = """
    RowList {
        height: 1fr;
        overflow-x: hidden;
        & > .row-list--head { text-style: bold; color: $text-muted; }
        & > .row-list--idle { color: $text-muted; }
        & > .row-list--good { color: $text; }
        & > .row-list--changing { color: $warning; }
        & > .row-list--bad { color: $error; text-style: bold; }
    }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up,k", "move(-1)", "Up", show=False),
        Binding("down,j", "move(1)", "Down", show=False),
        Binding("pageup,ctrl+b", "page(-1)", "Page up", show=False),
        Binding("pagedown,ctrl+f", "page(1)", "Page down", show=False),
        Binding("home", "far(-1)", "First", show=False),
        Binding("end,G", "far(1)", "Last", show=False),
        Binding("enter", "open", "Open"),
    ]

    class Opened(Message):
        """The row under the cursor is to be opened."""

        def __init__(self, row: Row) -> None:
            super().__init__()
            self.row = row

    def __init__(self, pane: Pane, why_empty: Callable[[], str], id_: str) -> None:
        super().__init__(id=id_)
        self._pane = pane
        self._why_empty = why_empty
        self._widths: list[int] = []
        self._measured: list[Row] | None = None  # the rows that the widths are of
        self._now_s = 0.0

    def show_pane(self) -> None:
        """Draw what the pane has now."""
        self._now_s = time.time()
        if self._measured is not self._pane.shown:
            self._measured, self._widths = self._pane.shown, _column_widths(self._pane)
        self.virtual_size = Size(0, len(self._pane.shown) + HEADS)
        self._follow_cursor()
        self.refresh()

    def render_line(self, y: int) -> Strip:
        """One line of the screen: the head of the table, or a row."""
        room = self.size.width
        widths = terminal.fit_columns(self._widths, room) if self._widths else []
        if y < HEADS:
            return _strip(self._pane.columns, widths, self.get_component_rich_style("row-list--head"), room)
        number = self.scroll_offset.y + y - HEADS
        if number >= len(self._pane.shown):
            text = self._why_empty() if y == HEADS and not self._pane.shown else ""
            return Strip([Segment(terminal.crop(text, room))]).adjust_cell_length(room)
        row = self._pane.shown[number]
        style = self.get_component_rich_style(_STYLES[row.level])
        if number == self._pane.cursor:
            style += Style(reverse=True)
        cells = cells_at(row, self._pane.columns, self._now_s)
        if row.template and not row.is_head and self._pane.query.is_grouped:
            cells = (f"  {cells[0]}", *cells[1:])
        return _strip(cells, widths, style, room)

    def on_resize(self, event: events.Resize) -> None:
        self._follow_cursor()

    def on_click(self, event: events.Click) -> None:
        number = self.scroll_offset.y + event.y - HEADS
        if event.y < HEADS or not 0 <= number < len(self._pane.shown):
            return
        if number == self._pane.cursor:
            self.action_open()
        else:
            self.action_move(number - self._pane.cursor)

    def action_move(self, by: int) -> None:
        self._pane.move(by)
        self._follow_cursor()
        self.refresh()

    def action_page(self, pages: int) -> None:
        self.action_move(pages * max(1, self.size.height - HEADS))

    def action_far(self, direction: int) -> None:
        self.action_move(direction * len(self._pane.shown))

    def action_open(self) -> None:
        if self._pane.current is not None:
            self.post_message(self.Opened(self._pane.current))

    def _follow_cursor(self) -> None:
        """Scroll so that the cursor is visible."""
        room = max(1, self.size.height - HEADS)
        top = self.scroll_offset.y
        top = max(min(top, self._pane.cursor), self._pane.cursor - room + 1)
        if top != self.scroll_offset.y:
            self.scroll_to(y=top, animate=False, immediate=True)


class TextList(ScrollView, can_focus=True):
    """Shows lines of text, which scroll."""

    COMPONENT_CLASSES: ClassVar[set[str]] = RowList.COMPONENT_CLASSES
    DEFAULT_CSS = RowList.DEFAULT_CSS.replace("RowList", "TextList")

    def __init__(self, id_: str) -> None:
        super().__init__(id=id_)
        self._lines: Sequence[Line] = ()

    @property
    def text(self) -> str:
        """All of it."""
        return "\n".join(line.text for line in self._lines)

    def show_lines(self, lines: Sequence[Line]) -> None:
        """Draw these lines instead."""
        self._lines = lines
        self.virtual_size = Size(0, len(lines))
        self.refresh()

    def render_line(self, y: int) -> Strip:
        """One line of the screen."""
        number, room = self.scroll_offset.y + y, self.size.width
        if number >= len(self._lines):
            return Strip.blank(room)
        line = self._lines[number]
        style = self.get_component_rich_style("row-list--head" if line.is_head else _STYLES[line.level])
        return Strip([Segment(terminal.crop(line.text, room), style)]).adjust_cell_length(room)


def _column_widths(pane: Pane) -> list[int]:
    """What each column needs for its widest cell, and its name."""
    widths = []
    for number, name in enumerate(pane.columns):
        least = _AGE_WIDTH if name == AGE else len(name)
        widths.append(max((terminal.width(row.cells[number]) for row in pane.shown), default=0))
        widths[-1] = max(widths[-1] + (number == 0 and pane.query.is_grouped) * 2, least)
    return widths


def _strip(cells: Sequence[str], widths: Sequence[int], style: Style, room: int) -> Strip:
    """Cells in columns, cut where they are too wide: names and addresses in the middle, the last cell at its end."""
    parts = []
    for cell, width in zip(cells[:-1], widths[:-1], strict=False):
        text = terminal.shorten(cell, width)
        parts.append(text + " " * (width - terminal.width(text)))
    text = terminal.GAP.join([*parts, cells[-1]])
    return Strip([Segment(terminal.crop(text, room), style)]).adjust_cell_length(room, style)
