"""export: print the units, sets and settings of the cluster as a file."""

import sys
import time

from fleetctl import output
from fleetctl.command_line import new_command
from fleetctl.errors import CommandFailed, failing_as
from fleetctl.exports.file import render_export
from fleetctl.exports.gather import gather
from fleetctl.plans import open_patient_client
from fleetctl.settings import Settings
from fleetd import __version__


@new_command("export", usage="> FILE")
def command(settings: Settings) -> int:
    """Prints what makes the cluster what it is, as lines of JSON: units with their drop-ins, target states and sets,
    the settings of the cluster that are set, and its machines with their metadata and cordons.

    Never in it: secrets (fleetctl secret), certificates and keys, past versions, and what the cluster decides by
    itself. Whatever stands in unit files does, also in their Environment=. A change while it is read may be in it or
    not; each unit is as it was at one moment. A backup of etcd holds everything, at one revision.

    `import` gives the file to a cluster. `simulate` plays with it.
    """
    if sys.stdout.isatty():
        raise CommandFailed("export prints many lines for programs: fleetctl export > FILE", status=2)
    with failing_as("Error exporting the cluster: "):
        exported = gather(open_patient_client(settings))
    for line in render_export(exported, version=__version__, at=round(time.time())):
        output.write(line)
    return 0
