"""template: a file that follows what units announce."""

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from fleetctl.commands.template import follow
from fleetctl.errors import CommandFailed, Unreachable
from fleetctl.templates import Target, Template, usable
from fleetd.api import schema
from fleetd.api.http import Response, render_json
from tests.fleetctl.conftest import Fleetctl
from tests.fleetctl.scripted_cluster import ScriptedCluster

UPSTREAM = """\
upstream web {
{% for each in service("web") %}
    server {{ each.address }}:{{ each.port }};  # {{ each.unit }}
{% endfor %}
}
"""
RENDERED = "upstream web {\n    server 10.0.0.1:8001;  # web@1.service\n    server 10.0.0.2:8002;  # web@2.service\n}\n"


def web(number: int, **changes: object) -> schema.Service:
    fields = {
        "service": "web",
        "unit": f"web@{number}.service",
        "machine": f"m{number}",
        "address": f"10.0.0.{number}",
        "port": 8000 + number,
        "protocol": "tcp",
    }
    return schema.Service(**{**fields, **changes})  # type: ignore[arg-type]


@pytest.fixture
def announce(cluster: ScriptedCluster) -> Callable[..., None]:
    """Sets what units announce."""
    found: tuple[schema.Service, ...] = ()

    def answer(method: str, path: str) -> Response | None:
        return render_json(schema.Services(found, 7)) if path.startswith("/fleet/v2/services") else None

    def announce(*services: schema.Service) -> None:
        nonlocal found
        found = services

    cluster.intercept = answer
    announce(web(1), web(2), web(3, failing="it answers 500"))
    return announce


@pytest.fixture
def files(tmp_path: Path) -> tuple[str, Path]:
    """The template, and the target."""
    (tmp_path / "web.j2").write_text(UPSTREAM)
    return str(tmp_path / "web.j2"), tmp_path / "web.conf"


@pytest.mark.usefixtures("announce")
def test_what_passes_is_rendered_into_the_file(fleetctl: Fleetctl, files: tuple[str, Path]) -> None:
    template, target = files
    result = fleetctl("template", "--once", template, str(target))
    assert (result.status, result.stdout, target.read_text()) == (0, "", RENDERED)
    assert stat.S_IMODE(target.stat().st_mode) == 0o644


@pytest.mark.usefixtures("announce")
def test_the_same_text_is_neither_written_nor_checked_nor_used(fleetctl: Fleetctl, files: tuple[str, Path]) -> None:
    template, target = files
    target.write_text(RENDERED)
    before = target.stat()
    assert fleetctl("template", "--once", "--check=false", "--run=false", template, str(target)).status == 0
    after = target.stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_owner_mode_and_link_stay(announce: Callable[..., None], fleetctl: Fleetctl, files: tuple[str, Path]) -> None:
    template, target = files
    target.write_text("former")
    target.chmod(0o640)
    link = target.with_name("link")
    link.symlink_to(target.name)
    if os.geteuid() == 0:
        os.chown(target, 65534, 65534)
    before = target.stat()
    assert fleetctl("template", "--once", template, str(link)).status == 0
    after = target.stat()
    assert target.read_text() == RENDERED
    assert link.is_symlink()
    assert (after.st_mode, after.st_uid, after.st_gid) == (before.st_mode, before.st_uid, before.st_gid)


@pytest.mark.usefixtures("announce")
@pytest.mark.parametrize("former", ["former", None])
def test_a_failing_check_puts_back_what_was_there(
    fleetctl: Fleetctl, files: tuple[str, Path], former: str | None
) -> None:
    template, target = files
    if former is not None:
        target.write_text(former)
    check = f"cp {target} {target}.seen; exit 3"
    result = fleetctl("template", "--once", f"--check={check}", "--run=touch ran", template, str(target))
    assert result.status == 1
    assert f"{target} is as it was: the check '{check}' ended with status 3" in result.stderr
    assert (target.read_text() if target.exists() else None) == former
    assert Path(f"{target}.seen").read_text() == RENDERED
    assert not Path("ran").exists()


