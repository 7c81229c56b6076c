"""services: list what units announce."""

from collections.abc import Callable, Sequence

from fleetctl import output
from fleetctl.client import Client, open_client
from fleetctl.command_line import new_command
from fleetctl.errors import ClientError, CommandFailed, failing_as
from fleetctl.listing import Columns, Listing, Values, View, list_command
from fleetctl.settings import Settings
from fleetctl.suggestion import nearest, render_hint
from fleetd.api import schema
from fleetd.model.name_patterns import compile_name_pattern, is_name_pattern

ANNOUNCED = "announced"

COLUMNS: Columns[schema.Service] = {
    "service": lambda each, full: each.service,
    "unit": lambda each, full: each.unit,
    "machine": lambda each, full: output.short_id(each.machine, full),
    "address": lambda each, full: each.address or "-",
    "port": lambda each, full: f"{each.port}/{each.protocol}",
    "zone": lambda each, full: each.zone or "-",
    "state": lambda each, full: each.failing or ANNOUNCED,
}
VALUES: Values[schema.Service] = {
    "service": lambda each: each.service,
    "unit": lambda each: each.unit,
    "machine": lambda each: each.machine,
    "address": lambda each: each.address or None,
    "port": lambda each: each.port,
    "protocol": lambda each: each.protocol,
    "zone": lambda each: each.zone or None,
    "failing": lambda each: each.failing or None,
}
LISTING = Listing(COLUMNS, VALUES, default="service,unit,machine,address,port,state")


@new_command(
    "services",
    usage="[--full] [--no-legend] [--fields=FIELD,...] [--output=json] [NAME...]",
    completes=("services",),
)
@list_command(LISTING)
def command(settings: Settings, view: View[schema.Service]) -> int:
    """Lists which units on which machines answer to the names that units announce (Announce=, see fleet.unit(5)), and
    at which ports; with names or patterns, only those. One whose check fails is listed with the reason, and is not
    announced. It fails if nothing is listed of a name or pattern that was given."""
    client = open_client(settings)
    names = tuple(dict.fromkeys(view.names))
    with failing_as("Error retrieving what units announce: "):
        only = names[0] if len(names) == 1 and not is_name_pattern(names[0]) else ""
        found = client.services(only).services
    wanted = [_matcher(name) for name in names]
    chosen = [each for each in found if not names or any(matches(each.service) for matches in wanted)]
    view.show(sorted(chosen, key=lambda each: (each.service, each.unit, each.machine, each.port, each.protocol)))
    missing = [
        name for name, matches in zip(names, wanted, strict=True) if not any(matches(each.service) for each in found)
    ]
    if missing:
        raise CommandFailed(_describe_missing(client, missing))
    return 0


def _matcher(name: str) -> Callable[[str], bool]:
    """Whether a service has this name, or matches this pattern."""
    if not is_name_pattern(name):
        return name.__eq__
    expression = compile_name_pattern(name)
    return lambda service: expression.match(service) is not None


def _describe_missing(client: Client, names: Sequence[str]) -> str:
    """The error for names and patterns of which nothing is listed; with similar names that there are."""
    shown = ", ".join(map(output.printable, names))
    text = f"No unit that is active announces {shown}: fleetctl status UNIT shows the units that should"
    try:
        known = {each.service for each in client.services().services}
    except ClientError:
        return text  # which matters more
    hint = render_hint(list(dict.fromkeys(other for name in names for other in nearest(name, known))))
    return f"{text}\n{hint}".rstrip()
