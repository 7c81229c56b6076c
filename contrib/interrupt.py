"""Ctrl-C, for programs that boot machines: the first one ends them, and what they do then is not interrupted again."""

import signal
from types import FrameType


def end_on_first() -> None:
    """Let SIGINT and SIGTERM raise KeyboardInterrupt once. A person who presses Ctrl-C twice leaves nothing behind."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _end)


def _end(_number: int, _frame: FrameType | None) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt
