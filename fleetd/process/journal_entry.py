"""Entries with fields of their own in the systemd journal (its native protocol, systemd's JOURNAL_NATIVE_PROTOCOL)."""

import logging
import socket
import struct
from collections.abc import Mapping

SOCKET = "/run/systemd/journal/socket"

log = logging.getLogger(__name__)


class JournalEntries:
    """Sends entries to the journal, or, where there is none, to the log. It never waits: what the journal does not take
    at once goes to the log, too."""

    def __init__(self, path: str = SOCKET) -> None:
        self._path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)

    def write(self, fields: Mapping[str, str]) -> None:
        """Write one entry."""
        own = {"SYSLOG_IDENTIFIER": "fleetd", **fields}
        try:
            self._socket.sendto(b"".join(_encode(name, value) for name, value in own.items()), self._path)
        except OSError:
            extra = {name: value for name, value in fields.items() if name not in ("MESSAGE", "MESSAGE_ID", "PRIORITY")}
            log.info("%s", fields.get("MESSAGE", ""), extra=extra)


def _encode(name: str, value: str) -> bytes:
    """One field, in the form for values of any bytes where it needs that."""
    data = value.encode(errors="backslashreplace")
    if b"\n" not in data:
        return name.encode() + b"=" + data + b"\n"
    return name.encode() + b"\n" + struct.pack("<Q", len(data)) + data + b"\n"
