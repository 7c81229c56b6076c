"""Reads fleetd's configuration: fleet.conf, FLEET_* variables and the command line, merged into one frozen Config."""

import os
import re
import stat
from collections.abc import Iterator, Mapping
from itertools import chain
from typing import Any

import msgspec

from fleetd import url
from fleetd.config.options import OPTIONS, RETIRED, VARIABLE_PREFIX, Address, ConfigOption
from fleetd.model.permission import Rights, parse_rights, refuse_group_name
from fleetd.model.reboot_window import RebootWindow
from fleetd.model.user_instance import UserPaths, find_user_paths, user_defaults

DEFAULT_PATH = "/etc/fleet/fleet.conf"
USER_FLAG = "systemd_user"  # fleetd --user sets this option


class ConfigError(Exception):
    """The configuration is invalid. The message begins with the place: `FILE:LINE`, a variable or a flag."""


class Notice(msgspec.Struct, frozen=True):
    """A warning about a usable configuration."""

    origin: str
    text: str

    def __str__(self) -> str:
        return f"{self.origin}: {self.text}"


class Config(msgspec.Struct, frozen=True):
    """All settings of fleetd. OPTIONS documents each field, under its name without `_s`. `of_cluster` are the settings
    of the cluster that are not the defaults, as text, by name; `roles` what groups of this machine may do, by name."""

    verbosity: int
    role: str
    servers: tuple[str, ...]
    etcd_servers: tuple[str, ...]
    insecure_etcd: bool
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
    accept: tuple[str, ...]
    confine: bool
    registry_auth_file: str
    agent_ttl_s: float
    parked_ttl_s: float
    failover_delay_s: float
    rerun_after_failover: bool
    handover_timeout_s: float
    reboot_window: tuple[RebootWindow, ...]
    reboot_slots: int
    reboot_when_required: bool
    shutdown_timeout_s: float
    units_directory: str
    systemd_user: bool
    token_limit: int
    disable_engine: bool
    standalone: bool
    standalone_path: str
    listen: tuple[Address, ...]
    max_units: int
    max_units_bytes: int
    insecure: bool
    allowed_hosts: frozenset[str]
    metrics_listen: tuple[Address, ...]
    peer_listen: tuple[Address, ...]
    fleetlock_listen: tuple[Address, ...]
    dns_listen: tuple[Address, ...]
    dns_domain: str
    of_cluster: dict[str, str]
    roles: dict[str, Rights]

    @property
    def is_worker(self) -> bool:
        """True if this machine reaches the cluster's store through its servers alone."""
        return self.role == "worker"

    @property
    def may_lead(self) -> bool:
        """True if this machine may lead the cluster."""
        return not (self.disable_engine or self.is_worker)


_ROLE = "role."  # and the name of a group
ROLE_MEANING = (
    "What the users in a group of this machine may do through this machine's API socket, besides the groups fleet "
    "(everything), fleet-operate and fleet-view: permissions (view, operate, submit, admin), each with a pattern of "
    "unit names where it is not for everything, as in role.web-team=operate:web-*,submit:web-*."
)
_NAMES = frozenset(option.name for option in OPTIONS)
_OF_CLUSTER = {option.name: option.default for option in OPTIONS if option.of_cluster}


class _Given(msgspec.Struct, frozen=True):
    """A value, and where it was given."""

    name: str
    value: str
    origin: str


