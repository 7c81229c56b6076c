"""Who logs in where and with which keys: the command line, ~/.ssh/config, the agent, key files. Nothing connects."""

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fleetctl.errors import SshFailed
from fleetctl.settings import Settings
from fleetctl.ssh.config import Login, plan_login, split_host_port
from fleetctl.ssh.identities import gather_identities
from tests.examples import examples


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home directory with an .ssh in it, and no agent."""
    (tmp_path / ".ssh").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    return tmp_path


@pytest.fixture
def agent(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An ssh-agent without keys; its socket."""
    path = home / "agent.sock"
    said = subprocess.run(["ssh-agent", "-s", "-a", path], check=True, capture_output=True, text=True).stdout
    monkeypatch.setenv("SSH_AUTH_SOCK", str(path))
    yield path
    os.kill(int(said.partition("SSH_AGENT_PID=")[2].partition(";")[0]), signal.SIGTERM)


def make_key(path: Path, kind: str = "ed25519", passphrase: str = "", *arguments: str) -> str:
    """A key file; its fingerprint."""
    subprocess.run(["ssh-keygen", "-q", "-t", kind, "-N", passphrase, *arguments, "-f", path], check=True)
    shown = subprocess.run(["ssh-keygen", "-l", "-f", path], check=True, capture_output=True, text=True)
    return shown.stdout.split()[1]


def add_to_agent(path: Path) -> None:
    subprocess.run(["ssh-add", "-q", path], check=True, capture_output=True)


def configure(home: Path, text: str) -> None:
    (home / ".ssh" / "config").write_text(text)


def fingerprints(login: Login) -> list[str]:
    return [identity.public.sha256 for identity in gather_identities(login).usable]


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
def test_what_is_no_host_is_refused_with_the_forms_there_are(text: str) -> None:
    with pytest.raises(SshFailed, match="HOST:PORT"):
        split_host_port(text)


def test_without_a_configuration_the_usual_is_taken(home: Path) -> None:
    assert plan_login(Settings(), "web") == Login(asked="web", host="web", port=22, user="core")
    assert str(plan_login(Settings(ssh_username="me"), "web", 2222)) == "me@web port 2222"


def test_the_configuration_gives_name_port_user_and_keys(home: Path) -> None:
    configure(home, "Host web\n HostName 10.0.0.1\n Port 2222\n User root\n IdentityFile ~/a\n IdentityFile /b\n")
    login = plan_login(Settings(), "web")
    assert login == Login("web", "10.0.0.1", 2222, "root", (f"{home}/a", "/b"))
    assert str(login) == "root@web (10.0.0.1) port 2222"
    assert plan_login(Settings(), "other").user == "core"


def test_the_command_line_goes_before_the_configuration(home: Path) -> None:
    configure(home, "Host *\n Port 2222\n User root\n")
    login = plan_login(Settings(ssh_username="core"), "web", 22)
    assert (login.user, login.port) == ("core", 22)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("Host *\n Port x\n", "the port x"),
        ("nonsense\n", "/.ssh/config cannot be used"),
        ('Match user "\n', "/.ssh/config cannot be used: No closing quotation"),
    ],
)
def test_a_configuration_that_cannot_be_used_is_named(home: Path, text: str, complaint: str) -> None:
    configure(home, text)
    with pytest.raises(SshFailed, match=complaint):
        plan_login(Settings(), "web")


# Include


def test_what_is_included_stands_where_it_is_included(home: Path) -> None:
    configure(home, "Include conf.d/*.conf ~/more\nHost *\n User last\n Port 2\n")
    (home / ".ssh" / "conf.d").mkdir()
    (home / ".ssh" / "conf.d" / "1.conf").write_text("Host web\n HostName 10.0.0.1\n")
    (home / ".ssh" / "conf.d" / "2.conf").write_text("Host db web\n User two\n")
    (home / "more").write_text("Host web\n User three\n Port 3\n")
    assert plan_login(Settings(), "web") == Login("web", "10.0.0.1", 3, "two")
    assert plan_login(Settings(), "other") == Login("other", "other", 2, "last")


def test_a_section_goes_on_after_what_is_included_in_it(home: Path) -> None:
    configure(home, 'Host web\n Include "part"\n Port 2222\nHost db\n User root\n')
    (home / ".ssh" / "part").write_text("User me\n")
    assert str(plan_login(Settings(), "web")) == "me@web port 2222"
    assert str(plan_login(Settings(), "db")) == "root@db port 22"


def test_what_follows_an_include_is_not_of_the_section_that_the_file_ended_with(home: Path) -> None:
    configure(home, "Include part\nPort 2222\n")
    (home / ".ssh" / "part").write_text("Host web\n User me\n")
    assert (plan_login(Settings(), "web").port, plan_login(Settings(), "db").port) == (2222, 2222)


def test_a_file_that_is_not_there_is_included_as_nothing(home: Path) -> None:
    configure(home, "Include absent\nInclude conf.d/*\nPort 2222\n")
    assert plan_login(Settings(), "web").port == 2222


@pytest.mark.parametrize(
    ("text", "part", "complaint"),
    [
        ("Host web\n Include part\n", "Host db\n", "put that Include before the first Host or Match"),
        ("Include part\n", "Include part\n", "does a file include itself?"),
        ('Include "part\n', "", 'Include "part: no closing quotation'),
    ],
)
def test_an_include_that_fleetctl_cannot_follow_is_named(home: Path, text: str, part: str, complaint: str) -> None:
    configure(home, text)
    (home / ".ssh" / "part").write_text(part)
    with pytest.raises(SshFailed) as failed:
        plan_login(Settings(), "web")
    assert complaint in str(failed.value)
    assert f"{home}/.ssh/" in str(failed.value)


