"""The paths and queries of requests to the API, and the operations in them."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING
from urllib.parse import quote, urlencode

from fleetd.api import schema

if TYPE_CHECKING:
    from fleetd.model.unit_option import UnitOption

# HTTP servers refuse request lines over 8 KiB, some proxies shorter ones.
MAX_QUERY = 4000


def cut_query(key: str, values: Iterable[str]) -> list[str]:
    """As few queries as these values fit in, each short enough for a URL."""
    queries: list[str] = []
    for value in values:
        pair = urlencode([(key, value)], errors="surrogateescape")
        if queries and len(queries[-1]) + len(pair) < MAX_QUERY:
            queries[-1] += f"&{pair}"
        else:
            queries.append(pair)
    return queries


def unit_path(name: str) -> str:
    """A unit of version 1."""
    return f"{schema.V1}/units/{quote(name, safe='', errors='surrogateescape')}"


def move_path(name: str) -> str:
    """The move of a unit."""
    return f"{schema.V2}/units/{quote(name, safe='', errors='surrogateescape')}/move"


def reboot_path(id_: str) -> str:
    """The reboot of a machine."""
    return f"{schema.V2}/machines/{quote(id_, safe='')}/reboot"


def put_operation(
    name: str, options: "Sequence[UnitOption]", target: str, *, only_new: bool = False
) -> schema.UnitOperation:
    """The operation that gives a unit this content and target state; `only_new` refuses to replace an existing unit."""
    return schema.UnitOperation(name, tuple(options), target, only_new)
