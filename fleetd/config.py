"""What fleetd is told: fleet.conf, FLEET_* variables and the command line, made into one frozen Config.

OPTIONS is the single source of every option's name, syntax, default and meaning: the sample file and the manual are
rendered from it. Nothing here opens a socket or a store; the one file read is the configuration itself.
"""

import ipaddress
import math
import os
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal
from urllib.parse import urlsplit

import msgspec

from fleetd.core.timespan import LONGEST_S, parse_time_span

DEFAULT_PATH = "/etc/fleet/fleet.conf"
VARIABLE_PREFIX = "FLEET_"

_TRUE = ("1", "t", "T", "TRUE", "true", "True")
_FALSE = ("0", "f", "F", "FALSE", "false", "False")


class ConfigError(Exception):
    """The configuration cannot be used. The message opens with where it stands: `FILE:LINE`, a variable, a flag."""


class Notice(msgspec.Struct, frozen=True):
    """Something about the configuration that a person should know, though fleetd can work with it."""

    origin: str
    text: str

    def __str__(self) -> str:
        return f"{self.origin}: {self.text}"


class Address(msgspec.Struct, frozen=True):
    """Where to listen: a unix socket's `path`, or a TCP `host` ('' is every address) and `port`."""

    path: str = ""
    host: str = ""
    port: int = 0

    def __str__(self) -> str:
        if self.path:
            return self.path
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class Config(msgspec.Struct, frozen=True):
    """Everything fleetd can be told. What each field means stands in OPTIONS, under its name without `_s`."""

    verbosity: int
    etcd_servers: tuple[str, ...]
    etcd_username: str
    etcd_password: str
    etcd_keyfile: str
    etcd_certfile: str
    etcd_cafile: str
    etcd_key_prefix: str
    etcd_request_timeout_s: float
    etcd_compact: bool
    public_ip: str
    metadata: dict[str, str]
    agent_ttl_s: float
    parked_ttl_s: float
    failover_delay_s: float
    rerun_after_failover: bool
    handover_timeout_s: float
    shutdown_timeout_s: float
    units_directory: str
    systemd_user: bool
    token_limit: int
    disable_engine: bool
    standalone: bool
    standalone_path: str
    listen: tuple[Address, ...]
    insecure: bool


# One function for each kind of value. Each raises ValueError with what is wrong and what would be right.


def parse_text(text: str) -> str:
    """The value as it stands."""
    return text


def parse_bool(text: str) -> bool:
    """A truth value, in the words that the original takes."""
    if text in _TRUE:
        return True
    if text in _FALSE:
        return False
    raise ValueError(f"{text!r} is neither true nor false")


def parse_whole_number(low: int, high: int) -> Callable[[str], int]:
    """A parser of whole numbers within these bounds."""

    def parse(text: str) -> int:
        if not re.fullmatch(r"[+-]?[0-9]{1,9}", text, re.ASCII) or not low <= int(text) <= high:
            raise ValueError(f"{text!r} is no whole number from {low} to {high}")
        return int(text)

    return parse


