"""The log of fleetctl: lines on stderr, `warning: …`, and `debug: …` where that is asked for. Imported by commands that
run, not by their help.
"""

import logging
import sys

LOG = logging.getLogger("fleetctl")


class _Formatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return f"{record.levelname.lower()}: {super().format(record)}"


def set_up(debug: bool) -> None:
    """Send warnings to stderr, and what is only said for debugging where that is asked for."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Formatter())
    LOG.handlers[:] = [handler]
    LOG.propagate = False
    LOG.setLevel(logging.DEBUG if debug else logging.WARNING)


def silence() -> None:
    """No log lines from here on: where they would come between what a person is typing."""
    LOG.setLevel(logging.CRITICAL + 1)
