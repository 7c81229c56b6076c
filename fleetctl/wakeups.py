"""Ends the pauses of a wait as soon as something happens to what it waits for."""

from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import TYPE_CHECKING, Self

from fleetctl.errors import ClientError, Unreachable

if TYPE_CHECKING:
    from fleetctl.client import Client
    from fleetctl.http_transport import StreamedLines

MOST_BYTES = 4000  # of names in a request
Query = Sequence[tuple[str, str]]


def about_units(names: Iterable[str]) -> Query:
    """What selects the events about these units, or about units that match these patterns."""
    return [("unit", name) for name in names]


class Wakeups:
    """The events that `select` says, followed from `open` on. They cannot be followed (`is_refused`) at an older
    fleetd, without the permission, and if there is more than a request can name."""

    def __init__(self, client: "Client", select: Callable[[], Query]) -> None:
        self._client = client
        self._select = select
        self._lines: StreamedLines | None = None
        self._stream = ExitStack()
        self.is_refused = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    @property
    def are_open(self) -> bool:
        """True while something that happens ends a pause."""
        return self._lines is not None

    def open(self) -> None:
        """Follow the events if that is possible. The first pause then ends at once."""
        query = self._select()
        if sum(len(value) for _, value in query) > MOST_BYTES:
            self.is_refused = True
            return
        try:
            self._lines = self._stream.enter_context(self._client.open_events(query))
        except ClientError as error:
            self.is_refused = not isinstance(error, Unreachable)  # it may come back

    def pause(self, longest_s: float) -> bool:
        """Wait until something happens, at most so long. True if something may have happened."""
        assert self._lines is not None
        has_happened = self._lines.skip(longest_s)
        if self._lines.is_over:
            self.close()
        return has_happened

    def close(self) -> None:
        """Follow no more."""
        self._lines = None
        self._stream.close()
