"""fleet.conf(5), from the options of the daemon."""

from contrib.man import differences, roff
from fleetd.config.config import DEFAULT_PATH
from fleetd.config.options import OPTIONS, RETIRED, VARIABLE_PREFIX, Option

_DESCRIPTION = """
The configuration of fleetd(8). A line is `name=value`, or a comment that begins with `#` or `;`. A value may stand in
single or double quotes; without them it ends at the first `#` or `;`. A line that ends in a backslash goes on in the
next. Names are read in any case. Options within a section (`[…]`) are passed over, and a notice says so.

A value that cannot be used keeps fleetd from starting, and an option that there is not is ignored; the log names file
and line. `systemctl reload fleet` reads the file again.
"""
_VALUES = (
    ("truth values", "`true`, `t`, `1`, or `false`, `f`, `0`."),
    (
        "durations",
        "Numbers with units, as in `10s`, `1min 30s`, `500ms`: those of systemd.time(7), and `m` for minutes.",
    ),
    ("lists", "Parted by commas."),
)


def page() -> roff.Page:
    """The page fleet.conf(5)."""
    variables = (
        f"Each option has a variable that overrides the file: `{VARIABLE_PREFIX}AGENT_TTL` for `agent_ttl`, and so on. "
        "One that is empty counts as an empty value. Flags of fleetd override both."
    )
    retired = "Options of CoreOS fleet that are accepted and mean nothing here; a notice says so."
    body = (
        roff.section("Synopsis", f".PP\n\\fI{roff.escape(DEFAULT_PATH)}\\fR"),
        roff.section("Description", roff.paragraph(_DESCRIPTION)),
        roff.section("Values", roff.entries(_VALUES)),
        roff.section("Options", roff.entries((roff.bold(option.name + "="), _meaning(option)) for option in OPTIONS)),
        roff.section("Environment", roff.paragraph(variables)),
        roff.section(
            "Options without effect",
            roff.paragraph(retired),
            roff.entries(
                (roff.bold(option.name + "="), f"{option.retired[:1].upper()}{option.retired[1:]}.")
                for option in RETIRED
            ),
        ),
        differences.section(differences.CONFIGURATION),
        roff.see_also(["fleetd(8)", "fleetctl(1)", "fleet.unit(5)"]),
    )
    return roff.Page("fleet.conf", 5, "configuration of fleetd", body)


def _meaning(option: Option) -> str:
    return f"{option.meaning} Default: `{option.default}`." if option.default else f"{option.meaning} Default: empty."
