"""User, host and keys of an SSH login: command line, ~/.ssh/config, agent, key files. No login takes place."""

import getpass
import gzip
import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fleetctl.errors import SshFailed
from fleetctl.settings import Settings
from fleetctl.ssh.config import Login, plan_login, split_host_port
from fleetctl.ssh.connection import connect_to_bastion, connect_to_machine
from fleetctl.ssh.identities import gather_identities
from fleetctl.ssh.known_hosts import NO_RECORD
from fleetctl.ssh.openssh import HONOURED, MISSING
from tests.examples import examples


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home directory with an empty .ssh, and no agent."""
    (tmp_path / ".ssh").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    return tmp_path


@pytest.fixture
def agent(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The socket of an ssh-agent without keys."""
    path = home / "agent.sock"
    said = subprocess.run(["ssh-agent", "-s", "-a", path], check=True, capture_output=True, text=True).stdout
    monkeypatch.setenv("SSH_AUTH_SOCK", str(path))
    yield path
    os.kill(int(said.partition("SSH_AGENT_PID=")[2].partition(";")[0]), signal.SIGTERM)


def make_key(path: Path, kind: str = "ed25519", passphrase: str = "", *arguments: str) -> str:
    """Create a key file; returns its fingerprint."""
    subprocess.run(["ssh-keygen", "-q", "-t", kind, "-N", passphrase, *arguments, "-f", path], check=True)
    shown = subprocess.run(["ssh-keygen", "-l", "-f", path], check=True, capture_output=True, text=True)
    return shown.stdout.split()[1]


def add_to_agent(path: Path) -> None:
    subprocess.run(["ssh-add", "-q", path], check=True, capture_output=True)


def configure(home: Path, text: str) -> None:
    (home / ".ssh" / "config").write_text(text)


def fingerprints(login: Login) -> list[str]:
    return [identity.public.sha256 for identity in gather_identities(login).usable]


@pytest.mark.covers("3.10.3", "10.3.5")
@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("web", "web", 0),
        ("web:2222", "web", 2222),
        ("10.0.0.1:22", "10.0.0.1", 22),
        ("fd00::1", "fd00::1", 0),
        ("[fd00::1]", "fd00::1", 0),
        ("[fd00::1]:2222", "fd00::1", 2222),
    ],
)
def test_a_host_may_have_a_port(text: str, host: str, port: int) -> None:
    assert split_host_port(text) == (host, port)


@pytest.mark.parametrize(
    "text", ["", ":22", "web:ssh", "web:0", "web:65536", "[::1", "[::1]22", "[]:22", "web:000022", "web:" + "9" * 5000]
)
def test_an_invalid_host_is_refused_with_the_valid_forms(text: str) -> None:
    with pytest.raises(SshFailed, match="HOST:PORT"):
        split_host_port(text)


@pytest.mark.covers("3.10.2")
def test_without_a_configuration_the_defaults_apply(home: Path) -> None:
    assert plan_login(Settings(), "web") == Login(asked="web", host="web", port=22, user=getpass.getuser())
    assert str(plan_login(Settings(ssh_username="me"), "web", 2222)) == "me@web port 2222"


@pytest.mark.covers("3.10.2")
def test_the_configuration_sets_name_port_user_and_keys(home: Path) -> None:
    configure(home, "Host web\n HostName 10.0.0.1\n Port 2222\n User root\n IdentityFile ~/a\n IdentityFile /b\n")
    login = plan_login(Settings(), "web")
    assert login == Login("web", "10.0.0.1", 2222, "root", (f"{home}/a", "/b"))
    assert str(login) == "root@web (10.0.0.1) port 2222"
    assert plan_login(Settings(), "other").user == getpass.getuser()


@pytest.mark.covers("3.3.8", "3.10.2")
def test_the_command_line_overrides_the_configuration(home: Path) -> None:
    configure(home, "Host *\n Port 2222\n User root\n")
    login = plan_login(Settings(ssh_username="core"), "web", 22)
    assert (login.user, login.port) == ("core", 22)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("Host *\n Port x\n", "Bad port 'x'"),
        ("nonsense 1\n", "configuration option: nonsense"),
        ('Match user "\n', "cannot be used"),
    ],
)
def test_an_unusable_configuration_is_named(home: Path, text: str, complaint: str) -> None:
    configure(home, text)
    with pytest.raises(SshFailed, match=complaint):
        plan_login(Settings(), "web")


# What OpenSSH resolves


