"""submit, and how load and start create units: the content that is sent, warnings and refusals."""

import os
from pathlib import Path

import pytest

from fleetd.api.http import render_error
from fleetd.model.unitfile import MAX_UNIT_FILE_BYTES, UnitFile
from tests.fleetctl.conftest import HELLO, Fleetctl
from tests.fleetctl.scripted_cluster import ScriptedCluster

OTHER = "[Service]\nExecStart=/bin/other\n"
FROM_FILE = "[Service]\nExecStart=/bin/file\n"


@pytest.mark.covers("3.6.8", "3.6.10", "3.8.11", "10.2.7")
def test_submit_stores_the_unit_inactive(fleetctl: Fleetctl, cluster: ScriptedCluster, hello: Path) -> None:
    result = fleetctl("submit", "hello.service")
    assert (result.status, result.stdout, result.stderr) == (0, "Unit hello.service inactive\n", "")
    assert cluster.units["hello.service"].text == UnitFile.parse(HELLO).text
    assert cluster.units["hello.service"].target == "inactive"


@pytest.mark.covers("1.1.12", "3.5.1")
def test_a_name_without_a_type_is_a_service(fleetctl: Fleetctl, cluster: ScriptedCluster, hello: Path) -> None:
    assert fleetctl("submit", "hello").stdout == "Unit hello.service inactive\n"


@pytest.mark.covers("1.3.6", "3.5.1")
def test_the_name_of_a_unit_excludes_the_directory(
    fleetctl: Fleetctl, cluster: ScriptedCluster, tmp_path: Path
) -> None:
    (tmp_path / "units").mkdir()
    (tmp_path / "units" / "web.timer").write_text("[Timer]\nOnBootSec=1\n")
    assert fleetctl("submit", "units/web.timer").stdout == "Unit web.timer inactive\n"


@pytest.mark.covers("3.5.4")
def test_units_are_submitted_in_order_and_once(fleetctl: Fleetctl, cluster: ScriptedCluster, tmp_path: Path) -> None:
    for name in ("b.service", "a.service"):
        (tmp_path / name).write_text(OTHER)
    result = fleetctl("submit", "b", "a.service", "b.service")
    assert result.stdout == "Unit b.service inactive\nUnit a.service inactive\n"
    assert cluster.targets_asked == [("b.service", "inactive"), ("a.service", "inactive")]


def test_two_different_files_for_one_unit_are_refused(
    fleetctl: Fleetctl, cluster: ScriptedCluster, tmp_path: Path
) -> None:
    for directory, text in (("a", OTHER), ("b", HELLO), ("c", OTHER)):
        (tmp_path / directory).mkdir()
        (tmp_path / directory / "web.service").write_text(text)
    result = fleetctl("submit", "a/web", "b/web")
    assert (result.status, result.stdout, cluster.operations) == (1, "", [])
    assert result.stderr == (
        "Error creating units: a/web.service and b/web.service differ, and both are unit web.service: "
        "give only one of them\n"
    )
    assert fleetctl("submit", "a/web", "c/web", "a/web").stdout == "Unit web.service inactive\n"


@pytest.mark.covers("3.6.10", "3.8.39", "10.2.8")
def test_a_global_unit_is_submitted_inactive(fleetctl: Fleetctl, tmp_path: Path) -> None:
    (tmp_path / "web.service").write_text(OTHER + "[X-Fleet]\nGlobal=true\n")
    assert fleetctl("submit", "web").stdout == "Unit web.service inactive\n"


@pytest.mark.covers("3.8.1", "10.2.17")
@pytest.mark.parametrize("command", ["submit", "load", "start", "stop", "unload", "destroy"])
def test_a_command_without_units_exits_with_0(fleetctl: Fleetctl, cluster: ScriptedCluster, command: str) -> None:
    result = fleetctl(command)
    assert (result.status, result.stdout, result.stderr) == (0, "", "No units given\n")
    assert cluster.requests == []


