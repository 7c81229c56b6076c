"""Every option of fleetd: its name, syntax, default and meaning. contrib/fleet.conf and fleet.conf(5) are rendered from
OPTIONS.
"""

import math
from collections.abc import Callable
from typing import Any, Literal

import msgspec

from fleetd.config.values import Address as Address
from fleetd.config.values import (
    find_odd_metadata,
    parse_accept,
    parse_any_path,
    parse_bool,
    parse_dns_listen,
    parse_domain,
    parse_duration,
    parse_fleet_servers,
    parse_hosts,
    parse_listen,
    parse_metadata,
    parse_path,
    parse_plain_listen,
    parse_public_ip,
    parse_role,
    parse_seconds,
    parse_servers,
    parse_size,
    parse_text,
    parse_whole_number,
    parse_yes,
)
from fleetd.model.reboot_window import parse_reboot_windows

VARIABLE_PREFIX = "FLEET_"


class ConfigOption(msgspec.Struct, frozen=True):
    """One option: its `name` in the file, the parser of its value, its default as written in the file, its meaning.

    `warn` returns what is odd about a valid value, or ''. `unit` is the suffix of its field in Config. `of_cluster`: it
    is a setting of the cluster, which operators may set in the store for all machines; where they have not, the
    fleet.conf counts of the machine that leads, or of the one whose API is asked.
    """

    name: str
    parse: Callable[[str], Any]
    default: str
    meaning: str
    unit: Literal["", "_s"] = ""
    warn: Callable[[str], str] = lambda text: ""
    of_cluster: Literal["", "leader", "api"] = ""

    @property
    def field(self) -> str:
        """The field of Config that holds its value."""
        return self.name + self.unit

    @property
    def variable(self) -> str:
        """The environment variable that overrides it."""
        return VARIABLE_PREFIX + self.name.upper()


# Options of CoreOS fleet that are accepted with a warning: name → why they have no effect any more.
RETIRED = {
    "engine_reconcile_interval": "the leader acts on changes, not at intervals",
    "enable_grpc": "agents and the leader communicate through etcd only",
    "disable_watches": "fleetd acts on changes and cannot do without watches",
    "verify_units": "signed units are no longer supported",
    "authorized_keys_file": "signed units are no longer supported",
}