def test_include_and_match_final_are_resolved_as_in_openssh(home: Path) -> None:
    (home / "part").write_text("Host web\n HostName %h.example\nMatch final host web.example\n User last\n")
    configure(home, f"Include {home}/part\nMatch exec true user other\n Port 4\nMatch exec true\n Port 3\n")
    assert plan_login(Settings(), "web") == Login("web", "web.example", 3, "last")
    assert plan_login(Settings(ssh_username="other"), "web") == Login("web", "web.example", 4, "other")


def test_bind_address_and_host_key_alias_are_configured(home: Path) -> None:
    configure(home, "Host *\n AddressFamily inet6\n BindAddress ::1\n HostKeyAlias the-web\n")
    login = plan_login(Settings(), "web")
    assert (login.family, login.source, login.alias) == (socket.AF_INET6, "::1", "the-web")


@pytest.mark.parametrize(
    ("value", "agent"),
    [
        ("/run/%r-%h-%p", "/run/me-10.0.0.1-22"),
        ("${HOME}/%%", "{home}/%"),
        ("$HOME", "{home}"),
        ("none", ""),
        ("SSH_AUTH_SOCK", "usual"),
    ],
)
def test_identity_agent_is_resolved_as_in_openssh(
    home: Path, monkeypatch: pytest.MonkeyPatch, value: str, agent: str
) -> None:
    monkeypatch.setenv("SSH_AUTH_SOCK", "usual")
    configure(home, f"Host web\n HostName 10.0.0.1\n User me\n IdentityAgent {value}\n")
    assert plan_login(Settings(), "web").agent_socket == agent.format(home=home)
    assert plan_login(Settings(), "db").agent_socket == "usual"


def test_tokens_are_expanded_as_in_openssh(home: Path) -> None:
    user, here = getpass.getuser(), socket.gethostname()
    configure(home, "Host web\n HostName %h.x\n HostKeyAlias k\n IdentityFile %d/%h/%i/%k/%L/%l/%n/%p/%r/%u\n")
    wanted = f"{home}/web.x/{os.getuid()}/k/{here.partition('.')[0]}/{here}/web/22/{user}/{user}"
    assert plan_login(Settings(), "web").identity_files == (wanted,)


def test_an_unset_variable_is_named(home: Path) -> None:
    configure(home, "Host web\n IdentityFile ${NO_SUCH}/x\n")
    with pytest.raises(SshFailed, match="NO_SUCH"):
        plan_login(Settings(), "web")


