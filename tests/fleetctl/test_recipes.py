"""The recipes of contrib: what they refer to exists, and what they contain is valid."""

import re
import subprocess
import textwrap
import tomllib
from pathlib import Path

import pytest

from fleetd import metrics
from fleetd.config.config import parse_config
from fleetd.model.quadlet.words import split_words
from fleetd.model.unitfile import list_values, parse_unit_file

CONTRIB = Path(__file__).parents[2] / "contrib"


def test_alerts_use_only_metrics_that_fleetd_has() -> None:
    rules = (CONTRIB / "prometheus/fleet-rules.yml").read_text()
    expressions = re.findall(r"expr: (.*)", rules)
    named = {name for expression in expressions for name in re.findall(r"\bfleet_\w+", expression)}
    known = set(re.findall(r"^# TYPE (\w+)", metrics.render().decode(), re.MULTILINE))
    assert len(expressions) == rules.count("- alert:") == rules.count("summary:")
    assert named
    assert named <= known


def written_file(path: str) -> str:
    """The content that the cloud-init recipe writes to a path."""
    text = (CONTRIB / "cloud-init/user-data").read_text()
    block = re.search(rf"path: {re.escape(path)}\n.*\n    content: \|\n((?:      .*\n|\n)+)", text)
    assert block is not None
    return textwrap.dedent(block[1])


def test_the_configuration_of_cloud_init_is_valid() -> None:
    config, notices = parse_config(written_file("/etc/fleet/fleet.conf"), "fleet.conf", {}, {})
    assert notices == []
    assert config.metadata == {"disk": "ssd", "region": "eu"}


@pytest.fixture
def stubs(tmp_path: Path) -> Path:
    """Programs that only record their arguments, and what they read."""
    directory = tmp_path / "bin"
    directory.mkdir()
    for name in ("apt-get", "curl", "fleetd", "sha256sum"):
        reads = "$(cat)" if name in ("fleetd", "sha256sum") else ""
        (directory / name).write_text(f'#!/bin/sh\necho {name} "$@" "{reads}" >>{tmp_path}/calls\n')
        (directory / name).chmod(0o755)
    return directory


def test_the_script_of_cloud_init_checks_and_installs_the_package_and_joins_with_the_token(
    stubs: Path, tmp_path: Path
) -> None:
    token = tmp_path / "join-token"
    token.write_text("fleet1-a-b\n")
    script = written_file("/usr/local/sbin/join-fleet").replace("/etc/fleet/join-token", str(token))
    command = ["sh", "-c", script, "join-fleet", "https://example.com/fleet.deb", "5ha", "https://10.0.0.1:7443"]
    environment = {"PATH": f"{stubs}:/usr/bin:/bin", "TMPDIR": str(tmp_path)}
    subprocess.run(command, env=environment, check=True, capture_output=True)
    calls = [re.sub(rf"{tmp_path}/tmp\.\w+", "FOLDER", call) for call in (tmp_path / "calls").read_text().splitlines()]
    assert [call.rstrip() for call in calls] == [
        "curl --fail --silent --show-error --location --retry 5 --output FOLDER/fleet.deb https://example.com/fleet.deb",
        "sha256sum --check --quiet 5ha  FOLDER/fleet.deb",
        "apt-get install --yes --option Dpkg::Options::=--force-confold FOLDER/fleet.deb",
        "fleetd join https://10.0.0.1:7443 - fleet1-a-b",
    ]
    assert not token.exists()


def test_the_readme_of_contrib_names_files_that_exist() -> None:
    table = (CONTRIB / "README.md").read_text().partition("\n\n##")[0]
    named = [name for row in table.splitlines() if row.startswith("| `") for name in row.split("|")[1].split("`")[1::2]]
    assert len(named) > 8
    assert [name for name in named if not (CONTRIB / name).exists()] == []


def locked() -> dict[str, str]:
    """Package → version in the lock file."""
    text = (CONTRIB.parent / "requirements.lock").read_text()
    return dict(re.findall(r"^([a-z0-9-]+)==([0-9][^ ;]*)", text, re.MULTILINE))


def test_the_lock_has_every_dependency_with_its_hash() -> None:
    project = tomllib.loads((CONTRIB.parent / "pyproject.toml").read_text())
    extras = project["project"]["optional-dependencies"]
    built = project["build-system"]["requires"]
    needed = [*project["project"]["dependencies"], *extras["speed"], *extras["top"], *built]
    bounds = dict(requirement.split(">=") for requirement in needed)
    versions = locked()
    assert {name for name in bounds if name not in versions} == set()
    for name, lowest in bounds.items():
        assert as_numbers(versions[name]) >= as_numbers(lowest), name
    blocks = re.split(r"^(?=[a-z0-9-]+==)", (CONTRIB.parent / "requirements.lock").read_text(), flags=re.MULTILINE)[1:]
    assert len(blocks) == len(versions)
    assert [block.split()[0] for block in blocks if "--hash=sha256:" not in block] == []


def test_the_lock_contains_no_url() -> None:
    assert "://" not in (CONTRIB.parent / "requirements.lock").read_text()


def as_numbers(version: str) -> list[int]:
    return [int(part) for part in re.findall(r"\d+", version)]


def test_the_service_is_confined() -> None:
    unit = CONTRIB.parent / "units/fleet.service"
    check = ["systemd-analyze", "security", "--offline=true", "--no-pager", "--threshold=29", str(unit)]
    judged = subprocess.run(check, capture_output=True, text=True)
    assert judged.returncode == 0, judged.stdout + judged.stderr


def test_the_script_that_is_told_events_writes_each_as_it_is(tmp_path: Path) -> None:
    event = r'{"kind":"lost","detail":"a\n<3>forged \033[2J"}'
    (tmp_path / "fleetctl").write_text(f"#!/bin/sh\nprintf '%s\\n' '{event}'\n")
    (tmp_path / "fleetctl").chmod(0o755)
    options = parse_unit_file((CONTRIB.parent / "units/on-events.service").read_text())
    [command] = list_values(options, "Service", "ExecStart")
    words = [word.replace("%%", "%") for word in split_words(command)]
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "STATE_DIRECTORY": str(tmp_path)}
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == f"call somebody: {event}\n"
