"""top: watch machines, units and events."""

import sys

from fleetctl import output, terminal
from fleetctl.client import Client, open_client
from fleetctl.command_line import new_command
from fleetctl.endpoint import choose_endpoint, tls_contexts
from fleetctl.errors import CommandFailed, failing_as
from fleetctl.settings import Settings

LOG_TIMEOUT_S = 30.0
LOWEST_TEXTUAL = "1.0"  # as in pyproject.toml
HOW_TO_INSTALL = (
    "top needs the library Textual, which is not installed (fleet's extra `top`): "
    f"{sys.executable} -m pip install 'textual>={LOWEST_TEXTUAL}'"
)


@new_command("top")
def command(settings: Settings) -> int:
    """Watches the cluster at a terminal: its machines, its units, and what happens. It changes nothing.

    The lists follow the events of the cluster; of an older fleetd, which tells none, they are read each 2 seconds. If a
    read takes long, the next one waits four times as long. Keys:

    1, 2, 3, Tab   the machines, the units, the events
    Up, Down       move; Page Up, Page Down, Home and End, too
    Enter          of a unit: where it is and why, and the last lines of its log; of a machine: its units
    /              filter: words that all have to be found in names, states, machines, addresses, metadata or what units
                   announce; !WORD must not; a pattern, as of systemctl, has to match the whole name. Escape ends it
    s, S           sort by the next column; in the other direction. At first, units in trouble come first
    g              show the units of a template as one line, which Enter opens; or each alone
    r              read now
    q              quit
    """
    if not (sys.stdin.isatty() and terminal.is_watched(sys.stdout)):
        raise CommandFailed("top needs a terminal; fleetctl list-units, list-machines and journal write into pipes")
    try:
        from fleetctl.live.app import ListScreen, Top
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] not in ("textual", "rich"):
            raise
        raise CommandFailed(HOW_TO_INSTALL) from error
    from fleetctl.live.feed import ANNOUNCED_WAIT_S, DetailReader, Feed, read_lists
    from fleetctl.live.state import LiveState

    client = open_client(settings)
    with failing_as("Error retrieving the lists of machines and units: "):
        first = read_lists(client)
    output.set_debugging(False)  # its lines would garble the screen

    def connect(patience_s: float) -> Client:
        """Another connection to the same place, for answers that may take so long."""
        endpoint = choose_endpoint(settings)
        tls = tls_contexts(settings, endpoint) if endpoint.tls else ()
        return Client(endpoint, max(settings.request_timeout_s, patience_s), tls, client.bastion)

    feed = Feed(client, first, patient=lambda: connect(ANNOUNCED_WAIT_S + LOG_TIMEOUT_S))
    reader = DetailReader(lambda: connect(LOG_TIMEOUT_S))  # machines that are asked for their logs may take their time
    feed.start()
    try:
        Top(ListScreen(choose_endpoint(settings).text, LiveState(), feed, reader.read)).run()
    finally:
        feed.stop()
    return 0