def parse_seconds(text: str) -> float:
    """A number of seconds without a unit, above zero."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds <= LONGEST_S:
        raise ValueError(f"{text!r} is no number of seconds above zero; write one without a unit, like 1.0")
    return seconds


def parse_duration(low_s: float, high_s: float = LONGEST_S) -> Callable[[str], float]:
    """A parser of durations with units (`1m30s`) within these bounds, in seconds."""

    def parse(text: str) -> float:
        if re.fullmatch(r"[0-9]+(\.[0-9]+)?", text):
            raise ValueError(f"{text!r} is no duration: it needs a unit; write {text}s for seconds")
        seconds = parse_time_span(text)
        if not low_s <= seconds <= high_s:
            raise ValueError(f"{text!r} is out of range: at least {low_s:g}s, at most ten years")
        return seconds

    return parse


def parse_path(text: str) -> str:
    """An absolute path."""
    if not text.startswith("/") or "\0" in text:
        raise ValueError(f"{text!r} is no absolute path")
    return text


def parse_servers(text: str) -> tuple[str, ...]:
    """A comma-separated list of http(s) URLs; the brackets and quotes of a JSON-like list are dropped."""
    servers = tuple(item.lstrip(' ["').rstrip(' "]') for item in text.split(","))
    for server in servers:
        if not _is_http_url(server):
            raise ValueError(f"{server!r} is no URL of an etcd server; write http://HOST:PORT or https://HOST:PORT")
    return servers


def _is_http_url(text: str) -> bool:
    try:
        url = urlsplit(text)
        return url.scheme in ("http", "https") and bool(url.hostname) and url.port != 0 and not re.search(r"\s", text)
    except ValueError:  # a port that is no number, or an unclosed [
        return False


def parse_metadata(text: str) -> dict[str, str]:
    """`key=value,key=value`; items without `=` are left out (see `doubt_metadata`), the last duplicate wins."""
    pairs = (item.split("=", 1) for item in text.split(",") if "=" in item)
    return {key.strip(): value.strip() for key, value in pairs}


def doubt_metadata(text: str) -> str:
    """What is wrong with metadata that can be used nevertheless, or ''."""
    odd = [item for item in text.split(",") if "=" not in item and item.strip()]
    return f"left out {', '.join(map(repr, odd))}: metadata is written key=value,key=value" if odd else ""


def parse_listen(text: str) -> tuple[Address, ...]:
    """A comma-separated list of addresses; none for an empty text."""
    return tuple(parse_address(item.strip()) for item in text.split(",") if item.strip())


def parse_address(text: str) -> Address:
    """`/run/fleet.sock`, `unix:///run/fleet.sock`, `HOST:PORT`, `[IPV6]:PORT`, or `:PORT` for every address."""
    path = text.removeprefix("unix://") if text.startswith("unix://") else text.removeprefix("unix:")
    if path.startswith("/"):
        return Address(path=path)
    found = re.fullmatch(r"(?:\[([0-9A-Fa-f:.]+)\]|([^\s:/\[\]]*)):([0-9]{1,5})", text, re.ASCII)
    if not found or not 0 < int(found[3]) <= 65535:
        raise ValueError(f"{text!r} is no address to listen on; write /PATH, HOST:PORT, [IPV6]:PORT or :PORT")
    if found[1]:
        ipaddress.IPv6Address(found[1])
    return Address(host=found[1] or found[2], port=int(found[3]))


class Option(msgspec.Struct, frozen=True):
    """One option: its `name` in the file, the parser of its value, its default as one would write it, its meaning.

    `retired` says why an option of the original means nothing here: it is accepted, and a notice says so. `doubt`
    looks at a value that can be used and returns what is odd about it, or ''. `unit` is the field's suffix.
    """

    name: str
    parse: Callable[[str], Any]
    default: str
    meaning: str
    unit: Literal["", "_s"] = ""
    doubt: Callable[[str], str] = lambda text: ""
    retired: str = ""

    @property
    def field(self) -> str:
        """The field of Config that it fills."""
        return self.name + self.unit

    @property
    def variable(self) -> str:
        """The environment variable that overrides it."""
        return VARIABLE_PREFIX + self.name.upper()


RETIRED = (
    Option("engine_reconcile_interval", parse_text, "2.0", "", retired="the engine acts on changes, not at intervals"),
    Option("enable_grpc", parse_text, "false", "", retired="agents and engine meet in the store alone"),
    Option("disable_watches", parse_text, "false", "", retired="fleetd acts on changes and cannot do without watches"),
    Option("verify_units", parse_text, "false", "", retired="signed units are no longer supported"),
    Option("authorized_keys_file", parse_text, "", "", retired="signed units are no longer supported"),
)

OPTIONS: tuple[Option, ...] = (
    Option("verbosity", parse_whole_number(0, 9), "0", "Above 0, the log also tells what fleetd does in detail."),
    Option(
        "etcd_servers",
        parse_servers,
        "http://127.0.0.1:2379,http://127.0.0.1:4001",
        "The etcd servers that keep the cluster's state, as a comma-separated list of URLs.",
    ),
    Option("etcd_username", parse_text, "", "User name for etcd, where it asks for one."),
    Option(
        "etcd_password", parse_text, "", "Password for etcd. A file that holds it should be readable by root alone."
    ),
    Option("etcd_keyfile", parse_text, "", "Private key of the client certificate shown to etcd (PEM)."),
    Option("etcd_certfile", parse_text, "", "Client certificate shown to etcd (PEM)."),
    Option("etcd_cafile", parse_text, "", "Certificates that etcd's own must be signed by (PEM). Empty: the system's."),
    Option(
        "etcd_key_prefix", parse_text, "/fleet/", "Where in etcd the cluster's keys stand. One prefix, one cluster."
    ),
    Option(
        "etcd_request_timeout",
        parse_seconds,
        "1.0",
        "Seconds to wait for etcd's answer to a request; for a write, twice as long.",
        "_s",
    ),
    Option(
        "etcd_compact",
        parse_bool,
        "true",
        "Let the leader drop etcd's history older than ten minutes. Set to false where something else does it.",
    ),
    Option("public_ip", parse_text, "", "The address that other machines and people reach this one by. Empty: found."),
    Option(
        "metadata",
        parse_metadata,
        "",
        "What units can ask for with MachineMetadata=, as key=value,key=value.",
        doubt=doubt_metadata,
    ),
    Option(
        "agent_ttl",
        parse_duration(1.0),
        "10s",
        "How long a machine may be silent before it counts as dead, and its units are started elsewhere.",
        "_s",
    ),
    Option(
        "parked_ttl",
        parse_duration(1.0),
        "10m",
        "How long a machine whose fleetd was stopped keeps its units before it counts as dead.",
        "_s",
    ),
    Option(
        "failover_delay",
        parse_duration(0.0, math.inf),
        "0s",
        "How long a machine may be dead before units are started elsewhere that do not say FailoverDelay= themselves; "
        "infinity: until it is back. What the leader is told counts for the cluster.",
        "_s",
    ),
    Option(
        "rerun_after_failover",
        parse_bool,
        "false",
        "Run a finished oneshot again elsewhere when its machine is lost, if it does not say RerunAfterFailover= "
        "itself. What the leader is told counts for the cluster.",
    ),
    Option(
        "handover_timeout",
        parse_duration(0.0),
        "30s",
        "How long a copy that outlived a cut waits for its replacement to become active. Where that does not even "
        "begin to run, the copy stays.",
        "_s",
    ),
    Option(
        "shutdown_timeout",
        parse_duration(0.0),
        "60s",
        "How long fleetd waits at a shutdown of the machine for its units to stop before it goes itself.",
        "_s",
    ),
    Option("units_directory", parse_path, "/run/fleet/units/", "Where unit files are written on this machine."),
    Option("systemd_user", parse_bool, "false", "Run units under the user's systemd instead of the system's."),
    Option("token_limit", parse_whole_number(1, 65535), "100", "How many entries the API puts on one page."),
    Option("disable_engine", parse_bool, "false", "Never lead the cluster from this machine."),
    Option("standalone", parse_bool, "false", "Keep the state on this machine, without etcd: a cluster of one."),
    Option("standalone_path", parse_path, "/var/lib/fleet/fleet.db", "The file that keeps it then."),
    Option(
        "listen",
        parse_listen,
        "",
        "Where to serve the API besides the sockets that systemd hands over: paths and HOST:PORT, separated by commas.",
    ),
    Option(
        "insecure",
        parse_bool,
        "false",
        "Serve the API beyond this machine although everybody who reaches it is root on the whole cluster.",
    ),
)

_BY_NAME = {option.name: option for option in OPTIONS + RETIRED}


class _Given(msgspec.Struct, frozen=True):
    """One value, and where it was given."""

    name: str
    value: str
    origin: str


def load_config(
    path: str | None,
    environ: Mapping[str, str],
    overrides: Mapping[str, str],
    default_path: str = DEFAULT_PATH,
) -> tuple[Config, list[Notice]]:
    """Read the configuration: the file (None: `default_path`, where it exists), over it variables, over them flags.

    `overrides` maps an option's name to its value, as text. Raises ConfigError.
    """
    source = default_path if path is None else path
    if path is not None and os.path.isdir(path):
        raise ConfigError(f"Provided config {path} is a directory, not a file")
    try:
        with open(source, encoding="utf-8") as file:
            text = file.read()
    except FileNotFoundError as error:
        if path is not None:
            raise ConfigError(f"Unable to use config file {path}: {error.strerror}") from error
        text = ""
    except OSError as error:
        raise ConfigError(f"Unable to use config file {source}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"Unable to use config file {source}: byte {error.start} is no UTF-8 text") from error
    return parse_config(text, source, environ, overrides)


def parse_config(
    text: str, source: str, environ: Mapping[str, str], overrides: Mapping[str, str]
) -> tuple[Config, list[Notice]]:
    """The configuration that a file's text, variables and flags make together. Raises ConfigError."""
    notices: list[Notice] = []
    given: dict[str, _Given] = {}
    for item in [*_read_file(text, source, notices), *_read_environ(environ), *_read_overrides(overrides)]:
        option = _BY_NAME.get(item.name)
        if option is None:
            notices.append(Notice(item.origin, f"there is no option {item.name!r}; it is ignored"))
        elif option.retired:
            notices.append(Notice(item.origin, f"{item.name} has no effect any more: {option.retired}"))
        else:
            given[item.name] = item
    fields: dict[str, Any] = {}
    for option in OPTIONS:
        item = given.get(option.name) or _Given(option.name, option.default, "default")
        fields[option.field] = _parse_value(option, item)
        if doubt := option.doubt(item.value):
            notices.append(Notice(item.origin, f"{option.name}: {doubt}"))
    _check_certificate(fields, given)
    return Config(**fields), notices


