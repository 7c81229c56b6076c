"""Combines the command line and OpenSSH's configuration of a host into one Login; connects to nothing."""

import getpass
import hashlib
import os
import re
import socket

import msgspec

from fleetctl.errors import SshFailed
from fleetctl.settings import Settings
from fleetctl.ssh.known_hosts import SSH_PORT
from fleetctl.ssh.openssh import HostConfig, ask_openssh

MAX_JUMPS = 8
AGENT_VARIABLE = "SSH_AUTH_SOCK"
_TOKEN = re.compile(r"%(.)|\$\{([^}]*)\}", re.DOTALL)
_FAMILIES = {"inet": socket.AF_INET, "inet6": socket.AF_INET6}


class Login(msgspec.Struct, frozen=True):
    """A host and how to log in there. `asked` is the host as given, `host` its HostName.

    `identity_files` are the configured key files, the only ones tried if `only_those`. `agent` is the agent's socket:
    None for SSH_AUTH_SOCK, '' for no agent. `alias` is its HostKeyAlias. The connection goes through `jump`, which may
    have a jump of its own, or over the stdin and stdout of the shell command `proxy_command`. `family` and `source` are
    AddressFamily and BindAddress.
    """

    asked: str
    host: str
    port: int
    user: str
    identity_files: tuple[str, ...] = ()
    only_those: bool = False
    agent: str | None = None
    alias: str = ""
    jump: "Login | None" = None
    proxy_command: str = ""
    family: int = socket.AF_UNSPEC
    source: str = ""

    def __str__(self) -> str:
        host = self.host if self.host == self.asked else f"{self.asked} ({self.host})"
        return f"{self.user}@{host} port {self.port}"

    @property
    def agent_socket(self) -> str:
        """The agent's socket, '' for none."""
        return os.environ.get(AGENT_VARIABLE, "") if self.agent is None else self.agent


def split_host_port(text: str) -> tuple[str, int]:
    """`host`, `host:port`, `[address]:port` or a bare IPv6 address, as host and port (0 where none is given).

    Raises SshFailed.
    """
    host, port = text, ""
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            raise SshFailed(f'"{text}" is not a host: write HOST, HOST:PORT or [ADDRESS]:PORT')
        port = rest[1:]
    elif text.count(":") == 1:
        host, _, port = text.partition(":")
    if not host or host.startswith("-") or (port and not _is_port(port)):
        raise SshFailed(f'"{text}" is not a host: write HOST, HOST:PORT or [ADDRESS]:PORT, with a port from 1 to 65535')
    return host, int(port or 0)


def split_user(text: str) -> tuple[str, str]:
    """`[USER@]HOST`, with or without `ssh://`, as user ('' if not given) and host."""
    user, _, place = text.removeprefix("ssh://").rpartition("@")
    return user, place.removesuffix("/")


def plan_login(settings: Settings, host: str, port: int = 0, user: str = "", *, is_direct: bool = True) -> Login:
    """The login for a host from the command line, OpenSSH's configuration and its defaults, in this order.

    `port` 0 means not given, `user` '' means --ssh-username. ProxyJump and ProxyCommand apply only if it `is_direct`.
    Raises SshFailed for a configuration that cannot be read or used.
    """
    login, answer = _look_up(settings, host, port, user or settings.ssh_username)
    return _with_proxy(settings, login, answer, 0) if is_direct else login


def _look_up(settings: Settings, host: str, port: int, user: str) -> tuple[Login, HostConfig]:
    """The login without jumps, and the whole configuration of the host."""
    answer = ask_openssh(host, port, user, settings.ssh_timeout_s)
    configured = _first(answer, "port", str(SSH_PORT))
    login = Login(
        asked=host,
        host=_first(answer, "hostname", host),
        port=port or int(configured),
        user=user or _first(answer, "user") or _own_name(),
        alias=_first(answer, "hostkeyalias"),
        only_those=_first(answer, "identitiesonly") == "yes",
        family=_FAMILIES.get(_first(answer, "addressfamily"), socket.AF_UNSPEC),
        source=_first(answer, "bindaddress"),
    )
    files = (path for path in answer.get("identityfile", ()) if path.lower() != "none")
    return msgspec.structs.replace(
        login,
        identity_files=tuple(os.path.expanduser(_expand(path, login, answer)) for path in files),
        agent=_choose_agent(login, answer),
    ), answer


def _choose_agent(login: Login, answer: HostConfig) -> str | None:
    """IdentityAgent: a path, `$VARIABLE`, `none`, or the usual one."""
    agent = _first(answer, "identityagent", AGENT_VARIABLE)
    if agent == AGENT_VARIABLE:
        return None
    if agent.lower() == "none":
        return ""
    if agent.startswith("$") and not agent.startswith("${"):
        return os.environ.get(agent[1:], "")
    return os.path.expanduser(_expand(agent, login, answer))


def _with_proxy(settings: Settings, login: Login, answer: HostConfig, depth: int) -> Login:
    """The login with its ProxyJump or ProxyCommand, if any."""
    jumps = _first(answer, "proxyjump", "none")
    if jumps.lower() == "none":
        command = _first(answer, "proxycommand", "none")
        if command.lower() == "none":
            return login
        return msgspec.structs.replace(login, proxy_command=_expand(command, login, answer))
    if depth == MAX_JUMPS:
        raise SshFailed(
            f"the configuration of ssh leads to {login.asked} through more than {MAX_JUMPS} hosts: "
            "check ProxyJump for a loop"
        )
    (first, its_answer), *others = (_look_up_jump(settings, text.strip()) for text in jumps.split(","))
    if (first.host, first.port) == (login.host, login.port):
        return login  # `Host *` with a ProxyJump applies to all hosts but the jump itself
    way = _with_proxy(settings, first, its_answer, depth + 1)
    for jump, _ in others:
        way = msgspec.structs.replace(jump, jump=way)
    return msgspec.structs.replace(login, jump=way)


def _look_up_jump(settings: Settings, text: str) -> tuple[Login, HostConfig]:
    """One host of a ProxyJump."""
    user, place = split_user(text)
    host, port = split_host_port(place)
    return _look_up(settings, host, port, user)


def _expand(text: str, login: Login, answer: HostConfig) -> str:
    """The value with tokens and variables expanded (TOKENS in ssh_config(5)). Raises SshFailed."""
    here = socket.gethostname()
    jump = _first(answer, "proxyjump")
    values = {
        "%": "%",
        "d": os.path.expanduser("~"),
        "h": login.host,
        "i": str(os.getuid()),
        "j": jump,
        "k": login.alias or login.asked,
        "L": here.partition(".")[0],
        "l": here,
        "n": login.asked,
        "p": str(login.port),
        "r": login.user,
        "u": _own_name(),
    }
    joined = here + login.host + str(login.port) + login.user + jump
    values["C"] = hashlib.sha1(joined.encode(), usedforsecurity=False).hexdigest()

    def replace(found: re.Match[str]) -> str:
        token, variable = found.groups()
        value = values.get(token) if token else os.environ.get(variable)
        if value is None:
            raise SshFailed(
                f'the configuration of ssh cannot be used: "{found[0]}" in {text} is not a token or a set variable'
            )
        return value

    return _TOKEN.sub(replace, text)


def _first(answer: HostConfig, keyword: str, default: str = "") -> str:
    return answer.get(keyword, [default])[0]


def _own_name() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError) as error:
        raise SshFailed("your user name is unknown on this machine: give one with --ssh-username") from error


def _is_port(text: str) -> bool:
    return re.fullmatch("[0-9]{1,5}", text, re.ASCII) is not None and 0 < int(text) < 65536
