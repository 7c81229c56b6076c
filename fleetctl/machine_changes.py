"""What the commands that change machines have in common: machines given by prefixes of their ids, one after another."""

import re
from collections.abc import Callable, Sequence

from fleetctl import output
from fleetctl.client import Client, open_client
from fleetctl.errors import ClientError, CommandFailed, failing_as
from fleetctl.settings import Settings
from fleetctl.unit_locations import Location, all_locations, match_machines

_FULL_ID = re.compile(r"[0-9a-f]{32}", re.ASCII)


def change_machines(
    settings: Settings, texts: Sequence[str], change: Callable[[Client, str], None], *, doing: str, done: str
) -> int:
    """Call `change` with each machine's id; `doing` and `done` are its words for people ("Cordoning", "Cordoned").
    Returns the exit status: one machine that fails does not stop the others."""
    changed = change_each(open_client(settings), texts, change, doing, lambda place: f"{done} machine {place}")
    return 0 if len(changed) == len(texts) else 1


def change_each(
    client: Client,
    texts: Sequence[str],
    change: Callable[[Client, str], None],
    doing: str,
    describe: Callable[[Location], str],
    absent: Sequence[Location] = (),
) -> list[Location]:
    """The same with a client; returns the machines that were changed, of each of which `describe` tells ('': nothing is
    printed). `absent` are machines that may be meant as well, and need not be there."""
    if not texts:
        raise CommandFailed("No machines given")
    with failing_as("Error retrieving list of active machines from fleet API (", ")"):
        places = all_locations(client)
    known = {place.machine for place in places}
    places += [place for place in absent if place.machine not in known]
    changed = []
    for text in texts:
        try:
            place = pick_machine(places, text)
            change(client, place.machine)
        except CommandFailed as error:
            output.error(str(error))
        except ClientError as error:
            output.error(f"Error {doing} machine {place}: {error}")
        else:
            changed.append(place)
            if told := describe(place):
                output.result(told)
    return changed


def pick_machine(places: Sequence[Location], text: str) -> Location:
    """The machine with this prefix of its id, or, with this whole id, one that is absent. Raises CommandFailed."""
    found = match_machines(places, text)
    if len(found) == 1:
        return found[0]
    if not found and _FULL_ID.fullmatch(text):
        return Location(text, "")
    why = f"is a prefix of {', '.join(map(str, found))}" if found else "is not a machine of the cluster"
    raise CommandFailed(f"{output.printable(text)} {why}")
