"""list-machines: list the machines of the cluster."""

import time
from collections.abc import Sequence

from fleetctl import output
from fleetctl.client import Client, open_client
from fleetctl.command_line import new_command
from fleetctl.errors import failing_as
from fleetctl.listing import WATCH_FLAG, Columns, Listing, Values, View, list_command
from fleetctl.settings import Settings
from fleetd.api import schema
from fleetd.model.timespan import render_moment


def _describe_cordon(cordon: schema.Cordon) -> dict[str, str | float]:
    """The cordon in JSON; `at` is a Unix time."""
    return {"why": cordon.why, "by": cordon.by, "at": cordon.at}


def _describe_drain(drain: schema.Drain) -> dict[str, str | float | bool]:
    """The drain in JSON; `at` and `deadline` are Unix times."""
    names = zip(drain.__struct_encode_fields__, drain.__struct_fields__, strict=True)
    return {name: getattr(drain, field) for name, field in names}


COLUMNS: Columns[schema.Machine] = {
    "ip": lambda machine, full: machine.primary_ip or "-",
    "machine": lambda machine, full: output.short_id(machine.id, full),
    "metadata": lambda machine, full: (
        ",".join(f"{key}={value}" for key, value in sorted(machine.metadata.items())) or "-"
    ),
    "mode": lambda machine, full: machine.mode or "-",
    "cordon": lambda machine, full: (machine.cordon.why or "yes") if machine.cordon else "-",
    "drain": lambda machine, full: "yes" if machine.drain else "-",
    "reboot": lambda machine, full: machine.reboot or ("required" if machine.reboot_required else "-"),
    "reboot_required": lambda machine, full: machine.reboot_required or "-",
    "certificate": lambda machine, full: (
        render_moment(machine.certificate_expires) if machine.certificate_expires else "-"
    ),
}
VALUES: Values[schema.Machine] = {
    "machine": lambda machine: machine.id,
    "ip": lambda machine: machine.primary_ip or None,
    "metadata": lambda machine: machine.metadata,
    "mode": lambda machine: machine.mode or None,
    "cordon": lambda machine: _describe_cordon(machine.cordon) if machine.cordon else None,
    "drain": lambda machine: _describe_drain(machine.drain) if machine.drain else None,
    "reboot": lambda machine: machine.reboot or None,
    "reboot_required": lambda machine: machine.reboot_required or None,
    "certificate": lambda machine: machine.certificate_expires or None,
}
MODES = {
    "parked": "is parked: its fleetd was stopped; its units keep running there, and stay there until it is started "
    "again or `fleetctl forget-machine {id}` removes the machine",
    "leaving": "is leaving: its units move to other machines",
}
CERTIFICATE_WARNING_S = 7 * 86400.0  # before it expires: it was to be renewed three days earlier
FAILURE = ("Error retrieving list of active machines from fleet API (", ")")
# Whatever is asked for may change what is listed of a machine.
_MACHINE_EVENTS = [("kind", kind) for kind in ("asked", "drain", "reboot", "joined", "lost", "back", "left")]
LISTING = Listing(COLUMNS, VALUES, default="machine,ip,metadata")


