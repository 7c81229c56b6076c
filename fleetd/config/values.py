"""The values of fleetd's options: one parser for each type. Each raises ValueError, which says what is wrong and what
would be right."""

import ipaddress
import math
import re
from collections.abc import Callable
from urllib.parse import urlsplit

import msgspec

from fleetd.model.machine import is_address
from fleetd.model.names import compile_glob
from fleetd.model.timespan import LONGEST_S, parse_time_span
from fleetd.url import has_user, without_user

ROLES = ("server", "worker")

_TRUE = ("1", "t", "T", "TRUE", "true", "True")
_FALSE = ("0", "f", "F", "FALSE", "false", "False")


class Address(msgspec.Struct, frozen=True):
    """An address to listen on: a unix socket's `path`, or a TCP `host` ('': every address) and `port`, with `tls` or
    without."""

    path: str = ""
    host: str = ""
    port: int = 0
    tls: bool = False

    def __str__(self) -> str:
        if self.path:
            return self.path
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https://' * self.tls}{host}:{self.port}"


def parse_text(text: str) -> str:
    """Return the value unchanged."""
    return text


def parse_bool(text: str) -> bool:
    """Parse a boolean in the spellings that CoreOS fleet (Go's strconv.ParseBool) accepts."""
    if text in _TRUE:
        return True
    if text in _FALSE:
        return False
    raise ValueError(f"{text!r} is neither true nor false")


def parse_yes(text: str) -> bool:
    """Parse a boolean, also as systemd writes it."""
    return text == "yes" if text in ("yes", "no") else parse_bool(text)


def parse_accept(text: str) -> tuple[str, ...]:
    """Parse a comma-separated list of patterns of unit names; () for those that every name matches."""
    patterns = tuple(item.strip() for item in text.split(",") if item.strip())
    for pattern in patterns:
        if compile_glob(pattern) is None or not pattern.isprintable():
            raise ValueError(f"{pattern!r} is no pattern of unit names; write one like web-*")
    if not patterns:
        raise ValueError("it is empty; write * for units of any name, and cordon a machine that is to take none")
    return () if "*" in patterns else patterns


def parse_whole_number(low: int, high: int) -> Callable[[str], int]:
    """Return a parser of whole numbers within these bounds."""

    def parse(text: str) -> int:
        if not re.fullmatch(r"[+-]?[0-9]{1,9}", text, re.ASCII) or not low <= int(text) <= high:
            raise ValueError(f"{text!r} is not a whole number from {low} to {high}")
        return int(text)

    return parse


def parse_size(text: str) -> int:
    """Parse a number of bytes, at least one; the suffixes K, M and G are powers of 1024, as in systemd."""
    found = re.fullmatch(r"([0-9]{1,9})([KMG]?)", text, re.ASCII)
    if not found or int(found[1]) == 0:
        raise ValueError(f"{text!r} is not a number of bytes above zero; write one like 500K, 64M or 1G")
    return int(found[1]) << 10 * " KMG".index(found[2] or " ")


