"""ui: open the web page of the cluster in a browser."""

import os
import secrets
import threading
from contextlib import closing
from typing import TYPE_CHECKING

import click

from fleetctl import output
from fleetctl.command_line import flag, new_command
from fleetctl.errors import CommandFailed, cause_of, failing_as
from fleetctl.settings import Settings

if TYPE_CHECKING:
    from fleetctl.page.upstream import Upstream

FAILURE = "Error opening the web page: "
NO_PAGE = "this fleetd has no web page: upgrade it, or name another server with --endpoint"


@new_command("ui", usage="[--no-browser] [--port=PORT]")
@flag("--no-browser", text="only print the address")
@click.option(
    "--port", type=click.IntRange(0, 65535), default=0, help="port of this machine to serve the page on (default: any)"
)
def command(settings: Settings, no_browser: bool, port: int) -> int:
    """Opens the web page of the cluster in your browser: its machines, units, rollouts, drains, reboots and events, and
    of each unit why it is where it is, and its log. What you may do, you can do there; first it shows what would come
    of it.

    The page is on a port of this machine, while the command runs; Ctrl-C ends it. Whatever it asks for goes the way of
    all commands, over the socket, https or --tunnel, and with your rights: on the other machines nothing need listen.
    The address that is printed has a token, which is good for one browser, once. No other user of this machine, and no
    other web page, reaches the cluster through it.

    Where there is no browser, as on a server, say --no-browser --port=7080 there, and ssh -L 7080:127.0.0.1:7080
    SERVER here.
    """
    from fleetctl.page.server import PageServer
    from fleetctl.page.upstream import Upstream

    with closing(Upstream(settings)) as upstream:
        _check(upstream)
        try:
            server = PageServer(port, upstream, lambda: secrets.token_urlsafe(32), is_foreign)
        except OSError as error:
            raise CommandFailed(
                f"port {port} of this machine cannot be used: {cause_of(error)}; leave --port out for any other"
            ) from error
        with server:
            output.result(server.gate.address)
            output.note("The address is good for one browser, once. Ctrl-C ends the page.")
            if not no_browser:
                threading.Thread(target=_open, args=(server.gate.address,), daemon=True).start()
            try:
                server.serve_forever()
            except KeyboardInterrupt:
                return 0
    return 0


def _check(upstream: "Upstream") -> None:
    """Raises CommandFailed if fleetd does not answer, or has no page for this person."""
    from fleetctl.page.server import PAGE

    with failing_as(FAILURE), upstream.ask("GET", PAGE, None, {}) as (response, _):
        content = response.read()
        if response.status in (404, 405):
            raise CommandFailed(FAILURE + NO_PAGE)
        if response.status != 200:
            raise CommandFailed(FAILURE + _reason(response.status, content))


def _reason(status: int, content: bytes) -> str:
    import msgspec

    from fleetd.api import schema
    from fleetd.model.decoding import UNREADABLE

    try:
        return output.printable(msgspec.json.decode(content, type=schema.ErrorEntity).error.message)
    except UNREADABLE:
        return f"fleetd answers {status}; check --endpoint"


def is_foreign(peer: tuple[str, int], own: tuple[str, int]) -> bool:
    """True for a connection of another user of this machine: neither root, nor who has run this, by sudo perhaps; and
    for one that was closed at once, since it could be anybody's."""
    from fleetctl.page.owners import find_owner, tells_owners

    owner = find_owner(peer, own)
    if owner is None:
        return tells_owners()
    if owner in (0, os.getuid()) or str(owner) == os.environ.get("SUDO_UID"):
        return False
    output.warning(f"a connection of another user of this machine was refused (user id {owner})")
    return True


def _open(address: str) -> None:
    """Open the address, unless there is no display: a browser in this terminal would show nothing of the page."""
    import sys
    import webbrowser

    if sys.platform == "linux" and not any(os.environ.get(name) for name in ("BROWSER", "DISPLAY", "WAYLAND_DISPLAY")):
        output.note("There is no display here to open a browser on: open the address yourself.")
        return
    if not webbrowser.open(address):
        output.note("No browser could be opened: open the address yourself.")
