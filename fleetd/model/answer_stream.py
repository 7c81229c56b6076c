"""An answer of a machine as a stream, over TLS, to the server that asks: logs that are followed, and what has no room
in the store. Pure.

The machine dials, and says first for which request it comes. The server says ACCEPTED, or why not, and the machine then
sends lines: entries of its journal, empty ones while there is nothing to say, and last an answer without entries.
"""

import msgspec

from fleetd.model.machine_request import InvalidAnswer, MachineAnswer, parse_answer

ACCEPTED = b"accepted\n"
ALIVE = b"\n"
MAX_LINE_BYTES = 256 * 1024
MAX_WORDS_BYTES = 4 * 1024  # of what is said before the entries
BEGIN_S = 3.0  # for the connection, and for what is said before the entries
ALIVE_S = 5.0  # between two lines
SILENCE_S = 20.0  # after which the other side counts as gone

_ENTRY = b"+"
_END = b"="


def begin_line(id_: str) -> bytes:
    """The first line, for the request of this id."""
    return id_.encode() + b"\n"


def refusal_line(why: str) -> bytes:
    """What a server says instead of ACCEPTED."""
    return " ".join(why.split()).encode()[: MAX_WORDS_BYTES - 1] + b"\n"


def entry_line(entry: bytes) -> bytes:
    """An entry of the journal, which is one line of JSON."""
    return _ENTRY + entry + b"\n"


def end_line(answer: MachineAnswer) -> bytes:
    """The last line: what is to be said beside the entries."""
    return _END + msgspec.json.encode(answer) + b"\n"


def read_line(line: bytes) -> bytes | MachineAnswer | None:
    """What a line says: an entry, the end, or nothing. Raises InvalidAnswer, also for a line without end."""
    kind, rest = line[:1], line[1:-1]
    if not line.endswith(b"\n"):
        raise InvalidAnswer("its stream has ended in the middle of a line")
    if kind == _ENTRY:
        return rest
    if kind != _END:
        return None
    return parse_answer(rest, "the end of its stream")
