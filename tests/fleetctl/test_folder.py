"""Folders of unit files: which units they make, and what is said of files that are broken, odd or of no use."""

import os
from pathlib import Path

import pytest

from fleetctl.errors import CommandFailed
from fleetctl.folder import BrokenFolder, Folder, read_folder
from fleetd.model.content import Content, DropIn
from fleetd.model.unit_set import SetUnit

SERVICE = "[Service]\nExecStart=/bin/true\n"
LIMIT = "[Service]\nMemoryMax=1G\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder `deploy` in the current directory."""
    monkeypatch.chdir(tmp_path)
    made = tmp_path / "deploy"
    made.mkdir()
    return made


def fill(folder: Path, files: dict[str, str]) -> Folder:
    """Write these files, or links (`-> TARGET`), and read the folder."""
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(exist_ok=True, parents=True)
        if text.startswith("-> "):
            path.symlink_to(text.removeprefix("-> "))
        else:
            path.write_bytes(text.encode("utf-8", "surrogateescape"))
    return read_folder("deploy")


def faults(folder: Path, files: dict[str, str]) -> tuple[str, ...]:
    with pytest.raises(BrokenFolder) as found:
        fill(folder, files)
    return found.value.faults


def test_unit_files_drop_ins_and_links_make_units(folder: Path) -> None:
    found = fill(
        folder,
        {
            "db.service": "# a comment\n" + SERVICE,
            "db.service.d/10-limit.conf": LIMIT,
            "web@.service": SERVICE + "\n[X-Fleet]\nInstances=2\n",
            "web@.service.d/10-limit.conf": LIMIT,
            "web@2.service.d/20-own.conf": "[Service]\nNice=5\n",
            "web@eu.service": "-> web@.service",
        },
    )
    assert [unit.name for unit in found.units] == ["db.service", "web@.service", "web@2.service", "web@eu.service"]
    assert found.units[0] == SetUnit("db.service", SERVICE, (DropIn("10-limit.conf", LIMIT),))
    assert found.units[3] == SetUnit("web@eu.service")
    assert sorted(found.contents) == ["db.service", "web@.service", "web@1.service", "web@2.service", "web@eu.service"]
    assert [dropin.name for dropin in found.contents["web@2.service"].dropins] == ["10-limit.conf", "20-own.conf"]


def test_a_drop_in_may_be_a_link(folder: Path) -> None:
    (folder / "limit.conf").write_text(LIMIT)
    found = fill(folder, {"a.service": SERVICE, "a.service.d/x.conf": "-> ../limit.conf"})
    assert found.contents["a.service"].dropins == (DropIn("x.conf", LIMIT),)


def test_a_folder_without_unit_files_has_no_units(folder: Path) -> None:
    assert read_folder(str(folder)) == Folder((), {}, ())


@pytest.mark.parametrize("text", ["-> ../shared/a.service", "-> /nonexistent/../{}/shared/a.service"])
def test_a_link_to_a_file_elsewhere_is_that_file(folder: Path, text: str) -> None:
    (folder.parent / "shared").mkdir()
    (folder.parent / "shared" / "a.service").write_text(SERVICE)
    if "{}" in text:
        text = f"-> {folder.parent}/shared/a.service"
    assert fill(folder, {"a.service": text}).contents == {"a.service": Content(SERVICE)}


def test_hidden_files_and_what_editors_leave_are_passed_over(folder: Path) -> None:
    odd = [
        "README.md",
        ".a.service.swp",
        ".hidden.service",
        "a.service~",
        "#a.service#",
        "b.service.bak",
        "c.service.dpkg-old",
    ]
    found = fill(folder, {"a.service": SERVICE, "a.service.d/.x.conf": "[", **dict.fromkeys(odd, "[broken")})
    assert list(found.contents) == ["a.service"]
    assert found.warnings == ()


def test_other_files_and_subfolders_are_named_and_not_read(folder: Path) -> None:
    found = fill(
        folder,
        {"a.service": SERVICE, "NOTES.md": "", "old/b.service": "[", "a.service.d/limit.txt": "", "web.servce": ""},
    )
    assert list(found.contents) == ["a.service"]
    assert found.warnings == (
        "not read, since it is neither a unit file nor a drop-in of one: "
        "NOTES.md, a.service.d/limit.txt, old/, web.servce",
    )


def test_warnings_name_unit_or_file_and_line(folder: Path) -> None:
    text = "[Service]\nExecStart=/bin/true \\\\\nNice=1\n[X-Fleet]\nNoSuchOption=1\n"
    found = fill(folder, {"a.service": text, "a.service.d/x.conf": "stray\n[Service]\nNice=1\n"})
    assert found.warnings == (
        'Unit a.service: unrecognized requirement in [X-Fleet] section: "NoSuchOption"',
        "deploy/a.service:2: ends in an escaped backslash: CoreOS fleet took the next line for a part of it",
        "deploy/a.service.d/x.conf:1: stands before the first section, and is ignored",
    )


