"""Who logs in where: what the command line and OpenSSH's configuration say of a host, made into one Login.

Nothing connects here, and no key is read.
"""

import getpass
import hashlib
import os
import re
import socket

import msgspec

from fleetctl.errors import SshFailed
from fleetctl.settings import Settings
from fleetctl.ssh.known_hosts import SSH_PORT
from fleetctl.ssh.openssh import Answer, ask_openssh

MOST_JUMPS = 8
AGENT_VARIABLE = "SSH_AUTH_SOCK"
_TOKEN = re.compile(r"%(.)|\$\{([^}]*)\}", re.DOTALL)
_FAMILIES = {"inet": socket.AF_INET, "inet6": socket.AF_INET6}


class Login(msgspec.Struct, frozen=True):
    """Where to log in and as whom. `asked` is the host as it was asked for, `host` the one to connect to.

    `identity_files` are key files that the configuration names; with `only_those`, no other key is offered. `agent` is
    the agent's socket: None for the usual one, '' for none at all. `alias` is the name that its host key is known by,
    '' for its own. It is reached through the host of `jump` (which may have one of its own), or over the standard input
    and output of `proxy_command`, a shell's command. `family` and `source` are those of its TCP connection.
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
        """Where the agent listens, '' where there is none."""
        return os.environ.get(AGENT_VARIABLE, "") if self.agent is None else self.agent


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
    if not host or host.startswith("-") or (port and not _is_port(port)):
        raise SshFailed(f'"{text}" is no host: write HOST, HOST:PORT or [ADDRESS]:PORT, with a port from 1 to 65535')
    return host, int(port or 0)


def split_user(text: str) -> tuple[str, str]:
    """`[USER@]PLACE`, or the same as `ssh://…`, as user ('' where none is given) and place."""
    user, _, place = text.removeprefix("ssh://").rpartition("@")
    return user, place.removesuffix("/")


def plan_login(settings: Settings, host: str, port: int = 0, user: str = "", *, is_direct: bool = True) -> Login:
    """How to log in on a host: the command line first, then OpenSSH's configuration, then its defaults. `port` 0 was
    not given, `user` '' is that of --ssh-username.

    Only where it `is_direct` is the way there the configuration's matter. Raises SshFailed for a configuration that
    cannot be read, or asks for what fleetctl cannot do.
    """
    login, answer = _look_up(settings, host, port, user or settings.ssh_username)
    return _with_way(settings, login, answer, 0) if is_direct else login


def _look_up(settings: Settings, host: str, port: int, user: str) -> tuple[Login, Answer]:
    """What the configuration says of one host, the way there aside; and all that it says."""
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


def _choose_agent(login: Login, answer: Answer) -> str | None:
    """IdentityAgent: a path, `$VARIABLE`, `none`, or the usual one."""
    agent = _first(answer, "identityagent", AGENT_VARIABLE)
    if agent == AGENT_VARIABLE:
        return None
    if agent.lower() == "none":
        return ""
    if agent.startswith("$") and not agent.startswith("${"):
        return os.environ.get(agent[1:], "")
    return os.path.expanduser(_expand(agent, login, answer))


def _with_way(settings: Settings, login: Login, answer: Answer, depth: int) -> Login:
    """The login with the way there: through the hosts of its ProxyJump, by its ProxyCommand, or straight."""
    jumps = _first(answer, "proxyjump", "none")
    if jumps.lower() == "none":
        command = _first(answer, "proxycommand", "none")
        if command.lower() == "none":
            return login
        return msgspec.structs.replace(login, proxy_command=_expand(command, login, answer))
    if depth == MOST_JUMPS:
        raise SshFailed(
            f"the configuration of ssh leads to {login.asked} through more than {MOST_JUMPS} hosts: "
            "ProxyJump in a circle?"
        )
    (first, its_answer), *others = (_look_up_jump(settings, text.strip()) for text in jumps.split(","))
    if (first.host, first.port) == (login.host, login.port):
        return login  # `Host *` with a ProxyJump is meant for all but the host that it names
    way = _with_way(settings, first, its_answer, depth + 1)
    for jump, _ in others:
        way = msgspec.structs.replace(jump, jump=way)
    return msgspec.structs.replace(login, jump=way)


def _look_up_jump(settings: Settings, text: str) -> tuple[Login, Answer]:
    """One host of a ProxyJump."""
    user, place = split_user(text)
    host, port = split_host_port(place)
    return _look_up(settings, host, port, user)


def _expand(text: str, login: Login, answer: Answer) -> str:
    """The tokens and variables in a value: the section TOKENS of ssh_config(5). Raises SshFailed."""
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
            raise SshFailed(f'the configuration of ssh cannot be used: "{found[0]}" in {text} stands for nothing')
        return value

    return _TOKEN.sub(replace, text)


def _first(answer: Answer, keyword: str, default: str = "") -> str:
    return answer.get(keyword, [default])[0]


def _own_name() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError) as error:
        raise SshFailed("who you are is not known here, so name the user with --ssh-username") from error


def _is_port(text: str) -> bool:
    return re.fullmatch("[0-9]{1,5}", text, re.ASCII) is not None and 0 < int(text) < 65536
