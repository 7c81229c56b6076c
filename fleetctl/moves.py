"""Follows the move of one unit to its end."""

import math
from typing import TYPE_CHECKING

from fleetctl import output
from fleetctl.errors import failing_as
from fleetctl.progress import ProgressLines
from fleetctl.wait import CLOCK, PATIENT, observe
from fleetctl.wakeups import Wakeups, about_units
from fleetd.api import schema

if TYPE_CHECKING:
    from fleetctl.client import Client

NOTICE_S = 3.0  # how long a unit must wait before that is printed
OVER = ("placed", "unplaced")
STARTING = {"starting": "is not proven yet on {}", "starting-first": "starts on {} first"}


def follow_move(client: "Client", name: str) -> schema.MoveReport:
    """Wait until the move is over, and say what the unit waits for. Returns the last report."""
    clock = CLOCK.get()
    waiting, since_s, said = "", clock.now(), ""
    wakeups = Wakeups(client, lambda: about_units([name]))
    with ProgressLines() as live, wakeups, failing_as(f"Error waiting for unit {name}: "):
        for report in observe(lambda: client.move_report(name), math.inf, pace=PATIENT, wakeups=wakeups):
            if report.state in OVER:
                break
            text = f"it {output.indented(report.reason)}"
            if report.state in STARTING:
                text = f"it {STARTING[report.state].format(output.place(report.machine, report.address))}"
            if text != waiting:
                waiting, since_s = text, clock.now()
            elif report.state == "waits" and clock.now() - since_s >= NOTICE_S and said != text:
                said = text
                live.clear()
                output.warning(f"Unit {name} {text.removeprefix('it ')}.")
            live.show({name: text})
    return report
