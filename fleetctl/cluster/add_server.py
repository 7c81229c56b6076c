"""A further server (`machine add --server`): its etcd joins as a learner, so that the store never depends on a machine
that is still being set up."""

import socket
import time
from collections.abc import Callable
from typing import TypeVar
from urllib.parse import urlsplit

from fleetctl import output
from fleetctl.cluster import layout
from fleetctl.cluster.etcd_members import (
    EtcdAdmin,
    EtcdFailed,
    Member,
    count_voters,
    failures_allowed,
    should_vote,
    waiting_learner,
)
from fleetctl.cluster.host import Host, this_machine
from fleetctl.cluster.initialise import describe_members, local_admin, require_root, tell
from fleetctl.cluster.package import install_fleet
from fleetctl.cluster.remote_host import REACH_S, Facts, can_connect, reach, refuse_clock
from fleetctl.cluster.server_setup import (
    POLL_S,
    etcd_log,
    install_etcd,
    quiet_other_etcd,
    read_authorities,
    read_authority,
    read_conf,
    reload_fleet,
    start_etcd,
    start_fleet,
    wait_listed,
    why_unlisted,
    write_authority,
    write_conf,
    write_etcd_certificate,
)
from fleetctl.errors import CommandFailed, SshFailed
from fleetctl.remote import local_machine_id
from fleetctl.settings import Settings
from fleetd.model.certificate import Authority
from fleetd.model.ip_address import is_ip_address

T = TypeVar("T")
COPYING_S = 120.0  # the longest wait for a new member's copy of the store
CRASHES = 3  # of the new member's etcd, after which it is not waited for


def add_server(settings: Settings, target: str, *, address: str, package: str, port: int) -> int:
    """Make the machine `[USER@]HOST` a server of this cluster; returns the exit status. Raises CommandFailed."""
    require_root("machine add --server")
    here = this_machine()
    etcd_authority = read_authority(here, layout.ETCD_CA, layout.ETCD_CA_KEY)
    authorities = read_authorities(here)
    if etcd_authority is None or not authorities or not here.has(layout.ETCD_YAML):
        raise CommandFailed(
            "this machine has no etcd that fleetctl has set up, so no server can be added from here: run fleetctl "
            "cluster init, or use a server of the cluster"
        )
    admin = local_admin()
    ask_etcd(admin.members)  # before anything is done there
    with reach(settings, target, port) as (host, facts):
        newcomer = Newcomer(host, facts, address or facts.address)
        refuse(newcomer, ask_etcd(admin.members), etcd_authority)
        tell(install_fleet(host, here, package))
        tell(install_etcd(host))
        tell(quiet_other_etcd(host))
        check_ways(newcomer, ask_etcd(admin.members))
        write_authority(host, etcd_authority, layout.ETCD_CA, layout.ETCD_CA_KEY)
        for authority in authorities:
            write_authority(host, authority, *layout.authority_files(authority.number))
        is_new = newcomer.member_of(ask_etcd(admin.members)) is None
        names = [newcomer.address, facts.hostname]
        write_etcd_certificate(host, etcd_authority, facts.machine, names, make=is_new)
        join_etcd(newcomer, admin)
        others = [each for each in ask_etcd(admin.members) if each.name != facts.machine]
        conf = read_conf(host)
        said = write_conf(host, layout.server_options(others, conf.listen, conf.peer_listen))
        if said or is_new or why_unlisted(host, facts.machine):
            start_fleet(host)
        wait_listed(host, facts.machine)
        tell(f"{host.name} is a server of the cluster: fleet runs there")
    members = ask_etcd(admin.members)
    use_other_etcds(here, members)
    report(members)
    return 0


class Newcomer:
    """The machine that is added, and the address by which the other servers reach it."""

    def __init__(self, host: Host, facts: Facts, address: str) -> None:
        self.host = host
        self.facts = facts
        self.address = address
        self.peer_url = layout.url(address, layout.PEER_PORT)
        self.client_url = layout.url(address, layout.CLIENT_PORT)

    def member_of(self, members: tuple[Member, ...]) -> Member | None:
        """Its member of etcd, None if it has none."""
        return next((each for each in members if each.name == self.facts.machine), None)


