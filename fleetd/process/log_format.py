"""The log: one line for each event, `message key=value …`, with the journal's priority or, on a terminal, the level.

Callers write `log.info("placed", extra={"unit": name})`: the message says what happened, the fields name the objects.
"""

import json
import logging
import os
import sys
from collections.abc import Mapping
from typing import TextIO

from fleetd.model.names import visible

_PRIORITIES = ((logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6), (logging.DEBUG, 7))
_STANDARD = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}
_LIBRARIES = ("aiohttp", "asyncio")  # their debug messages are not of use here


class LineFormatter(logging.Formatter):
    """One line for each event. The lines of a traceback follow, each with the same prefix, because the journal takes
    lines. Control characters, which would end a line or act on a terminal, are escaped."""

    def __init__(self, for_journal: bool) -> None:
        super().__init__()
        self._for_journal = for_journal

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, or lines."""
        fields = {name: value for name, value in record.__dict__.items() if name not in _STANDARD}
        text = " ".join([record.getMessage(), *(f"{name}={_quote(fields[name])}" for name in fields)])
        lines = [text, *(self.formatException(record.exc_info).splitlines() if record.exc_info else ())]
        return "\n".join(self._prefix(record) + visible(line) for line in lines)

    def _prefix(self, record: logging.LogRecord) -> str:
        if not self._for_journal:
            return f"{record.levelname} "
        return f"<{next((priority for level, priority in _PRIORITIES if record.levelno >= level), 7)}>"


def _quote(value: object) -> str:
    """Return the value unchanged if it is one plain word, else as a JSON string."""
    text = str(value)
    plain = text and text.isprintable() and not any(character in text for character in ' "=\\')
    return text if plain else json.dumps(text, ensure_ascii=False)


def goes_to_journal(environ: Mapping[str, str], stream: TextIO) -> bool:
    """True if systemd connected this stream to the journal, and it was not redirected since (systemd.exec(5))."""
    try:
        status = os.fstat(stream.fileno())
    except (OSError, ValueError):
        return False
    return environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


def setup(verbosity: int, environ: Mapping[str, str] = os.environ, stream: TextIO | None = None) -> None:
    """Log to standard error (or this stream); above 0 with debug messages. Call it again to change the verbosity."""
    stream = stream or sys.stderr
    handler = logging.StreamHandler(stream)
    handler.setFormatter(LineFormatter(goes_to_journal(environ, stream)))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.DEBUG if verbosity > 0 else logging.INFO)
    for library in _LIBRARIES:
        logging.getLogger(library).setLevel(logging.WARNING)
