"""Arbitrary bytes from outside: read, or refused in the documented way, in time that grows linearly.

contrib/fuzz/targets.py has the rule for each kind of bytes, for a fuzzer. Here the rules are tested with hypothesis'
bytes, with what the fuzzer once found, and with inputs that grow.
"""

import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contrib.fuzz.targets import TARGETS
from fleetctl.errors import SshFailed
from fleetctl.ssh.config import split_host_port
from fleetctl.ssh.known_hosts import KnownHosts
from fleetd.config.config import ConfigError, parse_config
from fleetd.model.unitfile import MAX_UNIT_FILE_BYTES
from tests.examples import examples

CORPUS = Path(__file__).parents[2] / "contrib" / "fuzz" / "corpus"
SEEDS = {name: [path.read_bytes() for path in sorted((CORPUS / name).iterdir())] for name in TARGETS}
BOUND_S = 10.0  # of processor time; quadratic work takes minutes


@pytest.mark.covers("H.1")
@pytest.mark.parametrize("name", TARGETS)
def test_the_fuzzers_corpus_breaks_no_rule(name: str) -> None:
    assert SEEDS[name]
    for data in SEEDS[name]:
        TARGETS[name](data)


def mutations(name: str) -> st.SearchStrategy[bytes]:
    """Bytes like those of the corpus, with parts removed, inserted or moved."""
    pieces = [data[start : start + 24] for data in SEEDS[name] for start in range(0, min(len(data), 2000), 8)]
    return st.lists(st.sampled_from(pieces) | st.binary(max_size=4), max_size=24).map(b"".join)


@pytest.mark.covers("H.1")
@pytest.mark.parametrize("name", TARGETS)
def test_any_bytes_are_read_or_refused_as_documented(name: str) -> None:
    @settings(max_examples=examples(100))
    @given(st.binary(max_size=200) | mutations(name))
    def check(data: bytes) -> None:
        TARGETS[name](data)

    check()


# Inputs that grow without a bound.

PIECES = (
    "\\",
    "\n",
    "[",
    "]",
    "=",
    '"',
    "a",
    "é",
    " ",
    "\r\n",
    "#",
    "\\\n",
    "A=b\n",
    "A=\\\n",
    "[\n",
    "[]",
    "%n",
    "*a",
    "?",
    "{",
    '{"a":',
)


def repeated(prefix: str, piece: str, size: int = MAX_UNIT_FILE_BYTES // 4) -> bytes:
    """The repeated piece: short enough to be quick, long enough to show quadratic work."""
    return (prefix + piece * (size // len(piece.encode()))).encode()[:size].decode(errors="ignore").encode()


@pytest.mark.covers("H.1")
@pytest.mark.parametrize("name", TARGETS)
def test_time_grows_linearly_with_the_input(name: str) -> None:
    prefixes = {"unitfile": ("", "[S]\n", "[X-Fleet]\nConflicts="), "etcd": ("\x00", "\x10"), "record": ("units/a ",)}
    for prefix in prefixes.get(name, ("",)):
        for piece in PIECES:
            started = time.process_time()
            TARGETS[name](repeated(prefix, piece))
            assert time.process_time() - started < BOUND_S, f"{prefix!r} and {piece!r} for ever"


UNIT_FILES = {
    "blanks before the ends of lines": "[X-Fleet]\nConflicts=" + (" " * 2040 + "x\\\n") * 125,
    "lists of short items": '[X-Fleet]\nConflicts="' + ('a"b c"' * 330 + "\\\n") * 130 + '"',
    "long globs": "[X-Fleet]\nMachineOf=a.service\nConflicts=" + ("?" * 2000 + " \\\n") * 128,
    "peers and conflicts": "[X-Fleet]\n" + "".join(f"MachineOf=p{n}\nConflicts=*x{n}\n" for n in range(8000)),
    "alternatives": "[X-Fleet]\n" + "".join(f"MachineMetadata=a={n}\n" for n in range(11_000)),
    "sections": "".join(f"[{n}]\nA=b\n" for n in range(20_000)),
}


@pytest.mark.covers("H.1")
@pytest.mark.parametrize("text", UNIT_FILES.values(), ids=UNIT_FILES)
def test_a_unit_file_of_the_largest_size_is_judged_in_time(text: str) -> None:
    assert 100_000 < len(text) <= MAX_UNIT_FILE_BYTES
    started = time.process_time()
    TARGETS["unitfile"](text.encode())
    assert time.process_time() - started < BOUND_S


@pytest.mark.parametrize("option", ["agent_ttl", "etcd_request_timeout", "token_limit", "metadata", "listen"])
@pytest.mark.parametrize("piece", ["1", "1s", ".", "a=b,", "=", "[", ":", "unix:", "\\\n", "9h1m"])
def test_a_configuration_value_of_any_length_is_judged_in_time(option: str, piece: str) -> None:
    started = time.process_time()
    with suppress(ConfigError):
        parse_config(f"{option}={piece * 30_000}", "f", {f"FLEET_{option.upper()}": piece * 30_000}, {})
    assert time.process_time() - started < BOUND_S


# Files of the operator's own machine.

HOST_LINES = st.lists(
    st.sampled_from(
        ["@revoked", "@cert-authority", "web", "*", "!*", "|1|a|b", "|", "ssh-rsa", "AAAA", "====", "\0", "é"]
    )
    | st.text(max_size=6),
    max_size=6,
).map(" ".join)


@given(st.lists(HOST_LINES, max_size=5).map("\n".join))
def test_any_line_of_known_hosts_has_a_verdict(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = tmp_path_factory.getbasetemp() / "known_hosts"
    path.write_text(text, errors="surrogatepass")
    known = KnownHosts.read(str(path))
    assert known.kinds(["web", "[::1]:2222"]) == list(dict.fromkeys(known.kinds(["web", "[::1]:2222"])))


@given(
    st.text() | st.text("[]:0123456789a", max_size=12) | st.integers(4000, 5000).map(lambda digits: "a:" + "9" * digits)
)
def test_any_text_is_a_host_or_an_error(text: str) -> None:
    with suppress(SshFailed):
        host, port = split_host_port(text)
        assert host
        assert 0 <= port <= 65535


def timed(work: Callable[[], object]) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started


def test_a_pattern_of_many_stars_does_not_delay_a_connection(tmp_path: Path) -> None:
    path = tmp_path / "known_hosts"
    path.write_text("*a" * 50 + "*b ssh-rsa AAAAB3NzaC1yc2E=\n" + "*a" * 50 + " ssh-rsa AAAAB3NzaC1yc2EAAAA=\n" * 2)
    known = KnownHosts.read(str(path))
    assert timed(lambda: known.kinds(["a" * 200])) < BOUND_S
