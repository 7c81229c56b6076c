"""The man pages: rendered by Sphinx from docs/man, accepted by groff without a warning, complete, and packaged."""

import re
import subprocess
import sys
import zipfile
from pathlib import Path

import click
import pytest

from contrib.man.generated import FIELDS, LISTINGS, fill_in, mark, options_of
from contrib.man.render import render_pages
from fleetctl.cli import root
from fleetctl.command_line import Command
from fleetctl.commands import HIDDEN, SUMMARIES
from fleetctl.settings import GLOBAL_OPTIONS
from fleetd.__main__ import build_parser
from fleetd.config.options import OPTIONS, RETIRED
from fleetd.model.fleet_options import OPTIONS as FLEET_OPTIONS

ROOT = Path(__file__).parents[2]
PAGES = ROOT / "contrib/man"


def read_page(path: Path) -> str:
    """The text of a page, its lines unwrapped. Fails on any warning of groff."""
    command = ["groff", "-Tutf8", "-Kutf8", "-P-cbou", "-man", "-ww", "-rLL=2000n", "-rHY=0", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return done.stdout


@pytest.fixture(scope="module")
def texts() -> dict[str, str]:
    """The text of each page in the repository, by file name."""
    return {path.name: read_page(path) for path in sorted(PAGES.glob("man*/*"))}


def test_the_pages_are_up_to_date(texts: dict[str, str], tmp_path: Path) -> None:
    rendered = {path.name: read_page(path) for path in render_pages(tmp_path)}
    assert rendered == texts, "run `make man`, and commit the pages"


def test_each_of_four_pages_has_its_name_and_purpose(texts: dict[str, str]) -> None:
    assert sorted(texts) == ["fleet.conf.5", "fleet.unit.5", "fleetctl.1", "fleetd.8"]
    for file, text in texts.items():
        assert re.search(rf"^NAME\n +{re.escape(file[:-2])} - [a-z]", text, re.MULTILINE)
        assert "\nDIFFERENCES FROM COREOS FLEET\n" in text
        assert "\\" not in text


def test_fleetctl_1_has_every_command_with_its_options(texts: dict[str, str]) -> None:
    text = texts["fleetctl.1"]
    for name in set(SUMMARIES) - HIDDEN:
        command = root.get_command(click.Context(root), name)
        assert isinstance(command, Command)
        [part] = [part for part in re.split(r"\n   (?=\w)", text) if part.split(maxsplit=1)[0] == name]
        assert f"{SUMMARIES[name]}." in part
        assert " ".join((command.help or "").split("\n\n")[0].split()) in part
        for option in command.own_params:
            if isinstance(option, click.Option) and not option.hidden:
                assert ", ".join(option.opts) in part


def test_fleetctl_1_has_every_global_option(texts: dict[str, str]) -> None:
    part = texts["fleetctl.1"].partition("GLOBAL OPTIONS")[2].partition("\nOUTPUT")[0]
    spelled = re.findall(r"^       (--[a-z-]+)", part, re.MULTILINE)
    assert spelled == [f"--{option.name.replace('_', '-')}" for option in GLOBAL_OPTIONS] + ["--help", "--version"]


def test_fleetctl_1_explains_every_field_of_every_list() -> None:
    known = {field for listing in LISTINGS.values() for field in [*listing.columns, *listing.values]}
    assert known == set(FIELDS)


def test_fleetctl_1_shows_the_json_that_the_lists_print(texts: dict[str, str]) -> None:
    for name, listing in LISTINGS.items():
        part = texts["fleetctl.1"].partition(f"Objects of {name}\n")[2]
        listed = re.findall(r"^       ([a-z_]+)\b", re.split(r"\n   ?\S|\n[A-Z]", part)[0], re.MULTILINE)
        assert listed == list(listing.values)


def test_fleet_conf_5_has_every_option_with_its_default(texts: dict[str, str]) -> None:
    text = texts["fleet.conf.5"]
    for option in OPTIONS:
        part = text.partition(f"       {option.name}=")[2].partition("\n\n")[0]  # a short name has the text beside it
        assert option.meaning in part
        assert f"Default: {option.default or 'empty'}." in part
    for name in RETIRED:
        assert f"{name}=" in text


def test_fleetd_8_has_every_option_of_the_command_line(texts: dict[str, str]) -> None:
    for action in options_of(build_parser()):
        assert ", ".join(action.option_strings) in texts["fleetd.8"]


def test_fleet_unit_5_has_all_of_the_table_of_options(texts: dict[str, str]) -> None:
    for option in FLEET_OPTIONS:
        part = texts["fleet.unit.5"].partition(f"       {option.name}={option.syntax}\n")[2].partition("\n\n")[0]
        for word in (*option.deprecated, *option.excludes):
            assert word in part


def test_help_texts_are_escaped_for_markdown() -> None:
    assert mark("*x* [y](z) <b> `a_*b`\n{UNIT} a_b") == r"\*x\* \[y\](z) \<b\> `a_*b` *UNIT* a\_b"


def test_a_page_with_an_unknown_placeholder_is_refused() -> None:
    with pytest.raises(KeyError, match="no-such-part"):
        fill_in("{{ no-such-part }}")


def test_the_package_contains_manuals_completions_and_the_web_page(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    [wheel] = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        shared = {name.partition(".data/data/share/")[2] for name in archive.namelist() if ".data/" in name}
        page = next(name for name in archive.namelist() if name.endswith("man8/fleetd.8"))
        assert b'.TH "FLEETD" "8"' in archive.read(page)
        web_page = {name.removeprefix("fleetd/ui/") for name in archive.namelist() if name.startswith("fleetd/ui/")}
    assert web_page == {path.name for path in (ROOT / "fleetd/ui").iterdir()}
    assert shared == {
        "bash-completion/completions/fleetctl",
        "fish/vendor_completions.d/fleetctl.fish",
        "man/man1/fleetctl.1",
        "man/man5/fleet.conf.5",
        "man/man5/fleet.unit.5",
        "man/man8/fleetd.8",
        "zsh/site-functions/_fleetctl",
    }