def test_a_keyword_without_support_is_named_once(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    configure(home, "Host web db\n CertificateFile ~/c\n ForwardAgent yes\n SendEnv A\n")
    for host in ("another", "web", "web", "db"):
        plan_login(Settings(), host)
    said = "warning: the configuration of ssh sets CertificateFile, which fleetctl does not follow\n"
    assert capsys.readouterr().err == said


def test_without_openssh_an_existing_configuration_is_named(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(home))
    assert plan_login(Settings(), "web") == Login("web", "web", 22, getpass.getuser())
    assert capsys.readouterr().err == ""
    configure(home, "Host *\n User me\n")
    assert plan_login(Settings(), "web") == Login("web", "web", 22, getpass.getuser())
    assert "~/.ssh/config is not read" in capsys.readouterr().err


def test_a_configuration_that_takes_too_long_is_an_error(home: Path) -> None:
    configure(home, 'Match exec "sleep 5"\n User me\n')
    with pytest.raises(SshFailed, match="check for a `Match exec` that hangs"):
        plan_login(Settings(ssh_timeout_s=0.2), "web")


# Keywords that the output of `ssh -G` reflects.
SETTLED_BY_SSH = """
    CanonicalDomains CanonicalizeFallbackLocal CanonicalizeHostname CanonicalizeMaxDots CanonicalizePermittedCNAMEs Host
    IgnoreUnknown Include Match Tag VersionAddendum
"""
# Keywords of what fleetctl never does, or has an option of its own for.
IRRELEVANT = """
    AddKeysToAgent ChannelTimeout CheckHostIP ClearAllForwardings Compression ConnectTimeout ConnectionAttempts
    ControlMaster ControlPath ControlPersist DynamicForward EnableEscapeCommandline EnableSSHKeysign EscapeChar
    ExitOnForwardFailure FingerprintHash ForkAfterAuthentication ForwardAgent ForwardX11 ForwardX11Timeout
    ForwardX11Trusted GSSAPIAuthentication GSSAPIClientIdentity GSSAPIDelegateCredentials GSSAPIKexAlgorithms
    GSSAPIKeyExchange GSSAPIRenewalForcesRekey GSSAPIServerIdentity GSSAPITrustDns GatewayPorts GlobalKnownHostsFile
    HashKnownHosts HostbasedAcceptedAlgorithms IPQoS KbdInteractiveAuthentication KbdInteractiveDevices LocalCommand
    LocalForward LogLevel LogVerbose NoHostAuthenticationForLocalhost NumberOfPasswordPrompts ObscureKeystrokeTiming
    PasswordAuthentication PermitLocalCommand PermitRemoteOpen PreferredAuthentications ProxyUseFdpass RekeyLimit
    RemoteCommand RemoteForward RequestTTY SendEnv ServerAliveCountMax ServerAliveInterval SessionType SetEnv StdinNull
    StreamLocalBindMask StreamLocalBindUnlink StrictHostKeyChecking SyslogFacility TCPKeepAlive Tunnel TunnelDevice
    UpdateHostKeys UserKnownHostsFile VisualHostKey WarnWeakCrypto XAuthLocation
"""


def test_every_keyword_of_openssh_is_classified() -> None:
    manual = subprocess.run(["man", "-w", "5", "ssh_config"], check=True, capture_output=True, text=True).stdout.strip()
    text = gzip.decompress(Path(manual).read_bytes()).decode()
    documented = re.findall(r"^\.It Cm ([A-Z]\w+)", text, re.MULTILINE)
    assert len(documented) > 90
    known = {*HONOURED.split(), *MISSING.split(), *SETTLED_BY_SSH.split(), *IRRELEVANT.split()}
    assert set(documented) <= known
    printed = subprocess.run(["ssh", "-G", "-T", "-F", "none", "web"], check=True, capture_output=True, text=True)
    used = {line.partition(" ")[0].lower() for line in printed.stdout.splitlines()}
    assert used <= {keyword.lower() for keyword in known}


# Connecting


@pytest.mark.covers("R.15")
@pytest.mark.parametrize(
    "address",
    ["x;touch${IFS}/tmp/x;#", "$(id)", "a b", "-oProxyCommand=id", "fe80::1%$(id)", "web\n", "`id`", "a/b", "[::1;id]"],
)
def test_the_address_of_a_machine_never_reaches_a_shell(home: Path, address: str) -> None:
    configure(home, f'Match exec "echo %h >>{home}/ran"\n User me\n')
    with pytest.raises(SshFailed, match="is no"):
        connect_to_machine(Settings(), address, 0, None, NO_RECORD)
    assert not (home / "ran").exists()


@pytest.mark.parametrize("address", ["127.0.0.1", "127.0.0.1:1", "[::1]:1", "localhost"])
def test_an_address_is_connected_to(home: Path, address: str) -> None:
    configure(home, "Host *\n Port 1\n")
    with pytest.raises(SshFailed, match="port 1: connection refused"):
        connect_to_machine(Settings(), address, 0, None, NO_RECORD)


@pytest.mark.parametrize(
    ("tunnel", "where"), [("root@127.0.0.1:1", "root"), ("ssh://me@127.0.0.1:1/", "me"), ("127.0.0.1:1", "usual")]
)
def test_a_tunnel_may_name_its_user(home: Path, tunnel: str, where: str) -> None:
    with pytest.raises(SshFailed, match=f"cannot connect to {where}@127.0.0.1 port 1: connection refused"):
        connect_to_bastion(Settings(tunnel=tunnel, ssh_username="usual"))


def test_resolving_a_name_times_out(home: Path) -> None:
    before = time.monotonic()
    with pytest.raises(SshFailed, match=r"the name no-such-host\.invalid does not resolve: "):
        connect_to_machine(Settings(ssh_timeout_s=0.5), "no-such-host.invalid", 0, None, NO_RECORD)
    assert time.monotonic() - before < 5


# ProxyJump


def jumps(login: Login) -> list[str]:
    """The logins on the way to a host, in the order of connecting."""
    return [*(jumps(login.jump) if login.jump else []), str(login)]


@pytest.mark.parametrize(
    ("text", "way"),
    [
        ("Host web\n ProxyJump b\n", ["{me}@b port 22", "{me}@web port 22"]),
        ("Host web\n ProxyJump me@b:2222\n", ["me@b port 2222", "{me}@web port 22"]),
        ("Host web\n ProxyJump me@[::1]:23\n", ["me@::1 port 23", "{me}@web port 22"]),
        ("Host web\n ProxyJump a,me@b\n", ["{me}@a port 22", "me@b port 22", "{me}@web port 22"]),
        ("Host web\n ProxyJump b\nHost b\n User u\n Port 2\n", ["u@b port 2", "{me}@web port 22"]),
        ("Host web\n ProxyJump b\nHost b\n ProxyJump a\n", ["{me}@a port 22", "{me}@b port 22", "{me}@web port 22"]),
        ("Host web\n ProxyJump none\nHost *\n ProxyJump b\n", [f"{getpass.getuser()}@web port 22"]),
    ],
)
def test_proxy_jump_leads_through_the_configured_hosts(home: Path, text: str, way: list[str]) -> None:
    configure(home, text)
    assert jumps(plan_login(Settings(), "web")) == [host.format(me=getpass.getuser()) for host in way]


def test_the_user_of_the_command_line_is_not_that_of_jump_hosts(home: Path) -> None:
    configure(home, "Host web\n ProxyJump b\nHost b\n User u\n")
    assert jumps(plan_login(Settings(ssh_username="me"), "web")) == ["u@b port 22", "me@web port 22"]


def test_behind_a_bastion_proxy_jump_is_ignored(home: Path) -> None:
    configure(home, "Host web\n ProxyJump b\n ProxyCommand nc %h %p\n")
    assert jumps(plan_login(Settings(), "web", is_direct=False)) == [f"{getpass.getuser()}@web port 22"]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("Host web\n ProxyJump b\nHost b\n ProxyJump web\n", "check ProxyJump for a loop"),
        ("Host *\n ProxyJump b\n", "jumphost loop via b"),
        ("Host web\n ProxyJump b:x\n", "Invalid ProxyJump"),
    ],
)
def test_an_invalid_proxy_jump_is_an_error(home: Path, text: str, complaint: str) -> None:
    configure(home, text)
    with pytest.raises(SshFailed) as failed:
        plan_login(Settings(), "web")
    assert complaint in str(failed.value)