WEB = SERVICE + "[X-Fleet]\nInstances=1\n"
TOO_MUCH = "[X-Fleet]\nMaxUnavailable=101%\n"
LATIN_1 = "[Unit]\nDescription=\udcff\n"
BROKEN = [
    ("syntax", {"a.service": SERVICE + "[Unit\n"}, "a.service:3: unable to find end"),
    ("an option", {"a.service": SERVICE + "[X-Fleet]\nMaxUnavailable=0\n"}, "a.service:4: MaxUnavailable: with 0"),
    (
        "an option in a drop-in",
        {"a.service": SERVICE + "[X-Fleet]\nMaxUnavailable=1\n", "a.service.d/x.conf": TOO_MUCH},
        "a.service.d/x.conf:2: MaxUnavailable: 101%",
    ),
    ("two options", {"a.service": SERVICE + "[X-Fleet]\nGlobal=true\nMachineOf=b.service\n"}, "a.service:"),
    ("no option", {"a.service": "[Service]\n"}, "a.service: it holds no option"),
    ("not UTF-8", {"a.service": LATIN_1}, "a.service:2: byte 0xff"),
    ("a reserved name", {"fleet.service": SERVICE}, 'fleet.service: unit name "fleet.service" is reserved'),
    ("an invalid name", {"a b.service": SERVICE}, "a b.service: invalid character ' '"),
    ("a drop-in's syntax", {"a.service": SERVICE, "a.service.d/x.conf": "[Service]\nNice\n"}, "a.service.d/x.conf:2: "),
    ("a drop-in's name", {"a.service": SERVICE, "a.service.d/x y.conf": LIMIT}, 'a.service.d/x y.conf: "x y.conf" is'),
    ("a drop-in of no unit", {"b.service.d/x.conf": LIMIT}, "b.service.d: the folder has no unit b.service: add its"),
    (
        "a drop-in of no instance",
        {"web@.service": WEB, "web@2.service.d/x.conf": LIMIT},
        "web@2.service.d: the folder has no unit web@2.service: link it to web@.service",
    ),
    ("a drop-in of all services", {"service.d/x.conf": LIMIT}, 'service.d: unit name must contain "."'),
    (
        "a group option of an instance",
        {"web@.service": WEB, "web@1.service.d/x.conf": "[X-Fleet]\nInstances=3\n"},
        "web@1.service.d/x.conf:2: Instances= is for all instances of web@.service",
    ),
    (
        "an alias",
        {"a.service": SERVICE, "b.service": "-> a.service"},
        "b.service: it is a link to a.service: write [Install] Alias=b.service there",
    ),
    (
        "a link to another template",
        {"web@.service": SERVICE, "db@.service": SERVICE, "web@1.service": "-> db@.service"},
        "web@1.service: it is a link to db@.service, which is not its template: link to web@.service",
    ),
    ("a link to nothing", {"a.service": "-> nowhere"}, "a.service: it is a link to nowhere, which cannot be read: no"),
    ("a mask", {"a.service": "-> /dev/null"}, "a.service: it is not a regular file"),
    (
        "an empty drop-in",
        {"a.service": SERVICE, "a.service.d/x.conf": "# nothing"},
        "a.service.d/x.conf: it holds no option",
    ),
    (
        "too many drop-ins",
        {"a.service": SERVICE, **{f"a.service.d/{number}.conf": LIMIT for number in range(65)}},
        "a.service.d: 65 drop-ins",
    ),
    ("a large file", {"a.service": "#" * 262_145}, "a.service: it has 262145 bytes, and at most 262144"),
    ("too many instances", {"web@.service": WEB.replace("=1", "=1001")}, "web@.service:4: Instances: 1001 instances"),
    (
        "too many units",
        {f"web{number}@.service": WEB.replace("=1", "=1000") for number in range(10)},
        ": these are 10010 units",
    ),
]


@pytest.mark.parametrize(("files", "fault"), [case[1:] for case in BROKEN], ids=[case[0] for case in BROKEN])
def test_a_broken_folder_is_refused_with_file_and_line(folder: Path, files: dict[str, str], fault: str) -> None:
    found = faults(folder, files)
    assert len(found) == 1
    assert found[0].startswith("deploy" + fault if fault.startswith(":") else f"deploy/{fault}")


def test_all_faults_are_named_at_once(folder: Path) -> None:
    assert len(faults(folder, {"a.service": "[", "b.service": "[", "c.service": SERVICE})) == 2


def test_a_file_that_may_not_be_read_is_named(folder: Path) -> None:
    os.mkfifo(folder / "a.service")
    assert faults(folder, {}) == ("deploy/a.service: it is not a regular file",)


def test_what_is_no_folder_is_refused(folder: Path) -> None:
    (folder / "a.service").write_text(SERVICE)
    with pytest.raises(CommandFailed, match=r"deploy/a\.service is not a folder"):
        read_folder("deploy/a.service")
    with pytest.raises(CommandFailed, match="cannot read the folder nowhere: no such file"):
        read_folder("nowhere")


def test_the_example_is_a_folder_without_fault() -> None:
    found = read_folder(str(Path(__file__).parents[2] / "units/site"))
    assert sorted(found.contents) == [
        "check.service",
        "check.timer",
        "load.service",
        "site@.service",
        "site@1.service",
        "site@2.service",
        "site@3.service",
    ]
    assert found.contents["site@1.service"].dropins
