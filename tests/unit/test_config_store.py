"""What fleet.conf says of where the records are: a server's etcd, and who may reach it; a worker's servers."""

import re
from pathlib import Path

import pytest

from fleetd.config.config import ConfigError, load_config
from tests.unit.parsed_config import config, notices

WORKER = "role=worker\nservers=https://10.0.0.1:7443, https://[fd00::2]:7443/,\n"


def test_a_worker_knows_its_servers_and_needs_no_etcd() -> None:
    found = config(WORKER + "etcd_servers=http://10.0.0.1:2379\nlisten=/run/a.sock")
    assert (found.is_worker, found.servers) == (True, ("https://10.0.0.1:7443", "https://[fd00::2]:7443"))
    assert not config().is_worker


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("role=worker", "fleet.conf:1: role=worker needs servers=https://HOST:PORT"),
        ("servers=https://m1", "fleet.conf:1: servers has no effect without role=worker"),
        (WORKER + "standalone=true", "fleet.conf:3: standalone is for servers"),
        (WORKER + "peer_listen=:1", "fleet.conf:3: peer_listen is for servers"),
        ("peer_listen=/run/x", "fleet.conf:1: peer_listen: other machines do not reach /run/x; write HOST:PORT"),
        ("peer_listen=https://:1", "only the API (listen=) is served over https"),
        (WORKER + "fleetlock_listen=:1", "fleet.conf:3: fleetlock_listen is for servers"),
        (WORKER + "listen=/run/a.sock,:80", "fleet.conf:3: listen: a worker serves its API on unix sockets only"),
    ],
)
def test_options_that_do_not_fit_the_role_are_refused(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        config(text)


@pytest.mark.covers("5.3.4")
def test_a_key_without_a_certificate_is_an_error() -> None:
    with pytest.raises(ConfigError, match=r"^fleet\.conf:1: etcd_keyfile has no effect without etcd_certfile"):
        config("etcd_keyfile=/k")
    with pytest.raises(ConfigError, match=r"^FLEET_ETCD_CERTFILE: etcd_certfile has no effect without etcd_keyfile"):
        config(environ={"FLEET_ETCD_CERTFILE": "/c"})
    assert config("etcd_keyfile=/k\netcd_certfile=/c").etcd_keyfile == "/k"


SERVER = "etcd_servers=https://etcd.example.org:2379"


@pytest.mark.parametrize(
    "text",
    [
        "etcd_servers=https://10.0.0.1:2379\netcd_username=fleet",
        f"{SERVER}\netcd_keyfile=/k\netcd_certfile=/c",
        "etcd_servers=https://me:pw@10.0.0.1:2379",
        "etcd_servers=http://10.0.0.1:2379\ninsecure_etcd=true",
        f"{SERVER}\ninsecure_etcd=true",
        "etcd_servers=http://[::1]:2379,http://127.8.9.1:1,http://localhost:1",
        "etcd_servers=http://10.0.0.1:2379\nstandalone=true",
    ],
)
def test_a_protected_or_local_etcd_is_accepted(text: str) -> None:
    assert notices(text) == []


@pytest.mark.parametrize(
    ("text", "lacks"),
    [
        ("etcd_servers=http://10.0.0.1:2379", "http://10.0.0.1:2379 is not encrypted"),
        ("etcd_servers=http://10.0.0.1:2379\netcd_username=fleet", "http://10.0.0.1:2379 is not encrypted"),
        ("etcd_servers=http://127.0.0.1:2379,http://[::2]:2379", "http://[::2]:2379 is not encrypted"),
        ("etcd_servers=http://localhost.example.org:2379", "http://localhost.example.org:2379 is not encrypted"),
        ("etcd_servers=http://me:hunter2@10.0.0.1:2379", "http://10.0.0.1:2379 is not encrypted"),
        (SERVER, "https://etcd.example.org:2379 is used with neither a user nor a client certificate"),
        (
            f"{SERVER}\netcd_cafile=/ca",
            "https://etcd.example.org:2379 is used with neither a user nor a client certificate",
        ),
    ],
)
def test_an_etcd_open_to_everyone_is_refused_with_the_remedy(text: str, lacks: str) -> None:
    with pytest.raises(ConfigError) as refused:
        config(text)
    assert str(refused.value).startswith(f"fleet.conf:1: etcd_servers: {lacks}")
    assert "and anyone who writes to etcd is root on every machine: use https://" in str(refused.value)
    assert "insecure_etcd=true" in str(refused.value)
    assert "hunter2" not in str(refused.value)


def test_no_message_about_the_configuration_has_a_password() -> None:
    for text in ("etcd_servers=ftp://me:hunter2@10.0.0.1", "etcd_password hunter2", "etcd_password: hunter2"):
        with pytest.raises(ConfigError) as refused:
            config(text)
        assert "hunter2" not in str(refused.value)


def test_a_user_in_the_url_conflicts_with_another_user() -> None:
    with pytest.raises(ConfigError, match=r"^fleet\.conf:1: etcd_servers: https://10.0.0.1:2379 is given with a user"):
        config("etcd_servers=https://me:pw@10.0.0.1:2379\netcd_username=fleet")


def test_a_password_readable_by_all_local_users_is_noted_with_the_remedy(tmp_path: Path) -> None:
    path = tmp_path / "fleet.conf"
    path.write_text("etcd_servers=https://me:pw@10.0.0.1:2379\netcd_password=secret\n")
    path.chmod(0o644)
    _, noted = load_config(str(path), {}, {})
    assert [str(notice) for notice in noted] == [
        f"{path}:{line}: {name} holds a password, and every local user can read it: "
        f"chown root:fleet {path}; chmod 640 {path}"
        for line, name in ((1, "etcd_servers"), (2, "etcd_password"))
    ]
    path.chmod(0o640)
    assert load_config(str(path), {}, {})[1] == []
    path.write_text("# etcd_password=secret\netcd_password=\n")
    path.chmod(0o644)
    assert load_config(str(path), {"FLEET_ETCD_PASSWORD": "secret"}, {})[1] == []


def test_the_password_may_come_from_a_systemd_credential(tmp_path: Path) -> None:
    path, credentials = tmp_path / "fleet.conf", {"CREDENTIALS_DIRECTORY": str(tmp_path)}
    path.write_text("etcd_password=of the file\n")
    path.chmod(0o600)
    assert load_config(str(path), credentials, {})[0].etcd_password == "of the file"
    (tmp_path / "etcd_password").write_text(" hunter2;#\n")
    assert load_config(str(path), credentials, {})[0].etcd_password == " hunter2;#"
    stronger = {**credentials, "FLEET_ETCD_PASSWORD": "variable"}
    assert load_config(str(path), stronger, {})[0].etcd_password == "variable"
    (tmp_path / "etcd_password").write_bytes(b"\xff")
    with pytest.raises(ConfigError, match=f"^Unable to use the credential {tmp_path}/etcd_password"):
        load_config(str(path), credentials, {})
