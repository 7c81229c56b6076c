"""Ends the pauses of a wait as soon as something happens to the units that it waits for."""

from collections.abc import Collection
from contextlib import ExitStack
from types import TracebackType
from typing import TYPE_CHECKING, Self

from fleetctl.errors import ClientError

if TYPE_CHECKING:
    from fleetctl.client import Client
    from fleetctl.http_transport import StreamedLines

MOST_BYTES = 4000  # of names in a request


class Wakeups:
    """The events of some units, followed from `open` on. They cannot be followed (`is_refused`) at an older fleetd,
    without the permission, and if there are more units than a request can name."""

    def __init__(self, client: "Client", units: Collection[str]) -> None:
        self._client = client
        self._query = [("unit", name) for name in units]
        self._lines: StreamedLines | None = None
        self._stream = ExitStack()
        self.is_refused = sum(map(len, units)) > MOST_BYTES

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
        try:
            self._lines = self._stream.enter_context(self._client.open_events(self._query))
        except ClientError:
            self.is_refused = True

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
