"""fleet.conf, FLEET_* variables and flags: their values, and the messages about unusable ones."""

import math
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleetd.config.config import Config, ConfigError, load_config, parse_config, render_sample
from fleetd.config.options import OPTIONS
from fleetd.config.values import Address, parse_address, parse_duration
from fleetd.model.permission import parse_rights
from tests.unit.parsed_config import config, notices

SAMPLE = Path(__file__).parents[2] / "contrib" / "fleet.conf"
RETIRED = ("engine_reconcile_interval", "enable_grpc", "disable_watches", "verify_units", "authorized_keys_file")

NO_SERVER = "is not the URL of a fleet server; write https://HOST:PORT"
NO_ADDRESS = (
    "is not an address to listen on; write /PATH, HOST:PORT, [IPV6]:PORT or :PORT, or one of these after https://"
)


def test_every_field_has_its_option() -> None:
    assert sorted([*(option.field for option in OPTIONS), "of_cluster", "roles"]) == sorted(Config.__struct_fields__)


@pytest.mark.covers(
    "5.3.1", "5.3.2", "5.3.3", "5.3.4", "5.3.5", "5.3.6", "5.3.8", "5.3.10", "5.3.11", "5.3.12", "9.9", "9.11"
)
def test_without_any_setting_the_defaults_hold_without_notes() -> None:
    assert notices() == []
    assert config() == Config(
        verbosity=0,
        role="server",
        servers=(),
        etcd_servers=("http://127.0.0.1:2379", "http://127.0.0.1:4001"),
        insecure_etcd=False,
        etcd_username="",
        etcd_password="",
        etcd_keyfile="",
        etcd_certfile="",
        etcd_cafile="",
        etcd_key_prefix="/fleet/",
        etcd_request_timeout_s=1.0,
        etcd_compact=True,
        public_ip="",
        metadata={},
        accept=(),
        confine=False,
        registry_auth_file="",
        agent_ttl_s=10.0,
        parked_ttl_s=math.inf,
        failover_delay_s=0.0,
        rerun_after_failover=False,
        handover_timeout_s=30.0,
        shutdown_timeout_s=60.0,
        units_directory="/run/fleet/units/",
        systemd_user=False,
        token_limit=100,
        disable_engine=False,
        standalone=False,
        standalone_path="/var/lib/fleet/fleet.db",
        listen=(),
        max_units=50_000,
        max_units_bytes=64 * 1024 * 1024,
        reboot_window=(),
        reboot_slots=1,
        reboot_when_required=False,
        insecure=False,
        allowed_hosts=frozenset(),
        metrics_listen=(),
        peer_listen=(),
        fleetlock_listen=(),
        dns_listen=(),
        dns_domain="fleet.internal",
        of_cluster={},
        roles={},
    )


def test_the_sample_file_has_every_option_with_its_default() -> None:
    assert SAMPLE.read_text() == render_sample()


def test_roles_are_given_to_groups_by_name() -> None:
    found = config("role.web-team=operate:web-*,submit:web-*\nrole.Ops=operate\n").roles
    assert found == {"web-team": parse_rights("operate:web-*,submit:web-*"), "Ops": parse_rights("operate")}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("role.web-team=run:web-*", "fleet.conf:1: role.web-team: 'run' is no permission; write one of view, operate"),
        ("role.fleet=view", "fleet.conf:1: role.fleet: the rights of the group fleet are fixed"),
        ("role.=view", "fleet.conf:1: role.: '' is not the name of a group"),
    ],
)
def test_an_invalid_role_is_named_with_its_line(line: str, message: str) -> None:
    with pytest.raises(ConfigError, match="^" + re.escape(message)):
        config(line)


def test_the_sample_file_uncommented_changes_nothing() -> None:
    uncommented = "\n".join(f"{option.name}={option.default}" for option in OPTIONS)
    assert config(uncommented) == config()
    assert notices(uncommented) == []