def load_config(
    path: str | None,
    environ: Mapping[str, str],
    overrides: Mapping[str, str],
    default_path: str = DEFAULT_PATH,
) -> tuple[Config, list[Notice]]:
    """Read the file (None: `default_path`, if it exists), then variables, then flags; later ones take precedence.

    `overrides` maps option names to values, as text. With USER_FLAG among them, default path and defaults are those of
    the user. Raises ConfigError.
    """
    defaults: Mapping[str, str] = {}
    if USER_FLAG in overrides:
        paths = own_paths(environ)
        default_path, defaults = f"{paths.config}/fleet.conf", user_defaults(paths)
    source = default_path if path is None else path
    if path is not None and os.path.isdir(path):
        raise ConfigError(f"Provided config {path} is a directory, not a file")
    try:
        with open(source, encoding="utf-8") as file:
            text = file.read()
            is_public = bool(os.fstat(file.fileno()).st_mode & stat.S_IROTH)
            owner = os.fstat(file.fileno()).st_uid
    except FileNotFoundError as error:
        if path is not None:
            raise ConfigError(f"Unable to use config file {path}: {error.strerror}") from error
        text, is_public, owner = "", False, 0
    except OSError as error:
        raise ConfigError(f"Unable to use config file {source}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"Unable to use config file {source}: byte {error.start} is not UTF-8") from error
    credential = _read_credential(environ)
    config, notices = parse_config(text, source, environ, overrides, credential, defaults)
    return config, notices + (_find_secrets(text, source, owner) if is_public else [])


def own_paths(environ: Mapping[str, str]) -> UserPaths:
    """The paths of the user who runs this process."""
    return find_user_paths(environ, os.getuid(), environ.get("HOME") or os.path.expanduser("~"))


def parse_config(
    text: str,
    source: str,
    environ: Mapping[str, str],
    overrides: Mapping[str, str],
    credential: "_Given | None" = None,
    defaults: Mapping[str, str] | None = None,
) -> tuple[Config, list[Notice]]:
    """Merge a file's text, a credential, variables and flags; later ones take precedence. `defaults` are those that
    differ from OPTIONS. Raises ConfigError."""
    notices: list[Notice] = []
    given: dict[str, _Given] = {}
    sources = (
        _read_file(text, source, notices),
        [credential] if credential else [],
        _read_environ(environ),
        _read_overrides(overrides),
    )
    for item in chain(*sources):
        if item.name in _NAMES or item.name.startswith(_ROLE):
            given[item.name] = item
        elif why := RETIRED.get(item.name):
            notices.append(Notice(item.origin, f"{item.name} has no effect any more: {why}"))
        else:
            notices.append(Notice(item.origin, f"unknown option {item.name!r} is ignored"))
    fields: dict[str, Any] = {}
    defaults = dict(defaults or {})
    if given.keys() & {"etcd_servers", "servers"}:
        defaults.pop("standalone", None)
    for option in OPTIONS:
        default = defaults.get(option.name, option.default)
        item = given.get(option.name) or _Given(option.name, default, "default")
        fields[option.field] = _parse_value(option, item)
        if warning := option.warn(item.value):
            notices.append(Notice(item.origin, f"{option.name}: {warning}"))
    fields["of_cluster"] = {
        name: item.value for name, item in given.items() if item.value != _OF_CLUSTER.get(name, item.value)
    }
    fields["roles"] = {
        name.removeprefix(_ROLE): _parse_role(item) for name, item in given.items() if name.startswith(_ROLE)
    }
    _check_role(fields, given)
    if fields["confine"] and fields["systemd_user"]:
        raise ConfigError(
            f"{given['confine'].origin}: confine: a user's systemd cannot run units as other users; remove it, or "
            "systemd_user=true"
        )
    if fields["dns_listen"] and fields["systemd_user"]:
        raise ConfigError(
            f"{given['dns_listen'].origin}: dns_listen: fleet-dns is a service of the machine; remove it, or "
            "systemd_user=true"
        )
    _check_peers(fields, given)
    _check_certificate(fields, given)
    _check_etcd(fields, given)
    return Config(**fields), notices


def _parse_value(option: ConfigOption, item: _Given) -> Any:
    try:
        return option.parse(item.value)
    except ValueError as error:
        raise ConfigError(f"{item.origin}: {option.name}: {error}") from error


def _parse_role(item: _Given) -> Rights:
    """What the members of a group may do. Raises ConfigError."""
    try:
        if refusal := refuse_group_name(item.name.removeprefix(_ROLE)):
            raise ValueError(refusal)
        return parse_rights(item.value)
    except ValueError as error:
        raise ConfigError(f"{item.origin}: {item.name}: {error}") from error


def _check_role(fields: Mapping[str, Any], given: Mapping[str, _Given]) -> None:
    """A worker needs servers, and none of what only servers have."""
    if fields["role"] != "worker":
        if fields["servers"]:
            raise ConfigError(f"{given['servers'].origin}: servers has no effect without role=worker")
        return
    origin = given["role"].origin
    if not fields["servers"]:
        raise ConfigError(
            f"{origin}: role=worker needs servers=https://HOST:PORT,…: fleetd join writes both when it takes this "
            "machine into a cluster"
        )
    for name in ("standalone", "peer_listen", "fleetlock_listen"):
        if fields[name]:
            raise ConfigError(f"{given[name].origin}: {name} is for servers, and this machine has role=worker")
    if any(not address.path for address in fields["listen"]):
        raise ConfigError(
            f"{given['listen'].origin}: listen: a worker serves its API on unix sockets only; remove HOST:PORT, or use "
            "a server's"
        )


def _check_peers(fields: Mapping[str, Any], given: Mapping[str, _Given]) -> None:
    """Other machines dial it."""
    for address in fields["peer_listen"]:
        if address.path:
            raise ConfigError(
                f"{given['peer_listen'].origin}: peer_listen: other machines do not reach {address}; write HOST:PORT"
            )


def _check_certificate(fields: Mapping[str, Any], given: Mapping[str, _Given]) -> None:
    """A key without its certificate, or the reverse, would silently mean no client certificate."""
    pair = ("etcd_keyfile", "etcd_certfile")
    for name, other in (pair, pair[::-1]):
        if fields[name] and not fields[other]:
            raise ConfigError(f"{given[name].origin}: {name} has no effect without {other}; set both or neither")


def _check_etcd(fields: Mapping[str, Any], given: Mapping[str, _Given]) -> None:
    """Require encryption and authentication for etcd on other machines: who writes to it is root on every machine."""
    if fields["standalone"] or fields["role"] == "worker":
        return
    has_user = bool(fields["etcd_username"])
    for server in fields["etcd_servers"]:
        if has_user and url.has_user(server):
            raise ConfigError(
                f"{given['etcd_servers'].origin}: etcd_servers: {url.without_user(server)} is given with a user, and "
                "etcd_username is set as well: remove etcd_username if that user is for a proxy in front of etcd, else "
                "the user from the URL"
            )
        if fields["insecure_etcd"] or url.is_on_loopback(server):
            continue
        is_plain = server.startswith("http:")
        if is_plain or not (has_user or fields["etcd_certfile"] or url.has_user(server)):
            lacks = "is not encrypted" if is_plain else "is used with neither a user nor a client certificate"
            raise ConfigError(
                f"{given['etcd_servers'].origin}: etcd_servers: {url.without_user(server)} {lacks}, and anyone who "
                "writes to etcd is root on every machine: use https:// with etcd_username and etcd_password, or with "
                "etcd_certfile and etcd_keyfile (etcd_cafile is the CA that signed etcd's certificate); or set "
                "insecure_etcd=true if nobody else can reach that network"
            )


def _read_credential(environ: Mapping[str, str]) -> _Given | None:
    """Return etcd's password as passed by systemd (LoadCredential=, systemd.exec(5)), or None. Raises ConfigError."""
    directory = environ.get("CREDENTIALS_DIRECTORY")
    if not directory:
        return None
    path = os.path.join(directory, "etcd_password")
    try:
        with open(path, encoding="utf-8") as file:
            return _Given("etcd_password", file.read().rstrip("\r\n"), path)
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"Unable to use the credential {path}: {error}") from error


