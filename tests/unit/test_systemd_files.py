"""The directory of unit files and its links: what lies on the disk after each operation."""

import os
from pathlib import Path

import pytest

from fleetd.systemd.files import UnitFiles, has_install_section, is_loadable, is_unit_name, link_owner
from fleetd.systemd.protocol import ServiceManagerError

TEXT = "[Service]\nExecStart=/bin/true\n"


@pytest.fixture
def units(tmp_path: Path) -> Path:
    return tmp_path / "fleet" / "units"


@pytest.fixture
def links(tmp_path: Path) -> Path:
    return tmp_path / "systemd" / "system"


@pytest.fixture
def files(units: Path, links: Path) -> UnitFiles:
    return UnitFiles(units, links)


def test_before_the_first_write_there_are_no_files(files: UnitFiles) -> None:
    assert files.read() == {}
    files.announce()
    files.drop("never.service")


def test_a_file_is_readable_by_all_whatever_the_umask(files: UnitFiles, units: Path) -> None:
    before = os.umask(0o077)
    try:
        files.put("a.service", TEXT)
    finally:
        os.umask(before)
    assert (units / "a.service").stat().st_mode & 0o7777 == 0o644


def test_a_file_is_replaced_as_a_whole_and_never_in_place(files: UnitFiles, units: Path) -> None:
    files.put("a.service", TEXT)
    with (units / "a.service").open() as opened:
        files.put("a.service", TEXT * 2)
        assert opened.read() == TEXT
    assert files.read() == {"a.service": TEXT * 2}
    assert sorted(os.listdir(units)) == ["a.service"]


def test_a_write_that_fails_leaves_the_file_as_it_was(files: UnitFiles, units: Path) -> None:
    files.put("a.service", TEXT)
    (units / ".new").mkdir()  # what is written first cannot be written
    with pytest.raises(OSError, match="Is a directory"):
        files.put("a.service", TEXT * 2)
    assert files.read() == {"a.service": TEXT}


def test_an_unchanged_file_keeps_its_modification_time(files: UnitFiles, units: Path) -> None:
    files.put("a.service", TEXT)
    os.utime(units / "a.service", ns=(1, 1))
    files.put("a.service", TEXT)
    assert (units / "a.service").stat().st_mtime_ns == 1
    files.put("a.service", TEXT * 2)
    assert (units / "a.service").stat().st_mtime_ns > 1


def test_a_link_that_was_lost_is_made_again(files: UnitFiles, units: Path, links: Path) -> None:
    files.put("a.service", TEXT)
    (links / "a.service").unlink()
    files.put("a.service", TEXT)
    assert os.readlink(links / "a.service") == str(units / "a.service")


def test_what_others_put_into_the_runtime_directory_is_left_alone(files: UnitFiles, links: Path) -> None:
    links.mkdir(parents=True)
    (links / "theirs.service").write_text("theirs")
    with pytest.raises(ServiceManagerError, match=r"theirs.service is not fleet's; remove it or choose another name"):
        files.put("theirs.service", TEXT)
    files.drop("theirs.service")
    assert (links / "theirs.service").read_text() == "theirs"
    assert files.read() == {}


def test_what_is_no_text_and_what_is_no_unit_read_as_such(files: UnitFiles, units: Path) -> None:
    files.put("b.service", TEXT)
    (units / "a.service").write_bytes(b"\xff\xfe")
    (units / "notes.txt").write_text("no unit")
    assert list(files.read().items()) == [("a.service", ""), ("b.service", TEXT)]


def test_a_dropped_file_takes_its_link_along(files: UnitFiles, units: Path, links: Path) -> None:
    files.put("a.service", TEXT)
    files.drop("a.service")
    assert (os.listdir(units), os.listdir(links)) == ([], [])


def test_a_name_cannot_lead_out_of_the_directory(files: UnitFiles, tmp_path: Path) -> None:
    (tmp_path / "precious.service").write_text("precious")
    with pytest.raises(ServiceManagerError, match="systemd takes no unit of this name"):
        files.put("../../precious.service", TEXT)
    files.drop("../../precious.service")
    assert (tmp_path / "precious.service").read_text() == "precious"


def test_an_announcement_moves_the_time_that_systemd_looks_at(files: UnitFiles, links: Path) -> None:
    files.put("a.service", TEXT)
    os.utime(links, ns=(1, 1))
    files.announce()
    assert links.stat().st_mtime_ns > 1


def test_units_of_others_and_their_templates_are_found_but_ours_are_not(files: UnitFiles, tmp_path: Path) -> None:
    system = tmp_path / "lib"
    system.mkdir()
    for name in ("ssh.service", "getty@.service"):
        (system / name).write_text(TEXT)
    (system / "masked.service").symlink_to("/dev/null")
    files.put("ours@1.service", TEXT)
    search_path = (str(tmp_path / "nowhere"), str(tmp_path / "systemd" / "system"), str(system))
    found = {
        name: files.foreign_path(name, search_path)
        for name in ("ssh.service", "getty@x.service", "masked.service", "ours@1.service", "new.service")
    }
    assert found == {
        "ssh.service": str(system / "ssh.service"),
        "getty@x.service": str(system / "getty@.service"),
        "masked.service": str(system / "masked.service"),
        "ours@1.service": "",
        "new.service": "",
    }


def test_the_units_that_enabling_gave_a_dependency_to_are_known_by_their_links(files: UnitFiles, links: Path) -> None:
    for folder, name in (("b.target.wants", "x.service"), ("a.target.requires", "x.service"), ("c.target.wants", "y")):
        (links / folder).mkdir(parents=True)
        (links / folder / name).symlink_to("/dev/null")
    (links / "d.service.d").mkdir()
    (links / "d.service.d" / "x.service").touch()
    assert files.owners_of_links(["x.service"]) == ["a.target", "b.target"]


@pytest.mark.parametrize(
    ("link", "owner"),
    [
        ("/run/systemd/system/multi-user.target.wants/a.service", "multi-user.target"),
        ("/run/systemd/system/b.service.requires/a.service", "b.service"),
        ("/run/systemd/system/alias.service", ""),
    ],
)
def test_a_link_tells_who_got_a_dependency(link: str, owner: str) -> None:
    assert link_owner(link) == owner


@pytest.mark.parametrize(
    ("name", "is_name", "loadable"),
    [
        ("a.service", True, True),
        ("a@b.service", True, True),
        ("a@b@c.service", True, True),
        ("a@.service", True, False),
        (r"dev-disk\x2dby.mount", True, True),
        ("-.mount", True, True),
        ("@a.service", False, False),
        ("a.busname", False, False),
        ("a", False, False),
        ("a b.service", False, False),
        ("x" * 248 + ".target", True, True),
        ("x" * 249 + ".target", False, False),
    ],
)
def test_names_are_taken_as_systemd_takes_them(name: str, is_name: bool, loadable: bool) -> None:
    assert (is_unit_name(name), is_loadable(name)) == (is_name, loadable)


@pytest.mark.parametrize(
    ("text", "has_one"), [(TEXT, False), (f"{TEXT}[Install]\n", True), (f"{TEXT}# [Install]\n", False)]
)
def test_only_an_install_section_is_enabled(text: str, has_one: bool) -> None:
    assert has_install_section(text) == has_one
