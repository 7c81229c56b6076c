"""template: keep a file up to date with what units announce."""

from pathlib import Path

import click

from fleetctl import output
from fleetctl.client import Client, open_client
from fleetctl.command_line import flag, new_command
from fleetctl.endpoint import choose_endpoint, tls_contexts
from fleetctl.errors import ClientError, CommandFailed, failing_as
from fleetctl.settings import Settings
from fleetctl.templates import Target, Template, usable
from fleetctl.wait import CLOCK

WAIT_S = 60  # for a change, in one request
REST_S = 0.5  # between two changes
RETRY_S = 5.0
MARGIN_S = 10.0


@new_command("template", usage="FILE TARGET [--check=CMD] [--run=CMD] [--once]", completes=("files",))
@click.option("--check", default="", help="command that has to succeed with the new file, as in 'nginx -t'")
@click.option("--run", "run", default="", help="command to run after a change, as in 'systemctl reload nginx'")
@flag("--once", text="write the file once and exit; otherwise it is kept up to date until the command is ended")
@click.argument("paths", nargs=-1, metavar="FILE TARGET")
def command(settings: Settings, paths: tuple[str, ...], check: str, run: str, once: bool) -> int:
    """Renders a template, in the syntax of Jinja2, into a file, and again whenever its text would change because of
    what units announce (Announce= in fleet.unit(5)).

    In it, `service("web")` is the list of units that announce web and pass their checks, each with `unit`, `machine`,
    `address`, `port`, `protocol` and `zone`; `services` has all such lists by name.

    The file is replaced as a whole, and only by another text. Then the command of --check is run; if it fails, the
    former file is put back. Then that of --run is run, again each 5 seconds while it fails. Both are for the shell, and
    have 60 seconds. While the cluster does not answer, the file stays as it is. A loop has at most 100,000 rounds, and
    the text 16 MiB. A template that was changed counts within a minute; one that is wrong is said at once when the
    command begins, and later on stderr, while the file stays.
    """
    if len(paths) != 2:
        raise CommandFailed("template needs two files: the template, and the one to write")
    template, target = Template(Path(paths[0])), Target(Path(paths[1]), check, run)
    template.check()
    target.check(template.path)
    client = _open_patient(settings)
    if once:
        with failing_as("Error retrieving what units announce: "):
            found = client.services()
        target.write(template.render(usable(found.services)))
        return 0
    follow(client, template, target)
    return 0


def _open_patient(settings: Settings) -> Client:
    """A client that waits for changes."""
    client = open_client(settings)
    endpoint = choose_endpoint(settings)
    tls = tls_contexts(settings, endpoint) if endpoint.tls else ()
    return Client(endpoint, max(settings.request_timeout_s, WAIT_S + MARGIN_S), tls, client.bastion)


def follow(client: Client, template: Template, target: Target) -> None:
    """Keep the file up to date, until an interrupt. What fails is said once, and tried again; but what is wrong from
    the beginning ends the command."""
    index, complaint, has_written = 0, "", False
    while True:
        try:
            found = client.services(index=index, wait_s=WAIT_S)
            target.write(template.render(usable(found.services)))
        except (ClientError, CommandFailed) as error:
            if isinstance(error, CommandFailed) and not has_written:
                raise
            if str(error) != complaint:
                output.error(str(error))
            index, complaint = 0, str(error)
            CLOCK.get().sleep(RETRY_S)
            continue
        index, complaint, has_written = found.index, "", True
        CLOCK.get().sleep(REST_S)
