"""One option of a unit file, in the cluster's records, in the API and in fleetctl.

It is a module of its own, so that fleetctl's list commands start without the parser and its imports.
"""

import msgspec


class UnitOption(msgspec.Struct, frozen=True, omit_defaults=True):
    """One `name=value` of one section. A continued value keeps its backslashes and newlines."""

    section: str = ""
    name: str = ""
    value: str = ""
