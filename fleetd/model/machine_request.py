"""Requests to single machines, through the store: what units there log, and what systemd says of them. Pure.

The server that is asked writes a request for each machine, on a lease of its own; the machine writes its answer on that
very lease. So both are gone soon after the server that asked, whatever becomes of either. KeySpace has the keys.
"""

import re
import zlib
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
from msgspec import structs

from fleetd.model.decoding import FORMAT, UNREADABLE
from fleetd.model.image import refuse_image
from fleetd.model.names import InvalidName, is_template, validate_name

LEASE_S = 30.0  # of requests and answers
ANSWER_S = 5.0  # after which a machine counts as one that does not answer
MAX_REQUEST_BYTES = 64 * 1024
MAX_ANSWER_BYTES = 8 * 1024  # in the store, compressed
MAX_TEXT_BYTES = 256 * 1024  # of an answer before it is compressed
MAX_STREAMED_BYTES = 1024 * 1024  # of an answer that is sent as a stream
MAX_LINES = 10_000
MAX_UNITS = 128
MAX_WORDS = 1024  # characters of a cursor or a pattern
MAX_ENTRY_BYTES = 4 * 1024  # of an entry that is kept as it is
MAX_FIELD = 2048  # characters of a field of a longer entry
LAST_S = 253402300799.0  # the end of the year 9999

_CURSOR = re.compile(r"[0-9A-Za-z=;_.-]+", re.ASCII)


def requests_prefix(prefix: str) -> str:
    """What the keys of requests begin with, in the cluster whose keys begin with `prefix`. Machine and id follow."""
    return (prefix.rstrip("/") or "/") + "-requests/"


def answers_prefix(prefix: str) -> str:
    """What the keys of answers begin with. Id and machine follow, so that a server that asks many machines watches one
    prefix."""
    return (prefix.rstrip("/") or "/") + "-answers/"


class JournalQuery(msgspec.Struct, frozen=True, omit_defaults=True):
    """Which entries of the journal are asked for: those of these units, at most `lines` of them, the last; or, with
    `after`, a cursor of systemd, the first that follow it; and, with `follow`, those that come later. `since_s` is a
    Unix time (0: from the first on), `grep` a pattern of journalctl ('': all)."""

    units: tuple[str, ...]
    lines: int = 10
    since_s: float = 0.0
    grep: str = ""
    after: str = ""
    follow: bool = False

    def refuse(self) -> str:
        """Why this cannot be asked; '' if it can."""
        if not self.units:
            return "no unit is named"
        if not 0 <= self.lines <= MAX_LINES:
            return f"lines={self.lines}: from 0 to {MAX_LINES} can be asked for at once"
        if not 0 <= self.since_s <= LAST_S:
            return f"since={self.since_s}: that is no Unix time in seconds"
        if len(self.grep) > MAX_WORDS or not self.grep.isprintable():
            return f"grep: a pattern has at most {MAX_WORDS} characters, and each can be printed"
        if self.after and (len(self.after) > MAX_WORDS or not _CURSOR.fullmatch(self.after)):
            return f"after: {self.after[:MAX_WORDS]!r} is no cursor of a journal"
        return refuse_units(self.units)


class MachineRequest(msgspec.Struct, frozen=True, omit_defaults=True, tag_field="format", tag=FORMAT):
    """What is asked of one machine: entries of its journal (None: none), the state of units, and the digest that the
    registry of an `image` has for it ('': none is asked for). `asker` is the machine that asks, `user` for whom ('': it
    is not known), and `stream_to` where it takes answers as a stream (model/answer_stream.py), as HOST:PORT ('':
    nowhere)."""

    asker: str
    journal: JournalQuery | None = None
    status: tuple[str, ...] = ()
    stream_to: str = ""
    user: str = ""
    image: str = ""

    def refuse(self) -> str:
        """Why this cannot be asked; '' if it can."""
        if self.journal is not None and (refusal := self.journal.refuse()):
            return refusal
        if self.image and (refusal := refuse_image(self.image)):
            return refusal
        if self.journal is None and not self.status and not self.image:
            return "nothing is asked for"
        return refuse_units(self.status)

    @property
    def units(self) -> tuple[str, ...]:
        """The units that it is about, each once."""
        return tuple(dict.fromkeys((*(self.journal.units if self.journal else ()), *self.status)))


def refuse_units(units: Sequence[str]) -> str:
    """Why these cannot be asked about; '' if they can. A name that is none could be a pattern of journalctl's."""
    if len(units) > MAX_UNITS:
        return f"{len(units)} units: at most {MAX_UNITS} can be asked about at once"
    for name in units:
        try:
            validate_name(name)
        except InvalidName as error:
            return f"{name}: {error}"
        if is_template(name):
            return f"{name} is a template, which does not run: name its instances"
    return ""


class UnitProperties(msgspec.Struct, frozen=True, omit_defaults=True):
    """A unit as the systemd of a machine describes it: systemd's own properties, as text."""

    unit: str
    properties: dict[str, str] = {}


class ImageAnswer(msgspec.Struct, frozen=True, omit_defaults=True):
    """What the registry of an image says of it: the digest, or why there is none. `cannot_ask`: the machine has no
    program that asks registries."""

    digest: str = ""
    failure: str = ""
    cannot_ask: bool = False


class MachineAnswer(msgspec.Struct, frozen=True, omit_defaults=True, tag_field="format", tag=FORMAT):
    """What a machine answers: entries of its journal, oldest first, as systemd's JSON; and the state of units.
    `is_cut`: there are more entries than were asked for or have room here. `failure` is why it cannot say more, ''
    if it can. `image` is of the image that was asked for."""

    entries: tuple[msgspec.Raw, ...] = ()
    units: tuple[UnitProperties, ...] = ()
    is_cut: bool = False
    failure: str = ""
    image: ImageAnswer | None = None