@pytest.mark.usefixtures("announce")
def test_a_change_is_checked_and_used(fleetctl: Fleetctl, files: tuple[str, Path]) -> None:
    template, target = files
    check, run = f"grep -q 10.0.0.1 {target}", "touch ran"
    assert fleetctl("template", "--once", f"--check={check}", f"--run={run}", template, str(target)).status == 0
    assert Path("ran").exists()


@pytest.mark.usefixtures("announce")
def test_a_command_that_fails_is_said(fleetctl: Fleetctl, files: tuple[str, Path]) -> None:
    template, target = files
    result = fleetctl("template", "--once", "--run=exit 4", template, str(target))
    assert result.status == 1
    assert f"{target} was written, but 'exit 4' ended with status 4" in result.stderr


@pytest.mark.usefixtures("announce")
@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("a\n{% for %}", "web.j2:2: "),
        ("a\nb {{ missing }}", "web.j2:2: 'missing' is undefined"),
        ("{% include 'other' %}", "other: there is no such file"),
        ("{{ 1 / 0 }}", "web.j2:1: division by zero"),
        ("{{ service('web')[9].port }}", "web.j2:1: "),
        ("{{ service('web')[0].adress }}", "web.j2:1: a service has no attribute 'adress'"),
        ("\n{{ service() }}", "web.j2:2: service() missing 1 required positional argument"),
        ("{% for each in range(10 ** 12) %}x{% endfor %}", "web.j2:1: Range too big"),
        ("{{ 'long' * 10 ** 7 }}", "web.j2: its text would be longer than 16 MiB"),
        ("{% macro a() %}{{ a() }}{% endmacro %}{{ a() }}", "web.j2:1: maximum recursion depth exceeded"),
        ("{{ service.__globals__ }}", "web.j2:1: access to attribute '__globals__'"),
    ],
)
def test_a_wrong_template_is_named_with_its_line(
    fleetctl: Fleetctl, files: tuple[str, Path], text: str, error: str
) -> None:
    template, target = files
    Path(template).write_text(text)
    for once in ("--once", "--once=false"):
        result = fleetctl("template", once, template, str(target))
        assert (result.status, target.exists()) == (1, False)
        assert error in result.stderr
        assert "Traceback" not in result.stderr


def test_what_is_wrong_with_the_files_is_said_before_the_cluster_is_asked(
    fleetctl: Fleetctl, files: tuple[str, Path], cluster: ScriptedCluster
) -> None:
    template, target = files
    folder = target.parent
    (folder / "latin1.j2").write_bytes(b"\xe4")
    (folder / "bad.j2").write_text("\n\n{{ 1 +")
    asked: list[str] = []
    cluster.intercept = lambda method, path: asked.append(path)  # type: ignore[func-returns-value]
    for arguments, error in (
        ((template,), "template needs two files"),
        (("missing.j2", str(target)), "cannot read the template missing.j2: no such file or directory"),
        ((str(folder), str(target)), f"cannot read the template {folder}: is a directory"),
        ((f"{folder}/latin1.j2", str(target)), f"{folder}/latin1.j2: it is no text in UTF-8"),
        ((f"{folder}/bad.j2", str(target)), f"{folder}/bad.j2:3: unexpected 'end of template'"),
        ((template, "/nonexistent/a"), "cannot write /nonexistent/a: there is no folder /nonexistent"),
        ((template, "/"), "cannot read /: is a directory"),
        ((template, template), f"{template} is the template itself: name another file to write"),
    ):
        result = fleetctl("template", *arguments)
        assert result.status == 1
        assert error in result.stderr
    assert asked == []


@pytest.mark.usefixtures("announce")
@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("fleet-has-no-such", "ended with status 127: there is no such command"),
        ("/etc/passwd", "ended with status 126: it may not be run"),
    ],
)
def test_a_command_that_cannot_be_run_is_said(
    fleetctl: Fleetctl, files: tuple[str, Path], command: str, words: str
) -> None:
    template, target = files
    result = fleetctl("template", "--once", f"--check={command}", template, str(target))
    assert (result.status, target.exists()) == (1, False)
    assert f"{target} is as it was: the check '{command}' {words}" in result.stderr
    result = fleetctl("template", f"--run={command}", template, str(target))
    assert (result.status, target.exists()) == (1, True)
    assert f"{target} was written, but '{command}' {words}" in result.stderr


