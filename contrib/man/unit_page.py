"""fleet.unit(5): what fleet reads in a unit file."""

from contrib.man import differences, roff
from fleetd.model.constraints import COREOS, OPTIONS, FleetOption

SPECIFIERS = (
    ("%n", "The unit's full name."),
    ("%N", "The name without its type."),
    ("%p", "The name up to @, or without its type."),
    ("%i", "The instance: what stands between @ and the type; else empty."),
)
_DESCRIPTION = """
A unit file for a fleet cluster is one of systemd's: see systemd.unit(5). What stands in it is for the systemd of the
machine that it runs on; fleet reads the section `[X-Fleet]`, which systemd passes over, to choose that machine.

Units may be of the types service, socket, timer, path, mount, automount, device, target and others that systemd knows.
Templates, `name@.service`, are not run themselves; `name@instance.service` is made from them. The template of a socket
with `Accept=yes` is put on each machine where the socket is. Until it is submitted the socket waits, unless a machine
has one of its own. The cluster keeps at most 256 KiB of a file, without comments and blank lines.
"""
_CHOICE = """
Of the machines that fit, one is chosen that has the fewest instances of the same template; of those, one with the
fewest units. A unit that fits nowhere stays wanted, and is placed as soon as a machine fits; `fleetctl start` says what
is in the way.
"""
_LOSS = """
A machine counts as dead when it has been silent for `agent_ttl`; one whose fleetd was stopped, when `parked_ttl` has
passed (by default never) or `fleetctl forget-machine` gives it up. Its units then go elsewhere at once, but for those
with a delay: these keep their place, and say for which machine they wait, and until when (`fleetctl start` and
`fleetctl status`). A machine that is back in time finds its units as they were: one that was cut off runs them still,
one that was without power starts them again. A machine that is back later keeps no copy beside the one that runs
elsewhere by then.

A machine that shuts down in order is waited for likewise. `fleetd leave` hands over every unit at once, whatever its
delay.

Units bound together by `MachineOf` wait together, as long as the one of them with the longest delay. A unit that is
stopped, unloaded or destroyed meanwhile waits no longer: what is left of it on the machine is stopped when that is
back. So to move a unit that waits at once, stop and start it. The delay is counted by the leader of the cluster;
another leader that takes office counts it anew. So it may become longer, and never shorter, than it was said to be.
"""
_VALUES = """
A value that begins and ends with a double quote is a list: its items are parted by blanks outside quotes. Every other
value is one item. Names of options are read in their exact case. Options that there are not are accepted, and fleetctl
warns of them.
"""
_LINES = """
Lines go on, and comments end, as systemd.syntax(7) says: a comment ends with its line, whatever that ends in, and one
between the lines of a value is left out. A line may be as long as the file. A byte order mark at the beginning is
passed over. `fleetctl verify` and every command that submits a file warn where CoreOS fleet read it otherwise.
"""
_INSTALL = """
On a machine a unit is what `systemctl enable --runtime` would make of it there, as long as it is there: its section
counts from the moment its file is written, for units that run already, too; another file that replaces it takes back
what only the old one asked for; nothing is left of it when the unit has left the machine. In this fleet differs from
systemctl:
"""
_INSTALL_OPTIONS = (
    (
        "Alias=",
        "Another name for the unit, to systemd: `Requires=` of that name means the unit. To fleet it is no unit: it "
        "is not listed, and `MachineOf` and `Conflicts` do not know it. It is held to what a unit's own name is: an "
        "alias that would hide a unit of the system, or a reserved one, is refused with the unit. A unit of fleet's "
        "that has this name by itself comes first. Of several units on a machine with one alias, the first to be there "
        "has it; the next gets it when that leaves. It must be of the unit's own type, and of a type that systemd lets "
        "alias; `Alias=` with a path is refused.",
    ),
    (
        "WantedBy=",
        "Any unit may come to want this one, the system's as well (`multi-user.target`); but for those that run the "
        "machine itself (`fleet.*`, `dbus.*`, `systemd-*`), which never do. Nothing of this outlives a reboot: fleetd "
        "starts what is to run after one.",
    ),
    (
        "RequiredBy=, UpheldBy=",
        "For units of fleet's on the same machine alone, as long as they are there, since a unit that is required "
        "takes those along that require it. For other units they have no effect. "
        "(UpheldBy= wants a systemd of version 254.)",
    ),
    (
        "Also=, DefaultInstance=",
        "No effect: each unit's own section counts wherever that unit is, so a service and its socket, say, need not "
        "name each other; and templates are on no machine.",
    ),
)
_INSTALL_END = """
Specifiers are those of systemd.unit(5) for this section, but for some of the machine (%a, %A, %b, %B, %M, %o, %q, %w,
%W). What of a section has no effect is said by the command that submits the file or, where only the machine can tell,
by `fleetctl start` and the log of fleetd there.
"""
_EXAMPLE = """
[Unit]
Description=Web server %i

[Service]
ExecStart=/usr/bin/python3 -m http.server 80%i
Restart=always

[X-Fleet]
MachineMetadata=disk=ssd
Conflicts=%p@*.service
"""


def page() -> roff.Page:
    """The page fleet.unit(5)."""
    body = (
        roff.section("Synopsis", ".PP\n\\fIunit\\fR.service, \\fItemplate\\fR@.service, …"),
        roff.section("Description", roff.paragraph(_DESCRIPTION)),
        roff.section("Options of [X-Fleet]", roff.entries(_entry(option) for option in OPTIONS)),
        roff.section("Lines", roff.paragraph(_LINES)),
        roff.section("Values", roff.paragraph(_VALUES)),
        roff.section(
            "Specifiers",
            roff.paragraph("They are replaced in the values of [X-Fleet]; systemd replaces its own elsewhere."),
            roff.entries((roff.bold(name), text) for name, text in SPECIFIERS),
        ),
        roff.section(
            "The section [Install]",
            roff.paragraph(_INSTALL),
            roff.entries((roff.bold(names), text) for names, text in _INSTALL_OPTIONS),
            roff.paragraph(_INSTALL_END),
        ),
        roff.section("Choice of a machine", roff.paragraph(_CHOICE)),
        roff.section("Loss of a machine", roff.paragraph(_LOSS)),
        roff.section(
            "Example", roff.paragraph("`web@.service`, at most one of which runs on a machine:"), roff.example(_EXAMPLE)
        ),
        differences.section(differences.UNIT),
        roff.see_also(["fleetctl(1)", "fleetd(8)", "fleet.conf(5)", "systemd.unit(5)", "systemd.service(5)"]),
    )
    return roff.Page("fleet.unit", 5, "units for a fleet cluster", body)


def _entry(option: FleetOption) -> tuple[str, str]:
    meaning = option.meaning
    if option.units != "all":
        meaning += f" For {option.units}."
    if option.excludes:
        meaning += f" Cannot be used with {', '.join(f'`{name}`' for name in option.excludes)}."
    if option.deprecated:
        meaning += f" Deprecated spellings: {', '.join(option.deprecated)}."
    if option.since != COREOS:
        meaning += f" Since fleet {option.since}."
    return f"{roff.bold(option.name + '=')}\\fI{roff.escape(option.syntax)}\\fR", meaning
