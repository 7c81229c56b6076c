"""The fleetd of one user: its files, its configuration and its ids."""

import os
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleetd.__main__ import main
from fleetd.config.config import USER_FLAG, load_config
from fleetd.model.user_instance import find_user_paths, user_boot_id, user_machine_id
from fleetd.process.identity import begin_boot

MACHINE = "ae7be26cdaa742ca148068d5ac90eaca"
BOOT = "7ab4a153-2c73-4ae4-9ff4-d2bb26c0d3a3"
USER = {USER_FLAG: "true"}
ids = st.text("0123456789abcdef", min_size=32, max_size=32)
users = st.integers(0, 2**32 - 1)


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, ("/run/user/1000", "/home/ann/.local/state/fleet", "/home/ann/.config/fleet")),
        ({"XDG_RUNTIME_DIR": "/run/ann/", "XDG_STATE_HOME": "/s"}, ("/run/ann", "/s/fleet", "/home/ann/.config/fleet")),
        (
            {"XDG_RUNTIME_DIR": "run", "XDG_CONFIG_HOME": "/etc/ann", "XDG_STATE_HOME": ""},
            ("/run/user/1000", "/home/ann/.local/state/fleet", "/etc/ann/fleet"),
        ),
    ],
)
def test_a_users_files_are_where_the_xdg_variables_say(environ: Mapping[str, str], expected: tuple[str, ...]) -> None:
    paths = find_user_paths(environ, 1000, "/home/ann")
    assert (paths.runtime, paths.state, paths.config) == expected
    assert (paths.socket, paths.bus) == (f"{expected[0]}/fleet.sock", f"{expected[0]}/bus")


@given(ids, users, users)
def test_users_and_the_machine_have_ids_of_their_own(machine: str, one: int, other: int) -> None:
    found = user_machine_id(machine, one)
    assert found == user_machine_id(machine, one)
    assert found != machine
    assert (found == user_machine_id(machine, other)) is (one == other)
    assert len(found) == 32
    assert int(found, 16) >= 0


def test_the_id_of_a_user_never_changes() -> None:
    """A cluster would take the machine for another one after an update of fleet."""
    assert user_machine_id(MACHINE, 1000) == "d38b0bfb1243bab382b6f679e7409b07"


def test_each_run_of_a_users_systemd_is_a_boot_of_its_own() -> None:
    assert user_boot_id(BOOT, 17) == user_boot_id(BOOT, 17)
    assert len({BOOT, user_boot_id(BOOT, 17), user_boot_id(BOOT, 18), user_boot_id(BOOT[::-1], 17)}) == 4


def environ_of(folder: Path) -> dict[str, str]:
    variables = {"XDG_RUNTIME_DIR": "run", "XDG_STATE_HOME": "state", "XDG_CONFIG_HOME": "config"}
    return {name: str(folder / value) for name, value in variables.items()}


def write_config(folder: Path, text: str) -> Path:
    path = folder / "config/fleet/fleet.conf"
    path.parent.mkdir(parents=True)
    path.write_text(text)
    path.chmod(0o644)
    return path


def test_without_a_configuration_a_users_fleetd_is_a_cluster_of_its_own(tmp_path: Path) -> None:
    config, notices = load_config(None, environ_of(tmp_path), USER, default_path="/nowhere")
    assert notices == []
    assert (config.systemd_user, config.standalone) == (True, True)
    assert config.standalone_path == f"{tmp_path}/state/fleet/fleet.db"
    assert config.units_directory == f"{tmp_path}/run/fleet/units/"
    assert config.of_cluster == {}


@pytest.mark.parametrize(
    ("text", "is_alone"),
    [
        ("", True),
        ("metadata=a=b", True),
        ("etcd_servers=http://127.0.0.1:2379", False),
        ("etcd_servers=http://127.0.0.1:2379\nstandalone=true", True),
        ("standalone=false", False),
        ("systemd_user=false", True),  # the flag counts
    ],
)
def test_a_users_configuration_may_name_an_etcd(tmp_path: Path, text: str, is_alone: bool) -> None:
    write_config(tmp_path, text)
    config, _ = load_config(None, environ_of(tmp_path), USER)
    assert (config.systemd_user, config.standalone) == (True, is_alone)


def test_without_the_flag_nothing_is_taken_from_the_user(tmp_path: Path) -> None:
    write_config(tmp_path, "metadata=a=b")
    config, _ = load_config(None, environ_of(tmp_path), {}, default_path=str(tmp_path / "none"))
    assert (config.metadata, config.systemd_user, config.standalone) == ({}, False, False)
    assert config.standalone_path == "/var/lib/fleet/fleet.db"


@pytest.mark.parametrize(
    ("owner", "remedy"), [(1000, "chmod 600 {path}"), (0, "chown root:fleet {path}; chmod 640 {path}")]
)
def test_a_password_that_others_can_read_is_told_with_the_remedy_of_its_owner(
    tmp_path: Path, owner: int, remedy: str
) -> None:
    path = write_config(tmp_path, "etcd_password=secret\netcd_username=ann")
    try:
        os.chown(path, owner, -1)
    except PermissionError:
        pytest.skip("only root can give files away")
    _, (notice,) = load_config(None, environ_of(tmp_path), USER)
    assert str(notice).endswith(f"every local user can read it: {remedy.format(path=path)}")


def test_what_outlives_fleetd_goes_with_the_boot(tmp_path: Path) -> None:
    folder = tmp_path / "ledger"
    begin_boot(folder, "one")
    (folder / "started").mkdir()
    begin_boot(folder, "one")
    assert (folder / "started").exists()
    begin_boot(folder, "other")
    assert not (folder / "started").exists()
    (folder / "boot").unlink()
    (folder / "store").touch()
    begin_boot(folder, "other")
    assert [path.name for path in folder.iterdir()] == ["boot"]


def test_a_machine_joins_for_all_of_its_users(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--user", "join", "https://127.0.0.1:1", "fleet1-a-b"], {}) == 1
    assert capsys.readouterr().err.startswith("fleetd: join makes this machine a worker, for all of its users")