@pytest.mark.covers("5.2.1", "5.2.3", "5.3.8")
@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("etcd_username=10.0.0.1", "10.0.0.1"),
        ("ETCD_USERNAME = 10.0.0.1", "10.0.0.1"),
        ("  etcd_username=10.0.0.1  ", "10.0.0.1"),
        ('etcd_username="10.0.0.1"', "10.0.0.1"),
        ("etcd_username='10.0.0.1'", "10.0.0.1"),
        ("etcd_username=10.0.0.1 # mine", "10.0.0.1"),
        ("etcd_username=10.0.0.1;mine", "10.0.0.1"),
        ('etcd_username="a#b;c"', "a#b;c"),
        ("etcd_username=", ""),
        ("etcd_username=#none", ""),
        ("etcd_username=10.0.\\\n0.1", "10.0.0.1"),
        ("etcd_username=10.0.\\\n   0.1", "10.0.0.1"),
        ("etcd_username=1\netcd_username=2", "2"),
        ("# etcd_username=1\n; etcd_username=2", ""),
        ("# a comment \\\netcd_username=1", "1"),
        ("etcd_username=10.0.0.1\r\n", "10.0.0.1"),
        ("\ufeffetcd_username=1", "1"),
        ("etcd_username=1\\", "1"),
        ("etcd_username=a=b", "a=b"),
    ],
)
def test_a_line_is_read_as_coreos_fleet_reads_it(line: str, value: str) -> None:
    assert config(line).etcd_username == value


@pytest.mark.covers("5.2.1")
def test_quotes_followed_by_text_belong_to_the_value_and_are_noted() -> None:
    assert config('etcd_username="1" # x').etcd_username == '"1"'
    assert notices('etcd_username="1" # x') == [
        "fleet.conf:1: the quotes are part of the value, because text follows them",
    ]


@pytest.mark.covers("5.2.1")
def test_options_in_a_section_are_ignored_and_noted() -> None:
    text = "etcd_username=1\n[Service]\netcd_username=2\n"
    assert config(text).etcd_username == "1"
    assert notices(text) == ["fleet.conf:3: etcd_username is in section [Service] and is ignored"]


@pytest.mark.covers("5.2.3")
def test_an_unknown_option_is_noted_with_its_line() -> None:
    assert notices("\nagent_tll=3s") == ["fleet.conf:2: unknown option 'agent_tll' is ignored"]


def test_an_unknown_variable_is_noted_by_name() -> None:
    assert notices(environ={"FLEET_AGENT_TLL": "3s", "FLEETCTL_ENDPOINT": "x", "HOME": "/"}) == [
        "FLEET_AGENT_TLL: unknown option 'agent_tll' is ignored"
    ]


@pytest.mark.covers("5.3.7", "5.3.14", "5.3.16", "5.3.17", "5.3.18", "10.7.15")
@pytest.mark.parametrize("name", RETIRED)
def test_a_retired_option_is_accepted_and_noted(name: str) -> None:
    assert config(f"{name}=whatever") == config()
    (notice,) = notices(f"{name}=whatever")
    assert notice.startswith(f"fleet.conf:1: {name} has no effect any more: ")


