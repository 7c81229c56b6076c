"""The format of a worker's requests: what is encoded is read again, and nothing else is."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleetd.store import worker_wire as wire
from fleetd.store.protocol import CreatedAt, Delete, Event, HasValue, KeyValue, Put, Unchanged

FRAME = wire.WatchFrame(
    store_revision=7,
    history="h",
    number=1,
    events=(Event("/a", KeyValue("/a", b"\0x", 3, 7), 7), Event("/b", None, 7)),
)


def test_a_transaction_is_read_as_it_was_sent() -> None:
    sent = wire.TransactRequest(
        highest_revision=3,
        comparisons=(Unchanged("/a", 1), CreatedAt("/a", 1), HasValue("/a", b"\xff")),
        operations=(Put("/a", b"", 5), Delete("/b")),
    )
    assert wire.decode_request("transact", wire.encode(sent)) == sent


@pytest.mark.parametrize("body", [b"", b"\x80", b"{}", b"\xff" * 9])
def test_what_is_no_request_is_refused(body: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 (msgspec's own words)
        wire.decode_request("get", body)


@given(st.lists(st.integers(1, 40)))
def test_frames_are_found_however_the_stream_is_cut(cuts: list[int]) -> None:
    stream = wire.encode_frame(FRAME) * 3
    buffer = bytearray()
    found = []
    for cut in [*cuts, len(stream)]:
        buffer += stream[:cut]
        stream = stream[cut:]
        while (body := wire.take_frame(buffer)) is not None:
            found.append(wire.decode_body(body, wire.WatchFrame))
    assert found == [FRAME] * 3
    assert not buffer


def test_a_frame_that_is_too_long_is_refused() -> None:
    with pytest.raises(ValueError, match="at most"):
        wire.take_frame(bytearray(b"\xff" * 4))


def test_each_history_has_a_mark_of_its_own_and_none_has_none() -> None:
    assert len({wire.history_mark(epoch) for epoch in ("a", "a/", "a/b", "a/b;c", "b")} | {""}) == 6
    assert wire.history_mark("") == ""


def test_answers_may_gain_fields() -> None:
    body = msgspec.msgpack.encode({"store_revision": 1, "history": "-", "later": 1})
    assert wire.decode_body(body, wire.Answer) == wire.Answer(store_revision=1, history="-")