def parse_seconds(text: str) -> float:
    """Parse a number of seconds without a unit, above zero."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds <= LONGEST_S:
        raise ValueError(f"{text!r} is not a number of seconds above zero; write one without a unit, like 1.0")
    return seconds


def parse_duration(low_s: float, high_s: float = LONGEST_S) -> Callable[[str], float]:
    """Return a parser of durations with units (`1m30s`) within these bounds; it returns seconds."""

    def parse(text: str) -> float:
        if re.fullmatch(r"[0-9]+(\.[0-9]+)?", text):
            raise ValueError(f"{text!r} is not a duration: it needs a unit; write {text}s for seconds")
        seconds = parse_time_span(text)
        if not low_s <= seconds <= high_s:
            raise ValueError(f"{text!r} is out of range: at least {low_s:g}s, at most ten years")
        return seconds

    return parse


def parse_path(text: str) -> str:
    """Parse an absolute path."""
    if not text.startswith("/") or "\0" in text:
        raise ValueError(f"{text!r} is not an absolute path")
    return text


def parse_any_path(text: str) -> str:
    """Parse an absolute path, or nothing."""
    return parse_path(text) if text else ""


def parse_servers(text: str) -> tuple[str, ...]:
    """Parse a comma-separated list of http(s) URLs; the brackets and quotes of a JSON-like list are dropped."""
    servers = tuple(item.lstrip(' ["').rstrip(' "]') for item in text.split(","))
    for server in servers:
        if not _is_http_url(server):
            shown = without_user(server)
            raise ValueError(f"{shown!r} is not the URL of an etcd server; write http://HOST:PORT or https://HOST:PORT")
    return servers


def parse_role(text: str) -> str:
    """Parse the role of a machine."""
    if text not in ROLES:
        raise ValueError(f"{text!r} is neither server nor worker")
    return text


def parse_fleet_servers(text: str) -> tuple[str, ...]:
    """Parse a comma-separated list of the https URLs of fleet servers, which may be empty."""
    servers = tuple(item.strip().rstrip("/") for item in text.split(",") if item.strip())
    for server in servers:
        is_origin = _is_http_url(server) and server.startswith("https:") and server.count("/") == 2
        if not is_origin or has_user(server):
            shown = without_user(server)
            raise ValueError(f"{shown!r} is not the URL of a fleet server; write https://HOST:PORT")
    return servers


def _is_http_url(text: str) -> bool:
    try:
        url = urlsplit(text)
        return url.scheme in ("http", "https") and bool(url.hostname) and url.port != 0 and not re.search(r"\s", text)
    except ValueError:  # a port that is not a number, or an unclosed [
        return False


def parse_metadata(text: str) -> dict[str, str]:
    """Parse `key=value,key=value`. Items without `=` are ignored (see `find_odd_metadata`); the last duplicate wins."""
    pairs = (item.split("=", 1) for item in text.split(",") if "=" in item)
    return {key.strip(): value.strip() for key, value in pairs}


def find_odd_metadata(text: str) -> str:
    """Return a warning about items that parse_metadata ignores, or ''."""
    odd = [item for item in text.split(",") if "=" not in item and item.strip()]
    return f"{', '.join(map(repr, odd))} is ignored: write metadata as key=value,key=value" if odd else ""


def parse_public_ip(text: str) -> str:
    """Parse the address at which others reach this machine; '' to detect it."""
    if text and not is_address(text):
        raise ValueError(f"{text!r} is neither an IP address nor a host name; leave it empty to detect one")
    return text


def parse_listen(text: str) -> tuple[Address, ...]:
    """Parse a comma-separated list of addresses, which may be empty."""
    return tuple(parse_address(item.strip()) for item in text.split(",") if item.strip())


def parse_plain_listen(text: str) -> tuple[Address, ...]:
    """Parse a comma-separated list of addresses without TLS, which may be empty."""
    addresses = parse_listen(text)
    for address in addresses:
        if address.tls:
            raise ValueError(f"{str(address)!r}: only the API (listen=) is served over https; write HOST:PORT")
    return addresses


def parse_dns_listen(text: str) -> tuple[Address, ...]:
    """Parse a comma-separated list of IP addresses with ports, which may be empty."""
    addresses = parse_plain_listen(text)
    for address in addresses:
        try:
            found = ipaddress.ip_address(address.host)
        except ValueError:
            raise ValueError(f"{str(address)!r} is no IP address with a port; write one like 127.0.0.1:8600") from None
        if found.is_unspecified:
            raise ValueError(
                f"{str(address)!r} is every address: an answer could come from another one than was asked; name those "
                "at which to answer, separated by commas"
            )
    return addresses


def parse_domain(text: str) -> str:
    """Parse the name of a domain. Returns it in lower case and without a final dot."""
    domain = text.lower().removesuffix(".")
    if len(domain) > 120 or not all(re.fullmatch(r"(?!-)[a-z0-9-]{1,63}(?<!-)", each) for each in domain.split(".")):
        raise ValueError(f"{text!r} is no name of a domain; write one like fleet.internal, of at most 120 characters")
    return domain


def parse_hosts(text: str) -> frozenset[str]:
    """Parse a comma-separated list of host names without ports, which may be empty. Returns them in lower case."""
    names = [item.strip().lower() for item in text.split(",") if item.strip()]
    for name in names:
        if not is_address(name):
            raise ValueError(f"{name!r} is not a host name; write names without ports, separated by commas")
    return frozenset(names)


def parse_address(text: str) -> Address:
    """Parse `/run/fleet.sock`, `unix:///run/fleet.sock`, `HOST:PORT`, `[IPV6]:PORT`, `:PORT` for every address, or
    `https://` and one of the last three."""
    path = text.removeprefix("unix://") if text.startswith("unix://") else text.removeprefix("unix:")
    if path.startswith("/"):
        return Address(path=path)
    place = text.removeprefix("https://").removesuffix("/") if text.startswith("https://") else text
    found = re.fullmatch(r"(?:\[([0-9A-Fa-f:.]+)\]|([^\s:/\[\]]*)):([0-9]{1,5})", place, re.ASCII)
    if not found or not 0 < int(found[3]) <= 65535:
        raise ValueError(
            f"{text!r} is not an address to listen on; write /PATH, HOST:PORT, [IPV6]:PORT or :PORT, or one of these "
            "after https://"
        )
    if found[1]:
        ipaddress.IPv6Address(found[1])
    return Address(host=found[1] or found[2], port=int(found[3]), tls=place != text)
