"""Whose the other end of a connection on this machine is, as Linux tells of TCP."""

import socket
import sys
from pathlib import Path

TABLES = (Path("/proc/net/tcp"), Path("/proc/net/tcp6"))
_ESTABLISHED = "01"
_MAPPED = bytes(10) + b"\xff\xff"  # before an address of version 4 of a socket of version 6


def find_owner(peer: tuple[str, int], own: tuple[str, int]) -> int | None:
    """The user id of the process at `peer` that is connected to `own`, both of IPv4; None if it is not known. Of one
    that has closed the connection already it is not: Linux tells that such a socket is root's."""
    wanted = [(_as_hex(*peer, prefix), _as_hex(*own, prefix)) for prefix in (b"", _MAPPED)]
    for table in TABLES:
        try:
            lines = table.read_text().splitlines()[1:]
        except OSError:
            continue  # another system
        for line in lines:
            fields = line.split()
            if (fields[1], fields[2]) in wanted and fields[3] == _ESTABLISHED:
                return int(fields[7])
    return None


def tells_owners() -> bool:
    """True if this system tells whose connections are."""
    return any(table.exists() for table in TABLES)


def _as_hex(address: str, port: int, prefix: bytes) -> str:
    """An address as those tables have it: words of the machine's own order of bytes."""
    raw = prefix + socket.inet_aton(address)
    words = [int.from_bytes(raw[at : at + 4], sys.byteorder) for at in range(0, len(raw), 4)]
    return "".join(f"{word:08X}" for word in words) + f":{port:04X}"
