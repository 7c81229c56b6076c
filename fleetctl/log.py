"""The log of fleetctl: lines on stderr in the original's form. Imported by commands that run, not by their help."""

import logging
import sys

LOG = logging.getLogger("fleetctl")


class _Formatter(logging.Formatter):
    """Calls a warning WARN, as the original did."""

    def format(self, record: logging.LogRecord) -> str:
        record.levelname = {"WARNING": "WARN"}.get(record.levelname, record.levelname)
        return super().format(record)


def set_up(debug: bool) -> None:
    """Log lines go to stderr in the original's form: date, time, level, file and line, text."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        _Formatter("%(asctime)s %(levelname)s %(filename)s:%(lineno)d: %(message)s", "%Y/%m/%d %H:%M:%S")
    )
    LOG.handlers[:] = [handler]
    LOG.propagate = False
    LOG.setLevel(logging.DEBUG if debug else logging.INFO)


def silence() -> None:
    """No log lines from here on: where they would come between what a person is typing."""
    LOG.setLevel(logging.CRITICAL + 1)