OPTIONS: tuple[ConfigOption, ...] = (
    ConfigOption("verbosity", parse_whole_number(0, 9), "0", "Above 0, fleetd logs debug messages, too."),
    ConfigOption(
        "role",
        parse_role,
        "server",
        "What this machine is in its cluster: server or worker. A server reaches etcd, may lead, and serves the whole "
        "API. A worker does not reach etcd: it asks servers, with a certificate that names it, for what concerns it.",
    ),
    ConfigOption(
        "servers",
        parse_fleet_servers,
        "",
        "With role=worker: servers of the cluster, as a comma-separated list of https://HOST:PORT. They are asked one "
        "after the other if one fails, and say which other servers there are.",
    ),
    ConfigOption(
        "etcd_servers",
        parse_servers,
        "http://127.0.0.1:2379,http://127.0.0.1:4001",
        "The etcd servers that hold the cluster's state, as a comma-separated list of URLs.",
    ),
    ConfigOption(
        "insecure_etcd",
        parse_bool,
        "false",
        "Allow etcd on another machine over http:, or with neither a user nor a client certificate, although anybody "
        "who can reach it, or read its traffic, is root on the whole cluster.",
    ),
    ConfigOption("etcd_username", parse_text, "", "User name for etcd, if it requires one."),
    ConfigOption(
        "etcd_password",
        parse_text,
        "",
        "Password for etcd. Only root should be able to read a file that holds it. systemd can pass it, too: "
        "LoadCredential=etcd_password:PATH in fleet.service.",
    ),
    ConfigOption("etcd_keyfile", parse_text, "", "Private key of the client certificate for etcd (PEM)."),
    ConfigOption(
        "etcd_certfile",
        parse_text,
        "",
        "Client certificate for etcd (PEM). A renewed one in the same file is used from the next heartbeat on.",
    ),
    ConfigOption(
        "etcd_cafile", parse_text, "", "CA certificates that must have signed etcd's (PEM). Empty: the system's CAs."
    ),
    ConfigOption(
        "etcd_key_prefix",
        parse_text,
        "/fleet/",
        "Prefix of the cluster's keys in etcd. Each prefix is one cluster. Versions of units are kept below the same "
        "one with .archive, as in /fleet.archive/.",
    ),
    ConfigOption(
        "etcd_request_timeout",
        parse_seconds,
        "1.0",
        "Seconds to wait for etcd's answer to a read; writes get twice as long.",
        "_s",
    ),
    ConfigOption(
        "etcd_compact",
        parse_bool,
        "true",
        "Have the leader compact etcd's history older than ten minutes. Set to false if something else does.",
    ),
    ConfigOption(
        "public_ip",
        parse_public_ip,
        "",
        "The address at which other machines and operators reach this one. Empty: detected.",
    ),
    ConfigOption(
        "metadata",
        parse_metadata,
        "",
        "What units can require with MachineMetadata=, as key=value,key=value.",
        warn=find_odd_metadata,
    ),
    ConfigOption(
        "accept",
        parse_accept,
        "*",
        "The names of the units that this machine takes, as patterns separated by commas, as in web-*,db-*; aliases "
        "have to match, too. Others are not placed here, and fleetd refuses and stops them whatever the store says.",
    ),
    ConfigOption(
        "confine",
        parse_yes,
        "no",
        "Take only services that cannot become root here, no matter who submits them: yes or no. Each runs as a user "
        "of its own (DynamicUser=, NoNewPrivileges=, ProtectSystem=strict), which fleetd checks before it starts one. "
        "See fleet.unit(5), Confined units, for what they may have.",
    ),
    ConfigOption(
        "registry_auth_file",
        parse_any_path,
        "",
        "The file with the logins for registries of container images, as podman login --authfile=PATH REGISTRY writes "
        "it: for what this machine pulls, and for the tags that it resolves. Empty: podman's own.",
    ),
    ConfigOption(
        "agent_ttl",
        parse_duration(1.0),
        "10s",
        "How long a machine may be silent before it is taken for dead and its units are started elsewhere.",
        "_s",
    ),
    ConfigOption(
        "parked_ttl",
        parse_duration(1.0, math.inf),
        "infinity",
        "How long a machine whose fleetd was stopped keeps its units before it is taken for dead, although it may "
        "still run them; infinity: until its fleetd is back, or fleetctl forget-machine gives it up.",
        "_s",
    ),
    ConfigOption(
        "failover_delay",
        parse_duration(0.0, math.inf),
        "0s",
        "How long a machine may be dead before its units without FailoverDelay= are started elsewhere; infinity: they "
        "wait until it is back. The leader's applies, unless fleetctl settings sets it for the cluster.",
        "_s",
        of_cluster="leader",
    ),
    ConfigOption(
        "rerun_after_failover",
        parse_bool,
        "false",
        "Run a completed oneshot without RerunAfterFailover= again elsewhere when its machine is lost. The leader's "
        "applies, unless fleetctl settings sets it for the cluster.",
        of_cluster="leader",
    ),
    ConfigOption(
        "handover_timeout",
        parse_duration(0.0),
        "30s",
        "How long a unit that kept running on a machine that was cut off waits for its replacement to become active. "
        "If the replacement does not even begin to run, the old one stays. The leader's applies, unless fleetctl "
        "settings sets it for the cluster.",
        "_s",
        of_cluster="leader",
    ),
    ConfigOption(
        "reboot_window",
        parse_reboot_windows,
        "",
        "When machines may begin to reboot: days, time in UTC and duration, as in Sat,Sun 02:00 4h, or Mon..Fri 22:30 "
        "1h; several are separated by semicolons. Empty: always. fleetctl reboot --now does not wait for it. The "
        "leader's applies, unless fleetctl settings sets it for the cluster.",
        of_cluster="leader",
    ),
    ConfigOption(
        "reboot_slots",
        parse_whole_number(1, 9999),
        "1",
        "How many machines may reboot at a time. The leader's applies, unless fleetctl settings sets it for the "
        "cluster.",
        of_cluster="leader",
    ),
    ConfigOption(
        "reboot_when_required",
        parse_bool,
        "false",
        "Reboot each machine that says that it needs it (/run/reboot-required), as fleetctl reboot does. The leader's "
        "applies, unless fleetctl settings sets it for the cluster.",
        of_cluster="leader",
    ),
    ConfigOption(
        "shutdown_timeout",
        parse_duration(0.0),
        "60s",
        "How long fleetd waits for its units to stop when the machine shuts down.",
        "_s",
    ),
    ConfigOption("units_directory", parse_path, "/run/fleet/units/", "The directory for unit files on this machine."),
    ConfigOption("systemd_user", parse_bool, "false", "Run units under the user's systemd instead of the system's."),
    ConfigOption("token_limit", parse_whole_number(1, 65535), "100", "The number of entries on one page of the API."),
    ConfigOption(
        "max_units",
        parse_whole_number(1, 999_999_999),
        "50000",
        "The number of units that the cluster may have. This fleetd's API refuses more (507), unless fleetctl "
        "settings sets it for the cluster.",
        of_cluster="api",
    ),
    ConfigOption(
        "max_units_bytes",
        parse_size,
        "64M",
        "The total size of the cluster's unit files. This fleetd's API refuses more (507), unless fleetctl settings "
        "sets it for the cluster.",
        of_cluster="api",
    ),
    ConfigOption("disable_engine", parse_bool, "false", "Never lead the cluster from this machine."),
    ConfigOption("standalone", parse_bool, "false", "Keep the state on this machine, without etcd: a cluster of one."),
    ConfigOption(
        "standalone_path", parse_path, "/var/lib/fleet/fleet.db", "The file that holds the state with standalone=true."
    ),
    ConfigOption(
        "listen",
        parse_listen,
        "",
        "Where to serve the API besides systemd's sockets: https://HOST:PORT (https://:7443 for every address), "
        "paths, and 127.0.0.1:PORT without TLS, which needs insecure=true; separated by commas. Over https clients are "
        "known by certificates, which fleetctl login gets.",
    ),
    ConfigOption(
        "insecure",
        parse_bool,
        "false",
        "Allow the API to be served on 127.0.0.1 without TLS, although every user of this machine is root on the whole "
        "cluster then. Other machines are served over https:// alone.",
    ),
    ConfigOption(
        "allowed_hosts",
        parse_hosts,
        "",
        "Host names by which clients may address the API over TCP, separated by commas, in addition to IP addresses, "
        "localhost and public_ip. Requests for other names are refused, which protects against DNS rebinding.",
    ),
    ConfigOption(
        "metrics_listen",
        parse_plain_listen,
        "",
        "Where to serve only /metrics and /health, to any client: paths and HOST:PORT, separated by commas.",
    ),
    ConfigOption(
        "peer_listen",
        parse_plain_listen,
        "",
        "Where machines send the logs that clients follow (fleetctl journal -f), over TLS with their certificates: "
        "HOST:PORT, separated by commas; they use the first. Empty: nowhere, and fleetctl uses SSH.",
    ),
    ConfigOption(
        "fleetlock_listen",
        parse_plain_listen,
        "",
        "Where to serve the FleetLock protocol, by which Zincati and others have a machine drained before they reboot "
        "it: HOST:PORT, separated by commas. Anybody who can reach it and knows the id of a machine can do that. "
        "Empty: nowhere.",
    ),
    ConfigOption(
        "dns_listen",
        parse_dns_listen,
        "",
        "Where fleet-dns.service answers DNS questions about units and machines, over UDP and TCP: IP addresses with "
        "ports, as in 127.0.0.1:8600, separated by commas. What reaches them learns what units announce. Empty: "
        "nowhere.",
    ),
    ConfigOption(
        "dns_domain",
        parse_domain,
        "fleet.internal",
        "With dns_listen=: the domain of these names, as in _web._tcp.fleet.internal.",
    ),
)
