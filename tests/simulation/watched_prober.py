"""What a simulated fleetd has learnt of its checks."""

from collections.abc import Callable

from fleetd.model.announce_options import Check
from fleetd.testing.scripted_prober import ScriptedProber


class WatchedProber(ScriptedProber):
    """`failed_in_row` counts, by check, how often it has failed in a row as this fleetd was told."""

    def __init__(self, find_failure: Callable[[Check], str | None]) -> None:
        super().__init__(find_failure)
        self.failed_in_row: dict[str, int] = {}

    def begin(self, check: Check, address: str, timeout_s: float, done: Callable[[str], None]) -> None:
        """Begin a check (Prober)."""

        def end(failure: str) -> None:
            name = str(check)
            self.failed_in_row[name] = self.failed_in_row.get(name, 0) + 1 if failure else 0
            done(failure)

        super().begin(check, address, timeout_s, end)

    def close(self) -> None:
        """End the checks that are under way (Prober)."""
        super().close()
        self.failed_in_row.clear()
