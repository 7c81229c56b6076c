"""The file in which `events -f --state-file=FILE` keeps where it is."""

import math
import os
import time
from collections.abc import Callable
from pathlib import Path

from fleetctl.errors import CommandFailed, cause_of
from fleetd.model.token import InvalidToken, parse_token
from fleetd.small_files import replace_file

SYNC_S = 1.0  # what a power failure may undo: an older token has events told again, and none left out


class StateFile:
    """Holds the token of the last events that were printed. `now` is a monotonic clock."""

    def __init__(self, path: str, *, now: Callable[[], float] = time.monotonic) -> None:
        self._path = Path(path)
        self._now = now
        self._synced_at_s = -math.inf

    def read(self) -> str:
        """The token; '' if there is no file yet. Raises CommandFailed."""
        try:
            text = self._path.read_text(errors="replace")
        except FileNotFoundError:
            return ""
        except OSError as error:
            raise CommandFailed(f"cannot read the state file {self._path}: {cause_of(error)}") from error
        try:
            return str(parse_token(text.strip()))
        except InvalidToken as error:
            raise CommandFailed(
                f"the state file {self._path} holds no token of events: remove it to begin with what happens now"
            ) from error

    def keep(self, token: str) -> None:
        """Replace the token; somebody who kills this process finds the former one or this one. Raises CommandFailed."""
        is_due = self._now() >= self._synced_at_s + SYNC_S
        try:
            replace_file(self._path, f"{token}\n", sync=os.fsync if is_due else _leave)
        except OSError as error:
            raise CommandFailed(f"cannot write the state file {self._path}: {cause_of(error)}") from error
        if is_due:
            self._synced_at_s = self._now()


def _leave(_: int) -> None:
    """Leave it to the kernel when to write to the disk."""