def test_a_proxy_command_is_used(home: Path) -> None:
    configure(home, "Host web\n HostName 10.0.0.1\n ProxyCommand nc %h %p\nHost db\n ProxyJump web\n")
    assert plan_login(Settings(), "web").proxy_command == "nc 10.0.0.1 22"
    way = plan_login(Settings(), "db").jump
    assert way is not None
    assert way.proxy_command == "nc 10.0.0.1 22"
    assert plan_login(Settings(), "web", is_direct=False).proxy_command == ""


def test_proxy_command_none_is_no_proxy(home: Path) -> None:
    configure(home, "Host web\n ProxyCommand none\n")
    assert jumps(plan_login(Settings(), "web")) == [f"{getpass.getuser()}@web port 22"]


@pytest.mark.covers("3.10.1")
@pytest.mark.parametrize(
    ("kind", "arguments"),
    [
        ("ed25519", ()),
        ("ecdsa", ()),
        ("ecdsa", ("-b", "521")),
        ("rsa", ()),
        ("rsa", ("-m", "PEM")),
        pytest.param("rsa", ("-b", "4096"), marks=pytest.mark.long),
    ],
)
def test_key_files_of_every_current_kind_are_read(home: Path, kind: str, arguments: tuple[str, ...]) -> None:
    made = make_key(home / ".ssh" / f"id_{kind}", kind, "", *arguments)
    assert fingerprints(plan_login(Settings(), "web")) == [made]


@pytest.mark.parametrize("form", [(), ("-m", "PEM")])
def test_an_encrypted_key_without_an_agent_is_named_with_the_remedy(home: Path, form: tuple[str, ...]) -> None:
    path = home / ".ssh" / "id_rsa"
    make_key(path, "rsa", "secret", *form)
    found = gather_identities(plan_login(Settings(), "web"))
    assert found.usable == ()
    assert found.problems == (
        "SSH_AUTH_SOCK is not set, so there is no agent",
        f"{path} is encrypted: load it into an agent (ssh-add {path})",
    )


def test_an_invalid_and_a_missing_key_file_are_named(home: Path) -> None:
    (home / "junk").write_text("junk")
    configure(home, "Host *\n IdentityFile ~/junk\n IdentityFile ~/missing\n")
    problems = gather_identities(plan_login(Settings(), "web")).problems
    assert problems[1:] == (
        f"{home}/junk holds no key that can be used (ed25519, ecdsa and rsa can)",
        f"{home}/missing is not there",
    )