@pytest.mark.covers("5.2.5", "5.3.1", "5.3.2", "5.3.6", "5.3.9", "5.3.10", "5.3.12", "5.3.13", "5.3.15")
@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("verbosity", "2", 2),
        ("etcd_servers", '["http://127.0.0.2:1", "http://localhost:2"]', ("http://127.0.0.2:1", "http://localhost:2")),
        ("etcd_servers", "http://[::1]:2379", ("http://[::1]:2379",)),
        ("etcd_request_timeout", "2.5", 2.5),
        ("etcd_request_timeout", "3", 3.0),
        ("etcd_compact", "false", False),
        ("public_ip", "10.0.0.1", "10.0.0.1"),
        ("max_units_bytes", "500", 500),
        ("max_units_bytes", "2K", 2048),
        ("max_units_bytes", "1G", 1 << 30),
        ("allowed_hosts", "M1.example, m2,", frozenset({"m1.example", "m2"})),
        ("metrics_listen", "/run/m.sock,:9353", (Address(path="/run/m.sock"), Address(port=9353))),
        ("fleetlock_listen", "10.0.0.1:2381", (Address(host="10.0.0.1", port=2381),)),
        ("dns_listen", "127.0.0.1:8600,[::1]:53", (Address(host="127.0.0.1", port=8600), Address("", "::1", 53))),
        ("dns_domain", "Cluster-1.Example.ORG.", "cluster-1.example.org"),
        ("public_ip", "fe80::1%eth0", "fe80::1%eth0"),
        ("public_ip", "m1.example.org", "m1.example.org"),
        ("metadata", "a=b, c = d=e ,a=f,", {"a": "f", "c": "d=e"}),
        ("agent_ttl", "1m30s", 90.0),
        ("agent_ttl", "1500ms", 1.5),
        ("agent_ttl", "1.5h", 5400.0),
        ("parked_ttl", "1h", 3600.0),
        ("parked_ttl", "infinity", math.inf),
        ("handover_timeout", "0s", 0.0),
        ("failover_delay", "5min 30s", 330.0),
        ("failover_delay", "infinity", math.inf),
        ("rerun_after_failover", "true", True),
        ("systemd_user", "T", True),
        ("token_limit", "65535", 65535),
        ("disable_engine", "True", True),
        ("listen", "", ()),
        ("listen", "/run/a.sock, unix:///run/b.sock", (Address(path="/run/a.sock"), Address(path="/run/b.sock"))),
        (
            "listen",
            "127.0.0.1:80,[::1]:81,:82",
            (Address("", "127.0.0.1", 80), Address("", "::1", 81), Address(port=82)),
        ),
        (
            "listen",
            "https://:7443, https://m1.example.com:1/,https://[::1]:81",
            (
                Address(port=7443, tls=True),
                Address("", "m1.example.com", 1, tls=True),
                Address("", "::1", 81, tls=True),
            ),
        ),
    ],
)
def test_a_valid_value_is_read(name: str, text: str, value: object) -> None:
    field = next(option.field for option in OPTIONS if option.name == name)
    assert getattr(config(environ={f"FLEET_{name.upper()}": text}), field) == value


