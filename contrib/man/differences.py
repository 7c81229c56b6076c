"""Where fleet differs from CoreOS fleet on purpose: what somebody must know who comes from there, by page."""

from contrib.man import roff

FLEETCTL = (
    ("Exit status", "Unknown commands, unknown options and malformed ones fail with 2; there it was 0."),
    (
        "start",
        "Succeeds for a oneshot that has completed, and waits for a slow unit as long as it is told to; there both "
        "failed after two seconds. A service that dies within a tenth of a second is a failure. A unit that has "
        "failed or ended is started again. What keeps a unit from running is said.",
    ),
    (
        "submit, load, start",
        "A unit that is refused hinders no other of the command, which ends with 1 all the same; there the first one "
        "ended it.",
    ),
    (
        "stop, unload",
        "Look at what is wanted of a unit, so that one which fits nowhere can be withdrawn, too. `stop` goes on after "
        "a unit that it must leave.",
    ),
    ("restart", "Restarts. There it did nothing. An inactive unit is a failure; there the status was 0."),
    ("destroy", "Returns when no machine has the unit any more, unless told not to wait."),
    (
        "stop, unload, destroy",
        "A unit that the cluster does not have is named, and the status is 1 (of `destroy` only if it has none of "
        "them); there it was passed over with 0, as `--ignore-missing` does.",
    ),
    ("Lists", "Arguments choose what is listed; there they were ignored."),
    ("Warnings", "Begin with `warning:`; there with a date and a place in the source."),
    ("status, journal, restart", "Take global units, too."),
    ("list-units", "States of machines that are gone are not shown."),
    (
        "--driver, --etcd-*",
        "The API is the only way in. `--driver=etcd` with an endpoint, which would be etcd's, is refused; else these "
        "options have no effect, and that is said.",
    ),
    ("Waits", "Without `--block-attempts` a wait ends after five minutes; there it had no end."),
    ("--request-timeout", "Holds for every request; there a daemon that hung was waited for without an end."),
    ("--ssh-username", "Defaults to what ssh takes: User of ~/.ssh/config, else your own name; there it was `core`."),
    (
        "Unknown hosts",
        "Are asked about at a terminal alone, and else refused; there `yes` was read from any standard input. Scripts "
        "say `--strict-host-key-checking=accept-new`: a new key is recorded, a changed one refused.",
    ),
    ("--sign", "Is refused, with 2."),
    ("verify", "Checks unit files. There it was a stub that said so and ended with 2."),
    ("Types", "A name that ends in any type of units is complete (`x.target`, `x.slice`); there `.service` was added."),
    ("TLS", "The server's certificate is always checked."),
)

FLEETD = (
    (
        "SIGTERM",
        "Does not stop units. There, `systemctl stop fleet` stopped every unit of the machine. `fleetd leave` is the "
        "way to hand them over.",
    ),
    ("The store", "etcd's version 3 API, under `/fleet/`, instead of version 2. Units are carried across by the API."),
    ("The socket", "Closed to all but root and the group `fleet`; there every local user could control the cluster."),
    (
        "TCP",
        "Off unless asked for, and only with `insecure=true`. Names that this machine is not known by and web pages "
        "from elsewhere are refused (`allowed_hosts`), and so is a PATCH that does not say that it is JSON.",
    ),
    (
        "Unit files on a machine",
        "Are readable by root alone: `systemctl cat` shows them to nobody else; `fleetctl cat` shows what the cluster "
        "has to all who may use the API.",
    ),
    (
        "How much a cluster holds",
        "Is bounded by `max_units` and `max_units_bytes`: what is beyond them is refused with 507.",
    ),
    (
        "PATCH of machines",
        "Takes at most 1,000 operations, on machines that are or were; there, on any that one named.",
    ),
)

CONFIGURATION = (
    ("agent_ttl", "10 seconds by default; there it was 30."),
    ("etcd_key_prefix", "`/fleet/` by default; there it was `/_coreos.com/fleet/`."),
    ("Malformed values", "Are refused, with file and line; there a malformed number or boolean counted as 0 or false."),
)

UNIT = (
    (
        "Spreading",
        "The instances of one template are spread over machines before the load is looked at; there a rebooted, empty "
        "machine got all of them.",
    ),
    ("Replaces", "May hold several globs parted by blanks, as Conflicts may."),
    ("The system's own units", "A unit that would shadow one of the system is refused, with the reason."),
    (
        "Lines",
        "As in systemd.syntax(7): a comment that ends in a backslash does not take the next line along, one within a "
        "continued line is no part of it, and an escaped backslash continues nothing. Lines may have more than 2,047 "
        "bytes. A value of [X-Fleet] that goes on is joined by blanks.",
    ),
    ("Names", "Those that begin with `-` are refused, and those of units that systemd makes by itself."),
    ("[Install]", "Is followed without force, and undone; see above. There it could take the name of any unit."),
)


def section(differences: tuple[tuple[str, str], ...]) -> str:
    """The section of a page that says them."""
    intro = roff.paragraph("In these fleet does not follow it, on purpose:")
    return roff.section(
        "Differences from CoreOS fleet", intro, roff.entries((roff.bold(what), text) for what, text in differences)
    )