@pytest.mark.covers("3.6.8")
def test_a_unit_without_a_file_is_not_found(fleetctl: Fleetctl, cluster: ScriptedCluster) -> None:
    result = fleetctl("submit", "hello")
    assert (result.status, result.stdout) == (1, "")
    assert result.stderr == "Error creating units: unable to find Unit(hello.service) in Registry or on filesystem\n"


@pytest.mark.parametrize("argument", ["units", "units/", ".", "/"])
def test_a_directory_instead_of_a_unit_file_is_refused(fleetctl: Fleetctl, tmp_path: Path, argument: str) -> None:
    (tmp_path / "units").mkdir()
    result = fleetctl("submit", argument)
    assert (result.status, result.stdout, result.stderr.count("\n")) == (1, "", 1)
    assert result.stderr.endswith(f" ({argument} is a directory: name the unit files in it)\n")


@pytest.mark.covers("1.1.1")
def test_an_empty_argument_is_refused(fleetctl: Fleetctl, cluster: ScriptedCluster) -> None:
    result = fleetctl("submit", "")
    assert (result.status, cluster.requests) == (1, [])
    assert result.stderr.endswith("unit name cannot be empty\n")


@pytest.mark.covers("1.3.8", "3.6.8")
def test_an_instance_without_a_template_is_not_found(fleetctl: Fleetctl) -> None:
    result = fleetctl("submit", "units/web@1.service")
    assert result.status == 1
    assert result.stderr == (
        "Error creating units: failed getting Unit(units/web@1.service) from template: "
        "unable to find template Unit(web@.service) in Registry or on filesystem\n"
    )


@pytest.mark.covers("1.3.4", "1.3.6", "1.3.7", "1.3.8", "1.3.9")
@pytest.mark.parametrize(
    ("own", "template", "template_file", "expected"),
    [
        (HELLO, OTHER, FROM_FILE, HELLO),
        (None, OTHER, FROM_FILE, OTHER),
        (None, None, FROM_FILE, FROM_FILE),
        (None, OTHER, None, OTHER),
    ],
)
def test_an_instance_prefers_its_file_then_the_stored_template(
    fleetctl: Fleetctl,
    cluster: ScriptedCluster,
    tmp_path: Path,
    own: str | None,
    template: str | None,
    template_file: str | None,
    expected: str,
) -> None:
    if own:
        (tmp_path / "web@1.service").write_text(own)
    if template:
        cluster.add("web@.service", template)
    if template_file:
        (tmp_path / "web@.service").write_text(template_file)
    assert fleetctl("submit", "web@1").stdout == "Unit web@1.service inactive\n"
    assert cluster.units["web@1.service"].text == UnitFile.parse(expected).text


@pytest.mark.covers("1.3.5", "1.3.10", "3.2.1", "3.6.2", "3.8.11", "10.2.16", "P.4")
@pytest.mark.parametrize("command", ["submit", "load", "start"])
@pytest.mark.parametrize(
    ("stored", "local"),
    [
        ("web@1.service", "unit file web@1.service"),
        ("web@1.service", "template unit file web@.service"),
        ("web@.service", "template unit file web@.service"),
    ],
)
def test_a_changed_file_is_warned_of_and_not_used(
    fleetctl: Fleetctl, cluster: ScriptedCluster, tmp_path: Path, command: str, stored: str, local: str
) -> None:
    cluster.add(stored, OTHER)
    (tmp_path / local.split()[-1]).write_text(FROM_FILE)
    result = fleetctl(command, "web@1")
    warning = f"WARNING: Unit {stored} in registry differs from local {local}. Add --replace to override.\n"
    assert (result.status, result.stderr) == (0, warning)
    assert cluster.units["web@1.service"].text == UnitFile.parse(OTHER).text


