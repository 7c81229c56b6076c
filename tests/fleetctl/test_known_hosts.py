"""The known_hosts file: how its lines are matched, and how keys are added. The keys are made by ssh-keygen."""

import base64
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from fleetctl.ssh.known_hosts import (
    Finding,
    HostKey,
    KeyStatus,
    KnownHosts,
    Record,
    host_names,
    preferred_kinds,
    read_record,
)

KNOWN, UNKNOWN, CHANGED, REVOKED = KeyStatus.KNOWN, KeyStatus.UNKNOWN, KeyStatus.CHANGED, KeyStatus.REVOKED


def make_key(folder: Path, kind: str) -> HostKey:
    path = folder / f"key{len(list(folder.glob('key*')))}"
    subprocess.run(["ssh-keygen", "-q", "-t", kind, "-N", "", "-f", path], check=True)
    name, encoded, *_ = path.with_suffix(".pub").read_text().split()
    return HostKey(name, base64.b64decode(encoded))


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> list[HostKey]:
    """Two ed25519 keys, one of ECDSA, one of RSA."""
    folder = tmp_path_factory.mktemp("keys")
    return [make_key(folder, kind) for kind in ("ed25519", "ed25519", "ecdsa", "rsa")]


Write = Callable[..., KnownHosts]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes the file, and returns what is read from it."""

    def call(*lines: str) -> KnownHosts:
        (tmp_path / "known").write_text("".join(f"{line}\n" for line in lines))
        return KnownHosts.read(str(tmp_path / "known"))

    return call


def line(hosts: str, key: HostKey) -> str:
    return f"{hosts} {key.kind} {base64.b64encode(key.blob).decode()} a comment"


@pytest.mark.covers("3.10.9", "3.10.15")
def test_a_recorded_key_is_known_and_another_counts_as_changed(write: Write, keys: list[HostKey]) -> None:
    known_hosts = write("# a comment", "", line("10.0.0.1", keys[0]))
    assert known_hosts.check(["10.0.0.1"], keys[0]) == Finding(KNOWN, f"{known_hosts.path}:3")
    assert known_hosts.check(["10.0.0.1"], keys[1]) == Finding(CHANGED, f"{known_hosts.path}:3")
    assert known_hosts.check(["10.0.0.1"], keys[2]) == Finding(CHANGED, f"{known_hosts.path}:3")
    assert known_hosts.check(["10.0.0.2"], keys[0]) == Finding(UNKNOWN)


@pytest.mark.covers("3.10.11")
def test_any_recorded_key_of_a_host_is_accepted(write: Write, keys: list[HostKey]) -> None:
    known_hosts = write(*(line("web,10.0.0.1", key) for key in keys[1:]))
    assert [known_hosts.check(["10.0.0.1"], key).status for key in keys] == [CHANGED, KNOWN, KNOWN, KNOWN]
    assert known_hosts.kinds(["web"]) == ["ssh-ed25519", "ecdsa-sha2-nistp256", "ssh-rsa"]


@pytest.mark.covers("3.10.9")
@pytest.mark.parametrize(
    ("hosts", "matching", "others"),
    [
        ("10.0.?.1", "10.0.5.1", "10.0.55.1"),
        ("*.example.org", "a.b.example.org", "example.org"),
        ("*.example.org,!bad.example.org", "good.example.org", "bad.example.org"),
        ("!bad.example.org,*.example.org", "good.example.org", "bad.example.org"),
        ("[10.0.0.1]:2222", "[10.0.0.1]:2222", "10.0.0.1"),
        ("[10.0.0.*]:2222", "[10.0.0.9]:2222", "1"),
        ("Web.Example.org", "web.example.ORG", "web"),
        ("web", "web", "webs"),
        ("w.b", "w.b", "web"),
        ("*a*b*.?rg", "xaxbx.org", "xbxax.org"),
    ],
)
def test_hosts_are_matched_by_patterns(
    write: Write, keys: list[HostKey], hosts: str, matching: str, others: str
) -> None:
    known_hosts = write(line(hosts, keys[0]))
    assert known_hosts.check([matching], keys[0]).status == KNOWN
    assert known_hosts.check([others], keys[0]).status == UNKNOWN


@pytest.mark.covers("3.10.10")
def test_hashed_names_are_matched_as_openssh_does(tmp_path: Path, keys: list[HostKey]) -> None:
    path = tmp_path / "known"
    path.write_text(line("web", keys[0]) + "\n" + line("[10.0.0.1]:2222", keys[2]) + "\n")
    subprocess.run(["ssh-keygen", "-q", "-H", "-f", path], check=True, capture_output=True)
    assert "web" not in path.read_text()
    known_hosts = KnownHosts.read(str(path))
    assert known_hosts.check(["web"], keys[0]).status == KNOWN
    assert known_hosts.check(["WEB"], keys[1]).status == CHANGED
    assert known_hosts.check(["[10.0.0.1]:2222"], keys[2]).status == KNOWN
    assert known_hosts.check(["10.0.0.1"], keys[2]).status == UNKNOWN


@pytest.mark.parametrize("hashed", ["|1|abc", "|2|c2FsdA==|aGFzaA==", "|1|!|!", "|"])
def test_an_invalid_hash_matches_no_host(write: Write, keys: list[HostKey], hashed: str) -> None:
    assert write(line(hashed, keys[0])).check(["web"], keys[0]).status == UNKNOWN


@pytest.mark.covers("3.10.10")
def test_authority_lines_are_ignored_and_revoked_keys_refused(write: Write, keys: list[HostKey]) -> None:
    known_hosts = write(
        "@cert-authority " + line("*", keys[3]),
        "@of-a-later-day " + line("*", keys[0]),
        "@revoked " + line("*", keys[1]),
        line("web", keys[0]),
        line("web", keys[1]),
    )
    assert known_hosts.check(["web"], keys[0]) == Finding(KNOWN, f"{known_hosts.path}:4")
    assert known_hosts.check(["web"], keys[1]) == Finding(REVOKED, f"{known_hosts.path}:3")
    assert known_hosts.check(["db"], keys[3]).status == UNKNOWN
    assert known_hosts.check(["db"], keys[1]).status == REVOKED


def test_the_first_of_several_names_in_the_file_counts(write: Write, keys: list[HostKey]) -> None:
    known_hosts = write(line("web", keys[0]), line("10.0.0.1", keys[1]))
    assert known_hosts.check(["web", "10.0.0.1"], keys[1]).status == CHANGED
    assert known_hosts.check(["new", "10.0.0.1"], keys[1]).status == KNOWN
    assert known_hosts.kinds(["new", "other"]) == []


@pytest.mark.covers("3.10.10")
def test_unusable_lines_are_warned_of_and_skipped(
    write: Write, keys: list[HostKey], capsys: pytest.CaptureFixture[str]
) -> None:
    good = line("web", keys[0])
    kind, encoded = good.split()[1:3]
    known_hosts = write("web", f"web {kind}", f"web {kind} =", f"web ssh-rsa {encoded}", "@revoked web", good)
    assert known_hosts.check(["web"], keys[0]) == Finding(KNOWN, f"{known_hosts.path}:6")
    warnings = capsys.readouterr().err.splitlines()
    assert [warning.split()[0] for warning in warnings] == ["warning:"] * 5
    assert [warning.split()[1] for warning in warnings] == [f"{known_hosts.path}:{number}" for number in range(1, 6)]


def test_lines_that_are_not_text_do_not_hide_the_others(tmp_path: Path, keys: list[HostKey]) -> None:
    path = tmp_path / "known"
    path.write_bytes(b"\xff\xfe \xff \xff\n" + line("web", keys[0]).encode())
    assert KnownHosts.read(str(path)).check(["web"], keys[0]).status == KNOWN


@pytest.mark.covers("3.10.11", "3.10.14")
def test_a_missing_file_is_created_private_with_its_directory(tmp_path: Path, keys: list[HostKey]) -> None:
    path = tmp_path / "new" / "known"
    known_hosts = KnownHosts.read(str(path))
    assert known_hosts.check(["web"], keys[0]).status == UNKNOWN
    known_hosts.append("web", keys[0])
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert path.read_text() == f"web {keys[0].kind} {base64.b64encode(keys[0].blob).decode()}\n"
    assert KnownHosts.read(str(path)).check(["web"], keys[0]).status == KNOWN


def test_a_key_is_added_on_a_line_of_its_own(tmp_path: Path, keys: list[HostKey]) -> None:
    path = tmp_path / "known"
    path.write_text(line("web", keys[0]))  # without a final newline
    KnownHosts.read(str(path)).append("db", keys[1])
    known_hosts = KnownHosts.read(str(path))
    assert known_hosts.check(["web"], keys[0]).at == f"{path}:1"
    assert known_hosts.check(["db"], keys[1]).at == f"{path}:2"


@pytest.mark.covers("3.3.10", "3.10.9")
def test_a_tilde_in_the_file_name_is_the_home_directory(
    tmp_path: Path, keys: list[HostKey], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    KnownHosts.read("~/.fleetctl/known_hosts").append("web", keys[0])
    assert KnownHosts.read(str(tmp_path / ".fleetctl/known_hosts")).check(["web"], keys[0]).status == KNOWN


@pytest.mark.covers("3.10.14")
def test_openssh_reads_what_was_added(tmp_path: Path, keys: list[HostKey]) -> None:
    path = tmp_path / "known"
    for name, key in (("web", keys[0]), ("[10.0.0.1]:2222", keys[2])):
        KnownHosts.read(str(path)).append(name, key)
        found = subprocess.run(["ssh-keygen", "-F", name, "-f", path], check=True, capture_output=True, text=True)
        assert base64.b64encode(key.blob).decode() in found.stdout


@pytest.mark.covers("3.10.8", "10.3.5", "10.3.7")
@pytest.mark.parametrize(
    ("hosts", "port", "names"),
    [
        (["10.0.0.1"], 22, ["10.0.0.1"]),
        (["web", "web.example.org", "10.0.0.1"], 22, ["web", "web.example.org", "10.0.0.1"]),
        (["web", "web", "10.0.0.1"], 2222, ["[web]:2222", "[10.0.0.1]:2222"]),
        (["fd00::1"], 22, ["[fd00::1]", "fd00::1"]),
        (["fd00::1"], 2222, ["[fd00::1]:2222"]),
    ],
)
def test_the_names_of_a_host_include_an_unusual_port(hosts: list[str], port: int, names: list[str]) -> None:
    assert host_names(hosts, port) == names


def test_the_record_of_a_machine_has_what_is_a_key(keys: list[HostKey]) -> None:
    kind, encoded = line("", keys[0]).split()[:2]
    good = f"{kind} {encoded}"
    assert read_record("m1", [good, "", "ssh-rsa", f"ssh-rsa {encoded}", "ssh-rsa =", f"{good} more"]) == Record(
        "m1", (keys[0],)
    )
    assert read_record("m1", []) == Record("m1")


@pytest.mark.parametrize(
    ("known", "recorded", "wanted"),
    [
        ([], [], []),
        (["a"], [], ["a"]),
        ([], ["a", "b"], ["a", "b"]),
        (["b", "c"], ["a", "b"], ["b", "a", "c"]),  # known_hosts may have one of a machine's kinds
    ],
)
def test_a_kind_that_is_known_and_recorded_is_asked_for_first(
    known: list[str], recorded: list[str], wanted: list[str]
) -> None:
    record = Record("m1", tuple(HostKey(kind, b"") for kind in recorded))
    assert preferred_kinds(known, record) == wanted


def test_fingerprints_equal_those_of_ssh_keygen(tmp_path: Path, keys: list[HostKey]) -> None:
    for key in keys:
        (tmp_path / "pub").write_text(line("", key).strip() + "\n")
        for digest, mine in (("md5", f"MD5:{key.md5}"), ("sha256", key.sha256)):
            shown = subprocess.run(
                ["ssh-keygen", "-l", "-E", digest, "-f", tmp_path / "pub"], check=True, capture_output=True, text=True
            )
            assert shown.stdout.split()[1] == mine
    assert [key.label for key in keys] == ["ssh-ed25519", "ssh-ed25519", "ECDSA", "RSA"]