def _parse_value(option: Option, item: _Given) -> Any:
    try:
        return option.parse(item.value)
    except ValueError as error:
        raise ConfigError(f"{item.origin}: {option.name}: {error}") from error


def _check_certificate(fields: Mapping[str, Any], given: Mapping[str, _Given]) -> None:
    """A key without its certificate, or the other way round, would quietly be no client certificate at all."""
    pair = ("etcd_keyfile", "etcd_certfile")
    for name, other in (pair, pair[::-1]):
        if fields[name] and not fields[other]:
            raise ConfigError(f"{given[name].origin}: {name} is of no use without {other}; set both or neither")


def _read_environ(environ: Mapping[str, str]) -> Iterator[_Given]:
    for variable in sorted(environ):
        if variable.startswith(VARIABLE_PREFIX):
            yield _Given(variable.removeprefix(VARIABLE_PREFIX).lower(), environ[variable], variable)


def _read_overrides(overrides: Mapping[str, str]) -> Iterator[_Given]:
    for name, value in overrides.items():
        yield _Given(name, value, f"--{name.replace('_', '-')}")


def _read_file(text: str, source: str, notices: list[Notice]) -> Iterator[_Given]:
    """The options of an INI file that stand outside any section."""
    section = ""
    for number, line in _logical_lines(text):
        origin = f"{source}:{number}"
        if not line or line[0] in "#;":
            continue
        if line[0] == "[" and line[-1] == "]":
            section = line
            continue
        name, separator, rest = line.partition("=")
        if not separator or not re.fullmatch(r"[^\s=]+\s*", name):
            raise ConfigError(f"{origin}: {line!r} is neither NAME=VALUE nor a comment")
        if section:
            notices.append(Notice(origin, f"{name.strip()} stands in section {section} and is ignored"))
            continue
        value = _unquote(rest.strip())
        if value[:1] in ("'", '"') and value[0] == rest.strip()[0]:
            notices.append(Notice(origin, "the quotes are part of the value, because text follows them"))
        yield _Given(name.strip().lower(), value, origin)


def _logical_lines(text: str) -> Iterator[tuple[int, str]]:
    """Lines with their numbers, trimmed; one that ends in a backslash continues on the next."""
    pending, first = "", 0
    for number, line in enumerate(text.removeprefix("\ufeff").split("\n"), 1):
        first = first or number
        pending += line.strip()
        if pending.endswith("\\") and pending[0] not in "#;":
            pending = pending[:-1]
            continue
        yield first, pending
        pending, first = "", 0
    if pending:
        yield first, pending


def _unquote(rest: str) -> str:
    """The value after `=`: what quotes enclose that span it all, else what stands before the first `#` or `;`."""
    for quote in "\"'":
        if len(rest) > 1 and rest[0] == rest[-1] == quote and quote not in rest[1:-1]:
            return rest[1:-1]
    return re.split("[#;]", rest, maxsplit=1)[0].strip()


def render_sample() -> str:
    """A configuration file that says every option with its default, all commented out."""
    lines = ["# Configuration of fleetd. Every line that is commented out shows the default."]
    for option in OPTIONS:
        lines += ["", f"# {option.meaning}", f"# {option.name}={option.default}".rstrip()]
    return "\n".join(lines) + "\n"
