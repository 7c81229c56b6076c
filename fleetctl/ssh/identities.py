"""The keys to authenticate with, from the agent and from files, in the order to try them."""

import base64
import os
import socket
from collections.abc import Sequence

import msgspec
import paramiko
from cryptography.exceptions import UnsupportedAlgorithm  # paramiko reads key files with it

from fleetctl.errors import cause_of
from fleetctl.ssh.config import AGENT_VARIABLE, Login
from fleetctl.ssh.known_hosts import HostKey

DEFAULT_FILES = ("~/.ssh/id_ed25519", "~/.ssh/id_ecdsa", "~/.ssh/id_rsa")


class Identity(msgspec.Struct, frozen=True):
    """A private key and its source."""

    key: paramiko.PKey
    source: str

    @property
    def public(self) -> HostKey:
        return HostKey(self.key.get_name(), self.key.asbytes())

    def __str__(self) -> str:
        return f"{self.public.kind} {self.public.sha256} ({self.source})"


class Identities(msgspec.Struct, frozen=True):
    """The keys to try, in order, and a sentence for each source without keys."""

    usable: tuple[Identity, ...]
    problems: tuple[str, ...]


def gather_identities(login: Login) -> Identities:
    """The configured files first (by the agent if it holds them), then the agent's keys, then the default files."""
    held, problems = _read_agent(login)
    found: list[Identity] = []
    for path in login.identity_files or DEFAULT_FILES:
        identity, problem = _read_file(os.path.expanduser(path), held)
        found += [identity] if identity else []
        if problem and (login.identity_files or os.path.lexists(os.path.expanduser(path))):
            problems.append(problem)
    others = [] if login.only_those and login.identity_files else held
    ordered = [*found, *others] if login.identity_files else [*others, *found]
    unique: dict[HostKey, Identity] = {}
    for identity in ordered:
        unique.setdefault(identity.public, identity)
    return Identities(tuple(unique.values()), tuple(problems))


class _Agent(paramiko.agent.AgentSSH):  # type: ignore[misc]  # the library has no types
    """The agent at the other end of a connection."""

    def __init__(self, connection: socket.socket) -> None:
        super().__init__()
        self._connect(connection)


def _read_agent(login: Login) -> tuple[list[Identity], list[str]]:
    path, source = login.agent_socket, AGENT_VARIABLE if login.agent is None else "IdentityAgent"
    if not path:
        what = f"{source} is not set" if login.agent is None else "IdentityAgent names none"
        return [], [f"{what}, so there is no agent"]
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.connect(path)
    except OSError:
        connection.close()
        return [], [f"no agent answers at {path} ({source})"]
    try:
        keys = _Agent(connection).get_keys()
    except (paramiko.SSHException, OSError) as error:
        return [], [f"the agent at {path} ({source}) lists no keys: {error}"]
    held = [Identity(key, f"agent: {key.comment}" if key.comment else "agent") for key in keys]
    return held, [] if held else ["the agent holds no keys (ssh-add loads one)"]


def _read_file(path: str, held: Sequence[Identity]) -> tuple[Identity | None, str]:
    """The key of a file, or an error. The agent's if it holds the key: the file may be encrypted or only public."""
    public = _read_public(path + ".pub") or _read_public(path)
    for identity in held:
        if public is not None and identity.public == public:
            return Identity(identity.key, f"{path}, in the agent"), ""
    if public is not None and public == _read_public(path):
        return None, f"{path} is a public key, and no agent holds the private one (ssh-add loads it)"
    try:
        return Identity(paramiko.PKey.from_path(path), path), ""
    except FileNotFoundError:
        return None, f"{path} is not there"
    except OSError as error:
        return None, f"{path} cannot be read: {cause_of(error)}"
    except (TypeError, paramiko.PasswordRequiredException):  # paramiko's way to say that there is a passphrase
        return None, f"{path} is encrypted: load it into an agent (ssh-add {path})"
    except (ValueError, UnsupportedAlgorithm, paramiko.SSHException, paramiko.pkey.UnknownKeyType):
        return None, f"{path} holds no key that can be used (ed25519, ecdsa and rsa can)"


def _read_public(path: str) -> HostKey | None:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            kind, encoded, *_ = file.readline().split()
        return HostKey(kind, base64.b64decode(encoded, validate=True))
    except (OSError, ValueError):
        return None
