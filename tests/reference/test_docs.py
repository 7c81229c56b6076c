"""The files, links, commands, options, metrics and messages that docs/ and other pages cite exist."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import click
import pytest

from fleetctl.cli import root
from fleetctl.command_line import Command
from fleetctl.commands import SUMMARIES
from fleetctl.settings import GLOBAL_OPTIONS
from fleetd import metrics
from fleetd.__main__ import build_parser
from fleetd.config.options import OPTIONS, RETIRED

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    [
        *ROOT.glob("docs/**/*.md"),
        *(ROOT / name for name in ("README.md", "contrib/README.md", "CONTRIBUTING.md", "SECURITY.md")),
    ],
)
TEXTS = {str(page.relative_to(ROOT)): page.read_text() for page in PAGES}
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
CODE = re.compile(r"`([^`\n]+)`")
PATH = re.compile(r"(?:fleetd|fleetctl|contrib|tests|docs|units)/[\w./*-]*")
OPTION = re.compile(r"((?:agent|etcd(?!_disk)|max|parked|token)_\w+)(?:=.*)?")
FLAGS = {"-h", "--help", "-v", "--version", "--"}


def spans(text: str) -> Iterator[str]:
    """The code spans of a page, and each line of its shell examples."""
    for language, block in FENCE.findall(text):
        if language in ("sh", "console"):
            yield from (line.partition(" # ")[0].removeprefix("$ ").strip() for line in block.splitlines())
    yield from CODE.findall(FENCE.sub("", text))


@pytest.fixture(params=TEXTS, ids=str)
def text(request: pytest.FixtureRequest) -> str:
    return TEXTS[request.param]


def test_cited_files_exist(text: str) -> None:
    cited = [span for span in spans(text) if PATH.fullmatch(span)]
    assert [path for path in cited if not list(ROOT.glob(path.rstrip("/")))] == []
    modules = {span for span in spans(text) if re.fullmatch(r"\w+\.py", span)}
    known = {path.name for root in ("fleetd", "fleetctl", "contrib") for path in (ROOT / root).rglob("*.py")}
    assert modules - known == set()


def test_links_lead_to_files_that_exist(text: str) -> None:
    folder = next(page for page in PAGES if page.read_text() == text).parent
    links = re.findall(r"\]\(([^)\s]+)\)", FENCE.sub("", text))
    assert [link for link in links if "://" not in link and not (folder / link.partition("#")[0]).exists()] == []


def test_cited_commands_and_their_options_exist(text: str) -> None:
    assert [span for span in spans(text) if span.startswith("fleetctl ") and not is_fleetctl_command(span)] == []
    daemon = {option for action in build_parser()._actions for option in action.option_strings}
    for span in spans(text):
        if span.startswith("fleetd ") and not re.fullmatch(r"fleetd join( https://\S+ \S+)?", span):
            assert all(word in {"leave", "version"} | daemon for word in span.split()[1:]), span


def is_fleetctl_command(line: str) -> bool:
    """True if fleetctl has this command, and it or all commands have these options."""
    words = [word for word in line.partition("|")[0].split()[1:] if word != "…"]
    names = [word for word in words if word in SUMMARIES]
    options = {f"--{option.name.replace('_', '-')}" for option in GLOBAL_OPTIONS} | FLAGS
    if names:
        command = root.get_command(click.Context(root), names[0])
        assert isinstance(command, Command)
        options |= {spelling for option in command.own_params for spelling in option.opts}
    elif not any(word.startswith("-") for word in words):
        return words == ["COMMAND"]
    return all(word.partition("=")[0] in options for word in words if word.startswith("-"))


def test_cited_make_targets_and_modules_exist(text: str) -> None:
    makefile = (ROOT / "Makefile").read_text()
    for span in spans(text):
        if found := re.match(r"make ([a-z]+)", span):
            assert re.search(rf"^{found[1]}:", makefile, re.MULTILINE), span
        if found := re.search(r"python3? -m (contrib[\w.]*)", span):
            assert find_spec(found[1]), span


def test_cited_configuration_options_exist(text: str) -> None:
    known = {option.name for option in OPTIONS}.union(RETIRED)
    named = {found[1] for span in spans(text) if (found := OPTION.fullmatch(span))}
    assert named - known == set()


def test_cited_metrics_exist(text: str) -> None:
    known = set(re.findall(r"^(?:# TYPE )?(fleet_\w+)", metrics.render().decode(), re.MULTILINE))
    named = {found[0] for span in spans(text) if (found := re.match(r"fleet_\w+", span))}
    assert named - known == set()


@cache
def patterns() -> tuple[re.Pattern[str], ...]:
    """All string literals of the programs, with `.+` where a value is filled in."""
    found = []
    for module in sorted([*ROOT.glob("fleetd/**/*.py"), *ROOT.glob("fleetctl/**/*.py")]):
        for node in ast.walk(ast.parse(module.read_text())):
            parts = node.values if isinstance(node, ast.JoinedStr) else [node]
            texts = [part.value if isinstance(part, ast.Constant) else "%s" for part in parts]
            if all(isinstance(one, str) for one in texts) and len(literal := "".join(map(str, texts))) > 12:
                found.append(re.compile(re.sub("%[sdr]", ".+", re.escape(literal)).replace(r"\ ", " ")))
    return tuple(found)


def test_cited_messages_are_those_of_the_programs(text: str) -> None:
    cited = [line for language, block in FENCE.findall(text) if language == "text" for line in block.splitlines()]
    assert [line for line in cited if not any(pattern.fullmatch(line) for pattern in patterns())] == []


@pytest.mark.long
def test_the_web_pages_are_built_without_a_warning(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-b", "html", "-d", str(tmp_path / "trees")]
    done = subprocess.run([*command, str(ROOT / "docs"), str(tmp_path)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