@pytest.mark.covers("1.3.5", "3.6.2", "3.8.11")
def test_submitting_an_unchanged_unit_does_nothing(fleetctl: Fleetctl, cluster: ScriptedCluster, hello: Path) -> None:
    cluster.add("hello.service", HELLO)
    result = fleetctl("submit", "hello.service")
    assert (result.status, result.stdout, result.stderr, cluster.operations) == (0, "", "", [])


@pytest.mark.covers("1.6.3", "3.6.3")
def test_replacing_by_the_same_content_does_nothing(fleetctl: Fleetctl, cluster: ScriptedCluster, hello: Path) -> None:
    cluster.add("hello.service", "# a comment\n" + HELLO)
    result = fleetctl("submit", "--replace", "hello")
    assert (result.status, result.stderr, cluster.operations) == (0, "", [])
    assert result.stdout == "Found same Unit(hello.service) in Registry, nothing to do\n"


ALLOWED = [
    ("submit", "inactive"),
    ("load", "inactive"),
    ("load", "loaded"),
    ("start", "inactive"),
    ("start", "loaded"),
    ("start", "launched"),
]


@pytest.mark.covers("3.6.4", "3.6.5", "3.6.6", "3.6.7", "3.6.9", "3.8.2", "3.8.3", "3.8.4")
@pytest.mark.parametrize("command", ["submit", "load", "start"])
@pytest.mark.parametrize("state", ["inactive", "loaded", "launched"])
def test_replace_is_one_request_if_the_unit_state_allows_it(
    fleetctl: Fleetctl, cluster: ScriptedCluster, hello: Path, command: str, state: str
) -> None:
    cluster.add("hello.service", OTHER, target=state)
    result = fleetctl(command, "--replace", "hello")
    assert result.status == 0
    target = {"submit": "inactive", "load": "loaded", "start": "launched"}[command]
    if (command, state) in ALLOWED:
        assert result.stderr == ""
        [operation] = cluster.operations
        assert (operation.desired_state, bool(operation.options)) == (target, True)
        assert cluster.units["hello.service"].text == UnitFile.parse(HELLO).text
        place = "" if target == "inactive" else " on 11111111.../10.0.0.1"
        assert result.stdout == f"Unit hello.service {target}{place}\n"
    else:
        assert result.stderr == (
            f"Warning: can not replace Unit(hello.service) in state '{state}', use the appropriate command\n"
        )
        assert cluster.units["hello.service"].text == UnitFile.parse(OTHER).text


@pytest.mark.covers("3.6.3", "10.2.15")
@pytest.mark.parametrize("stored", [("web@.service",), ("web@.service", "web@1.service")])
def test_replace_takes_the_changed_template_file(
    fleetctl: Fleetctl, cluster: ScriptedCluster, tmp_path: Path, stored: tuple[str, ...]
) -> None:
    for name in stored:
        cluster.add(name, OTHER)
    (tmp_path / "web@.service").write_text(FROM_FILE)
    result = fleetctl("start", "--replace", "web@1")
    assert (result.status, result.stderr) == (0, "")
    assert cluster.units["web@1.service"].text == UnitFile.parse(FROM_FILE).text


@pytest.mark.covers("3.6.3")
def test_replacing_without_a_local_file_is_an_error(fleetctl: Fleetctl, cluster: ScriptedCluster) -> None:
    cluster.add("hello.service", OTHER)
    result = fleetctl("submit", "--replace", "hello")
    assert (result.status, cluster.operations) == (1, [])
    assert result.stderr == "Error creating units: error Unit hello.service does not seem to be a template unit\n"


def write_bad_file(path: Path, kind: str) -> None:
    """Create something at this path that is not a valid unit file."""
    contents = {
        "binary": b"\xff\xfe\x00",
        "latin1": "[Unit]\nDescription=h\u00e9\n".encode("latin1"),
        "nul": b"[Unit]\nDescription=a\0b\n",
        "large": b"[Unit]\n" + b"A=" + b"x" * MAX_UNIT_FILE_BYTES,
        "garbage": b"[Unit] rest\n",
        "option": b"[Unit]\nno option\n",
        "alias": b"[Service]\nA=1\n[Install]\nAlias=b.socket\n",
        "empty": b"",
        "exclusive": b"[Service]\nA=1\n[X-Fleet]\nGlobal=true\nMachineID=1\n",
    }
    if kind == "directory":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "loop":
        path.symlink_to(path)
    else:
        path.write_bytes(contents[kind])


