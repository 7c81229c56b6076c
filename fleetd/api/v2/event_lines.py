"""What changes of the store mean as lines of the stream of events. Pure."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from operator import attrgetter

import msgspec

from fleetd.api import schema
from fleetd.api.event_schema import GAP, STATE
from fleetd.api.v2.reports import describe_reason, describe_rejection
from fleetd.model.event import ClusterEvent, EventKind, EventRecord
from fleetd.model.name_patterns import NamePatterns
from fleetd.model.reason import render
from fleetd.model.unit import UnitState
from fleetd.registry.records import EVENTS, STATES, KeySpace, MalformedRecord
from fleetd.store.protocol import Event, KeyValue

UNREADABLE_RECORD = "an event cannot be read here: was it written by a later version of fleetd?"

_ENCODER = msgspec.json.Encoder(order="sorted")


class Moment(msgspec.Struct, frozen=True):
    """What happened in one transaction of the store, in order, without tokens, and about how many bytes it takes."""

    revision: int
    lines: tuple[schema.Event, ...]
    size: int


class Selection(msgspec.Struct, frozen=True):
    """Which lines a reader wants: of these kinds, of machines whose ids begin like this, and of units with these names
    or patterns (also the group of a rollout). Of each, one has to fit; an empty one fits everything."""

    kinds: frozenset[str] = frozenset()
    units: NamePatterns = NamePatterns()
    machines: tuple[str, ...] = ()

    def selects(self, line: schema.Event) -> bool:
        """True if the reader wants this line. Each gets those about the stream itself."""
        if line.kind == GAP:
            return True
        if self.kinds and line.kind not in self.kinds:
            return False
        if self.machines and not (line.machine.startswith(self.machines) or line.former.startswith(self.machines)):
            return False
        subjects = (line.subject,) if line.kind == EventKind.ROLLOUT else ()
        return not self.units or any(map(self.units.match, (line.unit, *line.units, *subjects)))

    def select(self, moment: Moment) -> list[schema.Event]:
        """Those lines of the moment that the reader wants, in order."""
        return [line for line in moment.lines if self.selects(line)]


def read_moments(keys: KeySpace, events: Iterable[Event]) -> Iterator[Moment]:
    """The moments of these changes, one for each revision that has lines. The changes are below the prefix of the keys
    and that of the archive."""
    prefix = events_prefix(keys)
    for revision, group in groupby(events, attrgetter("revision")):
        changes = list(group)
        # What the cluster has decided comes before what machines report.
        lines = [line for change in changes for line in _read_record(prefix, change.key, change.item)]
        lines += [line for change in changes for line in _read_state(keys, change)]
        if lines:
            size = sum(len(change.item.value) if change.item else len(change.key) for change in changes)
            yield Moment(revision, tuple(lines), size)


def read_kept(keys: KeySpace, items: Sequence[KeyValue]) -> list[Moment]:
    """What these records of events mean, in the order in which they were written."""
    prefix = events_prefix(keys)
    ordered = sorted(items, key=attrgetter("mod_revision"))
    return [
        Moment(item.mod_revision, tuple(lines), len(item.value))
        for item in ordered
        if (lines := list(_read_record(prefix, item.key, item)))
    ]


def events_prefix(keys: KeySpace) -> str:
    """What the keys of the records of events begin with."""
    return KeySpace(keys.archive_prefix).key(EVENTS) + "/"


def _read_record(prefix: str, key: str, item: KeyValue | None) -> Iterator[schema.Event]:
    if item is None or not key.startswith(prefix):
        return
    try:
        record = EVENTS.decode(item)
    except MalformedRecord:
        yield schema.Event(GAP, detail=UNREADABLE_RECORD)
        return
    for event in record.events:
        yield describe_event(record, event)


def describe_event(record: EventRecord, event: ClusterEvent) -> schema.Event:
    """One event of a record as a line without a token."""
    failure = event.failure
    return schema.Event(
        kind=event.kind,
        at=record.at_s,
        unit=event.unit or (failure.unit if failure else ""),
        machine=event.machine or (failure.machine if failure else ""),
        former=event.former,
        by=event.by,
        action=event.action,
        subject=event.subject,
        id=event.id,
        step=event.step,
        units=event.units,
        message=render(event.reason),
        reason=describe_reason(event.reason),
        rejections=tuple(map(describe_rejection, event.rejections)),
        why=event.pause or event.reboot_failure or "",
        detail=event.detail or (failure.why if failure else ""),
    )


def _read_state(keys: KeySpace, change: Event) -> Iterator[schema.Event]:
    parsed = keys.parse_key(change.key)
    if parsed is None or parsed.kind is not STATES:
        return
    machine, unit = parsed.names
    state = UnitState()
    if change.item is not None:
        try:
            state = STATES.decode(change.item, parsed.names)
        except MalformedRecord:
            return
    yield schema.Event(
        STATE,
        unit=unit,
        machine=machine,
        load=state.load,
        active=state.active,
        sub=state.sub,
        result=state.result,
        error=state.error,
    )


def encode_line(line: schema.Event) -> bytes:
    """A line as newline-delimited JSON."""
    return _ENCODER.encode(line) + b"\n"


def encode_server_sent(line: schema.Event) -> bytes:
    """A line as a server-sent event: browsers go on after the last id that they have got."""
    identity = f"id: {line.token}\n".encode() if line.token else b""
    return identity + b"data: " + _ENCODER.encode(line) + b"\n\n"
