"""Who logs in where: what the command line and ~/.ssh/config say of a host, made into one Login.

Nothing connects here, and no key is read.
"""

import os
import re

import msgspec
import paramiko

from fleetctl.errors import SshFailed
from fleetctl.settings import Settings
from fleetctl.ssh.includes import read_with_includes
from fleetctl.ssh.known_hosts import SSH_PORT

CONFIG_FILE = "~/.ssh/config"
DEFAULT_USER = "core"
MOST_JUMPS = 8


class Login(msgspec.Struct, frozen=True):
    """Where to log in and as whom. `asked` is the host as it was asked for, `host` the one to connect to.

    `identity_files` are key files that the configuration names; with `only_those`, no other key is offered. `jump` is
    the host through which to go there (its ProxyJump), which may have one of its own.
    """

    asked: str
    host: str
    port: int
    user: str
    identity_files: tuple[str, ...] = ()
    only_those: bool = False
    jump: "Login | None" = None

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


def plan_login(settings: Settings, host: str, port: int = 0, *, is_direct: bool = True) -> Login:
    """How to log in on a host: the command line first, then ~/.ssh/config, then defaults (`port` 0: none was given).

    Only where it `is_direct` is the way there the configuration's matter. Raises SshFailed for a configuration that
    cannot be read, or asks for what fleetctl cannot do.
    """
    config = _read_config()
    login = _look_up(config, host, port, settings.ssh_username)
    return msgspec.structs.replace(login, jump=_plan_jump(config, login, 0)) if is_direct else login


def _look_up(config: paramiko.SSHConfig, host: str, port: int, username: str) -> Login:
    """What the configuration says of one host, the way there aside."""
    found = config.lookup(host)
    files = [os.path.expanduser(path) for path in found.get("identityfile", ()) if path != "none"]
    configured = found.get("port", str(SSH_PORT))
    if not _is_port(configured):
        raise SshFailed(f"{CONFIG_FILE} gives {host} the port {configured}, which is none")
    return Login(
        asked=host,
        host=found.get("hostname") or host,
        port=port or int(configured),
        user=username or found.get("user", DEFAULT_USER),
        identity_files=tuple(files),
        only_those=found.get("identitiesonly", "no").lower() == "yes",
    )


def _plan_jump(config: paramiko.SSHConfig, login: Login, depth: int) -> Login | None:
    """How to log in on the host through which this one is to be reached, None where it is reached straight."""
    found = config.lookup(login.asked)
    if found.get("proxycommand"):
        raise SshFailed(
            f"{CONFIG_FILE} has a ProxyCommand for {login.asked}, which fleetctl does not run: write ProxyJump there, "
            "or name a host to go through with --tunnel"
        )
    jumps = found.get("proxyjump", "none")
    if jumps.lower() == "none":
        return None
    if depth == MOST_JUMPS:
        raise SshFailed(
            f"{CONFIG_FILE} leads to {login.asked} through more than {MOST_JUMPS} hosts: ProxyJump in a circle?"
        )
    first, *others = (_parse_jump(config, text.strip()) for text in jumps.split(","))
    if (first.host, first.port) == (login.host, login.port):
        return None  # `Host *` with a ProxyJump is meant for all but the host that it names
    way = msgspec.structs.replace(first, jump=_plan_jump(config, first, depth + 1))
    for jump in others:
        way = msgspec.structs.replace(jump, jump=way)
    return way


def _parse_jump(config: paramiko.SSHConfig, text: str) -> Login:
    """One host of a ProxyJump: [USER@]HOST[:PORT], or the same as ssh://…"""
    user, _, place = text.removeprefix("ssh://").rpartition("@")
    host, port = split_host_port(place)
    return _look_up(config, host, port, user)


def _read_config() -> paramiko.SSHConfig:
    path = os.path.expanduser(CONFIG_FILE)
    try:
        return paramiko.SSHConfig.from_text(read_with_includes(path))
    except (paramiko.SSHException, ValueError) as error:  # ValueError: a quote without an end in a Match
        raise SshFailed(f"{path} cannot be used: {error}") from error


def _is_port(text: str) -> bool:
    return re.fullmatch("[0-9]{1,5}", text, re.ASCII) is not None and 0 < int(text) < 65536