@pytest.mark.covers("1.4.20", "1.10.13", "3.6.11", "3.8.16", "P.12")
@pytest.mark.parametrize(
    ("kind", "complaint"),
    [
        ("binary", "NUL byte at offset 2"),
        ("latin1", "is not UTF-8"),
        ("nul", "NUL byte at offset"),
        ("large", f"at most {MAX_UNIT_FILE_BYTES} are allowed"),
        ("garbage", "found garbage after section name"),
        ("option", "unexpected newline encountered while parsing option name (line 2)"),
        ("alias", "systemd cannot alias bad.service as b.socket"),
        ("directory", "it is a directory"),
        ("pipe", "it is not a regular file"),
        ("loop", "too many levels of symbolic links"),
        ("empty", "its unit file has no options"),
        ("exclusive", "MachineID cannot be used with Global"),
    ],
)
@pytest.mark.parametrize("command", ["submit", "start"])
def test_a_bad_file_is_one_line_and_no_unit_is_sent(
    fleetctl: Fleetctl, cluster: ScriptedCluster, hello: Path, tmp_path: Path, command: str, kind: str, complaint: str
) -> None:
    write_bad_file(tmp_path / "bad.service", kind)
    result = fleetctl(command, "hello.service", "bad.service")
    assert (result.status, result.stdout, result.stderr.count("\n")) == (1, "", 1)
    assert result.stderr.startswith("Error creating units: ")
    assert "bad.service" in result.stderr
    assert complaint in result.stderr
    assert cluster.targets_asked == []


@pytest.mark.covers("1.4.20")
def test_the_error_of_the_parser_to_the_byte(fleetctl: Fleetctl, tmp_path: Path) -> None:
    (tmp_path / "units").mkdir()
    (tmp_path / "units" / "web.service").write_text("[Unit]\nDescription=a\nno option\n")
    assert fleetctl("submit", "units/web").stderr == (
        "Error creating units: failed getting Unit(units/web.service) from file: "
        "unexpected newline encountered while parsing option name (line 3)\n"
    )


@pytest.mark.covers("1.1.7", "1.1.9")
@pytest.mark.parametrize(
    ("argument", "complaint"),
    [
        ("hello world.service", "invalid character ' ' in unit name"),
        ("@1.service", 'unit name cannot start in "@"'),
        ("x" * 300, "unit name exceeds maximum length (256)"),
        ("a\x1bb.service", "invalid character '\\x1b' in unit name"),
        ("web@1.mount", 'invalid unit type for template: "mount"'),
    ],
)
def test_an_invalid_name_is_refused_before_the_api_is_asked(
    fleetctl: Fleetctl, cluster: ScriptedCluster, argument: str, complaint: str
) -> None:
    result = fleetctl("submit", argument)
    assert (result.status, result.stdout, result.stderr.count("\n")) == (1, "", 1)
    assert result.stderr.endswith(f": {complaint}\n")
    assert "\x1b" not in result.stderr
    assert cluster.requests == []


@pytest.mark.covers("1.7.9", "3.2.2", "10.4.6")
def test_unknown_requirements_and_bad_metadata_are_warned_of(
    fleetctl: Fleetctl, cluster: ScriptedCluster, tmp_path: Path
) -> None:
    (tmp_path / "web.service").write_text(OTHER + "[X-Fleet]\nMachineIDs=1\nMachineMetadata=region\n")
    result = fleetctl("submit", "web")
    assert (result.status, list(cluster.units)) == (0, ["web.service"])
    first, second = result.stderr.splitlines()
    assert first.startswith("warning: ")
    assert first.endswith(': Unit web.service: unrecognized requirement in [X-Fleet] section: "MachineIDs"')
    assert second.endswith(': MachineMetadata "region" is not of the form key=value, and restricts nothing')


