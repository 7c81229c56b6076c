"""`machine token` and `machine remove`: how machines come into the cluster, and out of it."""

from collections.abc import Sequence

from fleetctl import output
from fleetctl.client import Client, open_client
from fleetctl.errors import CommandFailed, failing_as
from fleetctl.machine_changes import change_machines
from fleetctl.settings import Settings
from fleetd.api import schema
from fleetd.model.join_token import refuse_machine_id
from fleetd.model.timespan import render_moment


def make_token(settings: Settings, words: Sequence[str], machine_id: str) -> int:
    """Print a token with which one machine can join. Returns the exit status."""
    if words:
        raise CommandFailed("machine token takes no arguments; --machine-id names the machine", status=2)
    if machine_id and (refusal := refuse_machine_id(machine_id)):
        raise CommandFailed(f"--machine-id: {output.printable(refusal)}; cat /etc/machine-id shows it there", status=2)
    client = open_client(settings)
    with failing_as("Error making a join token: "):
        made = client.machine_token(schema.MachineTokenRequest(machine_id))
    output.result(output.printable(made.token))
    url = output.printable(next(iter(made.servers), "https://SERVER:7443"))
    who = f"machine {machine_id[:8]}..." if machine_id else "one new machine"
    output.note(f"For {who}, until {render_moment(made.expires)}. There, as root: fleetd join {url} TOKEN")
    return 0


def remove_machines(settings: Settings, words: Sequence[str], force: bool) -> int:
    """Remove machines, each given by a prefix of its id. Returns the exit status."""

    def remove(client: Client, machine: str) -> None:
        from fleetctl.cluster.remove_server import take_out_of_etcd

        client.remove_machine(machine, force=force)
        take_out_of_etcd(machine)

    return change_machines(settings, words, remove, doing="removing", done="Removed")
