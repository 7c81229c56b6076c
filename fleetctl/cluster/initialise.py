"""The first server of a cluster (`cluster init`)."""

import os
import socket
import ssl
import time

from fleetctl import output
from fleetctl.client import open_client
from fleetctl.cluster import layout
from fleetctl.cluster.etcd_members import EtcdAdmin, Member, failures_allowed
from fleetctl.cluster.host import Host, this_machine
from fleetctl.cluster.server_setup import (
    POLL_S,
    STARTED_S,
    FleetConf,
    etcd_log,
    install_etcd,
    quiet_other_etcd,
    read_authorities,
    read_authority,
    read_conf,
    start_etcd,
    start_fleet,
    wait_listed,
    why_unlisted,
    write_authority,
    write_conf,
    write_etcd_certificate,
)
from fleetctl.errors import CommandFailed, failing_as
from fleetctl.remote import local_machine_id
from fleetctl.settings import Settings
from fleetd.model.ip_address import is_ip_address
from fleetd.process.identity import find_address
from fleetd.url import without_user


def initialise(settings: Settings, address: str) -> int:
    """Make this machine the first server of a cluster; returns the exit status. Raises CommandFailed."""
    require_root("cluster init")
    host = this_machine()
    machine = local_machine_id()
    if not machine:
        raise CommandFailed("this machine has no /etc/machine-id: run systemd-machine-id-setup")
    conf = read_conf(host)
    if conf.config.standalone:
        raise CommandFailed(
            f"{layout.CONFIG} has standalone=true: the units of this machine are in {conf.config.standalone_path}, and "
            "a cluster begins without any. Save what you need (fleetctl cat UNIT), destroy its units, remove that "
            "line, and run cluster init again"
        )
    if conf.config.is_worker:
        raise CommandFailed(
            f"{layout.CONFIG} has role=worker: this machine belongs to a cluster already. Remove it there (fleetctl "
            f"machine remove {machine[:8]}), and delete role= and servers= here, to begin a new one"
        )
    if conf.has_own_etcd:
        return serve_https(settings, host, machine, conf)
    address = choose_address(host, address)
    make_server(host, machine, address)
    report(machine)
    return 0


def serve_https(settings: Settings, host: Host, machine: str, conf: FleetConf) -> int:
    """Make the authority, and serve https, where an etcd of the administrator's own is in use, which stays as it is;
    returns the exit status. Raises CommandFailed."""
    servers = without_user(",".join(conf.config.etcd_servers))
    with failing_as(
        f"{layout.CONFIG} has etcd_servers={servers}, an etcd of your own, and fleetd does not answer here: start it "
        "first, or remove that line to begin a new cluster (",
        ")",
    ):
        authorities = open_client(settings).cluster().authorities
    if not authorities and not read_authorities(host):
        from fleetd.trust import x509

        write_authority(host, x509.make_authority(1, time.time()), *layout.authority_files(1))
        tell(f"Made the authority of the cluster ({layout.TRUST_DIRECTORY})")
    if said := write_conf(host, layout.listen_options(conf.listen, conf.peer_listen)):
        tell(said)
        start_fleet(host)
    wait_listed(host, machine)
    tell(f"This machine serves https on port {layout.API_PORT}; the etcd of your own ({servers}) stays as it is")
    return 0


def make_server(host: Host, machine: str, address: str) -> None:
    """All steps, each only where it is still to be done."""
    is_new = not host.has(layout.ETCD_YAML)
    if is_new and host.has(f"{layout.ETCD_DATA}/member"):
        raise CommandFailed(
            f"{layout.ETCD_DATA} holds the data of an etcd, and {layout.ETCD_YAML} is missing: restore that file, or "
            "move the folder away to begin a new cluster"
        )
    tell(install_etcd(host))
    tell(quiet_other_etcd(host))
    made = make_authorities(host)
    authority = read_authority(host, layout.ETCD_CA, layout.ETCD_CA_KEY)
    assert authority is not None
    made |= write_etcd_certificate(host, authority, machine, [address, socket.gethostname()])
    if made:
        tell(
            f"Made the authority of the cluster ({layout.TRUST_DIRECTORY}) and the certificates of etcd "
            f"({layout.ETCD_DIRECTORY})"
        )
    if is_new:
        host.write(layout.ETCD_YAML, layout.render_etcd_yaml(machine, address, []))
    admin = local_admin()
    if made or is_new or not admin.serves():
        start_etcd(host)
        wait_for_etcd(host, admin)
        tell(f"Started etcd at {address} (fleet-etcd.service)")
    conf = read_conf(host)
    options = layout.server_options([], conf.listen, conf.peer_listen)
    if not is_new:
        options.pop("etcd_servers")  # machine add has put further ones there
    if said := write_conf(host, options):
        tell(said)
    if made or said or why_unlisted(host, machine):  # fleetd reads the certificates of etcd when it starts
        start_fleet(host)
        tell("Started fleet (fleet.service)")
    wait_listed(host, machine)