def test_misleading_lines_are_warned_of(fleetctl: Fleetctl, cluster: ScriptedCluster, tmp_path: Path) -> None:
    text = (
        "\ufeff[Service]\n# ExecStart=/old \\\nUser=nobody\n[X-fleet\u2060]\nGlobal=true\n[Install]\nAlso=web.socket\n"
    )
    (tmp_path / "web.service").write_text(text)
    result = fleetctl("submit", "web")
    assert (result.status, list(cluster.units)) == (0, ["web.service"])
    section, also, line = result.stderr.splitlines()
    assert section.endswith(r"Unit web.service: [X-fleet\u2060] is not [X-Fleet], and is not read by fleet")
    assert "Unit web.service: [Install] Also=web.socket has no effect in fleet" in also
    assert line.endswith(
        "Unit web.service: line 2 of web.service is a comment that ends in a backslash: CoreOS fleet passed over the "
        "next line"
    )
    assert "User=nobody" in fleetctl("cat", "web").stdout


@pytest.mark.covers("1.1.13")
@pytest.mark.parametrize("kind", ["target", "slice", "swap", "mount", "automount", "path", "timer", "socket", "device"])
def test_a_unit_may_have_any_type(fleetctl: Fleetctl, cluster: ScriptedCluster, tmp_path: Path, kind: str) -> None:
    (tmp_path / f"x.{kind}").write_text("[Unit]\nDescription=x\n")
    assert fleetctl("submit", f"x.{kind}").status == 0
    assert list(cluster.units) == [f"x.{kind}"]
    assert fleetctl("cat", f"x.{kind}").stdout == "[Unit]\nDescription=x\n"
    assert fleetctl("destroy", f"x.{kind}").stdout == f"Destroyed x.{kind}\n"


def test_a_name_that_begins_with_a_dash_is_refused(
    fleetctl: Fleetctl, cluster: ScriptedCluster, tmp_path: Path
) -> None:
    (tmp_path / "-x.service").write_text(OTHER)
    result = fleetctl("submit", "--", "-x.service")
    assert (result.status, cluster.operations) == (1, [])
    assert 'unit name "-x.service" begins with "-"' in result.stderr


def test_an_invalid_failover_delay_is_refused_with_a_remedy(
    fleetctl: Fleetctl, cluster: ScriptedCluster, tmp_path: Path
) -> None:
    (tmp_path / "web.service").write_text(OTHER + "[X-Fleet]\nFailoverDelay=5 fortnights\n")
    result = fleetctl("submit", "web")
    assert (result.status, cluster.operations) == (1, [])
    assert result.stderr == (
        "Error creating units: failed creating unit web.service: FailoverDelay: '5 fortnights' is no time span: "
        "there is no unit 'fortnights'; write us, ms, s, min, h, d or w, or infinity\n"
    )


@pytest.mark.covers("10.4.1")
def test_lines_before_the_first_section_are_warned_of(
    fleetctl: Fleetctl, cluster: ScriptedCluster, tmp_path: Path
) -> None:
    (tmp_path / "web.service").write_text("# a comment\nDescription=lost\n" + OTHER)
    (tmp_path / "api@.service").write_text("Unit]\n" + OTHER)
    result = fleetctl("submit", "web", "api@1")
    assert (result.status, list(cluster.units)) == (0, ["api@1.service", "web.service"])
    first, second = result.stderr.splitlines()
    assert first.endswith(": Unit web.service: line 2 of web.service stands before the first section, and is ignored")
    assert second.endswith(
        ": Unit api@1.service: line 1 of api@.service stands before the first section, and is ignored"
    )
    assert fleetctl("submit", "web").stderr == ""


