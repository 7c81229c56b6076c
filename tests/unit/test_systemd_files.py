"""The directory of unit files and its links: the files after each operation."""

import os
from pathlib import Path

import pytest

from fleetd.model.content import DropIn
from fleetd.model.names import is_loadable, is_systemd_name
from fleetd.systemd.files import UnitFiles, mount_point, units_of_link
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


@pytest.mark.covers("5.4.3")
def test_before_the_first_write_there_are_no_files(files: UnitFiles) -> None:
    assert files.read() == {}
    files.touch()
    files.drop("never.service")


@pytest.mark.covers("5.4.3", "6.2.1")
def test_a_file_is_readable_by_its_owner_alone_whatever_the_umask(files: UnitFiles, units: Path) -> None:
    before = os.umask(0)
    try:
        files.put("a.service", TEXT)
    finally:
        os.umask(before)
    assert (units / "a.service").stat().st_mode & 0o7777 == 0o600
    assert units.stat().st_mode & 0o7777 == 0o700


def test_a_directory_that_an_earlier_fleetd_left_open_is_closed(files: UnitFiles, units: Path) -> None:
    files.close_to_others()  # before it exists
    units.mkdir(parents=True)
    units.chmod(0o755)
    files.close_to_others()
    assert units.stat().st_mode & 0o7777 == 0o700


def test_a_file_is_replaced_as_a_whole_and_never_in_place(files: UnitFiles, units: Path) -> None:
    files.put("a.service", TEXT)
    with (units / "a.service").open() as opened:
        files.put("a.service", TEXT * 2)
        assert opened.read() == TEXT
    assert files.read() == {"a.service": TEXT * 2}
    assert sorted(os.listdir(units)) == ["a.service"]


def test_a_failed_write_leaves_the_file_as_it_was(files: UnitFiles, units: Path) -> None:
    files.put("a.service", TEXT)
    (units / ".new").mkdir()  # the temporary file cannot be written
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


def test_a_lost_link_is_made_again(files: UnitFiles, units: Path, links: Path) -> None:
    files.put("a.service", TEXT)
    (links / "a.service").unlink()
    files.put("a.service", TEXT)
    assert os.readlink(links / "a.service") == str(units / "a.service")


DROPIN = DropIn("a.conf", "[Service]\nMemoryMax=1M\n")


def test_a_drop_in_is_a_plain_file_and_a_link_in_the_runtime_directory(
    files: UnitFiles, units: Path, links: Path
) -> None:
    files.put("a.service", TEXT)
    assert files.put_dropins("a.service", (DROPIN,))
    file, link = units / "a.service.d/a.conf", links / "a.service.d/a.conf"
    assert os.readlink(link) == str(file)
    assert file.read_text() == DROPIN.text
    assert file.stat().st_mode & 0o7777 == 0o600
    assert not files.put_dropins("a.service", (DROPIN,)), "it is so already"
    assert files.dropin_links("a.service") == [str(link)]
    assert files.dropin_links("b.service") == []
    assert files.read() == {"a.service": TEXT}
    assert files.names() == ["a.service"]
    assert files.find_links() == {}
    assert files.put_dropins("a.service", ())
    assert (os.listdir(units), os.listdir(links)) == (["a.service"], ["a.service"])
    files.put_dropins("a.service", (DROPIN,))
    files.drop("a.service")
    assert (os.listdir(units), os.listdir(links)) == ([], [])


@pytest.mark.parametrize("lost", ["link", "file", "text"])
def test_a_drop_in_that_was_changed_or_removed_on_disk_does_not_read_as_it_was(
    files: UnitFiles, units: Path, links: Path, lost: str
) -> None:
    files.put("a.service", TEXT)
    files.put_dropins("a.service", (DROPIN,))
    file, link = units / "a.service.d/a.conf", links / "a.service.d/a.conf"
    {"link": link.unlink, "file": file.unlink, "text": lambda: file.write_bytes(b"\xff")}[lost]()
    assert files.read_dropins() == ({"a.service": (DropIn("a.conf", "\ufffd"),)} if lost == "text" else {})
    assert files.put_dropins("a.service", (DROPIN,))
    assert files.read_dropins() == {"a.service": (DROPIN,)}