@pytest.mark.covers("5.2.5", "5.2.6", "5.3.10", "5.3.11", "5.4.1", "10.7.4")
@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("verbosity", "much", "'much' is not a whole number from 0 to 9"),
        ("verbosity", "", "'' is not a whole number from 0 to 9"),
        ("token_limit", "0", "'0' is not a whole number from 1 to 65535"),
        ("token_limit", "65536", "'65536' is not a whole number from 1 to 65535"),
        ("token_limit", "1e3", "'1e3' is not a whole number from 1 to 65535"),
        (
            "etcd_request_timeout",
            "1s",
            "'1s' is not a number of seconds above zero; write one without a unit, like 1.0",
        ),
        (
            "etcd_request_timeout",
            "nan",
            "'nan' is not a number of seconds above zero; write one without a unit, like 1.0",
        ),
        (
            "etcd_request_timeout",
            "-1",
            "'-1' is not a number of seconds above zero; write one without a unit, like 1.0",
        ),
        (
            "public_ip",
            "x;touch /tmp/y",
            "'x;touch /tmp/y' is neither an IP address nor a host name; leave it empty to detect one",
        ),
        (
            "public_ip",
            "10.0.0.1:22",
            "'10.0.0.1:22' is neither an IP address nor a host name; leave it empty to detect one",
        ),
        (
            "dns_listen",
            ":8600",
            "':8600' is no IP address with a port; write one like 127.0.0.1:8600",
        ),
        (
            "dns_listen",
            "/run/dns",
            "'/run/dns' is no IP address with a port; write one like 127.0.0.1:8600",
        ),
        (
            "dns_listen",
            "[::]:8600",
            "'[::]:8600' is every address: an answer could come from another one than was asked; name those at which "
            "to answer, separated by commas",
        ),
        *(
            (
                "dns_domain",
                domain,
                f"{domain!r} is no name of a domain; write one like fleet.internal, of at most 120 characters",
            )
            for domain in ("", "a..b", "-a.b", "a_b", "é", "a.b..", "x." * 60 + "xx")
        ),
        ("max_units_bytes", "0M", "'0M' is not a number of bytes above zero; write one like 500K, 64M or 1G"),
        ("max_units_bytes", "1TB", "'1TB' is not a number of bytes above zero; write one like 500K, 64M or 1G"),
        ("allowed_hosts", "m1:80", "'m1:80' is not a host name; write names without ports, separated by commas"),
        ("agent_ttl", "30", "'30' is not a duration: it needs a unit; write 30s for seconds"),
        ("agent_ttl", "soon", "'soon' is no time span; write one like 90s, 5min or 1h 30min"),
        ("agent_ttl", "", "'' is no time span; write one like 90s, 5min or 1h 30min"),
        ("agent_ttl", "1s1s1x", "'1s1s1x' is no time span: there is no unit 'x'; write us, ms, s, min, h, d or w"),
        ("agent_ttl", "infinity", "'infinity' is out of range: at least 1s, at most ten years"),
        ("failover_delay", "-5s", "'-5s' is no time span; write one like 90s, 5min or 1h 30min"),
        ("rerun_after_failover", "perhaps", "'perhaps' is neither true nor false"),
        ("agent_ttl", "0s", "'0s' is out of range: at least 1s, at most ten years"),
        ("insecure", "yes", "'yes' is neither true nor false"),
        ("units_directory", "units", "'units' is not an absolute path"),
        (
            "etcd_servers",
            "127.0.0.1:2379",
            "'127.0.0.1:2379' is not the URL of an etcd server; write http://HOST:PORT or https://HOST:PORT",
        ),
        ("etcd_servers", "", "'' is not the URL of an etcd server; write http://HOST:PORT or https://HOST:PORT"),
        ("role", "leader", "'leader' is neither server nor worker"),
        ("servers", "m1:7443", f"'m1:7443' {NO_SERVER}"),
        ("servers", "https://m1,http://m2", f"'http://m2' {NO_SERVER}"),
        ("servers", "https://m1/fleet", f"'https://m1/fleet' {NO_SERVER}"),
        ("servers", "https://ann:secret@m1", f"'https://m1' {NO_SERVER}"),
        ("listen", "49153", f"'49153' {NO_ADDRESS}"),
        ("listen", "a:70000", f"'a:70000' {NO_ADDRESS}"),
        ("listen", "https://a", f"'https://a' {NO_ADDRESS}"),
        ("listen", "https:///run/s", f"'https:///run/s' {NO_ADDRESS}"),
        ("listen", "http://a:1", f"'http://a:1' {NO_ADDRESS}"),
        (
            "metrics_listen",
            "https://:9090",
            "'https://:9090': only the API (listen=) is served over https; write HOST:PORT",
        ),
    ],
)
def test_an_invalid_value_is_reported_with_its_place_and_a_valid_one(name: str, text: str, message: str) -> None:
    with pytest.raises(ConfigError) as from_file:
        config(f"# first\n{name}='{text}'")
    assert str(from_file.value) == f"fleet.conf:2: {name}: {message}"
    with pytest.raises(ConfigError) as from_variable:
        config(environ={f"FLEET_{name.upper()}": text})
    assert str(from_variable.value) == f"FLEET_{name.upper()}: {name}: {message}"


@pytest.mark.covers("5.2.2")
@pytest.mark.parametrize("line", ["token_limit", "=5", "a b=c", "[open"])
def test_an_invalid_line_is_an_error_with_its_number(line: str) -> None:
    with pytest.raises(ConfigError, match=r"^fleet\.conf:2: .* is neither NAME=VALUE nor a comment$"):
        config(f"\n{line}\n")


@pytest.mark.covers("5.3.9")
def test_metadata_without_an_equals_sign_is_ignored_and_noted() -> None:
    assert config("metadata=a=b,junk").metadata == {"a": "b"}
    assert notices("metadata=a=b,junk") == [
        "fleet.conf:1: metadata: 'junk' is ignored: write metadata as key=value,key=value"
    ]


@pytest.mark.covers("5.2.4")
def test_variables_override_the_file_and_flags_override_variables() -> None:
    environ = {"FLEET_PUBLIC_IP": "variable", "FLEET_TOKEN_LIMIT": "2"}
    read = config("public_ip=file\ntoken_limit=1\nverbosity=1", environ, {"public_ip": "flag"})
    assert (read.public_ip, read.token_limit, read.verbosity) == ("flag", 2, 1)


@pytest.mark.covers("5.2.4")
def test_an_empty_variable_counts_as_set() -> None:
    assert config("public_ip=file", {"FLEET_PUBLIC_IP": ""}).public_ip == ""


