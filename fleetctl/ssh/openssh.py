"""OpenSSH's configuration of a host, from `ssh -G`, which follows every rule of ssh_config(5).

Without `ssh` installed, no configuration is read.
"""

import os
import pwd
import subprocess
import threading
from collections.abc import Mapping
from functools import cache

from fleetctl import output
from fleetctl.errors import SshFailed

# Keywords of ssh_config(5) that fleetctl honours, and those that it does not although they may decide whether ssh can
# connect: it warns of these once, if they are set. The manual lists both. All others concern what fleetctl never does,
# or are settled by `ssh -G`.
HONOURED = """
    AddressFamily BindAddress HostKeyAlias Hostname IdentitiesOnly IdentityAgent IdentityFile Port ProxyCommand
    ProxyJump User
"""
MISSING = """
    BatchMode BindInterface CASignatureAlgorithms CertificateFile Ciphers HostKeyAlgorithms HostbasedAuthentication
    KexAlgorithms KnownHostsCommand MACs PKCS11Provider PubkeyAcceptedAlgorithms PubkeyAuthentication RefuseConnection
    RequiredRSASize RevokedHostKeys SecurityKeyProvider VerifyHostKeyDNS
"""

CONFIG_FILE = "~/.ssh/config"
SYSTEM_FILE = "/etc/ssh/ssh_config"

HostConfig = Mapping[str, list[str]]
"""Keyword in lower case → its values, in order of precedence."""

_naming = threading.Lock()
_named: set[str] = set()


def ask_openssh(host: str, port: int, user: str, timeout_s: float) -> HostConfig:
    """The configuration of a host without OpenSSH's defaults, except `hostname`, `port` and `user`; empty without ssh.

    `port` 0 and `user` '' mean not given. Warns once of configured keywords that fleetctl does not support. Raises
    SshFailed for a configuration that OpenSSH rejects.
    """
    given = [*(["-p", str(port)] if port else []), *(["-l", user] if user else [])]
    try:
        answer = _run([*_files(), *given, "--", host], timeout_s)
        defaults = _defaults(timeout_s)
    except FileNotFoundError:
        if os.path.exists(os.path.expanduser(CONFIG_FILE)):
            _warn_once(f"{CONFIG_FILE} is not read: that takes OpenSSH's client, ssh, which is not installed")
        return {}
    found = {
        keyword: values
        for keyword, values in answer.items()
        if keyword in ("hostname", "port", "user") or values != defaults.get(keyword)
    }
    missing = [keyword for keyword in MISSING.split() if keyword.lower() in found]
    if missing:
        # Defaults of the distribution are not the user's.
        usual = _run(["-F", SYSTEM_FILE, "--", host], timeout_s) if os.path.exists(SYSTEM_FILE) else {}
        for keyword in missing:
            if found[keyword.lower()] != usual.get(keyword.lower()):
                _warn_once(f"the configuration of ssh sets {keyword}, which fleetctl does not follow")
    return found


def _files() -> list[str]:
    """Honours $HOME if it differs from the user database, which is all that ssh looks at."""
    home = os.path.expanduser("~")
    try:
        if home == pwd.getpwuid(os.getuid()).pw_dir:
            return []
    except KeyError:
        return []
    own = os.path.expanduser(CONFIG_FILE)
    return ["-F", own if os.path.exists(own) else SYSTEM_FILE if os.path.exists(SYSTEM_FILE) else "none"]


@cache
def _defaults(timeout_s: float) -> HostConfig:
    return _run(["-F", "none", "--", "localhost"], timeout_s)


def _run(arguments: list[str], timeout_s: float) -> HostConfig:
    """Raises SshFailed, and FileNotFoundError if ssh is not installed."""
    try:
        done = subprocess.run(
            ["ssh", "-G", "-T", *arguments],
            stdin=subprocess.DEVNULL,  # a `Match exec` must not read the stdin of our command
            capture_output=True,
            timeout=timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise SshFailed(
            f"the configuration of ssh took longer than {timeout_s:g} s to read: check for a `Match exec` that hangs "
            "(--ssh-timeout=SECONDS waits longer)"
        ) from error
    if done.returncode:
        why = output.printable(done.stderr.decode(errors="replace")) or f"ssh -G ended with status {done.returncode}"
        raise SshFailed(f"the configuration of ssh cannot be used: {why}")
    answer: dict[str, list[str]] = {}
    for line in os.fsdecode(done.stdout).splitlines():
        keyword, _, value = line.partition(" ")
        answer.setdefault(keyword.lower(), []).append(value)
    return answer


def _warn_once(text: str) -> None:
    with _naming:
        is_new = text not in _named
        _named.add(text)
    if is_new:
        output.warning(f"warning: {text}")