@pytest.mark.parametrize("left", ["link", "file"])
def test_what_a_crash_leaves_of_a_drop_in_goes_with_the_next_write(
    files: UnitFiles, units: Path, links: Path, left: str
) -> None:
    files.put("a.service", TEXT)
    files.put_dropins("a.service", (DROPIN,))
    (units / "a.service.d/a.conf" if left == "link" else links / "a.service.d/a.conf").unlink()
    assert files.put_dropins("a.service", ())
    assert (os.listdir(units), os.listdir(links)) == (["a.service"], ["a.service"])


def test_drop_ins_of_others_are_found_and_left_alone(files: UnitFiles, tmp_path: Path, links: Path) -> None:
    files.put("a.service", TEXT)
    etc = tmp_path / "etc"
    for folder in (etc, links):
        (folder / "a.service.d").mkdir(parents=True)
        (folder / "a.service.d/own.conf").touch()
    (links / "a.service.d/linked.conf").symlink_to("/dev/null")
    search_path = (str(etc), str(links))
    files.put_dropins("a.service", (DROPIN,))
    assert files.foreign_dropin("a.service", "own.conf", search_path) == str(etc / "a.service.d/own.conf")
    assert files.foreign_dropin("a.service", "linked.conf", search_path) == str(links / "a.service.d/linked.conf")
    assert files.foreign_dropin("a.service", "a.conf", search_path) == ""
    assert files.read_dropins() == {"a.service": (DROPIN,)}
    with pytest.raises(OSError, match="File exists"):
        files.put_dropins("a.service", (DropIn("own.conf", ""),))
    files.drop("a.service")
    assert sorted(os.listdir(links / "a.service.d")) == ["linked.conf", "own.conf"]


def test_files_of_others_in_the_runtime_directory_are_left_alone(files: UnitFiles, links: Path) -> None:
    links.mkdir(parents=True)
    (links / "theirs.service").write_text("theirs")
    with pytest.raises(
        ServiceManagerError, match=r"would hide .*/theirs.service, a unit of the system: choose another name"
    ):
        files.put("theirs.service", TEXT)
    files.drop("theirs.service")
    assert (links / "theirs.service").read_text() == "theirs"
    assert files.read() == {}


@pytest.mark.covers("6.1.3", "10.7.5")
def test_undecodable_and_invalid_files_read_as_such(files: UnitFiles, units: Path) -> None:
    files.put("b.service", TEXT)
    (units / "a.service").write_bytes(b"\xff\xfe")
    (units / "notes.txt").write_text("no unit")
    assert list(files.read().items()) == [("a.service", ""), ("b.service", TEXT)]


def test_a_removed_file_takes_its_link_with_it(files: UnitFiles, units: Path, links: Path) -> None:
    files.put("a.service", TEXT)
    files.drop("a.service")
    assert (os.listdir(units), os.listdir(links)) == ([], [])


@pytest.mark.covers("R.7")
def test_a_name_cannot_lead_out_of_the_directory(files: UnitFiles, tmp_path: Path) -> None:
    (tmp_path / "precious.service").write_text("precious")
    with pytest.raises(ServiceManagerError, match="systemd takes no unit of this name"):
        files.put("../../precious.service", TEXT)
    files.drop("../../precious.service")
    assert (tmp_path / "precious.service").read_text() == "precious"


def test_an_announcement_changes_the_time_that_systemd_reads(files: UnitFiles, links: Path) -> None:
    files.put("a.service", TEXT)
    os.utime(links, ns=(1, 1))
    files.touch()
    assert links.stat().st_mtime_ns > 1


def test_units_of_others_and_their_templates_are_found_and_ours_are_not(files: UnitFiles, tmp_path: Path) -> None:
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


@pytest.mark.parametrize(
    ("link", "units"),
    [
        ("multi-user.target.wants/a.service", ("multi-user.target",)),
        ("b@.service.requires/a.service", ("b@.service",)),
        ("alias.service", ("alias.service", "a.service")),
    ],
)
def test_a_link_names_the_units_whose_names_or_dependencies_it_changes(link: str, units: tuple[str, ...]) -> None:
    assert units_of_link(link, "a.service") == units