def test_an_unusable_flag_is_reported() -> None:
    with pytest.raises(ConfigError, match=r"^--listen: listen: 'here' is not an address"):
        config(overrides={"listen": "here"})


@pytest.mark.covers("5.1.1")
def test_a_given_file_must_exist(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^Unable to use config file .*absent: No such file or directory$"):
        load_config(str(tmp_path / "absent"), {}, {})
    with pytest.raises(ConfigError, match=r"is a directory, not a file$"):
        load_config(str(tmp_path), {}, {})
    (tmp_path / "binary").write_bytes(b"verbosity=\xff")
    with pytest.raises(ConfigError, match=r"binary: byte 10 is not UTF-8$"):
        load_config(str(tmp_path / "binary"), {}, {})


@pytest.mark.covers("5.1.6")
def test_the_default_file_may_be_absent(tmp_path: Path) -> None:
    default = tmp_path / "fleet.conf"
    assert load_config(None, {}, {}, str(default)) == (config(), [])
    default.write_text("verbosity=1\n")
    assert load_config(None, {}, {}, str(default))[0].verbosity == 1


@pytest.mark.covers("10.7.2")
def test_an_option_removed_from_the_file_returns_to_its_default(tmp_path: Path) -> None:
    path = tmp_path / "fleet.conf"
    path.write_text("verbosity=1\n")
    before, _ = load_config(str(path), {}, {})
    path.write_text("")
    after, _ = load_config(str(path), {}, {})
    assert (before.verbosity, after.verbosity) == (1, 0)


@pytest.mark.covers("H.1")
@given(st.text())
def test_any_text_is_a_configuration_or_a_configuration_error(text: str) -> None:
    message = ""
    try:
        parse_config(text, "f", {"FLEET_LISTEN": text, "FLEET_METADATA": text}, {})
    except ConfigError as error:
        message = str(error)
    assert message == "" or message.startswith(("f:", "FLEET_LISTEN: "))


@given(st.integers(1, 10**6))
def test_a_duration_in_milliseconds_is_converted_to_seconds(milliseconds: int) -> None:
    assert parse_duration(0)(f"{milliseconds}ms") == pytest.approx(milliseconds / 1000)


def test_the_settings_of_the_cluster_that_are_not_the_defaults_are_kept_as_written() -> None:
    text = "failover_delay = 1min\nmax_units=50000\nagent_ttl=20s\n"
    assert config(text).of_cluster == {"failover_delay": "1min"}
    assert config(text, {"FLEET_FAILOVER_DELAY": "90s"}).of_cluster == {"failover_delay": "90s"}


@pytest.mark.parametrize(
    "text", ["/run/a.sock", "https://m1:7443", "https://[::1]:7443", "https://:7443", "[::1]:80", ":80"]
)
def test_an_address_is_printed_as_it_is_written(text: str) -> None:
    assert str(parse_address(text)) == text


@pytest.mark.parametrize(
    ("text", "accept", "confine"),
    [
        ("", (), False),
        ("accept=*", (), False),
        ("accept=web-*, db.service\nconfine=yes", ("web-*", "db.service"), True),
        ("accept=web-*,*\nconfine=true", (), True),
        ("confine=no", (), False),
        ("confine=0", (), False),
    ],
)
def test_a_machine_says_which_units_it_takes(text: str, accept: tuple[str, ...], confine: bool) -> None:
    config = parse_config(text, "fleet.conf", {}, {})[0]
    assert (config.accept, config.confine) == (accept, confine)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("accept=", "fleet.conf:1: accept: it is empty; write * for units of any name, and cordon a machine"),
        ("accept=web-[", "fleet.conf:1: accept: 'web-[' is no pattern of unit names; write one like web-*"),
        ("confine=perhaps", "fleet.conf:1: confine: 'perhaps' is neither true nor false"),
        ("systemd_user=true\nconfine=yes", "fleet.conf:2: confine: a user's systemd cannot run units as other users"),
    ],
)
def test_what_a_machine_cannot_keep_about_its_units_is_refused(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as refused:
        parse_config(text, "fleet.conf", {}, {})
    assert str(refused.value).startswith(message)