@pytest.mark.covers("3.10.1")
def test_keys_of_the_agent_precede_the_default_files(home: Path, agent: Path) -> None:
    held = make_key(home / "held")
    add_to_agent(home / "held")
    usual = make_key(home / ".ssh" / "id_ed25519")
    assert fingerprints(plan_login(Settings(), "web")) == [held, usual]


def test_a_configured_key_comes_first_also_from_the_agent(home: Path, agent: Path) -> None:
    held = make_key(home / "held")
    add_to_agent(home / "held")
    named = make_key(home / "named")
    add_to_agent(home / "named")
    subprocess.run(["ssh-keygen", "-q", "-p", "-N", "secret", "-f", home / "named"], check=True, capture_output=True)
    make_key(home / ".ssh" / "id_ed25519")
    configure(home, f"Host web\n IdentityFile {home}/named\nHost db\n IdentityFile {home}/named\n IdentitiesOnly yes\n")
    assert fingerprints(plan_login(Settings(), "web")) == [named, held]
    assert fingerprints(plan_login(Settings(), "db")) == [named]
    assert gather_identities(plan_login(Settings(), "web")).problems == ()


def test_a_key_in_agent_and_file_is_tried_once(home: Path, agent: Path) -> None:
    usual = make_key(home / ".ssh" / "id_ed25519")
    add_to_agent(home / ".ssh" / "id_ed25519")
    assert fingerprints(plan_login(Settings(), "web")) == [usual]


def test_a_public_key_file_selects_the_key_of_the_agent(home: Path, agent: Path) -> None:
    held = make_key(home / "held")
    for name in ("other", "held"):
        make_key(home / "other") if name == "other" else None
        add_to_agent(home / name)
        (home / name).unlink()
    configure(home, f"Host *\n IdentitiesOnly yes\nHost web\n IdentityFile {home}/held.pub\n")
    assert fingerprints(plan_login(Settings(), "web")) == [held]
    subprocess.run(["ssh-add", "-q", "-D"], check=True, capture_output=True)
    assert gather_identities(plan_login(Settings(), "web")).problems[1:] == (
        f"{home}/held.pub is a public key, and no agent holds the private one (ssh-add loads it)",
    )


def test_the_configured_agent_is_asked(home: Path, agent: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held = make_key(home / "held")
    add_to_agent(home / "held")
    monkeypatch.delenv("SSH_AUTH_SOCK")
    configure(home, f"Host web\n IdentityAgent {agent}\nHost db\n IdentityAgent none\n")
    assert fingerprints(plan_login(Settings(), "web")) == [held]
    assert gather_identities(plan_login(Settings(), "db")).problems == (
        "IdentityAgent names none, so there is no agent",
    )


@pytest.mark.covers("3.10.1")
def test_an_empty_agent_and_a_missing_one_differ_in_the_error(
    home: Path, agent: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    login = plan_login(Settings(), "web")
    assert gather_identities(login).problems == ("the agent holds no keys (ssh-add loads one)",)
    monkeypatch.setenv("SSH_AUTH_SOCK", str(home / "gone"))
    assert gather_identities(login).problems == (f"no agent answers at {home}/gone (SSH_AUTH_SOCK)",)


KEYWORDS = st.sampled_from(
    [
        "Host",
        "Match",
        "Port",
        "User",
        "HostName",
        "IdentityFile",
        "IdentitiesOnly",
        "ProxyJump",
        "ProxyCommand",
        "Include",
    ]
)
VALUES = st.sampled_from(
    [
        "web",
        "*",
        "!web",
        "all",
        "host web",
        "final",
        "host",
        "canonical",
        "22",
        "99999",
        "9" * 5000,
        "none",
        "a,web",
        "web:x",
    ]
) | st.text("%hpn\"\\'=~/[]{}@:,!*? \t", max_size=6)
CONFIG_LINES = st.lists(st.tuples(KEYWORDS, st.sampled_from([" ", "=", ""]), VALUES).map("".join) | VALUES, max_size=8)


@settings(max_examples=examples(200), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(CONFIG_LINES.map("\n".join))
def test_any_configuration_gives_a_login_or_an_error(home: Path, text: str) -> None:
    configure(home, text)
    with suppress(SshFailed):
        assert 0 < plan_login(Settings(), "web").port < 65536
