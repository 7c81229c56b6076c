"""edit, and cat of a unit with drop-ins."""

import stat
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from fleetctl.commands.edit import BEGIN, END, render_page, take_text
from fleetd.api import schema
from fleetd.api.http import render_error
from fleetd.model.content import DropIn
from fleetd.model.unit import TargetState
from fleetd.model.unit_option import UnitOption
from tests.fleetctl.conftest import HELLO, Fleetctl
from tests.fleetctl.scripted_cluster import ScriptedCluster, ScriptedOutcome

ROOT = Path(__file__).parents[2]
LIMIT = "[Service]\nMemoryMax=1G\n"
WEB = "web.service"


@pytest.fixture
def editor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program that saves what it is given to `page`, and replaces it by `edited` if that exists."""
    program = tmp_path / "an editor"
    program.write_text(
        f'#!/bin/sh\ncp "$2" {tmp_path}/page; echo "$1 $2" > {tmp_path}/arguments\n'
        f'[ ! -e {tmp_path}/edited ] || cp {tmp_path}/edited "$2"\n[ ! -e {tmp_path}/fails ]\n'
    )
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.delenv("SYSTEMD_EDITOR", raising=False)
    monkeypatch.setenv("EDITOR", f"'{program}' -x")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    return tmp_path


def dropins(cluster: ScriptedCluster, name: str = WEB) -> dict[str, str]:
    return {dropin.name: dropin.text for dropin in cluster.units[name].dropins}


def test_cat_prints_drop_ins_after_the_unit_file_as_systemctl_does(
    fleetctl: Fleetctl, cluster: ScriptedCluster
) -> None:
    cluster.add(WEB, HELLO, b=LIMIT, a="# why\n[Unit]\nAfter=x.service")
    assert fleetctl("cat", "web").stdout == (
        f"{HELLO}\n"
        "# /run/systemd/system/web.service.d/a.conf\n[Unit]\nAfter=x.service\n\n"
        f"# /run/systemd/system/web.service.d/b.conf\n{LIMIT}"
    )


def test_edit_adds_the_drop_in_that_the_editor_leaves(
    fleetctl: Fleetctl, cluster: ScriptedCluster, editor: Path
) -> None:
    cluster.add(WEB, HELLO, "launched", a="[Unit]\nAfter=x.service\n")
    (editor / "edited").write_text(f"### Editing\n{BEGIN}\n\n# a remark\n{LIMIT}\n{END}\n\n# [Unit]\n")
    result = fleetctl("edit", "web")
    assert (result.status, result.stderr) == (0, "")
    assert result.stdout.splitlines()[0] == "Unit web.service: drop-in override.conf is added"
    assert result.stdout.splitlines()[1].startswith("Unit web.service launched on ")
    assert (editor / "page").read_text() == (
        f"### Editing /run/systemd/system/web.service.d/override.conf\n{BEGIN}\n\n\n{END}\n\n"
        + "".join(f"# {line}".rstrip() + "\n" for line in HELLO.splitlines())
        + "#\n# # /run/systemd/system/web.service.d/a.conf\n# [Unit]\n# After=x.service\n"
    )
    assert dropins(cluster) == {"a.conf": "[Unit]\nAfter=x.service\n", "override.conf": LIMIT}
    unit = cluster.units[WEB]
    assert (unit.text, unit.target) == (HELLO, TargetState.LAUNCHED)
    flag, path = (editor / "arguments").read_text().split()
    assert (flag, path.endswith(".override.conf"), Path(path).exists()) == ("-x", True, False)


def test_edit_shows_what_the_drop_in_holds_and_removes_one_that_is_left_empty(
    fleetctl: Fleetctl, cluster: ScriptedCluster, editor: Path
) -> None:
    cluster.add(WEB, HELLO, x=LIMIT)
    (editor / "edited").write_text(f"{BEGIN}\n# nothing\n\n{END}\n")
    result = fleetctl("edit", "--drop-in=x", WEB)
    assert (result.status, result.stdout) == (0, "Unit web.service: drop-in x.conf is removed\n")
    assert f"{BEGIN}\n\n{LIMIT}\n{END}\n" in (editor / "page").read_text()
    assert dropins(cluster) == {}


@pytest.mark.parametrize("drop_in", ["x.conf", "new.conf"])
def test_an_editor_that_changes_nothing_changes_nothing(
    fleetctl: Fleetctl, cluster: ScriptedCluster, editor: Path, drop_in: str
) -> None:
    cluster.add(WEB, HELLO, "launched", x=LIMIT)
    generation = cluster.units[WEB].generation
    result = fleetctl("edit", f"--drop-in={drop_in}", WEB)
    assert (result.status, result.stdout) == (0, "Unit web.service is not changed\n")
    assert cluster.units[WEB].generation == generation


def test_edit_takes_the_text_from_standard_input(
    fleetctl: Fleetctl, cluster: ScriptedCluster, say: Callable[[bytes], None]
) -> None:
    cluster.add(WEB, HELLO, override="[Unit]\nAfter=x.service\n")
    say(LIMIT.encode())
    assert fleetctl("edit", "--stdin", "web").stdout == "Unit web.service: drop-in override.conf is replaced\n"
    assert dropins(cluster) == {"override.conf": LIMIT}
    say(b"")
    assert fleetctl("edit", "--stdin", "web").stdout == "Unit web.service: drop-in override.conf is removed\n"
    assert dropins(cluster) == {}


def test_edit_full_replaces_the_unit_file_and_keeps_drop_ins_and_target(
    fleetctl: Fleetctl, cluster: ScriptedCluster, editor: Path, say: Callable[[bytes], None]
) -> None:
    cluster.add(WEB, HELLO, "loaded", x=LIMIT)
    (editor / "edited").write_text(HELLO.replace("hello", "hi"))
    result = fleetctl("edit", "--full", "web")
    assert result.stdout.splitlines()[0] == "Unit web.service: its unit file is replaced"
    assert (editor / "page").read_text() == HELLO
    unit = cluster.units[WEB]
    assert (unit.text, unit.target) == (HELLO.replace("hello", "hi"), TargetState.LOADED)
    assert dropins(cluster) == {"x.conf": LIMIT}
    assert fleetctl("edit", "--full", "web").stdout == "Unit web.service is not changed\n"
    say(b"# nothing\n")
    result = fleetctl("edit", "--full", "--stdin", "web")
    assert (result.status, result.stderr) == (1, "The unit file of web.service has no options: nothing is changed\n")
    say(b"[Unit]\nno option\n")
    result = fleetctl("edit", "--full", "--stdin", "web")
    assert (result.status, result.stderr[:55]) == (1, "The unit file of web.service cannot be read: line 2: un")


def test_edit_waits_for_a_global_unit_on_its_machines(
    fleetctl: Fleetctl, cluster: ScriptedCluster, say: Callable[[bytes], None]
) -> None:
    cluster.add(WEB, HELLO + "\n[X-Fleet]\nGlobal=true\n", "launched")
    say(LIMIT.encode())
    result = fleetctl("edit", "--stdin", "web")
    assert (result.status, result.stdout.splitlines()[1:]) == (0, ["Unit web.service launched on 1 machine"])


def test_an_older_fleetd_shows_the_unit_file_and_takes_no_drop_in(
    fleetctl: Fleetctl, cluster: ScriptedCluster, say: Callable[[bytes], None]
) -> None:
    cluster.add(WEB, HELLO, x=LIMIT)
    cluster.intercept = lambda method, path: render_error(404, "") if path.startswith("/fleet/v2/units/") else None
    assert fleetctl("cat", "web").stdout == HELLO
    assert fleetctl("cat", "absent").stderr == "Unit absent.service not found\n"
    say(LIMIT.encode())
    result = fleetctl("edit", "--stdin", "web")
    assert (result.status, result.stdout) == (1, "")
    assert result.stderr == (
        "Unit web.service cannot be edited: this fleetd is older and has no drop-ins; upgrade it\n"
    )


def test_edit_of_a_template_reaches_its_instances_which_keep_their_own(
    fleetctl: Fleetctl, cluster: ScriptedCluster, say: Callable[[bytes], None]
) -> None:
    cluster.add("web@.service", f"{HELLO}[X-Fleet]\nInstances=3\n")
    for number in (1, 2):
        cluster.add(f"web@{number}.service", f"{HELLO}[X-Fleet]\nInstances=3\n", "launched")
    say(b"[Service]\nTasksMax=5\n")
    fleetctl("edit", "--stdin", "--drop-in=own", "web@1")
    say(LIMIT.encode())
    result = fleetctl("edit", "--stdin", "web@")
    assert (result.status, result.stderr) == (0, "")
    assert result.stdout.splitlines() == [
        "Unit web@.service: drop-in override.conf is added",
        "  web@.service  changed  2 instances: daemon-reload is enough (MemoryMax= changed)",
        "web@.service: 3 changed",
        "web@.service: done",
    ]
    given = {"override.conf": LIMIT}
    assert dropins(cluster, "web@.service") == given
    assert dropins(cluster, "web@1.service") == given | {"own.conf": "[Service]\nTasksMax=5\n"}
    assert dropins(cluster, "web@2.service") == given
    assert "web@3.service" not in cluster.units, "an edit creates nothing"
    assert {cluster.units[f"web@{each}.service"].note for each in ("", "1", "2")} == {
        "edit: drop-in override.conf is added"
    }
    say(LIMIT.encode())
    assert fleetctl("edit", "--stdin", "web@").stdout == "Unit web@.service is not changed\n"
    say(HELLO.replace("hello", "bye").encode())
    result = fleetctl("edit", "--stdin", "--full", "--no-block", "web@")
    assert result.status == 0
    assert {cluster.units[f"web@{each}.service"].text for each in ("", "1", "2")} == {
        cluster.units["web@.service"].text
    }
    assert dropins(cluster, "web@2.service") == given


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"[Service]\nno option\n", 'drop-in "override.conf", line 2: unexpected newline'),
        (b"[Service]\nA=\xff\n", "Standard input: byte 0xff at offset 12 (line 2) of the unit file is not UTF-8"),
        (b"[X-Fleet]\nFailoverDelay=soon\n", "Error editing unit web.service: Error 400: FailoverDelay: "),
    ],
)
def test_a_drop_in_that_is_refused_is_explained_and_changes_nothing(
    fleetctl: Fleetctl, cluster: ScriptedCluster, say: Callable[[bytes], None], text: bytes, message: str
) -> None:
    cluster.add(WEB, HELLO)
    say(text)
    result = fleetctl("edit", "--stdin", "web")
    assert (result.status, result.stdout) == (1, "")
    assert result.stderr.startswith(message)
    assert dropins(cluster) == {}


def test_a_text_that_is_refused_is_kept(fleetctl: Fleetctl, cluster: ScriptedCluster, editor: Path) -> None:
    cluster.add(WEB, HELLO)
    (editor / "edited").write_text(f"{BEGIN}\nnonsense\n{END}\n")
    result = fleetctl("edit", "web")
    *_, last = result.stderr.splitlines()
    assert result.status == 1
    assert Path(last.removeprefix("Your text is kept in ")).read_text() == f"{BEGIN}\nnonsense\n{END}\n"


def test_a_unit_that_somebody_else_changes_meanwhile_is_not_overwritten(
    fleetctl: Fleetctl, cluster: ScriptedCluster, editor: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster.add(WEB, HELLO)
    (editor / "edited").write_text(f"{BEGIN}\n{LIMIT}\n{END}\n")
    fleetctl_there = f"env PYTHONPATH={ROOT} {sys.executable} -m fleetctl.cli"  # also where it is not installed
    start = f"{fleetctl_there} --endpoint {cluster.unix} start --no-block web.service"
    monkeypatch.setenv("EDITOR", f"sh -c '{start}; exec {editor}/an\\ editor -x \"$0\"'")
    result = fleetctl("edit", "web")
    assert result.status == 1
    assert 'unit "web.service" was changed meanwhile: look at it and repeat what you want of it' in result.stderr
    assert dropins(cluster) == {}


@pytest.mark.covers("B.11")
def test_a_drop_in_with_which_the_unit_cannot_run_fails_the_command(
    fleetctl: Fleetctl, cluster: ScriptedCluster, say: Callable[[bytes], None]
) -> None:
    cluster.add(WEB, HELLO, "launched")
    cluster.outcomes[WEB] = ScriptedOutcome(active="failed", sub="failed", error="exit-code")
    say(b"[Service]\nExecStart=\nExecStart=/bin/false\n")
    result = fleetctl("edit", "--stdin", "web")
    assert result.status == 1
    assert "web.service" in result.stderr
    say(LIMIT.encode())
    assert fleetctl("edit", "--stdin", "--no-block", "web").status == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "One unit must be provided"),
        (["a", "b"], "One unit must be provided"),
        (["absent"], "Unit absent.service not found"),
        (["--drop-in=a/b", "web"], '"a/b.conf" is no name of a drop-in'),
        (["--full", "--drop-in=a", "web"], "--full edits the unit file, and --drop-in names another file"),
    ],
)
def test_what_cannot_be_edited_is_refused(
    fleetctl: Fleetctl, cluster: ScriptedCluster, editor: Path, arguments: list[str], message: str
) -> None:
    cluster.add(WEB, HELLO)
    result = fleetctl("edit", *arguments)
    assert (result.status, result.stdout) == (1, "")
    assert result.stderr.startswith(message)
    assert not (editor / "page").exists()


def test_an_editor_that_fails_changes_nothing(
    fleetctl: Fleetctl, cluster: ScriptedCluster, editor: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster.add(WEB, HELLO)
    (editor / "edited").write_text(LIMIT)
    (editor / "fails").touch()
    result = fleetctl("edit", "web")
    assert (result.status, "ended with exit status 1: nothing is changed" in result.stderr) == (1, True)
    monkeypatch.setenv("EDITOR", "/no/such/editor")
    assert fleetctl("edit", "web").stderr == "No editor is found: set EDITOR to one, or use --stdin\n"
    monkeypatch.setenv("EDITOR", str(editor))
    assert "cannot be run: Permission denied" in fleetctl("edit", "web").stderr
    assert dropins(cluster) == {}


def test_a_page_is_read_back_as_it_was_shown() -> None:
    option = UnitOption("Service", "ExecStart", "/bin/true")
    content = schema.UnitContent(WEB, 1, options=(option,), dropins=(schema.DropIn("override.conf", LIMIT),))
    assert take_text(render_page(content, "override.conf")).strip() == LIMIT.strip()
    assert take_text(render_page(content, "other.conf")).strip() == ""
    assert take_text(LIMIT) == LIMIT, "the comments were deleted"


def test_replace_takes_the_file_alone_for_the_same_and_keeps_drop_ins(
    fleetctl: Fleetctl, cluster: ScriptedCluster, tmp_path: Path
) -> None:
    cluster.add(WEB, HELLO, a=LIMIT)
    (tmp_path / WEB).write_text(HELLO)
    assert fleetctl("submit", WEB).stderr == ""
    assert fleetctl("submit", "--replace", WEB).stdout.startswith("Found same Unit(web.service)")
    (tmp_path / WEB).write_text(HELLO.replace("hello", "hi"))
    assert "differs from local unit file" in fleetctl("submit", WEB).stderr
    fleetctl("submit", "--replace", WEB)
    assert cluster.units[WEB].text == HELLO.replace("hello", "hi")
    assert cluster.units[WEB].dropins == (DropIn("a.conf", LIMIT),)
