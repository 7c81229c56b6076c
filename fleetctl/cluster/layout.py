"""Where the files of a server are, and what is in etcd's: pure text."""

from collections.abc import Sequence

from fleetctl.cluster.etcd_members import Member
from fleetd.model.ip_address import is_ip_address

CONFIG = "/etc/fleet/fleet.conf"
ETCD_YAML = "/etc/fleet/etcd.yaml"
ETCD_DIRECTORY = "/etc/fleet/etcd"
ETCD_CA, ETCD_CA_KEY = f"{ETCD_DIRECTORY}/ca.pem", f"{ETCD_DIRECTORY}/ca.key"
ETCD_CERTIFICATE, ETCD_KEY = f"{ETCD_DIRECTORY}/etcd.pem", f"{ETCD_DIRECTORY}/etcd.key"
ETCD_DATA = "/var/lib/fleet/etcd"
ETCD_PROGRAM = "/usr/bin/etcd"
TRUST_DIRECTORY = "/var/lib/fleet/trust"

CLIENT_PORT, PEER_PORT, API_PORT, STREAM_PORT = 2379, 2380, 7443, 7444
LOCAL_ENDPOINT = f"https://127.0.0.1:{CLIENT_PORT}"
ETCD_LIFE_S = 10 * 365 * 86400.0  # nobody should be locked out by a certificate of etcd's

_ETCD_YAML = """\
# The etcd of a fleet cluster, which fleet-etcd.service runs on this server. Written by fleetctl ({by}).
# Only servers have a certificate of its CA: who writes to etcd is root on every machine.
name: "{name}"
data-dir: {data}
listen-client-urls: {local},{client}
advertise-client-urls: {client}
listen-peer-urls: {peer}
initial-advertise-peer-urls: {peer}
# The members when this one was made. etcd reads this once, and has known its members itself since then.
initial-cluster: {cluster}
initial-cluster-state: {state}
initial-cluster-token: fleet
# fleetd speaks to it through its JSON gateway, which is off by default where there is a file like this one.
enable-grpc-gateway: true
logger: zap
# At warn, etcd logs each request of fleetd.
log-level: error
log-outputs: [stderr]
client-transport-security:
  cert-file: {certificate}
  key-file: {key}
  trusted-ca-file: {ca}
  client-cert-auth: true
peer-transport-security:
  cert-file: {certificate}
  key-file: {key}
  trusted-ca-file: {ca}
  client-cert-auth: true
"""


def authority_files(number: int) -> tuple[str, str]:
    """Where the certificate and the key of the cluster's authority of this number are."""
    return f"{TRUST_DIRECTORY}/authority-{number}.pem", f"{TRUST_DIRECTORY}/authority-{number}.key"


def url(address: str, port: int) -> str:
    """The URL of one of etcd's ports."""
    return f"https://{f'[{address}]' if ':' in address else address}:{port}"


def render_etcd_yaml(machine: str, address: str, others: Sequence[Member]) -> str:
    """etcd's configuration of the server with this machine-id and address, which joins the others, if any."""
    peer = url(address, PEER_PORT)
    members = {each.name: each.peer_urls[0] for each in others if each.has_started} | {machine: peer}
    return _ETCD_YAML.format(
        by="machine add" if others else "cluster init",
        name=machine,
        data=ETCD_DATA,
        local=LOCAL_ENDPOINT,
        client=url(address, CLIENT_PORT),
        peer=peer,
        cluster=",".join(f"{name}={place}" for name, place in members.items()),
        state="existing" if others else "new",
        certificate=ETCD_CERTIFICATE,
        key=ETCD_KEY,
        ca=ETCD_CA,
    )


def read_address(etcd_yaml: str) -> str:
    """The address that the server gives others, from its etcd.yaml; '' if there is none."""
    for line in etcd_yaml.splitlines():
        name, _, value = line.partition(": ")
        if name == "initial-advertise-peer-urls":
            host = value.strip().removeprefix("https://").rpartition(":")[0].strip("[]")
            return host if is_ip_address(host) else ""
    return ""


def server_options(others: Sequence[Member], listen: str = "", peer_listen: str = "") -> dict[str, str]:
    """The options of a server's fleet.conf. Its own etcd comes first, then those of the others, which answer while its
    own has no vote yet or is down."""
    return {
        "etcd_servers": ",".join([LOCAL_ENDPOINT, *(each.client_urls[0] for each in others if each.client_urls)]),
        "etcd_cafile": ETCD_CA,
        "etcd_certfile": ETCD_CERTIFICATE,
        "etcd_keyfile": ETCD_KEY,
        **listen_options(listen, peer_listen),
    }


def listen_options(listen: str, peer_listen: str) -> dict[str, str]:
    """Where a server serves https, and takes the streams of other machines, in addition to what its fleet.conf has."""
    return {
        "listen": add_to_list(listen, f"https://:{API_PORT}"),
        "peer_listen": peer_listen or f":{STREAM_PORT}",
    }


def add_to_list(value: str, item: str) -> str:
    """A comma-separated list with this item."""
    items = [each.strip() for each in value.split(",") if each.strip()]
    return ",".join(items if item in items else [*items, item])
