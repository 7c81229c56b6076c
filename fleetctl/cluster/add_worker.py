"""A worker (`machine add` without --server): fleet is installed there, and joins with a token made for that machine."""

import tempfile
import time
from collections.abc import Container, Sequence
from urllib.parse import urlsplit

from fleetctl.client import Client, open_client
from fleetctl.cluster import layout
from fleetctl.cluster.host import Host, this_machine
from fleetctl.cluster.initialise import tell
from fleetctl.cluster.package import install_fleet
from fleetctl.cluster.remote_host import Facts, can_connect, reach, refuse_clock
from fleetctl.cluster.server_setup import POLL_S, STARTED_S, read_conf
from fleetctl.errors import CommandFailed, failing_as
from fleetctl.settings import Settings
from fleetd.api import schema


def add_worker(settings: Settings, target: str, *, package: str, port: int) -> int:
    """Make the machine `[USER@]HOST` a worker of this cluster; returns the exit status. Raises CommandFailed."""
    client = open_client(settings)
    list_ids(client)  # before anything is done there
    with reach(settings, target, port) as (host, facts):
        present = list_ids(client)
        refuse(host, facts, present)
        if facts.machine in present:
            tell(f"{host.name} is a worker of the cluster already")
            return 0
        tell(install_fleet(host, this_machine(), package))
        with failing_as(f"{host.name}: no token could be made for it: "):
            token = client.machine_token(schema.MachineTokenRequest(facts.machine))
        join(host, token)
    deadline = time.monotonic() + STARTED_S
    while facts.machine not in list_ids(client):
        if time.monotonic() > deadline:
            raise CommandFailed(
                f"{host.name} has joined, but is not in the list of machines after {STARTED_S:g} s: its log says why "
                "(journalctl -u fleet.service there)"
            )
        time.sleep(POLL_S)
    tell(f"{host.name} is a worker of the cluster: fleet runs there")
    return 0


def refuse(host: Host, facts: Facts, present: Container[str]) -> None:
    """Raises CommandFailed if the machine is something else already, or has the id of another of those in the
    cluster."""
    refuse_clock(host.name, facts, time.time())
    if host.has(layout.ETCD_YAML):
        raise CommandFailed(f"{host.name} is a server ({layout.ETCD_YAML}): a server is no worker")
    conf = read_conf(host)
    if conf.config.standalone:
        raise CommandFailed(f"{host.name}: its {layout.CONFIG} has standalone=true, and its own units would be lost")
    if conf.has_own_etcd:
        servers = ",".join(conf.config.etcd_servers)
        raise CommandFailed(f"{host.name} reaches etcd by itself: its {layout.CONFIG} has etcd_servers={servers}")
    if facts.machine in present and not conf.config.is_worker:
        raise CommandFailed(
            f"{host.name}: its machine-id {facts.machine} is that of a machine of the cluster. If it is a copy of that "
            "one's disk, give it an id of its own (rm /etc/machine-id; systemd-machine-id-setup) and reboot it; if it "
            f"is that one, run `fleetd leave` there, or remove it: fleetctl machine remove {facts.machine[:8]}"
        )


def join(host: Host, token: schema.MachineToken) -> None:
    """Run `fleetd join` there, which gets the token on its standard input. Raises CommandFailed."""
    url = choose_server(host, token.servers)
    with tempfile.TemporaryFile() as file:
        file.write(token.token.encode())
        file.seek(0)
        done = host.try_to("fleetd", "join", url, "-", stdin=file)
    if done.status:
        raise CommandFailed(f"{host.name}: {done.last_words}")


def choose_server(host: Host, servers: Sequence[str]) -> str:
    """The first server that the machine reaches. Raises CommandFailed."""
    for url in servers:
        place = urlsplit(url)
        if can_connect(host, place.hostname or "", place.port or layout.API_PORT):
            return url
    listed = ", ".join(servers)
    raise CommandFailed(f"{host.name} reaches no server of the cluster ({listed}): is a firewall in between?")


def list_ids(client: Client) -> set[str]:
    """The machines of the cluster. Raises CommandFailed."""
    with failing_as("Error retrieving list of active machines from fleet API (", ")"):
        return {machine.id for machine in client.machines()}
