"""Mount=: the comma-separated fields of a mount, and the source that they name."""

import csv

import msgspec

from fleetd.model.quadlet.errors import InvalidQuadlet

_WITH_SOURCE = ("volume", "bind", "glob", "image")


class Mount(msgspec.Struct, frozen=True):
    """A mount: its type, the fields after it, and where among them the source is (None: there is none)."""

    kind: str
    fields: tuple[str, ...]
    source_at: int | None = None

    @property
    def source(self) -> str:
        """What is mounted; '' if the mount names nothing."""
        return "" if self.source_at is None else self.fields[self.source_at].partition("=")[2]

    def with_source(self, source: str) -> str:
        """The mount as podman takes it, with this source."""
        fields = [f"type={self.kind}", *self.fields]
        if self.source_at is not None:
            fields[self.source_at + 1] = f"source={source}"
        return ",".join(map(_quote, fields))


def parse_mount(value: str) -> Mount | None:
    """The parts of a mount; None for a type whose source is none of a machine's or podman's. Raises InvalidQuadlet."""
    try:
        rows = list(csv.reader([value], strict=True))
    except csv.Error as error:
        raise InvalidQuadlet(f"Mount={value} cannot be read: {error}") from error
    fields = rows[0] if rows else []
    kind_at = next((index for index, field in enumerate(fields) if field.startswith("type=")), None)
    kind = "volume" if kind_at is None else fields.pop(kind_at).partition("=")[2]
    if kind not in _WITH_SOURCE:
        return None
    if fields and fields[0].startswith("/"):
        raise InvalidQuadlet(
            f"Mount={value} has no options of a mount: write Volume={value}, or source=…,destination=…"
        )
    source_at = None
    for index, field in enumerate(fields):
        key, equals, _ = field.partition("=")
        if key in ("source", "src"):
            if not equals:
                raise InvalidQuadlet(f"Mount={value}: {key} has no value: write {key}=PATH")
            source_at = index
    if source_at is None and kind != "volume":
        raise InvalidQuadlet(f"Mount={value}: a mount of type {kind} needs its source: add source=…")
    return Mount(kind, tuple(fields), source_at)


def _quote(field: str) -> str:
    if not any(char in field for char in ',"\r\n') and field == field.lstrip():
        return field
    doubled = field.replace('"', '""')
    return f'"{doubled}"'
