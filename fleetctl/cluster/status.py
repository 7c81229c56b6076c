"""`cluster status`: what the cluster consists of, and who reaches its store."""

import time
from collections.abc import Sequence

from fleetctl import output
from fleetctl.client import open_client
from fleetctl.errors import failing_as
from fleetctl.listing import JSON
from fleetctl.settings import Settings
from fleetd.api import schema
from fleetd.model.certificate import SERVER, WORKER
from fleetd.model.timespan import render_moment

WARN_BEFORE_S = 7 * 86400.0


def show_status(settings: Settings, form: str) -> int:
    """Print what the cluster consists of; returns the exit status."""
    with failing_as("Error retrieving the status of the cluster: "):
        report = open_client(settings).cluster()
    if form == JSON:
        import msgspec

        output.result(msgspec.json.format(msgspec.json.encode(report), indent=2).decode())
        return 0
    output.result(describe_authority(report.authorities))
    output.result(describe_store(report.members))
    output.result(describe_access(report))
    members = {member.id: member for member in report.members}
    rows = [["MACHINE", "IP", "ROLE", "ETCD", "CERTIFICATE"]]
    for machine in report.machines:
        until = render_moment(machine.certificate_expires) if machine.certificate_expires else "-"
        row = [output.short_id(machine.id, False), machine.address, machine.role, _etcd_of(machine, members), until]
        rows.append([output.printable(cell) or "-" for cell in row])
    output.result(output.render_table(rows))
    for machine in report.machines:
        if 0 < machine.certificate_expires < time.time() + WARN_BEFORE_S:
            output.warning(
                f"warning: the certificate of {output.place(machine.id, output.printable(machine.address))} expires "
                f"on {render_moment(machine.certificate_expires)}: its log says why it is not renewed"
            )
    return 0


def describe_authority(authorities: Sequence[schema.AuthorityReport]) -> str:
    """The authority that signs."""
    if not authorities:
        return "Authority: none, since no machine serves https (listen=https://:7443)"
    import ssl

    from fleetd.trust import x509

    *former, signing = authorities
    until = render_moment(ssl.cert_time_to_seconds(str(x509.describe(signing.certificate)["notAfter"])))
    key = f"its key is in {signing.key_file} here" if signing.key_file else "its key is not in a file here"
    also = f"; {len(former)} former still trusted" if former else ""
    return output.printable(f"Authority: {signing.number}, until {until}; {key}{also}")


def describe_store(members: Sequence[schema.StoreMember]) -> str:
    """The members of etcd: those that vote decide how many may fail."""
    if not members:
        return "Store: on this machine alone"
    voters = [member for member in members if member.vote]
    count = f"etcd with {len(voters)} voting member{'s' * (len(voters) != 1)}"
    ill = [output.printable(member.name[:8] or member.id) for member in voters if not member.healthy]
    spare = (len(voters) - 1) // 2 - len(ill)
    health = f"{', '.join(ill)} not healthy" if ill else "healthy"
    return f"Store: {count}, {health}; {max(spare, 0) or 'none'} {'more ' * bool(ill)}may fail"


def describe_access(report: schema.ClusterReport) -> str:
    """Whether only servers reach etcd: those that serve https or have a member of it."""
    if not any(machine.role == WORKER or machine.https for machine in report.machines):
        return "Access: every machine reaches the store, so root on one machine is root on all"
    others = [
        output.place(machine.id, machine.address)
        for machine in report.machines
        if machine.role == SERVER and not machine.https and not machine.etcd_member
    ]
    if not others:
        return "Access: only servers reach the store"
    listed = output.printable(", ".join(others))
    return f"Access: not enforced; these are neither servers nor workers, and reach the store: {listed}"


def _etcd_of(machine: schema.ClusterMachine, members: dict[str, schema.StoreMember]) -> str:
    """What the machine has to do with etcd."""
    if machine.role == WORKER:
        return "-"
    member = members.get(machine.etcd_member)
    if member is None:
        return "client"
    return "copy" if not member.vote else "votes" if member.healthy else "not healthy"
