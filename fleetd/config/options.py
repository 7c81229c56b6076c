"""Every option that fleetd takes: its name, its syntax, its default and its meaning.

OPTIONS is the single source: the sample file and the manual are rendered from it. What is made of the values, and where
they are read, is config.py's matter. Nothing here reads anything.
"""

import ipaddress
import math
import re
from collections.abc import Callable
from typing import Any, Literal
from urllib.parse import urlsplit

import msgspec

from fleetd.model.machine import is_address
from fleetd.model.timespan import LONGEST_S, parse_time_span
from fleetd.url import without_user

VARIABLE_PREFIX = "FLEET_"

_TRUE = ("1", "t", "T", "TRUE", "true", "True")
_FALSE = ("0", "f", "F", "FALSE", "false", "False")


class Address(msgspec.Struct, frozen=True):
    """Where to listen: a unix socket's `path`, or a TCP `host` ('' is every address) and `port`."""

    path: str = ""
    host: str = ""
    port: int = 0

    def __str__(self) -> str:
        if self.path:
            return self.path
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


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


def parse_size(text: str) -> int:
    """A number of bytes, at least one; K, M and G are those of systemd, 1024 each."""
    found = re.fullmatch(r"([0-9]{1,9})([KMG]?)", text, re.ASCII)
    if not found or int(found[1]) == 0:
        raise ValueError(f"{text!r} is no number of bytes above zero; write one like 500K, 64M or 1G")
    return int(found[1]) << 10 * " KMG".index(found[2] or " ")


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
            shown = without_user(server)
            raise ValueError(f"{shown!r} is no URL of an etcd server; write http://HOST:PORT or https://HOST:PORT")
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


def parse_public_ip(text: str) -> str:
    """An address that others reach this machine by, or '' to have it found."""
    if text and not is_address(text):
        raise ValueError(f"{text!r} is neither an IP address nor a host name; leave it empty to have one found")
    return text


def parse_listen(text: str) -> tuple[Address, ...]:
    """A comma-separated list of addresses; none for an empty text."""
    return tuple(parse_address(item.strip()) for item in text.split(",") if item.strip())


def parse_hosts(text: str) -> frozenset[str]:
    """A comma-separated list of host names, without ports, in lower case; none for an empty text."""
    names = [item.strip().lower() for item in text.split(",") if item.strip()]
    for name in names:
        if not is_address(name):
            raise ValueError(f"{name!r} is no host name; write names without ports, separated by commas")
    return frozenset(names)


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
    Option(
        "insecure_etcd",
        parse_bool,
        "false",
        "Use etcd beyond this machine over http:, or with neither a user nor a client certificate, although everybody "
        "who reaches it, or hears what is said, is root on the whole cluster.",
    ),
    Option("etcd_username", parse_text, "", "User name for etcd, where it asks for one."),
    Option(
        "etcd_password",
        parse_text,
        "",
        "Password for etcd. A file that holds it should be readable by root alone. systemd can hand it over as well: "
        "LoadCredential=etcd_password:PATH in fleet.service.",
    ),
    Option("etcd_keyfile", parse_text, "", "Private key of the client certificate shown to etcd (PEM)."),
    Option(
        "etcd_certfile",
        parse_text,
        "",
        "Client certificate shown to etcd (PEM). One that is renewed in its place is used from the next heartbeat on.",
    ),
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
    Option(
        "public_ip", parse_public_ip, "", "The address that other machines and people reach this one by. Empty: found."
    ),
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
        parse_duration(1.0, math.inf),
        "infinity",
        "How long a machine whose fleetd was stopped keeps its units before it counts as dead, though it may live and "
        "run them; infinity: until its fleetd is back, or fleetctl forget-machine gives it up.",
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
    Option(
        "max_units",
        parse_whole_number(1, 999_999_999),
        "50000",
        "How many units the cluster may have. This fleetd's API takes in no more of them (507).",
    ),
    Option(
        "max_units_bytes",
        parse_size,
        "64M",
        "How large the unit files of the cluster may be together. This fleetd's API takes in no more of them (507).",
    ),
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
        "Serve the API over TCP although everybody who reaches it, be it from this machine alone, is root on the whole "
        "cluster.",
    ),
    Option(
        "allowed_hosts",
        parse_hosts,
        "",
        "Names that clients may know the API by over TCP, separated by commas, besides IP addresses, localhost and "
        "public_ip. A web page under another name that points here is refused.",
    ),
    Option(
        "metrics_listen",
        parse_listen,
        "",
        "Where to serve /metrics and /health alone, to whoever comes: paths and HOST:PORT, separated by commas.",
    ),
)