@pytest.mark.covers("3.6.8", "3.6.11", "3.8.16")
def test_a_refusal_of_the_api_names_the_unit(fleetctl: Fleetctl, cluster: ScriptedCluster, hello: Path) -> None:
    refusal = render_error(400, 'unit "hello.service" would hide\n/lib/hello.service')
    cluster.intercept = lambda method, path: refusal if method == "PUT" else None
    result = fleetctl("submit", "hello")
    assert (result.status, result.stdout) == (1, "")
    assert result.stderr == (
        "Error creating units: failed creating unit hello.service: "
        'Error 400: unit "hello.service" would hide /lib/hello.service\n'
    )


# Several units, and other clients at the same time


@pytest.fixture
def three(tmp_path: Path) -> tuple[str, ...]:
    """Three unit files in the current directory."""
    for name in "abc":
        (tmp_path / f"{name}.service").write_text(HELLO)
    return ("a.service", "b.service", "c.service")


@pytest.mark.parametrize("command", ["submit", "load", "start"])
def test_many_units_are_created_and_started_in_one_request(
    fleetctl: Fleetctl, cluster: ScriptedCluster, three: tuple[str, ...], command: str
) -> None:
    result = fleetctl(command, *three)
    assert (result.status, result.stderr) == (0, "")
    assert result.stdout.startswith("Unit a.service inactive\nUnit b.service inactive\nUnit c.service inactive\n")
    assert cluster.changes == [("POST", "/fleet/v2/units")]
    assert [operation.name for operation in cluster.operations] == [*three]


def test_a_refused_unit_does_not_stop_the_others(
    fleetctl: Fleetctl, cluster: ScriptedCluster, three: tuple[str, ...]
) -> None:
    cluster.system_units["b.service"] = "/lib/systemd/system/b.service"
    result = fleetctl("start", *three)
    assert result.status == 1
    assert result.stderr == (
        'Error creating units: failed creating unit b.service: Error 400: unit "b.service" would hide '
        "/lib/systemd/system/b.service, a unit of the system: choose another name\n"
    )
    assert [line.split()[1:3] for line in result.stdout.splitlines()] == [
        ["a.service", "inactive"],
        ["c.service", "inactive"],
        ["a.service", "launched"],
        ["c.service", "launched"],
    ]
    assert sorted(cluster.units) == ["a.service", "c.service"]


@pytest.mark.parametrize("names", [("a.service",), ("a.service", "b.service")])
@pytest.mark.parametrize("text", [HELLO, OTHER])
def test_a_unit_that_another_client_just_created_is_not_changed(
    fleetctl: Fleetctl, cluster: ScriptedCluster, three: tuple[str, ...], names: tuple[str, ...], text: str
) -> None:
    def create(method: str, path: str) -> None:
        if method != "GET" and not cluster.units:
            cluster.add("a.service", text)

    cluster.intercept = create
    result = fleetctl("start", *names)
    warning = "WARNING: Another client has just created Unit a.service, and it differs from yours. "
    warning += "Add --replace to override.\n"
    assert (result.status, result.stderr) == (0, warning if text == OTHER else "")
    assert "Unit a.service inactive" not in result.stdout
    assert "Unit a.service launched" in result.stdout
    assert cluster.units["a.service"].text == UnitFile.parse(text).text
    assert cluster.units["a.service"].target == "launched"


def test_a_unit_created_and_destroyed_meanwhile_is_an_error(
    fleetctl: Fleetctl, cluster: ScriptedCluster, hello: Path
) -> None:
    refusal = render_error(412, 'unit "hello.service" exists already')
    cluster.intercept = lambda method, path: refusal if method == "PUT" else None
    result = fleetctl("submit", "hello")
    assert (result.status, result.stdout) == (1, "")
    assert result.stderr == (
        'Error creating units: failed creating unit hello.service: Error 412: unit "hello.service" exists already\n'
    )
