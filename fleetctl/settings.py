"""The global options: names, types, defaults, environment variables, and the Settings made of them."""

import math
from collections.abc import Mapping
from enum import StrEnum
from typing import Any

import click
import msgspec

ENVIRONMENT_PREFIX = "FLEETCTL_"
DEFAULT_ENDPOINT = "unix:///var/run/fleet.sock"
LONGEST_TIMEOUT_S = 86400.0


class HostKeyChecking(StrEnum):
    """How to treat host keys; a changed key is refused unless OFF."""

    ASK = "true"  # ask about a new one, at a terminal
    ACCEPT_NEW = "accept-new"  # record a new one without asking, as ssh_config(5) has it
    OFF = "false"


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """The value of every global option. Each field is an option of that name (`_` as `-`, the unit `_s` left out)."""

    endpoint: str = DEFAULT_ENDPOINT
    user: bool = False
    driver: str = "API"
    request_timeout_s: float = 3.0
    ca_file: str = ""
    cert_file: str = ""
    key_file: str = ""
    tunnel: str = ""
    ssh_username: str = ""
    ssh_timeout_s: float = 10.0
    known_hosts_file: str = "~/.fleetctl/known_hosts"
    strict_host_key_checking: HostKeyChecking = HostKeyChecking.ASK
    debug: bool = False
    etcd_key_prefix: str = "/_coreos.com/fleet/"
    experimental_api: bool = True
    etcd_keyfile: str = ""
    etcd_certfile: str = ""
    etcd_cafile: str = ""


HELP = {
    "endpoint": "address of fleetd's API: unix:///PATH, http://HOST:PORT or https://HOST:PORT",
    "user": "use your own fleetd (fleetd --user), and its units with systemctl --user and journalctl --user",
    "driver": "only API is supported",
    "request_timeout": "seconds to wait for the answer to one request",
    "ca_file": "CA certificates to check the API's certificate against (default: those of logins, and the system's)",
    "cert_file": "client certificate for the API (default: that of fleetctl login)",
    "key_file": "private key of the client certificate",
    "tunnel": "reach the cluster over SSH through [USER@]HOST[:PORT]",
    "ssh_username": "user name for SSH (default: User of ~/.ssh/config, else your own)",
    "ssh_timeout": "seconds to wait for an SSH connection",
    "known_hosts_file": "file of accepted host keys",
    "strict_host_key_checking": (
        "check host keys, and ask about new ones at a terminal; accept-new records those unasked, false checks none"
    ),
    "debug": "log requests to the API on stderr",
    "etcd_key_prefix": "of the etcd driver, which is not supported: ignored",
    "experimental_api": "deprecated: ignored",
    "etcd_keyfile": "deprecated: use --key-file",
    "etcd_certfile": "deprecated: use --cert-file",
    "etcd_cafile": "deprecated: use --ca-file",
}


class Seconds(click.types.FloatParamType):
    """A duration above 0 s, at most a day."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            seconds = float(value)
        except ValueError:
            seconds = math.nan
        if not 0 < seconds <= LONGEST_TIMEOUT_S:
            self.fail(f"{value!r} is not a number of seconds above 0 and up to {LONGEST_TIMEOUT_S:g}.", param, ctx)
        return seconds


class Checking(click.ParamType):  # type: ignore[type-arg]  # the lowest click's takes no type
    """A boolean, or `accept-new`."""

    name = "true, false or accept-new"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> HostKeyChecking:
        if value == HostKeyChecking.ACCEPT_NEW:
            return HostKeyChecking.ACCEPT_NEW
        try:
            return HostKeyChecking.ASK if click.BOOL.convert(value, None, None) else HostKeyChecking.OFF
        except click.BadParameter:
            self.fail(f"{value!r} is neither true nor false nor accept-new.", param, ctx)


_TYPES: dict[type, "click.ParamType[Any]"] = {
    str: click.STRING,
    float: Seconds(),
    bool: click.BOOL,
    HostKeyChecking: Checking(),
}


class GlobalOption(msgspec.Struct, frozen=True):
    """One global option: its name with underscores, the field of Settings, its type and default."""

    name: str
    field: str
    type: "click.ParamType[Any]"
    default: str | float | bool

    @property
    def variable(self) -> str:
        """Its environment variable."""
        return ENVIRONMENT_PREFIX + self.name.upper()


GLOBAL_OPTIONS = tuple(
    GlobalOption(field.name.removesuffix("_s"), field.name, _TYPES[field.type], field.default)
    for field in msgspec.structs.fields(Settings)
)


def resolve_settings(given: Mapping[str, Any], environment: Mapping[str, str]) -> Settings:
    """The settings from `given` (option name → value or None), else the environment, else the defaults.

    As in CoreOS fleet, a variable that is empty or cannot be parsed is ignored.
    """
    values: dict[str, Any] = {}
    for option in GLOBAL_OPTIONS:
        value = given.get(option.name)
        if value is None:
            value = _from_environment(option, environment.get(option.variable, ""))
        if value is not None:
            values[option.field] = value
    return Settings(**values)


def _from_environment(option: GlobalOption, text: str) -> Any:
    if not text:
        return None
    try:
        return option.type.convert(text, None, None)
    except click.BadParameter:
        return None