def refuse(newcomer: Newcomer, members: tuple[Member, ...], authority: Authority) -> None:
    """Raises CommandFailed if the machine cannot become a server, or is one of another cluster."""
    host, facts, name = newcomer.host, newcomer.facts, newcomer.host.name
    if facts.machine == local_machine_id():
        raise CommandFailed(
            f"{name} has this machine's machine-id: it is this machine, which is a server already, or a copy of its "
            "disk: give that an id of its own (rm /etc/machine-id; systemd-machine-id-setup) and reboot it"
        )
    if not is_ip_address(newcomer.address):
        shown = output.printable(newcomer.address) or "nothing"
        raise CommandFailed(f"{name}: {shown} is not an IP address by which the servers can reach it: give --address=…")
    refuse_clock(name, facts, time.time())
    for member in members:
        if member.name == facts.machine and newcomer.peer_url not in member.peer_urls:
            raise CommandFailed(
                f"{name}: its machine-id {facts.machine} is that of the server {member.host}: two machines must not "
                "share it; if that server has moved, remove it first: fleetctl machine remove "
                f"{facts.machine[:8]}"
            )
        if member.has_started and member.name != facts.machine and newcomer.peer_url in member.peer_urls:
            raise CommandFailed(
                f"{name}: the server {member.name} had its address {newcomer.address}: remove that one first: fleetctl "
                f"machine remove {member.name[:8]}"
            )
    present = host.read(layout.ETCD_CA)
    if present not in (None, authority.certificate):
        raise CommandFailed(f"{name} is a server of another cluster ({layout.ETCD_CA}): purge fleet there first")
    if present is None and host.has(f"{layout.ETCD_DATA}/member"):
        raise CommandFailed(f"{name}: {layout.ETCD_DATA} holds the data of another cluster's etcd: move it away")
    conf = read_conf(host)
    if conf.config.is_worker:
        raise CommandFailed(
            f"{name} is a worker: remove it (fleetctl machine remove {facts.machine[:8]}), delete role= and servers= "
            f"in its {layout.CONFIG}, then run this command again"
        )
    if conf.config.standalone:
        raise CommandFailed(f"{name}: its {layout.CONFIG} has standalone=true, and its own units would be lost")
    if conf.has_own_etcd:
        servers = ",".join(conf.config.etcd_servers)
        raise CommandFailed(f"{name} belongs to another cluster: its {layout.CONFIG} has etcd_servers={servers}")


def check_ways(newcomer: Newcomer, members: tuple[Member, ...]) -> None:
    """Check that the servers reach each other's etcd. Raises CommandFailed."""
    name = newcomer.host.name
    for member in members:
        place = urlsplit(member.peer_urls[0])
        if member.name == newcomer.facts.machine or not member.has_started:
            continue
        if not can_connect(newcomer.host, place.hostname or "", place.port or layout.PEER_PORT):
            raise CommandFailed(
                f"{name} does not reach the etcd of the server {member.host} on port {place.port}: is a firewall in "
                f"between? Servers need each other's ports {layout.CLIENT_PORT}, {layout.PEER_PORT}, {layout.API_PORT}"
            )
    try:
        socket.create_connection((newcomer.address, layout.PEER_PORT), REACH_S).close()
    except ConnectionRefusedError:
        return  # nothing listens there yet
    except OSError as error:
        raise CommandFailed(
            f"this machine does not reach etcd's port {layout.PEER_PORT} of {newcomer.address} ({error}): is a "
            "firewall in between? If the others reach it by another address, give that with --address"
        ) from error


def join_etcd(newcomer: Newcomer, admin: EtcdAdmin) -> None:
    """Make the machine's etcd a member, with a vote if that makes the number of voters odd. If that fails, it is taken
    out again. Raises CommandFailed."""
    host = newcomer.host
    present = newcomer.member_of(ask_etcd(admin.members))
    if present is None:
        host.try_to("systemctl", "stop", "fleet-etcd.service")
        make_way(newcomer, admin)
        members = ask_etcd(admin.members)
        host.run("rm", "-rf", layout.ETCD_DATA, doing=f"delete what is left in {layout.ETCD_DATA}")
        host.write(layout.ETCD_YAML, layout.render_etcd_yaml(newcomer.facts.machine, newcomer.address, members))
        learner = ask_etcd(lambda: admin.add_learner(newcomer.peer_url))
        try:
            copy_store(newcomer, admin)
        except (CommandFailed, SshFailed) as failure:
            raise CommandFailed(f"{failure}\n{undo(newcomer, admin, learner)}") from failure
        except KeyboardInterrupt:
            output.note(undo(newcomer, admin, learner))
            raise
        present = newcomer.member_of(ask_etcd(admin.members))
        assert present is not None
        tell(f"Started etcd on {host.name} ({newcomer.address}): it has a copy of the store")
    elif not admin_of(newcomer).is_running():
        start_etcd(host)
    if present.is_learner and should_vote(ask_etcd(admin.members)):
        give_vote(admin, present)


