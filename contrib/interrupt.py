"""Ctrl-C for programs that boot machines: the first one ends them, and a second one does not interrupt the clean-up."""

import signal
from types import FrameType


def end_on_first() -> None:
    """Let the first SIGINT or SIGTERM raise KeyboardInterrupt, and ignore later ones."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _end)


def _end(_number: int, _frame: FrameType | None) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt
