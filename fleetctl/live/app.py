"""The screens of the live view."""

import time
from collections.abc import Callable
from typing import ClassVar

import msgspec
from textual import work
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.screen import Screen
from textual.widgets import ContentSwitcher, Footer, Input, Static

from fleetctl.live.detail import Detail, describe
from fleetctl.live.feed import Feed
from fleetctl.live.pane import Pane
from fleetctl.live.row_list import RowList, TextList
from fleetctl.live.rows import Row
from fleetctl.live.state import LiveState

REDRAW_S = 0.25  # between two redraws for what has happened; keys are answered at once
AGES_S = 1.0  # between two redraws for nothing but the time that passes
MACHINES, UNITS, EVENTS = PANES = ("machines", "units", "events")

ReadDetail = Callable[[str], Detail]


class UnitScreen(Screen[None]):
    """One unit in full."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,enter,q", "close", "Back"),
        Binding("r", "read", "Read again"),
    ]

    def __init__(self, unit: str, state: LiveState, read: ReadDetail) -> None:
        super().__init__()
        self._unit = unit
        self._state = state
        self._read = read
        self._detail: Detail | None = None

    def compose(self) -> ComposeResult:
        yield TextList("detail")
        yield Footer()

    def on_mount(self) -> None:
        self._show()
        self.set_interval(AGES_S, self._show)
        self.action_read()

    @work(thread=True, exclusive=True)
    def action_read(self) -> None:
        """Ask fleetd about the unit, in a thread."""
        found = self._read(self._unit)
        self.app.call_from_thread(self._take, found)

    def action_close(self) -> None:
        if self.is_current:  # not if a second key comes while it closes
            self.dismiss()

    def _take(self, detail: Detail) -> None:
        self._detail = detail
        self._show()

    def _show(self) -> None:
        lists = self._state.lists
        report = lists.units.get(self._unit) if lists else None
        self.query_one(TextList).show_lines(describe(report, self._detail, time.time()))


class ListScreen(Screen[None]):
    """The lists of machines, units and events, one at a time."""

    CSS = """
    #summary { height: 1; text-style: bold; }
    #status { height: 1; color: $text-muted; }
    ContentSwitcher { height: 1fr; }
    #filter { display: none; height: 1; border: none; padding: 0; }
    #filter.shown { display: block; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("1", "show('machines')", "Machines"),
        Binding("2", "show('units')", "Units"),
        Binding("3", "show('events')", "Events"),
        Binding("tab", "turn", "Next list", show=False, priority=True),
        Binding("slash", "filter", "Filter", key_display="/"),
        Binding("s", "sort", "Sort"),
        Binding("S", "reverse", "Reverse"),
        Binding("g", "group", "Group"),
        Binding("r", "read", "Read now", show=False),
        Binding("escape", "clear", "Clear filter", show=False),
        Binding("q", "app.quit", "Quit"),
    ]

    def __init__(self, endpoint: str, state: LiveState, feed: Feed, read: ReadDetail) -> None:
        super().__init__()
        self.redraws = 0
        self._endpoint = endpoint
        self._state = state
        self.feed = feed
        self._read = read
        self._drawn_s = 0.0
        self._read_at = time.time()
        self._panes: dict[str, Pane] = {MACHINES: state.machines, UNITS: state.units, EVENTS: state.events}

    def compose(self) -> ComposeResult:
        yield Static(id="summary", markup=False)
        yield Static(id="status", markup=False)
        with ContentSwitcher(initial=UNITS):
            for name, pane in self._panes.items():
                yield RowList(pane, self._why_empty, name)
        yield Input(placeholder="words, !words, patterns of names", id="filter")
        yield Footer()

    def on_mount(self) -> None:
        self._tick()
        self._list.focus()
        self.set_interval(REDRAW_S, self._tick)

    @property
    def pane(self) -> Pane:
        """The list that is shown."""
        return self._panes[self.shown]

    @property
    def shown(self) -> str:
        """The name of the list that is shown."""
        return self.query_one(ContentSwitcher).current or UNITS

    @property
    def _list(self) -> RowList:
        return self.query_one(f"#{self.shown}", RowList)

    def _tick(self) -> None:
        """Take what was read, and draw if that or the time makes a difference."""
        news = self.feed.take()
        if news is not None:
            self._read_at = time.time()
        has_changed = news is not None and self._state.take(news, self._read_at, tell=not self.feed.tells)
        if happenings := self.feed.take_happenings():
            self._state.tell(happenings)
            has_changed = True
        if has_changed or time.monotonic() - self._drawn_s >= AGES_S:
            self._draw()

    def _draw(self) -> None:
        self.redraws += 1
        self._drawn_s = time.monotonic()
        self.query_one("#summary", Static).update(f"{self._endpoint}: {self._state.summary}")
        self.query_one("#status", Static).update(self._describe_status())
        self._list.show_pane()

    def _describe_status(self) -> str:
        pane, query = self.pane, self.pane.query
        shown = f"{self.shown}: {len(pane.shown)}" + (f" of {pane.count}" if query.text else "")
        parts = [shown, f"by {pane.columns[query.sort].lower()}" if query.sort >= 0 else "those in trouble first"]
        if query.is_reversed:
            parts.append("reversed")
        if query.is_grouped:
            parts.append("grouped by template")
        if query.text:
            parts.append(f"filter: {query.text}")
        if self.feed.failure:
            passed_s = time.time() - self._read_at
            parts.append(f"as of {passed_s:.0f} s ago, since {self.feed.failure}")
        return " · ".join(parts)

    def _why_empty(self) -> str:
        if self.pane.query.text:
            return "nothing matches the filter"
        if self.shown == EVENTS:
            if self.feed.tells:
                return "nothing has happened in the last hour"
            why = self.feed.silence or "the events have not begun yet"
            return f"nothing has changed yet between two reads of the lists ({why})"
        return f"there are no {self.shown}"

    def action_show(self, name: str) -> None:
        """Show another list."""
        self.query_one(ContentSwitcher).current = name
        box = self.query_one("#filter", Input)
        box.set_class(False, "shown")
        self._list.focus()
        self._draw()

    def action_turn(self) -> None:
        self.action_show(PANES[(PANES.index(self.shown) + 1) % len(PANES)])

    def action_filter(self) -> None:
        """Open the line for the filter."""
        box = self.query_one("#filter", Input)
        box.value = self.pane.query.text
        box.set_class(True, "shown")
        box.focus()

    def action_clear(self) -> None:
        """Close the line for the filter, and show everything."""
        self._ask(text="")
        self._close_filter()

    def action_sort(self) -> None:
        self.pane.sort_next()
        self._draw()

    def action_reverse(self) -> None:
        self._ask(is_reversed=not self.pane.query.is_reversed)

    def action_group(self) -> None:
        """Show the units of each template as one line, or each alone."""
        self.action_show(UNITS)
        self._ask(is_grouped=not self.pane.query.is_grouped)

    def action_read(self) -> None:
        self.feed.hurry()

    def on_input_changed(self, event: Input.Changed) -> None:
        self._ask(text=event.value)

    def on_input_submitted(self, event: Input.Submitted) -> None:
        self._close_filter()

    def on_row_list_opened(self, event: RowList.Opened) -> None:
        """A template shows its units, a machine leads to its units, anything else to its unit."""
        row: Row = event.row
        if row.is_head:
            self.pane.toggle(row.key)
            self._draw()
        elif row.unit:
            self.app.push_screen(UnitScreen(row.unit, self._state, self._read))
        elif self.shown == MACHINES:
            self.action_show(UNITS)
            self._ask(text=row.key[:8])

    def _ask(self, **changes: object) -> None:
        self.pane.ask(msgspec.structs.replace(self.pane.query, **changes))
        self._draw()

    def _close_filter(self) -> None:
        self.query_one("#filter", Input).set_class(False, "shown")
        self._list.focus()
        self._draw()


class Top(App[None]):
    """The application."""

    ENABLE_COMMAND_PALETTE = False
    TITLE = "fleetctl top"

    def __init__(self, lists: ListScreen) -> None:
        super().__init__()
        self._lists = lists

    def on_mount(self) -> None:
        self.push_screen(self._lists)
