"""fd-forward: connect standard input and output to a unix socket, for fleetctl on the other side of SSH."""

import os
import select
import socket

import click

from fleetctl.command_line import new_command
from fleetctl.errors import CommandFailed, cause_of
from fleetctl.settings import Settings

CHUNK = 65536
STDIN, STDOUT = 0, 1


@new_command("fd-forward", usage="PATH", completes=("files",))
@click.argument("paths", nargs=-1)
def command(settings: Settings, paths: tuple[str, ...]) -> int:
    """Copies its input to the unix socket at PATH, and what arrives there to its output. --tunnel runs it on the
    bastion; there is no need to run it by hand.

    Exits with 0 when the socket or the output is closed, and with 1 if it cannot connect or copy.
    """
    if len(paths) != 1:
        raise CommandFailed("Provide a single argument")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as stream:
        try:
            stream.connect(paths[0])
        except OSError as error:
            why = f"dial unix {paths[0]}: {cause_of(error)}"
            raise CommandFailed(f"Failed dialing remote address: {why}") from error
        try:
            forward(stream)
        except OSError as error:
            raise CommandFailed(f"Encountered error during copy: {cause_of(error)}") from error
    return 0


def forward(stream: socket.socket) -> None:
    """Copy both ways until the socket or the output is closed. Raises OSError.

    The end of the input is not passed on: servers would close the connection before they answer.
    """
    watched = select.poll()
    for descriptor, event in ((stream.fileno(), select.POLLIN), (STDIN, select.POLLIN), (STDOUT, 0)):
        watched.register(descriptor, event)
    while True:
        ready = dict(watched.poll())
        if STDOUT in ready:
            return
        if STDIN in ready:
            if data := os.read(STDIN, CHUNK):
                stream.sendall(data)
            else:
                watched.unregister(STDIN)
        if stream.fileno() in ready:
            data = stream.recv(CHUNK)
            if not data:
                return
            while data:
                data = data[os.write(STDOUT, data) :]
