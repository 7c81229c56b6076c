"""Who logs in where: what the command line and ~/.ssh/config say of a host, made into one Login.

Nothing connects here, and no key is read.
"""

import os
import re

import msgspec
import paramiko

from fleetctl.errors import SshFailed
from fleetctl.known_hosts import SSH_PORT
from fleetctl.settings import Settings

CONFIG_FILE = "~/.ssh/config"
DEFAULT_USER = "core"


class Login(msgspec.Struct, frozen=True):
    """Where to log in and as whom. `asked` is the host as it was asked for, `host` the one to connect to.

    `identity_files` are key files that the configuration names; with `only_those`, no other key is offered.
    """

    asked: str
    host: str
    port: int
    user: str
    identity_files: tuple[str, ...] = ()
    only_those: bool = False

    def __str__(self) -> str:
        host = self.host if self.host == self.asked else f"{self.asked} ({self.host})"
        return f"{self.user}@{host} port {self.port}"


def split_host_port(text: str) -> tuple[str, int]:
    """`host`, `host:port`, `[address]:port` or a bare IPv6 address, as host and port (0 where none is given).

    Raises SshFailed.
    """
    host, port = text, ""
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            raise SshFailed(f'"{text}" is no host: write HOST, HOST:PORT or [ADDRESS]:PORT')
        port = rest[1:]
    elif text.count(":") == 1:
        host, _, port = text.partition(":")
    if not host or (port and not _is_port(port)):
        raise SshFailed(f'"{text}" is no host: write HOST, HOST:PORT or [ADDRESS]:PORT, with a port from 1 to 65535')
    return host, int(port or 0)


def plan_login(settings: Settings, host: str, port: int = 0) -> Login:
    """How to log in on a host: the command line first, then ~/.ssh/config, then defaults (`port` 0: none was given).

    Raises SshFailed for a configuration that cannot be read.
    """
    found = _read_config().lookup(host)
    files = [os.path.expanduser(path) for path in found.get("identityfile", ()) if path != "none"]
    configured = found.get("port", str(SSH_PORT))
    if not _is_port(configured):
        raise SshFailed(f"{CONFIG_FILE} gives {host} the port {configured}, which is none")
    return Login(
        asked=host,
        host=found.get("hostname") or host,
        port=port or int(configured),
        user=settings.ssh_username or found.get("user", DEFAULT_USER),
        identity_files=tuple(files),
        only_those=found.get("identitiesonly", "no").lower() == "yes",
    )


def _read_config() -> paramiko.SSHConfig:
    path = os.path.expanduser(CONFIG_FILE)
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            return paramiko.SSHConfig.from_file(file)
    except FileNotFoundError:
        return paramiko.SSHConfig()
    except OSError as error:
        raise SshFailed(f"open {path}: {(error.strerror or str(error)).lower()}") from error
    except paramiko.SSHException as error:
        raise SshFailed(f"{path} cannot be used: {error}") from error


def _is_port(text: str) -> bool:
    return re.fullmatch("[0-9]{1,5}", text, re.ASCII) is not None and 0 < int(text) < 65536
