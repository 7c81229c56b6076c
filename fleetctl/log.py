"""The log of fleetctl on stderr: `warning: …`, and `debug: …` with --debug. Not imported for --help."""

import logging
import sys

LOG = logging.getLogger("fleetctl")


class _Formatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return f"{record.levelname.lower()}: {super().format(record)}"


def set_up(debug: bool) -> None:
    """Log warnings to stderr, and debug lines if asked for."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Formatter())
    LOG.handlers[:] = [handler]
    LOG.propagate = False
    LOG.setLevel(logging.DEBUG if debug else logging.WARNING)


def silence() -> None:
    """Log nothing from now on: shell completion must not write to the terminal."""
    LOG.setLevel(logging.CRITICAL + 1)