class InvalidAnswer(ValueError):
    """These bytes are no answer."""


def encode_request(request: MachineRequest) -> bytes:
    """The value of the request in the store."""
    return msgspec.json.encode(request)


def decode_request(value: bytes) -> MachineRequest:
    """The request that the store holds. Raises ValueError for one that this fleetd cannot read or must not answer."""
    if len(value) > MAX_REQUEST_BYTES:
        raise ValueError("the request is too large")
    try:
        request = msgspec.json.decode(value, type=MachineRequest)
    except UNREADABLE as error:
        raise ValueError(f"this fleetd does not understand the request: {error}") from error
    if refusal := request.refuse():
        raise ValueError(refusal)
    if request.journal is not None and request.journal.follow and not request.stream_to:
        raise ValueError("a log is followed by a stream, and the request says nowhere to send it")
    return request


def encode_answer(answer: MachineAnswer, *, keeps_first: bool = False) -> bytes:
    """The value of the answer in the store. If it takes too much room, it has as many of its last entries as there is
    room for; `keeps_first`: of its first."""
    if packed := pack_whole(answer):
        return packed
    fits, too_many = -1, len(answer.entries)
    while too_many - fits > 1:
        count = (fits + too_many) // 2
        if len(_pack(_shorten(answer, count, keeps_first))) <= MAX_ANSWER_BYTES:
            fits = count
        else:
            too_many = count
    if fits >= 0:
        return _pack(_shorten(answer, fits, keeps_first))
    return _pack(MachineAnswer(failure="the answer takes more room than the store has for it: ask for fewer units"))


def pack_whole(answer: MachineAnswer) -> bytes:
    """The value of the answer in the store; b'' if that has no room for it."""
    if sum(map(len, map(bytes, answer.entries))) > MAX_TEXT_BYTES:  # it would take too long to try
        return b""
    packed = _pack(answer)
    return packed if len(packed) <= MAX_ANSWER_BYTES else b""


def _shorten(answer: MachineAnswer, count: int, keeps_first: bool) -> MachineAnswer:
    entries = answer.entries[:count] if keeps_first else answer.entries[len(answer.entries) - count :]
    return structs.replace(answer, entries=entries, is_cut=True)


def _pack(answer: MachineAnswer) -> bytes:
    return zlib.compress(msgspec.json.encode(answer))


def decode_answer(value: bytes) -> MachineAnswer:
    """The answer that the store holds. Raises InvalidAnswer: root of a machine can write anything."""
    unpacking = zlib.decompressobj()
    try:
        text = unpacking.decompress(value, 2 * MAX_TEXT_BYTES)
    except zlib.error as error:
        raise InvalidAnswer(f"its answer cannot be unpacked: {error}") from error
    if not unpacking.eof:
        raise InvalidAnswer("its answer is not complete, or too large")
    return parse_answer(text, "its answer")


def parse_answer(text: bytes, what: str) -> MachineAnswer:
    """The answer that a machine has written as JSON; `what` that is, in words. Raises InvalidAnswer, also for more than
    can be asked for: what is done with it takes time."""
    try:
        answer = msgspec.json.decode(text, type=MachineAnswer)
    except UNREADABLE as error:
        raise InvalidAnswer(f"{what} cannot be read: {error}") from error
    if len(answer.entries) > MAX_LINES or len(answer.units) > MAX_UNITS:
        raise InvalidAnswer(f"{what} has more entries or units than can be asked for")
    return answer


def shorten_entry(line: bytes) -> bytes:
    """An entry of a journal as systemd's JSON, whose long fields are cut; b'' for what is no entry."""
    if len(line) <= MAX_ENTRY_BYTES:
        return line if line.startswith(b"{") else b""
    try:
        fields = msgspec.json.decode(line, type=dict[str, Any])
    except UNREADABLE:
        return b""
    return msgspec.json.encode({name: _shorten_field(value) for name, value in fields.items()})


def _shorten_field(value: object) -> object:
    """systemd writes what is no text as a list of bytes, and a field that an entry has several times as a list."""
    if isinstance(value, str):
        return value if len(value) <= MAX_FIELD else value[:MAX_FIELD] + "…"
    if isinstance(value, list) and all(type(each) is int and 0 <= each < 256 for each in value):
        return _shorten_field(bytes(value).decode("utf-8", "replace"))
    return None


def name_machine(entry: msgspec.Raw, machine: str) -> dict[str, Any] | None:
    """The fields of an entry, with the machine that it is from; None for what is no entry."""
    try:
        fields = msgspec.json.decode(entry, type=dict[str, Any])
    except UNREADABLE:
        return None
    return {**fields, "machine": machine}


def merge_entries(answers: Iterable[tuple[str, MachineAnswer]]) -> list[dict[str, Any]]:
    """The entries of these machines, each with its machine, in the order of time; of each machine in its own order."""
    moments: list[tuple[int, dict[str, Any]]] = []
    for machine, answer in answers:
        moment = 0
        for entry in answer.entries:
            if (fields := name_machine(entry, machine)) is not None:
                moment = max(moment, _moment_of(fields))  # a clock that was set back does not change the order
                moments.append((moment, fields))
    moments.sort(key=lambda each: each[0])
    return [fields for _, fields in moments]


def _moment_of(fields: dict[str, Any]) -> int:
    """Microseconds since 1970; 0 if the entry does not say."""
    text = fields.get("__REALTIME_TIMESTAMP")
    return int(text) if isinstance(text, str) and text.isascii() and text.isdigit() and len(text) < 20 else 0