# ProxyJump


def jumps(login: Login) -> list[str]:
    """The way to a host, the first to connect to first."""
    return [*(jumps(login.jump) if login.jump else []), str(login)]


@pytest.mark.parametrize(
    ("text", "way"),
    [
        ("Host web\n ProxyJump b\n", ["core@b port 22", "core@web port 22"]),
        ("Host web\n ProxyJump me@b:2222\n", ["me@b port 2222", "core@web port 22"]),
        ("Host web\n ProxyJump ssh://me@[::1]:23\n", ["me@::1 port 23", "core@web port 22"]),
        ("Host web\n ProxyJump a,me@b\n", ["core@a port 22", "me@b port 22", "core@web port 22"]),
        ("Host web\n ProxyJump b\nHost b\n User u\n Port 2\n", ["u@b port 2", "core@web port 22"]),
        ("Host web\n ProxyJump b\nHost b\n ProxyJump a\n", ["core@a port 22", "core@b port 22", "core@web port 22"]),
        ("Host *\n ProxyJump b\n", ["core@b port 22", "core@web port 22"]),
        ("Host web\n ProxyJump none\nHost *\n ProxyJump b\n", ["core@web port 22"]),
    ],
)
def test_the_way_leads_through_the_hosts_that_the_configuration_names(home: Path, text: str, way: list[str]) -> None:
    configure(home, text)
    assert jumps(plan_login(Settings(), "web")) == way


def test_the_user_of_the_command_line_is_one_of_the_machine_not_of_the_hosts_before_it(home: Path) -> None:
    configure(home, "Host web\n ProxyJump b\nHost b\n User u\n")
    assert jumps(plan_login(Settings(ssh_username="me"), "web")) == ["u@b port 22", "me@web port 22"]


def test_behind_a_bastion_the_configuration_is_not_asked_for_the_way(home: Path) -> None:
    configure(home, "Host web\n ProxyJump b\n ProxyCommand nc %h %p\n")
    assert jumps(plan_login(Settings(), "web", is_direct=False)) == ["core@web port 22"]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (
            "Host web\n ProxyCommand nc %h %p\n",
            "has a ProxyCommand for web, which fleetctl does not run: write ProxyJump",
        ),
        ("Host web\n ProxyJump b\nHost b\n ProxyCommand nc %h %p\n", "has a ProxyCommand for b"),
        ("Host web\n ProxyJump b\nHost b\n ProxyJump web\n", "ProxyJump in a circle?"),
        ("Host web\n ProxyJump b:ssh\n", '"b:ssh" is no host'),
    ],
)
def test_a_way_that_fleetctl_cannot_go_is_named_and_not_gone_around(home: Path, text: str, complaint: str) -> None:
    configure(home, text)
    with pytest.raises(SshFailed) as failed:
        plan_login(Settings(), "web")
    assert complaint in str(failed.value)


def test_a_proxy_command_that_is_none_is_none(home: Path) -> None:
    configure(home, "Host web\n ProxyCommand none\n")
    assert jumps(plan_login(Settings(), "web")) == ["core@web port 22"]


@pytest.mark.parametrize(
    ("kind", "arguments"),
    [
        ("ed25519", ()),
        ("ecdsa", ()),
        ("ecdsa", ("-b", "521")),
        ("rsa", ()),
        ("rsa", ("-m", "PEM")),
        ("rsa", ("-b", "4096")),
    ],
)
def test_key_files_of_all_current_kinds_are_read(home: Path, kind: str, arguments: tuple[str, ...]) -> None:
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


def test_what_is_no_key_and_what_is_not_there_is_named(home: Path) -> None:
    (home / "junk").write_text("junk")
    configure(home, "Host *\n IdentityFile ~/junk\n IdentityFile ~/missing\n")
    problems = gather_identities(plan_login(Settings(), "web")).problems
    assert problems[1:] == (
        f"{home}/junk holds no key that can be used (ed25519, ecdsa and rsa can)",
        f"{home}/missing is not there",
    )


def test_the_agents_keys_go_before_the_usual_files(home: Path, agent: Path) -> None:
    held = make_key(home / "held")
    add_to_agent(home / "held")
    usual = make_key(home / ".ssh" / "id_ed25519")
    assert fingerprints(plan_login(Settings(), "web")) == [held, usual]


def test_a_key_that_the_configuration_names_goes_first_from_the_agent_if_it_is_encrypted(
    home: Path, agent: Path
) -> None:
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


def test_a_key_is_tried_once_though_agent_and_file_have_it(home: Path, agent: Path) -> None:
    usual = make_key(home / ".ssh" / "id_ed25519")
    add_to_agent(home / ".ssh" / "id_ed25519")
    assert fingerprints(plan_login(Settings(), "web")) == [usual]


def test_an_agent_without_keys_and_one_that_is_gone_are_told_apart(
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
def test_no_configuration_ends_in_anything_but_a_login_or_a_word_on_what_is_wrong(home: Path, text: str) -> None:
    configure(home, text)
    with suppress(SshFailed):
        assert 0 < plan_login(Settings(), "web").port < 65536