@new_command(
    "list-machines",
    usage="[-w] [--full] [--no-legend] [--fields=FIELD,...] [--output=json] [MACHINE...]",
    completes=("machines",),
)
@list_command(LISTING)
@WATCH_FLAG
def command(settings: Settings, view: View[schema.Machine], watch: bool) -> int:
    """Lists the machines by id; with prefixes of ids, only those. Machines that are parked, leaving, cordoned, drained,
    in the queue of reboots, that want to be rebooted, or whose certificate is about to expire, are named on standard
    error. With -w it goes on with the lines that change; of a machine that is gone, all but its id is empty."""
    client = open_client(settings)
    if watch:
        return _watch(client, view)
    with failing_as(*FAILURE):
        machines = _read_machines(client, view)
    view.show(machines)
    reboots = _read_reboots(client, machines)
    for machine in machines:
        place = output.place(machine.id, machine.primary_ip, view.full)
        if machine.mode in MODES:
            output.note(f"machine {place} {MODES[machine.mode].format(id=machine.id[:8])}")
        if machine.drain:
            output.note(f"machine {place} {_explain_drain(client, machine, machine.drain)}")
        elif machine.cordon:
            output.note(f"machine {place} {_explain_cordon(machine.cordon, machine.id[:8])}")
        if machine.reboot and machine.id in reboots:
            output.note(f"machine {place} {_explain_reboot(reboots[machine.id])}")
        elif machine.reboot_required:
            why = output.printable(machine.reboot_required)
            output.note(f"machine {place} wants to be rebooted ({why}): fleetctl reboot {machine.id[:8]}")
        if 0 < machine.certificate_expires < time.time() + CERTIFICATE_WARNING_S:
            output.note(f"machine {place} {_explain_certificate(machine.certificate_expires)}")
    return 0


def _read_machines(client: Client, view: View[schema.Machine]) -> list[schema.Machine]:
    """Those that are asked for, by id."""
    machines = sorted(client.machines(), key=lambda machine: machine.id)
    if not view.names:
        return machines
    from fleetctl.unit_locations import has_id  # imported late: rarely needed

    return [machine for machine in machines if any(has_id(machine.id, text) for text in view.names)]


def _watch(client: Client, view: View[schema.Machine]) -> int:
    from fleetctl.event_stream import list_and_follow  # imported late: rarely needed
    from fleetctl.list_watch import WatchedList

    rows: WatchedList[schema.Machine] = WatchedList(
        view, lambda machine: machine.id, lambda machine: schema.Machine(machine.id)
    )
    with failing_as(*FAILURE):
        for event in list_and_follow(client, lambda: rows.show(_read_machines(client, view)), _MACHINE_EVENTS):
            if event.machine:
                rows.show(_read_machines(client, view))
    return 0


def _read_reboots(client: Client, machines: Sequence[schema.Machine]) -> dict[str, schema.RebootReport]:
    """The queue of reboots, if one of these machines is in it."""
    if not any(machine.reboot for machine in machines):
        return {}
    with failing_as("Error retrieving the queue of reboots: "):
        return client.reboots()


def _explain_reboot(report: schema.RebootReport) -> str:
    by = f" by {output.printable(report.by)}" if report.by else ""
    remedy = f"; {output.printable(report.remedy)}" if report.remedy else f" (its reboot was asked for{by})"
    return output.printable(report.reason) + remedy


def _explain_certificate(expires_s: float) -> str:
    state = "has" if expires_s < time.time() else "will have"
    return (
        f"{state} no valid certificate from {render_moment(expires_s)} on: it has not been renewed; the journal of its "
        "fleetd says why (journalctl -u fleet)"
    )


def _explain_cordon(cordon: schema.Cordon, id_: str) -> str:
    why = f" ({output.printable(cordon.why)})" if cordon.why else ""
    what = f"is cordoned{_since(cordon)}{why}"
    return f"{what}: it takes no new units but global ones, until `fleetctl uncordon {id_}`"


def _explain_drain(client: Client, machine: schema.Machine, drain: schema.Drain) -> str:
    from fleetctl.drains import describe_end  # imported late: rarely needed

    with failing_as("Error retrieving the drain of a machine: "):
        report = client.drain_report(machine.id)
    why = f": {output.printable(machine.cordon.why)}" if machine.cordon and machine.cordon.why else ""
    asked = f"({_since(drain).strip()}{why})"
    return f"{describe_end(report)} {asked}, until `fleetctl uncordon {machine.id[:8]}`"


def _since(asked: schema.Cordon | schema.Drain) -> str:
    """By whom, and since when."""
    by = f" by {output.printable(asked.by)}" if asked.by else ""
    return f"{by} since {render_moment(asked.at)}"