def _find_secrets(text: str, source: str, owner: int) -> list[Notice]:
    """Warn of passwords in a configuration file of this user that every local user can read."""
    told = [
        item
        for item in _read_file(text, source, [])
        if (item.name == "etcd_password" and item.value) or (item.name == "etcd_servers" and url.has_user(item.value))
    ]
    command = f"chmod 600 {source}" if owner else f"chown root:fleet {source}; chmod 640 {source}"
    remedy = f"every local user can read it: {command}"
    return [Notice(item.origin, f"{item.name} holds a password, and {remedy}") for item in told]


def _read_environ(environ: Mapping[str, str]) -> Iterator[_Given]:
    for variable in sorted(environ):
        if variable.startswith(VARIABLE_PREFIX):
            yield _Given(variable.removeprefix(VARIABLE_PREFIX).lower(), environ[variable], variable)


def _read_overrides(overrides: Mapping[str, str]) -> Iterator[_Given]:
    for name, value in overrides.items():
        yield _Given(name, value, f"--{name.replace('_', '-')}")


def _read_file(text: str, source: str, notices: list[Notice]) -> Iterator[_Given]:
    """Yield the options of an INI file that are outside any section."""
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
            shown = line if "password" not in line.lower() else line[: line.lower().index("password")] + "password…"
            raise ConfigError(f"{origin}: {shown!r} is neither NAME=VALUE nor a comment")
        if section:
            notices.append(Notice(origin, f"{name.strip()} is in section {section} and is ignored"))
            continue
        value = _unquote(rest.strip())
        if value[:1] in ("'", '"') and value[0] == rest.strip()[0]:
            notices.append(Notice(origin, "the quotes are part of the value, because text follows them"))
        name = name.strip()  # the names of groups, alone, are in upper or lower case
        yield _Given(name if name.startswith(_ROLE) else name.lower(), value, origin)


def _logical_lines(text: str) -> Iterator[tuple[int, str]]:
    """Yield trimmed lines with their numbers; a backslash at the end continues a line."""
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
    """Return the value after `=`: the text in quotes if they enclose all of it, else the text before any `#` or `;`."""
    for quote in "\"'":
        if len(rest) > 1 and rest[0] == rest[-1] == quote and quote not in rest[1:-1]:
            return rest[1:-1]
    return re.split("[#;]", rest, maxsplit=1)[0].strip()


def render_sample() -> str:
    """Render a configuration file with every option and its default, all commented out."""
    lines = ["# Configuration of fleetd. The lines that are commented out show the defaults."]
    for option in OPTIONS:
        lines += ["", f"# {option.meaning}", f"# {option.name}={option.default}".rstrip()]
    lines += ["", f"# {ROLE_MEANING}", f"# {_ROLE}GROUP="]
    return "\n".join(lines) + "\n"
