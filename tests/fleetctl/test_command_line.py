"""The command line: help, abbreviations, flags, global options with their variables, and refusals."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from fleetctl.command_line import wrap_lines
from fleetctl.commands import SUMMARIES
from fleetctl.settings import GLOBAL_OPTIONS, resolve_settings
from fleetd import __version__
from tests.fleetctl.conftest import Fleetctl
from tests.fleetctl.scripted_cluster import STUCK, ScriptedCluster

HEADER = "UNIT\tMACHINE\tACTIVE\tSUB\n"


@pytest.mark.covers("3.1.5", "3.1.6", "3.3.14")
def test_without_arguments_the_overview_is_printed(bare_fleetctl: Fleetctl) -> None:
    result = bare_fleetctl()
    assert (result.status, result.stderr) == (0, "")
    headings = [line for line in result.stdout.splitlines() if line.endswith(":") and not line.startswith("\t")]
    assert headings == ["NAME:", "USAGE:", "VERSION:", "COMMANDS:", "GLOBAL OPTIONS:"]
    assert bare_fleetctl("help") == bare_fleetctl("--help") == bare_fleetctl("-h") == result


@pytest.mark.covers("3.1.10")
def test_the_overview_lists_every_command_but_the_hidden_one(bare_fleetctl: Fleetctl) -> None:
    listed = bare_fleetctl("help").stdout.partition("COMMANDS:\n")[2].partition("\n\n")[0].splitlines()[:-1]
    assert [line.split()[0] for line in listed] == [name for name in SUMMARIES if name != "__complete"]


@pytest.mark.covers("3.1.3", "3.1.5", "3.1.6", "3.1.10", "3.3.14")
@pytest.mark.parametrize("name", sorted(SUMMARIES))
def test_the_help_of_each_command_has_five_sections(bare_fleetctl: Fleetctl, name: str) -> None:
    page = bare_fleetctl("help", name)
    assert (page.status, page.stderr) == (0, "")
    headings = [line for line in page.stdout.splitlines() if line.endswith(":") and not line.startswith("\t")]
    assert headings == ["NAME:", "USAGE:", "DESCRIPTION:", "OPTIONS:", "GLOBAL OPTIONS:"]
    assert (
        bare_fleetctl(name, "--help") == bare_fleetctl(name, "-h") == bare_fleetctl("--debug", name, "--help") == page
    )


@pytest.mark.covers("10.1.12")
def test_no_help_mentions_globs(bare_fleetctl: Fleetctl) -> None:
    for page in (bare_fleetctl("help"), *(bare_fleetctl("help", name) for name in SUMMARIES)):
        assert "glob " not in page.stdout
        assert "*" not in page.stdout


@pytest.mark.covers("3.1.2")
@pytest.mark.parametrize("words", [["list-un"], ["sta"], ["li"], ["ver"]])
def test_an_ambiguous_abbreviation_is_refused(bare_fleetctl: Fleetctl, words: list[str]) -> None:
    result = bare_fleetctl(*words)
    assert (result.status, result.stdout) == (2, "")
    assert result.stderr.startswith(f'Error: unknown command "{words[0]}" for "fleetctl"\n')


@pytest.mark.covers("3.1.2")
def test_a_full_name_is_never_ambiguous(bare_fleetctl: Fleetctl) -> None:
    assert bare_fleetctl("help", "list-units").status == 0
    assert bare_fleetctl("help", "list-unit").status == 2


@pytest.mark.covers("3.1.2")
@pytest.mark.parametrize("word", ["list-m", "list-machines"])
def test_an_unambiguous_abbreviation_of_a_command_is_accepted(fleetctl: Fleetctl, word: str) -> None:
    assert fleetctl(word, "--no-legend", "--fields=ip").stdout == "10.0.0.1\n-\n"


@pytest.mark.covers("3.1.7", "3.1.9", "10.1.1")
def test_an_unknown_command_is_refused_with_suggestions(bare_fleetctl: Fleetctl) -> None:
    result = bare_fleetctl("strat", "web")
    assert (result.status, result.stdout) == (2, "")
    assert result.stderr == (
        'Error: unknown command "strat" for "fleetctl"\n\nDid you mean this?\n\tstart\n\tstatus\n\trestart\n\n'
        "Run 'fleetctl --help' for usage.\n"
    )


@pytest.mark.covers("3.1.8", "3.1.9", "10.1.1")
@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["start", "--no-blok", "web"], "unknown flag: --no-blok"),
        (["--bogus", "list-units"], "unknown flag: --bogus"),
        (["list-units", "-x"], "unknown shorthand flag: 'x' in -x"),
        (["list-units", "--endpoint"], "flag needs an argument: --endpoint"),
        (
            ["start", "--replace=perhaps", "web"],
            "invalid argument for \"--replace\" flag: 'perhaps' is not a valid boolean",
        ),
        (
            ["start", "--block-attempts=x", "web"],
            "invalid argument for \"--block-attempts\" flag: 'x' is not a valid integer.",
        ),
        (["list-units", "--request-timeout=0"], "invalid argument for \"--request-timeout\" flag: '0' is not a number"),
        (["list-units", "--request-timeout=nan"], "invalid argument for \"--request-timeout\" flag: 'nan' is not"),
    ],
)
def test_a_bad_option_prints_help_on_stdout_and_an_error_on_stderr(
    fleetctl: Fleetctl, arguments: list[str], complaint: str
) -> None:
    result = fleetctl(*arguments)
    assert result.status == 2
    assert (
        result.stdout.startswith("NAME:\n\tfleetctl") if arguments[0][0] == "-" else result.stdout.startswith("NAME:")
    )
    assert result.stderr.startswith(f"Error: {complaint}")


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["move", "web"], "missing argument MACHINE"),
        (["apply"], "missing argument DIR"),
        (["move", "web", "1111", "2222"], "Got unexpected extra argument (2222)"),
    ],
)
def test_missing_and_extra_arguments_are_answered_with_the_usage(
    fleetctl: Fleetctl, arguments: list[str], complaint: str
) -> None:
    result = fleetctl(*arguments)
    assert (result.status, result.stdout) == (2, "")
    error, usage = result.stderr.splitlines()
    assert error == f"Error: {complaint}"
    assert usage.startswith(f"Usage: fleetctl {arguments[0]} [")


def test_a_number_out_of_range_is_named(fleetctl: Fleetctl) -> None:
    assert "invalid argument for \"--max\" flag: 'x' is not a valid integer." in fleetctl("rebalance", "--max=x").stderr


def test_help_is_wrapped_between_words() -> None:
    lines = ["one two three four five six seven", "eight nine", "", "ten"]
    assert list(wrap_lines(lines, 24)) == ["one two three four five", "six seven eight nine", "", "ten"]
    assert list(wrap_lines(lines, 80)) == lines
    options = ["--a=     do this and that and nothing else", "--bcd=x  this"]
    assert list(wrap_lines(options, 33)) == [
        "--a=     do this and that and",
        "         nothing else",
        "--bcd=x  this",
    ]


def test_a_mistyped_option_is_refused_with_a_suggestion(fleetctl: Fleetctl) -> None:
    assert "\nDid you mean this?\n\t--no-block\n" in fleetctl("start", "--no-blok", "web").stderr


@pytest.mark.covers("3.1.1", "3.1.3", "3.1.4", "3.9.1", "10.1.2")
@pytest.mark.parametrize("spelling", ["--full", "--full=true", "-full", "--l", "-l", "-l=true"])
def test_flags_are_accepted_in_every_spelling_of_coreos_fleet(fleetctl: Fleetctl, spelling: str) -> None:
    assert (
        fleetctl("list-machines", spelling, "--fields", "machine", "-no-legend").stdout == f"{'1' * 32}\n{'2' * 32}\n"
    )


@pytest.mark.covers("10.2.14")
@pytest.mark.parametrize(("command", "state"), [("star", "launched"), ("lo", "loaded"), ("sub", "inactive")])
def test_replace_depends_on_the_command_not_on_the_unit_name(
    fleetctl: Fleetctl, cluster: ScriptedCluster, tmp_path: Path, command: str, state: str
) -> None:
    for name in ("load", "start", "submit"):
        (tmp_path / f"{name}.service").write_text("[Service]\nExecStart=/bin/new\n")
        cluster.add(f"{name}.service")
    result = fleetctl(command, "--replace", "load", "start", "submit")
    assert (result.status, result.stderr) == (0, "")
    assert [(unit.text, unit.target) for unit in cluster.units.values()] == [
        ("[Service]\nExecStart=/bin/new\n", state)
    ] * 3


@pytest.mark.covers("3.1.1")
def test_a_flag_can_be_switched_off(fleetctl: Fleetctl) -> None:
    assert fleetctl("list-units", "--no-legend=false").stdout == HEADER


@pytest.mark.covers("3.1.1", "3.4.2")
def test_global_options_may_precede_or_follow_the_command_the_last_wins(
    bare_fleetctl: Fleetctl, cluster: ScriptedCluster
) -> None:
    before = bare_fleetctl("--endpoint", cluster.unix, "list-units")
    after = bare_fleetctl("list-units", f"--endpoint={cluster.tcp}")
    both = bare_fleetctl("--endpoint=http://127.0.0.1:1", "list-units", "--endpoint", cluster.unix)
    assert before == after == both
    assert (both.status, both.stdout, both.stderr) == (0, HEADER, "")


@pytest.mark.covers("3.3.1")
def test_the_command_line_overrides_the_environment(fleetctl: Fleetctl, monkeypatch: pytest.MonkeyPatch) -> None:
    endpoint = os.environ["FLEETCTL_ENDPOINT"]
    monkeypatch.setenv("FLEETCTL_ENDPOINT", "http://127.0.0.1:1")
    assert fleetctl("list-units").status == 1
    assert fleetctl("--endpoint", endpoint, "list-units").status == 0


@pytest.mark.covers("3.3.1")
def test_every_global_option_has_a_variable() -> None:
    given = {"str": "given", "float": "1.5", "bool": "true", "HostKeyChecking": "accept-new"}
    for option in GLOBAL_OPTIONS:
        text = given[type(option.default).__name__]
        settings = resolve_settings({}, {"FLEETCTL_" + option.name.upper(): text})
        assert getattr(settings, option.field) == {"1.5": 1.5, "true": True}.get(text, text)


@pytest.mark.covers("3.3.1")
def test_an_empty_or_invalid_variable_leaves_the_default() -> None:
    unset = resolve_settings({}, {})
    assert resolve_settings({}, {"FLEETCTL_REQUEST_TIMEOUT": "soon", "FLEETCTL_DEBUG": "perhaps"}) == unset
    assert resolve_settings({}, {"FLEETCTL_ENDPOINT": "", "FLEETCTL_REQUEST_TIMEOUT": "-1"}) == unset
    assert (unset.endpoint, unset.request_timeout_s) == ("unix:///var/run/fleet.sock", 3.0)


@pytest.mark.covers("3.3.13", "3.8.9", "3.8.38", "10.1.4")
@pytest.mark.parametrize(
    "arguments", [["version"], ["--version"], ["-v"], ["list-units", "--version"], ["--debug", "vers"]]
)
def test_the_version_is_printed_for_every_spelling(bare_fleetctl: Fleetctl, arguments: list[str]) -> None:
    result = bare_fleetctl(*arguments)
    assert (result.status, result.stdout, result.stderr) == (0, f"fleetctl version {__version__}\n", "")


@pytest.mark.covers("3.2.3", "10.1.11")
def test_version_ignores_unusable_client_options(bare_fleetctl: Fleetctl) -> None:
    assert bare_fleetctl("--driver=etcd", "--endpoint=nowhere", "version").status == 0


@pytest.mark.covers("3.8.2", "3.8.3", "3.8.10", "10.1.5")
def test_sign_is_refused(fleetctl: Fleetctl, cluster: ScriptedCluster, hello: Path) -> None:
    result = fleetctl("submit", "--sign", "hello")
    assert (result.status, result.stdout, cluster.requests) == (2, "", [])
    assert result.stderr == "WARNING: --sign is deprecated: units are not signed any more, leave it out\n"
    assert fleetctl("submit", "--sign=false", "hello").status == 0


@pytest.mark.covers("3.2.3", "3.3.3", "3.3.16", "3.4.3", "3.4.5")
@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (
            ["--driver=etcd", "--endpoint=http://127.0.0.1:2379"],
            "driver etcd is not supported, and http://127.0.0.1:2379 seems to be etcd's: omit --driver, and give",
        ),
        (["--driver=Api"], 'unrecognized driver "Api"'),
        (["--tunnel=bastion:port"], 'failed initializing SSH client: "bastion:port" is not a host'),
        (["--endpoint=/run/fleet.sock"], "URL scheme undefined"),
        (["--endpoint=localhost:49153"], "URL scheme undefined"),
        (["--endpoint=unix://var/run/x"], 'unable to connect to host "var" with scheme "unix"'),
        (["--endpoint=unix://"], 'endpoint "unix://" names no socket'),
        (["--endpoint=ftp://host/"], 'unsupported URL scheme "ftp"'),
        (["--endpoint=http://"], 'endpoint "http://" names no host'),
        (["--endpoint=http://host:port"], 'endpoint "http://host:port": '),
        (["--endpoint=http://[::1"], 'endpoint "http://[::1": '),
        (["--endpoint=https://host", "--ca-file=missing.pem"], "open missing.pem: no such file or directory"),
        (["--endpoint=https://host", "--etcd-cafile=missing.pem"], "open missing.pem: no such file or directory"),
        (["--endpoint=https://host", "--cert-file=c"], "a client certificate needs both --cert-file and --key-file"),
        (["--endpoint=https://host", "--ca-file=junk.pem"], "junk.pem cannot be used for TLS: "),
    ],
)
def test_unusable_client_options_are_one_line_and_status_1(
    bare_fleetctl: Fleetctl, tmp_path: Path, arguments: list[str], complaint: str
) -> None:
    (tmp_path / "junk.pem").write_text("no certificate")
    for command in ("list-units", "submit", "stop"):
        result = bare_fleetctl(*arguments, command)
        assert (result.status, result.stdout, result.stderr.count("\n")) == (1, "", 1)
        assert result.stderr.startswith(f"Unable to initialize client: {complaint}")


@pytest.mark.covers("3.2.2", "3.3.2")
def test_of_several_endpoints_the_first_is_used_with_a_warning(
    bare_fleetctl: Fleetctl, cluster: ScriptedCluster
) -> None:
    result = bare_fleetctl("--endpoint", f"{cluster.unix},http://127.0.0.1:1", "list-units")
    assert (result.status, result.stdout) == (0, HEADER)
    assert result.stderr.startswith("warning: ")


@pytest.mark.covers("3.4.2", "3.4.4")
def test_the_path_of_an_endpoint_precedes_that_of_the_api(bare_fleetctl: Fleetctl, cluster: ScriptedCluster) -> None:
    assert bare_fleetctl(f"--endpoint={cluster.tcp}/behind/proxy/", "list-units", "--fields=unit").status == 1
    assert cluster.requests == [("GET", "/behind/proxy/fleet/v1/state")]


@pytest.mark.covers("3.3.4", "3.3.15", "10.1.8")
def test_options_of_the_etcd_driver_are_accepted_with_a_warning(fleetctl: Fleetctl) -> None:
    result = fleetctl("--etcd-key-prefix=/mine/", "--experimental-api=false", "list-units")
    assert (result.status, result.stdout, result.stderr.count("\n")) == (0, HEADER, 1)
    assert "ignored: --etcd-key-prefix, --experimental-api=false (fleetctl uses only" in result.stderr


@pytest.mark.covers("3.3.3", "3.4.3", "10.1.7")
def test_driver_etcd_without_an_endpoint_uses_the_local_daemon(bare_fleetctl: Fleetctl) -> None:
    result = bare_fleetctl("--driver=etcd", "list-units")
    assert "ignored: --driver=etcd (fleetctl uses only" in result.stderr
    assert "unix:///var/run/fleet.sock" in result.stderr


@pytest.mark.covers("3.2.2", "3.3.12", "10.1.3")
def test_debug_prints_the_requests_on_stderr(fleetctl: Fleetctl, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = fleetctl("list-units", "--debug").stderr
    assert shown.startswith("debug: ")
    assert "/fleet/v1/state" in shown
    monkeypatch.setenv("FLEETCTL_DEBUG", "true")
    assert "/fleet/v1/state" in fleetctl("list-units").stderr
    assert fleetctl("list-units", "--debug=false").stderr == ""


def test_an_interrupt_exits_with_130_and_no_traceback(cluster: ScriptedCluster) -> None:
    cluster.add("web.service")
    cluster.outcomes["web.service"] = STUCK
    command = [sys.executable, "-m", "fleetctl.cli", "--endpoint", cluster.unix, "start", "web.service"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while ("PUT", "/fleet/v1/units/web.service") not in list(cluster.requests):
        assert process.poll() is None
        signal.sigtimedwait([], 0.02)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=60)
    assert (process.returncode, stdout, stderr.strip()) == (130, "", "")


def test_a_closed_pipe_exits_with_1_and_no_traceback(cluster: ScriptedCluster) -> None:
    for number in range(3):
        cluster.add(f"web@{number}.service", target="loaded")
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "fleetctl.cli", "--endpoint", cluster.unix, "list-units"]
    done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writing)
    assert (done.returncode, done.stderr) == (1, "")


def test_a_full_disk_is_an_error(cluster: ScriptedCluster) -> None:
    command = [sys.executable, "-m", "fleetctl.cli", "--endpoint", cluster.unix, "list-units"]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, "cannot write to standard output: No space left on device\n")


@pytest.mark.covers("3.8.36")
def test_a_unit_file_is_printed_in_utf_8_in_any_locale(cluster: ScriptedCluster) -> None:
    cluster.add("web.service", "[Unit]\nDescription=h\u00e9llo \u4e16\n")
    command = [sys.executable, "-m", "fleetctl.cli", "--endpoint", cluster.unix, "cat", "web.service"]
    environment = {**os.environ, "PYTHONIOENCODING": "latin-1"}
    done = subprocess.run(command, capture_output=True, env=environment, check=True)
    assert done.stdout.decode("utf-8") == "[Unit]\nDescription=h\u00e9llo \u4e16\n"


def test_colours_depend_on_term_and_no_color(cluster: ScriptedCluster) -> None:
    def stderr_on_terminal(**environment: str) -> bytes:
        ours, theirs = os.openpty()
        command = [sys.executable, "-m", "fleetctl.cli", "bogus"]
        clean = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "TERM")}
        subprocess.run(command, stderr=theirs, stdout=subprocess.DEVNULL, env=clean | environment, check=False)
        os.close(theirs)
        return os.read(ours, 4096)

    assert stderr_on_terminal(TERM="xterm").startswith(b"\x1b[31mError: ")
    assert b"\x1b" not in stderr_on_terminal(TERM="xterm", NO_COLOR="1")
    assert b"\x1b" not in stderr_on_terminal(TERM="dumb")