@pytest.mark.usefixtures("jumping_clock")
def test_a_template_that_gets_wrong_later_is_said_and_tried_again(
    files: tuple[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    template, target = files

    class Editing(Following):
        def services(self, index: int = 0, wait_s: int = 0) -> schema.Services:
            Path(template).write_text("{% bad" if len(self.asked) == 1 else UPSTREAM)
            return super().services(index, wait_s)

    cluster = Editing([web(1)], [web(1), web(2)], [web(1), web(2)])
    with pytest.raises(KeyboardInterrupt):
        follow(cluster, Template(Path(template)), Target(target, "", ""))  # type: ignore[arg-type]
    assert target.read_text() == RENDERED
    assert f"{template}:1: " in capsys.readouterr().err


def test_an_older_fleetd_is_named(fleetctl: Fleetctl, files: tuple[str, Path], cluster: ScriptedCluster) -> None:
    cluster.intercept = lambda method, path: render_json({}, status=404) if "services" in path else None
    result = fleetctl("template", "--once", files[0], str(files[1]))
    assert result.status == 1
    assert result.stderr.startswith("Error retrieving what units announce: ")


@pytest.mark.parametrize(
    "changes",
    [
        {"address": "10.0.0.1; include /etc/passwd"},
        {"address": ""},
        {"unit": "a b\n.service"},
        {"machine": "m1;"},
        {"zone": "a\nb"},
        {"service": "a}b"},
        {"protocol": "tcp;"},
        {"failing": "it is down"},
    ],
)
def test_what_is_more_than_a_word_is_left_out(changes: dict[str, object]) -> None:
    assert usable([web(1), web(2, **changes)]) == {"web": [web(1)]}


class Following:
    """A cluster that says so many things, of which each is an error or a list, and is interrupted then."""

    def __init__(self, *said: Exception | list[schema.Service]) -> None:
        self._said = list(said)
        self.asked: list[int] = []

    def services(self, index: int = 0, wait_s: int = 0) -> schema.Services:
        self.asked.append(index)
        if not self._said:
            raise KeyboardInterrupt
        said = self._said.pop(0)
        if isinstance(said, Exception):
            raise said
        return schema.Services(tuple(said), len(self.asked))


@pytest.mark.usefixtures("jumping_clock")
def test_it_follows_changes_and_outlasts_outages(files: tuple[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    template, target = files
    cluster = Following(Unreachable("away"), [web(1)], Unreachable("away"), Unreachable("away"), [web(1), web(2)])
    with pytest.raises(KeyboardInterrupt):
        follow(cluster, Template(Path(template)), Target(target, "", f"cat {target} >>{target}.runs"))  # type: ignore[arg-type]
    assert target.read_text() == RENDERED
    assert Path(f"{target}.runs").read_text().count("upstream") == 2
    assert cluster.asked == [0, 0, 2, 0, 0, 5]
    assert capsys.readouterr().err.count("away") == 2


@pytest.mark.usefixtures("jumping_clock")
def test_a_failed_check_or_run_is_tried_again(files: tuple[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    template, target = files
    flag = target.with_name("flag")
    cluster = Following([web(1)], [web(1), web(2)], [web(1), web(2)], [web(1), web(2)])
    run = f"test -e {flag} && {{ rm {flag}; exit 0; }}; ! grep -q 10.0.0.2 {target} || {{ touch {flag}; exit 1; }}"
    with pytest.raises(KeyboardInterrupt):
        follow(cluster, Template(Path(template)), Target(target, "", run))  # type: ignore[arg-type]
    assert target.read_text() == RENDERED
    assert not flag.exists()
    assert capsys.readouterr().err.count("ended with status 1") == 1


@pytest.mark.usefixtures("jumping_clock")
def test_what_is_wrong_from_the_beginning_ends_the_command(files: tuple[str, Path]) -> None:
    template, target = files
    with pytest.raises(CommandFailed, match="is as it was: the check 'false' ended with status 1"):
        follow(Following([web(1)]), Template(Path(template)), Target(target, "false", ""))  # type: ignore[arg-type]
