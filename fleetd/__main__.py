"""The fleetd command: reads the command line and the configuration, then runs the daemon, or makes this machine join or
leave a cluster."""

import argparse
import http.client
import os
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

import msgspec

from fleetd import __version__
from fleetd.api import schema
from fleetd.config.config import DEFAULT_PATH, USER_FLAG, Config, ConfigError, load_config, own_paths
from fleetd.model.decoding import UNREADABLE
from fleetd.process import log_format
from fleetd.process.identity import name_process

DEFAULT_SOCKET = "/run/fleet.sock"
LEAVE_POLL_S = 0.5
_TIMEOUT_S = 30.0


class _Parser(argparse.ArgumentParser):
    """Prints usage to standard error, as CoreOS fleet does."""

    def print_help(self, file: IO[str] | None = None) -> None:  # type: ignore[override]
        super().print_help(file or sys.stderr)


class _UnixConnection(http.client.HTTPConnection):
    """An HTTP connection over a unix socket."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=_TIMEOUT_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class _LeaveError(Exception):
    """The machine could not be made to leave the cluster."""


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = _Parser(
        prog="fleetd", description="Runs the units of a fleet cluster on this machine.", allow_abbrev=False
    )
    parser.add_argument("-config", "--config", metavar="FILE", help="configuration file (/etc/fleet/fleet.conf)")
    parser.add_argument("-version", "--version", action="store_true", help="print the version")
    parser.add_argument("--standalone", action="store_true", help="run a cluster of one machine, without etcd")
    parser.add_argument(
        "--user",
        action="store_true",
        help="run units under your own systemd, with your own configuration, state and socket",
    )
    parser.add_argument(
        "--listen",
        action="append",
        metavar="ADDRESS",
        help="serve the API here, too: https://HOST:PORT, PATH or HOST:PORT",
    )
    parser.add_argument(
        "--insecure", action="store_true", help="allow TCP without TLS, whose every client is root on the cluster"
    )
    parser.add_argument(
        "command",
        nargs="*",
        metavar="version | leave | join URL TOKEN",
        help="print the version, leave the cluster, or join that of the server at URL as a worker",
    )
    return parser


def parse_overrides(arguments: argparse.Namespace) -> dict[str, str]:
    """Return the flags as options of the configuration."""
    overrides = {name: "true" for name in ("standalone", "insecure") if getattr(arguments, name)}
    if arguments.user:
        overrides[USER_FLAG] = "true"
    return {**overrides, "listen": ",".join(arguments.listen)} if arguments.listen else overrides


def main(argv: Sequence[str] | None = None, environ: Mapping[str, str] = os.environ) -> int:
    """Run the command. Returns the exit status."""
    parser = build_parser()
    arguments = parser.parse_args(argv)
    command = " ".join(arguments.command)
    if arguments.version or command == "version":
        print(f"fleetd version {__version__}")  # noqa: T201
        return 0
    if arguments.command[:1] == ["park"] and len(arguments.command) == 2:
        from fleetd.process.daemon import park

        log_format.setup(0)
        return park(Path(arguments.command[1]))
    if arguments.user and arguments.command[:1] == ["join"]:
        complain("join makes this machine a worker, for all of its users: leave --user out")
        return 1
    if arguments.command[:1] == ["join"]:
        from fleetd.process.join_command import run_join

        return run_join(arguments.command[1:], arguments.config or DEFAULT_PATH, environ)
    if command not in ("", "leave"):
        complain(f"unknown command {command!r}: use version, leave, join, or no arguments")
        parser.print_usage(sys.stderr)
        return 1
    overrides = parse_overrides(arguments)
    try:
        config, notices = load_config(arguments.config, environ, overrides)
        if command == "leave":
            return leave(local_socket(config, environ), config.systemd_user)
    except (ConfigError, _LeaveError) as error:
        complain(str(error))
        return 1
    os.umask(0o077)  # unit files, ledger and store must not be readable by others
    log_format.setup(config.verbosity)
    if argv is None:
        name_process("fleetd", sys.argv[1:])
    from fleetd.process.daemon import run  # here, so that the commands above start quickly

    return run(config, arguments.config, overrides, notices)


def complain(text: str) -> None:
    """Print an error to standard error."""
    print(f"fleetd: {text}", file=sys.stderr)  # noqa: T201


def local_socket(config: Config, environ: Mapping[str, str]) -> str:
    """Return the path of the daemon's socket: the first unix socket it listens on, else the default one."""
    default = own_paths(environ).socket if config.systemd_user else DEFAULT_SOCKET
    return next((address.path for address in config.listen if address.path), default)


def leave(path: str, is_user: bool = False) -> int:
    """Make this machine leave its cluster, and wait until it has. `is_user`: that of a user. Returns the exit status.
    Raises _LeaveError."""
    systemctl = "systemctl --user" if is_user else "systemctl"
    shown: tuple[str, ...] | None = None
    while True:
        progress = _post_leave(path)
        if progress.left:
            print(f"this machine has left the cluster; {systemctl} restart fleet.service makes it join again")  # noqa: T201
            return 0
        if progress.waiting_for != shown:
            shown = progress.waiting_for
            print(f"waiting for {', '.join(shown) or 'the leader'}", flush=True)  # noqa: T201
        time.sleep(LEAVE_POLL_S)


def _post_leave(path: str) -> schema.Leaving:
    connection = _UnixConnection(path)
    try:
        connection.request("POST", f"{schema.V2}/leave")
        response = connection.getresponse()
        body = response.read()
        if response.status != 200:
            refused = msgspec.json.decode(body, type=schema.ErrorEntity)
            raise _LeaveError(f"the daemon at {path} refused: {refused.error.message or response.reason}")
        return msgspec.json.decode(body, type=schema.Leaving)
    except (OSError, http.client.HTTPException) as error:
        cause = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise _LeaveError(f"no daemon answers at {path}: {cause}; is fleet.service running?") from error
    except UNREADABLE as error:
        raise _LeaveError(f"the server at {path} is not fleetd: {error}") from error
    finally:
        connection.close()


if __name__ == "__main__":
    sys.exit(main())