def make_authorities(host: Host) -> bool:
    """Make the authority of the cluster and the one of etcd, if they are missing; returns whether one was made."""
    from fleetd.trust import x509

    now_s = time.time()
    has_authority = bool(read_authorities(host))
    if not has_authority:
        write_authority(host, x509.make_authority(1, now_s), *layout.authority_files(1))
    has_etcd_ca = read_authority(host, layout.ETCD_CA, layout.ETCD_CA_KEY) is not None
    if not has_etcd_ca:
        write_authority(host, x509.make_authority(1, now_s), layout.ETCD_CA, layout.ETCD_CA_KEY)
    return not (has_authority and has_etcd_ca)


def local_admin(others: tuple[str, ...] = ()) -> EtcdAdmin:
    """The members API through this server's etcd, and those at further URLs if it does not answer. Raises
    CommandFailed."""
    try:
        context = ssl.create_default_context(cafile=layout.ETCD_CA)
        context.load_cert_chain(layout.ETCD_CERTIFICATE, layout.ETCD_KEY)
    except (OSError, ssl.SSLError) as error:
        raise CommandFailed(f"the files in {layout.ETCD_DIRECTORY} cannot be used: {error}") from error
    return EtcdAdmin((layout.LOCAL_ENDPOINT, *others), context)


def wait_for_etcd(host: Host, admin: EtcdAdmin) -> None:
    """Wait until etcd serves. Raises CommandFailed."""
    deadline = time.monotonic() + STARTED_S
    while not admin.serves():
        if time.monotonic() > deadline:
            why = etcd_log(host) or "its log says why: journalctl -u fleet-etcd.service"
            raise CommandFailed(f"{host.name}: etcd was started, and does not answer within {STARTED_S:g} s: {why}")
        time.sleep(POLL_S)


def choose_address(host: Host, wanted: str) -> str:
    """The address of this server for the other ones. Raises CommandFailed."""
    present = layout.read_address(host.read(layout.ETCD_YAML) or "")
    if present and wanted not in ("", present):
        raise CommandFailed(
            f"the etcd of this server has the address {present} ({layout.ETCD_YAML}), by which the other servers know "
            "it: it cannot be changed by cluster init"
        )
    address = present or wanted or find_address()
    if not address:
        raise CommandFailed("this machine has no address that other machines reach: give one with --address")
    if not is_ip_address(address) or not is_own(address):
        raise CommandFailed(
            f"{output.printable(address)} is not an IP address of this machine: give one with --address"
        )
    return address


def is_own(address: str) -> bool:
    """True if this machine has this address."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        try:
            probe.bind((address, 0))
        except OSError:
            return False
    return True


def require_root(command: str) -> None:
    """Raises CommandFailed for others than root."""
    if os.geteuid() != 0:
        raise CommandFailed(f"fleetctl {command} changes this machine: run it as root (sudo fleetctl {command})")


def tell(what: str) -> None:
    """Print what was done, if anything was."""
    if what:
        output.result(what)


def report(machine: str) -> None:
    """Print what the cluster is now, and what to do next."""
    members = local_admin().members()
    tell(f"This machine is a server of the cluster: {describe_members(members)}")
    if len(members) < 3:
        tell("Next, from here: fleetctl machine add root@HOST --server (or without --server: a worker)")


def describe_members(members: tuple[Member, ...]) -> str:
    """How many servers there are, and how many may fail."""
    count = f"{len(members)} server{'s' * (len(members) != 1)}"
    return f"{count}, of which {failures_allowed(members) or 'none'} may fail"
