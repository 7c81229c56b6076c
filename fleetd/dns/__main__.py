"""fleet-dns: answers DNS questions about units and machines of the cluster.

It reads a file that fleetd writes, and nothing else: it answers also while fleetd and the store are away. systemd
starts it once the file is there (fleet-dns.path).
"""

import asyncio
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fleetd.dns.table_file import TableFile

if TYPE_CHECKING:
    from fleetd.dns.server import Server

LOWEST_DNSPYTHON = "2.9"
TABLE = Path("/run/fleet/names")


def main(arguments: Sequence[str] | None = None) -> int:
    """Answer until the file is gone, or a signal comes. Returns the exit status. An argument names another file."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if len(given) > 1 or any(argument.startswith("-") for argument in given):
        _say("<3>fleet-dns takes at most one argument: the file of names that fleetd writes")
        return 2
    path = Path(given[0]) if given else TABLE
    try:
        file = TableFile(path, lambda text: _say(f"<4>{text}"))
    except FileNotFoundError:
        _say(f"<3>there is no {path}: fleetd writes it where fleet.conf has dns_listen=")
        return 1
    except (OSError, ValueError) as error:
        _say(f"<3>{path}: {error}")
        return 1
    try:
        from fleetd.dns.server import CannotListen, Server
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != "dns":
            raise
        _say(f"<3>fleet-dns needs dnspython: {sys.executable} -m pip install 'dnspython>={LOWEST_DNSPYTHON}'")
        return 1
    try:
        asyncio.run(_serve(Server(file)))
    except CannotListen as error:
        _say(f"<3>{error}")
        return 1
    return 0


async def _serve(server: "Server") -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, server.end)
    await server.run()


def _say(text: str) -> None:
    """Write a line for the journal, with its priority (sd-daemon(3))."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main())
