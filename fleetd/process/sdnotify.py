"""Messages to systemd about this process (sd_notify(3)), and the interval of its watchdog."""

import os
import socket
import time
from collections.abc import Mapping

READY = "READY=1"
STOPPING = "STOPPING=1"
WATCHDOG = "WATCHDOG=1"


def reloading() -> str:
    """Return the message that a reload has begun; READY ends it."""
    return f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}"


def notify(*assignments: str, environ: Mapping[str, str] = os.environ) -> bool:
    """Send these assignments to systemd. Returns False if it does not listen, which is no error."""
    path = environ.get("NOTIFY_SOCKET", "")
    if not path:
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
        try:
            sender.sendto("\n".join(assignments).encode(), "\0" + path[1:] if path[0] == "@" else path)
        except OSError:
            return False
    return True


def watchdog_interval_s(environ: Mapping[str, str] = os.environ, pid: int | None = None) -> float:
    """Return how often to send WATCHDOG, in seconds: half of WatchdogSec=. 0 if systemd does not watch."""
    if environ.get("WATCHDOG_PID", str(pid or os.getpid())) != str(pid or os.getpid()):
        return 0.0
    allowed_us = environ.get("WATCHDOG_USEC", "")
    return int(allowed_us) / 2_000_000 if allowed_us.isdecimal() else 0.0
