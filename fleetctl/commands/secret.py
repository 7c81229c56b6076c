"""secret: list, set and remove secrets."""

import os

from fleetctl import output
from fleetctl.client import Client, open_client
from fleetctl.command_line import flag, new_command
from fleetctl.errors import CommandFailed, failing_as
from fleetctl.listing import Columns, Listing, Values, View, list_command
from fleetctl.settings import Settings
from fleetd.api import schema
from fleetd.model.secret import MAX_SECRET_BYTES, refuse_secret_name, refuse_secret_value
from fleetd.model.timespan import render_moment

SHOWN_UNITS = 3


def render_units(secret: schema.SecretReport) -> str:
    """The units that name it, or the first of them."""
    more = f" and {len(secret.units) - SHOWN_UNITS} more" if len(secret.units) > SHOWN_UNITS else ""
    return ",".join(secret.units[:SHOWN_UNITS]) + more or "-"


COLUMNS: Columns[schema.SecretReport] = {
    "secret": lambda secret, full: secret.name,
    "version": lambda secret, full: str(secret.version),
    "previous": lambda secret, full: str(secret.previous or "-"),
    "size": lambda secret, full: str(secret.size),
    "set": lambda secret, full: render_moment(secret.at),
    "by": lambda secret, full: secret.by or "-",
    "units": lambda secret, full: render_units(secret),
}
VALUES: Values[schema.SecretReport] = {
    "secret": lambda secret: secret.name,
    "version": lambda secret: secret.version,
    "previous": lambda secret: secret.previous or None,
    "size": lambda secret: secret.size,
    "set": lambda secret: secret.at,
    "by": lambda secret: secret.by or None,
    "units": lambda secret: list(secret.units),
}
LISTING = Listing(COLUMNS, VALUES, default="secret,version,set,by,units")
_USAGE = "[list] [--no-legend] [--fields=FIELD,...] [--output=json] | set NAME < FILE | revert NAME | rm [--force] NAME"
_VERBS = ("list", "set", "revert", "rm")


@new_command("secret", usage=_USAGE, completes=("secrets",))
@flag("--force", text="with rm: also while units name the secret")
@list_command(LISTING)
def command(settings: Settings, view: View[schema.SecretReport], *, force: bool) -> int:
    """Lists the secrets of the cluster, without their values. set gives one the value that standard input holds, revert
    goes back to the version before, rm removes one.

    A unit gets a secret with `Secret=NAME` in [X-Fleet] and `LoadCredential=NAME:/run/fleet/credentials.sock` in
    [Service] (fleet.unit(5)). After set and revert, the units that run with the secret are restarted one after
    the other, as `fleetctl rollout restart` does. A value has at most 64 KiB, and may hold any bytes.
    """
    verb, *words = view.names or ("list",)
    if verb not in _VERBS:
        raise CommandFailed(f"{output.printable(verb)} is neither {', '.join(_VERBS[:-1])} nor {_VERBS[-1]}", status=2)
    if force and verb != "rm":
        raise CommandFailed("--force is for secret rm alone", status=2)
    if verb == "list":
        if words:
            raise CommandFailed("secret list takes no name", status=2)
        with failing_as("Error retrieving the secrets of the cluster: "):
            view.show(open_client(settings).secrets())
        return 0
    if len(words) != 1:
        raise CommandFailed(f"secret {verb} takes the name of one secret", status=2)
    name = words[0]
    if refusal := refuse_secret_name(name):
        raise CommandFailed(refusal, status=2)
    if verb == "rm":
        with failing_as(f"Error removing the secret {name}: "):
            open_client(settings).remove_secret(name, force=force)
        output.result(f"Removed the secret {name}")
        return 0
    change = schema.SecretChange(_read_value(name)) if verb == "set" else schema.SecretChange(previous=True)
    return _change(open_client(settings), name, change)


def _read_value(name: str) -> bytes:
    """The value, from standard input. Raises CommandFailed."""
    if os.isatty(0):
        raise CommandFailed(
            f"secret set reads the value from standard input: fleetctl secret set {name} < FILE", status=2
        )
    with open(0, "rb", closefd=False) as given:
        value = given.read(MAX_SECRET_BYTES + 1)
        size = len(value)
        while len(value) > MAX_SECRET_BYTES and (more := given.read(65536)):
            size += len(more)
    if refusal := refuse_secret_value(value, size):
        raise CommandFailed(f"Error setting the secret {name}: {refusal}")
    return value


def _change(client: Client, name: str, change: schema.SecretChange) -> int:
    with failing_as(f"Error setting the secret {name}: "):
        changed = client.set_secret(name, change)
    output.result(f"Set the secret {name} (version {changed.version})")
    for group in map(output.printable, changed.restarting):
        output.result(f"Restarting {group}; fleetctl rollout status --wait {group} follows it")
    for left in changed.unrestarted:
        group, why = output.printable(left.group), output.printable(left.why)
        output.warning(f"{group} is not restarted, and runs with the version that it has: {why}")
    return 0