def make_way(newcomer: Newcomer, admin: EtcdAdmin) -> None:
    """etcd takes one learner at a time: remove what an attempt has left, and give the one that waits its vote."""
    for member in ask_etcd(admin.members):
        if not member.has_started:
            ask_etcd(lambda member=member: admin.remove(member))  # type: ignore[misc]
            tell(f"Removed the etcd member {member.host}, which an interrupted attempt had left")
    if waiting := waiting_learner(ask_etcd(admin.members), newcomer.peer_url):
        give_vote(admin, waiting)


def give_vote(admin: EtcdAdmin, member: Member) -> None:
    try:
        admin.promote(member, COPYING_S)
    except EtcdFailed as failure:
        raise CommandFailed(
            f"the etcd of {member.host} cannot get its vote yet: {failure}. Check it (journalctl -u fleet-etcd.service "
            "there), then run this command again"
        ) from failure
    tell(f"Gave the etcd of {member.host} its vote")


def copy_store(newcomer: Newcomer, admin: EtcdAdmin) -> None:
    """Start the new member's etcd and wait until it has a copy of the store. Raises CommandFailed."""
    wanted = int(ask_etcd(admin.status).get("raftAppliedIndex", 0))
    start_etcd(newcomer.host)
    own = admin_of(newcomer)
    deadline = time.monotonic() + COPYING_S
    while newcomer.member_of(ask_etcd(admin.members)) is None or own.applied_index() < wanted:
        crashes = newcomer.host.try_to("systemctl", "show", "--value", "--property=NRestarts", "fleet-etcd.service")
        count = crashes.output.strip()
        has_crashed = count.isdecimal() and int(count) >= CRASHES
        if has_crashed or time.monotonic() > deadline:
            what = "crashes" if has_crashed else f"has no copy of the store after {COPYING_S:g} s"
            why = etcd_log(newcomer.host) or "journalctl -u fleet-etcd.service says why there"
            raise CommandFailed(f"{newcomer.host.name}: its etcd {what}: {why}")
        time.sleep(POLL_S)


def undo(newcomer: Newcomer, admin: EtcdAdmin, learner: Member) -> str:
    """Take the new member out of etcd again; returns what was done, in words."""
    name = newcomer.host.name
    try:
        admin.remove(learner)
        members = admin.members()
    except EtcdFailed as error:
        said = [f"etcd still has the new member, which has no vote and does no harm ({error})"]
    else:
        said = [f"Took the etcd of {name} out again: {describe_members(members)}"]
        if count_voters(members) % 2 == 0:
            said.append("The store stops answering when one of them fails: add a third server soon")
    try:
        newcomer.host.try_to("systemctl", "disable", "--now", "--quiet", "fleet-etcd.service")
    except SshFailed:
        said.append(f"{name} does not answer any more; the next attempt stops its etcd")
    return "\n".join(said)


def admin_of(newcomer: Newcomer) -> EtcdAdmin:
    """The API of the new member alone."""
    return local_admin().at(newcomer.client_url)


def use_other_etcds(here: Host, members: tuple[Member, ...]) -> None:
    """Let the fleetd of this machine use the others' etcd while its own does not answer."""
    machine = local_machine_id()
    options = layout.server_options([each for each in members if each.name != machine])
    if write_conf(here, {"etcd_servers": options["etcd_servers"]}):
        reload_fleet(here)
        wait_listed(here, machine)


def report(members: tuple[Member, ...]) -> None:
    """Print what the cluster is now."""
    tell(f"The cluster has {describe_members(members)}")
    if learners := [each.host for each in members if each.is_learner]:
        tell(f"The etcd of {learners[0]} votes once there is a further server: fleetctl machine add root@HOST --server")
    elif not failures_allowed(members):
        tell("The store stops answering when one of them fails: fleetctl machine add root@HOST --server")


def ask_etcd(question: Callable[[], T]) -> T:
    """The answer of this cluster's etcd. Raises CommandFailed."""
    try:
        return question()
    except EtcdFailed as failure:
        raise CommandFailed(f"the etcd of this cluster: {failure}") from failure
