"""fleetd(8), from the parser of its command line."""

import argparse

from contrib.man import differences, roff
from fleetd.__main__ import build_parser

_DESCRIPTION = """
fleetd runs on every machine of a cluster. In etcd, the machines keep which units are wanted, as people say with
fleetctl(1). One of them leads, and decides which machine runs what; each starts and stops its units through its own
systemd, and reports how they stand. A machine that dies loses its units to the others. A cluster of one machine needs
no etcd.

fleetd is not the units' life line, nor is etcd. Restarted, upgraded, killed, or without a store, it leaves what runs
alone.
"""
_COMMANDS = (
    (
        "leave",
        "Hand all units of this machine to the others, wait for that, and leave the cluster. A restart of "
        "fleet.service joins again.",
    ),
    ("version", "Print the version."),
)
_SIGNALS = (
    (
        "SIGTERM, SIGINT",
        "End. systemd tells why: at a restart nobody notices. At a stop the units keep running, and the machine is "
        "parked: nobody else starts them until fleetd is back, `parked_ttl` is over, or `fleetctl forget-machine` "
        "gives the machine up. It takes three seconds at most; where the store does not answer, a transient unit, "
        "fleet-park.service, stays behind and parks the machine when it does. At a shutdown of the machine each unit "
        "is started elsewhere as soon as it has stopped here, unless it waits for the machine (`FailoverDelay`, "
        "fleet.unit(5)).",
    ),
    (
        "SIGHUP",
        "Read the configuration again. A configuration that cannot be used changes nothing. Units are not touched, but "
        "for those that other metadata does not suit: they go elsewhere, and the log says which and why beforehand.",
    ),
    ("SIGUSR1", "Write to standard output, in one line of JSON, what this fleetd has in mind."),
)
_FILES = (
    ("/etc/fleet/fleet.conf", "The configuration, see fleet.conf(5)."),
    ("/run/fleet.sock", "The API. Who may write here is root on the whole cluster: root and the group fleet."),
    ("/run/fleet/units/", "The unit files of this machine. Not to be changed by hand."),
    ("/var/lib/fleet/fleet.db", "The state of a cluster of one machine (`standalone`)."),
)
_DEATH = """
A machine that has been silent for `agent_ttl` is dead to the others, and its units are started elsewhere. When it
comes back, its copies stop once their replacements run. A store that is slow, frozen or gone kills no machine: nothing
is started elsewhere before every machine had `agent_ttl` to show itself again.

Two machines with one machine-id are told apart: the second is refused, and its log names both addresses.
"""
_API = """
Every fleetd serves the whole cluster's API over HTTP, on its socket and on the addresses of `listen`. Version 1 is
CoreOS fleet's, and describes itself at `/fleet/v1/discovery`. A list comes in pages: `limit` is how many entries one
may have, up to 10000, and `nextPageToken` asks for the next. Whatever is there all the while is listed once, whatever
comes and goes meanwhile, and however long that takes. A PUT of a unit with the header `If-None-Match: *` only creates
it, and is answered with 412 where there is one of that name.
"""
_VERSION_TWO = (
    (
        "GET /fleet/v2/units?name=NAME&…",
        "What was decided for these units (for all, where none is named) and why, and how each copy stands.",
    ),
    ("POST /fleet/v2/reports", 'The same on the units of the body, `{"names": [NAME, …]}`, be they ever so many.'),
    (
        "POST /fleet/v2/units",
        'Operations on many units: `{"operations": [{"name": NAME, "options": […], "desiredState": STATE}, …]}`, as '
        'version 1 takes it of one; with `"onlyNew": true` the unit is only created, with `"destroy": true` destroyed. '
        'The answer is `{"results": [{"name": NAME, "code": STATUS, "message": TEXT}, …]}`, in the same order, with '
        "the status and the message that version 1 answers with; the trouble of one unit hinders no other. At most "
        "1000 units in 2 MiB; a unit file has at most 256 KiB.",
    ),
    (
        "POST /fleet/v2/restart",
        'Restart the units of the body, `{"names": [NAME, …]}`, wherever they run, as `systemctl restart` does. The '
        "answer is as above. What is wanted of them stays as it is; one that is wanted on no machine is refused: 409.",
    ),
    (
        "DELETE /fleet/v2/machines/ID",
        "Give up a machine that is parked: it counts as dead, and its units are started elsewhere. 409 where it is not "
        "parked.",
    ),
    ("POST /fleet/v2/leave", "What `fleetd leave` does; on the machine's own socket only."),
    (
        "GET /health, GET /metrics",
        "Whether this fleetd and its store answer; its counters, for Prometheus. The sockets of `metrics_listen` show "
        "these two alone, to everybody.",
    ),
)


_CONFINEMENT = """
fleet.service confines fleetd to what it needs: below /run and /var/lib/fleet it may write, elsewhere it reads. Where
`units_directory`, `standalone_path` or a path of `listen` are elsewhere, `systemctl edit fleet` adds `ReadWritePaths=`
for their directories. It may use at most 2 GiB of memory (`MemoryMax=`); the units of the machine are not in its
cgroup, and run on whatever becomes of it.

Who connects to a unix socket of the API is known by what the kernel says of the process: root, the user of fleetd, and
members of the group `fleet`, or of the group that owns the socket, are answered, others get 403. What counts are the
groups that the process had when it connected, supplementary ones among them: who was added to the group logs in anew.
"""


def page() -> roff.Page:
    """The page fleetd(8)."""
    parser = build_parser()
    body = (
        roff.section("Synopsis", ".PP\n\\fBfleetd\\fR [\\fIoptions\\fR] [\\fBleave\\fR | \\fBversion\\fR]"),
        roff.section("Description", roff.paragraph(_DESCRIPTION)),
        roff.section("Commands", roff.entries((roff.bold(name), text) for name, text in _COMMANDS)),
        roff.section("Options", roff.entries(_option(action) for action in options_of(parser))),
        roff.section("Signals", roff.entries((roff.bold(name), text) for name, text in _SIGNALS)),
        roff.section("Machines that die", roff.paragraph(_DEATH)),
        roff.section(
            "The API", roff.paragraph(_API), roff.entries((roff.bold(request), text) for request, text in _VERSION_TWO)
        ),
        roff.section("Confinement", roff.paragraph(_CONFINEMENT)),
        roff.section("Files", roff.entries((f"\\fI{roff.escape(path)}\\fR", text) for path, text in _FILES)),
        differences.section(differences.FLEETD),
        roff.see_also(["fleetctl(1)", "fleet.conf(5)", "fleet.unit(5)", "systemd(1)", "journalctl(1)"]),
    )
    return roff.Page("fleetd", 8, "the agent and engine of a fleet cluster", body)


def options_of(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    """What may be given beside the command."""
    return [action for action in parser._actions if action.option_strings]  # no public way leads there


def _option(action: argparse.Action) -> tuple[str, str]:
    spelling = ", ".join(roff.bold(option) for option in action.option_strings)
    value = f" \\fI{action.metavar}\\fR" if isinstance(action.metavar, str) else ""
    text = action.help or ""
    return spelling + value, f"{text[:1].upper()}{text[1:]}."