def test_an_alias_points_to_the_units_link_and_a_dependency_to_its_file(
    files: UnitFiles, units: Path, links: Path
) -> None:
    files.put("a.service", TEXT)
    made = {"b.service": "a.service", "x.target.wants/a.service": "a.service"}
    assert [files.make_link(*each) for each in made.items()] == [True, True]
    assert [files.make_link(*each) for each in made.items()] == [False, False], "they are there already"
    assert os.readlink(links / "b.service") == str(links / "a.service")
    assert os.readlink(links / "x.target.wants" / "a.service") == str(units / "a.service")
    assert files.foreign_path("b.service", [str(links)]) == "", "an alias of ours is ours"
    assert [files.drop_link(*each) for each in made.items()] == [True, True]
    assert [files.drop_link(*each) for each in made.items()] == [False, False]
    assert os.listdir(links) == ["a.service"], "the folder goes with its last link"


def test_a_link_replaces_nothing_that_is_not_fleets(files: UnitFiles, links: Path) -> None:
    files.put("a.service", TEXT)
    (links / "x.target.wants").mkdir()
    for place in ("b.service", "x.target.wants/a.service"):
        (links / place).symlink_to("/lib/systemd/system/theirs.service")
        with pytest.raises(ServiceManagerError, match="is not fleet's; remove it"):
            files.make_link(place, "a.service")
        assert not files.drop_link(place, "a.service")
        assert os.readlink(links / place) == "/lib/systemd/system/theirs.service"


def test_a_units_own_name_comes_before_an_alias(files: UnitFiles, units: Path, links: Path) -> None:
    files.put("a.service", TEXT)
    files.make_link("b.service", "a.service")
    assert files.put("b.service", TEXT) == "a.service"
    assert files.put("b.service", TEXT) == ""
    assert os.readlink(links / "b.service") == str(units / "b.service")
    assert not files.drop_link("b.service", "a.service")
    files.drop("b.service")
    assert os.listdir(links) == ["a.service"]


def test_links_made_by_systemd_for_an_older_fleetd_are_replaced(files: UnitFiles, units: Path, links: Path) -> None:
    files.put("a.service", TEXT)
    (links / "x.target.wants").mkdir()
    old = {"b.service": "a.service", "x.target.wants/gone.service": "gone.service"}
    for link, name in old.items():
        (links / link).symlink_to(units / name)
    (links / "theirs.service").symlink_to("/lib/systemd/system/theirs.service")
    assert files.find_links() == old
    assert files.make_link("b.service", "a.service")
    assert files.find_links() == old, "as it is made now, it is found, too"
    assert os.readlink(links / "b.service") == str(links / "a.service")
    assert files.drop_link("x.target.wants/gone.service", "gone.service")
    assert files.find_links() == {"b.service": "a.service"}


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/", "-.mount"),
        ("/tmp", "tmp.mount"),
        ("/srv/my-data", r"srv-my\x2ddata.mount"),
        ("/mnt/a b", r"mnt-a\x20b.mount"),
        ("/.hidden/.x", r"\x2ehidden-.x.mount"),
        ("/é", r"\xc3\xa9.mount"),
    ],
)
def test_a_mount_units_name_tells_its_mount_point_as_for_systemd_escape(path: str, name: str) -> None:
    assert mount_point(name) == path


def test_a_mount_without_a_unit_file_belongs_to_the_machine(files: UnitFiles) -> None:
    assert files.foreign_path("proc.mount", []) == "the mount of /proc"
    assert files.foreign_path("nothing-is-here.mount", []) == ""
    files.put("proc.mount", "[Mount]\nWhat=proc\nWhere=/proc\n")
    assert files.foreign_path("proc.mount", []) == "", "it is ours"


@pytest.mark.covers("10.4.11")
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
def test_names_are_accepted_as_by_systemd(name: str, is_name: bool, loadable: bool) -> None:
    assert (is_systemd_name(name), is_loadable(name)) == (is_name, loadable)
