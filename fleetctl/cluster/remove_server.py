"""What is left of a server that was removed (`machine remove`): its member of etcd."""

import os

from fleetctl.cluster import layout
from fleetctl.cluster.add_server import ask_etcd, give_vote, use_other_etcds
from fleetctl.cluster.etcd_members import should_vote
from fleetctl.cluster.host import this_machine
from fleetctl.cluster.initialise import describe_members, local_admin, tell


def take_out_of_etcd(machine: str) -> None:
    """Remove the etcd of this machine-id, if there is one and root asks on a server; one that waits gets its vote then.
    Raises CommandFailed."""
    here = this_machine()
    if os.geteuid() != 0 or not here.has(layout.ETCD_YAML):
        return
    admin = local_admin()
    gone = next((member for member in ask_etcd(admin.members) if member.name == machine), None)
    if gone is None:
        return
    ask_etcd(lambda: admin.remove(gone))
    members = ask_etcd(admin.members)
    tell(f"Removed its etcd ({gone.host}): {describe_members(members)}")
    waiting = next((member for member in members if member.is_learner and member.has_started), None)
    if waiting is not None and should_vote(members):
        give_vote(admin, waiting)
        members = ask_etcd(admin.members)
    use_other_etcds(here, members)
