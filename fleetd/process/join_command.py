"""`fleetd join URL TOKEN` on this machine (joining.py does it)."""

import asyncio
import fcntl
import http.client
import os
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from fleetd.config.config import Config
from fleetd.process.host_keys import HostKeys
from fleetd.process.identity import find_address, read_machine_id
from fleetd.process.joining import Host, JoinFailed, join
from fleetd.trust.signing import Refused, Signer, SigningFailed

STATE = Path("/var/lib/fleet")
LOCK = Path("/run/fleet/lock")
SOCKET = "/run/fleet.sock"
_USAGE = (
    "join takes the URL of a server and a token, or - to read the token from standard input: fleetd join "
    "https://SERVER:7443 TOKEN"
)
_ANSWER_S = 10.0


def run_join(words: Sequence[str], config_path: str, environ: Mapping[str, str]) -> int:
    """Make this machine a worker. Returns the exit status."""
    try:
        if len(words) != 2:
            raise JoinFailed(_USAGE)
        if os.geteuid() != 0:
            raise JoinFailed("join changes the configuration of this machine: run it as root")
        os.umask(0o077)
        url, given = words
        join(url, sys.stdin.readline().strip() if given == "-" else given, this_host(config_path, environ))
    except JoinFailed as error:
        print(f"fleetd: {error}", file=sys.stderr)  # noqa: T201
        return 1
    return 0


def this_host(config_path: str, environ: Mapping[str, str]) -> Host:
    """This machine."""
    return Host(
        config_path=Path(config_path),
        state=STATE,
        environ=environ,
        machine=read_machine_id,
        address=find_address,
        host_keys=HostKeys().find,
        make_request=_make_request,
        serves=_is_member,
        restart=_restart,
        say=lambda text: print(text, flush=True),  # noqa: T201
    )


def _make_request(key: str) -> tuple[str, str]:
    try:
        return asyncio.run(Signer().make_request(key))
    except (Refused, SigningFailed) as error:
        raise JoinFailed(f"cannot make a request for a certificate: {error}") from error


def _is_member(config: Config) -> bool:
    """True if a fleetd runs here, and answers for a cluster. Where none runs, its socket would start one."""
    try:
        with LOCK.open() as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return False
    except BlockingIOError:
        pass
    except OSError:
        return False
    path = next((address.path for address in config.listen if address.path), SOCKET)
    connection = http.client.HTTPConnection("localhost", timeout=_ANSWER_S)
    try:
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.settimeout(_ANSWER_S)
        connection.sock.connect(path)
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _restart() -> str:
    """Start fleet now and at each boot, with the configuration as it is now."""
    for command in (["enable", "--quiet", "fleet.socket", "fleet.service"], ["restart", "fleet.service"]):
        done = subprocess.run(["systemctl", *command], capture_output=True, text=True, errors="replace", check=False)
        if done.returncode:
            return " ".join(done.stderr.split())
    return ""
